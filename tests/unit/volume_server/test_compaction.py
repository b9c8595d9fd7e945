"""The copy, the rename and what a crash leaves of them. The loop's side of it: `test_compactor.py`."""

import errno
import os
import random
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.simulated_disk import SimulatedDisk
from tests.unit.volume_server.faults import (
    META,
    NEEDLE,
    FaultyFiles,
    checkpoint,
    contents,
    data_of,
    delete,
    finish,
    new_volume,
    put,
    reopen,
)
from volume_server import compaction, record, verification
from volume_server.checkpoint import CheckpointFile
from volume_server.compaction import CompactionFailed, Copy, discard, install, new_twin_directory, tidy
from volume_server.durability import FileSystem
from volume_server.errors import Damaged, NeedleUnknown
from volume_server.superblock import RECORDS_START
from volume_server.volume import Volume

Contents = dict[int, bytes | None]


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    found = new_volume(tmp_path)
    yield found
    os.close(found.fd)


def begin(volume: Volume, files: FileSystem | None = None, **options: Any) -> Copy:
    """The first copy: what was settled up to the watermark of a checkpoint."""
    checkpoint(volume)
    copy = Copy(files or volume.files, volume.path, new_twin_directory(volume.path), **options)
    try:
        loaded = CheckpointFile(copy.files, volume.path.with_suffix(".idx"), copy.old).load()
        assert loaded is not None
        copy.copy(loaded.index, loaded.watermark, reserve_bytes=loaded.watermark)
    except BaseException:
        copy.close()
        raise
    return copy


def end(volume: Volume, copy: Copy) -> None:
    """The cut: the last of the log, the rename, the swap."""
    copy.follow(volume.watermark)
    copy.save()
    twin = Volume.open(copy.files, copy.path)
    copy.follow(volume.tail)
    copy.close()
    twin.catch_up()
    install(copy.files, volume.path, copy.path.parent)
    volume.take_over(twin)


def compact(volume: Volume, **options: Any) -> None:
    end(volume, begin(volume, **options))


def leftovers(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.suffix not in {".vol", ".idx", ".state"})


