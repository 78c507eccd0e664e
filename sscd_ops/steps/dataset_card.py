"""The dataset card: a README that tells Hugging Face `datasets` what the newest snapshot holds.

Without one ``load_dataset(folder)`` reads whatever lies in a dataset's folder: descriptors,
manifests, shards that others took the place of. The card names the newest snapshot's tars, one
by one: a pattern is hardly quicker, and would find whatever else comes to lie there.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any
from urllib.parse import quote

_MARK = "# Written by sscd-ops at each snapshot. Without this line it is yours, and is left alone."
_EMPTY = "nothing-in-this-snapshot"
"""A file that is never there: of no tars `datasets` would take all that lies in the folder."""


def card_name(dataset: str) -> str:
    """Name of a dataset's card, relative to the root."""
    return f"{dataset}/README.md"


def card(document: bytes) -> bytes:
    """The card of a snapshot.

    Args:
        document: the bytes of the snapshot's file.
    """
    snapshot = json.loads(document)
    forms: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for shard in snapshot["shardlist"]:
        forms[_config_of(shard["form"])].append(shard)
    # the smallest first: `datasets` looks the files of the first one up to see what they are
    by_size = sorted(forms, key=lambda name: (_samples(forms[name]), name))
    head = ["---", _MARK, "configs:"]
    for name in by_size:
        head += [f"- config_name: {json.dumps(name)}", "  data_files:", "  - split: train"]
        head += ["    path:", *(f"    - {_below(shard['url'])}" for shard in forms[name])]
    head += (
        ["  default: true"] if forms else [f"- config_name: {_EMPTY}", f"  data_files: {_EMPTY}"]
    )
    table = [
        f"| `{name}` | {_samples(forms[name])} | {len(forms[name])} |" for name in reversed(by_size)
    ]
    body = [
        "---",
        "",
        f"# {snapshot['name']}",
        "",
        f"Snapshot {snapshot['snapshot']}: {snapshot['samples']} samples in"
        f" {len(snapshot['shardlist'])} shard(s). `load_dataset` on this folder reads the first one"
        " below, another one by its name.",
        "",
        "| name | samples | shards |",
        "|---|---|---|",
        *table,
    ]
    return "\n".join([*head, *body, ""]).encode()


def is_ours(written: bytes) -> bool:
    """Whether a README is a card, not one that a person wrote or made their own."""
    return _MARK.encode() in written.splitlines()[:2]


def _config_of(form: str) -> str:
    """A form as the name of a config, where `datasets` takes few signs; the usual ones stay."""
    return quote(form, safe="+")


def _samples(shards: list[dict[str, Any]]) -> int:
    return sum(int(shard["nsamples"]) for shard in shards)


def _below(url: str) -> str:
    """A URL as the snapshot has it, relative to the dataset's folder instead."""
    return url.removeprefix("../")
