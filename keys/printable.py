"""Texts and figures as an eye reads them: keys, prefixes and other texts of users so that it can tell them apart."""

import re
import unicodedata
from typing import Final

_JOINERS: Final = "\u200c\u200d"
"""Without them some words, and many emoji, are others."""
_UNSEEN_KINDS: Final = ("Cc", "Cf", "Zl", "Zp")
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")

BLANK: Final = "\N{OPEN BOX}"
_SWALLOWED: Final = re.compile(r"^ +| +$|(?<= ) +")
"""Blanks that a page does not show: at the ends, and after another one."""
_UNSEEN_BLANKS: Final = re.compile(rf"{_SWALLOWED.pattern}|(?<=/) +| +(?=/)")
"""The same, of each name in a path."""


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


def is_unseen(char: str) -> bool:
    """Whether a character is invisible, breaks the line, or turns the text around it."""
    return unicodedata.category(char) in _UNSEEN_KINDS and char not in _JOINERS


def shown(text: str) -> str:
    """A name that looks like what it is: nothing in it is invisible, turns the text around, or breaks its line."""
    if not text.isprintable():
        text = "".join("\N{REPLACEMENT CHARACTER}" if is_unseen(char) else char for char in text)
    return _UNSEEN_BLANKS.sub(lambda blanks: BLANK * len(blanks[0]), text)


def bytes_text(value: int | None) -> str:
    """``1.4 GB``: decimal units (IEC 80000-13), three figures at the most."""
    if value is None:
        return "–"
    size, unit = float(value), 0
    while unit < len(_UNITS) - 1 and size >= (1000 if unit == 0 else 999.5):
        size, unit = size / 1000, unit + 1
    figures = f"{size:.0f}" if unit == 0 or size >= 99.95 else f"{size:.1f}"
    return f"{figures} {_UNITS[unit]}"
