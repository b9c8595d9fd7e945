"""A volume against a dict, on a disk that loses what was not synced.

Small and streamed puts, duplicates, reads and ranges, deletes, syncs, checkpoints, compactions in all their steps,
scrubs, stops, calls that fail, and power cuts between any two operations and in the middle of one. A cut leaves any
state that the disk may be in (`SimulatedDisk`): nothing, all, all up to a moment, or any mixture of what was not
synced.

`durable` is what was acknowledged: it must always be there, and nothing else may be read. `perhaps` is what was written
and never acknowledged: after a crash it is there whole, or it is not.

A longer run: ``MODEL_EXAMPLES=10000 pytest tests/property/test_volume_against_dict.py``.
"""

import errno
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.volume_server.faults import ANY, META, SUPERBLOCK, FaultyDisk, data_of, new_volume, write
from volume_server.checkpoint import CheckpointFile
from volume_server.compaction import CompactionFailed, Copy, install, new_twin_directory, tidy
from volume_server.errors import Damaged, DiskFull, NeedleTaken, StoreError, VolumeSealed
from volume_server.scrub import scrub
from volume_server.volume import Claim, Volume, volume_path

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "300"))
STEPS = 30
slots = st.integers(1, 12)
bodies = st.binary(max_size=60) | st.integers(500, 2000).map(lambda size: bytes([size % 251]) * size)
"""Some longer than a sector, so that they can be torn."""
verdicts = st.sampled_from(["", "412 precondition_failed"])
FULL_DISK_SLOT = 99
SEALED_SLOT = 100
DROP_ALL_MS = 1 << 60
FAILURES = (OSError, StoreError, CompactionFailed)


