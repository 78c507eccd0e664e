"""A run from pictures to weights: decode once, leave out look-alikes, train."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from pathlib import Path

import torch

from sscd_ops.descriptors.training import parallel
from sscd_ops.descriptors.training.decoded import (
    Pictures,
    has_pictures,
    open_pictures,
    store_pictures,
)
from sscd_ops.descriptors.training.look_alikes import check_comparable, look_alikes
from sscd_ops.descriptors.training.loop import Outcome, Run
from sscd_ops.descriptors.training.network import starting_with
from sscd_ops.descriptors.training.options import TrainOptions
from sscd_ops.descriptors.training.parallel import Process
from sscd_ops.errors import ConfigError
from sscd_ops.machine import limit_threads
from sscd_ops.ports import Progress, Silence

log = logging.getLogger(__name__)

_TICKS = 1000
"""Steps of the progress bar: the end of a run may be a time."""


@dataclass(frozen=True)
class Session:
    """Everything around the recipe.

    ``folder``: gets the decoded pictures, checkpoints, the log and the weights. ``urls``: what the
    pictures are read from, as given: a folder holds those of one list. ``exclude``: keys of
    pictures that are not to be trained on. ``drop_similar``: similarity by ``dct`` from which a
    picture is left out beside an earlier one, 0 for none. ``threads``: that decode and edit.
    ``save_every``: seconds between checkpoints. ``start``: weights to begin with; none: random.
    """

    folder: Path
    urls: tuple[str, ...] = ()
    exclude: Set[str] = frozenset()
    drop_similar: float = 0.8
    device: str = "auto"
    threads: int = 2
    save_every: float = 300.0
    start: Path | None = None


def train(
    members: Callable[[], Iterable[tuple[str, bytes]]],
    options: TrainOptions,
    session: Session,
    *,
    progress: Progress,
    say: Callable[[str], None],
    hold: Callable[[Run], None] = lambda run: None,
) -> Outcome:
    """Train, or go on where the folder's checkpoint stopped.

    Args:
        members: reads key and bytes of each picture; called where they aren't stored yet.
        options: the recipe.
        session: everything else.
        progress: told how far it is.
        say: gets a sentence now and then.
        hold: given the run before it starts, to stop it by.

    Raises:
        ConfigError: no such device, ``start`` is of another network, too few pictures, no picture
            of a name to exclude, pictures of other URLs in the folder, or a checkpoint of another
            run.
    """
    limit_threads()
    device = _checked_device(session.device)
    with parallel.joined(device) as process:
        alone = process.rank == 0
        tell = say if alone else _nothing
        _check(options, session, process)
        pictures = _pictures(members, options, session, device, process, progress, tell)
        run = Run(
            pictures,
            options,
            session.folder,
            device=device,
            process=process,
            threads=session.threads,
            save_every=session.save_every,
            start=session.start,
        )
        hold(run)
        tell(_opening(run))
        return _followed(run, progress if alone else Silence())


def _check(options: TrainOptions, session: Session, process: Process) -> None:
    """Refuse what could not be trained before hours of decoding, not after them."""
    try:
        session.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out {session.folder}: no folder can be made there ({error.strerror}): give another"
        ) from error
    parallel.check_shared(options.batch, process)
    if session.start is not None:
        starting_with(session.start, options)


def _followed(run: Run, progress: Progress) -> Outcome:
    """Train under a progress bar, with a line of log now and then."""
    progress.start("train", _TICKS)
    done = 0

    def told(share: float, shown: dict[str, float]) -> None:
        nonlocal done
        progress.advance(int(share * _TICKS) - done)
        done = int(share * _TICKS)
        if shown.get("step") == run.step:
            log.info("training %s", " ".join(f"{name}={value}" for name, value in shown.items()))

    try:
        return run.train(told)
    finally:
        progress.done()


def _nothing(message: str) -> None:
    del message


def _opening(run: Run) -> str:
    size = sum(weight.numel() for weight in run.network.parameters())
    begun = f"goes on at step {run.step}" if run.step else "begins"
    if run.progress() >= 1:
        begun = f"is at its end already, step {run.step}: more --steps or --minutes go on"
    return (
        f"{run.options.trunk}: {size / 1e6:.1f} million parameters, {len(run.pictures)} pictures,"
        f" {run.device}, {run.process.world} process(es); {begun}"
    )


def _checked_device(name: str) -> torch.device:
    try:
        device = parallel.own_device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        said = str(error).partition("\n")[0]
        raise ConfigError(
            f"device {name!r}: {said}: expected auto, cpu, cuda or cuda:1, and for a GPU a torch"
            " that sees it"
        ) from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _pictures(
    members: Callable[[], Iterable[tuple[str, bytes]]],
    options: TrainOptions,
    session: Session,
    device: torch.device,
    process: Process,
    progress: Progress,
    say: Callable[[str], None],
) -> Pictures:
    """The decoded pictures without those left out; one process decodes, the others wait."""
    folder, short = session.folder / "pictures", max(options.sizes)
    comparable = 0

    def taken(key: str) -> None:
        """Too many to compare are told before hours of decoding, not after them."""
        nonlocal comparable
        comparable += key not in session.exclude
        if session.drop_similar:
            check_comparable(comparable)

    if process.rank == 0 and not has_pictures(folder, session.urls):
        say(f"decoding pictures into {folder}")
        progress.start("decode pictures", None)
        try:
            store_pictures(
                members(),
                folder,
                short=short,
                threads=session.threads,
                urls=session.urls,
                told=progress.advance,
                taken=taken,
            )
        finally:
            progress.done()
    parallel.agreed(0.0, device, process)  # the others wait here
    pictures = open_pictures(folder, short)
    found = len(pictures)
    unknown = sorted(session.exclude - set(pictures.keys))
    if unknown and len(unknown) == len(session.exclude):
        raise ConfigError(
            f"--exclude: none of its {len(unknown)} names, such as {unknown[0]!r}, is the key of a"
            " picture: expected one key a line"
        )
    if unknown:
        say(
            f"{len(unknown)} of {len(session.exclude)} names to exclude are of no picture decoded,"
            f" such as {unknown[0]!r}"
        )
    pictures = pictures.without(
        row for row, key in enumerate(pictures.keys) if key in session.exclude
    )
    excluded = found - len(pictures)
    alike: list[int] = []
    if session.drop_similar:
        say(f"comparing {len(pictures)} pictures with each other by dct")
        alike = look_alikes(pictures, session.drop_similar)
        pictures = pictures.without(alike)
    say(f"{found} pictures decoded, {excluded} excluded, {len(alike)} look like another")
    return pictures
