"""Charts are XML, and what a report says comes from strangers' file names only as text."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from sscd_ops.evaluation.charts import Mark, Series, histogram, line_chart
from sscd_ops.evaluation.describing import Described
from sscd_ops.evaluation.html import _table
from sscd_ops.evaluation.lookalikes import HardSet, given, judge, made
from sscd_ops.evaluation.picture_sets import Spool
from sscd_ops.evaluation.tables import _few
from sscd_ops.index.backends import open_backend
from sscd_ops.index.hamming import Hamming
from sscd_ops.testing import picture


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # noqa: S314 - our own output


def test_charts_are_xml_with_a_line_or_bar_for_each_series() -> None:
    drawn = parsed(
        line_chart(
            [Series("a <b> & c", [(0, 1), (0.5, 0.4)]), Series("d", [])],
            x_label="recall",
            y_label="precision",
        )
    )
    assert len(drawn.findall(".//{*}polyline")) == 2
    assert "a <b> & c" in [item.text for item in drawn.iter()]

    bars = parsed(
        histogram(
            [0, 0.5, 1],
            [("copies", [1, 3]), ("strangers", [2, 0])],
            x_label="similarity",
            marks=[Mark(0.7, "threshold"), Mark(5.0, "far out")],
        )
    )
    said = [item.text for item in bars.iter()]
    assert "threshold" in said
    assert "far out" not in said
    assert len([r for r in bars.findall(".//{*}rect") if r.get("fill-opacity")]) == 3


def test_an_empty_histogram_is_drawn_too() -> None:
    parsed(histogram([0, 1], [("copies", [0])], x_label="similarity"))


def test_tables_escape_what_names_hold() -> None:
    table = _table([{"name": "<script>", "n": 3}, {"name": "b", "other": None}])
    assert "<script>" not in table
    assert "&lt;script&gt;" in table
    parsed(table)


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0123, "0.012"), (7.6, "7.6"), (99.4, "99"), (1234.0, "1,200"), (65927.0, "66,000")],
)
def test_two_digits_are_said(value: float, said: str) -> None:
    assert _few(value) == said


# ---------------------------------------------------------------- look-alikes


def test_groups_of_a_given_set_are_its_folders() -> None:
    spool = Spool()
    for name in ("a/1", "a/2", "b/1", "b/deep/2"):
        spool.add(name, b"")
    assert given("pages", spool).group.tolist() == [0, 0, 1, 1]


def test_only_pictures_with_an_earlier_one_of_their_group_can_be_merged() -> None:
    hard = HardSet("s", False, Spool(), np.array([0, 0, 1, 1, 1]))
    rows = np.eye(5, dtype=np.float16)
    rows[1] = rows[0]
    rows[4] = rows[2]
    backend = open_backend("flat", fingerprint_digest="0" * 64, dimensions=5, threshold=0.5)

    found = judge(hard, Described(np.arange(5), rows), 0.5, backend)

    assert (found.could, found.merged) == (3, 2)
    assert found.share == pytest.approx(2 / 3)
    assert found.merged_by_night is None


def test_where_nights_compare_hashes_too_a_set_is_judged_by_both() -> None:
    """The descriptors merge row 1, the hashes row 3; the last hash is of too low a quality."""
    hard = HardSet("s", False, Spool(), np.zeros(5, np.int64))
    rows = np.eye(5, dtype=np.float16)
    rows[1] = rows[0]
    hashes = np.random.default_rng(0).integers(0, 256, (5, 33), dtype=np.uint8)
    hashes[3] = hashes[4] = hashes[2]
    hashes[:, 32] = (100, 100, 100, 100, 0)
    backend = open_backend("flat", fingerprint_digest="0" * 64, dimensions=5, threshold=0.5)

    found = judge(hard, Described(np.arange(5), rows, hashes=hashes), 0.5, backend, Hamming())

    assert (found.could, found.merged, found.merged_by_night) == (4, 1, 2)


def test_made_sets_are_the_same_every_time_and_have_their_groups() -> None:
    spool = Spool()
    for number in range(4):
        spool.add(str(number), picture(number))
    spool.add("bad", b"no picture")

    one, other = made(spool, 5), made(spool, 5)

    names = ["pages", "charts", "slides", "colour_variants", "bursts", "plain"]
    assert [item.name for item in one] == names
    for a, b in zip(one, other, strict=True):
        assert list(a.pictures) == list(b.pictures)
        assert len(a.group) == len(a.pictures)
        assert len(set(a.pictures)) == len(a.pictures)  # no two alike to the byte
    assert one[3].group.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
