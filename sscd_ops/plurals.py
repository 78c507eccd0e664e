"""Numbers of things in what people read: ``1 picture``, ``2 pictures``."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """A number with its words; ``many``: those for other numbers than 1, by default with an s."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"
