"""Centring and PCA whitening of descriptors, fitted on a sample of the user's own pictures.

Both raise accuracy on a domain the model was not trained on (Pizzi et al., CVPR 2022, section 5 and
the reference README, "Using SSCD descriptors"), and both move every similarity: a threshold has to
be chosen anew. The file is part of the fingerprint. numpy alone; the file is safetensors with
``mean`` (d,), for whitening ``matrix`` (k, d), both float64, and what they were fitted under.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sscd_ops.core import whitening
from sscd_ops.core.whitening import Whitening
from sscd_ops.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Callable

    from sscd_ops.model import Fingerprint

Kind = Literal["centre", "whiten"]
SAMPLES_A_DIMENSION = 10
"""Fewer descriptors than this for each dimension leave the least components to chance."""


@dataclass(frozen=True)
class Postprocessing(Whitening):
    """A fitted transform.

    ``fitted_under``: digest of the fingerprint, without postprocessing, that the sample was
    described under; ``sha256``: of the file, empty before there is one.
    """

    fitted_under: str
    sha256: str = ""

    @property
    def kind(self) -> Kind:
        """What it does."""
        return "centre" if self.matrix is None else "whiten"

    @property
    def name(self) -> str:
        """Its part of a fingerprint."""
        return f"{self.kind}-{self.sha256}"


def fit(
    descriptors: NDArray[np.float32],
    fingerprint: Fingerprint,
    *,
    whiten: bool = True,
    dimensions: int | None = None,
) -> Postprocessing:
    """Fit to descriptors of pictures that are typical and, mostly, no copies of each other.

    Args:
        descriptors: (n, d), as an embedder without postprocessing gives them; zero rows (pictures
            that failed) are left out.
        fingerprint: that embedder's.
        whiten: False for centring alone.
        dimensions: of the whitened descriptor; None for d.

    Raises:
        ConfigError: too few descriptors, more dimensions than there are, or they are
            postprocessed already.
    """
    if fingerprint.postprocessing or fingerprint.model == "dct":
        raise ConfigError(
            "postprocessing is fitted to plain descriptors of a network, not to"
            f" {fingerprint.model} {fingerprint.postprocessing}: leave fingerprint.postprocessing"
            " empty"
        )
    rows = descriptors[np.linalg.norm(descriptors, axis=1) > 0.5]
    width = descriptors.shape[1]
    kept = width if dimensions is None else dimensions
    if not 0 < kept <= width:
        raise ConfigError(f"{kept} dimensions cannot be had from {width}: ask for 1 to {width}")
    if not whiten and len(rows) < SAMPLES_A_DIMENSION:
        raise ConfigError(
            f"{len(rows)} descriptors are too few to centre: give at least {SAMPLES_A_DIMENSION}"
            " pictures"
        )
    if whiten and len(rows) < SAMPLES_A_DIMENSION * kept:
        raise ConfigError(
            f"{len(rows)} descriptors are too few to fit {kept} dimensions: give at least"
            f" {SAMPLES_A_DIMENSION * kept} pictures, ask for fewer dimensions, or only centre"
        )
    fitted = whitening.fit(rows, kept, whiten=whiten)
    if fitted.matrix is not None and len(fitted.matrix) < kept:
        used = len(fitted.matrix)
        raise ConfigError(
            f"the descriptors span only {used} of {kept} dimensions: ask for at most {used}"
        )
    return Postprocessing(fitted.mean, fitted.matrix, fingerprint.digest)


def write(fitted: Postprocessing, path: Path) -> str:
    """Write the file; answers its sha256. Equal contents give equal bytes."""
    save = _safetensors().save
    arrays = {"mean": fitted.mean}
    if fitted.matrix is not None:
        arrays["matrix"] = np.ascontiguousarray(fitted.matrix)
    data: bytes = save(arrays, metadata={"fitted_under": fitted.fitted_under})
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def read(path: Path, model: str, dimensions: int) -> Postprocessing:
    """The file's transform.

    Args:
        path: the file.
        model: the configured model's name, for messages.
        dimensions: of that model's descriptors.

    Raises:
        ConfigError: it is no such file, or was fitted to descriptors of other dimensions.
    """
    data = path.read_bytes()
    here = f"fingerprint.postprocessing: {path}"
    try:
        arrays: dict[str, NDArray[Any]] = _safetensors().load(data)
        mean, matrix = arrays["mean"], arrays.get("matrix")
        length = int.from_bytes(data[:8], "little")
        fitted_under = json.loads(data[8 : 8 + length])["__metadata__"]["fitted_under"]
    except MissingExtra:
        raise
    except Exception as error:
        raise ConfigError(
            f"{here} is no file of sscd_ops.descriptors.postprocess.write ({error!r}): fit it anew"
        ) from error
    width = mean.shape[-1] if matrix is None else matrix.shape[-1]
    if mean.shape != (dimensions,) or width != dimensions:
        raise ConfigError(
            f"{here} was fitted to descriptors of {mean.shape[-1]} dimensions, and {model} has"
            f" {dimensions}: fit it on descriptors of {model}"
        )
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ConfigError(f"{here} holds numbers that are not finite: fit it anew")
    return Postprocessing(
        mean.astype(np.float64),
        None if matrix is None else matrix.astype(np.float64),
        fitted_under,
        hashlib.sha256(data).hexdigest(),
    )


def followed_by(
    begin: Callable[[NDArray[np.uint8]], Callable[[], NDArray[np.float32]]], then: Postprocessing
) -> Callable[[NDArray[np.uint8]], Callable[[], NDArray[np.float32]]]:
    """A model's function with a transform after it."""

    def both(pixels: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        begun = begin(pixels)
        return lambda: then.apply(begun())

    return both


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise MissingExtra(
            "fingerprint.postprocessing needs safetensors: pip install 'sscd-ops[cpu]'"
        ) from error
    return safetensors.numpy
