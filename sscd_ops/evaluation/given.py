"""URLs given to ``evaluate``, ``try`` and ``train``, read as a dataset's source is.

Source shards are read as a night reads them, so what a night would quarantine has its code here as
well. A missing caption is no fault, unless it is to be one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from sscd_ops.core.formats import IMAGE_EXTENSIONS
from sscd_ops.core.interpret import Interpreter
from sscd_ops.core.manifest import ManifestRow
from sscd_ops.errors import UsageError
from sscd_ops.model import FoundShard, Interval, MemberRef, RawSample, ShardEnd
from sscd_ops.options import USUAL_LIMITS, SourceKind, SourceOptions
from sscd_ops.ports import Source, Sources

_ALWAYS = Interval(datetime(2000, 1, 1, tzinfo=UTC), datetime(2000, 1, 2, tzinfo=UTC))
"""Any interval: URLs here have no placeholders."""
_TARS = (".tar", ".tar.gz", ".tgz")


class Given:
    """What lies at some URLs.

    Args:
        sources: opens their reader.
        urls: folders, files or patterns, without placeholders.
        kind: of source; None: by the URLs' endings.
        missing_caption: whether a sample may have none.

    Raises:
        UsageError: a URL holds a placeholder or names pictures, or the endings differ.
    """

    def __init__(
        self,
        sources: Sources,
        urls: Sequence[str],
        kind: SourceKind | None = None,
        *,
        missing_caption: bool = True,
    ) -> None:
        self._sources = sources
        self._options = SourceOptions(
            "pictures",
            kind=_common_kind(urls, kind),
            urls=tuple(urls),
            missing_caption="keep" if missing_caption else "quarantine",
        )

    def _source(self, *urls: str) -> Source:
        """A reader of all of them, or of some."""
        options = dataclasses.replace(self._options, urls=urls or self._options.urls)
        return self._sources.source(options, USUAL_LIMITS)

    def find(self) -> list[FoundShard]:
        """Their source shards.

        Raises:
            UsageError: a URL has none: a mistyped one of several must not pass in silence.
        """
        urls = self._options.urls
        found = self._source().find(_ALWAYS, "UTC")
        nowhere = [] if found else list(urls)
        if found and len(urls) > 1:
            nowhere = [url for url in urls if not self._source(url).find(_ALWAYS, "UTC")]
        if nowhere:
            raise UsageError(
                f"nothing found at {', '.join(nowhere)}: give a folder of pictures, or tars as"
                " 'folder/*.tar' (in quotes)"
            )
        return found

    def read(self, shard: FoundShard) -> Iterator[RawSample | ShardEnd]:
        """A source shard's samples as they are, then its end."""
        return self._source().read(shard)

    def rows(
        self, shard: FoundShard, end: Callable[[ShardEnd], None] = lambda end: None
    ) -> Iterator[ManifestRow]:
        """What ingest would write down of each of a source shard's samples."""
        interpreter = Interpreter(
            "evaluation",
            self._options,
            USUAL_LIMITS,
            shard.relative_uri,
            self._sources.inspector(USUAL_LIMITS),
        )
        for item in self.read(shard):
            if isinstance(item, RawSample):
                yield interpreter.row(item)
            else:
                end(item)

    def fetch(self, shard: FoundShard, members: Sequence[MemberRef]) -> Iterator[bytes]:
        """The members' bytes, in the given (ascending) order."""
        return self._source().fetch(shard, members)


def _common_kind(urls: Sequence[str], kind: SourceKind | None) -> SourceKind:
    for url in urls:
        if "{" in url:
            raise UsageError(f"{url!r}: no placeholders here: give a folder, a file or a pattern")
        if kind is None and _is_picture(url):
            raise UsageError(f"{url!r}: pictures are no source: give the folder they lie in")
    kinds = {kind or _kind_of(url) for url in urls}
    if len(kinds) != 1:
        raise UsageError(f"the URLs are of several kinds ({', '.join(sorted(kinds))}): give one")
    return kinds.pop()


def _is_picture(url: str) -> bool:
    extension = PurePosixPath(url).suffix[1:].lower()
    local = Path(url.removeprefix("file://")).expanduser()
    return extension in IMAGE_EXTENSIONS and not local.is_dir()


def _kind_of(url: str) -> SourceKind:
    """What a URL's ending says it is: tars, parquet files or a folder."""
    name = url.rstrip("/").lower()
    if name.endswith(_TARS):
        return "webdataset"
    return "parquet" if name.endswith(".parquet") else "folder"