class VolumeAgainstDict(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="warehouse-model-"))
        self.generation = 0
        self.durable: dict[int, bytes | None] = {}
        """What was acknowledged: needle -> data, None: dead."""
        self.verdicts: dict[int, str] = {}
        """Of the dead, what their tombstones say where that is durable, too."""
        self.perhaps: dict[int, set[bytes]] = {}
        """What was written since the volume was opened: a crash may leave it, though it was never acknowledged."""
        self.perhaps_dead: dict[int, str] = {}
        self.doubtful: dict[int, bytes | None] = {}
        """What a failed sync left in doubt: it is read, and never confirmed."""
        self.lost: set[int] = set()
        """Of that, what a checkpoint knew and a power cut took: it is found damaged."""
        self.open: dict[int, tuple[Claim, bytes, int]] = {}
        """Reservations: claim, body, how much of it is written."""
        self.written: list[tuple[Claim, int, bytes | None]] = []
        """What the next sync makes durable: claim, needle, data (None: a tombstone)."""
        self.copy: Copy | None = None
        self.droppable: set[int] = set()
        """The dead whose tombstones the compaction under way will drop."""
        self.may_checkpoint = True
        self.known_damage = 0

    @initialize(data=st.data())
    def make(self, data: st.DataObject) -> None:
        """A new volume survives a power cut at once."""
        self.disk = FaultyDisk(self._directory())
        self.volume = new_volume(self.disk.directory, self.disk)
        self._cut_power(data)

    def teardown(self) -> None:
        if hasattr(self, "volume"):
            self._leave()
        shutil.rmtree(self.place)

    # -- writes ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.volume.sealed)
    @rule(slot=slots, body=bodies, synced=st.booleans())
    def put(self, slot: int, body: bytes, synced: bool) -> None:
        if self._is_taken(slot):
            with pytest.raises(NeedleTaken):
                write(self.volume, slot, body)
            standing = self.durable.get(slot)
            if standing is not None and len(standing) == len(body):
                assert self.volume.same_data(self.volume.look(slot), body, 0) == (standing == body)
            return
        self._write(slot, body)
        if synced:
            self.sync()

    @precondition(lambda self: not self.volume.sealed)
    @rule(slot=slots, body=bodies)
    def begin(self, slot: int, body: bytes) -> None:
        if self._is_taken(slot):
            with pytest.raises(NeedleTaken):
                self.volume.reserve(slot, META, len(body), appended_ms=1)
        else:
            self.open[slot] = (self.volume.reserve(slot, META, len(body), appended_ms=1), body, 0)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), part=st.integers(1, 1000))
    def receive(self, data: st.DataObject, part: int) -> None:
        slot = data.draw(st.sampled_from(sorted(self.open)))
        claim, body, at = self.open[slot]
        self.volume.write_data(claim, body[at : at + part], at)
        self.open[slot] = (claim, body, min(at + part, len(body)))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.open)))
        claim, body, at = self.open.pop(slot)
        self.volume.write_data(claim, body[at:], at)
        self._note(slot, body)
        self.volume.finish(claim, data_crc=zlib.crc32(body))
        self.written.append((claim, slot, body))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        claim, _, _ = self.open.pop(data.draw(st.sampled_from(sorted(self.open))))
        self.volume.abort(claim)

    @precondition(lambda self: not self.volume.sealed and self._living())
    @rule(data=st.data(), verdict=verdicts)
    def delete(self, data: st.DataObject, verdict: str) -> None:
        self._delete(data.draw(st.sampled_from(self._living())), verdict)

    @rule()
    def sync(self) -> None:
        """What was written is durable, and is acknowledged."""
        if self.volume.sync_failure is None:
            self.volume.sync_log()
            self._settle()

    # -- reads -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self._living(empty=False))
    @rule(data=st.data())
    def read_range(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(self._living(empty=False)))
        body = self.durable[slot]
        assert body
        start = data.draw(st.integers(0, len(body) - 1))
        end = data.draw(st.integers(start, len(body)))
        needle = self.volume.look(slot)
        assert needle.header.data_bytes == len(body)
        assert os.pread(self.volume.fd, end - start, needle.data_offset + start) == body[start:end]

    @precondition(lambda self: not self.known_damage and not self.lost)
    @rule()
    def scrub(self) -> None:
        found = scrub(self.disk, self.volume.fd, self.volume.superblock, end=self.volume.watermark)
        assert list(found) == []

    # -- upkeep ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.may_checkpoint)
    @rule()
    def checkpoint(self) -> None:
        job = self.volume.begin_checkpoint()
        self.volume.end_checkpoint(job, self.volume.write_checkpoint(job))

    @precondition(lambda self: self.may_checkpoint and not self.volume.sealed and self.copy is None)
    @rule(drops=st.booleans())
    def begin_compaction(self, drops: bool) -> None:
        self._begin_compaction(drops=drops)

    @precondition(lambda self: self.copy is not None)
    @rule()
    def follow(self) -> None:
        assert self.copy is not None
        self.copy.follow(self.volume.watermark)

    @precondition(lambda self: self.copy is not None and not self.volume.sealed)
    @rule()
    def swap(self) -> None:
        """The cut, which waits for all that is under way."""
        for slot in sorted(self.open):
            claim, body, at = self.open.pop(slot)
            self.volume.write_data(claim, body[at:], at)
            self._note(slot, body)
            self.volume.finish(claim, data_crc=zlib.crc32(body))
            self.written.append((claim, slot, body))
        self.sync()
        self._swap()

    # -- stops and crashes -----------------------------------------------------------------------------------------

    @rule(lose_index=st.booleans())
    def stop_cleanly(self, lose_index: bool) -> None:
        for claim, _, _ in self.open.values():
            self.volume.abort(claim)
        self.open.clear()
        self.sync()
        report = self.volume.report()
        self._close_copy()
        self.volume.close()
        if lose_index:
            self.volume.path.with_suffix(".idx").unlink(missing_ok=True)
        was_sealed = self.volume.sealed
        self._open()
        assert self.volume.sealed == was_sealed
        if was_sealed:
            self._reconcile()
            return
        self.perhaps.clear()
        self.perhaps_dead.clear()
        assert self.known_damage or self.volume.report() == report

    @rule()
    def kill(self) -> None:
        """All that was written is still there, and what is read of it now must outlive a power cut after that."""
        self._close_copy(forget=False)
        self.volume.close(clean=False)
        was_sealed = self.volume.sealed
        self._open()
        assert self.volume.sealed == was_sealed
        self._reconcile()

    @rule(data=st.data())
    def cut_power(self, data: st.DataObject) -> None:
        self._cut_power(data)

    @precondition(lambda self: not self.volume.sealed)
    @rule(data=st.data(), slot=slots, body=bodies, after=st.integers(0, 12), part=st.integers(0, 600))
    def cut_power_in(self, data: st.DataObject, slot: int, body: bytes, after: int, part: int) -> None:
        """In the middle of an operation: from some file operation on, which was half done, nothing works any more."""
        operations: list[Callable[[], object]] = [self.volume.close]
        if not self._is_taken(slot):
            operations.append(lambda: self._write(slot, body))
        if self._living():
            operations.append(lambda: self._delete(self._living()[0], ""))
        if self.may_checkpoint:
            operations.append(self.checkpoint)
            if self.copy is None:
                operations.append(lambda: self._begin_compaction(drops=True))
        if self.copy is not None:
            operations.append(self.follow)
            if not self.open and not self.written:
                operations.append(self._swap)
        operation = data.draw(st.sampled_from(operations))
        self.disk.fail(ANY, after=after, part_bytes=part, sticky=True)
        try:
            operation()
        except FAILURES:
            pass
        finally:
            self.disk.heal()
        self._cut_power(data, is_open=operation != self.volume.close)

    # -- calls that fail -------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.volume.sealed and not self._is_taken(FULL_DISK_SLOT))
    @rule(part=st.integers(0, 100))
    def fill_the_disk(self, part: int) -> None:
        self._note(FULL_DISK_SLOT, b"there is no room for this")
        with self._failing("write_at", errno.ENOSPC, part_bytes=part), pytest.raises(DiskFull):
            write(self.volume, FULL_DISK_SLOT, b"there is no room for this")

    @precondition(lambda self: self.may_checkpoint)
    @rule(call=st.sampled_from(["open", "write_at", "sync_file"]), after=st.integers(0, 1))
    def fail_a_checkpoint(self, call: str, after: int) -> None:
        """No other one is made until the volume is opened anew."""
        job = self.volume.begin_checkpoint()
        places = None
        with self._failing(call, after=after):
            try:
                places = self.volume.write_checkpoint(job)
            except OSError:
                self.may_checkpoint = False
        self.volume.end_checkpoint(job, places)

    @precondition(lambda self: self.may_checkpoint and not self.volume.sealed and self.copy is None)
    @rule(after=st.integers(0, 30), part=st.integers(0, 600))
    def fail_a_compaction(self, after: int, part: int) -> None:
        """At any call up to the rename: the volume is as it was."""
        self.checkpoint()
        with self._failing(ANY, after=after, part_bytes=part):
            try:
                copy = self._copy(drop_before_ms=0)
                copy.close()
            except FAILURES:
                pass
        tidy(self.disk, self.volume.path)

    @precondition(lambda self: not self.volume.sealed and len(self.durable) > 2)
    @rule(slot=slots, body=bodies, call=st.sampled_from(["write_at", "sync_data"]))
    def fail_for_good(self, slot: int, body: bytes, call: str) -> None:
        """A write or a sync that fails seals the volume; nothing that it was about is ever confirmed."""
        if self._is_taken(slot):
            return
        with self._failing(call):
            try:
                self._write(slot, body)
                self.volume.sync_log()
            except OSError:
                self.volume.seal_unsynced()
            except VolumeSealed:
                pass
        assert self.volume.sealed
        if call == "sync_data":
            for claim, _, _ in self.written:
                self.volume.abort(claim)
            self.written.clear()
        with pytest.raises(VolumeSealed):
            write(self.volume, SEALED_SLOT, b"the volume is sealed")

    # -- what must always hold -------------------------------------------------------------------------------------

    @invariant()
    def holds_what_is_durable(self) -> None:
        if not hasattr(self, "volume"):
            return
        expected = self.durable | self.doubtful
        assert self._contents() == expected
        report = self.volume.report()
        assert report["live_count"] == sum(body is not None for body in expected.values()) + len(self.lost)
        assert report["tombstone_count"] == sum(body is None for body in expected.values())
        assert self.known_damage or self.lost or not report["damaged_count"]
        for slot, verdict in self.verdicts.items():
            assert self.volume.verdict_of_dead(slot) == verdict
        for slot in self.doubtful:
            with pytest.raises(VolumeSealed):
                self.volume.require_synced(slot)

    # -- how -------------------------------------------------------------------------------------------------------

    def _is_taken(self, slot: int) -> bool:
        on_its_way = self.open.keys() | {slot for _, slot, _ in self.written}
        return slot in on_its_way or slot in self.durable or slot in self.doubtful

    def _living(self, *, empty: bool = True) -> list[int]:
        """Those that live and that nobody is deleting; those of no bytes only where ``empty``."""
        dying = {slot for _, slot, _ in self.written} | self.doubtful.keys()
        living = {slot for slot, body in self.durable.items() if body or (empty and body is not None)}
        return sorted(living - dying)

    def _note(self, slot: int, body: bytes) -> None:
        self.perhaps.setdefault(slot, set()).add(body)

    def _write(self, slot: int, body: bytes) -> None:
        self._note(slot, body)
        self.written.append((write(self.volume, slot, body), slot, body))

    def _delete(self, slot: int, verdict: str) -> None:
        self.perhaps_dead[slot] = verdict
        self.written.append((self.volume.tombstone(slot, verdict=verdict, appended_ms=1), slot, None))

    def _settle(self) -> None:
        self.volume.settle([claim for claim, _, _ in self.written])
        for _, slot, body in self.written:
            self.durable[slot] = body
            if body is None:
                self.verdicts[slot] = self.perhaps_dead[slot]
        self.written.clear()

    @contextmanager
    def _failing(self, call: str, error: int = errno.EIO, *, after: int = 0, part_bytes: int = 0) -> Iterator[None]:
        self.disk.fail(call, error, after=after, part_bytes=part_bytes)
        try:
            yield
        finally:
            self.disk.heal()

    def _begin_compaction(self, *, drops: bool) -> None:
        self.checkpoint()
        watermark = self.volume.watermark
        dead = {slot for slot, offset, length in self.volume.index.items() if not length and offset < watermark}
        self.copy = self._copy(drop_before_ms=DROP_ALL_MS if drops else 0)
        self.droppable = dead if drops else set()

    def _copy(self, *, drop_before_ms: int) -> Copy:
        """The first part of a compaction: of all that the last checkpoint knows."""
        path = self.volume.path
        copy = Copy(self.disk, path, new_twin_directory(path), drop_before_ms=drop_before_ms)
        try:
            loaded = CheckpointFile(self.disk, path.with_suffix(".idx"), copy.old).load()
            assert loaded is not None
            copy.copy(loaded.index, loaded.watermark, reserve_bytes=loaded.watermark)
        except BaseException:
            copy.close()
            raise
        return copy

    def _swap(self) -> None:
        copy, volume = self.copy, self.volume
        assert copy is not None
        copy.follow(volume.watermark)
        copy.save()
        twin = Volume.open(self.disk, copy.path)
        try:
            copy.follow(volume.tail)
            twin.catch_up()
            assert twin.tail == copy.tail
            assert install(self.disk, volume.path, copy.path.parent)
        except BaseException:
            self.disk.close(twin.fd)
            raise
        self._close_copy(forget=False)
        volume.take_over(twin)
        for slot in self.droppable:
            del self.durable[slot]
            self.verdicts.pop(slot, None)
        self.droppable = set()

    def _close_copy(self, *, forget: bool = True) -> None:
        if self.copy is not None:
            self.copy.close()
            self.copy = None
        if forget:
            self.droppable = set()

    def _directory(self) -> Path:
        self.generation += 1
        directory = self.place / str(self.generation)
        directory.mkdir()
        return directory

    def _leave(self) -> None:
        """The end of a process, as far as its files are concerned."""
        self._close_copy(forget=False)
        self.volume.close(clean=False)
        self.disk.release()

    def _open(self) -> None:
        """As a server does at its start."""
        path = volume_path(self.disk.directory, SUPERBLOCK.volume)
        tidy(self.disk, path)
        self.volume = Volume.open(self.disk, path)
        for temporary in self.disk.directory.glob(".*"):  # of a `.state` that was being replaced
            self.disk.remove(temporary)
        left = {found.suffix for found in self.disk.directory.iterdir()}
        assert {".state", ".vol"} <= left <= {".idx", ".state", ".vol"}
        self.may_checkpoint = True

    def _cut_power(self, data: st.DataObject, *, is_open: bool = True) -> None:
        was_sealed = self.volume.sealed is not None
        image = self._directory()
        self.disk.crash_image(image, lambda count: data.draw(st.integers(0, count - 1)))
        if is_open:
            self._leave()
        else:
            self._close_copy(forget=False)
            self.disk.release()
        shutil.rmtree(self.disk.directory)
        self.disk = FaultyDisk(image)
        self._open()
        assert was_sealed or self.volume.sealed is None
        self._reconcile()

    def _reconcile(self) -> None:
        """After a crash: nothing that was acknowledged may be missing; what else is there counts from now on."""
        found = self._contents()
        for slot, body in self.durable.items():
            if slot in found:
                assert found[slot] == body or (found[slot] is None and slot in self.perhaps_dead)
            else:
                assert slot in self.droppable
        for slot, new in found.items():
            assert slot in self.durable or new in self.perhaps.get(slot, ())
        self.durable = {slot: self.durable[slot] for slot in self.durable.keys() & found.keys()}
        self.doubtful = {slot: new for slot, new in found.items() if self._is_in_doubt(slot)}
        self.durable |= {slot: new for slot, new in found.items() if slot not in self.doubtful}
        self.verdicts = {slot: verdict for slot, verdict in self.verdicts.items() if found.get(slot, b"") is None}
        for slot in self.perhaps_dead.keys() - self.verdicts.keys() - self.doubtful.keys():
            if found.get(slot, b"") is None:
                self._learn_verdict(slot, self.perhaps_dead[slot])
        self.perhaps = {slot: {new} for slot, new in self.doubtful.items() if new is not None}
        self.perhaps_dead = {slot: self.perhaps_dead[slot] for slot, new in self.doubtful.items() if new is None}
        self.open.clear()
        self.written.clear()
        self.droppable = set()
        self.known_damage = self.volume.figures.damaged_count

    def _contents(self) -> dict[int, bytes | None]:
        """What can be read, with None for the dead; all else must be in doubt."""
        found: dict[int, bytes | None] = {}
        self.lost = set()
        for slot, _, length in list(self.volume.index.items()):
            try:
                found[slot] = data_of(self.volume, slot) if length else None
            except Damaged:
                assert self._is_in_doubt(slot)
                self.lost.add(slot)
        return found

    def _is_in_doubt(self, slot: int) -> bool:
        try:
            self.volume.require_synced(slot)
        except VolumeSealed:
            return True
        return False

    def _learn_verdict(self, slot: int, verdict: str) -> None:
        """That of a tombstone that was not acknowledged: it may have been damaged, but is no other one."""
        try:
            assert self.volume.verdict_of_dead(slot) == verdict
        except Damaged:
            return
        self.verdicts[slot] = verdict


logging.getLogger("volume_server").addHandler(logging.NullHandler())
VolumeAgainstDict.TestCase.settings = settings(max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None)
TestVolumeAgainstDict = VolumeAgainstDict.TestCase
