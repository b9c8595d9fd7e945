"""Bytes as text that can be looked at."""

import codecs
from dataclasses import dataclass

from keys.printable import is_unseen

_MARKS = (
    # The longer ones first: UTF-32 begins as UTF-16 does.
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_PLAIN_CONTROLS = b"\t\n\r\f\b\x1b"
_ODD = bytes(byte for byte in range(32) if byte not in _PLAIN_CONTROLS)


class _Signs(dict[int, int | str]):
    """For `str.translate`: what is not seen as a sign. A character is looked at when it first comes."""

    def __missing__(self, code: int) -> int | str:
        sign = self[code] = f"⟨U+{code:04X}⟩" if is_unseen(chr(code)) else code
        return sign


_VISIBLE = _Signs({9: 9, 10: 10})
_VISIBLE |= {code: 0x2400 + code for code in range(32) if code not in (9, 10)}  # Unicode's pictures of controls
_VISIBLE |= dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)  # halves of a pair, which JSON may hold and UTF-8 may not


@dataclass(frozen=True, slots=True)
class Text:
    """What bytes say, with Unix line ends. ``encoding`` is named as people name it."""

    text: str
    encoding: str


def read_text(data: bytes, *, is_cut: bool = False) -> Text | None:
    """None for bytes that are no text. ``is_cut``: more follows, so the last character may be a part of one."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            body = _decode(data[len(mark) :], encoding, is_cut=is_cut)
            return None if body is None else Text(_unix(body), encoding.removesuffix("-le").removesuffix("-be").upper())
    if any(map(data.__contains__, _ODD)):
        return None
    body = _decode(data, "utf-8", is_cut=is_cut)
    if body is not None:
        return Text(_unix(body), "UTF-8")
    # Any bytes at all are Latin-1. A text of it is mostly ASCII, and what is compressed is not.
    if sum(byte >= 0x80 for byte in data) * 3 > len(data):
        return None
    return Text(_unix(data.decode("cp1252", errors="replace")), "Windows-1252")


def visible(text: str) -> str:
    """Controls, and what turns a line around, as signs that can be seen."""
    return text.translate(_VISIBLE)


def _decode(data: bytes, encoding: str, *, is_cut: bool) -> str | None:
    try:
        return codecs.getincrementaldecoder(encoding)().decode(data, final=not is_cut)
    except UnicodeDecodeError:
        return None


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
