"""What a raw sample is: its image, its caption, its metadata; or why it is quarantined. Pure.

Exactly one code is given, by the first check that fails, in this order: what the reader found, the
key, the members (how many, their sizes and names), the image member, the image header, whether JSON
members can be read, the caption, what JSON members hold, the metadata, the other members.
Every string of a row can be stored in Postgres, whatever the bytes were.
"""

from __future__ import annotations

import hashlib
import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

from sscd_ops.core.formats import CANONICAL, IMAGE_EXTENSIONS, UNREAD_IMAGE_EXTENSIONS
from sscd_ops.core.identities import sample_id
from sscd_ops.core.manifest import ManifestRow, MemberRow
from sscd_ops.core.members import JSON, check_json_size, why_undecodable
from sscd_ops.core.shard_plan import LONGEST_EXTENSION, published_extensions
from sscd_ops.core.urls import read_url
from sscd_ops.model import Fault, ImageHeader, Member, RawSample
from sscd_ops.options import LimitsOptions, SourceOptions
from sscd_ops.ports import InspectImage

_MOST_NAMED = 300
"""Characters of what is there where a caption is not."""
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_SUSPECT = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
"""In the text of a document: an escape that may stand for one of them."""


class _Quarantine(Exception):
    def __init__(self, code: Fault, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


def storable(text: str) -> str:
    r"""The text with what Postgres cannot hold written as ``\uXXXX``.

    A backslash is doubled only where something was escaped: ordinary text stays as it is, and no
    two escaped texts are alike.
    """
    if _is_storable(text):
        return text
    return _UNSTORABLE.sub(lambda m: f"\\u{ord(m.group()):04x}", text.replace("\\", "\\\\"))


def _is_storable(text: str) -> bool:
    # nearly all text of tars is ASCII, and that is known without looking
    return (text.isascii() and "\x00" not in text) or not _UNSTORABLE.search(text)


def is_missing(value: Any) -> bool:
    """Whether a value stands for none: null, NaN (of pandas and numpy), a list of nulls."""
    if isinstance(value, (list, tuple)):
        return all(one is None for one in value)
    return value is None or (isinstance(value, float) and value != value)


@lru_cache(maxsize=1024)
def is_image_extension(extension: str) -> bool:
    """Whether a member of this extension (``jpg``, ``0.JPEG``) is an image."""
    return extension.rpartition(".")[2].lower() in IMAGE_EXTENSIONS


@lru_cache(maxsize=1024)
def is_json(extension: str) -> bool:
    """Whether readers take a member of this extension, in lower case, for JSON."""
    return extension.rpartition(".")[2] in JSON


def _is_unread_image(extension: str) -> bool:
    return extension.rpartition(".")[2].lower() in UNREAD_IMAGE_EXTENSIONS


@dataclass(frozen=True, slots=True)
class _Form:
    """What the extensions of a sample's members say; most samples of a shard have the same.

    Numbers are places in its list of members.
    """

    images: tuple[int, ...]
    image: int | None
    """The one that decides, where exactly one does."""
    documents: tuple[tuple[str, int], ...]
    """The first member of each extension of JSON."""
    captions: tuple[str | int, ...]
    """Where the caption is looked for, in order: a path in the json member, or a member."""
    others: tuple[int, ...]
    """Beside the image and JSON."""
    declared: str
    """The format of the image by its extension; empty without an image."""
    too_long: str
    """The first published extension that is too long for a name; empty where none is."""


def _form_of(source: SourceOptions, extensions: tuple[str, ...]) -> _Form:
    lower = [extension.lower() for extension in extensions]
    images = [at for at, extension in enumerate(lower) if is_image_extension(extension)]
    chosen = images
    if source.image and len(images) > 1:
        wanted = source.image.lower()
        chosen = [at for at in images if lower[at] == wanted]
    image = chosen[0] if len(chosen) == 1 else None
    documents = {extension: lower.index(extension) for extension in lower if is_json(extension)}
    captions: list[str | int] = []
    for place in source.caption:
        kind, _, path = place.partition(":")
        if kind in ("json", "column") and path:
            captions.append(path)
        elif place.lower() in lower:
            captions.append(lower.index(place.lower()))
    others = [at for at, ext in enumerate(lower) if at != image and not is_json(ext)]
    return _Form(
        tuple(images),
        image,
        tuple(documents.items()),
        tuple(captions),
        tuple(others),
        "" if image is None else _format_of(lower[image]),
        _too_long(extensions),
    )


class Interpreter:
    """Turns the raw samples of one source shard into manifest rows.

    Args:
        dataset: its name.
        source: which image, which caption, which metadata, which URL.
        limits: bounds.
        relative_uri: the shard, relative to the source's root.
        inspect: looks at pictures.
    """

    def __init__(
        self,
        dataset: str,
        source: SourceOptions,
        limits: LimitsOptions,
        relative_uri: str,
        inspect: InspectImage,
    ) -> None:
        self._dataset = dataset
        self._source = source
        self._limits = limits
        self._relative_uri = relative_uri
        self._inspect = inspect
        self._url = source.url_path
        self._json_needed = bool(source.columns) or any(
            place.startswith(("json:", "column:")) for place in source.caption
        )
        self._form = lru_cache(maxsize=1024)(partial(_form_of, source))

    def row(self, raw: RawSample) -> ManifestRow:
        """The manifest row of a raw sample; never raises for what is in it."""
        members = [
            MemberRow(
                storable(m.name),
                storable(m.extension),
                m.offset,
                m.size,
                hashlib.sha256(m.data).digest(),
            )
            for m in raw.members
        ]
        row = ManifestRow(None, storable(raw.key), raw.occurrence, members)
        form = self._form(tuple([m.extension for m in raw.members]))
        if form.image is not None:
            image, listed = raw.members[form.image], members[form.image]
            row.image_member, row.image_sha256 = listed.name, listed.sha256
            row.image_offset, row.image_bytes = image.offset, image.size
        try:
            self._check(row, raw, form)
        except _Quarantine as found:
            row.code = str(found.code)
            row.message = storable(found.message)[:1000]
            if found.code.follows_bytes:
                # the picture may be one that is kept, and captions of its copies are never lost
                with suppress(_Quarantine):
                    self._check_texts(row, raw, form)
            elif row.host is None and self._url:
                # what is withdrawn by its URL is so whatever else is wrong with it
                with suppress(_Quarantine):
                    self._put_url(row, self._documents(raw, form))
        row.sample_id = sample_id(
            self._dataset,
            self._source.name,
            self._relative_uri,
            raw.key,
            raw.occurrence,
            row.image_member or "",
            row.image_sha256 or b"",
            row.caption_sha256 or b"",
        )
        return row

    # ------------------------------------------------------------ the checks

    def _check(self, row: ManifestRow, raw: RawSample, form: _Form) -> None:
        if raw.fault is not None:
            raise _Quarantine(*raw.fault)
        if row.key != raw.key:
            raise _Quarantine(Fault.BAD_KEY, f"the key is not plain UTF-8: {row.key}")
        self._check_members(row, raw, form)
        if form.image is None:
            self._refuse_images(raw, form)
        else:
            self._check_image(row, raw.members[form.image].data, form.declared)
        self._check_texts(row, raw, form)
        for at in form.others:
            self._check_member(raw.members[at])

    def _check_texts(self, row: ManifestRow, raw: RawSample, form: _Form) -> None:
        documents = self._documents(raw, form)
        self._put_url(row, documents)
        document = self._document(documents)
        self._check_caption(row, raw, form, document)
        self._check_documents(documents)
        self._put_meta(row, document)

    def _check_members(self, row: ManifestRow, raw: RawSample, form: _Form) -> None:
        limits = self._limits
        if len(raw.members) > limits.max_members:
            raise _Quarantine(
                Fault.TOO_MANY_MEMBERS, f"{len(raw.members)} members, at most {limits.max_members}"
            )
        for member, listed in zip(raw.members, row.members, strict=True):
            if member.size != len(member.data):
                raise _Quarantine(
                    Fault.MEMBER_TOO_LARGE,
                    f"member {member.name!r} has {member.size} bytes, at most"
                    f" {limits.max_member_bytes}",
                )
            if listed.name != member.name:
                raise _Quarantine(Fault.BAD_KEY, f"the name is not plain UTF-8: {listed.name}")
        # all names, also of what publish makes: a decided batch could not be published any more
        if form.too_long:
            raise _Quarantine(
                Fault.BAD_KEY,
                f"extension {form.too_long!r} has {len(form.too_long.encode())} bytes, at most"
                f" {LONGEST_EXTENSION} (it begins at the first dot of a name)",
            )

    def _refuse_images(self, raw: RawSample, form: _Form) -> None:
        if not form.images:
            have = ", ".join(storable(m.extension) for m in raw.members) or "none"
            unread = [storable(m.name) for m in raw.members if _is_unread_image(m.extension)]
            why = f"; no picture of this format is read: {', '.join(unread)}" if unread else ""
            raise _Quarantine(Fault.NO_IMAGE, f"no image member; members: {have}{why}")
        names = ", ".join(raw.members[at].extension for at in form.images)
        named = self._source.image
        wanted = f"; image = {named!r} names none of them" if named else ""
        raise _Quarantine(
            Fault.SEVERAL_IMAGES,
            f"{len(form.images)} image members ({names}){wanted}: `image` of the source says"
            " which one",
        )

    def _check_image(self, row: ManifestRow, data: bytes, declared: str) -> None:
        found = self._inspect(data)
        if not isinstance(found, ImageHeader):
            raise _Quarantine(*found)
        row.width, row.height, row.format = found.width, found.height, found.format
        if declared != found.format:
            row.declared = declared
        if found.fault is not None:
            raise _Quarantine(*found.fault)

    def _check_member(self, member: Member) -> None:
        """Whether readers can decode a member beside the image, as they do unasked."""
        why = why_undecodable(
            member.extension.lower(),
            member.data,
            self._limits.max_member_bytes,
            self._why_no_picture,
        )
        if why:
            raise _Quarantine(
                Fault.BAD_MEMBER,
                f"member {member.name!r} beside the picture, which readers decode: {why}",
            )

    def _why_no_picture(self, data: bytes) -> str:
        found = self._inspect(data, pixels=True)
        code, message = (found.fault or ("", "")) if isinstance(found, ImageHeader) else found
        # limits of shape are about the picture that decides
        return "" if code in ("", Fault.TOO_SMALL, Fault.EXTREME_ASPECT) else f"{code}: {message}"

    # ------------------------------------------------------------ json, caption, metadata

    def _documents(self, raw: RawSample, form: _Form) -> dict[str, _Document]:
        """Every json member by extension: who reads what is published reads them all."""
        answer = {}
        for extension, at in form.documents:
            member = raw.members[at]
            try:
                answer[extension] = _read_json(member)
            except (ValueError, RecursionError) as error:
                raise _Quarantine(Fault.BAD_JSON, f"member {member.name!r}: {error}") from error
        return answer

    def _document(self, documents: Mapping[str, _Document]) -> dict[str, Any] | None:
        """The json member's object, where there is one."""
        found = documents.get("json")
        if found is None:
            return None
        if isinstance(found.value, dict):
            return found.value
        if self._json_needed:
            kind = type(found.value).__name__
            raise _Quarantine(Fault.BAD_JSON, f"member {found.name!r} is a {kind}, not an object")
        return None

    def _check_documents(self, documents: Mapping[str, _Document]) -> None:
        for found in documents.values():
            try:
                refused = found.is_odd and _holds_unstorable(found.value)
            except RecursionError as error:
                raise _Quarantine(Fault.BAD_JSON, f"member {found.name!r}: {error}") from error
            if refused:
                raise _Quarantine(
                    Fault.BAD_JSON, f"member {found.name!r} holds a NUL or a lone surrogate"
                )

    def _check_caption(
        self, row: ManifestRow, raw: RawSample, form: _Form, document: dict[str, Any] | None
    ) -> None:
        data = _put_caption(row, raw, form, document)
        if data is None:
            if self._source.missing_caption == "quarantine":
                wanted = ", ".join(self._source.caption)
                there = ", ".join(self._places(raw, document))[:_MOST_NAMED]
                raise _Quarantine(
                    Fault.MISSING_CAPTION, f"none of these is there: {wanted}; there are: {there}"
                )
            return
        if len(data) > self._limits.max_caption_bytes:
            raise _Quarantine(
                Fault.CAPTION_TOO_LONG,
                f"{len(data)} bytes, at most {self._limits.max_caption_bytes}",
            )
        try:
            text = data.removeprefix(BOM_UTF8).decode()
        except UnicodeDecodeError as error:
            if _escaped_surrogate(data):
                raise _Quarantine(
                    Fault.CAPTION_FORBIDDEN_CHARACTER, "the caption holds a lone surrogate"
                ) from error
            raise _Quarantine(Fault.CAPTION_NOT_UTF8, str(error)) from error
        if "\x00" in text:
            raise _Quarantine(Fault.CAPTION_FORBIDDEN_CHARACTER, "the caption holds a NUL")
        row.caption = text
        if not text.strip() and self._source.missing_caption == "quarantine":
            raise _Quarantine(Fault.EMPTY_CAPTION, "the caption is empty or blank")

    def _places(self, raw: RawSample, document: dict[str, Any] | None) -> Iterator[str]:
        """Where a caption could be, as ``caption`` names it; wanted and there is null."""
        wanted = {place.lower() for place in self._source.caption}
        for extension in (member.extension.lower() for member in raw.members):
            if extension != "json" or document is None:
                yield extension + (" (null)" if extension in wanted else "")
                continue
            for name, value in document.items():
                yield f"json:{name}" + (" (null)" if is_missing(value) else "")

    def _put_url(self, row: ManifestRow, documents: Mapping[str, _Document]) -> None:
        """Where the picture came from; what is no URL is no fault."""
        document = documents.get("json")
        if not self._url or document is None or not isinstance(document.value, dict):
            return
        found = read_url(_at(document.value, self._url))
        if found is not None:
            row.url_sha256, row.host = found.sha256, found.host

    def _put_meta(self, row: ManifestRow, document: dict[str, Any] | None) -> None:
        if not self._source.columns or document is None:
            return
        meta = {}
        for name in self._source.columns:
            found = _at(document, name)
            if found is not None:
                meta[name] = found
        row.meta = _strict_json(meta, "a metadata column", _COMPACT)


def _put_caption(
    row: ManifestRow, raw: RawSample, form: _Form, document: dict[str, Any] | None
) -> bytes | None:
    """The first caption that is there, as bytes, with its digest in the row."""
    for place in form.captions:
        if isinstance(place, int):
            data = raw.members[place].data
            if not _spells_missing(data, document):
                row.caption_sha256 = row.members[place].sha256
                return data
            continue
        found = _at(document, place)
        if not is_missing(found):
            text = found if isinstance(found, str) else _strict_json(found, "the caption")
            data = text.encode("utf-8", "surrogatepass")
            row.caption_sha256 = hashlib.sha256(data).digest()
            return data
    return None


class _Document(NamedTuple):
    """A json member as read. ``is_odd``: its text may stand for a NUL or a lone surrogate."""

    name: str
    value: Any
    is_odd: bool


def _read_json(member: Member) -> _Document:
    """As ``json.loads`` reads bytes, so also NaN: the readers of what is published do.

    Raises:
        ValueError: it is no JSON, or holds too many values.
        RecursionError: it is nested too deep.
    """
    check_json_size(member.data)
    encoding = json.detect_encoding(member.data)
    try:
        text = member.data.decode(encoding)
        is_odd = "\\u" in text and _SUSPECT.search(text) is not None
    except UnicodeDecodeError:
        text = member.data.decode(encoding, "surrogatepass")
        is_odd = True
    return _Document(member.name, json.loads(text), is_odd)


def _format_of(extension: str) -> str:
    """The format that an extension in lower case names."""
    last = extension.rpartition(".")[2]
    return CANONICAL.get(last, last)


def _too_long(extensions: tuple[str, ...]) -> str:
    """The first published extension that is too long for a name; empty where none is."""
    for name in published_extensions(extensions):
        # halves of pairs are refused as names, not for their length
        if len(name.encode("utf-8", "surrogatepass")) > LONGEST_EXTENSION:
            return name
    return ""


# made once: json.dumps makes one for each call where it is given a form
_PLAIN = json.JSONEncoder(allow_nan=False).encode
_COMPACT = json.JSONEncoder(allow_nan=False, sort_keys=True, separators=(",", ":")).encode


def _strict_json(value: Any, what: str, encode: Callable[[Any], str] = _PLAIN) -> str:
    """A value of a document as JSON in the strict sense, as jsonb takes it: without NaN."""
    try:
        return encode(value)
    except (ValueError, RecursionError) as error:
        raise _Quarantine(Fault.BAD_JSON, f"{what}: {error}") from error


def _at(document: dict[str, Any] | None, path: str) -> Any:
    """The value at a field, or at a dotted path; None where it is not there."""
    if document is None:
        return None
    if path in document:
        return document[path]
    value: Any = document
    for step in path.split("."):
        if not isinstance(value, dict) or step not in value:
            return None
        value = value[step]
    return value


def _spells_missing(data: bytes, document: dict[str, Any] | None) -> bool:
    """Whether a text is only Python's word for the missing caption that the json member has."""
    return (
        data.strip() in (b"nan", b"None", b"<NA>", b"NaT")
        and document is not None
        and "caption" in document
        and is_missing(document["caption"])
    )


def _escaped_surrogate(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _holds_unstorable(document: Any) -> bool:
    """Whether some string of a document has what jsonb or UTF-8 refuse."""
    # not made ASCII, half a pair shows as itself, while NUL is still an escape; without escaped
    # backslashes every other backslash begins an escape
    text = json.dumps(document, ensure_ascii=False).replace("\\\\", "")
    return "\\u0000" in text or _UNSTORABLE.search(text) is not None
