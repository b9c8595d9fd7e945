"""Compaction: a volume's file without its garbage, made beside it while it is read and written.

    N.vol ──────────────────────────────────────────── goes on growing ─────────────> (unlinked)
      │ copy: up to the watermark   │ follow: what came since, again and again  │ cut
      v                             v                                           v
    N.compacting-xxxxxxxx/N.vol ────────────────────────────────────────────── rename ──> N.vol
    N.compacting-xxxxxxxx/N.idx  (a checkpoint of the new file) ───────── rename ──> N.idx

`Copy` does the first line of it, away from the server's loop (`volume_server.compaction_child`). What lies before the
watermark is settled for good, so the index says which records live; behind it the log is followed record by record,
as a recovery would read it. At the cut no record is open and none is taken: the last of the log is followed, synced,
and the new file renamed over the old one (`install`), which is the one moment at which the compaction happens.
Before it the old volume stands, whole; after it the new one does. `tidy` cleans up after a crash on either side.

- Every record that is kept is read again in the copy, its header compared and its tag and CRC checked.
- A record that is damaged is not dropped: it is copied as it is, counted, and where the index knew it, it is still
  found, and still reported as damaged instead of unknown. Only with ``drop_damage``, which an operator asks for who has
  seen it, is damage left out in which no needle lies that the index knows.
- A tombstone is dropped only when it is older than ``drop_before_ms``: then no lease can bring its needle back, and
  no other replica can. Its id leaves the index with it.
- The salt stays, so that records are copied as they are; the revision goes up by one, so that an index file of the old
  one is never taken for one of the new.
"""

import errno
import logging
import os
import secrets
from bisect import bisect_left
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from volume_server import record
from volume_server.checkpoint import CheckpointFile, Figures
from volume_server.durability import FileSystem
from volume_server.index import Index
from volume_server.pace import Pace
from volume_server.record import FILLER, HEADER_BYTES, LIVE, Header, Tagger
from volume_server.recovery import Window, find_record, is_sound
from volume_server.superblock import RECORDS_START, Superblock, SuperblockInvalid, decode_head, encode_head

log = logging.getLogger(__name__)

DIRECTORY_INFIX = ".compacting-"
DISCARDED_INFIX = ".discarded-"
RUN_BYTES = 8 << 20
STEP_BYTES = 64 << 10
"""How often progress is told and the pace is kept."""
HEADERS_BYTES = 128 << 10
"""What is read to find the next header: much with small records, little in vain with large ones."""
PIECE_BYTES = 1 << 20
GATHERED_BYTES = 1 << 20
SHORT_RUN_BYTES = 64 << 10
"""Shorter runs are gathered and written by one call for many: it is the calls that cost then, not the bytes."""
MAX_GATHERED = 1000
SYNC_EVERY_BYTES = 64 << 20
"""So that the last fdatasync, which writers wait for, finds little left to write."""
_NO_COPY_RANGE = frozenset({errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})

Progress = Callable[[int], None]
"""Called with the offset in the old file up to which all is done."""


class CompactionFailed(Exception):
    """The copy is not what it was made of, or cannot be made; the volume itself is as it was."""


@dataclass(frozen=True, slots=True)
class Copied:
    """How far a copy has come."""

    at: int
    """The old file's offset up to which all is in the copy."""
    tail: int
    """The new file's length."""


class Found(NamedTuple):
    """A record of the old file, or damage between records."""

    at: int
    size_bytes: int
    header: Header | None
    raw: bytes
    """The header's bytes."""


Run = list[tuple[int, Found]]
"""What is copied in one go, each with its offset in the new file."""


def new_twin_directory(path: Path) -> Path:
    """A directory for a twin of the volume at ``path``, of a name that none ever had. Nothing is made yet."""
    return path.with_name(f"{path.stem}{DIRECTORY_INFIX}{secrets.token_hex(4)}")


