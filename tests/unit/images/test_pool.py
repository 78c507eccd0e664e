"""Decoder processes: order, what a dying decoder costs, and that none outlives its parent."""

from __future__ import annotations

import io
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sscd_ops.images.frames import Decoded
from sscd_ops.images.pool import DecoderPool
from sscd_ops.images.preprocess import PRESETS, prepare, preprocess
from sscd_ops.model import Fault
from sscd_ops.options import LimitsOptions
from sscd_ops.testing import encode, picture

PRESET = "grid-64-draft"
DEADLY = b"this picture ends its decoder"
DEADLY_ONCE = b"this picture ends its first decoder"
ENDLESS = b"this picture is never decoded"
SLOW = b"this picture waits, and works for a moment"
DEAR = b"this picture works without an end"

# Our own decoder, with a fault that some pictures set off. The file remembers the first death.
_FRAIL = f"""
import os, signal, sys, time
from pathlib import Path
from sscd_ops.images import preprocess, worker

sound = preprocess.prepare

def frail(data, preset, *, hashed):
    died_before = Path(sys.argv[3])
    if data.endswith({DEADLY!r}) or (data.endswith({DEADLY_ONCE!r}) and not died_before.exists()):
        died_before.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if data.endswith({ENDLESS!r}):
        time.sleep(3600)
    if data.endswith({SLOW!r}):
        time.sleep(1.5)
    while data.endswith({DEAR!r}):
        pass
    return sound(data, preset, hashed=hashed)

preprocess.prepare = frail
sys.exit(worker.main(sys.argv[1:]))
"""


# Our own decoder with 110 MiB to spare: less than a picture of 36 megapixels takes.
_SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
from sscd_ops.images import frames, pdq, preprocess, worker

now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (110 << 20),) * 2)
sys.exit(worker.main(sys.argv[1:]))
"""


@pytest.fixture
def frail(tmp_path: Path) -> list[str]:
    """The command of a decoder that some pictures kill."""
    return [sys.executable, "-c", _FRAIL, PRESET, str(os.getpid()), str(tmp_path / "died")]


def shade(number: int, side: int = 64) -> bytes:
    """A plain picture that says its number by its colour."""
    return encode(Image.new("RGB", (side, side), (number % 256, number // 256 * 40, 100)), 95)


def alone(images: Sequence[bytes]) -> list[Decoded]:
    """The same without processes."""
    return [preprocess(image, PRESETS[PRESET]) for image in images]


def assert_same(found: Sequence[Decoded], expected: Sequence[Decoded]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, tuple) or isinstance(other, tuple):
            assert one == other
        else:
            np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux holds a process to a limit of its address space"
)
@pytest.mark.parametrize("preset", ["grid-64-draft", "skew-160"])
def test_a_lack_of_memory_is_no_fault_of_the_picture_and_no_empty_hash(preset: str) -> None:
    """The draft preset decodes it small, and then whole for its hash; the other one whole."""
    large = Image.open(io.BytesIO(picture(9))).convert("RGB").resize((6000, 6000))
    images = [picture(1), encode(large, 85), picture(2)]
    command = [sys.executable, "-c", _SHORT_OF_MEMORY, preset, str(os.getpid()), "hashed"]

    with DecoderPool(preset, 1, command=command) as pool:
        found = list(pool.map_hashed(images))

    (one, one_hash, _), (lacking, _, _), (other, other_hash, _) = found
    assert isinstance(lacking, tuple)
    assert lacking[0] is Fault.DECODER_DIED
    assert not Fault.DECODER_DIED.follows_bytes
    expected = [prepare(image, PRESETS[preset], hashed=True) for image in (images[0], images[2])]
    assert_same([one, other], [item.decoded for item in expected])
    assert [one_hash, other_hash] == [item.hashed for item in expected]


def test_a_pool_goes_on_after_an_iterator_that_was_given_up() -> None:
    dark, light = [shade(10)] * 200, [shade(200)] * 40
    with DecoderPool(PRESET, 2) as pool:
        given_up = pool.map(dark)
        next(given_up)
        given_up.close()  # type: ignore[attr-defined]
        assert_same(list(pool.map(light)), alone(light))


def decoders(parent: int) -> set[int]:
    """Decoder processes whose parent is this one."""
    return {pid for pid in everyone() if "sscd_ops.images.worker" in command(pid, parent)}


def everyone() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def command(pid: int, parent: int) -> str:
    """The command line of a process that is a child of ``parent``, else nothing."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        line = Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
    return line if int(after_name[1]) == parent else ""


