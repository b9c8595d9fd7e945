"""All needles of a volume, in the order of their ids, from a copy of its index and the headers in its file.

What is told of a live needle is what its record's header says: length, CRC, time. The data itself is read only where
that is asked for (``deep``), which is what a scrub does as well. A header that is not genuine, or is another needle's,
is told as damage, never as absence.

Memory: 16 bytes a needle, and one part of some 200,000 needles at a time in Python's own numbers. Blocks, and takes an
interpreter's whole attention: not for the server's process (see `needles_child`).
"""

import os
import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from zlib import crc32

from volume_server.crc import data_crc
from volume_server.durability import FileSystem
from volume_server.index import LENGTH_BITS, LENGTH_MASK, SEGMENT_BYTES
from volume_server.record import HEADER_BYTES, Tagger, live_header
from volume_server.scrub import UNREADABLE

PART_NEEDLES = 200_000
SAMPLED = 64
"""Of so many ids one is looked at to find where the parts shall begin."""
FIRST_BYTES = 512
"""Read of a record at first: most have their header and meta in that."""
WINDOW_BYTES = 128 << 10
SMALL_BYTES = 16 << 10
"""Records up to this size that lie near to each other are read together."""
PIECE_BYTES = 256 << 10


class Live(NamedTuple):
    """A needle that can be read, as its header tells it."""

    needle: int
    size_bytes: int
    crc32: int
    appended_ms: int


class Page(NamedTuple):
    """The needles behind the page before, up to and with ``through``; None: these were the last."""

    live: list[Live]
    dead: list[int]
    damaged: list[int]
    through: int | None


class Entries:
    """(needle, value) of an index, by needle: sorted part by part, as they are come to."""

    def __init__(self, index_fd: int) -> None:
        size_bytes = os.fstat(index_fd).st_size
        starts = range(0, size_bytes, SEGMENT_BYTES)
        sampled = sorted(needle for at in starts for needle in _words(index_fd, at)[:: 2 * SAMPLED] if needle)
        a_part = max(1, PART_NEEDLES // SAMPLED)
        self._bounds = sampled[a_part::a_part]
        self._needles = [array("Q") for _ in range(len(self._bounds) + 1)]
        self._values = [array("Q") for _ in self._needles]
        for at in starts:
            self._divide(_words(index_fd, at))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for part, needles in enumerate(self._needles):
            of_needle = dict(zip(needles, self._values[part], strict=True))
            self._needles[part] = self._values[part] = array("Q")
            for needle in sorted(of_needle):
                yield needle, of_needle[needle]

    def _divide(self, words: list[int]) -> None:
        of_needle = dict(zip(words[::2], words[1::2], strict=True))
        of_needle.pop(0, None)
        needles, at = sorted(of_needle), 0
        while at < len(needles):
            part = bisect_right(self._bounds, needles[at])
            end = len(needles) if part == len(self._bounds) else bisect_left(needles, self._bounds[part], at)
            self._needles[part].extend(needles[at:end])
            self._values[part].extend(of_needle[needle] for needle in needles[at:end])
            at = end


class Reader:
    """Tells what lies where the index says a needle lies. Raises OSError for what says nothing of the data."""

    def __init__(self, files: FileSystem, fd: int, tagger: Tagger, *, deep: bool) -> None:
        self._files = files
        self._fd = fd
        self._tagger = tagger
        self._deep = deep
        self._held, self._held_at = b"", 0
        self._file_bytes = 0

    def look(self, needle: int, value: int) -> Live | None:
        """A needle that lives by its index value; None: its record is damaged."""
        offset, length = value >> LENGTH_BITS << 3, value & LENGTH_MASK
        try:
            return self._look(needle, offset, length)
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
            self._held = b""
            return None

    def _look(self, needle: int, offset: int, length: int) -> Live | None:
        at = offset - self._held_at
        if at < 0 or at + min(length, FIRST_BYTES) > len(self._held):
            near = length <= SMALL_BYTES and 0 <= at <= 2 * WINDOW_BYTES
            self._held = self._files.read_at(self._fd, WINDOW_BYTES if near else min(length, FIRST_BYTES), offset)
            self._held_at, at = offset, 0
        header = live_header(self._tagger, self._held, at, needle, length)
        if header is None:
            return None
        meta_bytes, data_bytes, crc, appended_ms = header
        meta = self._held[at + HEADER_BYTES : at + HEADER_BYTES + meta_bytes]
        if len(meta) < meta_bytes:
            meta = self._files.read_at(self._fd, meta_bytes, offset + HEADER_BYTES)
            if len(meta) < meta_bytes:
                return None
        own_crc = data_crc(crc, meta)
        if self._deep:
            is_sound = self._crc_of(offset + HEADER_BYTES + meta_bytes, data_bytes) == own_crc
        else:
            is_sound = offset + length <= self._file_bytes or self._is_whole(offset + length)
        return Live(needle, data_bytes, own_crc, appended_ms) if is_sound else None

    def _is_whole(self, end: int) -> bool:
        """Whether the file reaches as far as the record; it only grows, so that it need not be asked each time."""
        self._file_bytes = self._files.size_bytes(self._fd)
        return end <= self._file_bytes

    def _crc_of(self, offset: int, size_bytes: int) -> int | None:
        """Of these bytes of the file; None where it ends before them."""
        crc, end = 0, offset + size_bytes
        while offset < end:
            raw = self._files.read_at(self._fd, min(PIECE_BYTES, end - offset), offset)
            if not raw:
                return None
            crc = crc32(raw, crc)
            offset += len(raw)
        return crc


class Listing:
    """All entries, page after page."""

    def __init__(self, entries: Iterable[tuple[int, int]], reader: Reader) -> None:
        self._entries = iter(entries)
        self._ahead = next(self._entries, None)
        self._reader = reader

    def next_page(self, limit: int, seconds: float) -> Page:
        """So many needles at the most, and no more when so much time is over; one at the least. Raises OSError."""
        page, through = Page([], [], [], None), None
        ends_s = time.monotonic() + seconds
        while self._ahead is not None:
            if through is not None and (limit <= 0 or time.monotonic() > ends_s):
                return page._replace(through=through)
            through, value = self._ahead
            if not value & LENGTH_MASK:
                page.dead.append(through)
            elif (found := self._reader.look(through, value)) is None:
                page.damaged.append(through)
            else:
                page.live.append(found)
            limit -= 1
            self._ahead = next(self._entries, None)
        return page


def _words(index_fd: int, at: int) -> list[int]:
    """The words of the segment that lies ``at`` bytes into a copy of the index."""
    return memoryview(os.pread(index_fd, SEGMENT_BYTES, at)).cast("Q").tolist()