class Copy:
    """One attempt to compact one volume file into a new ``directory`` beside it.

    All methods may raise OSError and CompactionFailed. Reads and writes files only, and blocks: not for the loop.
    """

    def __init__(
        self,
        files: FileSystem,
        path: Path,
        directory: Path,
        *,
        drop_before_ms: int = 0,
        drop_damage: bool = False,
        pace: Pace | None = None,
        progress: Progress = lambda _: None,
    ) -> None:
        self.files = files
        self.drop_before_ms = drop_before_ms
        self.drop_damage = drop_damage
        self.pace = pace or Pace(0)
        self.progress = progress
        self.path = directory / path.name
        self.source = files.open(path, os.O_RDONLY)
        try:
            self.old = _superblock_of(files, self.source)
            self.new = replace(self.old, revision=self.old.revision + 1)
            files.make_directory(directory)
            self.target = files.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except BaseException:
            files.close(self.source)
            raise
        self.tagger = Tagger(self.old.salt)
        self.checkpoint_file = CheckpointFile(files, self.path.with_suffix(".idx"), self.new)
        self.index = Index()
        self.figures = Figures()
        self.at = RECORDS_START
        self.tail = RECORDS_START
        self._run_start = self._run_end = RECORDS_START
        """What is to be copied next: this much of the old file, to the new one's tail."""
        self._run: Run = []
        self._gathered: list[bytes | bytearray | memoryview] = []
        """Short runs for the new file's tail, not written yet."""
        self._gathered_bytes = 0
        self._gathered_run: Run = []
        self._unsynced_bytes = 0
        self._verifier = ThreadPoolExecutor(1, thread_name_prefix="verify")
        self._verifying: Future[None] | None = None

    @property
    def copied(self) -> Copied:
        return Copied(self.at, self.tail)

    def close(self) -> None:
        self._verifier.shutdown()
        self.files.close(self.source)
        self.files.close(self.target)

    # -- the steps -----------------------------------------------------------------------------------------------

    def copy(self, known: Index, upto: int, *, reserve_bytes: int) -> Copied:
        """Copy what lives of the records before ``upto``, an offset before which all is settled.

        ``known`` is an index that has all of these. ``reserve_bytes`` are allocated at once: what does not fit is
        found out before the work is done.
        """
        self.files.write_at(self.target, [encode_head(self.new)], 0)
        self.files.allocate(self.target, RECORDS_START + reserve_bytes)
        by_offset = _ByOffset(known)

        def judge(record_found: Found, header: Header) -> None:
            at = record_found.at
            kind, _, needle, _, _, appended_ms = header
            found = known.get(needle) if kind != FILLER else None
            if kind == LIVE:
                if found is None:  # it was damaged when the log was replayed, or it would be known
                    if self.drop_damage and not is_sound(Window(self.source, upto, self.files), at, header):
                        log.warning("volume %d: a damaged record at %d is dropped, as asked", self.old.volume, at)
                    else:
                        self._keep(record_found)
                elif found[0] == at and found[1]:
                    self.index.put(needle, self._keep(record_found), found[1])
                    self.figures.live_count += 1
            elif found == (at, 0) and appended_ms >= self.drop_before_ms:
                self.index.put(needle, self._keep(record_found), 0)
                self.figures.tombstone_count += 1

        self._walk(upto, judge, by_offset)
        return self._rest()

    def follow(self, upto: int) -> Copied:
        """Copy what came to the log since, up to ``upto``, before which all is settled."""

        def judge(record_found: Found, header: Header) -> None:
            if header.kind == FILLER:
                return
            known = self.index.get(header.needle)
            if header.kind == LIVE:
                if known is not None:
                    return  # the first counts
                self.index.put(header.needle, self._keep(record_found), header.stored_bytes)
                self.figures.live_count += 1
                return
            if known is not None and known[1]:
                self.figures.live_count -= 1
                self.figures.garbage_bytes += record.aligned(known[1])
            self.index.put(header.needle, self._keep(record_found), 0)
            self.figures.tombstone_count += 1

        self._walk(upto, judge, None)
        return self._rest()

    def save(self) -> Copied:
        """A checkpoint of the new file as it is; the space that was allocated in vain is given back."""
        self.files.truncate(self.target, self.tail)
        self._sync()
        frozen = self.index.freeze()
        places = self.checkpoint_file.write(
            frozen, self.figures, watermark=self.tail, clean_size_bytes=self.tail
        )  # fmt: skip
        self.index.release(frozen, places)
        return self.copied

    # -- how -----------------------------------------------------------------------------------------------------

    def _walk(self, upto: int, judge: Callable[[Found, Header], None], known: "_ByOffset | None") -> None:
        window = Window(self.source, upto, self.files, size_bytes=HEADERS_BYTES)
        at = self.at
        self._run_start = self._run_end = at
        while at < upto:
            raw = bytes(window.read(at, HEADER_BYTES))
            header = record.decode_header(self.tagger, raw)
            size_bytes = 0 if header is None else header.record_bytes
            if header is not None and at + size_bytes <= upto:
                judge(Found(at, size_bytes, header, raw), header)
                at += size_bytes
            else:
                following = find_record(window, self.tagger, at + record.ALIGNMENT) or upto
                self._keep_damage(at, following, known)
                at = following
            if self._run_end - self._run_start >= RUN_BYTES:
                self._copy_run()
            if at - self.at >= STEP_BYTES:
                self.pace.spend(at - self.at, self._tell)
                self.at = at
                self._tell()
        self._copy_run()
        self._write_gathered()
        self.at = at

    def _tell(self) -> None:
        self.progress(self.at)

    def _rest(self) -> Copied:
        self._await_verified()
        self._sync()
        return self.copied

    def _keep(self, found: Found) -> int:
        """Have this part of the old file copied; its offset in the new one."""
        at = found.at
        if at != self._run_end:
            self._copy_run()
            self._run_start = at
        self._run_end = at + found.size_bytes
        offset = self.tail + at - self._run_start
        self._run.append((offset, found))
        return offset

    def _keep_damage(self, at: int, end: int, known: "_ByOffset | None") -> None:
        """Keep bytes that are no record, and the way to the needles that the index has there."""
        needles = known.between(at, end) if known is not None else []
        if self.drop_damage and known is not None and not needles:
            log.warning("volume %d: %d damaged bytes at %d are dropped, as asked", self.old.volume, end - at, at)
            return
        log.error("volume %d: %d damaged bytes at %d; they are kept as they are", self.old.volume, end - at, at)
        moved = self._keep(Found(at, end - at, None, b"")) - at
        self.figures.damaged_count += 1
        for needle, offset, length in needles:
            self.index.put(needle, offset + moved, length)
            if length:
                self.figures.live_count += 1
            else:
                self.figures.tombstone_count += 1

    def _copy_run(self) -> None:
        at, end = self._run_start, self._run_end
        run, self._run = self._run, []
        self._run_start = end
        if 0 < end - at < SHORT_RUN_BYTES:
            self._gathered.append(self._piece(at, end - at))
            self._gathered_bytes += end - at
            self._gathered_run += run
            self.tail += end - at
            if self._gathered_bytes >= GATHERED_BYTES or len(self._gathered) >= MAX_GATHERED:
                self._write_gathered()
            return
        self._write_gathered()
        while at < end:
            size_bytes = self._copy_some(at, end - at)
            at += size_bytes
            self.tail += size_bytes
            self._count_written(size_bytes)
        self._verify_soon(run)

    def _write_gathered(self) -> None:
        if not self._gathered:
            return
        self.files.write_at(self.target, self._gathered, self.tail - self._gathered_bytes)
        self._count_written(self._gathered_bytes)
        self._verify_soon(self._gathered_run)
        self._gathered, self._gathered_bytes, self._gathered_run = [], 0, []

    def _count_written(self, size_bytes: int) -> None:
        """The last ``size_bytes`` before the tail are in the file."""
        self.files.start_writeback(self.target, self.tail - size_bytes, size_bytes)
        self._unsynced_bytes += size_bytes
        if self._unsynced_bytes >= SYNC_EVERY_BYTES:
            self._sync()

    def _piece(self, at: int, size_bytes: int) -> bytes:
        piece = self.files.read_at(self.source, size_bytes, at)
        if len(piece) != size_bytes:
            raise CompactionFailed(f"the volume file ends before {at + size_bytes}")
        return piece

    def _copy_some(self, at: int, size_bytes: int) -> int:
        try:
            copied = self.files.copy_range(self.source, self.target, size_bytes, at, self.tail)
        except OSError as error:
            if error.errno not in _NO_COPY_RANGE:
                raise
            copied = 0
        if not copied:  # this file system knows no such call
            copied = min(size_bytes, PIECE_BYTES)
            self.files.write_at(self.target, [self._piece(at, copied)], self.tail)
        return copied

    def _verify_soon(self, run: Run) -> None:
        """While the next run is copied. Raises what the one before came upon."""
        self._await_verified()
        self._verifying = self._verifier.submit(self._verify, run, self.tail)

    def _await_verified(self) -> None:
        if self._verifying is not None:
            verifying, self._verifying = self._verifying, None
            verifying.result()

    def _verify(self, run: Run, tail: int) -> None:
        """Read what was copied, check it, and where it is not sound look whether it ever was."""
        copied = Window(self.target, tail, self.files)
        for offset, (at, size_bytes, header, raw) in run:
            if header is None:
                self._compare(at, offset, size_bytes)
            elif copied.read(offset, HEADER_BYTES) != raw or not is_sound(copied, offset, header):
                self._compare(at, offset, size_bytes)
                self.figures.damaged_count += 1
                log.error(
                    "volume %d: needle %016x at %d is damaged; it is kept as it is",
                    self.old.volume, header.needle, at,
                )  # fmt: skip

    def _compare(self, at: int, offset: int, size_bytes: int) -> None:
        """What is damaged must be what it was before."""
        for start in range(0, size_bytes, PIECE_BYTES):
            length = min(PIECE_BYTES, size_bytes - start)
            if self.files.read_at(self.target, length, offset + start) != self._piece(at + start, length):
                raise CompactionFailed(f"what was copied from {at} is not the same in the copy")

    def _sync(self) -> None:
        self.files.sync_data(self.target)
        self._unsynced_bytes = 0


