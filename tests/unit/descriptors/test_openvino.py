"""OpenVINO in torch's place: the same numbers to rounding, or a word why not."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from sscd_ops.descriptors.embedder import fingerprint_of, open_embedder
from sscd_ops.descriptors.networks import Network, make
from sscd_ops.descriptors.openvino_engine import OpenVino
from sscd_ops.errors import ConfigError, MissingExtra
from sscd_ops.options import FingerprintOptions
from sscd_ops.testing import picture

# looked for, not imported: only the product's own import keeps the package's reports off
needs_openvino = pytest.mark.skipif(
    find_spec("openvino") is None, reason="needs the extra: pip install 'sscd-ops[openvino]'"
)


@needs_openvino
def test_the_bundled_model_gives_the_rows_that_torch_gives(tmp_path: Path) -> None:
    images = [picture(seed) for seed in range(7)]
    images[3] = b"no picture"
    rows, faults = {}, {}
    for engine in ("torch", "openvino"):
        options = FingerprintOptions(model="sscd_small", minibatch=4, engine=engine, workers=1)
        with open_embedder(options, tmp_path) as embedder:
            chunks = list(embedder.embed(images))
            runtime = embedder.runtime()
        rows[engine] = np.concatenate([chunk.descriptors for chunk in chunks])
        faults[engine] = [list(chunk.faults) for chunk in chunks]

    np.testing.assert_allclose(rows["openvino"], rows["torch"], atol=1e-5)
    assert faults["openvino"] == faults["torch"] == [[3], []]
    assert runtime["openvino"]
    # what would send an event over the network at every import is kept out
    assert sys.modules["openvino_telemetry"] is None


@needs_openvino
def test_a_large_network_agrees_and_keeps_what_it_answered() -> None:
    torch.manual_seed(0)
    network = make("resnet50", 512).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 2, 96, 96, 3), np.uint8)
    under_test = OpenVino(network)
    expected = Network(network, torch.device("cpu"))

    answers = [under_test.describe(two) for two in pixels]

    for two, answer in zip(pixels, answers, strict=True):
        np.testing.assert_allclose(answer, expected.describe(two), atol=1e-5)


def test_the_engine_is_no_part_of_the_fingerprint(tmp_path: Path) -> None:
    one, other = (
        fingerprint_of(FingerprintOptions(model="sscd_small", engine=engine), tmp_path)
        for engine in ("torch", "openvino")
    )
    assert one == other


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("precision", "bfloat16", "has float32 alone"),
        ("device", "cuda:0", "runs on CPUs"),
        ("preprocessing", "small-288", "takes pictures of one size"),
        ("model", "dct", "is for networks"),
    ],
)
def test_what_it_cannot_do_is_refused_when_a_night_is_planned(
    tmp_path: Path, field: str, value: str, said: str
) -> None:
    fields = {"model": "sscd_small", "engine": "openvino", field: value}
    with pytest.raises(ConfigError, match=f"fingerprint.engine 'openvino' {said}"):
        fingerprint_of(FingerprintOptions(**fields), tmp_path)  # type: ignore[arg-type]


def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    embedder = open_embedder(
        FingerprintOptions(model="sscd_small", engine="openvino", workers=1), tmp_path
    )

    with pytest.raises(MissingExtra, match=r"needs openvino: pip install 'sscd-ops\[openvino\]'"):
        embedder.__enter__()
    embedder.__exit__(None, None, None)
