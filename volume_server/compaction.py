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

- Every record that is kept is read again in the copy, its tag and CRC checked and its header compared
  (`volume_server.verification`).
- A record that is damaged is not dropped: it is copied as it is, counted, and where the index knew it, it is still
  found, and still reported as damaged instead of unknown. Only with ``drop_damage``, which an operator asks for who has
  seen it, is damage left out in which no needle lies that the index knows.
- A tombstone is dropped only when it is older than ``drop_before_ms``: then no lease can bring its needle back, and
  no other replica can. Its id leaves the index with it.
- The salt stays, so that records are copied as they are; the revision goes up by one, so that an index file of the old
  one is never taken for one of the new.
"""

import contextlib
import errno
import logging
import os
import secrets
import zlib
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from volume_server import record
from volume_server.checkpoint import CheckpointFile, Figures
from volume_server.durability import FileSystem
from volume_server.index import LENGTH_BITS, LENGTH_MASK, MAX_OFFSET, Index
from volume_server.pace import Pace
from volume_server.record import FILLER, HEADER_BYTES, LIVE, Header, Tagger
from volume_server.recovery import Window, find_record, is_sound
from volume_server.superblock import RECORDS_START, Superblock, SuperblockInvalid, decode_head, encode_head
from volume_server.verification import Verifier

log = logging.getLogger(__name__)

DIRECTORY_INFIX = ".compacting-"
DISCARDED_INFIX = ".discarded-"
RUN_BYTES = 8 << 20
STEP_BYTES = 64 << 10
"""How often progress is told and the pace is kept."""
HEADERS_BYTES = 128 << 10
"""What is read to find the next header: much with small records, little in vain with large ones."""
VERIFIED_BYTES = 8 << 20
"""What is verified in one go..."""
MAX_VERIFYING = 16
"""...and how many of these the verification may be behind."""
PIECE_BYTES = 1 << 20
GATHERED_BYTES = 1 << 20
SHORT_RUN_BYTES = 64 << 10
"""Shorter runs are gathered and written by one call for many: it is the calls that cost then, not the bytes."""
MAX_GATHERED = 1000
DROPPED = MAX_OFFSET >> 3 << LENGTH_BITS
"""In place of a needle's value in an index: it is behind all that is copied."""
_NO_COPY_RANGE = frozenset({errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})

Progress = Callable[[int], None]
"""Called with the offset in the old file up to which all is done."""


Judge = Callable[[int, int, Header, bytes], None]
"""Called with each record's offset, size in the file, header and this header's bytes; keeps it or not."""


class CompactionFailed(Exception):
    """The copy is not what it was made of, or cannot be made; the volume itself is as it was."""


