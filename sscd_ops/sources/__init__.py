"""Readers of what arrives: WebDataset tars, img2dataset, parquet, folders. docs/sources.md."""

from __future__ import annotations

from sscd_ops.errors import ConfigError
from sscd_ops.options import LimitsOptions, SourceOptions
from sscd_ops.ports import ReadTar, Source

__all__ = ["open_source", "resolve_root"]


def open_source(options: SourceOptions, limits: LimitsOptions, read_tar: ReadTar) -> Source:
    """A source's reader.

    Raises:
        ConfigError: its kind is unknown, or its URLs have no common root.
    """
    if options.kind == "webdataset":
        from sscd_ops.sources.webdataset import WebDatasetSource

        return WebDatasetSource(options, limits, read_tar)
    if options.kind == "img2dataset":
        from sscd_ops.sources.img2dataset import Img2DatasetSource

        return Img2DatasetSource(options, limits, read_tar)
    if options.kind == "parquet":
        from sscd_ops.sources.parquet import ParquetSource

        return ParquetSource(options, limits)
    if options.kind == "folder":
        from sscd_ops.sources.folder import FolderSource

        return FolderSource(options, limits)
    raise ConfigError(
        f"source {options.name!r}: kind {options.kind!r} is none of webdataset, img2dataset,"
        " parquet, folder"
    )


def resolve_root(options: SourceOptions) -> str:
    """What the identities of a source are relative to.

    Raises:
        ConfigError: its URLs have no common root.
    """
    from sscd_ops.sources import places

    return places.resolve_root(options)
