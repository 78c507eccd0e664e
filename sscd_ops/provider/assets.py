"""The assets that tell consumers of a new snapshot."""

from __future__ import annotations

from airflow.sdk import Asset, AssetAlias


def asset(dataset: str) -> Asset:
    """The asset of a dataset, for ``schedule=[asset("web")]`` of a training DAG.

    Its events carry extra = {snapshot, parent, batch_id, samples, shards, bytes, location}.
    Delivery is at least once: a consumer should ignore a ``snapshot`` it has seen.
    """
    # Both are given: the name decides which asset it is (and Airflow appends a slash to the uri).
    return Asset(name=f"sscd-ops://{dataset}", uri=f"sscd-ops://{dataset}")


def alias(dataset: str) -> AssetAlias:
    """The outlet of commit: an event is added to it only where there is a new snapshot."""
    return AssetAlias(name=f"sscd-ops-{dataset}")


def corrections(dataset: str) -> Asset:
    """The asset of snapshots that hold nothing new: compactions, withdrawals, repairs.

    Their extra is {kind, snapshot, parent, samples, shards, bytes, location}.
    """
    return Asset(name=f"sscd-ops://{dataset}/corrections", uri=f"sscd-ops://{dataset}/corrections")


def corrections_alias(dataset: str) -> AssetAlias:
    """The outlet of what makes such a snapshot. No dataset's name has a slash."""
    return AssetAlias(name=f"sscd-ops-{dataset}/corrections")
