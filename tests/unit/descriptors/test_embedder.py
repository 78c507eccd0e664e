"""Minibatches: a row's numbers depend on its own picture, a bad picture costs its row alone."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from sscd_ops.descriptors import dct
from sscd_ops.descriptors.embedder import (
    Begin,
    Begun,
    Loaded,
    MinibatchEmbedder,
    fingerprint_of,
    open_embedder,
)
from sscd_ops.descriptors.models import find_model
from sscd_ops.errors import ConfigError, MissingExtra
from sscd_ops.model import Fault
from sscd_ops.options import FingerprintOptions, ModelName
from sscd_ops.testing import encode, picture


def embed(images: list[bytes], minibatch: int, cache: Path, workers: int = 2):  # type: ignore[no-untyped-def]
    """All rows, and faults by row."""
    options = FingerprintOptions(model="dct", minibatch=minibatch, workers=workers)
    rows, faults, done = [], {}, 0
    with open_embedder(options, cache) as embedder:
        for chunk in embedder.embed(images):
            rows.append(chunk.descriptors)
            faults.update({done + row: fault for row, fault in chunk.faults.items()})
            done += len(chunk.descriptors)
    return np.concatenate(rows), faults


def test_numbers_of_dct_change_with_its_version_alone() -> None:
    """Where this fails on purpose, its architecture's number goes up: other fingerprint."""
    grid = np.random.default_rng(1).integers(0, 256, (1, dct.GRID, dct.GRID, 3), dtype=np.uint8)
    weights = np.random.default_rng(2).standard_normal((dct.DIMENSIONS, 4))

    assert find_model("dct").architecture == "dct-1"
    assert find_model("dct").dimensions == dct.DIMENSIONS
    assert dct.describe(grid) @ weights == pytest.approx(
        np.array([[0.180034, -1.572166, -0.505149, -0.961172]]), abs=1e-4
    )
    assert not dct.describe(np.full_like(grid, 128) + (grid > 253)).any()


@pytest.mark.parametrize(
    ("options", "digest"),
    [
        (
            FingerprintOptions(model="dct"),
            "46afb704cad0ce06718c8db29a4d85e157a7a6fc2ea1488e654b3f5d2d7bb714",
        ),
        (
            FingerprintOptions(model="sscd_small"),
            "332ca0b53994e61c2f32a9a5fcacc1cff6f704f278717925590260f8596ea34d",
        ),
        (
            FingerprintOptions(model="sscd_small", precision="bfloat16"),
            "f4f5fb25ed2f6605e442bf4f0b0272aed6e85a1263ea6c160bf471733f37058c",
        ),
        (
            FingerprintOptions(model="dct", preprocessing="grid-64-draft"),
            "740cb2f1058c05f729454fbfb7a1a4a1304cf2c60b2c180373e538a0bcb8a57f",
        ),
        (
            FingerprintOptions(model="sscd_small", preprocessing="skew-160"),
            "02e5de52ffcb2b67ac82a5c1131b9ce9128ef5d563211adb9eb0e7be3efe02d9",
        ),
        (
            FingerprintOptions(model="sscd_small", precision="bfloat16", preprocessing="skew-160"),
            "f1d13e336c402218408400ae796affa09c3ffd7aa9b8fb4040ccaac7f41d063d",
        ),
    ],
)
def test_the_digest_of_a_fingerprint_stays(
    options: FingerprintOptions, digest: str, tmp_path: Path
) -> None:
    """Where it changes, every dataset there is would be refused under its next run."""
    assert fingerprint_of(options, tmp_path).digest == digest


@pytest.mark.parametrize("minibatch", [1, 4, 32])
def test_a_bad_picture_costs_its_row_and_no_minibatch(minibatch: int, tmp_path: Path) -> None:
    good = [picture(i) for i in range(22)]
    bad = {0: good[0][:900], 5: b"", 6: b"<html>", 21: good[21][:900]}
    codes = {
        0: Fault.UNDECODABLE,
        5: Fault.EMPTY_IMAGE,
        6: Fault.NOT_AN_IMAGE,
        21: Fault.UNDECODABLE,
    }
    expected, none = embed(good, minibatch, tmp_path)

    rows, faults = embed([bad.get(i, data) for i, data in enumerate(good)], minibatch, tmp_path)

    assert not none
    assert {row: code for row, (code, _) in faults.items()} == codes
    assert all(message for _, message in faults.values())
    assert not rows[list(bad)].any()
    fine = [i for i in range(22) if i not in bad]
    np.testing.assert_array_equal(rows[fine], expected[fine])


@pytest.mark.parametrize("model", ["dct", "sscd_small"])
def test_a_plain_picture_has_no_descriptor_and_no_fault(model: ModelName, tmp_path: Path) -> None:
    good = [picture(i) for i in range(3)]
    blank = [encode(Image.new("RGB", (90, 90), ink), 90) for ink in ("white", "lightgrey")]
    options = FingerprintOptions(model=model, minibatch=4, workers=1)

    with open_embedder(options, tmp_path, perceptual=True) as embedder:
        (chunk,) = embedder.embed([good[0], blank[0], good[1], blank[1]])
        (alone,) = embedder.embed(blank)
        (expected,) = embedder.embed([good[0], b"", good[1], b""])

    assert (chunk.plain, chunk.faults) == ({1, 3}, {})
    assert (alone.plain, alone.faults) == ({0, 1}, {})
    np.testing.assert_array_equal(chunk.descriptors, expected.descriptors)
    assert chunk.hashes is not None
    assert not chunk.hashes[[1, 3]].any()
    assert chunk.hashes[[0, 2]].any(axis=1).all()
    assert not alone.descriptors.any()


