"""Which search backend: by name, or chosen from the rows to be searched and the threshold."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sscd_ops.errors import ConfigError, MissingExtra
from sscd_ops.index.scan import Backend
from sscd_ops.index.sketch_radius import SKETCH_LEAST_THRESHOLD, refused_by_sketch
from sscd_ops.machine import limit_threads

if TYPE_CHECKING:
    from sscd_ops.index.scan import Method

logger = logging.getLogger(__name__)

FLAT_BELOW = 100_000
"""Below this many rows the codes cost more than they save."""
EXACT_BELOW = 5_000_000
NAMES = ("flat", "exact", "sketch", "torch")


def choose(name: str, rows: int, threshold: float) -> str:
    """Resolve ``auto``; any other name stays as it is.

    A function of its arguments alone, so that a batch frozen with its answer is reproducible.

    Args:
        name: ``auto`` or a backend's name.
        rows: what is searched: kept rows in the dataset's live segments when the batch was
            planned; for leader, the night's own images.
        threshold: the dataset's threshold, a cosine similarity.

    Raises:
        ConfigError: no backend of this name, or ``sketch`` with a threshold it cannot serve.
    """
    if name != "auto":
        _check(name, threshold)
        return name
    if rows < FLAT_BELOW:
        return "flat"
    if rows < EXACT_BELOW or threshold < SKETCH_LEAST_THRESHOLD:
        return "exact"
    return "sketch"


def open_backend(
    name: str, *, fingerprint_digest: str, dimensions: int, threshold: float
) -> Backend:
    """A search backend.

    Args:
        name: ``flat``, ``exact``, ``sketch`` or ``torch`` (``auto``: ask ``choose`` first).
        fingerprint_digest: hex digest of the fingerprint; rotations derive from it.
        dimensions: of the descriptors.
        threshold: what pairs are decided at; ``sketch`` derives its radius from it.

    Raises:
        ConfigError: no backend of this name, or ``sketch`` with a threshold it cannot serve.
        MissingExtra: ``torch`` without torch installed.
    """
    _check(name, threshold)
    method = _method(name, fingerprint_digest, dimensions, threshold)
    limit_threads()
    return Backend(method)


def _check(name: str, threshold: float) -> None:
    if name not in NAMES:
        raise ConfigError(
            f"duplicates.search: {name!r} is no search backend; expected auto or one of "
            + ", ".join(NAMES)
        )
    if name == "sketch" and threshold < SKETCH_LEAST_THRESHOLD:
        raise refused_by_sketch(threshold)


def _method(name: str, digest: str, dimensions: int, threshold: float) -> Method:
    # imported where asked for: flat must load neither torch nor anything it does not need
    if name == "exact":
        from sscd_ops.index.exact import Exact
        from sscd_ops.index.int8 import usable

        method = Exact(digest, dimensions)
        fault = usable(method.columns, dimensions)
        if not fault:
            return method
        logger.warning("search falls back from exact to flat: %s", fault)
    elif name == "sketch":
        from sscd_ops.index.sketch import Sketch

        return Sketch(digest, dimensions, threshold)
    elif name == "torch":
        try:
            from sscd_ops.index.torch_backend import Torch
        except ImportError as error:
            raise MissingExtra("search = torch needs torch: pip install 'sscd-ops[gpu]'") from error

        return Torch()
    from sscd_ops.index.flat import Flat

    return Flat()
