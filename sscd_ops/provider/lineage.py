"""OpenLineage: what ingest read and what commit made. Imports it inside the methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sscd_ops.masking import masked

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

    from sscd_ops.model import SourceShard

MOST_INPUTS = 100
"""Inputs on one event; beyond it the folders are named instead of the files."""


class IngestLineage:
    """Inputs of an ingest task: the source shards of its group."""

    _inputs: list[SourceShard] | None = None

    def get_openlineage_facets_on_complete(
        self, task_instance: Any
    ) -> OperatorLineage[Any, Any] | None:
        """The group's source shards; their folders where they are many."""
        if self._inputs is None:
            return None
        from airflow.providers.openlineage.extractors import OperatorLineage
        from openlineage.client.event_v2 import InputDataset

        uris = [shard.uri for shard in self._inputs]
        if len(uris) > MOST_INPUTS:
            uris = sorted({uri.rpartition("/")[0] for uri in uris})[:MOST_INPUTS]
        return OperatorLineage(inputs=[InputDataset(*split_uri(uri)) for uri in uris])


class CommitLineage:
    """The output of a commit task: the snapshot, with its row count."""

    dataset: str
    _report: Any = None

    def get_openlineage_facets_on_complete(
        self, task_instance: Any
    ) -> OperatorLineage[Any, Any] | None:
        """The published dataset; nothing where the batch made no snapshot."""
        report = self._report
        if report is None or report.snapshot is None:
            return None
        from airflow.providers.openlineage.extractors import OperatorLineage
        from openlineage.client.event_v2 import OutputDataset
        from openlineage.client.facet_v2 import (
            dataset_version_dataset,
            output_statistics_output_dataset,
        )

        folder = report.location.rpartition("/snapshots/")[0] or report.location
        namespace, name = split_uri(folder)
        statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=report.samples, size=report.bytes, fileCount=report.shards
        )
        version = dataset_version_dataset.DatasetVersionDatasetFacet(
            datasetVersion=str(report.snapshot)
        )
        return OperatorLineage(
            outputs=[
                OutputDataset(
                    namespace,
                    name,
                    facets={"version": version},
                    outputFacets={"outputStatistics": statistics},
                )
            ]
        )


def split_uri(uri: str) -> tuple[str, str]:
    """A URI as OpenLineage's (namespace, name): ``s3://bucket/a/b`` -> ``s3://bucket``, ``a/b``."""
    parts = urlsplit(masked(uri))
    if not parts.scheme or parts.scheme == "file":
        return "file", parts.path
    return f"{parts.scheme}://{parts.netloc}", parts.path.lstrip("/")
