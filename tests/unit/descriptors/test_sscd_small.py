"""The bundled model: its file, its numbers, and the pictures it has never seen."""

from __future__ import annotations

import csv
import gzip
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sscd_ops.descriptors.embedder import fingerprint_of, open_embedder
from sscd_ops.descriptors.models import find_model
from sscd_ops.descriptors.networks import build
from sscd_ops.descriptors.weights import read_state
from sscd_ops.errors import ConfigError
from sscd_ops.evaluation.tasks import read_names
from sscd_ops.options import FingerprintOptions
from sscd_ops.testing import picture

ROOT = Path(__file__).parents[3]
CARD = ROOT / "docs" / "models"
DATA = os.environ.get("SSCD_OPS_TEST_DATA", "")
EXPECTED = (0.0612, -0.0834, 0.0513, 0.0232, 0.0646, 0.0436, 0.0409, 0.0936)
"""The first numbers of ``picture(3)``'s descriptor."""


def table(name: str) -> list[dict[str, str]]:
    """A list that comes with the model card."""
    with (CARD / name).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_file_is_small_half_precision_and_loads_strictly() -> None:
    model = find_model("sscd_small")
    state = read_state(Path(model.weights))

    build(model, state)
    assert Path(model.weights).stat().st_size <= 8_000_000
    assert {str(value.dtype) for value in state.values()} == {"torch.float16"}
    first = next(iter(state))
    with pytest.raises(ConfigError, match=f"missing: {first}"):
        build(model, {name: value for name, value in state.items() if name != first})
    with pytest.raises(ConfigError, match="extra: another"):
        build(model, {**state, "another": state[first]})


def test_it_describes_as_it_did_when_it_was_measured(tmp_path: Path) -> None:
    options = FingerprintOptions(model="sscd_small", device="cpu")

    with open_embedder(options, tmp_path) as embedder:
        (chunk,) = embedder.embed([picture(3)])

    assert fingerprint_of(options, tmp_path).dimensions == 256
    np.testing.assert_allclose(chunk.descriptors[0, : len(EXPECTED)], EXPECTED, atol=2e-3)


def test_no_source_is_both_trained_on_and_held_out() -> None:
    sources = table("sscd_small_sources.csv")
    held = table("sscd_small_heldout.csv")
    split = {row["source"]: row["split"] for row in sources}

    assert len(split) == len(sources)
    assert all(split[row["source"]] == row["split"] != "train" for row in held)
    assert len({row["git_blob"] for row in held}) == len(held) >= 2000
    counted = Counter(row["source"] for row in held)
    assert all(
        counted[row["source"]] == (0 if row["split"] == "train" else int(row["pictures"]))
        for row in sources
    )


def test_the_held_out_list_can_be_evaluated_on() -> None:
    names = read_names(CARD / "sscd_small_heldout.csv")

    assert names == {row["key"] for row in table("sscd_small_heldout.csv")}


@pytest.mark.skipif(
    not DATA, reason="needs the training pictures: SSCD_OPS_TEST_DATA names no folder"
)
def test_the_held_out_list_is_all_of_its_sources_pictures() -> None:
    with gzip.open(Path(DATA) / "train" / "index.csv.gz", "rt", newline="") as stream:
        index = list(csv.DictReader(stream))
    listed = table("sscd_small_heldout.csv")
    held = {row["git_blob"] for row in listed}

    key = {row["git_blob"]: row["key"] for row in index}
    assert all(key[row["git_blob"]] == row["key"] for row in listed)
    out = {row["source"] for row in index if row["git_blob"] in held}
    trained = {row["source"] for row in index if row["git_blob"] not in held}

    assert out
    assert not out & trained
    assert {row["git_blob"] for row in index if row["source"] in out} == held
