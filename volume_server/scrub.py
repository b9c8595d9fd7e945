"""One pass over a volume's file that believes nothing: both superblocks, each record's tag and CRC, and that nothing
lies between the records.

It reads what is settled, from the first record to an offset before which all is; nothing there moves but by compaction.
Damage is told and passed over as recovery does it (see `recovery.scan`): by the record's length where its header is
genuine, else by a search for the next genuine header. What the device does not give is damage as well, page by page.
A filler holds nothing, so nothing in it can be damaged; a dead record still can: the log is whole, or it is not.

Constant memory. Blocks, and takes an interpreter's whole attention: not for the server's process
(see `scrub_child`).
"""

import ctypes
import errno
import mmap
import os
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

from volume_server import recovery, superblock
from volume_server.damage import BAD_CRC, BAD_SUPERBLOCK, CUT_OFF, NO_RECORD, Damage
from volume_server.durability import FileSystem
from volume_server.pace import Pace
from volume_server.record import FILLER, Tagger
from volume_server.superblock import COPY_OFFSETS, RECORDS_START, SIZE_BYTES, Superblock

PAGE_BYTES = 4096
UNREADABLE = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENODATA, errno.EREMOTEIO})
"""What the kernel says when device or file system cannot give the bytes (EUCLEAN and EBADMSG: their checksum is wrong).
Any other error says nothing of them, and ends the pass."""


def scrub(
    files: FileSystem,
    fd: int,
    expected: Superblock,
    *,
    end: int,
    pace: Pace | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[Damage]:
    """All damage before ``end``, in the order of the file, each once.

    ``progress`` is called with an offset, again and again also while it is waiting. Raises OSError when the file
    cannot be read for a reason that is not the data's; nothing is then known about the rest.
    """
    reads = ForgivingReads(files, pace, progress)
    for offset in COPY_OFFSETS:
        raw = reads.read_at(fd, SIZE_BYTES, offset)
        failure = reads.failure_within(offset, offset + SIZE_BYTES)
        if raw != superblock.encode(expected):
            yield Damage(offset, SIZE_BYTES, None, failure or BAD_SUPERBLOCK)
    file_bytes = files.size_bytes(fd)
    for found in recovery.scan(fd, Tagger(expected.salt), start=RECORDS_START, end=end, files=reads):
        if isinstance(found, recovery.Gap):
            failure = reads.failure_within(found.offset, found.offset + found.size_bytes)
            reason = CUT_OFF if found.torn and end > file_bytes else NO_RECORD
            yield Damage(found.offset, found.size_bytes, None, failure or reason)
        elif found.header.kind != FILLER:
            header = found.header
            failure = reads.failure_within(found.offset, found.offset + header.stored_bytes)
            if failure or not found.sound:
                yield Damage(found.offset, header.record_bytes, header.needle, failure or BAD_CRC)
    progress(end)


class ForgivingReads(FileSystem):
    """Paced reads, which give zeros for the pages that the device does not."""

    def __init__(
        self, files: FileSystem, pace: Pace | None = None, progress: Callable[[int], None] = lambda _: None
    ) -> None:
        self._files = files
        self._pace = pace or Pace(0)
        self._progress = progress
        self._failures: dict[int, str] = {}
        """Page -> why it could not be read; of the part of the file that is being looked at."""

    def read_at(self, fd: int, size_bytes: int, offset: int) -> bytes:
        self._progress(offset)
        self._pace.spend(size_bytes, lambda: self._progress(offset))
        try:
            return self._files.read_at(fd, size_bytes, offset)
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
        return b"".join(self._pages(fd, size_bytes, offset))

    def failure_within(self, start: int, end: int) -> str | None:
        """Why part of ``[start, end)`` could not be read. What lies before ``start`` is not asked for again."""
        if not self._failures:
            return None
        self._failures = {page: why for page, why in self._failures.items() if page + PAGE_BYTES > start}
        return next((why for page, why in sorted(self._failures.items()) if page < end), None)

    def _pages(self, fd: int, size_bytes: int, offset: int) -> Iterator[bytes]:
        at, end = offset, offset + size_bytes
        while at < end:
            page = at - at % PAGE_BYTES
            wanted = min(page + PAGE_BYTES, end) - at
            self._progress(at)
            try:
                raw = self._files.read_at(fd, wanted, at)
            except OSError as error:
                if error.errno not in UNREADABLE:
                    raise
                self._failures[page] = f"it cannot be read: {error.strerror}"
                raw = bytes(wanted)
            yield raw
            if len(raw) < wanted:
                return
            at += wanted


class SparingFiles(FileSystem):
    """Reads that leave the page cache as it was: cold data, read once in a week, must not push out what clients read.

    Only what was not cached before is dropped behind them, as mincore(2) tells it. Where that tells nothing, all stays.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)

    def open_again(self, fd: int) -> int:
        """The same file, for reading, by an open file description of its own. Raises OSError.

        It reads nothing ahead, since that would look as if others had wanted it.
        """
        own = self.open(Path(f"/proc/self/fd/{fd}"), os.O_RDONLY)
        os.posix_fadvise(own, 0, 0, os.POSIX_FADV_RANDOM)
        return own

    def read_at(self, fd: int, size_bytes: int, offset: int) -> bytes:
        start = offset - offset % mmap.PAGESIZE
        states = self._page_states(fd, start, min(offset + size_bytes, self.size_bytes(fd)) - start)
        raw = super().read_at(fd, size_bytes, offset)
        for is_cached, pages in groupby(states, key=lambda state: state & 1):
            run_bytes = len(list(pages)) * mmap.PAGESIZE
            if not is_cached:
                os.posix_fadvise(fd, start, run_bytes, os.POSIX_FADV_DONTNEED)
            start += run_bytes
        return raw

    def _page_states(self, fd: int, start: int, size_bytes: int) -> bytes:
        """A byte for each page, its lowest bit set where the page is in memory; nothing where that cannot be told."""
        if size_bytes <= 0:
            return b""
        states = (ctypes.c_ubyte * -(-size_bytes // mmap.PAGESIZE))()
        with mmap.mmap(fd, size_bytes, access=mmap.ACCESS_COPY, offset=start) as mapped:
            first = ctypes.c_char.from_buffer(mapped)
            address = ctypes.c_void_p(ctypes.addressof(first))
            failed = self._libc.mincore(address, ctypes.c_size_t(size_bytes), states)
            del first  # or the mapping could not be closed
        return b"" if failed else bytes(states)