def test_what_dct_finds_blank_is_plain_and_no_fault(tmp_path: Path) -> None:
    """Cells that stand out, and next to no contrast over the whole: a night sky of few stars."""
    sky = np.zeros((640, 640, 3), np.uint8)
    for across, down in itertools.product(range(2, 62, 12), repeat=2):  # 25 of 4,096 cells
        sky[10 * down + 4 : 10 * down + 6, 10 * across + 4 : 10 * across + 7] = 230
    stars = encode(Image.fromarray(sky), 95)
    options = FingerprintOptions(model="dct", minibatch=4, workers=1)

    with open_embedder(options, tmp_path, perceptual=True) as embedder:
        (chunk,) = embedder.embed([picture(0), stars])

    assert (chunk.plain, chunk.faults) == ({1}, {})
    assert not chunk.descriptors[1].any()
    assert chunk.hashes is not None
    assert not chunk.hashes[1].any()


def test_neither_neighbours_nor_workers_change_a_row(tmp_path: Path) -> None:
    images = [picture(i) for i in range(9)]
    rows, _ = embed(images, 4, tmp_path)

    turned, _ = embed(images[::-1], 4, tmp_path, workers=1)
    single, _ = embed(images[4:5], 4, tmp_path)

    np.testing.assert_array_equal(turned[::-1], rows)
    np.testing.assert_array_equal(single, rows[4:5])


def device(name: str, told: list[str]) -> Begin:
    """A model on a device that tells when a minibatch is begun and when it is waited for."""
    number = itertools.count()

    def begin(pixels: NDArray[np.uint8]) -> Begun:
        which = f"{name}{next(number)}"
        told.append(f"begin {which}")
        rows = dct.describe(pixels)

        def wait() -> NDArray[np.float32]:
            told.append(f"wait {which}")
            return rows

        return wait

    return begin


@pytest.mark.parametrize(
    ("names", "order"),
    [
        ("a", ["begin a0", "begin a1", "wait a0", "begin a2", "wait a1", "wait a2"]),
        # both have work while a third is put together
        ("ab", ["begin a0", "begin b0", "begin a1", "wait a0", "wait b0", "wait a1"]),
    ],
)
def test_devices_work_while_the_next_minibatch_is_decoded_and_rows_stay_in_order(
    tmp_path: Path, names: str, order: list[str]
) -> None:
    fingerprint = fingerprint_of(FingerprintOptions(model="dct", minibatch=4), tmp_path)
    told: list[str] = []
    loaded = Loaded([device(name, told) for name in names], {})

    images = [picture(seed) for seed in range(10)]
    with MinibatchEmbedder(fingerprint, lambda: loaded, 1) as embedder:
        chunks = list(embedder.embed(images))

    assert told == order
    expected, _ = embed(images, 4, tmp_path)
    np.testing.assert_array_equal(np.concatenate([c.descriptors for c in chunks]), expected)


def test_float32_is_float32_and_equal_pictures_give_equal_numbers(tmp_path: Path) -> None:
    """What torch would do otherwise: TF32 and whichever algorithm was fastest a moment ago."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    cudnn.allow_tf32 = cudnn.benchmark = matmul.allow_tf32 = True
    cudnn.deterministic = False

    with open_embedder(FingerprintOptions(model="sscd_small", device="cpu"), tmp_path) as embedder:
        list(embedder.embed([picture(0)]))

    assert (cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic) == (False, False, True)
    assert not matmul.allow_tf32


def test_a_network_on_two_devices_gives_the_numbers_of_one(tmp_path: Path) -> None:
    images = [picture(seed) for seed in range(7)]
    rows = []
    for device in ("cpu", "cpu, cpu"):
        options = FingerprintOptions(model="sscd_small", minibatch=2, device=device, workers=1)
        with open_embedder(options, tmp_path) as embedder:
            rows.append(np.concatenate([c.descriptors for c in embedder.embed(images)]))
            said = embedder.runtime().get("devices")
    np.testing.assert_array_equal(*rows)
    assert said == "2"


@pytest.mark.parametrize("device", ["cuda:99", "cpu,nowhere", "cuda:all"])
def test_a_device_that_is_not_there_is_named(
    tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    options = FingerprintOptions(model="sscd_small", device=device, workers=1)
    embedder = open_embedder(options, tmp_path)

    with pytest.raises(ConfigError, match=f"fingerprint.device '{device}': "):
        embedder.__enter__()
    embedder.__exit__(None, None, None)


def test_a_network_without_torch_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "sscd_ops.descriptors.networks", raising=False)
    options = FingerprintOptions(model="sscd_small", workers=1)
    embedder = open_embedder(options, tmp_path)

    with pytest.raises(MissingExtra, match=r"sscd_small needs torch: pip install .*cpu"):
        embedder.__enter__()
    embedder.__exit__(None, None, None)
