"""Pictures -> descriptors: decoder processes, fixed minibatches, one model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray

from sscd_ops.core.perceptual import NOTHING, WIDTH
from sscd_ops.descriptors import dct
from sscd_ops.descriptors.models import find_model
from sscd_ops.descriptors.postprocess import Postprocessing, followed_by
from sscd_ops.descriptors.postprocess import read as read_postprocessing
from sscd_ops.errors import ConfigError, MissingExtra
from sscd_ops.images.frames import Answer
from sscd_ops.images.pool import DecoderPool
from sscd_ops.images.preprocess import PRESETS
from sscd_ops.model import EmbeddedChunk, Fault, Fingerprint
from sscd_ops.options import USUAL_LIMITS, FingerprintOptions, LimitsOptions, Model
from sscd_ops.ports import Embedder

Describe = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""uint8 (n, h, w, 3) -> float32 (n, d), rows L2-normalised or zero."""
Begun = Callable[[], NDArray[np.float32]]
"""Waits for descriptors that were begun: float32 (n, d)."""
Begin = Callable[[NDArray[np.uint8]], Begun]
"""Begins to describe uint8 (n, h, w, 3), on a device that works by itself."""


class Loaded(NamedTuple):
    """A model ready to describe.

    ``begins``: its function on each device; minibatches go round. ``runtime``: device and versions.
    """

    begins: Sequence[Begin]
    runtime: dict[str, str]


_ARITHMETIC = {"bfloat16": "bfloat16 after a float32 stem", "float16": "float16"}
"""What a precision means (``inference.prepared``): other arithmetic is another fingerprint."""


def fingerprint_of(options: FingerprintOptions, cache: Path) -> Fingerprint:
    """The fingerprint of a configured model. Weights are found and hashed, not loaded.

    Raises:
        ConfigError: an unknown model or preprocessing, or postprocessing that does not fit.
        WeightsUnavailable: the weights are nowhere.
    """
    model = find_model(options.model)
    preprocessing = options.preprocessing or model.preprocessing
    if preprocessing not in PRESETS:
        raise ConfigError(
            f"fingerprint.preprocessing {preprocessing!r} is none of: {', '.join(sorted(PRESETS))}"
        )
    minibatch = options.minibatch or model.minibatch
    if not PRESETS[preprocessing].fixed:
        minibatch = 1
    weights = ""
    if model.name != "dct":
        from sscd_ops.descriptors.weights import find_weights

        weights = find_weights(model, options.weights, cache).sha256
    if model.name == "dct" and options.weights:
        raise ConfigError(
            f"fingerprint.weights {options.weights!r} is for networks: dct has none; leave it"
            " out, or name another model"
        )
    precision = options.precision or "float32"
    if model.name == "dct" and precision != "float32":
        raise ConfigError(
            f"fingerprint.precision {precision!r} is for networks: {model.name} has none"
        )
    if options.engine == "openvino":
        _check_openvino(options, model, preprocessing)
    plain = _fingerprint(model, weights, preprocessing, minibatch, precision)
    then = _postprocessing(model, options, plain, cache)
    if then is None:
        return plain
    return _fingerprint(model, weights, preprocessing, minibatch, precision, then)


def _check_openvino(options: FingerprintOptions, model: Model, preprocessing: str) -> None:
    wrong = ""
    if model.name == "dct":
        wrong = "is for networks: dct has none"
    elif options.precision not in ("", "float32"):
        wrong = f"has float32 alone, not {options.precision}"
    elif options.device not in ("auto", "cpu"):
        wrong = f"runs on CPUs, not on device {options.device!r}"
    elif not PRESETS[preprocessing].fixed:
        wrong = f"takes pictures of one size, which {preprocessing} does not make"
    if wrong:
        raise ConfigError(
            f"fingerprint.engine 'openvino' {wrong}: leave engine out, or change that"
        )


