"""How far something is, for people: bars on a terminal, plain lines elsewhere."""

import shutil
from collections.abc import Sequence

from django.core.management.base import OutputWrapper

_BAR_CELLS = 24
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def size_text(size_bytes: int) -> str:
    """``1.5 MiB``; whole bytes below a KiB."""
    size, at = float(size_bytes), 0
    while size >= 1024 and at < len(_UNITS) - 1:
        size, at = size / 1024, at + 1
    return f"{size:.1f} {_UNITS[at]}" if at else f"{size_bytes} {_UNITS[0]}"


def percent(done: int, total: int) -> int:
    """0 to 100; nothing to do is done."""
    return min(100, 100 * done // total) if total > 0 else 100


def bar(done: int, total: int) -> str:
    cells = _BAR_CELLS * percent(done, total) // 100
    return f"[{'#' * cells}{'-' * (_BAR_CELLS - cells)}] {percent(done, total):3d} %"


class Board:
    """Lines that stay, and below them, on a terminal alone, lines that are drawn anew each time."""

    def __init__(self, stream: OutputWrapper) -> None:
        self._stream = stream
        self._drawn = 0
        self.is_live = stream.isatty()

    def say(self, line: str) -> None:
        """A line that stays."""
        self.clear()
        self._stream.write(line)
        self._stream.flush()

    def draw(self, lines: Sequence[str]) -> None:
        """Replaces the lines drawn last; nothing where the output is no terminal."""
        if not self.is_live:
            return
        self.clear()
        width = shutil.get_terminal_size().columns - 1  # a wrapped line would be two to go back over
        for line in lines:
            self._stream.write(line[:width])
        self._stream.flush()
        self._drawn = len(lines)

    def clear(self) -> None:
        if self._drawn:
            self._stream.write(f"\x1b[{self._drawn}F\x1b[J", ending="")  # ECMA-48: CPL, up so many lines; ED, erase
            self._drawn = 0
