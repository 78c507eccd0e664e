"""What is written to a decoder's pipes is what is read from them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sscd_ops.images import frames
from sscd_ops.model import Fault


@given(st.lists(st.lists(st.binary(max_size=50), max_size=5), max_size=4))
def test_requests_read_back_one_after_the_other(requests: list[list[bytes]]) -> None:
    stream = io.BytesIO(b"".join(frames.request(images) for images in requests))

    assert [frames.read_request(stream.read) for _ in requests] == requests
    assert frames.read_request(stream.read) is None


@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3))),
    st.sampled_from(list(Fault)),
    st.text(st.characters(), max_size=40),
)
def test_answers_read_back_one_after_the_other(pixels, code, message) -> None:  # type: ignore[no-untyped-def]
    stream = io.BytesIO(
        frames.answer(pixels)
        + frames.answer((code, message))
        + frames.answer(pixels, b"hash")
        + frames.answer(pixels, b"", plain=True)
    )

    # what UTF-8 cannot hold is replaced
    fault = (code, message.encode("utf-8", "replace").decode())
    expected = [(b"", False), (fault, b"", False), (b"hash", False), (b"", True)]
    for wanted in expected:
        found = frames.read_answer(stream.read)
        if len(wanted) == 3:
            assert found == wanted
        else:
            np.testing.assert_array_equal(found.decoded, pixels)
            assert (found.hashed, found.plain) == wanted


@pytest.mark.parametrize("side", [65_535, 65_536])
def test_the_longest_side_travels_and_no_side_is_cut_in_silence(side: int) -> None:
    pixels = np.zeros((1, side, 3), np.uint8)

    answer = frames.read_answer(io.BytesIO(frames.answer(pixels)).read).decoded

    assert isinstance(answer, np.ndarray)
    assert answer.shape == (1, side, 3)
