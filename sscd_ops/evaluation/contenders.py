"""What is measured: a model of the product, or what is compared with one (``pdq``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sscd_ops.options import FingerprintOptions, Model
from sscd_ops.ports import Embedder, Models


@dataclass(frozen=True)
class Contender:
    """A model, and how a night with it would use it.

    Attributes:
        name: for people.
        open: loads it; True: with perceptual hashes beside its descriptors.
        model: its threshold, and whether a night compares perceptual hashes too.
        postprocessed: whether its descriptors are centred or whitened, as for its threshold they
            were not.
    """

    name: str
    open: Callable[[bool], Embedder]
    model: Model
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
        models.model(options.model),
        bool(options.postprocessing),
    )
