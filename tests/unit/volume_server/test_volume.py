"""The log of one volume: what is acknowledged stays, what is not leaves no trace, and failures seal."""

import errno
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.volume_server.faults import (
    META,
    NEEDLE,
    SALT,
    SUPERBLOCK,
    FaultyFiles,
    contents,
    data_of,
    delete,
    finish,
    new_volume,
    put,
    reopen,
    settle,
    write,
)
from volume_server import record
from volume_server.durability import FileSystem
from volume_server.errors import (
    Damaged,
    DiskFull,
    NeedleTaken,
    NeedleUnknown,
    StoreError,
    VolumeFull,
    VolumeSealed,
    VolumeUnusable,
)
from volume_server.superblock import RECORDS_START, Superblock
from volume_server.volume import MAX_QUEUED_BUFFERS, MAX_QUEUED_BYTES, Claim, Room, Volume, volume_path


@pytest.fixture
def files() -> FaultyFiles:
    return FaultyFiles()


@pytest.fixture
def volume(tmp_path: Path, files: FaultyFiles) -> Volume:
    return new_volume(tmp_path, files)


# -- write and read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 4096])
def test_needle_comes_back(volume: Volume, size: int) -> None:
    data = os.urandom(size)
    put(volume, NEEDLE, data)
    found, header = volume.read(NEEDLE), volume.look(NEEDLE).header
    assert bytes(found) == data
    assert header.crc == zlib.crc32(META, zlib.crc32(data))
    assert volume.look(NEEDLE).meta == META
    assert volume.tail % record.ALIGNMENT == 0
    assert volume.path.stat().st_size == volume.tail


def test_needle_is_not_found_before_it_is_durable(volume: Volume) -> None:
    claim = write(volume, NEEDLE, b"data")
    with pytest.raises(NeedleUnknown):
        volume.read(NEEDLE)
    settle(volume, claim)
    assert data_of(volume, NEEDLE) == b"data"


def test_sync_comes_before_the_needle_counts(volume: Volume, files: FaultyFiles) -> None:
    before = files.calls["sync_data"]
    put(volume, NEEDLE, b"data")
    assert files.calls["sync_data"] == before + 1


def test_new_volume_is_durable_by_file_and_directory(tmp_path: Path) -> None:
    done: list[str] = []

    class Watching(FileSystem):
        def sync_file(self, fd: int) -> None:
            super().sync_file(fd)
            done.append("file " + Path(f"/proc/self/fd/{fd}").readlink().name.split(".")[2])

        def rename(self, source: Path, target: Path) -> None:
            super().rename(source, target)
            done.append("rename " + target.suffix[1:])

        def sync_directory(self, path: Path) -> None:
            super().sync_directory(path)
            done.append("directory")

    new_volume(tmp_path, Watching())
    assert done == ["file state", "rename state", "directory", "file vol", "rename vol", "directory"]


def test_volume_is_made_only_once(tmp_path: Path) -> None:
    new_volume(tmp_path)
    with pytest.raises(FileExistsError):
        new_volume(tmp_path)


def test_file_under_another_name_is_refused(tmp_path: Path) -> None:
    volume = new_volume(tmp_path)
    volume.close()
    other = volume_path(tmp_path, 8)
    volume.path.rename(other)
    with pytest.raises(VolumeUnusable, match="holds volume 7"):
        Volume.open(FileSystem(), other)


@pytest.mark.parametrize(
    "raw", [b"{", b"[]", b'{"epoch":"x","sealed":null}', b"{}", b'{"epoch":1,"sealed":null,"unsynced":[1]}']
)
def test_state_that_is_none_makes_the_volume_unusable(volume: Volume, raw: bytes) -> None:
    volume.close()
    volume.path.with_suffix(".state").write_bytes(raw)
    with pytest.raises(VolumeUnusable, match="holds no state"):
        Volume.open(FileSystem(), volume.path)


# -- reservations ------------------------------------------------------------------------------------------------


def test_slow_uploads_neither_block_nor_mix(volume: Volume) -> None:
    """Two bodies come in by turns; a small needle is written and durable between."""
    first = volume.reserve(NEEDLE, META, 20, appended_ms=1)
    second = volume.reserve(NEEDLE + 1, META, 20, appended_ms=1)
    for at in range(0, 20, 5):
        volume.write_data(first, b"aaaaa", at)
        volume.write_data(second, b"bbbbb", at)
        put(volume, NEEDLE + 10 + at, b"small")
    for claim, data in ((second, b"b" * 20), (first, b"a" * 20)):
        volume.finish(claim, data_crc=zlib.crc32(data))
    settle(volume, first, second)
    assert data_of(volume, NEEDLE) == b"a" * 20
    assert data_of(volume, NEEDLE + 1) == b"b" * 20
    before = contents(volume)
    assert contents(reopen(volume, clean=False)) == before


