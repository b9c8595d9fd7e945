"""Keys, prefixes and other texts of users, so that an eye can tell them apart."""

import re
from typing import Final

_SWALLOWED: Final = re.compile(r"^ +| +$|(?<= ) +")
"""Blanks that a page does not show: at the ends, and after another one."""


def is_storable(text: str) -> bool:
    """Whether every database and every client can hold it: no NUL, no lone surrogate."""
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def printable(text: str) -> str:
    """A text with what cannot be seen in it escaped as in Python: control characters and blanks that a page swallows.

    Backslashes are doubled, so that no two texts look the same.
    """
    escaped = "".join(
        char if char.isprintable() and char != "\\" else char.encode("unicode_escape").decode() for char in text
    )
    return _SWALLOWED.sub(lambda blanks: r"\x20" * len(blanks[0]), escaped)