def rebuilt(volume: Volume) -> Contents:
    """What a scan of the file alone finds."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / volume.path.name
        path.write_bytes(volume.path.read_bytes())
        again = Volume.open(FileSystem(), path)
        try:
            return contents(again)
        finally:
            os.close(again.fd)


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_what_lives_stays_and_garbage_goes(volume: Volume) -> None:
    for number in range(20):
        put(volume, NEEDLE + number, bytes([number]) * number * 11)
    for number in range(0, 20, 2):
        delete(volume, NEEDLE + number, verdict="412 precondition_failed" if number else "")
    held = volume.reserve(NEEDLE + 50, META, 5000, appended_ms=1)
    put(volume, NEEDLE + 51, b"behind an upload that comes to nothing")
    volume.abort(held)
    before = contents(volume)
    old_bytes = volume.tail
    compact(volume)
    assert contents(volume) == before == rebuilt(volume)
    assert volume.verdict_of_dead(NEEDLE + 2) == "412 precondition_failed"
    assert volume.superblock.revision == 2
    live = sum(length + 7 & ~7 for _, _, length in volume.index.items())
    tombstones = sum(record.aligned(40 + (23 if number else 0)) for number in range(0, 20, 2))
    assert volume.tail == volume.path.stat().st_size == RECORDS_START + live + tombstones < old_bytes
    assert volume.report() | {"damaged_count": 0, "garbage_bytes": 0, "live_count": 11, "tombstone_count": 10} == (
        volume.report()
    )
    assert leftovers(volume.path.parent) == []


def test_compacted_volume_takes_needles_and_opens_again(volume: Volume, tmp_path: Path) -> None:
    put(volume, NEEDLE, b"one")
    put(volume, NEEDLE + 1, b"two")
    delete(volume, NEEDLE)
    compact(volume)
    put(volume, NEEDLE + 2, b"three")
    compact(volume)
    put(volume, NEEDLE + 3, b"four")
    expected = {NEEDLE: None, NEEDLE + 1: b"two", NEEDLE + 2: b"three", NEEDLE + 3: b"four"}
    again = volume
    for clean in (False, True):
        again = reopen(again, clean=clean)
        assert contents(again) == expected
        assert again.superblock.revision == 3
    volume.fd = again.fd


def test_empty_volume_is_compacted_to_an_empty_one(volume: Volume) -> None:
    compact(volume)
    assert (volume.tail, contents(volume)) == (RECORDS_START, {})
    put(volume, NEEDLE, b"one")
    delete(volume, NEEDLE)
    compact(volume, drop_before_ms=1 << 60)
    assert (volume.tail, contents(volume)) == (RECORDS_START, {})


def test_old_tombstones_go_with_their_ids_and_young_ones_stay(volume: Volume) -> None:
    for number in range(3):
        put(volume, NEEDLE + number, b"data")
    delete(volume, NEEDLE)  # written at ...002 by faults.delete
    late = volume.tombstone(NEEDLE + 1, appended_ms=1_700_000_000_005)
    volume.sync_log()
    volume.settle([late])
    compact(volume, drop_before_ms=1_700_000_000_005)
    assert contents(volume) == {NEEDLE + 1: None, NEEDLE + 2: b"data"} == rebuilt(volume)
    assert volume.stored_length(NEEDLE) is None


def test_what_comes_during_the_copy_is_followed(volume: Volume) -> None:
    put(volume, NEEDLE, b"dies later")
    put(volume, NEEDLE + 1, b"stays")
    slow = volume.reserve(NEEDLE + 2, META, 9, appended_ms=1)
    put(volume, NEEDLE + 3, b"behind the slow one")
    delete(volume, NEEDLE + 1)
    copy = begin(volume)
    put(volume, NEEDLE + 4, b"new")
    delete(volume, NEEDLE)
    delete(volume, NEEDLE + 4)
    aborted = volume.reserve(NEEDLE + 5, META, 99, appended_ms=1)
    put(volume, NEEDLE + 6, b"last")
    volume.abort(aborted)
    finish(volume, slow, b"slow data")
    before = contents(volume)
    end(volume, copy)
    assert contents(volume) == before == rebuilt(volume)
    assert before == {
        NEEDLE: None, NEEDLE + 1: None, NEEDLE + 2: b"slow data", NEEDLE + 3: b"behind the slow one", NEEDLE + 4: None,
        NEEDLE + 6: b"last",
    }  # fmt: skip
    figures = volume.report()
    assert (figures["live_count"], figures["tombstone_count"]) == (3, 3)
    scanned = reopen(volume, clean=False).report()
    volume.fd = os.open(volume.path, os.O_RDONLY)
    assert scanned["live_count"] == 3


@pytest.mark.parametrize("short", [0, 150, 1 << 20])
def test_copy_in_small_pieces_is_the_same(volume: Volume, monkeypatch: pytest.MonkeyPatch, short: int) -> None:
    """Runs, steps and comparisons smaller than a record; records by themselves, gathered, and both in turn."""
    sizes = {
        "RUN_BYTES": 64,
        "STEP_BYTES": 8,
        "PIECE_BYTES": 24,
        "GATHERED_BYTES": 200,
        "VERIFIED_BYTES": 300,
        "MAX_VERIFYING": 2,
        "SHORT_RUN_BYTES": short,
    }
    for name, size in sizes.items():
        monkeypatch.setattr(compaction, name, size)
    monkeypatch.setattr(verification, "WINDOW_BYTES", 50)
    for number in range(30):
        put(volume, NEEDLE + number, os.urandom(number * 9))
    for number in range(0, 30, 3):
        delete(volume, NEEDLE + number)
    before = contents(volume)
    compact(volume)
    assert contents(volume) == before == rebuilt(volume)


class Elsewhere(FileSystem):
    """A file system without copy_file_range."""

    def copy_range(self, source: int, target: int, size_bytes: int, source_offset: int, target_offset: int) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


class Short(FileSystem):
    """One that copies as little as it likes."""

    def copy_range(self, source: int, target: int, size_bytes: int, source_offset: int, target_offset: int) -> int:
        return super().copy_range(source, target, min(size_bytes, 13), source_offset, target_offset)


@pytest.mark.parametrize("files", [Elsewhere(), Short()])
def test_copy_without_help_of_the_kernel(volume: Volume, files: FileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "SHORT_RUN_BYTES", 0)
    for number in range(5):
        put(volume, NEEDLE + number, os.urandom(100))
    delete(volume, NEEDLE + 2)
    before = contents(volume)
    compact(volume, files=files)
    assert contents(volume) == before


# -- damage ------------------------------------------------------------------------------------------------------------


def flip(volume: Volume, at: int) -> None:
    raw = os.pread(volume.fd, 1, at)
    os.pwrite(volume.fd, bytes([raw[0] ^ 1]), at)


@pytest.mark.parametrize("place", ["header", "data"])
@pytest.mark.parametrize("when", ["before", "during"])
def test_damaged_needle_stays_damaged_and_is_never_unknown(volume: Volume, place: str, when: str) -> None:
    put(volume, NEEDLE, b"before")
    copy = begin(volume) if when == "during" else None
    claim = put(volume, NEEDLE + 1, b"damaged")
    put(volume, NEEDLE + 2, b"behind")
    flip(volume, claim.offset + 9 if place == "header" else claim.data_offset + 2)
    raw = os.pread(volume.fd, claim.record_bytes, claim.offset)
    if copy is not None and place == "header":
        end(volume, copy)  # nobody can say whose these bytes were, since the index of the copy never had them
        with pytest.raises(NeedleUnknown):
            volume.read(NEEDLE + 1)
    else:
        end(volume, copy or begin(volume))
        with pytest.raises(Damaged):
            volume.read(NEEDLE + 1)
    assert volume.figures.damaged_count >= 1
    assert raw in volume.path.read_bytes()
    assert (data_of(volume, NEEDLE), data_of(volume, NEEDLE + 2)) == (b"before", b"behind")


def test_damaged_record_that_the_index_never_knew_is_kept(volume: Volume) -> None:
    put(volume, NEEDLE, b"before")
    claim = put(volume, NEEDLE + 1, b"damaged")
    put(volume, NEEDLE + 2, b"behind")
    flip(volume, claim.data_offset)
    raw = os.pread(volume.fd, claim.record_bytes, claim.offset)
    volume.path.with_suffix(".idx").unlink(missing_ok=True)
    again = reopen(volume, clean=False)
    assert again.figures.damaged_count == 1
    compact(again)
    assert raw in again.path.read_bytes()
    assert again.figures.damaged_count == 1
    assert contents(again) == {NEEDLE: b"before", NEEDLE + 2: b"behind"}
    volume.fd = again.fd


@pytest.mark.parametrize("drop", [False, True])
def test_damage_that_is_nobodys_goes_only_when_asked(volume: Volume, drop: bool) -> None:
    put(volume, NEEDLE, b"alive, then damaged")
    put(volume, NEEDLE + 4, b"between")
    dead = put(volume, NEEDLE + 1, b"dead, then damaged")
    unknown = put(volume, NEEDLE + 2, b"damaged before the index was made anew")
    put(volume, NEEDLE + 3, b"whole")
    delete(volume, NEEDLE + 1)
    flip(volume, unknown.data_offset)
    volume.path.with_suffix(".idx").unlink(missing_ok=True)
    again = reopen(volume, clean=False)
    volume.fd = again.fd
    flip(again, dead.offset + 9)
    flip(again, again.locate(NEEDLE)[0] + 9)
    compact(again, drop_damage=drop)
    volume.fd = again.fd
    assert again.figures.damaged_count == (1 if drop else 3)
    with pytest.raises(Damaged):
        again.read(NEEDLE)
    assert data_of(again, NEEDLE + 3) == b"whole"
    assert again.stored_length(NEEDLE + 1) == 0
    raw = again.path.read_bytes()
    assert (b"amaged before" not in raw) == drop
    assert b"alive, then damaged" in raw


def test_copy_that_is_not_the_same_is_not_used(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lying(FileSystem):
        def copy_range(self, source: int, target: int, size_bytes: int, source_offset: int, target_offset: int) -> int:
            copied = super().copy_range(source, target, size_bytes, source_offset, target_offset)
            os.pwrite(target, b"\xff", target_offset + copied // 2)
            return copied

    monkeypatch.setattr(compaction, "SHORT_RUN_BYTES", 0)
    put(volume, NEEDLE, b"data" * 10)
    with pytest.raises(CompactionFailed, match="not the same"):
        begin(volume, Lying())
    tidy(volume.files, volume.path)
    assert contents(volume) == {NEEDLE: b"data" * 10}
    assert leftovers(volume.path.parent) == []


# -- failures and crashes ----------------------------------------------------------------------------------------------


def prepared(files: FileSystem, directory: Path) -> tuple[Volume, Contents]:
    """A volume worth compacting, and what it holds."""
    volume = new_volume(directory, files)
    for number in range(6):
        put(volume, NEEDLE + number, bytes([number]) * (100_000 if number == 5 else 700))
    for number in range(0, 6, 2):
        delete(volume, NEEDLE + number)
    checkpoint(volume)
    return volume, contents(volume)


class ManyFaults(FaultyFiles):
    """Those that only a compaction makes can fail as well."""


def _failing(name: str) -> Callable[..., Any]:
    def call(self: ManyFaults, *arguments: Any) -> Any:
        self._check(name)
        return getattr(FileSystem, name)(self, *arguments)

    return call


for _name in ("open", "read_at", "copy_range", "allocate", "sync_directory", "make_directory", "remove"):
    setattr(ManyFaults, _name, _failing(_name))


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize(
    "call",
    [
        "write_at", "copy_range", "allocate", "truncate", "sync_data", "sync_file", "sync_directory", "rename", "open",
        "read_at", "make_directory",
    ],
)  # fmt: skip
def test_failure_of_any_call_leaves_the_old_volume_or_the_new_one(tmp_path: Path, call: str, error: int) -> None:
    failed = 0
    for after in range(60):
        files = ManyFaults()
        directory = tmp_path / f"{after}"
        directory.mkdir()
        volume, before = prepared(files, directory)
        files.fail(call, error, after=after)
        fired = False
        copy: Copy | None = None
        try:
            copy = begin(volume)
            end(volume, copy)
        except (OSError, CompactionFailed):
            fired = True
            failed += 1
        files.fail(call, after=1 << 30)
        assert contents(volume) == before
        os.close(volume.fd)
        again_files = FileSystem()
        tidy(again_files, volume.path)
        again = Volume.open(again_files, volume.path)
        assert contents(again) == before
        assert leftovers(directory) == []
        os.close(again.fd)
        if not fired:
            break
    else:
        pytest.fail("it never came through")
    assert failed


class Stepping(SimulatedDisk):
    """A disk that lets somebody look before each change."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.look: Callable[[], None] = lambda: None