def is_running(pid: int) -> bool:
    """Whether it lives; a zombie that nobody has collected yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---------------------------------------------------------------- order


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_answers_come_in_the_order_of_the_pictures(workers: int) -> None:
    """Large and small ones mixed, so that later requests are done before earlier ones."""
    images = [shade(i, 1200 if i % 37 == 0 else 64) for i in range(150)]

    with DecoderPool(PRESET, workers) as pool:
        found = list(pool.map(iter(images)))
        again = list(pool.map(images[:20]))

    assert_same(found, alone(images))
    assert_same(again, found[:20])


def test_hashes_come_with_their_pictures_where_they_are_asked_for() -> None:
    images = [picture(seed) for seed in range(20)]
    images[7] = b"no picture"
    images[11] = shade(3)

    with DecoderPool(PRESET, 2, hashed=True) as pool:
        found = list(pool.map_hashed(images))

    expected = [prepare(image, PRESETS[PRESET], hashed=True) for image in images]
    assert_same([item.decoded for item in found], [item.decoded for item in expected])
    assert [item.hashed for item in found] == [item.hashed for item in expected]
    assert [len(item.hashed) for item in found] == [33] * 7 + [0] + [33] * 12
    assert [row for row, item in enumerate(found) if item.plain] == [11]


@pytest.mark.parametrize("count", [0, 1, 16, 17])
def test_every_number_of_pictures_is_answered(count: int) -> None:
    images = [shade(i) for i in range(count)]

    with DecoderPool(PRESET, 1) as pool:
        assert_same(list(pool.map(images)), alone(images))


def test_a_picture_larger_than_a_request_is_decoded() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)
    large = encode(Image.fromarray(noise), 100)
    assert len(large) > 4 << 20
    images = [shade(1), large, shade(2)]

    with DecoderPool(PRESET, 1) as pool:
        assert_same(list(pool.map(images)), alone(images))


# ---------------------------------------------------------------- bad pictures


def test_a_bad_picture_costs_its_own_slot_alone() -> None:
    images = [shade(i) for i in range(40)]
    images[5] = picture(5)[:700]
    images[16] = b""
    images[17] = b"<html></html>"

    with DecoderPool(PRESET, 2) as pool:
        found = list(pool.map(images))

    bad = {i: item for i, item in enumerate(found) if isinstance(item, tuple)}
    assert {i: code for i, (code, _) in bad.items()} == {
        5: Fault.UNDECODABLE,
        16: Fault.EMPTY_IMAGE,
        17: Fault.NOT_AN_IMAGE,
    }
    assert all(message for _, message in bad.values())
    assert_same(found, alone(images))


# ---------------------------------------------------------------- dying decoders


def test_a_picture_that_kills_its_decoder_is_given_up_and_the_rest_goes_on(
    frail: list[str],
) -> None:
    images = [shade(i) for i in range(20)]
    expected: list[Decoded] = alone(images)
    for i in (3, 18):
        images[i] += DEADLY

    with DecoderPool(PRESET, 2, command=frail) as pool:
        found = list(pool.map(images))

    for i in (3, 18):
        answer = found[i]
        assert isinstance(answer, tuple)
        code, message = answer
        assert code is Fault.DECODER_DIED
        assert str(len(images[i])) in message
        assert not code.follows_bytes
        expected[i] = answer
    assert_same(found, expected)


def test_a_first_death_costs_nothing(frail: list[str]) -> None:
    images = [shade(i) for i in range(20)]
    expected = alone(images)
    images[7] += DEADLY_ONCE

    with DecoderPool(PRESET, 1, command=frail) as pool:
        found = list(pool.map(images))

    assert Path(frail[-1]).exists()
    assert_same(found, expected)


def test_a_decoder_killed_from_outside_costs_nothing() -> None:
    """Twice, so far apart that no picture is under way both times."""
    images = [shade(i) for i in range(300)]
    killed: list[int] = []

    def feed() -> Iterator[bytes]:
        for i, image in enumerate(images):
            if i in (130, 270):
                now = decoders(os.getpid())
                for pid in now:
                    os.kill(pid, signal.SIGKILL)
                killed.extend(now)
            yield image

    with DecoderPool(PRESET, 2) as pool:
        found = list(pool.map(feed()))

    assert len(set(killed)) >= 2
    assert_same(found, alone(images))


@pytest.mark.parametrize("size", [10, 1_000_000], ids=["fits a pipe", "fits no pipe"])
def test_a_decoder_that_neither_reads_nor_answers_is_given_up(size: int) -> None:
    asleep = [sys.executable, "-c", "import time; time.sleep(3600)"]

    with DecoderPool(PRESET, 1, command=asleep, timeout=0.3) as pool:
        found = list(pool.map([bytes(size)]))

    assert [item[0] for item in found if isinstance(item, tuple)] == [Fault.DECODER_DIED]


# ---------------------------------------------------------------- dear pictures

on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="only there a process sees what another one takes"
)


def flat(side: int) -> bytes:
    """A few bytes that take a decoder 16 for each of their pixels."""
    out = io.BytesIO()
    Image.new("RGBA", (side, side), (9, 9, 9, 99)).save(out, "WEBP", lossless=True, method=0)
    return out.getvalue()


@on_linux
def test_a_picture_that_takes_too_much_memory_is_given_up_and_the_rest_goes_on() -> None:
    images = [shade(i) for i in range(20)]
    expected: list[Decoded] = alone(images)
    images[7] = flat(5000)
    assert len(images[7]) < 100
    limits = LimitsOptions(decode_memory=200 << 20)

    with DecoderPool(PRESET, 2, limits=limits) as pool:
        found = list(pool.map(images))

    answer = found[7]
    assert isinstance(answer, tuple)
    assert answer[0] is Fault.DECODER_LIMIT
    assert "limits.decode_memory" in answer[1]
    assert str(200 << 20) in answer[1]
    assert not answer[0].follows_bytes
    expected[7] = answer
    assert_same(found, expected)


@on_linux
def test_a_picture_that_takes_too_much_work_is_given_up_and_the_rest_goes_on(
    frail: list[str],
) -> None:
    images = [shade(i) for i in range(20)]
    expected: list[Decoded] = alone(images)
    images[4] += DEAR

    with DecoderPool(PRESET, 2, limits=LimitsOptions(decode_seconds=0.5), command=frail) as pool:
        found = list(pool.map(images))

    answer = found[4]
    assert isinstance(answer, tuple)
    assert answer[0] is Fault.DECODER_LIMIT
    assert "limits.decode_seconds" in answer[1]
    expected[4] = answer
    assert_same(found, expected)


def test_a_picture_that_waits_is_not_one_that_takes_too_much_work(frail: list[str]) -> None:
    """A busy machine costs no picture."""
    images = [shade(i) for i in range(20)]
    expected = alone(images)
    images[4] += SLOW

    with DecoderPool(PRESET, 1, limits=LimitsOptions(decode_seconds=0.5), command=frail) as pool:
        found = list(pool.map(images))

    assert_same(found, expected)


def test_pictures_are_decoded_in_a_process_with_very_many_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    images = [shade(i) for i in range(3)]
    with ExitStack() as files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(2048, hard)), hard))
        files.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            files.enter_context(Path(os.devnull).open())
        pool = files.enter_context(DecoderPool(PRESET, 1))
        found = list(pool.map(images))

    assert_same(found, alone(images))


def test_leaving_early_ends_every_decoder_at_once(frail: list[str]) -> None:
    images = [*(shade(i) for i in range(16)), shade(16) + ENDLESS, *(shade(i) for i in range(99))]

    with DecoderPool(PRESET, 1, command=frail) as pool:
        answers = pool.map(images)
        first = next(answers)
        began = time.monotonic()
    seconds = time.monotonic() - began

    assert_same([first], alone(images[:1]))
    assert seconds < 5
    assert not decoders(os.getpid())


def test_what_the_pictures_iterator_raises_reaches_the_reader() -> None:
    def feed() -> Iterator[bytes]:
        yield from (shade(i) for i in range(40))
        raise FileNotFoundError("the source is gone")

    with DecoderPool(PRESET, 2) as pool, pytest.raises(FileNotFoundError, match="gone"):
        list(pool.map(feed()))

    assert not decoders(os.getpid())


# ---------------------------------------------------------------- the parent's death

_PARENT = f"""
from sscd_ops.images.pool import DecoderPool
from sscd_ops.testing import picture

def feed():
    image = picture(1, 1600, 1200)
    while True:
        yield image

if __name__ == "__main__":
    with DecoderPool({PRESET!r}, 3) as pool:
        for number, _ in enumerate(pool.map(feed())):
            if number == 20:
                print("working", flush=True)
"""


@pytest.mark.parametrize("at_work", [False, True], ids=["starting", "at work"])
def test_no_decoder_outlives_a_parent_killed_with_kill_9(at_work: bool) -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE)
    try:
        if at_work:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"working\n"
        deadline = time.monotonic() + 60
        while len(children := decoders(parent.pid)) < 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        assert len(children) == 3
    finally:
        parent.kill()
        parent.communicate()

    deadline = time.monotonic() + 5
    while any(map(is_running, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in children if is_running(pid)]