def _postprocessing(
    model: Model, options: FingerprintOptions, plain: Fingerprint, cache: Path
) -> Postprocessing | None:
    """The configured transform, if any, and that it was fitted under this very fingerprint."""
    if not options.postprocessing:
        return None
    if model.name == "dct":
        raise ConfigError(
            "fingerprint.postprocessing is for networks: dct's threshold was measured without;"
            " leave it empty"
        )
    from sscd_ops.descriptors.weights import find_file

    path = find_file(
        options.postprocessing, cache, what="postprocessing", setting="fingerprint.postprocessing"
    )
    then = read_postprocessing(path, model.name, model.dimensions)
    if then.fitted_under != plain.digest:
        raise ConfigError(
            f"fingerprint.postprocessing: {options.postprocessing} was fitted to descriptors of"
            f" fingerprint {then.fitted_under[:8]}, and this configuration gives {plain}: fit it"
            " with the same model, weights, preprocessing, minibatch and precision"
        )
    return then


def _fingerprint(
    model: Model,
    weights: str,
    preprocessing: str,
    minibatch: int,
    precision: str,
    then: Postprocessing | None = None,
) -> Fingerprint:
    dimensions = then.dimensions if then else model.dimensions
    postprocessing = then.name if then else ""
    body = {
        "architecture": model.architecture,
        "weights": weights,
        "preprocessing": preprocessing,
        "postprocessing": postprocessing,
        "dimensions": dimensions,
        "minibatch": minibatch,
        # float32 goes without saying: it did before there was a choice
        **({"precision": _ARITHMETIC[precision]} if precision != "float32" else {}),
    }
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return Fingerprint(
        model.name,
        weights,
        preprocessing,
        postprocessing,
        dimensions,
        minibatch,
        digest,
        precision,
    )


def open_embedder(
    options: FingerprintOptions,
    cache: Path,
    *,
    perceptual: bool = False,
    limits: LimitsOptions = USUAL_LIMITS,
) -> Embedder:
    """The embedder of a configured model; its weights are loaded when it is entered.

    Args:
        options: the model.
        cache: a folder for fetched weights.
        perceptual: make perceptual hashes too.
        limits: what decoding a picture may take.

    Raises:
        ConfigError: an unknown model or preprocessing.
        WeightsUnavailable: the weights are nowhere.
        MissingExtra: on entering, a network without torch installed.
    """
    fingerprint = fingerprint_of(options, cache)
    model = find_model(options.model)
    if model.name == "dct":
        return MinibatchEmbedder(
            fingerprint,
            lambda: Loaded([at_once(dct.describe)], {}),
            options.workers,
            perceptual=perceptual,
            limits=limits,
        )

    def load() -> Loaded:
        try:
            from sscd_ops.descriptors.networks import load_networks
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f"model {model.name} needs {error.name}: pip install 'sscd-ops[cpu]' or"
                " 'sscd-ops[gpu]' on every worker that embeds"
            ) from error

        networks = load_networks(model, options, cache)
        plain = dataclasses.replace(options, postprocessing="")
        then = _postprocessing(model, options, fingerprint_of(plain, cache), cache)
        begins = [followed_by(one.begin, then) if then else one.begin for one in networks]
        devices = {"devices": str(len(networks))} if len(networks) > 1 else {}
        return Loaded(begins, networks[0].runtime() | devices)

    return MinibatchEmbedder(
        fingerprint, load, options.workers, perceptual=perceptual, limits=limits
    )


def at_once(describe: Describe) -> Begin:
    """A model that is done when it is asked."""

    def begin(pixels: NDArray[np.uint8]) -> Begun:
        rows = describe(pixels)
        return lambda: rows

    return begin


