"""The SSCD networks as the embedder uses them: weights from a file, minibatches, errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sscd_ops.descriptors.compact import gem
from sscd_ops.descriptors.embedder import fingerprint_of, open_embedder
from sscd_ops.descriptors.models import find_model
from sscd_ops.descriptors.networks import SSCD, TRUNKS, build, load_networks
from sscd_ops.errors import ConfigError
from sscd_ops.options import FingerprintOptions
from sscd_ops.testing import picture

MIXUP = find_model("sscd_disc_mixup")


@pytest.fixture(scope="module")
def network() -> SSCD:
    """A ResNet-50 with random weights and random batch-norm statistics."""
    torch.manual_seed(7)
    made = SSCD(TRUNKS["resnet50"], 512).eval()
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.2, 0.6)
    return made


def save(network: SSCD, path: Path) -> Path:
    """A weights file in the torchvision format; test_original.py has the others."""
    torch.save({f"backbone.{name}": value for name, value in network.state_dict().items()}, path)
    return path


def test_parameter_counts_are_those_of_the_paper() -> None:
    counts = {
        name: sum(p.numel() for p in SSCD(TRUNKS[trunk], dimensions).parameters())
        for name, trunk, dimensions in (("r50", "resnet50", 512), ("rx101", "resnext101", 1024))
    }

    assert counts == {"r50": 24_557_120, "rx101": 44_226_880}


def test_gem_is_the_cubic_mean_over_positions() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, -4.0]]]])

    answer = gem(x)

    assert torch.allclose(answer, torch.tensor([[((1 + 8 + 27) / 4) ** (1 / 3)]]), atol=1e-5)


def test_a_missing_and_an_extra_parameter_are_named(network: SSCD) -> None:
    state = dict(network.state_dict())
    state["layer9.weight"] = torch.zeros(1)

    with pytest.raises(ConfigError, match=r"extra: layer9\.weight"):
        build(MIXUP, state)
    del state["layer9.weight"], state["layer4.2.conv3.weight"]
    with pytest.raises(ConfigError, match=r"missing: layer4\.2\.conv3\.weight"):
        build(MIXUP, state)


def test_one_config_line_with_a_path_is_enough(network: SSCD, tmp_path: Path) -> None:
    weights = save(network, tmp_path / "sscd_disc_mixup.torchvision.pt")
    options = FingerprintOptions(
        "sscd_disc_mixup", weights=str(weights), minibatch=3, workers=1, device="cpu"
    )
    pictures = [picture(seed) for seed in range(4)]

    with open_embedder(options, tmp_path) as embedder:
        chunks = list(embedder.embed([*pictures, b"no picture"]))
        again = list(embedder.embed([pictures[3]]))

    rows = np.concatenate([chunk.descriptors for chunk in chunks])
    assert embedder.fingerprint == fingerprint_of(options, tmp_path)
    assert rows.shape == (5, 512)
    assert np.allclose(np.linalg.norm(rows[:4], axis=1), 1, atol=1e-5)
    assert chunks[1].faults[1][0] == "not_an_image"
    # the same picture, in another place of another minibatch
    assert np.array_equal(again[0].descriptors[0], rows[3])


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 1), (6, 2), (16, 5)])
def test_the_bundled_model_leaves_cores_to_its_decoders_and_gives_them_back(
    tmp_path: Path, cores: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    monkeypatch.setenv("OMP_NUM_THREADS", str(cores))  # or no more than this machine's cores
    torch.set_num_threads(cores)
    try:
        (under_test,) = load_networks(
            find_model("sscd_small"), FingerprintOptions("sscd_small", device="cpu"), tmp_path
        )
        inner = under_test._network.conv1.forward  # type: ignore[attr-defined]
        monkeypatch.setattr(
            under_test._network.conv1,  # type: ignore[attr-defined]
            "forward",
            lambda x: (seen.append(torch.get_num_threads()), inner(x))[1],
        )
        under_test.describe(np.zeros((1, 160, 160, 3), np.uint8))

        assert seen == [expected]
        assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)
