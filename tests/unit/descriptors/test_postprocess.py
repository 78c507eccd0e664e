"""Centring and whitening: what they do to numbers, to the fingerprint, and to a wrong setting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sscd_ops.config import load_settings
from sscd_ops.descriptors import postprocess
from sscd_ops.descriptors.embedder import fingerprint_of, open_embedder
from sscd_ops.descriptors.networks import SSCD, TRUNKS
from sscd_ops.errors import ConfigError, WeightsUnavailable
from sscd_ops.model import Fingerprint
from sscd_ops.options import FingerprintOptions
from sscd_ops.testing import picture

PLAIN = Fingerprint("sscd_disc_mixup", "ab", "skew-320", "", 16, 32, "d1" * 32)


def sample(count: int = 400, width: int = 16) -> np.ndarray:
    """Unit vectors round a common direction, more spread in some directions than in others."""
    random = np.random.default_rng(3)
    rows = 2 + random.standard_normal((count, width)) * np.linspace(0.1, 2, width)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("kept", [None, 5])
def test_whitened_descriptors_have_no_mean_no_correlation_and_unit_norm(kept: int | None) -> None:
    rows = sample()

    fitted = postprocess.fit(rows, PLAIN, dimensions=kept)

    wide = (rows - fitted.mean) @ fitted.matrix.T
    assert np.allclose(wide.mean(axis=0), 0, atol=1e-6)
    assert np.allclose(wide.T @ wide / len(wide), np.eye(kept or 16), atol=1e-5)
    answer = fitted.apply(rows)
    assert answer.dtype == np.float32
    assert answer.shape == (400, fitted.dimensions)
    assert np.allclose(np.linalg.norm(answer, axis=1), 1, atol=1e-6)
    assert np.allclose(answer, wide / np.linalg.norm(wide, axis=1, keepdims=True), atol=1e-6)


def test_the_kept_components_are_those_of_greatest_variance() -> None:
    rows = sample()
    every, few = (postprocess.fit(rows, PLAIN, dimensions=kept).matrix for kept in (16, 4))

    np.testing.assert_allclose(few, every[:4])
    norms = np.linalg.norm(every, axis=1)  # one over the deviation
    assert (np.diff(norms) > 0).all()


def test_centred_descriptors_lose_the_mean_and_nothing_else() -> None:
    rows = sample()

    fitted = postprocess.fit(rows, PLAIN, whiten=False)

    centred = rows - rows.mean(axis=0)
    wanted = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(fitted.apply(rows), wanted, atol=1e-6)


def test_a_row_that_is_no_descriptor_stays_none_and_changes_no_other() -> None:
    rows = sample()
    fitted = postprocess.fit(rows, PLAIN)
    broken = rows[:6].copy()
    broken[1], broken[4] = 0, np.nan

    answer = fitted.apply(broken)

    assert not answer[[1, 4]].any()
    good = [0, 2, 3, 5]
    np.testing.assert_array_equal(answer[good], fitted.apply(rows[:6])[good])
    np.testing.assert_array_equal(fitted.apply(rows[5:6])[0], answer[5])


def test_a_file_reads_back_and_equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    fitted = postprocess.fit(sample(), PLAIN, dimensions=7)

    digest = postprocess.write(fitted, tmp_path / "a")
    assert postprocess.write(postprocess.fit(sample(), PLAIN, dimensions=7), tmp_path / "b")

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    read = postprocess.read(tmp_path / "a", "m", 16)
    assert (read.name, read.dimensions, read.fitted_under) == (f"whiten-{digest}", 7, PLAIN.digest)
    np.testing.assert_array_equal(read.apply(sample()), fitted.apply(sample()))


@pytest.mark.parametrize(
    ("rows", "asked", "message"),
    [
        (sample(100), {}, "100 descriptors are too few to fit 16 dimensions: give at least 160"),
        (sample(9), {"whiten": False}, "9 descriptors are too few to centre: give at least 10"),
        (sample(), {"dimensions": 17}, "17 dimensions cannot be had from 16"),
        (np.repeat(sample(40), 10, 0)[:, [0] * 8 + [1] * 8] / 2, {}, "span only 2 of 16"),
    ],
)
def test_a_sample_that_cannot_be_fitted_says_what_to_give(rows, asked, message) -> None:  # type: ignore[no-untyped-def]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    with pytest.raises(ConfigError, match=message):
        postprocess.fit(rows.astype(np.float32), PLAIN, **asked)


def test_a_file_of_other_dimensions_or_no_such_file_is_refused_with_the_remedy(
    tmp_path: Path,
) -> None:
    path = tmp_path / "w.safetensors"
    postprocess.write(postprocess.fit(sample(), PLAIN), path)
    other = tmp_path / "other"
    other.write_bytes(b"no safetensors")

    with pytest.raises(ConfigError, match=r"of 16 dimensions, and m has 512: fit it on"):
        postprocess.read(path, "m", 512)
    with pytest.raises(ConfigError, match="fit it anew"):
        postprocess.read(other, "m", 16)


def test_dct_takes_neither_postprocessing_nor_precision(tmp_path: Path) -> None:
    for setting in ({"postprocessing": "w.safetensors"}, {"precision": "bfloat16"}):
        with pytest.raises(ConfigError, match=f"fingerprint.{next(iter(setting))}"):
            fingerprint_of(FingerprintOptions("dct", **setting), tmp_path)


def test_an_embedder_applies_what_its_fingerprint_names(tmp_path: Path) -> None:
    torch.manual_seed(1)
    weights = tmp_path / "w.pt"
    torch.save(SSCD(TRUNKS["resnet50"], 512).state_dict(), weights)
    plain = FingerprintOptions(
        "sscd_disc_mixup", weights=str(weights), minibatch=2, workers=1, device="cpu"
    )
    pictures = [picture(seed) for seed in range(2)]
    with open_embedder(plain, tmp_path) as embedder:
        (chunk,) = embedder.embed(pictures)
    before = fingerprint_of(plain, tmp_path)
    fitted = postprocess.fit(
        np.repeat(chunk.descriptors, 200, axis=0) + sample(400, 512) * 0.1,
        before,
        dimensions=8,
    )
    path = tmp_path / "w8.safetensors"
    digest = postprocess.write(fitted, path)
    options = FingerprintOptions(**{**vars(plain), "postprocessing": str(path)})

    fingerprint = fingerprint_of(options, tmp_path)
    with open_embedder(options, tmp_path) as embedder:
        (whitened,) = embedder.embed([*pictures[:1], b"bad"])

    assert fingerprint.digest != before.digest
    assert (fingerprint.postprocessing, fingerprint.dimensions) == (f"whiten-{digest}", 8)
    np.testing.assert_allclose(
        whitened.descriptors[0], fitted.apply(chunk.descriptors)[0], atol=1e-6
    )
    assert whitened.faults.keys() == {1}
    elsewhere = FingerprintOptions(**{**vars(options), "preprocessing": "skew-288"})
    with pytest.raises(ConfigError, match="fit it with the same model"):
        fingerprint_of(elsewhere, tmp_path)
    with pytest.raises(WeightsUnavailable, match="no file"):
        fingerprint_of(FingerprintOptions(**{**vars(options), "postprocessing": "x"}), tmp_path)


def test_a_relative_path_is_one_from_the_config_files_folder(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(
        '[storage]\nroot = "out"\n[datasets.web.fingerprint]\npostprocessing = "w.safetensors"\n'
        '[[datasets.web.sources]]\nurls = ["in/{date}/*.tar"]\n'
    )

    read = load_settings(config).datasets["web"].fingerprint

    assert read.postprocessing == str(tmp_path / "w.safetensors")
