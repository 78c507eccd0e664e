"""The SSCD networks in plain torch: a ResNet trunk, GeM pooling, a projection, L2.

Pizzi et al., "A Self-Supervised Descriptor for Image Copy Detection", CVPR 2022. The trunk is the
ResNet with the stride in the 3x3 convolution; parameter names are torchvision's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from sscd_ops.descriptors.compact import SHAPES, Compact, gem, shortcut
from sscd_ops.descriptors.inference import Normalised, prepared
from sscd_ops.descriptors.weights import find_weights, read_state
from sscd_ops.errors import ConfigError, TransientError
from sscd_ops.machine import limit_threads
from sscd_ops.options import FingerprintOptions, Model, Precision

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True)
class Trunk:
    """Blocks a stage, groups of the 3x3 convolution, and its width per group."""

    blocks: tuple[int, int, int, int]
    groups: int = 1
    width_per_group: int = 64


TRUNKS = {
    "resnet50": Trunk((3, 4, 6, 3)),
    # 32x4d: what sscd_disc_large was trained with; torchvision's stock one is 32x8d
    "resnext101": Trunk((3, 4, 23, 3), groups=32, width_per_group=4),
}


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided), 1x1, and a shortcut."""

    def __init__(self, inputs: int, planes: int, stride: int, trunk: Trunk) -> None:
        super().__init__()
        width = planes * trunk.width_per_group // 64 * trunk.groups
        outputs = planes * 4
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=trunk.groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor (n, inputs, h, w) -> (n, 4 * planes, h / stride, w / stride)."""
        around = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(x)))
        return functional.relu(self.bn3(self.conv3(x)) + around)


class SSCD(nn.Module):
    """Pictures -> L2-normalised descriptors.

    Args:
        trunk: which ResNet.
        dimensions: of the descriptor.
    """

    def __init__(self, trunk: Trunk, dimensions: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, trunk.blocks[0], 1, trunk)
        self.layer2 = _stage(256, 128, trunk.blocks[1], 2, trunk)
        self.layer3 = _stage(512, 256, trunk.blocks[2], 2, trunk)
        self.layer4 = _stage(1024, 512, trunk.blocks[3], 2, trunk)
        self.fc = nn.Linear(2048, dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pictures (n, 3, h, w) -> descriptors (n, dimensions)."""
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return functional.normalize(self.fc(gem(x.float())))


