"""A volume against a dict: puts, slow uploads, aborts, deletes, full disks, checkpoints, clean and dirty reopenings.

A crash is played by opening a copy of the file that holds what was synced and any part of what was not.
"""

import errno
import shutil
import tempfile
import zlib
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.volume_server.faults import META, FaultyFiles, contents, new_volume, put, settle, write
from volume_server.durability import FileSystem
from volume_server.errors import DiskFull, NeedleTaken
from volume_server.volume import Claim, Volume

slots = st.integers(1, 12)
bodies = st.binary(max_size=60)


class VolumeAgainstDict(RuleBasedStateMachine):
    @initialize()
    def make(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="warehouse-model-"))
        self.files = FaultyFiles()
        self.volume = new_volume(self.directory, self.files)
        self.model: dict[int, bytes | None] = {}
        """What is durable: needle -> data, None: dead."""
        self.open: dict[int, tuple[Claim, bytes, int]] = {}
        """Reservations: claim, body, how much of it is written."""

    def teardown(self) -> None:
        self.volume.close(clean=False)
        shutil.rmtree(self.directory)

    @rule(slot=slots, body=bodies)
    def put(self, slot: int, body: bytes) -> None:
        if slot in self.model or slot in self.open:
            with pytest.raises(NeedleTaken):
                write(self.volume, slot, body)
        else:
            put(self.volume, slot, body)
            self.model[slot] = body

    @rule(slot=slots, body=bodies)
    def begin(self, slot: int, body: bytes) -> None:
        if slot in self.model or slot in self.open:
            with pytest.raises(NeedleTaken):
                self.volume.reserve(slot, META, len(body), appended_ms=1)
        else:
            self.open[slot] = (self.volume.reserve(slot, META, len(body), appended_ms=1), body, 0)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), part=st.integers(1, 60))
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
        self.volume.finish(claim, data_crc=zlib.crc32(body))
        settle(self.volume, claim)
        self.model[slot] = body

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        claim, _, _ = self.open.pop(data.draw(st.sampled_from(sorted(self.open))))
        self.volume.abort(claim)

    @precondition(lambda self: any(body is not None for body in self.model.values()))
    @rule(data=st.data(), verdict=st.sampled_from(["", "412 precondition_failed"]))
    def delete(self, data: st.DataObject, verdict: str) -> None:
        slot = data.draw(st.sampled_from(sorted(slot for slot, body in self.model.items() if body is not None)))
        settle(self.volume, self.volume.tombstone(slot, verdict=verdict, appended_ms=1))
        self.model[slot] = None

    @rule(part=st.integers(0, 100))
    def fill_the_disk(self, part: int) -> None:
        self.files.fail("write_at", errno.ENOSPC, part_bytes=part)
        with pytest.raises(DiskFull):
            write(self.volume, 99, b"there is no room for this")

    @rule()
    def checkpoint(self) -> None:
        job = self.volume.begin_checkpoint()
        self.volume.end_checkpoint(job, self.volume.write_checkpoint(job))

    @rule(lose_index=st.booleans())
    def stop_cleanly(self, lose_index: bool) -> None:
        for claim, _, _ in self.open.values():
            self.volume.abort(claim)
        self.open.clear()
        report = self.volume.report()
        self.volume.close()
        if lose_index:
            self.volume.path.with_suffix(".idx").unlink()
        self.volume = Volume.open(self.files, self.volume.path)
        assert self.volume.report() == report

    @rule(data=st.data(), slot=slots, body=bodies)
    def crash(self, data: st.DataObject, slot: int, body: bytes) -> None:
        """With a last record not yet synced, of which any part reached the disk."""
        synced = self.volume.path.stat().st_size
        if slot not in self.model and slot not in self.open:
            write(self.volume, slot, body)
        size = self.volume.path.stat().st_size
        self.volume.close(clean=False)
        with self.volume.path.open("r+b") as file:
            file.truncate(data.draw(st.integers(synced, size)))
        self.open.clear()
        self.volume = Volume.open(self.files, self.volume.path)
        found = contents(self.volume)
        if found.get(slot) == body and slot not in self.model:  # whole, though nobody was told
            self.model[slot] = body

    @invariant()
    def holds_what_is_durable(self) -> None:
        if hasattr(self, "volume"):
            assert contents(self.volume) == self.model
            assert self.volume.sealed is None
            report = self.volume.report()
            assert report["live_count"] == sum(body is not None for body in self.model.values())
            assert report["tombstone_count"] == sum(body is None for body in self.model.values())
            assert report["damaged_count"] == 0

    @invariant()
    def a_copy_opens_to_the_same(self) -> None:
        """What lies in the file at any moment is enough."""
        if hasattr(self, "volume"):
            copy = self.directory / "copy"
            copy.mkdir(exist_ok=True)
            path = copy / self.volume.path.name
            path.write_bytes(self.volume.path.read_bytes())
            other = Volume.open(FileSystem(), path)
            assert contents(other) == self.model
            other.close(clean=False)


VolumeAgainstDict.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestVolumeAgainstDict = VolumeAgainstDict.TestCase
