"""One volume: an append-only log of needles in one file, and its index.

The event loop owns the state. Small records are written by it; large bodies, fsyncs and checkpoints run in threads
that touch only the file. A needle's way:

    reserve ── body streams in ── finish ─┐
                                          ├─> written ── sync (group) ──> settle: in the index, durable
    enqueue (small) ── flush (group) ─────┘
       │
       └── abort: at the very tail the space is given back, elsewhere the provisional filler stays

Only what is settled is in the index; until then the id stands in `claims`, where duplicates wait for it.
"""

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

from volume_server import record, recovery
from volume_server import state as states
from volume_server.checkpoint import CheckpointFile, Figures, Loaded
from volume_server.damage import BAD_CRC, CUT_OFF, MAX_LISTED, NO_RECORD, READ, Damage, name_needles
from volume_server.durability import FileSystem
from volume_server.errors import (
    Damaged,
    DiskFull,
    EpochOld,
    NeedleTaken,
    NeedleUnknown,
    ReadFailed,
    StoreError,
    VolumeBusy,
    VolumeDegraded,
    VolumeFull,
    VolumeReplicated,
    VolumeSealed,
    VolumeUnusable,
)
from volume_server.index import MAX_OFFSET, Frozen, Index
from volume_server.record import HEADER_BYTES, LIVE
from volume_server.state import ALONE, CLOSED, SHARED, Replica, State
from volume_server.superblock import RECORDS_START, Superblock, SuperblockInvalid, decode_head, encode_head

log = logging.getLogger(__name__)

DEFAULT_SIZE_LIMIT = 16 << 30
CHECKPOINT_EVERY_BYTES = 64 << 20
MAX_VERDICT_BYTES = 256
MAX_TOMBSTONE_BYTES = record.aligned(HEADER_BYTES + MAX_VERDICT_BYTES)
"""Behind the last record there is to be an offset left for the tombstone of every needle that lives."""
MAX_QUEUED_BUFFERS = 1000
"""Of queued records, four each: one pwritev takes 1,024 (IOV_MAX)."""
MAX_QUEUED_BYTES = 1 << 20
OUT_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})

Buffer = bytes | bytearray | memoryview


class Room:
    """What the disk may still take. Asked before every append; the default knows no bound."""

    def require(self, size_bytes: int) -> None:
        """Raises DiskFull when ``size_bytes`` more do not fit beside the reserve."""


@dataclass(slots=True, eq=False)
class Claim:
    """Space in the log, held for one record."""

    needle: int
    offset: int
    record_bytes: int
    stored_bytes: int
    kind: int
    appended_ms: int
    meta: bytes = b""
    waiters: list[Callable[[], object]] = field(default_factory=list)
    """Called once the claim is gone: settled, aborted or failed."""
    failure: StoreError | None = None
    """Why a queued record could not be written; the claim is gone then."""
    is_reserved: bool = False
    """Its body comes in by and by (see `Volume.reserve`)..."""
    is_finished: bool = False
    """...and is here, with its live header..."""
    is_revoked: bool = False
    """...or is not taken any more (see `Volume.revoke_reservations`)."""

    @property
    def data_offset(self) -> int:
        return self.offset + HEADER_BYTES + len(self.meta)

    @property
    def data_bytes(self) -> int:
        return self.stored_bytes - HEADER_BYTES - len(self.meta)


@dataclass(frozen=True, slots=True)
class Needle:
    """A live needle as it lies in the file."""

    header: record.Header
    meta: bytes
    data_offset: int


@dataclass(slots=True)
class CheckpointJob:
    segments: list[Frozen]
    figures: Figures
    watermark: int
    clean_size_bytes: int


