"""Whether readers of what is published can decode a member. Pure; nothing is ever executed.

webdataset's ``decode()`` and ``datasets`` decode members by the last part of their extension,
whatever a source means by them, and one that cannot be decoded ends the reading of the whole
shard. So each kind that they know is looked at here, by its form: pickles, which they run, are
walked through and may hold plain data only.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import math
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from sscd_ops.core.formats import IMAGE_EXTENSIONS
from sscd_ops.core.nested_values import MOST_VALUES, check_cbor, check_msgpack


def why_undecodable(
    extension: str,
    data: bytes,
    limit: int,
    why_no_picture: Callable[[bytes], str] = lambda data: "",
) -> str:
    """Why the default decoders of readers fail at a member; empty where they do not.

    Args:
        extension: the member's, in lower case; its last part counts (``seg.npy``).
        data: its bytes.
        limit: bytes that a packed member may unpack to.
        why_no_picture: looks at pictures.
    """
    if extension.startswith("__"):
        return "readers keep names that begin with __ for themselves"
    kind, packing = _kind_of(extension)
    try:
        if packing:
            data = UNPACKED[packing](data, limit)
        if kind in IMAGE_EXTENSIONS:
            return why_no_picture(data)
        if kind in FORMS:
            FORMS[kind](data, limit)
    except Exception as error:  # noqa: BLE001 - damaged bytes raise anything in a format's reader
        return str(error) or type(error).__name__
    return ""


@lru_cache(maxsize=1024)
def _kind_of(extension: str) -> tuple[str, str]:
    """What readers take a member for, and how it is packed: ``json.gz`` -> json, gz."""
    rest, _, last = extension.rpartition(".")
    return (rest.rpartition(".")[2], last) if last in UNPACKED else (last, "")


# ---------------------------------------------------------------- packed members


def _unpacked(opened: Any, limit: int) -> bytes:
    data: bytes = opened.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"unpacks to more than {limit} bytes")
    return data


def _gunzip(data: bytes, limit: int) -> bytes:
    return _unpacked(gzip.GzipFile(fileobj=io.BytesIO(data)), limit)


def _bunzip(data: bytes, limit: int) -> bytes:
    with bz2.BZ2File(io.BytesIO(data)) as opened:
        return _unpacked(opened, limit)


def _unxz(data: bytes, limit: int) -> bytes:
    with lzma.LZMAFile(io.BytesIO(data)) as opened:
        return _unpacked(opened, limit)


UNPACKED: dict[str, Callable[[bytes, int], bytes]] = {
    "gz": _gunzip,
    "gzip": _gunzip,
    "bz2": _bunzip,
    "xz": _unxz,
}
"""Last part of an extension -> what unpacks it: readers go on with the part before."""


# ---------------------------------------------------------------- text, numbers, arrays


def _text(data: bytes, limit: int) -> None:
    data.decode()


def _integer(data: bytes, limit: int) -> None:
    int(data)


def check_json_size(data: bytes) -> None:
    """Raise where a document holds more values than anyone can read: each takes 72 bytes or so.

    Raises:
        ValueError: it does.
    """
    if len(data) > MOST_VALUES and sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values")


def _json(data: bytes, limit: int) -> None:
    check_json_size(data)
    json.dumps(json.loads(data), ensure_ascii=False).encode()  # no lone surrogates


def _array(data: bytes, limit: int) -> None:
    np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)


def _arrays(data: bytes, limit: int) -> None:
    _zip(data, limit).close()
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        for name in arrays.files:
            arrays[name]


def _zip(data: bytes, limit: int) -> zipfile.ZipFile:
    opened = zipfile.ZipFile(io.BytesIO(data))
    size = sum(info.file_size for info in opened.infolist())
    if size > limit:
        raise ValueError(f"unpacks to {size} bytes, at most {limit}")
    return opened


_TENBIN = b"~TenBin~"
_TENBIN_TYPES = frozenset(
    name.encode().ljust(8, b"\0")
    for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
)


def _tensors(data: bytes, limit: int) -> None:
    """Webdataset's own format: chunks, a header and an array in turn."""
    chunks = []
    at = 0
    while at < len(data):
        if data[at : at + 8] != _TENBIN:
            raise ValueError(f"no chunk at byte {at}")
        (size,) = struct.unpack_from("<q", data, at + 8)
        if not 0 <= size <= len(data) - at - 16:
            raise ValueError(f"the chunk at byte {at} has {size} bytes")
        chunks.append(data[at + 16 : at + 16 + size])
        at += 16 + -(-size // 64) * 64
    for header, array in zip(chunks[::2], chunks[1::2], strict=False):
        kind, name = header[:8], header[8:16]
        name.decode("ascii")
        (rank,) = struct.unpack_from("<q", header, 16)
        shape = np.frombuffer(header, "<i8")[3 : 3 + rank].tolist()
        if kind not in _TENBIN_TYPES or rank != len(shape) or min(shape, default=-1) < 0:
            raise ValueError(f"an array of type {kind!r} and shape {shape}")
        np.frombuffer(array, kind.strip(b"\0").decode(), math.prod(shape)).reshape(shape)


# ---------------------------------------------------------------- pickles

_STEPS = """
GLOBAL STACK_GLOBAL INST OBJ NEWOBJ NEWOBJ_EX REDUCE BUILD EXT1 EXT2 EXT4 PERSID BINPERSID
NEXT_BUFFER READONLY_BUFFER
"""
_CODE = frozenset(_STEPS.split())
"""Steps of a pickle that import, call, or take from elsewhere."""
_PROTOCOL = 5
"""The newest that there is."""
_OF_TORCH = frozenset({"GLOBAL", "REDUCE", "BUILD", "BINPERSID"})
_TORCH_NAME = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(?:tensor_v2|parameter)"
    r"|torch (?:[A-Z][A-Za-z0-9]+Storage|Size|b?float\d+|u?int\d+|bool)"
)