def test_abort_at_the_tail_gives_the_space_back(volume: Volume) -> None:
    put(volume, NEEDLE, b"before")
    size = volume.path.stat().st_size
    claim = volume.reserve(NEEDLE + 1, META, 1000, appended_ms=1)
    volume.write_data(claim, bytes(500), 0)
    assert volume.abort(claim)
    assert volume.path.stat().st_size == volume.tail == size
    assert volume.figures.garbage_bytes == 0
    put(volume, NEEDLE + 1, b"again")
    assert data_of(volume, NEEDLE + 1) == b"again"


def test_abort_elsewhere_stays_filler_and_is_counted(volume: Volume) -> None:
    claim = volume.reserve(NEEDLE, META, 1000, appended_ms=1)
    volume.write_data(claim, b"half of a body", 0)
    put(volume, NEEDLE + 1, b"behind")
    assert not volume.abort(claim)
    assert volume.figures.garbage_bytes == claim.record_bytes
    put(volume, NEEDLE, b"again")
    report = volume.report()
    again = reopen(volume, clean=False)
    assert contents(again) == {NEEDLE: b"again", NEEDLE + 1: b"behind"}
    assert again.report() == report


def test_abort_beside_open_reservations_leaves_them_alone(volume: Volume) -> None:
    first = volume.reserve(NEEDLE, META, 100, appended_ms=1)
    last = volume.reserve(NEEDLE + 1, META, 100, appended_ms=1)
    assert volume.abort(last)
    assert volume.tail == last.offset  # the file may be shorter, what is reserved is not
    put(volume, NEEDLE + 2, b"in its place")
    finish(volume, first, b"x" * 100)
    assert contents(reopen(volume, clean=False)) == {NEEDLE: b"x" * 100, NEEDLE + 2: b"in its place"}


@pytest.mark.parametrize("clean", [True, False])
def test_what_is_given_up_after_the_close_touches_no_file(volume: Volume, clean: bool) -> None:
    """Clients may leave while the server stops. By then the descriptor may be another file's."""
    put(volume, NEEDLE, b"before")
    reserved = volume.reserve(NEEDLE + 1, META, 1000, appended_ms=1)
    queued = write(volume, NEEDLE + 2, b"behind")
    volume.close(clean=clean)
    raw = volume.path.read_bytes()
    with open(volume.path.parent / "another", "wb") as another:  # takes the lowest free descriptor
        another.write(b"x" * len(raw))
        another.flush()
        assert not volume.abort(queued)
        assert not volume.abort(reserved)
        with pytest.raises(OSError):
            volume.write_data(reserved, b"late", 0)
        volume.seal("a write failed")
    assert (volume.path.parent / "another").read_bytes() == b"x" * len(raw)
    assert volume.path.read_bytes() == raw
    again = Volume.open(volume.files, volume.path)
    assert again.report()["state"] == "open"
    put(again, NEEDLE + 1, b"again")
    assert data_of(again, NEEDLE) == b"before"


def test_largest_record_and_one_byte_more(volume: Volume) -> None:
    most = record.MAX_RECORD_BYTES - record.HEADER_BYTES - len(META)
    with pytest.raises(VolumeFull, match="at most"):
        volume.reserve(NEEDLE, META, most + 1, appended_ms=1)
    assert volume.path.stat().st_size == RECORDS_START
    claim = volume.reserve(NEEDLE, META, most, appended_ms=1)
    volume.write_data(claim, b"end", most - 3)
    crc = 0
    for start in range(0, most - 3, 1 << 20):
        crc = zlib.crc32(bytes(min(1 << 20, most - 3 - start)), crc)
    volume.finish(claim, data_crc=zlib.crc32(b"end", crc))
    settle(volume, claim)
    assert volume.path.stat().st_blocks * 512 < 1 << 20  # sparse: the test costs no disk
    assert volume.look(NEEDLE).header.data_bytes == most
    again = reopen(volume, clean=False)
    assert again.locate(NEEDLE) == (RECORDS_START, most + record.HEADER_BYTES + len(META))


