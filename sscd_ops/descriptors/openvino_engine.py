"""A network run by OpenVINO on a CPU: the same numbers up to rounding, sooner.

Measured in docs/descriptors.md, "Ways to run a network". An optional extra, loaded where a
configuration names it.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sscd_ops.descriptors.inference import Normalised, folded
from sscd_ops.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Callable


class OpenVino:
    """A loaded network, as the embedder calls it; compiled for the first minibatch's shape.

    Args:
        network: with float32 weights; it is copied.

    Raises:
        MissingExtra: the package is not installed.
    """

    def __init__(self, network: nn.Module) -> None:
        self._openvino = _package()
        self._network = _OfPixels(folded(network))
        self._compiled: Any = None
        self._shape: tuple[int, ...] = ()

    def runtime(self) -> dict[str, str]:
        """Device and versions."""
        return {
            "device": "cpu",
            "torch": torch.__version__,
            "openvino": self._openvino.__version__,
            "precision": "float32",
        }

    def describe(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB pixels, uint8 (n, h, w, 3) -> descriptors, float32 (n, d)."""
        if pixels.shape != self._shape:
            self._compiled, self._shape = self._compile(pixels), pixels.shape
        (answer,) = self._compiled(pixels).values()
        return np.array(answer)  # its own buffer is used again

    def begin(self, pixels: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        """Describe RGB pixels, uint8 (n, h, w, 3): done when asked."""
        rows = self.describe(pixels)
        return lambda: rows

    def _compile(self, pixels: NDArray[np.uint8]) -> Any:
        openvino = self._openvino
        # a moving shape would choose its kernels by what came before
        with warnings.catch_warnings():
            # it reads networks through torch's tracer, which torch calls deprecated
            warnings.simplefilter("ignore", DeprecationWarning)
            model = openvino.convert_model(
                self._network,
                example_input=torch.from_numpy(pixels),
                input=[(openvino.Shape(pixels.shape), openvino.Type.u8)],
            )
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",  # bfloat16 else, where the CPU has it
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # every task of a host would take the same cores
        }
        return openvino.Core().compile_model(model, "CPU", settings)


def _package() -> Any:
    # At every import it reports to its maker over the network, unless this package is missing: a
    # night calls nobody that its configuration does not name.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"fingerprint.engine = 'openvino' needs {error.name}: pip install"
            " 'sscd-ops[openvino]' on every worker that embeds, or leave engine out"
        ) from error
    return openvino


class _OfPixels(nn.Module):
    """Pixels, uint8 (n, h, w, 3) -> descriptors."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.normalised = Normalised()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """As ``Network.begin`` does it."""
        answer: Tensor = self.network(self.normalised(pixels.permute(0, 3, 1, 2)))
        return answer