class MinibatchEmbedder:
    """Decodes in processes and describes minibatches of one fixed size.

    The last minibatch is padded with blank pictures, and a picture that fails leaves a blank one in
    its place, so the shape of the arithmetic never depends on the data.

    Args:
        fingerprint: what it makes.
        load: answers the model when the embedder is entered.
        workers: decoder processes, 0 for one a core.
        perceptual: make perceptual hashes too.
        limits: what decoding a picture may take.
    """

    def __init__(
        self,
        fingerprint: Fingerprint,
        load: Callable[[], Loaded],
        workers: int,
        *,
        perceptual: bool = False,
        limits: LimitsOptions = USUAL_LIMITS,
    ) -> None:
        self.fingerprint = fingerprint
        self._perceptual = perceptual
        self.dimensions = fingerprint.dimensions
        self._load = load
        self._begins: Sequence[Begin] = ()
        self._pool = DecoderPool(
            fingerprint.preprocessing, workers, hashed=perceptual, limits=limits
        )
        self._runtime: dict[str, str] = {}

    def __enter__(self) -> MinibatchEmbedder:
        self._pool.__enter__()
        self._begins, self._runtime = self._load()
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.__exit__(*exc)

    def runtime(self) -> dict[str, str]:
        """Device and library versions."""
        return {
            "device": "cpu",
            "machine": platform.machine(),
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            **self._runtime,
        }

    def embed(self, images: Iterable[bytes]) -> Iterator[EmbeddedChunk]:
        """Descriptors, a minibatch at a time, in input order.

        Every device works on one while the next one is decoded and put together.
        """
        if not self._begins:
            raise RuntimeError("the embedder was not entered")
        waiting: deque[Callable[[], EmbeddedChunk]] = deque()
        for answers, begin in zip(self._minibatches(images), cycle(self._begins), strict=False):
            waiting.append(self._begun(answers, begin))
            if len(waiting) > len(self._begins):
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()

    def _minibatches(self, images: Iterable[bytes]) -> Iterator[list[Answer]]:
        answers: list[Answer] = []
        for answer in self._pool.map_hashed(images):
            answers.append(answer)
            if len(answers) == self.fingerprint.minibatch:
                yield answers
                answers = []
        if answers:
            yield answers

    def _begun(self, answers: list[Answer], begin: Begin) -> Callable[[], EmbeddedChunk]:
        rows = enumerate(answers)
        faults = {row: one.decoded for row, one in rows if isinstance(one.decoded, tuple)}
        plain = frozenset(row for row, one in enumerate(answers) if one.plain)
        nothing = np.zeros((len(answers), self.dimensions), np.float32)
        begun: Begun | None = None
        pictures = self._pictures(answers)
        if pictures is not None:
            begun = begin(pictures)

        def ended() -> EmbeddedChunk:
            rows = nothing if begun is None else begun()[: len(answers)]
            told = plain
            if self.fingerprint.model == "dct":  # a zero row is its word for "nothing to compare"
                blank = np.flatnonzero(~rows.any(axis=1))
                told |= {int(row) for row in blank if int(row) not in faults}
            rows, found = _checked(rows, faults, told)
            return EmbeddedChunk(rows, found, self._hashes(answers, told), told)

        return ended

    def _pictures(self, answers: list[Answer]) -> NDArray[np.uint8] | None:
        """A minibatch, blank where there is nothing to describe; none where that is all of it."""
        pictures = [
            None if one.plain or isinstance(one.decoded, tuple) else one.decoded for one in answers
        ]
        some = next((picture for picture in pictures if picture is not None), None)
        if some is None:
            return None
        blank = np.zeros_like(some)
        pictures += [None] * (self.fingerprint.minibatch - len(pictures))
        return np.stack([blank if picture is None else picture for picture in pictures])

    def _hashes(self, answers: list[Answer], plain: frozenset[int]) -> NDArray[np.uint8] | None:
        if not self._perceptual:
            return None
        rows = b"".join(
            NOTHING if row in plain or isinstance(one.decoded, tuple) else one.hashed
            for row, one in enumerate(answers)
        )
        if len(rows) != WIDTH * len(answers):
            raise RuntimeError("a decoder answered a picture without its perceptual hash")
        return np.frombuffer(rows, np.uint8).reshape(-1, WIDTH)


def _checked(
    rows: NDArray[np.float32], faults: dict[int, tuple[Fault, str]], plain: frozenset[int]
) -> tuple[NDArray[np.float32], dict[int, tuple[Fault, str]]]:
    """Rows with zeros for faults and plain pictures; any other without a direction is a fault."""
    rows, faults = rows.copy(), dict(faults)
    norms = np.linalg.norm(rows, axis=1)
    for row in np.flatnonzero(~np.isfinite(norms) | (np.abs(norms - 1) > 0.01)):
        if int(row) not in faults and int(row) not in plain:
            faults[int(row)] = (
                Fault.NO_DESCRIPTOR,
                f"the descriptor has norm {norms[row]:g}: the model finds nothing in the picture",
            )
    rows[[*faults, *plain]] = 0
    return rows, faults
