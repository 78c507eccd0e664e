"""InfoNCE with an entropy term, as SSCD is trained (Pizzi et al., CVPR 2022, sections 3.2-3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LEAST_SQUARED_DISTANCE = 1e-6


@dataclass(frozen=True)
class Loss:
    """The loss, and what a log shows of it, all scalars.

    ``positive``: mean cosine of positives; ``nearest``: mean cosine to the nearest negative.
    """

    total: Tensor
    info_nce: Tensor
    koleo: Tensor
    positive: Tensor
    nearest: Tensor


def shares_source(left: Tensor, right: Tensor) -> Tensor:
    """Whether two views show a common picture, bool (n, m).

    Args:
        left: int64 (n, 2), the pictures each view shows; twice the same where it is not mixed.
        right: int64 (m, 2).
    """
    equal: Tensor = left[:, None, :, None] == right[None, :, None, :]
    return equal.flatten(2).any(dim=2)


def contrast(
    local: Tensor,
    everything: Tensor,
    match: Tensor,
    offset: int,
    *,
    temperature: float,
    koleo: float,
) -> Loss:
    """The loss of this process's views against those of all processes.

    For a positive pair (i, j): -log(e_ij / (e_ij + sum over negatives k of e_ik)), e being the
    exponential of cosine / temperature; averaged over the positives of i, then over i. Other
    positives are not in the denominator. The entropy term is -log of the distance to the nearest
    negative (Kozachenko-Leonenko; Sablayrolles et al., ICLR 2019), averaged over i.

    Args:
        local: float32 (n, d), rows L2-normalised.
        everything: float32 (m, d), of all processes, in order of rank.
        match: bool (n, m), whether two views share a source picture.
        offset: where ``local`` begins in ``everything``.
        temperature: divides cosines.
        koleo: weight of the entropy term.
    """
    cosine = local @ everything.T
    rows = torch.arange(len(local), device=local.device)
    positive = match.clone()
    positive[rows, rows + offset] = False
    negatives = cosine.masked_fill(match, -torch.inf)
    scaled = cosine / temperature
    rest = torch.logsumexp(negatives / temperature, dim=1, keepdim=True)
    losses = torch.where(positive, torch.logaddexp(scaled, rest) - scaled, 0.0)
    count = positive.sum(dim=1).clamp(min=1)
    info_nce = (losses.sum(dim=1) / count).mean()
    nearest = negatives.max(dim=1).values
    squared = (2.0 - 2.0 * nearest).clamp(min=_LEAST_SQUARED_DISTANCE)
    entropy = -0.5 * squared.log().mean()
    return Loss(
        total=info_nce + koleo * entropy,
        info_nce=info_nce.detach(),
        koleo=entropy.detach(),
        positive=(cosine * positive).sum().detach() / positive.sum().clamp(min=1),
        nearest=nearest.detach().mean(),
    )
