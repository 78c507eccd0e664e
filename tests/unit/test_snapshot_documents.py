"""A snapshot's file is written shard by shard, and is the JSON it always was."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from sscd_ops.catalog.output_shards import ListedShard
from sscd_ops.steps.snapshots import document

SHARDS = st.builds(
    ListedShard,
    output_id=st.integers(1),
    decision_id=st.integers(1),
    number=st.integers(0),
    name=st.builds(
        "web/shards/{}-0badcafe/{}".format,
        st.sampled_from(["2026-11-01", "2026-11-01-s2", "turn-000003"]),
        st.text(max_size=20).map(lambda rest: rest.replace("/", "")),
    ),
    form=st.text(max_size=9),
    samples=st.integers(0),
    bytes=st.integers(0),
    sha256=st.text("0123456789abcdef", min_size=4, max_size=4),
    decided_turn=st.integers(1, 3),
)


@given(st.lists(SHARDS, max_size=4), st.sampled_from(["web", '"shardlist": []']))
def test_the_file_is_what_json_writes_with_one_space_and_sorted_keys(
    shards: list[ListedShard], name: str
) -> None:
    made = document(name, 3, parent=2, batch="b", fingerprint='"shardlist": []', shards=shards)

    read = json.loads(made)
    assert (json.dumps(read, indent=1, sort_keys=True) + "\n").encode() == made
    assert read["samples"] == sum(shard.samples for shard in shards)
    assert [
        (each["url"], each["nsamples"], each["filesize"], each["sha256"], each["form"])
        for each in read["shardlist"]
    ] == [
        ("../" + each.name.removeprefix("web/"), each.samples, each.bytes, each.sha256, each.form)
        for each in shards
    ]
    for each, shard in zip(read["shardlist"], shards, strict=True):
        assert each["batch"] == shard.name.split("/")[2].removesuffix("-0badcafe")


def test_a_snapshot_without_shards() -> None:
    made = json.loads(document("web", 1, parent=0, batch="b", fingerprint="f", shards=[]))
    assert (made["shardlist"], made["samples"]) == ([], 0)