class _ByOffset:
    """The needles of an index by where they lie; sorted when first asked, which only damage does."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._sorted: list[tuple[int, int, int]] | None = None

    def between(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """(needle, offset, length) of those in ``[start, end)``."""
        if self._sorted is None:
            self._sorted = sorted((offset, needle, length) for needle, offset, length in self._index.items())
        first = bisect_left(self._sorted, (start, 0, 0))
        last = bisect_left(self._sorted, (end, 0, 0))
        return [(needle, offset, length) for offset, needle, length in self._sorted[first:last]]


def install(files: FileSystem, path: Path, directory: Path) -> bool:
    """Put the finished twin in the volume's place. Raises OSError where that did not happen.

    False: it happened, but whether it outlives a power cut is not known. The old volume and the new one hold the
    same, so that nothing is lost as long as neither takes another record.
    """
    files.rename(directory / path.name, path)
    try:
        files.rename(directory / path.with_suffix(".idx").name, path.with_suffix(".idx"))
        _remove(files, directory)
        files.sync_directory(path.parent)
    except OSError as error:
        log.error("%s was compacted, but the directory could not be made durable: %s", path.name, error)
        return False
    return True


def tidy(files: FileSystem, path: Path) -> None:
    """Finish or undo what a stop half-way left of compactions of the volume at ``path``. Raises OSError.

    The rename of the volume file decides: while the twin has its own, the old volume is the volume.
    """
    for directory in path.parent.glob(f"{path.stem}{DIRECTORY_INFIX}*"):
        index_path = directory / path.with_suffix(".idx").name
        if index_path.exists() and not (directory / path.name).exists():
            log.info("%s was compacted; its index is put in place", path.name)
            files.sync_directory(path.parent)
            files.rename(index_path, path.with_suffix(".idx"))
        discard(files, directory)
        files.sync_directory(path.parent)
    for directory in path.parent.glob(f"{path.stem}{DISCARDED_INFIX}*"):
        _remove(files, directory)


def discard(files: FileSystem, directory: Path) -> None:
    """Remove a twin that is not wanted. Raises OSError.

    It gets another name first: the process that makes it may have outlived its server for a moment, and would else
    put an index into a directory whose volume file is gone already, as if this had taken the volume's place.
    """
    if directory.is_dir():
        discarded = directory.with_name(directory.name.replace(DIRECTORY_INFIX, DISCARDED_INFIX))
        files.rename(directory, discarded)
        _remove(files, discarded)


def _remove(files: FileSystem, directory: Path) -> None:
    for found in directory.iterdir():
        files.remove(found)
    files.remove(directory)


def _superblock_of(files: FileSystem, fd: int) -> Superblock:
    try:
        return decode_head(files.read_at(fd, RECORDS_START, 0))
    except SuperblockInvalid as error:
        raise CompactionFailed(f"the superblock: {error}") from error
