"""Training: the loss and LARS against slow formulas, resuming to the bit, and a run that learns."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("cv2", reason="training needs opencv-python-headless, the extra `train`")

import cv2

from sscd_ops.cli.train import names_in
from sscd_ops.descriptors.embedder import open_embedder
from sscd_ops.descriptors.models import MODELS
from sscd_ops.descriptors.training import look_alikes as alike
from sscd_ops.descriptors.training import loop, parallel, session
from sscd_ops.descriptors.training.augment import MILD, STRENGTHS, view
from sscd_ops.descriptors.training.decoded import open_pictures, shrink, store_pictures
from sscd_ops.descriptors.training.hard_negatives import nearest
from sscd_ops.descriptors.training.look_alikes import look_alikes
from sscd_ops.descriptors.training.loop import Run, gains_by_bfloat16
from sscd_ops.descriptors.training.loss import contrast, shares_source
from sscd_ops.descriptors.training.optim import LARS, learning_rate
from sscd_ops.descriptors.training.options import RECIPES, TrainOptions
from sscd_ops.descriptors.training.parallel import Process
from sscd_ops.descriptors.training.views import mixed, rows_of
from sscd_ops.errors import ConfigError
from sscd_ops.options import FingerprintOptions
from sscd_ops.ports import Silence
from sscd_ops.testing import picture

TINY = TrainOptions(
    steps=6, batch=8, sizes=(32, 48), changes=(0.5,), precision="float32", mixup=0.2
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads on two busy cores wait for each other more than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def members(count: int = 24) -> list[tuple[str, bytes]]:
    """Keys and pictures."""
    return [(f"k{number:03}", picture(number)) for number in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decoded pictures."""
    path = tmp_path_factory.mktemp("pictures")
    store_pictures(members(), path, short=48, threads=2)
    return path


# ---------------------------------------------------------------- loss


def slow_loss(z: list[list[float]], shows: list[set[int]], tau: float, koleo: float) -> float:
    """The paper's formulas, a view at a time, in plain Python."""

    def dot(i: int, j: int) -> float:
        return sum(a * b for a, b in zip(z[i], z[j], strict=True))

    views = range(len(z))
    nce = entropy = 0.0
    for i in views:
        positives = [j for j in views if j != i and shows[i] & shows[j]]
        negatives = [j for j in views if not shows[i] & shows[j]]
        below = sum(math.exp(dot(i, k) / tau) for k in negatives)
        terms = [math.exp(dot(i, j) / tau) for j in positives]
        if terms:
            nce += sum(-math.log(term / (term + below)) for term in terms) / len(terms)
        nearest = max(dot(i, k) for k in negatives)
        entropy -= math.log(math.sqrt(max(2 - 2 * nearest, 1e-6)))
    return nce / len(z) + koleo * entropy / len(z)


@pytest.mark.parametrize("mix", [False, True], ids=["plain", "mixup"])
def test_the_loss_is_the_papers(mix: bool) -> None:
    chance = np.random.default_rng(3)
    z = torch.nn.functional.normalize(torch.tensor(chance.standard_normal((10, 7))))
    shows = torch.arange(5).repeat(2)[:, None].repeat(1, 2)
    if mix:
        shows[3, 1], shows[6, 1] = 0, 4

    found = contrast(z, z, shares_source(shows, shows), 0, temperature=0.2, koleo=3.0)
    parts = [
        contrast(rows, z, shares_source(seen, shows), start, temperature=0.2, koleo=3.0).total
        for start, rows, seen in ((0, z[:4], shows[:4]), (4, z[4:], shows[4:]))
    ]

    expected = slow_loss(z.tolist(), [set(row) for row in shows.tolist()], 0.2, 3.0)
    assert float(found.total) == pytest.approx(expected, rel=1e-9)
    assert float(0.4 * parts[0] + 0.6 * parts[1]) == pytest.approx(expected, rel=1e-9)


def test_lars_takes_the_step_of_its_formula() -> None:
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    optimizer = LARS([weight], lr=2.0, momentum=0.9, weight_decay=0.1, trust=0.01, eps=0.0)
    expected, momentum = np.array([3.0, 4.0]), np.zeros(2)

    for gradient in ([1.0, 0.0], [0.5, -2.0]):
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        g = np.array(gradient)
        size, slope = np.linalg.norm(expected), np.linalg.norm(g)
        momentum = 0.9 * momentum + 0.01 * size / (slope + 0.1 * size) * (g + 0.1 * expected)
        expected = expected - 2.0 * momentum

    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-12)


