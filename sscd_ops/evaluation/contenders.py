"""What is measured: a model of the product, or what is compared with one (``pdq``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sscd_ops.options import FingerprintOptions
from sscd_ops.ports import Embedder, Models


@dataclass(frozen=True)
class Contender:
    """A model, and how a night with it would use it.

    Attributes:
        name: for people.
        open: loads it; True: with perceptual hashes beside its descriptors.
        threshold: its own, similarity of a copy.
        perceptual: whether a night compares perceptual hashes too.
        postprocessed: whether its descriptors are centred or whitened, as for its threshold they
            were not.
    """

    name: str
    open: Callable[[bool], Embedder]
    threshold: float
    perceptual: bool = False
    postprocessed: bool = False


def of_product(models: Models, options: FingerprintOptions) -> Contender:
    """A model as a dataset's configuration names it.

    Raises:
        WeightsUnavailable: the model's weights are nowhere: better now than after an hour's work.
    """
    models.fingerprint(options)
    return Contender(
        options.model,
        lambda perceptual: models.embedder(options, perceptual=perceptual),
        models.default_threshold(options.model),
        models.default_perceptual(options.model),
        bool(options.postprocessing),
    )