def test_volume_takes_records_up_to_its_limit_and_tombstones_beyond(volume: Volume) -> None:
    record_bytes = put(volume, NEEDLE, b"data").record_bytes
    volume.size_limit = volume.tail + record_bytes
    with pytest.raises(VolumeFull, match="no room"):
        write(volume, NEEDLE + 1, b"data" + bytes(8))
    put(volume, NEEDLE + 1, b"data")
    assert volume.tail == volume.size_limit
    with pytest.raises(VolumeFull):
        volume.reserve(NEEDLE + 2, META, 0, appended_ms=1)
    delete(volume, NEEDLE)
    assert contents(volume) == {NEEDLE: None, NEEDLE + 1: b"data"}


# -- ids ---------------------------------------------------------------------------------------------------------


def test_id_is_claimed_at_reservation(volume: Volume) -> None:
    claim = volume.reserve(NEEDLE, META, 10, appended_ms=1)
    with pytest.raises(NeedleTaken):
        write(volume, NEEDLE, b"data")
    finish(volume, claim, b"0123456789")
    with pytest.raises(NeedleTaken):
        volume.reserve(NEEDLE, META, 10, appended_ms=1)


def test_who_waits_for_a_claim_is_told_however_it_ends(volume: Volume) -> None:
    told: list[str] = []
    settled = write(volume, NEEDLE, b"data")
    settled.waiters.append(lambda: told.append("settled"))
    aborted = volume.reserve(NEEDLE + 1, META, 10, appended_ms=1)
    aborted.waiters.append(lambda: told.append("aborted"))
    volume.abort(aborted)
    settle(volume, settled)
    assert told == ["aborted", "settled"]


@pytest.mark.parametrize("verdict", ["", "412 precondition_failed"])
@pytest.mark.parametrize("clean", [True, False])
def test_deleted_id_never_lives_again_and_keeps_its_verdict(volume: Volume, verdict: str, clean: bool) -> None:
    put(volume, NEEDLE, b"data")
    delete(volume, NEEDLE, verdict=verdict)
    for found in over_restarts(volume, clean):
        assert contents(found) == {NEEDLE: None}
        assert found.verdict_of_dead(NEEDLE) == verdict
        with pytest.raises(NeedleUnknown):
            found.read(NEEDLE)
        with pytest.raises(NeedleTaken):
            write(found, NEEDLE, b"data")
        with pytest.raises(NeedleTaken):
            found.tombstone(NEEDLE, appended_ms=1)


def test_only_what_lives_can_be_deleted(volume: Volume) -> None:
    with pytest.raises(NeedleUnknown):
        volume.tombstone(NEEDLE, appended_ms=1)
    put(volume, NEEDLE, b"data")
    claim = volume.tombstone(NEEDLE, appended_ms=1)
    with pytest.raises(NeedleTaken):
        volume.tombstone(NEEDLE, appended_ms=1)
    assert data_of(volume, NEEDLE) == b"data"  # until the tombstone is durable
    settle(volume, claim)
    assert contents(volume) == {NEEDLE: None}


def test_garbage_is_what_the_dead_leave(volume: Volume) -> None:
    claim = put(volume, NEEDLE, b"data")
    put(volume, NEEDLE + 1, b"data")
    delete(volume, NEEDLE)
    assert volume.report() == {
        "volume": 7, "epoch": 1, "revision": 1, "state": "open", "size_bytes": volume.tail,
        "garbage_bytes": claim.record_bytes, "live_count": 1, "tombstone_count": 1, "damaged_count": 0,
    }  # fmt: skip


# -- failures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("part_bytes", [0, 10, 45])
def test_full_disk_leaves_the_volume_as_it_was(volume: Volume, files: FaultyFiles, error: int, part_bytes: int) -> None:
    put(volume, NEEDLE, b"before")
    raw, report = volume.path.read_bytes(), volume.report()
    files.fail("write_at", error, part_bytes=part_bytes)
    with pytest.raises(DiskFull):
        write(volume, NEEDLE + 1, b"data")
    assert volume.path.read_bytes() == raw
    assert (volume.report(), volume.claims) == (report, {})
    put(volume, NEEDLE + 1, b"data")
    assert contents(reopen(volume, clean=False)) == {NEEDLE: b"before", NEEDLE + 1: b"data"}