class Volume:
    """See the module. Opened with `Volume.create` or `Volume.open`."""

    # What concerns volumes with copies on other servers alone (`volume_server.replication`).
    replica: Replica | None = None
    """None: never replicated."""
    held_back: str | None = None
    """Why a replicated volume takes no record now."""
    unshipped: list[tuple[int, int]] | None = None
    """Extents (start, end) that were written since the last shipment; None: there is nobody to ship them to."""
    ship_piece: Callable[[int, Buffer], Callable[[], None]] | None = None
    """Has all peers write a piece of a reserved record's body at an offset. What it gives waits until they have, and
    raises VolumeDegraded where one has not."""
    floor: int | None = None
    """At a secondary: before this offset the primary has no reservation that is still open."""
    is_being_replaced: bool = False
    """Another copy's bytes come into the file, and the index knows nothing of it yet (`volume_server.joining`)."""

    unmended_count: int = 0
    """Damages that no copy could mend when the volume was opened last, in this process."""

    is_behind: bool = False
    """At a secondary: records may lie in the file that the index was not told of yet, below the tail."""

    def __init__(self, files: FileSystem, path: Path, superblock: Superblock, fd: int, room: Room) -> None:
        self.files = files
        self.path = path
        self.superblock = superblock
        self.room = room
        self.number = superblock.volume
        self.salt = superblock.salt
        self.tagger = record.Tagger(superblock.salt)
        self.fd = fd
        self.index = Index()
        self.figures = Figures()
        self.tail = RECORDS_START
        self.size_limit = DEFAULT_SIZE_LIMIT
        self.epoch = 1
        self.sealed: str | None = None
        self.claims: dict[int, Claim] = {}
        self.reservations: dict[int, Claim] = {}
        """Those of the claims that `reserve` made."""
        self.checkpointed_to = RECORDS_START
        """The watermark of the checkpoint on disk; it names nothing from there on."""
        self._writer_count = 0
        self._writer_lock = threading.Lock()
        self._queued: list[Claim] = []
        """Records that `flush` will write; the last ones of the log."""
        self._queued_buffers: list[Buffer] = []
        self.checkpoint_file = CheckpointFile(files, path.with_suffix(".idx"), superblock)
        self.checkpointing = False
        self.damaged_needles: set[int] = set()
        """Known to be damaged, by a read or a scrub; each is counted once."""
        self.damage: tuple[Damage, ...] = ()
        """Where all that damage lies, up to `MAX_LISTED` places; ``figures.damaged_count`` is how many there are."""
        self.scrubbed_ms: int | None = None
        """When the last full scrub ended, by the master's clock."""
        self.sync_failure: OSError | None = None
        self.cut: list[Callable[[], object]] | None = None
        """While a compaction takes over (see `begin_cut`): what waits to write here until it has."""
        self.hold_count = 0
        """How many are at work with offsets in the file as it is; no cut can come meanwhile."""
        self.unsynced: list[tuple[int, int]] = []
        """Extents (start, end) that a failed sync left in doubt: readable after a restart, but never confirmed."""
        self._sync_lock = threading.Lock()
        self._state_lock = threading.Lock()
        self._damage_is_unsaved = False
        self._seal_passes = False
        """It ends with its cause, and is not written down: see `_open_short` and `note_unlinked`."""
        self.is_unlinked = False
        """The open file is not the one at its path any more."""
        self._undone: int | None = None
        """Where the first record lies that was given up after the seal: the file may end within it."""
        self._is_closed = False
        self._checkpoints_stopped = False
        self._checkpoints_held = False
        self._checkpoint_tail = RECORDS_START
        self._late_fillers: list[tuple[int, int]] = []

    # -- open and close ------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, files: FileSystem, directory: Path, superblock: Superblock, *, epoch: int = 1, room: Room | None = None
    ) -> "Volume":
        """A new, empty volume, durable when this returns. Raises FileExistsError, OSError."""
        path = volume_path(directory, superblock.volume)
        if path.exists():
            raise FileExistsError(path)
        write_state(files, path, State(epoch))
        files.replace_file(path, encode_head(superblock))
        return cls.open(files, path, room=room)

    @classmethod
    def open(cls, files: FileSystem, path: Path, *, room: Room | None = None) -> "Volume":
        """Open a volume, recovering what a crash left.

        After a clean stop no record is read; after a crash the log is replayed from the checkpoint's watermark, and
        synced before anything is answered from it. Raises VolumeUnusable, OSError.
        """
        fd = files.open(path, os.O_RDWR)
        try:
            try:
                superblock = decode_head(files.read_at(fd, RECORDS_START, 0))
            except SuperblockInvalid as error:
                raise VolumeUnusable(f"{path.name}: {error}") from error
            _require_name(path, superblock)
            volume = cls(files, path, superblock, fd, room or Room())
            volume._recover()
        except BaseException:
            files.close(fd)
            raise
        return volume

    def _recover(self) -> None:
        state = read_state(self.files, self.path)
        self.epoch = state.epoch
        self.sealed = state.sealed
        self.unsynced = state.unsynced
        self.scrubbed_ms = state.scrubbed_ms
        self.replica = state.replica
        if self.replica is not None and self.replica.mode != ALONE:
            self.held_back = (
                "it is closed" if self.replica.mode == CLOSED else "its server was started anew; it is to be opened"
            )
        size_bytes = self.files.size_bytes(self.fd)
        start = RECORDS_START
        try:
            loaded = self.checkpoint_file.load()
        except OSError as error:  # it is derived, and no reason to be without the volume
            log.error("volume %d: its index could not be read and is rebuilt: %s", self.number, error)
            loaded = None
        if loaded is not None and loaded.watermark <= size_bytes:
            self.index, self.figures, start = loaded.index, loaded.figures, loaded.watermark
            self.checkpointed_to = loaded.watermark
            self._know_damage(state, loaded.watermark)
            if loaded.clean_size_bytes == size_bytes == loaded.watermark:
                self.tail = self._checkpoint_tail = size_bytes
                return
        elif loaded is not None:
            self._open_short(loaded, state, size_bytes)
            return
        self.tail = max(record.aligned(size_bytes), RECORDS_START)
        for found in recovery.scan(self.fd, self.tagger, start=start, end=size_bytes, files=self.files):
            self._replay(found)
        if self.tail != size_bytes and not self.sealed:
            self._give_back(self.tail)
        try:
            self.sync_log()
        except OSError:
            self.unsynced.append((start, self.tail))
            self.seal_unsynced()

    def _open_short(self, loaded: Loaded, state: State, size_bytes: int) -> None:
        """The file ends before what was durable in it. Read what is left, touch nothing, and say what is gone.

        The index goes on knowing what it knew: a needle that is lost is damaged, not unknown. The seal is not written
        down, since it ends with its cause: the whole file put back, or the index file taken away.
        """
        self.index, self.figures, self.tail = loaded.index, loaded.figures, loaded.watermark
        self._know_damage(state, self.tail)
        lost = [
            (needle, offset, record.aligned(max(length, HEADER_BYTES)))
            for needle, offset, length in self.index.items()
            if offset + max(length, HEADER_BYTES) > size_bytes
        ]
        start = min((offset for _, offset, _ in lost), default=size_bytes)
        for damage in name_needles(Damage(start, self.tail - start, None, CUT_OFF), lost):
            self.note_damage(damage)
        self._checkpoints_stopped = True
        self._pass_seal(
            f"its file ends at {size_bytes}, though {self.tail} bytes were durable: {len(lost)} needles are lost"
        )
        log.critical("volume %d is sealed: %s. %s", self.number, self.sealed, self._way_out_of_short())

    def _way_out_of_short(self) -> str:
        told = f"Stop the server, put the whole file back ({self.path.name}), and start it again"
        if self.has_copies:
            return (
                f"{told}; or, where `manage.py fsck --deep --volume {self.number}` names no other copy, remove all "
                f"files of this volume ({self.path.stem}.*) instead: it is fetched anew from there"
            )
        return (
            f"{told}; or, if nothing better is to be had, remove {self.checkpoint_file.path.name}, and what is left is "
            "taken for all that there was"
        )

    @property
    def has_copies(self) -> bool:
        """Whether it had copies on other servers when it was told of them last."""
        return self.replica is not None and self.replica.mode != ALONE

    def _pass_seal(self, reason: str) -> None:
        if self.sealed is None:
            self.sealed, self._seal_passes = reason, True

    def is_in_place(self) -> bool:
        """Whether the open file is the one at its path. Raises OSError where that cannot be told."""
        return self.files.is_at(self.fd, self.path)

    def note_unlinked(self) -> None:
        """The file was removed or replaced under the running server. Its bytes are here until the process ends.

        No record is taken any more, so that a copy that is made of it now is whole.
        """
        if self.is_unlinked:
            return
        self.is_unlinked = True
        what_to_do = (
            "restart this server, which fetches it from the volume's other copies"
            if self.has_copies
            else "copy it back, with the server running, then restart that"
        )
        self._pass_seal(
            f"its file {self.path} was removed or replaced while the server ran. It can be read until that stops, as "
            f"/proc/{os.getpid()}/fd/{self.fd}: {what_to_do}"
        )
        log.critical("volume %d is sealed: %s", self.number, self.sealed)

    def _replay(self, found: recovery.Found | recovery.Gap) -> None:
        if isinstance(found, recovery.Gap):
            if found.torn:
                log.warning("volume %d: a torn tail of %d bytes is cut off", self.number, found.size_bytes)
                self.tail = found.offset
                return
            log.error("volume %d: %d damaged bytes at %d", self.number, found.size_bytes, found.offset)
            self.note_damage(Damage(found.offset, found.size_bytes, None, NO_RECORD))
            return
        header = found.header
        if header.kind == record.FILLER:
            self.figures.garbage_bytes += header.record_bytes
            return
        if not found.sound:
            log.error("volume %d: needle %016x at %d is damaged", self.number, header.needle, found.offset)
            self.note_damage(Damage(found.offset, header.record_bytes, header.needle, BAD_CRC))
            if header.kind == LIVE:
                return  # a tombstone's header alone says that the needle is dead, and is genuine
        known = self.index.get(header.needle)
        if known is not None and known[0] >= found.offset:
            return  # the checkpoint knew it already
        if known is not None and (header.kind == LIVE or not known[1]):
            log.error("volume %d: needle %016x stands twice; the first counts", self.number, header.needle)
            self.figures.garbage_bytes += header.record_bytes
            return
        self._enter(header.kind, header.needle, found.offset, header.stored_bytes)

    def begin_checkpoint(self, *, clean: bool = False) -> CheckpointJob:
        """Freeze the index as it is; hand the job to `write_checkpoint` in a thread, then to `end_checkpoint`."""
        self.checkpointing = True
        watermark = self.watermark
        self._late_fillers = [filler for filler in self._late_fillers if filler[0] >= watermark]
        figures = Figures(
            self.figures.live_count,
            self.figures.tombstone_count,
            self.figures.garbage_bytes - sum(size_bytes for _, size_bytes in self._late_fillers),
            self.figures.damaged_count,
        )
        self._checkpoint_tail = self.tail
        clean_size_bytes = self.tail if clean and watermark == self.tail else 0
        return CheckpointJob(self.index.freeze(), figures, watermark, clean_size_bytes)

    def write_checkpoint(self, job: CheckpointJob) -> list[int]:
        """In a thread. Raises OSError.

        No entry names a record that is not durable: what is in the index was settled, so it was synced before. The
        log is left alone here, since of two syncs at once only one is told of a write-back that failed.
        """
        if self._damage_is_unsaved:
            self.save_state()
        return self.checkpoint_file.write(
            job.segments, job.figures, watermark=job.watermark, clean_size_bytes=job.clean_size_bytes
        )

    def end_checkpoint(self, job: CheckpointJob, places: list[int] | None) -> None:
        """``places`` None: it failed. The index file is then left alone until the volume is opened anew."""
        self.index.release(job.segments, places)
        self.checkpointing = False
        if places is not None:
            self.checkpointed_to = job.watermark
        if places is None:
            self._checkpoints_stopped = True
            if self.sync_failure is not None:
                self.seal_unsynced()

    @property
    def checkpoint_is_due(self) -> bool:
        if self.checkpointing or self._checkpoints_held or self._checkpoints_stopped:
            return False
        return self.tail - self._checkpoint_tail >= CHECKPOINT_EVERY_BYTES

    def close(self, *, clean: bool = True) -> None:
        """Sync and checkpoint (where ``clean``), then close.

        Claims that are still open stay as they lie, for the next opening to read: from here on nothing touches a file.
        """
        clean = clean and not self.is_being_replaced
        if clean and self._damage_is_unsaved:
            self.save_state()
        if clean and not self.unsynced and self.sync_failure is None and not self._checkpoints_stopped:
            job = self.begin_checkpoint(clean=True)
            try:
                self.sync_log()  # for the length of the file, which marks the stop as a clean one
                places = self.write_checkpoint(job)
            except OSError as error:
                log.error("volume %d: no clean checkpoint: %s", self.number, error)
                places = None
            self.end_checkpoint(job, places)
        fd, self.fd, self._is_closed = self.fd, -1, True
        self.files.close(fd)

    # -- compaction ----------------------------------------------------------------------------------------------

    @property
    def watermark(self) -> int:
        """Every record before this offset is settled, or will never be."""
        end = self.tail if self._undone is None else self._undone
        if self.floor is not None:
            end = min(end, self.floor)
        return min([end, *(claim.offset for claim in self.claims.values())])

    def hold_checkpoints(self, *, held: bool) -> None:
        """While held no checkpoint is begun, so that somebody else can read the last one."""
        self._checkpoints_held = held

    def require_compactable(self) -> None:
        """Raises VolumeSealed, VolumeReplicated, VolumeBusy."""
        if self.sealed is not None:
            raise VolumeSealed(f"volume {self.number} is sealed: {self.sealed}")
        if self.replica is not None and self.replica.mode == SHARED:
            raise VolumeReplicated(f"volume {self.number} has copies on other servers; close it first")
        if self.is_being_replaced or self.is_behind:
            raise VolumeBusy(f"volume {self.number} is not whole; open it first")
        if self._checkpoints_stopped:
            raise VolumeBusy(f"volume {self.number} makes no checkpoints since one failed; restart its server")

    @property
    def is_quiet(self) -> bool:
        """Nothing is on its way into the file, and nobody works with offsets in it."""
        return not (self.claims or self.checkpointing or self.hold_count)

    def begin_cut(self) -> None:
        """From here on, who wants to write adds itself to ``cut``, to be called by `end_cut`. Reads go on."""
        self.cut = []

    def end_cut(self) -> None:
        waiting, self.cut = self.cut, None
        for step in waiting or ():
            step()

    def catch_up(self) -> None:
        """Take in what another process appended to this file: that of a twin that is not in use yet.

        In a thread. Raises OSError.
        """
        size_bytes = self.files.size_bytes(self.fd)
        start, self.tail = self.tail, size_bytes
        for found in recovery.scan(self.fd, self.tagger, start=start, end=size_bytes, files=self.files):
            self._replay(found)

    def take_over(self, twin: "Volume") -> None:
        """Become what the twin is, whose file has been put in this one's place. Nothing may be under way here."""
        assert self.is_quiet
        old_fd, self.fd = self.fd, twin.fd
        if twin.superblock.revision == self.superblock.revision:  # the same file, read anew
            self.damaged_needles = twin._damaged_by_index()
        self.superblock = twin.superblock
        self.index, self.figures, self.tail = twin.index, twin.figures, twin.tail
        self.is_being_replaced = self.is_behind = False
        self.damage = (
            twin.damage
        )  # what was known is there still, at other places: counted, and found by the next scrub
        self.checkpoint_file = twin.checkpoint_file
        self.checkpoint_file.path = self.path.with_suffix(".idx")
        self._checkpoint_tail = twin._checkpoint_tail
        self.checkpointed_to = twin.checkpointed_to
        self._late_fillers = []
        self.files.close(old_fd)

    # -- write ---------------------------------------------------------------------------------------------------

    def append(self, needle: int, meta: bytes, data: Buffer, *, data_crc: int, appended_ms: int) -> Claim:
        """Write a whole live record at the tail, not yet synced. Raises NeedleTaken, NoRoom, VolumeSealed."""
        claim = self.enqueue(needle, meta, data, data_crc=data_crc, appended_ms=appended_ms)
        self.flush()
        if claim.failure is not None:
            raise claim.failure
        return claim

    def enqueue(self, needle: int, meta: bytes, data: Buffer, *, data_crc: int, appended_ms: int) -> Claim:
        """As `append`, but the record is written with those that come in the same breath, by `flush`.

        Where that fails the claim's ``failure`` says why. Raises NeedleTaken, NoRoom, VolumeSealed at once.
        """
        claim = self._claim(LIVE, needle, meta, len(data), appended_ms)
        header = self._live_header(claim, len(data), data_crc)
        queued, buffers = self._queued, self._queued_buffers
        queued.append(claim)
        buffers += (header, meta, data, record.padding_of(claim.stored_bytes))
        self._hold(claim)
        if len(buffers) >= MAX_QUEUED_BUFFERS or self.tail - queued[0].offset >= MAX_QUEUED_BYTES:
            self.flush()
        return claim

    def flush(self) -> None:
        """Write the queued records with one call; they lie at the very tail. All are written, or none is."""
        if not self._queued:
            return
        claims, buffers = self._queued, self._queued_buffers
        self._queued, self._queued_buffers = [], []
        start = claims[0].offset
        failure = self._write(buffers, start)
        if failure is None:
            if self.unshipped is not None:
                self.unshipped.append((start, self.tail))
            return
        self.tail = start
        for claim in claims:
            claim.failure = failure
            self._drop(claim)

    def reserve(self, needle: int, meta: bytes, data_bytes: int, *, appended_ms: int) -> Claim:
        """Hold space at the tail under a provisional filler: write the data, then `finish` or `abort`.

        Raises as `append`.
        """
        self.flush()
        claim = self._claim(LIVE, needle, meta, data_bytes, appended_ms)
        filler = record.encode_filler(
            self.tagger, needle, record_bytes=claim.record_bytes, appended_ms=appended_ms
        )  # fmt: skip
        self._write_at_tail(claim, [filler])
        claim.is_reserved = True
        self.reservations[needle] = claim
        return claim

    def write_data(self, claim: Claim, data: Buffer, at: int) -> None:
        """In a thread: a piece of a reserved record's data, ``at`` bytes from its start.

        Raises OSError; VolumeDegraded where the reservation was given up, or a peer did not take the piece.
        """
        with self._writing(claim):
            offset = claim.data_offset + at
            ship = self.ship_piece
            taken = None if ship is None else ship(offset, data)  # peers write it while this disk does
            try:
                self.files.write_at(self.fd, [data], offset)
                self.files.start_writeback(self.fd, offset, len(data))
            except OSError:
                if ship is not None and taken is not None:
                    taken()
                    with suppress(OSError):  # part of it may be written here: peers get the same into their filler
                        ship(offset, self.files.read_at(self.fd, len(data), offset))()
                raise
            if taken is not None:
                taken()

    def finish(self, claim: Claim, *, data_crc: int) -> None:
        """The body is there: write the padding and meta, and last the live header. Raises as `write_data`."""
        with self._writing(claim):
            padding = record.padding_of(claim.stored_bytes)
            try:
                if padding:
                    self.files.write_at(self.fd, [padding], claim.offset + claim.stored_bytes)
                self.files.write_at(self.fd, [claim.meta], claim.offset + HEADER_BYTES)
                self.files.write_at(self.fd, [self._live_header(claim, claim.data_bytes, data_crc)], claim.offset)
            finally:
                self._note_unshipped(
                    (claim.offset + claim.stored_bytes, claim.offset + claim.record_bytes),
                    (claim.offset, claim.offset + HEADER_BYTES + len(claim.meta)),
                )
            claim.is_finished = True

    @contextmanager
    def _writing(self, claim: Claim) -> Iterator[None]:
        """While a thread writes into a reservation. Raises VolumeDegraded where that was given up."""
        with self._writer_lock:
            if claim.is_revoked:
                raise self.degraded()
            self._writer_count += 1
        try:
            yield
        finally:
            with self._writer_lock:
                self._writer_count -= 1

    def _note_unshipped(self, *extents: tuple[int, int]) -> None:
        """In a thread; the loop may take the list away at any moment."""
        with self._writer_lock:
            if self.unshipped is not None:
                self.unshipped += extents

    def take_unshipped(self) -> list[tuple[int, int]]:
        """What is to be shipped now; from here on it is collected anew."""
        with self._writer_lock:
            taken, self.unshipped = self.unshipped or [], []
        return taken

    def stop_shipping(self) -> None:
        """There is nobody any more to ship anything to."""
        with self._writer_lock:
            self.unshipped = self.ship_piece = None

    @property
    def has_writers(self) -> bool:
        """Whether a thread is writing into a reservation now."""
        with self._writer_lock:
            return self._writer_count > 0

    @property
    def equal_before(self) -> int:
        """What lies before this offset is on all copies: the epoch in which records were taken last began here."""
        replica = self.replica
        if replica is None or replica.revision != self.superblock.revision or not replica.history:
            return RECORDS_START
        return replica.history[-1][1]

    def hold_back(self, reason: str) -> None:
        """Take no record from now on, until ``held_back`` is None again. Those that were written are settled yet."""
        self.held_back = reason

    def revoke_reservations(self) -> list[Claim]:
        """No thread may begin to write into what is reserved now.

        When `has_writers` is over, those that are not finished are to be aborted; the others are to be settled.
        """
        revoked = list(self.reservations.values())
        with self._writer_lock:
            for claim in revoked:
                claim.is_revoked = True
        return revoked

    def degraded(self) -> VolumeDegraded:
        return VolumeDegraded(f"volume {self.number} takes nothing now: {self.held_back}")

    def tombstone(self, needle: int, *, verdict: str = "", appended_ms: int) -> Claim:
        """Write a tombstone of a live needle at the tail, not yet synced; the disk reserve may be used for it.

        Raises NeedleUnknown, NeedleTaken (already dead, or on its way), NoRoom, VolumeSealed.
        """
        self.flush()
        known = self.index.get(needle)
        if known is None:
            raise NeedleUnknown(f"needle {needle:016x} was never stored here")
        if known[1] == 0 or needle in self.claims:
            raise NeedleTaken(f"needle {needle:016x} is dead already")
        if self.tail > MAX_OFFSET:
            raise VolumeFull(f"volume {self.number} ends where the index's offsets do")
        raw = record.encode_tombstone(self.tagger, needle, verdict=verdict, appended_ms=appended_ms)
        self._require_open()
        claim = Claim(
            needle, self.tail, len(raw), HEADER_BYTES + len(verdict), record.TOMBSTONE, appended_ms
        )  # fmt: skip
        self._write_at_tail(claim, [raw])
        return claim

    def abort(self, claim: Claim) -> bool:
        """Give up a claim that is not settled. True: its space was given back; False: it stays as filler.

        What the peers of a replicated volume have been sent stays where it is.
        """
        self.flush()
        if claim.is_reserved and self.claims.get(claim.needle) is not claim:
            return False  # that was done
        self._drop(claim)
        if self.sealed or self._is_closed:
            self._checkpoints_stopped = True  # what this leaves at the tail is read by the next opening
            self._undone = min(claim.offset, self.tail if self._undone is None else self._undone)
            return False
        if claim.offset + claim.record_bytes == self.tail and self.unshipped is None:
            self._give_back(claim.offset)
            self.tail = claim.offset
            return True
        self.figures.garbage_bytes += claim.record_bytes
        self._late_fillers.append((claim.offset, claim.record_bytes))
        return False

    def sync_log(self) -> None:
        """In a thread: everything written so far is durable when this returns. Raises OSError.

        The kernel reports a failed write-back once per descriptor and forgets it, so that the next fdatasync would
        seem to succeed. Hence after one failure no other is tried: all later ones fail with the first one's error.
        """
        with self._sync_lock:
            if self.sync_failure is not None:
                raise self.sync_failure
            try:
                self.files.sync_data(self.fd)
            except OSError as error:
                self.sync_failure = error
                raise

    def settle(self, claims: list[Claim]) -> None:
        """The sync that covers these claims succeeded: they are durable, and found from now on."""
        put, held = self.index.put, self.claims
        for claim in claims:
            if claim.kind != LIVE or claim.waiters or claim.is_reserved or held.get(claim.needle) is not claim:
                self._enter(claim.kind, claim.needle, claim.offset, claim.stored_bytes)
                self._drop(claim)
                continue
            put(claim.needle, claim.offset, claim.stored_bytes)  # the same for what comes most often
            self.figures.live_count += 1
            del held[claim.needle]

    def seal(self, reason: str) -> None:
        """Take no record any more, over restarts too. What is not settled never will be."""
        if self.sealed is None and not self._is_closed:
            self.sealed = reason
            log.error("volume %d is sealed: %s", self.number, reason)
            self.save_state()

    def seal_unsynced(self) -> None:
        """A sync failed. What is not settled now is written down as never to be confirmed, over restarts too:

        the kernel may have dropped those pages and yet show them, and a later fdatasync would know nothing of it.
        """
        extents = {(claim.offset, claim.offset + claim.record_bytes) for claim in self.claims.values()}
        extents.update(self.unsynced)
        self.unsynced = sorted(extents)
        if self.sealed is None:
            self.seal(f"an fdatasync failed: {self.sync_failure}")
        else:
            self._seal_passes = False
            self.save_state()

    def require_synced(self, needle: int) -> None:
        """Raises VolumeSealed where the needle's record (or tombstone) lies in what a failed sync left in doubt.

        VolumeDegraded where it may not be on all copies.
        """
        if self.held_back is None and not self.unsynced:
            return
        known = self.index.get(needle)
        if self.held_back is not None and known is not None and known[0] >= self.equal_before:
            raise self.degraded()
        if known is not None and any(start <= known[0] < end for start, end in self.unsynced):
            raise VolumeSealed(
                f"needle {needle:016x} may not be durable: volume {self.number} is sealed: {self.sealed}"
            )

    def save_state(self) -> None:
        """In any thread: write down what the log cannot say. A failure is logged, for nothing else can be done."""
        with self._state_lock:  # whoever comes last writes what is so by then: no seal is ever taken back
            self._damage_is_unsaved = False
            try:
                write_state(self.files, self.path, self._state(self.epoch, self.replica))
            except OSError as error:
                log.critical(
                    "volume %d: its state (sealed: %s) could not be written down: %s", self.number, self.sealed, error
                )

    def save_replica(self, epoch: int, replica: Replica) -> None:
        """In any thread: write down the epoch and this copy's part in it; only then is it so.

        Raises EpochOld, OSError.
        """
        with self._state_lock:
            if epoch < self.epoch:
                raise EpochOld(f"volume {self.number} is at epoch {self.epoch}")
            write_state(self.files, self.path, self._state(epoch, replica))
            self.epoch, self.replica = epoch, replica

    def _state(self, epoch: int, replica: Replica | None) -> State:
        return State(
            epoch,
            None if self._seal_passes else self.sealed,
            self.unsynced,
            self.scrubbed_ms,
            self.figures.damaged_count,
            self.damage,
            self.superblock.revision,
            replica,
        )

    def is_taken(self, needle: int) -> bool:
        """Whether a record of this id stands here, dead or alive, or is on its way."""
        return needle in self.claims or self.index.get(needle) is not None

    def _claim(self, kind: int, needle: int, meta: bytes, data_bytes: int, appended_ms: int) -> Claim:
        if self.is_taken(needle):  # first: a PUT that is repeated is answered whatever the volume's state
            raise NeedleTaken(f"needle {needle:016x} is taken")
        self._require_open()
        stored_bytes = HEADER_BYTES + len(meta) + data_bytes
        record_bytes = record.aligned(stored_bytes)
        if record_bytes > record.MAX_RECORD_BYTES:
            raise VolumeFull(f"a record holds at most {record.MAX_RECORD_BYTES} bytes")
        end = self.tail + record_bytes
        if end > self.size_limit or end > MAX_OFFSET - MAX_TOMBSTONE_BYTES * (self.figures.live_count + 1):
            raise VolumeFull(f"volume {self.number} has no room for {data_bytes} bytes more")
        self.room.require(record_bytes)
        return Claim(needle, self.tail, record_bytes, stored_bytes, kind, appended_ms, meta)

    def _require_open(self) -> None:
        if self.sealed is not None:
            raise VolumeSealed(f"volume {self.number} is sealed: {self.sealed}")
        if self.held_back is not None:
            raise self.degraded()

    def _live_header(self, claim: Claim, data_bytes: int, data_crc: int) -> bytes:
        meta = claim.meta
        return record.encode_header(
            self.tagger,
            LIVE,
            claim.needle,
            meta_bytes=len(meta),
            data_bytes=data_bytes,
            crc=crc32(meta, data_crc),
            appended_ms=claim.appended_ms,
        )

    def _write_at_tail(self, claim: Claim, buffers: list[Buffer]) -> None:
        # Peers' files are as long as this one, and what is given up later must not lie behind the end of any.
        extended_to = None if self.unshipped is None else claim.offset + claim.record_bytes
        failure = self._write(buffers, claim.offset, extended_to)
        if failure is not None:
            raise failure
        self._hold(claim)
        if self.unshipped is not None:
            self.unshipped.append((claim.offset, claim.offset + sum(map(len, buffers))))

    def _hold(self, claim: Claim) -> None:
        self.tail = claim.offset + claim.record_bytes
        self.claims[claim.needle] = claim

    def _write(self, buffers: list[Buffer], offset: int, extended_to: int | None = None) -> StoreError | None:
        """Write at the tail; what fails leaves the volume as it was, or seals it."""
        if self._is_closed:
            return VolumeSealed(f"volume {self.number} is closed: its server is stopping")
        if self.sealed is None:
            try:
                self.files.write_at(self.fd, buffers, offset)
                if extended_to is not None:
                    self.files.truncate(self.fd, extended_to)
            except OSError as error:
                self._give_back(offset)
                if error.errno in OUT_OF_SPACE:
                    return DiskFull(f"the disk took no record for volume {self.number}")
                self.seal(f"a write failed: {error}")
            else:
                return None
        return VolumeSealed(f"volume {self.number} is sealed: {self.sealed}")

    def _give_back(self, offset: int) -> None:
        try:
            self.files.truncate(self.fd, offset)
        except OSError as error:
            self.seal(f"a truncate failed: {error}")

    def _drop(self, claim: Claim) -> None:
        if self.claims.get(claim.needle) is claim:
            del self.claims[claim.needle]
            if claim.is_reserved:
                self.reservations.pop(claim.needle, None)
        if claim.waiters:
            waiters, claim.waiters = claim.waiters, []
            for waiter in waiters:
                waiter()

    def _enter(self, kind: int, needle: int, offset: int, stored_bytes: int) -> None:
        figures = self.figures
        if kind == LIVE:
            self.index.put(needle, offset, stored_bytes)
            figures.live_count += 1
            return
        known = self.index.get(needle)
        self.index.put(needle, offset, 0)
        figures.tombstone_count += 1
        if known is not None and known[1]:
            figures.live_count -= 1
            figures.garbage_bytes += record.aligned(known[1])

    # -- read ----------------------------------------------------------------------------------------------------

    def read(self, needle: int, limit: int | None = None) -> memoryview | None:
        """The data of a live needle, everything checked; None where its record has more than ``limit`` bytes.

        Raises NeedleUnknown, Damaged, ReadFailed.
        """
        offset, length = self.locate(needle)
        if limit is not None and length > limit:
            return None
        raw = self._pread(length, offset)
        data = record.live_data(self.tagger, raw, needle)
        if data is None or len(raw) != length:
            raise self._damaged(needle, offset)
        return data

    def look(self, needle: int) -> Needle:
        """Header and meta of a live needle; id and tag are checked, the data is not read. Raises as `read`."""
        offset, length = self.locate(needle)
        raw = self._pread(min(length, HEADER_BYTES + record.MAX_META_BYTES), offset)
        header = record.decode_header(self.tagger, raw)
        if (
            header is None
            or header.kind != LIVE
            or header.needle != needle
            or HEADER_BYTES + header.meta_bytes + header.data_bytes != length
        ):
            raise self._damaged(needle, offset)
        meta = raw[HEADER_BYTES : HEADER_BYTES + header.meta_bytes]
        return Needle(header, meta, offset + HEADER_BYTES + header.meta_bytes)

    def stored_length(self, needle: int) -> int | None:
        """Bytes of header, meta and data; 0: dead; None: never stored. Reads the index only."""
        known = self.index.get(needle)
        return None if known is None else known[1]

    def verdict_of_dead(self, needle: int) -> str:
        """What the tombstone of a dead needle says: "status code" of its refusal, or empty. Raises as `read`."""
        known = self.index.get(needle)
        if known is None or known[1]:
            raise NeedleUnknown(f"needle {needle:016x} is not dead")
        raw = self._pread(HEADER_BYTES + MAX_VERDICT_BYTES, known[0])
        header = record.decode_header(self.tagger, raw)
        if header is None or header.needle != needle or header.kind != record.TOMBSTONE:
            raise self._damaged(needle, known[0])
        verdict = raw[HEADER_BYTES : HEADER_BYTES + header.meta_bytes]
        if not record.body_is_sound(header, verdict, b""):
            raise self._damaged(needle, known[0])
        return verdict.decode("ascii")

    def same_data(self, needle: Needle, data: Buffer, at: int) -> bool:
        """Whether ``data`` is what the needle holds ``at`` bytes from its start. Raises ReadFailed."""
        return self._pread(len(data), needle.data_offset + at) == data

    def locate(self, needle: int) -> tuple[int, int]:
        """Offset and length (header, meta, data) of a live needle's record. Raises NeedleUnknown."""
        known = self.index.get(needle)
        if known is None or not known[1]:
            raise NeedleUnknown(f"no needle {needle:016x} in volume {self.number}")
        return known

    def _pread(self, size_bytes: int, offset: int) -> bytes:
        try:
            return self.files.read_at(self.fd, size_bytes, offset)
        except OSError as error:
            log.error("volume %d: reading %d bytes at %d failed: %s", self.number, size_bytes, offset, error)
            raise ReadFailed(f"volume {self.number} could not be read") from error

    def _damaged(self, needle: int, offset: int) -> Damaged:
        if needle not in self.damaged_needles:
            self.damaged_needles.add(needle)
            log.error("volume %d: needle %016x at %d is damaged", self.number, needle, offset)
            size_bytes = record.aligned(self.stored_length(needle) or HEADER_BYTES)  # a tombstone's at the least
            self.note_damage(Damage(offset, size_bytes, needle, READ))
        return Damaged(f"needle {needle:016x} of volume {self.number} is damaged")

    # -- damage --------------------------------------------------------------------------------------------------

    def end_scrub(self, found: Sequence[Damage], count: int, *, end: int, now_ms: int) -> None:
        """A full pass up to ``end`` found ``count`` damages, these among them; it knows better than all before it.

        `save_state` is to follow, in a thread.
        """
        beyond = [damage for damage in self.damage if damage.offset >= end]  # a read came across it meanwhile
        self.damage = (*found, *beyond)[:MAX_LISTED]
        self.figures.damaged_count = count + len(beyond)
        self.damaged_needles = self._damaged_by_index()
        self.scrubbed_ms = now_ms

    def _know_damage(self, state: State, end: int) -> None:
        """What was written down of the damage in this very file, before ``end``: newer than the checkpoint's figure.

        What lies behind is read again, and found if it is there still; so is all where there is no checkpoint.
        """
        if state.damaged_revision == self.superblock.revision:
            self.damage = tuple(damage for damage in state.damaged if damage.offset < end)
            self.figures.damaged_count = state.damaged_count - (len(state.damaged) - len(self.damage))
            self.damaged_needles = self._damaged_by_index()

    def _damaged_by_index(self) -> set[int]:
        """The needles whose one record that counts is among the damage."""
        needles = set()
        for damage in self.damage:
            known = None if damage.needle is None else self.index.get(damage.needle)
            if known is not None and known[0] == damage.offset and damage.needle is not None:
                needles.add(damage.needle)
        return needles

    def note_damage(self, damage: Damage) -> None:
        """Count damage that was come across, unless it is known."""
        if any(known.offset == damage.offset for known in self.damage):
            return
        self.figures.damaged_count += 1
        self.damage = (*self.damage, damage)[:MAX_LISTED]
        self._damage_is_unsaved = True

    def report(self) -> dict[str, int | str]:
        """The figures of docs/protocol.md, section 5."""
        return {
            "volume": self.number,
            "epoch": self.epoch,
            "revision": self.superblock.revision,
            "state": "sealed" if self.sealed else "open",
            "size_bytes": self.tail,
            "garbage_bytes": self.figures.garbage_bytes,
            "live_count": self.figures.live_count,
            "tombstone_count": self.figures.tombstone_count,
            "damaged_count": self.figures.damaged_count,
        }


def volume_path(directory: Path, number: int) -> Path:
    return directory / f"{number:010d}.vol"


def _require_name(path: Path, superblock: Superblock) -> None:
    if path != volume_path(path.parent, superblock.volume):
        raise VolumeUnusable(f"{path.name} holds volume {superblock.volume}")


def _state_path(path: Path) -> Path:
    return path.with_suffix(".state")


def write_state(files: FileSystem, path: Path, state: State) -> None:
    files.replace_file(_state_path(path), states.encode(state))


def read_state(files: FileSystem, path: Path) -> State:
    """Of the volume at ``path``. Raises VolumeUnusable, OSError."""
    state_path = _state_path(path)
    try:
        return states.decode(files.read_file(state_path))
    except FileNotFoundError:
        return State()
    except states.StateInvalid as error:
        raise VolumeUnusable(f"{state_path.name} holds no state: {error}") from error