def _stepping(name: str) -> Callable[..., Any]:
    def call(self: Stepping, *arguments: Any) -> Any:
        self.look()
        return getattr(SimulatedDisk, name)(self, *arguments)

    return call


for _name in ("write_at", "copy_range", "allocate", "truncate", "sync_data", "sync_file", "sync_directory",
              "make_directory", "rename", "remove"):  # fmt: skip
    setattr(Stepping, _name, _stepping(_name))


def test_crash_at_every_step_leaves_exactly_the_old_or_the_new_volume(tmp_path: Path) -> None:
    directory = tmp_path / "disk"
    directory.mkdir()
    disk = Stepping(directory)
    volume, expected = prepared(disk, directory)
    steps, revisions = 0, []
    in_flight: Contents = {}

    def look() -> None:
        nonlocal steps
        steps += 1
        for seed in range(5):
            image = tmp_path / f"image-{steps}-{seed}"
            image.mkdir()
            disk.crash_image(image, random.Random(steps * 100 + seed).randrange)
            path = image / volume.path.name
            tidy(FileSystem(), path)
            again = Volume.open(FileSystem(), path)
            found = contents(again)
            assert found == expected or found == expected | in_flight, (steps, seed)
            assert leftovers(image) == []
            revisions.append(again.superblock.revision)
            put(again, NEEDLE + 99, b"it goes on")
            os.close(again.fd)

    disk.look = look
    copy = begin(volume)
    in_flight = {NEEDLE + 7: b"during the copy"}
    put(volume, NEEDLE + 7, b"during the copy")
    expected |= in_flight
    end(volume, copy)
    in_flight = {NEEDLE + 8: b"after the swap"}
    put(volume, NEEDLE + 8, b"after the swap")
    expected |= in_flight
    look()
    assert steps > 20
    assert set(revisions) == {1, 2}
    assert revisions[-5:] == [2] * 5
    os.close(volume.fd)
    disk.release()