def test_room_is_asked_before_anything_is_written(volume: Volume, files: FaultyFiles) -> None:
    class Full(Room):
        def require(self, size_bytes: int) -> None:
            raise DiskFull("full")

    put(volume, NEEDLE, b"data")
    volume.room = Full()
    before = files.calls["write_at"]
    with pytest.raises(DiskFull):
        write(volume, NEEDLE + 1, b"data")
    with pytest.raises(DiskFull):
        volume.reserve(NEEDLE + 1, META, 10, appended_ms=1)
    assert files.calls["write_at"] == before
    delete(volume, NEEDLE)  # the reserve is there for this


def over_restarts(volume: Volume, *clean: bool) -> Iterator[Volume]:
    """The volume as it is, and as each start finds it, after a clean stop or another."""
    yield volume
    for how in clean:
        volume = reopen(volume, clean=how)
        yield volume


def sealed_for_good(volume: Volume) -> None:
    """Takes nothing any more, now and after a restart, and reads on."""
    for found in over_restarts(volume, False, True):
        assert found.report()["state"] == "sealed"
        for attempt in (
            lambda found=found: write(found, NEEDLE + 100, b"more"),
            lambda found=found: found.reserve(NEEDLE + 100, META, 10, appended_ms=1),
            lambda found=found: found.tombstone(NEEDLE, appended_ms=1),
        ):
            with pytest.raises(VolumeSealed):
                attempt()
        assert data_of(found, NEEDLE) == b"before"


def test_failed_write_seals(volume: Volume, files: FaultyFiles) -> None:
    put(volume, NEEDLE, b"before")
    files.fail("write_at", errno.EIO)
    with pytest.raises(VolumeSealed):
        write(volume, NEEDLE + 1, b"data")
    sealed_for_good(volume)


def test_failed_truncate_seals(volume: Volume, files: FaultyFiles) -> None:
    put(volume, NEEDLE, b"before")
    claim = volume.reserve(NEEDLE + 1, META, 100, appended_ms=1)
    files.fail("truncate")
    volume.abort(claim)
    sealed_for_good(volume)


def test_full_disk_that_cannot_be_tidied_seals(volume: Volume, files: FaultyFiles) -> None:
    put(volume, NEEDLE, b"before")
    files.fail("write_at", errno.ENOSPC, part_bytes=10)
    files.fail("truncate")
    with pytest.raises(DiskFull):
        write(volume, NEEDLE + 1, b"data")
    sealed_for_good(volume)


def fail_a_sync(volume: Volume, files: FaultyFiles) -> None:
    files.fail("sync_data")
    with pytest.raises(OSError, match="Input/output error"):
        volume.sync_log()
    volume.seal_unsynced()


def test_failed_sync_is_not_tried_again_and_seals(volume: Volume, files: FaultyFiles) -> None:
    put(volume, NEEDLE, b"before")
    write(volume, NEEDLE + 1, b"in doubt")
    fail_a_sync(volume, files)
    tried = files.calls["sync_data"]
    with pytest.raises(OSError, match="Input/output error"):
        volume.sync_log()
    assert files.calls["sync_data"] == tried
    sealed_for_good(volume)


def test_what_a_failed_sync_left_in_doubt_is_never_confirmed(volume: Volume, files: FaultyFiles) -> None:
    """The records lie in the file, and the page cache shows them whole; the disk may hold nothing of them."""
    put(volume, NEEDLE, b"before")
    small = write(volume, NEEDLE + 1, b"in doubt")
    large = volume.reserve(NEEDLE + 2, META, 10, appended_ms=1)
    buried = volume.tombstone(NEEDLE, appended_ms=1)
    fail_a_sync(volume, files)
    volume.write_data(large, b"0123456789", 0)  # its last bytes came after the failure
    volume.finish(large, data_crc=zlib.crc32(b"0123456789"))
    for claim in (small, large, buried):
        volume.abort(claim)
    for _ in range(2):
        volume = reopen(volume, clean=True)
        for needle in (NEEDLE, NEEDLE + 1, NEEDLE + 2):
            with pytest.raises(VolumeSealed):
                volume.require_synced(needle)


def test_what_was_synced_before_the_failure_is_good_for_ever(volume: Volume, files: FaultyFiles) -> None:
    put(volume, NEEDLE, b"before")
    write(volume, NEEDLE + 1, b"in doubt")
    fail_a_sync(volume, files)
    volume.require_synced(NEEDLE)
    again = reopen(volume, clean=True)
    again.require_synced(NEEDLE)
    assert data_of(again, NEEDLE) == b"before"