@dataclass(frozen=True, slots=True)
class Copied:
    """How far a copy has come."""

    at: int
    """The old file's offset up to which all is in the copy."""
    tail: int
    """The new file's length."""


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
        verifier: Callable[[FileSystem, Path, Tagger], Verifier] = Verifier,
    ) -> None:
        self.files = files
        self.drop_before_ms = drop_before_ms
        self.drop_damage = drop_damage
        self.pace = pace or Pace(0)
        self.progress = progress
        self.path = directory / path.name
        with contextlib.ExitStack() as opened:
            self.source = files.open(path, os.O_RDONLY)
            opened.callback(files.close, self.source)
            self.old = _superblock_of(files, self.source)
            self.new = replace(self.old, revision=self.old.revision + 1)
            self.tagger = Tagger(self.old.salt)
            files.make_directory(directory)
            self.target = files.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            opened.callback(files.close, self.target)
            self._verifier = verifier(files, self.path, self.tagger)
            opened.callback(self._verifier.close)
            self.close = opened.pop_all().close
        self.checkpoint_file = CheckpointFile(files, self.path.with_suffix(".idx"), self.new)
        self.index = Index()
        self.figures = Figures()
        self.at = RECORDS_START
        self.tail = RECORDS_START
        self._run_start = self._run_end = RECORDS_START
        """What is to be copied next: this much of the old file, to the new one's tail."""
        self._held, self._held_at = b"", RECORDS_START
        """What was read of the old file last, to find headers in, and from where on."""
        self._gathered: list[bytes | bytearray | memoryview] = []
        """Short runs for the new file's tail, not written yet."""
        self._gathered_bytes = 0
        self._unverified = Unverified(RECORDS_START)
        self._verifying: deque[Unverified] = deque()

    @property
    def copied(self) -> Copied:
        return Copied(self.at, self.tail)

    # -- the steps -----------------------------------------------------------------------------------------------

    def copy(self, known: Index, upto: int, *, reserve_bytes: int) -> Copied:
        """Copy what lives of the records before ``upto``, an offset before which all is settled.

        ``known`` is an index that has all of these; it is changed into that of the copy. ``reserve_bytes`` are
        allocated at once: what does not fit is found out before the work is done.
        """
        self.files.write_at(self.target, [encode_head(self.new)], 0)
        self.files.allocate(self.target, RECORDS_START + reserve_bytes)
        self.index = known
        by_offset = _ByOffset(known)

        def judge(at: int, size_bytes: int, header: Header, raw: bytes) -> None:
            kind, _, needle, _, _, appended_ms = header
            if kind == FILLER:
                return
            found = known.find(needle)
            if found is None:
                if kind == LIVE:  # it was damaged when the log was replayed, or it would be known
                    self._keep_unless_dropped(at, upto, header, raw)
                return
            words, place = found
            value = words[place]
            if value >> LENGTH_BITS << 3 != at:
                return
            # What has been copied lies before `at` now, and what has not behind it, so that the two stay apart.
            if kind == LIVE:
                words[place] = self._keep(at, size_bytes, raw) >> 3 << LENGTH_BITS | value & LENGTH_MASK
                self.figures.live_count += 1
            elif appended_ms >= self.drop_before_ms:
                words[place] = self._keep(at, size_bytes, raw) >> 3 << LENGTH_BITS
                self.figures.tombstone_count += 1
            else:
                words[place] = DROPPED

        self._walk(upto, judge, by_offset)
        self.index = known.before(upto)
        kept, wanted = self.figures.live_count + self.figures.tombstone_count, len(self.index)
        if kept != wanted:
            raise CompactionFailed(f"{kept} of {wanted} needles were found where the index has them; fsck tells more")
        return self._rest()

    def follow(self, upto: int) -> Copied:
        """Copy what came to the log since, up to ``upto``, before which all is settled."""

        def judge(at: int, size_bytes: int, header: Header, raw: bytes) -> None:
            if header.kind == FILLER:
                return
            known = self.index.get(header.needle)
            if header.kind == LIVE:
                if known is not None:
                    return  # the first counts
                self.index.put(header.needle, self._keep(at, size_bytes, raw), header.stored_bytes)
                self.figures.live_count += 1
                return
            if known is not None and known[1]:
                self.figures.live_count -= 1
                self.figures.garbage_bytes += record.aligned(known[1])
            self.index.put(header.needle, self._keep(at, size_bytes, raw), 0)
            self.figures.tombstone_count += 1

        self._walk(upto, judge, None)
        return self._rest()

    def save(self) -> Copied:
        """A checkpoint of the new file as it is; the space that was allocated in vain is given back."""
        self.files.truncate(self.target, self.tail)
        self.files.sync_data(self.target)
        frozen = self.index.freeze()
        places = self.checkpoint_file.write(
            frozen, self.figures, watermark=self.tail, clean_size_bytes=self.tail
        )  # fmt: skip
        self.index.release(frozen, places)
        return self.copied

    # -- how -----------------------------------------------------------------------------------------------------

    def _walk(self, upto: int, judge: Judge, known: "_ByOffset | None") -> None:
        files, source, tagger, decode_header = self.files, self.source, self.tagger, record.decode_header
        at = held_at = told_at = self._run_start = self._run_end = self.at
        held = self._held = b""
        while at < upto:
            raw = held[at - held_at : at - held_at + HEADER_BYTES]
            if len(raw) < HEADER_BYTES:
                held = self._held = files.read_at(source, min(HEADERS_BYTES, upto - at), at)
                held_at = self._held_at = at
                raw = held[:HEADER_BYTES]
            header = decode_header(tagger, raw)
            size_bytes = 0 if header is None else header.record_bytes
            if header is not None and at + size_bytes <= upto:
                judge(at, size_bytes, header, raw)
                at += size_bytes
            else:
                window = Window(source, upto, files, size_bytes=HEADERS_BYTES)
                following = find_record(window, tagger, at + record.ALIGNMENT) or upto
                self._keep_damage(at, following, known)
                at = following
            if at - told_at >= STEP_BYTES:
                if self._run_end - self._run_start >= RUN_BYTES:
                    self._copy_run()
                self.pace.spend(at - told_at, self._tell)
                self.at = told_at = at
                self._tell()
        self._copy_run()
        self._write_gathered()
        self.at = at

    def _tell(self) -> None:
        self.progress(self.at)

    def _rest(self) -> Copied:
        self._verify_rest()
        self.files.sync_data(self.target)
        return self.copied

    def _keep(self, at: int, size_bytes: int, raw: bytes) -> int:
        """Have this record of the old file copied, whose header is ``raw``; its offset in the new one."""
        if at != self._run_end:
            self._copy_run()
            self._run_start = at
        self._run_end = at + size_bytes
        self._unverified.headers_crc = zlib.crc32(raw, self._unverified.headers_crc)
        return self.tail + at - self._run_start

    def _keep_unless_dropped(self, at: int, upto: int, header: Header, raw: bytes) -> None:
        """Of a record that the index does not know."""
        if self.drop_damage and not is_sound(Window(self.source, upto, self.files), at, header):
            log.warning("volume %d: a damaged record at %d is dropped, as asked", self.old.volume, at)
        else:
            self._keep(at, header.record_bytes, raw)

    def _keep_damage(self, at: int, end: int, known: "_ByOffset | None") -> None:
        """Keep bytes that are no record, and the way to the needles that the index has there."""
        needles = known.between(at, end) if known is not None else []
        if self.drop_damage and known is not None and not needles:
            log.warning("volume %d: %d damaged bytes at %d are dropped, as asked", self.old.volume, end - at, at)
            return
        log.error("volume %d: %d damaged bytes at %d; they are kept as they are", self.old.volume, end - at, at)
        self._copy_run()
        self._write_gathered()
        self._verify_rest()
        moved = self.tail - at
        self._copy_bytes(at, end)
        self._compare(at, at + moved, end - at)
        self._run_start = self._run_end = end
        self._unverified = Unverified(self.tail)
        self.figures.damaged_count += 1
        for needle, offset, length in needles:
            self.index.put(needle, offset + moved, length)
            if length:
                self.figures.live_count += 1
            else:
                self.figures.tombstone_count += 1

    def _copy_run(self) -> None:
        at, end = self._run_start, self._run_end
        if at == end:
            return
        self._run_start = end
        if end - at < SHORT_RUN_BYTES:
            self._unverified.moved(at, self.tail)
            self._gathered.append(self._piece(at, end - at))
            self._gathered_bytes += end - at
            self.tail += end - at
            if self._gathered_bytes >= GATHERED_BYTES or len(self._gathered) >= MAX_GATHERED:
                self._write_gathered()
        else:
            self._write_gathered()
            self._unverified.moved(at, self.tail)
            self._copy_bytes(at, end)
        if not self._gathered and self.tail - self._unverified.start >= VERIFIED_BYTES:
            self._verify()

    def _copy_bytes(self, at: int, end: int) -> None:
        while at < end:
            size_bytes = self._copy_some(at, end - at)
            at += size_bytes
            self.tail += size_bytes

    def _write_gathered(self) -> None:
        if self._gathered:
            self.files.write_at(self.target, self._gathered, self.tail - self._gathered_bytes)
            self._gathered, self._gathered_bytes = [], 0

    def _piece(self, at: int, size_bytes: int) -> bytes:
        """This much of the old file. What was read for its headers is not read once more."""
        begin = at - self._held_at
        if begin >= 0 and begin + size_bytes <= len(self._held):
            return self._held[begin : begin + size_bytes]
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

    def _verify(self) -> None:
        """Have all that was copied since the last time verified, while more is copied. Raises what came of earlier."""
        if len(self._verifying) >= MAX_VERIFYING:
            self._await_verified()
        self._verifier.begin(self._unverified.start, self.tail)
        self._verifying.append(self._unverified)
        self._unverified = Unverified(self.tail)

    def _verify_rest(self) -> None:
        if self.tail > self._unverified.start:
            self._verify()
        while self._verifying:
            self._await_verified()

    def _await_verified(self) -> None:
        verifying = self._verifying.popleft()
        found = self._verifier.result()
        if found.headers_crc != verifying.headers_crc:
            raise CompactionFailed(f"what was copied to {verifying.start} and behind is not the same in the copy")
        for offset in found.unsound:
            header = record.decode_header(self.tagger, self.files.read_at(self.target, HEADER_BYTES, offset))
            assert header is not None
            at = verifying.source_of(offset)
            self._compare(at, offset, header.record_bytes)
            self.figures.damaged_count += 1
            log.error(
                "volume %d: needle %016x at %d is damaged; it is kept as it is", self.old.volume, header.needle, at
            )

    def _compare(self, at: int, offset: int, size_bytes: int) -> None:
        """What is damaged must be what it was before."""
        for start in range(0, size_bytes, PIECE_BYTES):
            length = min(PIECE_BYTES, size_bytes - start)
            if self.files.read_at(self.target, length, offset + start) != self._piece(at + start, length):
                raise CompactionFailed(f"what was copied from {at} is not the same in the copy")


class Unverified:
    """What was copied since the last verification, from ``start`` in the new file on."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.headers_crc = 0
        """Of all headers in their order."""
        self._runs: list[tuple[int, int]] = []
        """Where each run lies in the new file, and where it lay in the old one."""

    def moved(self, at: int, offset: int) -> None:
        """The next run: from ``at`` in the old file to ``offset`` in the new one."""
        self._runs.append((offset, at))

    def source_of(self, offset: int) -> int:
        """Where in the old file that lay which lies at ``offset`` in the new one."""
        start, at = self._runs[bisect_left(self._runs, (offset + 1, 0)) - 1]
        return at + offset - start


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
