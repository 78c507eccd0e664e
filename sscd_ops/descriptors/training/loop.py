"""The training loop: steps, and the finished weights."""

from __future__ import annotations

import copy
import dataclasses
import logging
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sscd_ops.descriptors.inference import Normalised
from sscd_ops.descriptors.training import parallel, run_files
from sscd_ops.descriptors.training.decoded import Pictures
from sscd_ops.descriptors.training.hard_negatives import nearest
from sscd_ops.descriptors.training.loss import Loss, contrast, shares_source
from sscd_ops.descriptors.training.network import make_network, starting_with
from sscd_ops.descriptors.training.optim import LARS, Average, learning_rate, parameter_groups
from sscd_ops.descriptors.training.options import TrainOptions
from sscd_ops.descriptors.training.parallel import Process
from sscd_ops.descriptors.training.views import Views, made_ahead, make_views
from sscd_ops.errors import ConfigError

log = logging.getLogger(__name__)

_BFLOAT16_CPUS = {"amx_bf16", "avx512_bf16"}
_LOG_EVERY = 20
_SETTLING_BATCHES = 32
_LOOK_EVERY = 1_000
"""Steps after which look-alikes are sought anew."""
_LOOK_ALIKES = 8


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    ``loss``: of the last step, None where none was left. ``finished``: the schedule was used up, so
    there are final weights.
    """

    step: int
    seconds: float
    loss: float | None
    finished: bool
    weights: Path | None


def gains_by_bfloat16(device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the device multiplies in bfloat16; on a CPU that does not, it takes thrice as long.

    Args:
        device: where the network is.
        cpuinfo: names the CPU's features (Linux); where it is not there, none is assumed.
    """
    if device.type == "cpu":
        return cpuinfo.is_file() and bool(_BFLOAT16_CPUS & set(cpuinfo.read_text().split()))
    return bool(torch.cuda.is_bf16_supported())


