"""The jsonb form of a fingerprint and its model."""

from __future__ import annotations

import json
from typing import Any

from sscd_ops.catalog.fingerprints import detail_json, fingerprint_of, model_of
from sscd_ops.model import Fingerprint
from sscd_ops.options import FingerprintOptions

FINGERPRINT = Fingerprint("dct", "", "skew-320", "centre-ab", 512, 8, "0123456789", "bfloat16")
MODEL = FingerprintOptions(model="dct", weights="/w.pt", preprocessing="skew-320", minibatch=8)


def row(detail: dict[str, Any]) -> dict[str, Any]:
    return {"fingerprint": FINGERPRINT.digest, "fingerprint_detail": detail}


def test_what_is_stored_comes_back() -> None:
    stored = row(json.loads(detail_json(FINGERPRINT, MODEL)))

    assert fingerprint_of(stored) == FINGERPRINT
    assert model_of(stored) == MODEL


def test_views_find_the_name_and_people_the_rest() -> None:
    detail = json.loads(detail_json(FINGERPRINT, MODEL))

    assert detail == {
        "name": "dct-01234567",
        "model": "dct",
        "weights_sha256": "",
        "preprocessing": "skew-320",
        "postprocessing": "centre-ab",
        "dimensions": 512,
        "minibatch": 8,
        "digest": "0123456789",
        "precision": "bfloat16",
        "options": {
            "model": "dct",
            "weights": "/w.pt",
            "preprocessing": "skew-320",
            "postprocessing": "",
            "precision": "",
            "minibatch": 8,
            "device": "auto",
            "engine": "torch",
            "workers": 0,
        },
    }


def test_keys_of_other_releases_do_no_harm() -> None:
    detail = json.loads(detail_json(FINGERPRINT, MODEL))
    del detail["precision"], detail["postprocessing"], detail["options"]["precision"]
    detail["later"] = detail["options"]["later"] = 1

    assert fingerprint_of(row(detail)).precision == "float32"
    assert model_of(row(detail)) == MODEL
