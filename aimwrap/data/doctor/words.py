"""Numbers with their nouns."""

from __future__ import annotations


def numbered(count: int, noun: str, plural: str = "") -> str:
    """A number with its noun, in the plural where it is not one.

    >>> numbered(1, "image"), numbered(2000, "image"), numbered(0, "copy", "copies")
    ('1 image', '2,000 images', '0 copies')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