def test_volume_that_was_sealed_before_its_sync_failed_remembers_both(volume: Volume, files: FaultyFiles) -> None:
    put(volume, NEEDLE, b"before")
    write(volume, NEEDLE + 1, b"in doubt")
    volume.seal("by the master")
    fail_a_sync(volume, files)
    again = reopen(volume, clean=False)
    assert again.sealed == "by the master"
    with pytest.raises(VolumeSealed):
        again.require_synced(NEEDLE + 1)


def test_recovered_tail_that_cannot_be_synced_seals_and_is_read_but_not_confirmed(volume: Volume) -> None:
    put(volume, NEEDLE, b"before")
    files = FaultyFiles()
    files.fail("sync_data")
    again = reopen(volume, clean=False, files=files)
    with pytest.raises(VolumeSealed):
        again.require_synced(NEEDLE)
    sealed_for_good(again)


def test_seal_that_cannot_be_written_down_still_holds(
    volume: Volume, files: FaultyFiles, caplog: pytest.LogCaptureFixture
) -> None:
    put(volume, NEEDLE, b"before")
    files.fail("rename")
    volume.seal("for a test")
    assert "could not be written down" in caplog.text
    with pytest.raises(VolumeSealed):
        write(volume, NEEDLE + 1, b"data")


def test_seal_is_kept_beside_the_volume(volume: Volume) -> None:
    volume.seal("for a test")
    assert json.loads(volume.path.with_suffix(".state").read_bytes()) == {
        "epoch": 1, "sealed": "for a test", "unsynced": [], "scrubbed_ms": None,
        "damaged": {"revision": 1, "count": 0, "listed": []},
    }  # fmt: skip


# -- reads trust nothing -----------------------------------------------------------------------------------------


def test_flipped_bit_is_never_passed_off_as_right(volume: Volume) -> None:
    claim = put(volume, NEEDLE, b"some data of a client")
    good = volume.path.read_bytes()
    with volume.path.open("r+b") as file:
        for bit in range(claim.stored_bytes * 8):
            at = claim.offset + bit // 8
            file.seek(at)
            file.write(bytes([good[at] ^ 1 << bit % 8]))
            file.flush()
            with pytest.raises(Damaged):
                volume.read(NEEDLE)
            file.seek(at)
            file.write(good[at : at + 1])
            file.flush()
    assert data_of(volume, NEEDLE) == b"some data of a client"
    assert volume.figures.damaged_count == 1  # one needle, however often it was asked for


def test_record_in_anothers_place_is_damage(volume: Volume) -> None:
    first, second = put(volume, NEEDLE, b"one"), put(volume, NEEDLE + 1, b"two")
    raw = bytearray(volume.path.read_bytes())
    raw[first.offset : first.offset + 40] = raw[second.offset : second.offset + 40]
    volume.path.write_bytes(raw)
    with pytest.raises(Damaged):
        volume.look(NEEDLE)


@pytest.mark.parametrize("off_by", [-8, 8])
def test_record_of_another_length_than_the_index_knows_is_damage(volume: Volume, off_by: int) -> None:
    put(volume, NEEDLE, b"one" * 10)
    offset, length = volume.locate(NEEDLE)
    volume.index.put(NEEDLE, offset, length + off_by)
    with pytest.raises(Damaged):
        volume.look(NEEDLE)
    with pytest.raises(Damaged):
        volume.read(NEEDLE)


def test_file_that_ends_early_is_damage(volume: Volume) -> None:
    claim = put(volume, NEEDLE, b"some data")
    for size in range(claim.offset, claim.offset + claim.stored_bytes):
        os.truncate(volume.path, size)
        with pytest.raises(Damaged):
            volume.read(NEEDLE)