def test_index_left_beside_its_new_volume_is_put_in_place(volume: Volume) -> None:
    put(volume, NEEDLE, b"data")
    copy = begin(volume)
    copy.save()
    copy.close()
    before = contents(volume)
    os.close(volume.fd)
    index = copy.path.with_suffix(".idx").read_bytes()
    copy.path.replace(volume.path)  # and then the power went
    tidy(FileSystem(), volume.path)
    assert volume.path.with_suffix(".idx").read_bytes() == index
    again = Volume.open(FileSystem(), volume.path)
    assert contents(again) == before
    assert leftovers(volume.path.parent) == []
    volume.fd = again.fd


def test_second_attempt_begins_anew(volume: Volume) -> None:
    put(volume, NEEDLE, b"data")
    given_up = begin(volume)
    given_up.close()
    compact(volume)
    assert contents(volume) == {NEEDLE: b"data"}
    tidy(FileSystem(), volume.path)
    assert leftovers(volume.path.parent) == []


def test_copy_that_outlives_its_server_can_do_no_harm(volume: Volume) -> None:
    """It is killed by the next message it sends; until then somebody else may have begun, and finished, another."""
    put(volume, NEEDLE, b"data")
    orphan = begin(volume)
    tidy(FileSystem(), volume.path)
    compact(volume)
    put(volume, NEEDLE + 1, b"new")
    orphan.follow(orphan.at)
    with pytest.raises(FileNotFoundError):
        orphan.save()
    orphan.close()
    assert leftovers(volume.path.parent) == []
    again = reopen(volume, clean=False)
    assert contents(again) == {NEEDLE: b"data", NEEDLE + 1: b"new"}
    volume.fd = again.fd


def test_what_could_not_be_removed_is_removed_later(volume: Volume) -> None:
    put(volume, NEEDLE, b"data")
    copy = begin(volume)
    copy.close()
    files = ManyFaults()
    files.fail("remove")
    with pytest.raises(OSError, match="Input/output"):
        discard(files, copy.path.parent)
    tidy(FileSystem(), volume.path)
    assert leftovers(volume.path.parent) == []


def test_largest_runs_go_by_pieces(volume: Volume) -> None:
    body = os.urandom(20 << 20)
    claim = volume.reserve(NEEDLE, META, len(body), appended_ms=1)
    finish(volume, claim, body)
    put(volume, NEEDLE + 1, b"dead")
    delete(volume, NEEDLE + 1)
    compact(volume)
    assert zlib.crc32(data_of(volume, NEEDLE)) == zlib.crc32(body)