class _Nowhere(io.StringIO):
    def write(self, text: str) -> int:
        return len(text)


def _pickle(data: bytes, limit: int) -> None:
    """Plain data in a pickle: what names code would be run by whoever reads it."""
    _walk_pickle(data, frozenset())


def _walk_pickle(data: bytes, allowed: frozenset[str]) -> None:
    """Go through a pickle's steps without taking any."""
    for number, (step, argument, at) in enumerate(pickletools.genops(data)):
        if number > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} values")
        if step.name == "PROTO" and (argument or 0) > _PROTOCOL:
            raise ValueError(f"pickle protocol {argument}")
        if step.name == "FRAME" and (argument or 0) > len(data):
            raise ValueError("the pickle is cut")
        known = step.name == "GLOBAL" and _TORCH_NAME.fullmatch(str(argument))
        if step.name in _CODE and not (step.name in allowed and (step.name != "GLOBAL" or known)):
            named = f" ({argument})" if step.name in ("GLOBAL", "INST") else ""
            raise ValueError(
                f"the pickle runs code{named}, {step.name} at byte {at}: readers would run it;"
                " only plain data is published (arrays: .npy)"
            )
    # lines are not indented: a mebibyte of marks would take hours
    pickletools.dis(data, out=_Nowhere(), indentlevel=0)


def _torch(data: bytes, limit: int) -> None:
    """A zip of tensors, as ``torch.save`` writes it; the pickle in it names nothing else."""
    with _zip(data, limit) as opened:
        bad = opened.testzip()
        names = [name for name in opened.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if bad or len(names) != 1:
            raise ValueError(f"{bad} is damaged" if bad else "no data.pkl as torch.save writes it")
        _walk_pickle(opened.read(names[0]), _OF_TORCH)


# ---------------------------------------------------------------- what readers decode

JSON = ("json", "jsn")
"""Last part of an extension that readers take for JSON."""
FORMS: dict[str, Callable[[bytes, int], None]] = {
    **dict.fromkeys(("txt", "text", "transcript"), _text),
    **dict.fromkeys(("cls", "cls2", "index", "inx", "id"), _integer),
    **dict.fromkeys(JSON, _json),
    **dict.fromkeys(("ten", "tb"), _tensors),
    **dict.fromkeys(("mp", "msg"), lambda data, limit: check_msgpack(data)),
    **dict.fromkeys(("pkl", "pickle", "pyd"), _pickle),
    "npy": _array,
    "npz": _arrays,
    "cbor": lambda data, limit: check_cbor(data),
    "pth": _torch,
}
"""Last part of an extension -> what looks at the form of such a member; raises where it is bad."""
