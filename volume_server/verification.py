"""Reading again what a compaction has copied, as it lies in the new file.

That each record is whole, its own tag and CRC tell. That it is the one which was meant, the CRC-32 of all headers in
their order tells, which whoever copied them knows as well: a header holds the needle, and the CRC of its data.

The device is set to write what was verified, so that the last sync, which writers wait for, finds little left. That
one is not made here, and it is the one that is told of an error.
"""

import contextlib
import multiprocessing
import os
from collections import deque
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from volume_server.durability import FileSystem
from volume_server.record import HEADER_BYTES, Tagger, aligned, decode_header
from volume_server.recovery import Window, is_sound

WINDOW_BYTES = 256 << 10


class Verified(NamedTuple):
    """What was found from ``start`` to ``end``, which are the limits of records."""

    headers_crc: int | None
    """CRC-32 of all headers in their order; None: something there is no record."""
    unsound: list[int]
    """Offsets of records whose meta or data is not what their header's CRC was made of."""


def verify(files: FileSystem, fd: int, tagger: Tagger, start: int, end: int) -> Verified:
    """Read all records in ``[start, end)``. Raises OSError."""
    unsound: list[int] = []
    headers_crc = 0
    at = held_at = start
    held = b""
    while at < end:
        begin = at - held_at
        raw = held[begin : begin + HEADER_BYTES]
        if len(raw) < HEADER_BYTES:
            held, held_at, begin = files.read_at(fd, min(WINDOW_BYTES, end - at), at), at, 0
            raw = held[:HEADER_BYTES]
        header = decode_header(tagger, raw)
        if header is None:
            return Verified(None, unsound)
        stored_bytes = header.stored_bytes
        following = at + aligned(stored_bytes)
        if following > end:
            return Verified(None, unsound)
        headers_crc = crc32(raw, headers_crc)
        if stored_bytes > WINDOW_BYTES:
            sound = is_sound(Window(fd, end, files, size_bytes=WINDOW_BYTES), at, header)
        else:
            if begin + stored_bytes > len(held):
                held, held_at, begin = files.read_at(fd, min(WINDOW_BYTES, end - at), at), at, 0
            data_at = begin + HEADER_BYTES + header.meta_bytes
            data = memoryview(held)[data_at : begin + stored_bytes]
            sound = crc32(held[begin + HEADER_BYTES : data_at], crc32(data)) == header.crc
        if not sound:
            unsound.append(at)
        at = following
    return Verified(headers_crc, unsound)


class Verifier:
    """Verifies ranges of a file in the order in which they were begun. Here it is done at once.

    Raises OSError where the file cannot be opened.
    """

    def __init__(self, files: FileSystem, path: Path, tagger: Tagger) -> None:
        self.files = files
        self.fd = files.open(path, os.O_RDONLY)
        self.tagger = tagger
        self._found: deque[Verified] = deque()

    def begin(self, start: int, end: int) -> None:
        """Raises OSError."""
        self._found.append(self._verify(start, end))

    def result(self) -> Verified:
        """Of the first range that was begun and not asked for. Raises OSError."""
        return self._found.popleft()

    def close(self) -> None:
        """No more is asked for."""
        self.files.close(self.fd)

    def _verify(self, start: int, end: int) -> Verified:
        found = verify(self.files, self.fd, self.tagger, start, end)
        self.files.start_writeback(self.fd, start, end - start)
        return found


class ForkedVerifier(Verifier):
    """Verifies in a process of its own, while more is copied. Not where there are other threads."""

    def __init__(self, files: FileSystem, path: Path, tagger: Tagger) -> None:
        super().__init__(files, path, tagger)
        context = multiprocessing.get_context("fork")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=self._serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, start: int, end: int) -> None:
        try:
            self._connection.send((start, end))
        except OSError as error:
            raise self._gone from error

    def result(self) -> Verified:
        try:
            found = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._gone from error
        if isinstance(found, OSError):
            raise found
        return Verified(*found)

    def close(self) -> None:
        self._connection.close()
        self._process.join()
        self._process.close()
        super().close()

    @property
    def _gone(self) -> OSError:
        return OSError("the process that verifies the copy ended too early")

    def _serve(self, connection: Connection) -> None:
        self._connection.close()  # or it would never see the other side gone
        with contextlib.suppress(EOFError, OSError):  # whoever asked is gone
            while True:
                start, end = connection.recv()
                connection.send(self._outcome(start, end))

    def _outcome(self, start: int, end: int) -> tuple[object, ...] | OSError:
        try:
            return tuple(self._verify(start, end))
        except OSError as error:
            return error