def _stage(inputs: int, planes: int, blocks: int, stride: int, trunk: Trunk) -> nn.Sequential:
    first = Bottleneck(inputs, planes, stride, trunk)
    rest = [Bottleneck(planes * 4, planes, 1, trunk) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def make(architecture: str, dimensions: int) -> nn.Module:
    """The network of an architecture, its weights as torch makes them."""
    if architecture in SHAPES:
        return Compact(SHAPES[architecture], dimensions)
    return SSCD(TRUNKS[architecture], dimensions)


def build(model: Model, state: Mapping[str, Tensor]) -> nn.Module:
    """The model's network with these weights, in eval mode.

    Raises:
        ConfigError: a parameter is missing, extra or of another shape; names it.
    """
    network = make(model.architecture, model.dimensions)
    load_strictly(network, state, f"fingerprint.weights do not fit {model.name}")
    return network.eval()


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], complaint: str) -> None:
    """Put weights into a network.

    Raises:
        ConfigError: a parameter is missing, extra or of another shape; names it.
    """
    wanted = network.state_dict()
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    missing = sorted(wanted.keys() - state.keys() - counters)
    extra = sorted(state.keys() - wanted.keys())
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & state.keys())
        if state[name].shape != wanted[name].shape
    ]
    for what, names in (("missing", missing), ("extra", extra), ("of another shape", wrong)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ConfigError(f"{complaint}: {what}: {', '.join(names[:3])}{more}")
    network.load_state_dict({name: state.get(name, wanted[name]) for name in wanted})


class Network:
    """A loaded network on its device, as the embedder calls it.

    Args:
        network: with float32 weights; it is copied.
        device: where it runs.
        precision: of its convolutions; part of the fingerprint where it is not float32.
        threads: of a CPU that it takes; 0: all that torch has.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        precision: Precision = "float32",
        threads: int = 0,
    ) -> None:
        self._device = device
        self._precision: Precision = precision
        self._threads = threads
        self._network = prepared(network, precision).to(device)
        self._normalised = Normalised().to(device)

    def runtime(self) -> dict[str, str]:
        """Device and versions."""
        cuda = self._device.type == "cuda"
        name = torch.cuda.get_device_name(self._device) if cuda else "cpu"
        return {"device": name, "torch": torch.__version__, "precision": self._precision}

    def describe(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB pixels, uint8 (n, h, w, 3) -> descriptors, float32 (n, d)."""
        return self.begin(pixels)()

    @torch.inference_mode()
    def begin(self, pixels: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        """Begin to describe RGB pixels, uint8 (n, h, w, 3).

        On a GPU copies go through pinned memory and nothing here waits for them, so that the next
        minibatch is decoded meanwhile.

        Returns:
            Waits for the descriptors, float32 (n, d).
        """
        cuda = self._device.type == "cuda"
        given = torch.from_numpy(pixels)
        given = given.pin_memory() if cuda else given
        pictures = given.to(self._device, non_blocking=cuda).permute(0, 3, 1, 2)
        with _threads(self._threads):
            normal = self._normalised(pictures).contiguous(memory_format=torch.channels_last)
            answer: Tensor = self._network(normal).float()
        if not cuda:
            rows: NDArray[np.float32] = answer.numpy()
            return lambda: rows
        out = torch.empty(answer.shape, dtype=answer.dtype, pin_memory=True)
        out.copy_(answer, non_blocking=True)
        done = torch.cuda.current_stream(self._device).record_event()

        def wait() -> NDArray[np.float32]:
            done.synchronize()
            waited: NDArray[np.float32] = out.numpy()
            return waited

        return wait


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many of torch's threads inside, and all of them again after: a night searches too."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Runs(Protocol):
    """A network ready to run."""

    def runtime(self) -> dict[str, str]:
        """Device and versions."""

    def describe(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB pixels, uint8 (n, h, w, 3) -> descriptors, float32 (n, d)."""

    def begin(self, pixels: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        """Begin to describe them; what it answers waits for the descriptors."""


def load_networks(model: Model, options: FingerprintOptions, cache: Path) -> Sequence[Runs]:
    """The configured model with its weights, once for each device.

    Raises:
        WeightsUnavailable: the weights are nowhere.
        ConfigError: they don't fit, there is no such device, or devices are of several kinds.
        TransientError: the device has no memory left.
        MissingExtra: the engine is not installed.
    """
    limit_threads()
    weights = find_weights(model, options.weights, cache)
    network = build(model, read_state(weights.path))
    if options.engine == "openvino":
        from sscd_ops.descriptors.openvino_engine import OpenVino

        return [OpenVino(network)]
    if options.engine != "torch":
        assert_never(options.engine)
    # equal pictures must give equal numbers on equal hardware
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    # on by default for convolutions: a "float32" one would have ten bits of mantissa
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    complaint = f"fingerprint.device {options.device!r}"
    try:
        found = [
            Network(network, one, options.precision or "float32", _share(model, one))
            for one in devices(options.device)
        ]
    except torch.OutOfMemoryError as error:
        # another process may have the memory now and not later
        raise TransientError(f"{complaint}: {error}") from error
    except (RuntimeError, AssertionError) as error:
        said = str(error).partition("\n")[0]
        raise ConfigError(
            f"{complaint}: {said}: expected auto, cpu, cuda, cuda:1 or cuda:all, and for a GPU a"
            " torch that sees it"
        ) from error
    kinds = sorted({one.runtime()["device"] for one in found})
    if len(kinds) != 1:
        raise ConfigError(
            f"{complaint}: devices of several kinds ({', '.join(kinds)}) give numbers"
            " that depend on where a picture went: take equal ones"
        )
    return found


def _share(model: Model, device: torch.device) -> int:
    """Threads for a model beside its decoders: a third of the cores where it is the lighter half.

    Decoding a 640x480 picture takes a core 3.8 ms, ``sscd_small`` 2.1 ms. With a thread a core for
    both, threads of torch wait for each other while decoders hold the cores (measured: 229
    pictures a second on 2 cores, and 291 with one thread). A function of the cores alone, so that
    numbers are equal on equal hardware.
    """
    if device.type != "cpu" or not model.is_light:
        return 0
    return max(1, round(torch.get_num_threads() / 3))


def devices(name: str) -> list[torch.device]:
    """Where a model runs: ``auto`` (the first GPU, else the CPU), or names with commas between.

    ``cuda:all`` is every GPU this process sees.

    Raises:
        RuntimeError: no name of a device, or no GPU for ``cuda:all``.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda:all":
        if not torch.cuda.device_count():
            raise RuntimeError("this process sees no GPU")
        name = ",".join(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    return [torch.device(one.strip()) for one in name.split(",")]