def test_the_rate_rises_falls_and_ends_at_zero() -> None:
    rates = [learning_rate(4.8, step / 100, 0.05) for step in range(101)]

    assert rates[0] == 0
    assert rates[5] == max(rates) == pytest.approx(4.8)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[100] == pytest.approx(0, abs=1e-12)


# ---------------------------------------------------------------- pictures and batches


def test_broken_pictures_and_look_alikes_are_left_out(tmp_path: Path) -> None:
    from io import BytesIO

    from PIL import Image, ImageOps

    mirrored = BytesIO()
    ImageOps.mirror(Image.open(BytesIO(picture(2)))).save(mirrored, "JPEG", quality=70)
    given = [*members(6), ("bad", picture(1)[:400]), ("again", mirrored.getvalue())]

    pictures = store_pictures(given, tmp_path, short=48, threads=2)

    assert pictures.keys == (*(key for key, _ in members(6)), "again")
    assert [pictures.keys[row] for row in look_alikes(pictures, 0.8)] == ["again"]
    assert min(pictures[0].shape[:2]) == 48
    with pytest.raises(ConfigError, match="48 px, not 64"):
        open_pictures(tmp_path, 64)


def test_too_many_to_compare_are_told_while_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of decoding would be lost, and the remedy must be one that helps."""
    monkeypatch.setattr(alike, "_MOST_COMPARED", 8)
    read: list[str] = []

    def reading() -> Iterator[tuple[str, bytes]]:
        for key, data in members(60):
            read.append(key)
            yield key, data

    where = session.Session(tmp_path, exclude={"k003"}, device="cpu", threads=1)
    with pytest.raises(ConfigError, match=r"more than 8 pictures .* give --drop-similar 0"):
        session.train(reading, TINY, where, progress=Silence(), say=lambda _: None)

    assert 10 <= len(read) < 30  # the excluded one does not count
    assert list((tmp_path / "pictures").iterdir()) == []
    store_pictures(members(9), tmp_path / "pictures", short=48, threads=1)
    with pytest.raises(ConfigError, match="give --drop-similar 0"):
        look_alikes(open_pictures(tmp_path / "pictures", 48), 0.8)


def test_processes_share_each_epoch_without_overlap() -> None:
    options = dataclasses.replace(TINY, batch=6)
    rows = [
        rows_of(options, 20, step, Process(rank, 2)).tolist()
        for step in range(3)
        for rank in (0, 1)
    ]

    assert all(len(part) == 3 for part in rows)
    assert len({row for part in rows for row in part}) == 18


def test_hard_negatives_take_the_last_places_and_are_look_alikes_of_the_first() -> None:
    options = dataclasses.replace(TINY, hard_negatives=0.5)
    near = np.arange(20)[:, None] * 100 + np.arange(3)  # what row r looks like: 100 r, + 1, + 2
    rows = rows_of(options, 20, 0, Process(), near)
    plain = rows_of(options, 20, 0, Process())

    np.testing.assert_array_equal(rows[:4], plain[:4])
    np.testing.assert_array_equal(rows[4:] // 100, plain[:4])
    both = [rows_of(options, 20, 0, Process(rank, 2), near) for rank in (0, 1)]
    np.testing.assert_array_equal(np.stack(both, axis=1).ravel(), rows)


def test_the_nearest_are_those_of_a_plain_search(folder: Path) -> None:
    pictures = open_pictures(folder, 48)

    def describe(pixels: NDArray[np.uint8]) -> torch.Tensor:
        flat = torch.from_numpy(pixels).float().flatten(1)
        return torch.nn.functional.normalize(flat - flat.mean(dim=1, keepdim=True))

    found = nearest(describe, pictures, 16, 3, np.random.default_rng(1))

    squares = [cv2.resize(picture, (16, 16), interpolation=cv2.INTER_AREA) for picture in pictures]
    ours = describe(np.stack(squares)).numpy()
    cosine = ours @ ours.T
    np.fill_diagonal(cosine, -2)
    np.testing.assert_array_equal(found.numpy(), np.argsort(-cosine, axis=1)[:, :3])


def test_a_view_is_a_function_of_its_seed_and_leaves_its_picture(folder: Path) -> None:
    pictures = open_pictures(folder, 48)
    before = pictures[0].copy()

    for strength in (MILD, *STRENGTHS.values()):
        for seed in range(30):
            first, again = (
                view(pictures[0], 32, np.random.default_rng(seed), strength, lambda: pictures[1])
                for _ in range(2)
            )
            assert first.shape == (32, 32, 3)
            np.testing.assert_array_equal(first, again)

    np.testing.assert_array_equal(pictures[0], before)


def test_mixed_views_say_what_they_show() -> None:
    pixels = np.repeat(np.arange(8, dtype=np.uint8), 4 * 4 * 3).reshape(8, 4, 4, 3) * 30
    shows = np.tile(np.arange(4), 2)[:, None].repeat(2, axis=1)

    out, both = mixed(pixels, shows, 0.5, np.random.default_rng(1))

    changed = (out != pixels).any(axis=(1, 2, 3))
    assert changed.any()
    assert (both[~changed & (both[:, 0] == both[:, 1])] == shows[~changed][:1]).any()
    assert (both[changed, 1] == shows[7 - np.flatnonzero(changed), 0]).all()
    np.testing.assert_array_equal(both[:, 0], shows[:, 0])


# ---------------------------------------------------------------- runs


@pytest.mark.parametrize("hard", [0.0, 0.5])
def test_a_resumed_run_ends_where_an_undisturbed_one_does(
    folder: Path, tmp_path: Path, hard: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_LOOK_EVERY", 3)
    tiny = dataclasses.replace(TINY, hard_negatives=hard)
    pictures = open_pictures(folder, 48)
    whole = Run(pictures, tiny, tmp_path / "whole", device=torch.device("cpu"))
    whole.train()
    stopped = Run(pictures, tiny, tmp_path / "parts", device=torch.device("cpu"))

    def stop(share: float, shown: dict[str, float]) -> None:
        stopped.stopping = stopped.step == 4

    first = stopped.train(stop)
    resumed = Run(pictures, tiny, tmp_path / "parts", device=torch.device("cpu"))
    second = resumed.train()

    assert (first.step, first.finished, first.weights) == (4, False, None)
    assert (second.step, second.finished) == (6, True)
    for name, value in whole.average.state.items():
        assert torch.equal(value, resumed.average.state[name]), name
    files = [tmp_path / name / "model.safetensors" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
    with pytest.raises(ConfigError, match=r"koleo = 5\.0, not 1\.0"):
        Run(
            pictures,
            dataclasses.replace(tiny, koleo=1.0),
            tmp_path / "parts",
            device=torch.device("cpu"),
        )


def test_a_run_begins_with_the_weights_it_is_given(folder: Path, tmp_path: Path) -> None:
    pictures = open_pictures(folder, 48)
    cpu = torch.device("cpu")
    (tmp_path / "first").mkdir()
    first = Run(pictures, TINY, tmp_path / "first", device=cpu)
    state = {name: value.half().float() for name, value in first.network.state_dict().items()}
    weights = first.write_weights(state)
    assert weights is not None

    other = dataclasses.replace(TINY, seed=2)
    begun = Run(pictures, other, tmp_path / "begun", device=cpu, start=weights)

    for name, value in begun.network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, state[name]), name
    begun.save()
    with pytest.raises(ConfigError, match="began with other weights"):
        Run(pictures, other, tmp_path / "begun", device=cpu)
    wider = dataclasses.replace(TINY, dimensions=64)
    with pytest.raises(ConfigError, match=r"does not fit: of another shape: .*weight"):
        Run(pictures, wider, tmp_path / "wider", device=cpu, start=weights)


def test_a_folder_goes_on_with_its_own_urls_alone(tmp_path: Path) -> None:
    def train(*urls: str, exclude: frozenset[str] = frozenset()) -> None:
        where = session.Session(
            tmp_path, urls=urls, exclude=exclude, drop_similar=0, device="cpu", threads=1
        )
        session.train(
            lambda: members(9), TINY, where, progress=Silence(), say=lambda _: None, hold=stop
        )

    def stop(run: Run) -> None:
        run.stopping = True

    train("a/*.tar", "b/*.tar")
    train("a/*.tar", "b/*.tar")
    with pytest.raises(ConfigError, match=r"holds the pictures of a/\*.tar b/\*.tar, not of c/"):
        train("c/*.tar")
    with pytest.raises(ConfigError, match=r"none of its 1 names, such as 'key,split', is the key"):
        train("a/*.tar", "b/*.tar", exclude=frozenset({"key,split"}))


def test_what_could_not_be_trained_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    weights = Path(MODELS["sscd_small"].weights)
    narrow = dataclasses.replace(TINY, dimensions=64)
    file = tmp_path / "file"
    file.write_text("")
    for where, said in (
        (session.Session(file, device="cpu"), "--out .*: no folder can be made there"),
        (session.Session(file / "sub", device="cpu"), "--out .*: no folder can be made there"),
        (
            session.Session(tmp_path, device="cpu", start=file),
            "--start: .* is no file of weights",
        ),
        (session.Session(tmp_path, device="gpu"), "expected auto, cpu, cuda or cuda:1"),
        (session.Session(tmp_path, device="cpu", start=weights), "does not fit: of another shape"),
    ):

        def read() -> Iterator[tuple[str, bytes]]:
            raise AssertionError("it was read")

        with pytest.raises(ConfigError, match=said):
            session.train(read, narrow, where, progress=Silence(), say=lambda _: None)
    with pytest.raises(ConfigError, match=r"batch 9 does not .* multiple of 2"):
        parallel.check_shared(9, Process(0, 2))


def test_turned_pictures_are_stored_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    data = io.BytesIO()
    Image.new("RGB", (400, 200), "red").save(data, "JPEG", exif=exif)
    pixels = shrink(data.getvalue(), 50)
    assert pixels is not None
    assert pixels.shape == (100, 50, 3)


def test_a_short_run_learns_and_its_weights_are_a_model(tmp_path: Path) -> None:
    options = TrainOptions(
        steps=25,
        batch=32,
        sizes=(32,),
        changes=(),
        temperature=0.1,
        koleo=2.0,
        learning_rate=1e-3,
        ema=0.8,
    )
    names = tmp_path / "held out"
    names.write_text("\ufeffk001\r\n\nk000 k002\n k003\n", encoding="utf-8")
    where = session.Session(tmp_path, exclude=names_in(names), device="cpu")
    said: list[str] = []

    outcome = session.train(
        lambda: members(34), options, where, progress=Silence(), say=said.append
    )

    log = (tmp_path / "log.csv").read_text().splitlines()
    losses = [float(line.split(",")[5]) for line in log[1:]]
    assert outcome.finished
    assert losses[-1] < losses[0] - 0.5
    assert said[0] == f"decoding pictures into {tmp_path / 'pictures'}"
    assert said[1] == "1 of 3 names to exclude are of no picture decoded, such as 'k000 k002'"
    assert said[2] == "comparing 32 pictures with each other by dct"
    assert said[3].startswith("34 pictures decoded, 2 excluded, 0 look like another")
    session.train(list, options, where, progress=Silence(), say=said.append)
    assert said[-1].endswith("is at its end already, step 25: more --steps or --minutes go on")
    found = FingerprintOptions(model="sscd_small", weights=str(outcome.weights), device="cpu")
    with open_embedder(found, tmp_path) as embedder:
        (chunk,) = embedder.embed([picture(0), picture(5)])
    np.testing.assert_allclose(np.linalg.norm(chunk.descriptors, axis=1), 1, atol=1e-4)


def test_every_trunk_of_every_recipe_can_be_built() -> None:
    from sscd_ops.descriptors.training.network import make_network

    for trunk, dimensions in (("small", 256), ("resnet18", 512), ("resnet50", 512)):
        network = make_network(
            dataclasses.replace(RECIPES["sscd"], trunk=trunk, dimensions=dimensions)
        )  # type: ignore[arg-type]
        with torch.inference_mode():
            assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, dimensions)


@pytest.mark.parametrize(
    ("flags", "gains"),
    [
        ("avx512f avx512_vnni", False),
        ("avx512_vnni amx_bf16 amx_tile", True),
        ("avx512_bf16", True),
    ],
)
def test_auto_takes_bfloat16_only_of_a_cpu_that_has_it(
    tmp_path: Path, flags: str, gains: bool
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")

    assert gains_by_bfloat16(torch.device("cpu"), cpuinfo) is gains
    assert not gains_by_bfloat16(torch.device("cpu"), tmp_path / "none")