class Run:
    """One training run.

    Args:
        pictures: what it trains on.
        options: the recipe.
        folder: gets ``checkpoint.pt``, ``log.csv`` and, at the end, ``model.safetensors``. A
            checkpoint found there is gone on from.
        device: where the network is.
        process: which process of a run of several this is.
        threads: that make views.
        save_every: seconds between checkpoints.
        start: weights to begin with, of the same network; none: random ones.

    Raises:
        ConfigError: fewer pictures than a batch, a checkpoint of another run, or ``start`` is of
            another network.
    """

    def __init__(
        self,
        pictures: Pictures,
        options: TrainOptions,
        folder: Path,
        *,
        device: torch.device,
        process: Process = Process(),  # noqa: B008 - frozen
        threads: int = 1,
        save_every: float = 300.0,
        start: Path | None = None,
    ) -> None:
        if len(pictures) < options.batch:
            raise ConfigError(
                f"{len(pictures)} pictures are fewer than one batch of {options.batch}: give a"
                " smaller --batch, or more pictures"
            )
        parallel.check_shared(options.batch, process)
        self.pictures, self.options, self.folder = pictures, options, folder
        self.device, self.process = device, process
        self._threads, self._save_every = threads, save_every
        torch.manual_seed(options.seed)
        network = make_network(options) if start is None else starting_with(start, options)
        network = network.to(device)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if process.world > 1 and device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self.network = network
        self.optimizer = _optimizer(network, options)
        self.average = Average(network, options.ema)
        self._digest = pictures.digest()
        self.step, self.seconds = 0, 0.0
        self._started = start is not None
        self._start = sha256(start.read_bytes()).hexdigest() if start is not None else ""
        self._near: NDArray[np.int64] | None = None
        self.stopping = False
        self._normalised = Normalised().to(device)
        self._bfloat16 = options.precision == "bfloat16" or (
            options.precision == "auto" and gains_by_bfloat16(device)
        )
        if self._checkpoint.is_file():
            self._resume()

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def progress(self) -> float:
        """How much of the schedule is used up, [0, 1]."""
        share = self.step / self.options.steps
        if self.options.minutes:
            share = max(share, self.seconds / (60.0 * self.options.minutes))
        return min(1.0, share)

    def side(self) -> int:
        """Pixels a side at present."""
        return self.options.side(self.progress())

    # ------------------------------------------------------------ steps

    def train(self, told: Callable[[float, dict[str, float]], None] | None = None) -> Outcome:
        """Go on until the schedule is used up or ``stopping`` is set; then save.

        Args:
            told: called after each step with the progress and what the log shows.
        """
        model: nn.Module = self.network
        if self.process.world > 1:
            model = DistributedDataParallel(self.network)
        model.train()
        shown: dict[str, float] = {}
        loss: Loss | None = None
        saved = began = time.monotonic()
        stream = self._stream()
        try:
            while not self._done():
                if self._looks():  # views made ahead knew the old ones
                    stream.close()
                    self._near = self.look_alikes()
                    stream = self._stream()
                    began = time.monotonic()
                views = next(stream)
                progress = self.progress()
                loss = self.move(model, views, progress)
                now = time.monotonic()
                taken, began = now - began, now
                self.step += 1
                self.seconds += self._agreed(taken)
                self.average.update(self.network, self.step)
                if self.step % _LOG_EVERY == 0 or self.step == 1 or self._at_end():
                    shown = self._shown(loss, views, progress, taken)
                    if not self.process.rank:
                        run_files.write_log(self.folder, shown)
                if told is not None:
                    told(self.progress(), shown)
                if now - saved > self._save_every:
                    self.save()
                    saved = time.monotonic()
        finally:
            stream.close()
        self.save()
        finished = self._at_end()
        weights = self.write_weights(self.settled()) if finished else None
        last = None if loss is None else round(float(loss.total.detach()), 5)
        return Outcome(self.step, self.seconds, last, finished, weights)

    def _stream(self) -> Generator[Views, None, None]:
        at = (self.process, self.step, self._side_at, self._threads, self._near)
        return made_ahead(self.pictures, self.options, *at)

    def _looks(self) -> bool:
        # random weights know nothing of likeness
        due = self.step % _LOOK_EVERY == 0 and (self.step > 0 or self._started)
        return due and self.options.hard_negatives > 0

    def look_alikes(self) -> NDArray[np.int64]:
        """What each picture looks like to the network as it is, in all processes: int64 (n, k)."""
        k = min(_LOOK_ALIKES, len(self.pictures) - 1)
        answer = torch.zeros((len(self.pictures), k), dtype=torch.int64, device=self.device)
        if self.process.rank == 0:
            random = np.random.default_rng([self.options.seed, self.step])
            self.network.eval()
            answer = nearest(
                lambda pixels: self._describe(self.network, pixels),
                self.pictures,
                self.side(),
                k,
                random,
            )
            self.network.train()
        return np.asarray(parallel.from_first(answer, self.process).cpu().numpy(), np.int64)

    def _at_end(self) -> bool:
        return self.progress() >= 1.0

    def _done(self) -> bool:
        # one process's signal must end all of them at the same step
        stop = parallel.agreed(float(self.stopping), self.device, self.process)
        return stop > 0 or self._at_end()

    def _agreed(self, taken: float) -> float:
        """A step's seconds; by the first process's clock where the schedule depends on them."""
        if not self.options.minutes:
            return taken
        return parallel.agreed(taken, self.device, self.process)

    def _side_at(self, step: int) -> int:
        """Pixels a side of views that are begun some steps ahead."""
        if self.options.minutes:
            return self.side()
        return self.options.side(step / self.options.steps)

    def move(self, model: nn.Module, views: Views, progress: float) -> Loss:
        """One step on its views, at a share of the schedule."""
        options = self.options
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(options.learning_rate, progress, options.warmup)
        local = self._describe(model, views.pixels)
        loss = self._loss(local, torch.from_numpy(views.shows).to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()  # type: ignore[no-untyped-call]
        if options.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), options.clip)
        self.optimizer.step()
        return loss

    def _describe(self, model: nn.Module, pixels: NDArray[np.uint8]) -> Tensor:
        """Pixels (n, side, side, 3) -> descriptors, float32 (n, d)."""
        given = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
        normal = self._normalised(given).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
            answer: Tensor = model(normal)
        return answer.float()

    def _loss(self, local: Tensor, shows: Tensor) -> Loss:
        everything = parallel.gathered(local, self.process)
        with torch.no_grad():
            all_shows = parallel.gathered(shows, self.process)
        return contrast(
            local,
            everything,
            shares_source(shows, all_shows),
            self.process.rank * len(local),
            temperature=self.options.temperature,
            koleo=self.options.koleo,
        )

    # ------------------------------------------------------------ files

    def _shown(self, loss: Loss, views: Views, progress: float, taken: float) -> dict[str, float]:
        rate = self.optimizer.param_groups[0]["lr"]
        return {
            "step": self.step,
            "progress": round(progress, 5),
            "seconds": round(self.seconds, 1),
            "side": views.pixels.shape[1],
            "learning_rate": round(rate, 8),
            "loss": round(float(loss.total.detach()), 5),
            "info_nce": round(float(loss.info_nce), 5),
            "koleo": round(float(loss.koleo), 5),
            "positive": round(float(loss.positive), 5),
            "nearest": round(float(loss.nearest), 5),
            "views_per_s": round(len(views.pixels) * self.process.world / max(taken, 1e-9), 1),
        }

    def save(self) -> None:
        """Write the checkpoint."""
        if self.process.rank:
            return
        content = {
            "options": dataclasses.asdict(self.options),
            "pictures": self._digest,
            "start": self._start,
            "world": self.process.world,
            "step": self.step,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "average": self.average.state,
            "optimizer": self.optimizer.state_dict(),
            "near": None if self._near is None else torch.from_numpy(self._near),
        }
        run_files.write_checkpoint(self._checkpoint, content)

    def _resume(self) -> None:
        found = run_files.read_checkpoint(
            self._checkpoint, self.device, self.options, self._digest, self._start
        )
        self.network.load_state_dict(found["network"])
        self.average.state = found["average"]
        self.optimizer.load_state_dict(found["optimizer"])
        self.step, self.seconds = found["step"], found["seconds"]
        if found.get("near") is not None:
            self._near = found["near"].cpu().numpy()
        log.info("resumed step=%d seconds=%.0f", self.step, self.seconds)

    @torch.no_grad()
    def settled(self) -> dict[str, Tensor]:
        """The averaged weights with batch-norm statistics of their own, at the last size.

        Running averages are of other weights and partly of other sizes; so the statistics are taken
        anew (Izmailov et al., UAI 2018, section 3.2).
        """
        network = copy.deepcopy(self.network)
        network.load_state_dict(self.average.state)
        norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean of all batches
        network.train()
        with ThreadPoolExecutor(self._threads) as pool:
            for number in range(_SETTLING_BATCHES):
                at = (self.pictures, self.options, self.step + number, self.options.sizes[-1])
                self._describe(network, make_views(*at, self.process, pool).pixels)
        state: dict[str, Tensor] = network.state_dict()
        return state

    def write_weights(self, state: dict[str, Tensor]) -> Path | None:
        """A state as the product loads it, by the first process."""
        if self.process.rank:
            return None
        return run_files.write_weights(self.folder, state, self.options)


def _optimizer(network: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    if options.optimizer == "lars":
        # one group, as SSCD has it: biases and scales too
        return LARS(network.parameters(), options.learning_rate, weight_decay=options.weight_decay)
    groups = parameter_groups(network, options.weight_decay)
    return torch.optim.AdamW(groups, options.learning_rate, betas=(0.9, 0.98), fused=True)
