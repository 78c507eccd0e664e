"""The same network folded, channels_last and in lower precision gives the same descriptors.

On a handful of small pictures, which is harsher than ``benchmarks/precision.py`` with its thousand,
and without a compiler.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.networks import measured_network, normalised
from sscd_ops.descriptors.inference import folded
from sscd_ops.descriptors.models import MODELS
from sscd_ops.descriptors.networks import SSCD, Network, build
from sscd_ops.descriptors.weights import read_state
from sscd_ops.images.preprocess import PRESETS, preprocess

PICTURES = Path(__file__).parents[3] / "examples" / "pictures"


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """uint8 (12, 96, 96, 3): the middle of real pictures."""
    found = sorted(PICTURES.glob("*.jpg"))[::9][:12]
    cut = [preprocess(path.read_bytes(), PRESETS["skew-288"]) for path in found]
    return np.stack(cut)[:, 96:192, 96:192]


@pytest.fixture(scope="module")
def network(pixels: np.ndarray) -> SSCD:
    return measured_network(pixels)


@pytest.fixture(scope="module")
def wanted(network: SSCD, pixels: np.ndarray) -> np.ndarray:
    """Descriptors of the network as it is trained: unfolded, contiguous, float32."""
    with torch.inference_mode():
        return network(normalised(pixels)).numpy()


def test_the_network_measured_with_tells_pictures_apart(wanted: np.ndarray) -> None:
    alike = (wanted @ wanted.T)[np.triu_indices(len(wanted), 1)]

    assert alike.mean() < 0.5


@pytest.mark.parametrize(
    ("precision", "least"), [("float32", 0.99999), ("bfloat16", 0.9985), ("float16", 0.9999)]
)
def test_descriptors_agree_with_the_plain_network(
    precision, least, network, pixels, wanted
) -> None:  # type: ignore[no-untyped-def]
    ready = Network(network, torch.device("cpu"), precision)

    found = ready.describe(pixels)

    assert found.dtype == np.float32
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert (found * wanted).sum(axis=1).min() >= least
    assert ready.runtime()["precision"] == precision
    if precision == "float32":
        assert np.abs(found - wanted).max() < 1e-5


@pytest.mark.parametrize(("precision", "least"), [("bfloat16", 0.999), ("float16", 0.9999)])
def test_the_bundled_model_agrees_in_lower_precision(precision, least, pixels: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    """It folds pixels 4x4 at once: what pixels lose on their way in is most of what it loses."""
    model = MODELS["sscd_small"]
    small = build(model, read_state(Path(model.weights)))

    wanted = Network(small, torch.device("cpu")).describe(pixels)
    found = Network(small, torch.device("cpu"), precision).describe(pixels)

    assert (found * wanted).sum(axis=1).min() >= least


def test_folding_leaves_no_batch_norm_and_the_network_itself_alone(network: SSCD) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}

    copy = folded(network)

    assert not [module for module in copy.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.state_dict().keys() == before.keys()
