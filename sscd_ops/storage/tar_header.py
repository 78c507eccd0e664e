"""A tar's header blocks: checksums, numbers, names, extended records. Pure."""

from __future__ import annotations

from zlib import adler32

BLOCK = 512
_LARGEST = 1 << 62


def size_of(block: bytes) -> int:
    """The size in a header; -1 where its checksum is wrong or the size is none.

    Args:
        block: 512 bytes.
    """
    try:
        stored = _number(block[148:156])
        size = _number(block[124:136])
    except ValueError:
        return -1
    if stored != _checksum(block) and stored != _signed_checksum(block):
        return -1
    return size if 0 <= size < _LARGEST else -1


def _checksum(block: bytes) -> int:
    """The sum of a header's bytes, its checksum field counted as spaces.

    Adler-32's lower half is 1 + the sum of up to 256 bytes (below its modulus of 65,521), and
    fifteen times as fast as ``sum``.
    """
    return (
        (adler32(block[:148]) & 0xFFFF)
        + (adler32(block[156:384]) & 0xFFFF)
        + (adler32(block[384:]) & 0xFFFF)
        - 3
        + 8 * 0x20
    )


def _signed_checksum(block: bytes) -> int:
    """What some old writers summed: the bytes as signed numbers."""
    return _checksum(block) - 256 * sum(byte > 127 for byte in block[:148] + block[156:])


def _number(field: bytes) -> int:
    try:
        return int(field.rstrip(b"\0 "), 8)
    except ValueError:
        return _odd_number(field)


def _odd_number(field: bytes) -> int:
    if field[0] in (0x80, 0xFF):
        value = int.from_bytes(field[1:], "big")
        return value if field[0] == 0x80 else value - 256 ** (len(field) - 1)
    text = field.partition(b"\0")[0].strip()
    return int(text, 8) if text else 0


def name_of(block: bytes) -> str:
    """The entry's name as the header itself has it."""
    name = block[:100].partition(b"\0")[0]
    if block[345] and block[257:263] == b"ustar\0":
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    return text_of(name)


def target_of(block: bytes) -> str:
    """What a link leads to, as the header itself has it."""
    return text_of(block[157:257].partition(b"\0")[0])


def text_of(name: bytes) -> str:
    """A name, whatever its bytes are."""
    return name.decode("utf-8", "surrogateescape")


def pax_of(record: bytes) -> dict[str, str]:
    r"""``length key=value\n`` records; a damaged one ends the reading of them."""
    answer: dict[str, str] = {}
    at = 0
    while at < len(record):
        digits, space, _ = record[at : at + 20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        item = record[at + len(digits) + 1 : at + length - 1]
        key, equals, value = item.partition(b"=")
        if not (space and length and equals):
            break
        answer[text_of(key)] = text_of(value)
        at += length
    size = answer.get("size", "0")
    if not (size.isascii() and size.isdigit() and len(size) < 20):
        del answer["size"]
    return answer