@pytest.mark.parametrize("bit", range(0, 8 * len("412 precondition_failed"), 5))
def test_verdict_that_was_damaged_is_not_told(volume: Volume, bit: int) -> None:
    put(volume, NEEDLE, b"data")
    claim = delete(volume, NEEDLE, verdict="412 precondition_failed")
    raw = bytearray(volume.path.read_bytes())
    raw[claim.offset + record.HEADER_BYTES + bit // 8] ^= 1 << bit % 8
    volume.path.write_bytes(raw)
    with pytest.raises(Damaged):
        volume.verdict_of_dead(NEEDLE)


def test_salt_is_the_volumes_own(tmp_path: Path) -> None:
    volume = Volume.create(FileSystem(), tmp_path, Superblock(9, 1, 0, bytes(16)))
    put(volume, NEEDLE, b"data")
    raw = volume.path.read_bytes()[RECORDS_START:]
    assert record.decode_header(record.Tagger(bytes(16)), raw) is not None
    assert record.decode_header(record.Tagger(SALT), raw) is None
    assert SUPERBLOCK.salt == SALT


# -- records that are written together ---------------------------------------------------------------------------


def enqueue(volume: Volume, needle: int, data: bytes) -> Claim:
    return volume.enqueue(needle, META, data, data_crc=zlib.crc32(data), appended_ms=1_700_000_000_001)


def test_queued_records_are_written_by_one_call(volume: Volume, files: FaultyFiles) -> None:
    before = files.calls["write_at"]
    claims = [enqueue(volume, NEEDLE + slot, b"data %d" % slot) for slot in range(5)]
    assert files.calls["write_at"] == before
    volume.flush()
    assert files.calls["write_at"] == before + 1
    volume.settle(claims)
    assert [data_of(volume, NEEDLE + slot) for slot in range(5)] == [b"data %d" % slot for slot in range(5)]
    assert contents(reopen(volume, clean=False)) == {NEEDLE + slot: b"data %d" % slot for slot in range(5)}


@pytest.mark.parametrize("part_bytes", [0, 1, 100, 150])
def test_queued_records_that_do_not_fit_leave_the_volume_as_it_was(
    volume: Volume, files: FaultyFiles, part_bytes: int
) -> None:
    put(volume, NEEDLE, b"before")
    before = volume.report(), volume.path.read_bytes()
    files.fail("write_at", errno.ENOSPC, part_bytes=part_bytes)
    claims = [enqueue(volume, NEEDLE + 1 + slot, b"data") for slot in range(3)]
    volume.flush()
    assert [type(claim.failure) for claim in claims] == [DiskFull] * 3
    assert (volume.report(), volume.path.read_bytes()) == before
    assert not volume.claims
    put(volume, NEEDLE + 1, b"now there is room")
    assert data_of(volume, NEEDLE + 1) == b"now there is room"


def test_queued_records_that_fail_to_be_written_seal(volume: Volume, files: FaultyFiles) -> None:
    files.fail("write_at", errno.EIO)
    claim = enqueue(volume, NEEDLE, b"data")
    volume.flush()
    assert isinstance(claim.failure, VolumeSealed)
    assert volume.report()["state"] == "sealed"


def test_a_queue_whose_volume_is_sealed_meanwhile_is_not_written(volume: Volume, files: FaultyFiles) -> None:
    claim = enqueue(volume, NEEDLE, b"data")
    volume.seal("by the master")
    before = files.calls["write_at"]
    volume.flush()
    assert isinstance(claim.failure, VolumeSealed)
    assert files.calls["write_at"] == before


def test_space_is_reserved_behind_the_queued_records(volume: Volume) -> None:
    queued = enqueue(volume, NEEDLE, b"queued")
    reserved = volume.reserve(NEEDLE + 1, META, 1000, appended_ms=5)
    assert queued.offset + queued.record_bytes == reserved.offset
    later = enqueue(volume, NEEDLE + 2, b"later")
    assert not volume.abort(reserved)  # the one behind it is in the file already
    settle(volume, queued)
    settle(volume, later)
    assert contents(reopen(volume, clean=False)) == {NEEDLE: b"queued", NEEDLE + 2: b"later"}


def test_a_queue_does_not_grow_without_bound(volume: Volume, files: FaultyFiles) -> None:
    before = files.calls["write_at"]
    for slot in range(5):
        enqueue(volume, NEEDLE + slot, bytes(MAX_QUEUED_BYTES // 2))
    assert files.calls["write_at"] == before + 2
    for slot in range(5, 5 + MAX_QUEUED_BUFFERS):
        enqueue(volume, NEEDLE + slot, b"")
    assert files.calls["write_at"] >= before + 2 + 4


def test_a_waiter_of_a_queued_record_is_told_of_its_failure(volume: Volume, files: FaultyFiles) -> None:
    files.fail("write_at", errno.ENOSPC)
    claim = enqueue(volume, NEEDLE, b"data")
    told: list[StoreError | None] = []
    claim.waiters.append(lambda: told.append(claim.failure))
    volume.flush()
    assert [type(failure) for failure in told] == [DiskFull]
