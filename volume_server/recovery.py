"""Reading a volume file from the front: what a crash left is told apart from what was damaged.

1. At each offset a genuine header (magic and keyed tag) names its record's length; the record's CRC says whether it
   is sound. An unsound record is reported and passed over by its length.
2. Where there is no genuine header, the next one is searched for at every multiple of 8. Found: what lies between is a
   damaged gap, kept and reported. Not found: it is the torn tail, the only thing that may be cut off.
3. A record that reaches past the end of the file with no genuine record behind it is torn too.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from volume_server import record
from volume_server.durability import FileSystem

WINDOW_BYTES = 4 << 20
WHOLE_BYTES = 256 << 10
"""Records up to this size are fetched at once, so that most windows are read once."""
SYSTEM = FileSystem()


@dataclass(frozen=True, slots=True)
class Found:
    """A record with a genuine header, at ``offset``."""

    offset: int
    header: record.Header
    sound: bool


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes that are no record. ``torn``: nothing follows, this is the tail."""

    offset: int
    size_bytes: int
    torn: bool


class Window:
    """Reads a file forward through one window of memory."""

    def __init__(self, fd: int, end: int, files: FileSystem = SYSTEM, *, size_bytes: int | None = None) -> None:
        self.files = files
        self.fd = fd
        self.end = end
        self.size_bytes = size_bytes or WINDOW_BYTES
        self._start = 0
        self._view = memoryview(b"")

    def read(self, offset: int, size_bytes: int) -> memoryview:
        """Up to ``size_bytes`` at ``offset``; fewer only at the end. ``size_bytes`` is at most the window."""
        size_bytes = min(size_bytes, self.end - offset)
        if not self._start <= offset or offset + size_bytes > self._start + len(self._view):
            wanted = min(max(self.size_bytes, size_bytes), self.end - offset)
            self._view = memoryview(self.files.read_at(self.fd, wanted, offset))
            self._start = offset
        return self._view[offset - self._start : offset - self._start + size_bytes]

    def crc(self, offset: int, size_bytes: int, crc: int = 0) -> int:
        """CRC-32 of ``size_bytes`` from ``offset`` on; -1 where the file ends before them."""
        while size_bytes > 0:
            held = self._start + len(self._view) - offset if offset >= self._start else 0
            piece = self.read(offset, min(size_bytes, held if held > 0 else WINDOW_BYTES))
            if not piece:
                return -1
            crc = zlib.crc32(piece, crc)
            offset += len(piece)
            size_bytes -= len(piece)
        return crc


def scan(fd: int, tagger: record.Tagger, *, start: int, end: int, files: FileSystem = SYSTEM) -> Iterator[Found | Gap]:
    """All that lies in ``[start, end)``, in order. Raises OSError; nothing is then known about the rest."""
    window = Window(fd, end, files)
    at = start
    while at < end:
        header = record.decode_header(tagger, window.read(at, record.HEADER_BYTES))
        if header is not None and at + header.stored_bytes <= end:
            yield Found(at, header, is_sound(window, at, header))
            at += header.record_bytes
            continue
        following = find_record(window, tagger, at + record.ALIGNMENT)
        if following is None:
            yield Gap(at, end - at, torn=True)
            return
        yield Gap(at, following - at, torn=False)
        at = following


def find_record(window: Window, tagger: record.Tagger, start: int) -> int | None:
    """The offset of the first genuine header at or after ``start`` whose record lies in the file."""
    at = start
    while at + record.HEADER_BYTES <= window.end:
        piece = bytes(window.read(at, WINDOW_BYTES))
        if not piece:
            return None  # the file became shorter meanwhile
        found = piece.find(record.MAGIC)
        while found >= 0:
            if not (at + found) % record.ALIGNMENT:
                if found + record.HEADER_BYTES > len(piece):
                    break
                header = record.decode_header(tagger, piece, found)
                if header is not None and at + found + header.stored_bytes <= window.end:
                    return at + found
            found = piece.find(record.MAGIC, found + 1)
        # the last bytes again, in case a header lies across the border of two windows
        at += max(len(piece) - record.HEADER_BYTES + record.ALIGNMENT, record.ALIGNMENT)
    return None


def is_sound(window: Window, at: int, header: record.Header) -> bool:
    """Whether the record at ``at`` is what its header's CRC was made of."""
    if header.kind == record.FILLER:
        return True
    data_at = record.HEADER_BYTES + header.meta_bytes
    if header.stored_bytes <= min(WHOLE_BYTES, WINDOW_BYTES):
        held = window.read(at, header.stored_bytes)
        crc = zlib.crc32(held[data_at:]) if len(held) == header.stored_bytes else -1
    else:
        held = window.read(at, data_at)
        crc = window.crc(at + data_at, header.data_bytes)
    return crc >= 0 and zlib.crc32(held[record.HEADER_BYTES : data_at], crc) == header.crc
