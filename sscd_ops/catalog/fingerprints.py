"""Fingerprints and their models, as the columns ``fingerprint_detail`` hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from sscd_ops.model import Fingerprint
from sscd_ops.options import FingerprintOptions

T = TypeVar("T", Fingerprint, FingerprintOptions)


def detail_json(fingerprint: Fingerprint, model: FingerprintOptions) -> str:
    """A fingerprint, and how its model was configured."""
    return json.dumps({"name": str(fingerprint), **asdict(fingerprint), "options": asdict(model)})


def fingerprint_of(row: Mapping[str, Any]) -> Fingerprint:
    """The fingerprint in a row that has one. Its digest is a column."""
    detail = row["fingerprint_detail"]
    return _known(Fingerprint, {"postprocessing": "", **detail, "digest": row["fingerprint"]})


def model_of(row: Mapping[str, Any]) -> FingerprintOptions:
    """How the model in such a row was configured."""
    return _known(FingerprintOptions, row["fingerprint_detail"]["options"])


def _known(kind: type[T], raw: Mapping[str, Any]) -> T:
    """Without keys of other releases; what an earlier one did not know has its default."""
    return kind(**{item.name: raw[item.name] for item in fields(kind) if item.name in raw})
