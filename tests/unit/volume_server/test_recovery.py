"""Opening a volume: after a clean stop nothing is read, after a crash or damage nothing is lost that was whole."""

import os
import random
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.volume_server.faults import (
    META,
    NEEDLE,
    SALT,
    FaultyFiles,
    checkpoint,
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
from volume_server import record, recovery
from volume_server.durability import FileSystem
from volume_server.errors import Damaged, VolumeSealed
from volume_server.index import MAX_USED
from volume_server.state import ALONE, SHARED, Replica
from volume_server.superblock import RECORDS_START
from volume_server.volume import Volume


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return new_volume(tmp_path)


def mixed(volume: Volume) -> dict[int, bytes | None]:
    """Live needles, dead ones, an abort in the middle; what it all comes to."""
    put(volume, NEEDLE, b"first")
    aborted = volume.reserve(NEEDLE + 1, META, 200, appended_ms=1)
    volume.write_data(aborted, b"never whole", 0)
    put(volume, NEEDLE + 2, b"second")
    volume.abort(aborted)
    put(volume, NEEDLE + 3, b"")
    delete(volume, NEEDLE, verdict="412 precondition_failed")
    put(volume, NEEDLE + 4, b"third" * 50)
    return {NEEDLE: None, NEEDLE + 2: b"second", NEEDLE + 3: b"", NEEDLE + 4: b"third" * 50}


@pytest.fixture
def reads_of_records(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], list[int]]:
    """Offsets of all reads behind the superblock of a volume file since the fixture was asked for."""
    seen: list[tuple[str, int]] = []
    pread = os.pread

    def watching(fd: int, size: int, offset: int) -> bytes:
        seen.append((str(Path(f"/proc/self/fd/{fd}").readlink()), offset))
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", watching)
    return lambda path: [offset for name, offset in seen if name == str(path) and offset >= RECORDS_START]


def test_clean_open_reads_no_record(volume: Volume, reads_of_records: Callable[[Path], list[int]]) -> None:
    expected = mixed(volume)
    report = volume.report()
    again = reopen(volume, clean=True)
    assert reads_of_records(again.path) == []
    assert again.report() == report
    assert contents(again) == expected


def test_open_after_a_crash_reads_from_the_watermark_only(
    volume: Volume, reads_of_records: Callable[[Path], list[int]]
) -> None:
    for number in range(100):
        put(volume, NEEDLE + number, bytes(100))
    checkpoint(volume)
    watermark = volume.tail
    put(volume, NEEDLE + 1000, b"behind it")
    again = reopen(volume, clean=False)
    assert min(reads_of_records(again.path)) == watermark
    assert again.index.get(NEEDLE) is not None
    assert data_of(again, NEEDLE + 1000) == b"behind it"


def test_watermark_is_no_later_than_the_oldest_open_reservation(volume: Volume) -> None:
    open_claim = volume.reserve(NEEDLE, META, 100, appended_ms=1)
    put(volume, NEEDLE + 1, b"behind it")
    job = volume.begin_checkpoint()
    assert job.watermark == open_claim.offset
    volume.end_checkpoint(job, volume.write_checkpoint(job))
    finish(volume, open_claim, b"x" * 100)
    report = volume.report()
    again = reopen(volume, clean=False)
    assert contents(again) == {NEEDLE: b"x" * 100, NEEDLE + 1: b"behind it"}
    assert again.report() == report


def test_figures_of_a_replay_over_a_checkpoint_are_those_of_a_scan(volume: Volume) -> None:
    """An abort and a delete lie behind the watermark and are in the checkpoint's index too: none is counted twice."""
    open_claim = volume.reserve(NEEDLE, META, 100, appended_ms=1)
    aborted = volume.reserve(NEEDLE + 1, META, 100, appended_ms=1)
    put(volume, NEEDLE + 2, b"dead soon")
    volume.abort(aborted)
    delete(volume, NEEDLE + 2)
    checkpoint(volume)
    finish(volume, open_claim, b"x" * 100)
    report = volume.report()
    again = reopen(volume, clean=False)
    assert again.report() == report
    again.close(clean=False)
    again.path.with_suffix(".idx").unlink()
    assert Volume.open(FileSystem(), again.path).report() == report


def test_replayed_tail_is_synced_before_anything_is_answered(volume: Volume) -> None:
    put(volume, NEEDLE, b"data")
    files = FaultyFiles()
    reopen(volume, clean=False, files=files)
    assert files.calls["sync_data"] == 1


def test_torn_at_every_byte_of_the_last_record(volume: Volume) -> None:
    put(volume, NEEDLE, b"whole")
    delete(volume, NEEDLE)
    put(volume, NEEDLE + 1, b"whole too")
    last = put(volume, NEEDLE + 2, b"the last one")
    volume.close(clean=False)
    raw = volume.path.read_bytes()
    for size in range(last.offset, last.offset + last.record_bytes):
        volume.path.write_bytes(raw[:size])
        again = Volume.open(FileSystem(), volume.path)
        whole = size >= last.offset + last.stored_bytes  # of the padding nothing is missed
        expected = {NEEDLE: None, NEEDLE + 1: b"whole too"} | ({NEEDLE + 2: b"the last one"} if whole else {})
        assert contents(again) == expected, size
        assert again.tail == again.path.stat().st_size == last.offset + (last.record_bytes if whole else 0)
        assert again.figures.damaged_count == 0
        put(again, NEEDLE + 3, b"next")
        assert contents(reopen(again, clean=False)) == expected | {NEEDLE + 3: b"next"}


def test_file_that_ends_in_padding_is_clean_the_next_time(
    volume: Volume, reads_of_records: Callable[[Path], list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    claim = put(volume, NEEDLE, b"abc")
    assert claim.stored_bytes % 8
    volume.close(clean=False)
    os.truncate(volume.path, claim.offset + claim.stored_bytes)
    again = reopen(Volume.open(FileSystem(), volume.path), clean=True)
    assert contents(again) == {NEEDLE: b"abc"}
    assert "shorter" not in caplog.text


@pytest.mark.parametrize("size", [52, 100, 4096, 4096 + 52, RECORDS_START])
def test_file_cut_off_within_its_head_is_an_empty_volume(volume: Volume, size: int) -> None:
    volume.close(clean=False)
    os.truncate(volume.path, size)
    again = Volume.open(FileSystem(), volume.path)
    put(again, NEEDLE, b"data")
    assert contents(reopen(again, clean=False)) == {NEEDLE: b"data"}


def test_crash_at_every_step_of_a_streamed_upload(tmp_path: Path) -> None:
    """The file as it is before each write, and after a part of each write, opens to what was acknowledged."""
    volume = new_volume(tmp_path)
    put(volume, NEEDLE, b"before")
    images: list[bytes] = []

    class Filming(FileSystem):
        def write_at(self, fd: int, buffers: list[bytes | bytearray | memoryview], offset: int) -> None:
            whole = b"".join(buffers)
            for size in range(0, len(whole) + 1, 3):
                super().write_at(fd, [whole[:size]], offset)
                images.append(volume.path.read_bytes())
            super().write_at(fd, buffers, offset)

    volume.files = Filming()
    claim = volume.reserve(NEEDLE + 1, META, 50, appended_ms=1)
    volume.write_data(claim, b"x" * 25, 0)
    volume.write_data(claim, b"y" * 25, 25)
    put(volume, NEEDLE + 2, b"beside it")
    acknowledged_from = len(images)
    volume.finish(claim, data_crc=zlib.crc32(b"x" * 25 + b"y" * 25))
    settle(volume, claim)
    copies = tmp_path / "copies"
    copies.mkdir()
    path = copies / volume.path.name
    seen = set()
    for number, image in enumerate(images):
        path.write_bytes(image)
        again = Volume.open(FileSystem(), path)
        found = contents(again)
        assert found.pop(NEEDLE) == b"before"
        beside = found.pop(NEEDLE + 2, None)
        assert beside == b"beside it" or (beside is None and number < acknowledged_from)
        assert found in ({}, {NEEDLE + 1: b"x" * 25 + b"y" * 25})
        seen.add((beside is not None, bool(found)))
        again.close(clean=False)
    assert (True, False) in seen


def test_provisional_filler_of_a_crash_is_garbage_and_its_id_is_free(volume: Volume) -> None:
    claim = volume.reserve(NEEDLE, META, 100, appended_ms=1)
    volume.write_data(claim, b"half", 0)
    put(volume, NEEDLE + 1, b"behind")
    again = reopen(volume, clean=False)
    assert contents(again) == {NEEDLE + 1: b"behind"}
    assert again.figures.garbage_bytes == claim.record_bytes
    put(again, NEEDLE, b"once more")
    assert contents(reopen(again, clean=False)) == {NEEDLE: b"once more", NEEDLE + 1: b"behind"}


def test_any_bit_flipped_in_the_log_costs_at_most_its_own_record(volume: Volume) -> None:
    """Rebuilt by a scan or read through the old index: right bytes or none, and all the others."""
    expected = mixed(volume)
    volume.close()
    index_path = volume.path.with_suffix(".idx")
    good, good_index = volume.path.read_bytes(), index_path.read_bytes()
    lost = set()
    for bit in random.Random(1).sample(range(RECORDS_START * 8, len(good) * 8), 700):
        raw = bytearray(good)
        raw[bit // 8] ^= 1 << bit % 8
        for with_index in (True, False):
            volume.path.write_bytes(raw)
            if with_index:
                index_path.write_bytes(good_index)
            else:
                index_path.unlink(missing_ok=True)
            again = Volume.open(FileSystem(), volume.path)
            wrong = set()
            for needle, data in expected.items():
                known = again.index.get(needle)
                if data is None:
                    if known is None or known[1]:
                        wrong.add(needle)
                    continue
                try:
                    if known is None or data_of(again, needle) != data:
                        wrong.add(needle)
                        assert known is None
                except Damaged:
                    wrong.add(needle)
            assert len(wrong) <= 1, bit
            lost |= wrong
            again.close(clean=False)
    assert lost  # or nothing was tested


def test_tombstone_whose_verdict_is_damaged_still_buries(volume: Volume) -> None:
    put(volume, NEEDLE, b"data")
    claim = delete(volume, NEEDLE, verdict="412 precondition_failed")
    put(volume, NEEDLE + 1, b"behind")
    volume.close(clean=False)
    raw = bytearray(volume.path.read_bytes())
    raw[claim.offset + record.HEADER_BYTES + 5] ^= 1
    volume.path.write_bytes(raw)
    again = Volume.open(FileSystem(), volume.path)
    assert again.index.get(NEEDLE) == (claim.offset, 0)
    assert again.figures.damaged_count == 1
    assert data_of(again, NEEDLE + 1) == b"behind"


@pytest.mark.parametrize("size", [8, 40, 200])
@pytest.mark.parametrize("junk", [bytes, os.urandom])
def test_damage_in_the_middle_hides_nothing_and_is_never_cut_off(
    volume: Volume, size: int, junk: Callable[[int], bytes]
) -> None:
    put(volume, NEEDLE, b"before")
    middle = put(volume, NEEDLE + 1, bytes(200))
    behind = put(volume, NEEDLE + 2, b"behind")
    volume.close(clean=False)
    raw = bytearray(volume.path.read_bytes())
    raw[middle.offset : middle.offset + size] = junk(size)
    volume.path.write_bytes(raw)
    again = Volume.open(FileSystem(), volume.path)
    assert contents(again) == {NEEDLE: b"before", NEEDLE + 2: b"behind"}
    assert again.figures.damaged_count == 1
    assert again.path.read_bytes() == raw
    assert again.locate(NEEDLE + 2)[0] == behind.offset


@pytest.mark.parametrize("pages", [1, 3])
def test_zero_pages_at_the_end_are_a_torn_tail(volume: Volume, pages: int) -> None:
    """A file system may have grown the file and lost what was in it."""
    put(volume, NEEDLE, b"data")
    tail = volume.tail
    volume.close(clean=False)
    os.truncate(volume.path, tail + pages * 4096)
    again = Volume.open(FileSystem(), volume.path)
    assert (again.tail, again.path.stat().st_size) == (tail, tail)
    assert again.figures.damaged_count == 0


def whole_records(salt: bytes) -> bytes:
    tagger = record.Tagger(salt)
    data = b"never stored"
    crc = zlib.crc32(META, zlib.crc32(data))
    header = record.encode_header(
        tagger, record.LIVE, 99, meta_bytes=len(META), data_bytes=len(data), crc=crc, appended_ms=1
    )
    live = header + META + data
    return live + record.padding_of(len(live)) + record.encode_tombstone(tagger, NEEDLE, verdict="", appended_ms=1)


@pytest.mark.parametrize("damaged", ["header", "body that was aborted", "torn"])
def test_payload_that_imitates_records_is_never_taken_for_any(volume: Volume, damaged: str) -> None:
    """Made with another salt: whole and aligned, but for the tag. Neither life nor death comes of it."""
    put(volume, NEEDLE, b"before")
    payload = bytes(-len(META) % 8) + whole_records(bytes(16)) * 3
    claim = volume.reserve(NEEDLE + 1, META, len(payload), appended_ms=1)
    assert (claim.data_offset + -len(META) % 8) % 8 == 0
    volume.write_data(claim, payload, 0)
    if damaged != "torn":
        put(volume, NEEDLE + 2, b"behind")
    if damaged == "header":
        finish(volume, claim, payload)
    volume.close(clean=False)
    if damaged != "body that was aborted":
        raw = bytearray(volume.path.read_bytes())
        raw[claim.offset] ^= 1
        volume.path.write_bytes(raw)
    again = Volume.open(FileSystem(), volume.path)
    assert contents(again) == {NEEDLE: b"before"} | ({} if damaged == "torn" else {NEEDLE + 2: b"behind"})


def test_same_payload_with_the_right_salt_would_be_taken(volume: Volume) -> None:
    """The test above can fail: only the tag stands between a client's bytes and the index."""
    payload = bytes(-len(META) % 8) + whole_records(SALT)
    claim = put(volume, NEEDLE + 1, payload)
    volume.close(clean=False)
    raw = bytearray(volume.path.read_bytes())
    raw[claim.offset] ^= 1
    volume.path.write_bytes(raw)
    assert 99 in contents(Volume.open(FileSystem(), volume.path))


@pytest.mark.parametrize("forged", ["a live record", "a tombstone"])
def test_tag_of_another_record_of_the_same_volume_makes_none_genuine(volume: Volume, forged: str) -> None:
    """Bytes that were seen in the file, put together anew: neither life nor death comes of it."""
    first = put(volume, NEEDLE, b"before")
    genuine = volume.path.read_bytes()[first.offset : first.offset + first.record_bytes]
    if forged == "a tombstone":
        raw = record.encode_tombstone(record.Tagger(bytes(16)), NEEDLE, verdict="", appended_ms=1)
    else:
        raw = whole_records(bytes(16))
    raw = raw[:32] + genuine[32:40] + raw[40:]
    enclosing = put(volume, NEEDLE + 1, bytes(-len(META) % 8) + raw)
    put(volume, NEEDLE + 2, b"behind")
    damage(volume, enclosing.offset)
    assert contents(Volume.open(FileSystem(), volume.path)) == {NEEDLE: b"before", NEEDLE + 2: b"behind"}


def damage(volume: Volume, offset: int) -> None:
    """End it as SIGKILL does, with the header at ``offset`` gone."""
    volume.close(clean=False)
    with volume.path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(8))


@pytest.mark.parametrize("damaged", [False, True])
def test_copies_of_the_volumes_own_records_in_a_payload_change_nothing(volume: Volume, damaged: bool) -> None:
    """As an operator brings them in who keeps a copy of the volume file in the store itself.

    They are genuine down to the tag. As long as the record around them is, nothing looks at them; where it is damaged,
    they are found, but say nothing new: of two records of an id the first counts.
    """
    expected = mixed(volume)
    copy = volume.path.read_bytes()[RECORDS_START:]
    enclosing = put(volume, NEEDLE + 50, bytes(-len(META) % 8) + copy)
    put(volume, NEEDLE + 51, b"behind")
    expected[NEEDLE + 51] = b"behind"
    report = volume.report()
    if damaged:
        damage(volume, enclosing.offset)
    else:
        expected[NEEDLE + 50] = data_of(volume, NEEDLE + 50)
        volume.close(clean=False)
    again = Volume.open(FileSystem(), volume.path)
    assert contents(again) == expected
    assert again.verdict_of_dead(NEEDLE) == "412 precondition_failed"
    for name in ("live_count", "tombstone_count"):
        assert again.report()[name] == report[name] - (damaged and name == "live_count")
    again.close(clean=False)
    again.path.with_suffix(".idx").unlink(missing_ok=True)
    assert contents(Volume.open(FileSystem(), again.path)) == expected


@pytest.mark.parametrize("pages", [1, 2, 5])
def test_pages_of_zeros_anywhere_cost_at_most_what_they_cover(volume: Volume, pages: int) -> None:
    """What a file system leaves that had the file's length on disk, and not its bytes; or a device that forgot them."""
    bodies = {NEEDLE + number: os.urandom(300 + number * 97) for number in range(40)}
    claims = {needle: put(volume, needle, body) for needle, body in bodies.items()}
    volume.close(clean=False)
    good = volume.path.read_bytes()
    for start in range(RECORDS_START, len(good), 4096):
        end = min(start + pages * 4096, len(good))
        volume.path.write_bytes(good[:start] + bytes(end - start) + good[end:])
        again = Volume.open(FileSystem(), volume.path)
        untouched = {
            needle: bodies[needle]
            for needle, claim in claims.items()
            if claim.offset + claim.stored_bytes <= start or claim.offset >= end
        }
        found = contents(again)
        assert {needle: found.get(needle) for needle in untouched} == untouched
        assert set(found) - set(untouched) <= {
            needle for needle, claim in claims.items() if not any(good[max(claim.offset, start) : end])
        }
        assert again.path.stat().st_size == again.tail
        put(again, NEEDLE + 100, b"goes on")
        again.close(clean=False)


def test_first_of_two_records_of_one_id_counts(volume: Volume) -> None:
    claim = put(volume, NEEDLE, b"first")
    volume.close(clean=False)
    raw = volume.path.read_bytes()
    data = b"other"
    header = record.encode_header(
        volume.tagger, record.LIVE, NEEDLE, meta_bytes=0, data_bytes=5, crc=zlib.crc32(data), appended_ms=1
    )
    volume.path.write_bytes(raw + header + data + bytes(3))
    again = Volume.open(FileSystem(), volume.path)
    assert contents(again) == {NEEDLE: b"first"}
    assert again.locate(NEEDLE)[0] == claim.offset
    assert again.figures.garbage_bytes == 48


def test_header_across_two_windows_is_found(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "WINDOW_BYTES", 128)
    for gap in range(8, 400, 8):
        put(volume, NEEDLE + gap, bytes(gap))
        behind = put(volume, NEEDLE + 1000 + gap, b"x")
        with volume.path.open("r+b") as file:
            file.seek(volume.locate(NEEDLE + gap)[0])
            file.write(bytes(40))
        assert behind.offset
    again = reopen(volume, clean=False)
    assert [needle - NEEDLE - 1000 for needle in sorted(contents(again))] == list(range(8, 400, 8))
    assert again.figures.damaged_count == 49


def test_scan_of_many_windows_checks_every_body(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "WINDOW_BYTES", 256)
    for size in (0, 100, 250, 256, 300, 1000, 5000):
        put(volume, NEEDLE + size, os.urandom(size))
    expected = contents(volume)
    assert contents(reopen(volume, clean=False)) == expected


# -- the index file ----------------------------------------------------------------------------------------------


def deleted(path: Path, older: bytes) -> None:
    path.unlink()


def truncated(path: Path, older: bytes) -> None:
    os.truncate(path, 9000)


def flipped(path: Path, older: bytes) -> None:
    raw = bytearray(path.read_bytes())
    for place in range(8192, len(raw), 64):
        raw[place] ^= 4
    path.write_bytes(raw)


def of_an_older_generation(path: Path, older: bytes) -> None:
    path.write_bytes(older)


def not_an_index(path: Path, older: bytes) -> None:
    path.write_bytes(os.urandom(20_000))


@pytest.mark.parametrize("harm", [deleted, truncated, flipped, of_an_older_generation, not_an_index])
def test_index_file_that_is_not_good_is_made_anew(volume: Volume, harm: Callable[[Path, bytes], None]) -> None:
    for number in range(MAX_USED + 10):
        volume.settle([write(volume, NEEDLE + number, b"")])
    checkpoint(volume)
    older = volume.path.with_suffix(".idx").read_bytes()
    mixed_from = NEEDLE << 8
    for number in range(50):
        put(volume, mixed_from + number, bytes(number))
    for number in range(0, 50, 3):
        delete(volume, mixed_from + number)
    expected, report = contents(volume), volume.report()
    volume.close(clean=True)
    harm(volume.path.with_suffix(".idx"), older)
    again = Volume.open(FileSystem(), volume.path)
    assert contents(again) == expected
    assert again.report() == report
    assert contents(reopen(again, clean=True)) == expected


@pytest.mark.parametrize("mode", [SHARED, ALONE])
def test_volume_that_lost_its_end_is_had_from_another_copy_where_there_is_one(
    volume: Volume, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    lost = put(volume, NEEDLE, b"lost")
    volume.save_replica(2, Replica("primary", mode))
    volume.close(clean=True)
    os.truncate(volume.path, lost.offset)
    Volume.open(FileSystem(), volume.path).close(clean=False)
    assert ("it is fetched anew from there" in caplog.text) == (mode == SHARED)
    assert ("is taken for all that there was" in caplog.text) == (mode == ALONE)


@pytest.mark.parametrize("into", [0, 8, 50], ids=["before it", "in its header", "in its data"])
def test_volume_that_lost_its_end_stands_still_and_says_so(volume: Volume, into: int) -> None:
    """What was durable is gone, by whatever hand: that is never taken for a needle that never was."""
    put(volume, NEEDLE, b"kept")
    lost = put(volume, NEEDLE + 1, b"lost" * 10)
    put(volume, NEEDLE + 2, b"lost, too")
    delete(volume, NEEDLE)
    volume.close(clean=True)
    whole, index = volume.path.read_bytes(), volume.path.with_suffix(".idx").read_bytes()
    os.truncate(volume.path, lost.offset + into)
    for _ in range(2):
        again = Volume.open(FileSystem(), volume.path)
        assert again.sealed is not None
        assert "3 needles are lost" in again.sealed
        for needle in (NEEDLE + 1, NEEDLE + 2):
            with pytest.raises(Damaged):
                again.read(needle)
        with pytest.raises(VolumeSealed):
            put(again, NEEDLE + 3, b"new")
        assert again.figures.damaged_count == 3
        assert [damage.needle for damage in again.damage] == [NEEDLE + 1, NEEDLE + 2, NEEDLE]
        again.save_state()
        again.close(clean=True)
        assert volume.path.stat().st_size == lost.offset + into
        assert volume.path.with_suffix(".idx").read_bytes() == index
    volume.path.write_bytes(whole)
    again = Volume.open(FileSystem(), volume.path)
    assert again.sealed is None
    assert contents(again) == {NEEDLE: None, NEEDLE + 1: b"lost" * 10, NEEDLE + 2: b"lost, too"}
    put(again, NEEDLE + 3, b"new")


def test_lost_end_is_given_up_by_taking_the_index_away(volume: Volume) -> None:
    put(volume, NEEDLE, b"kept")
    last = put(volume, NEEDLE + 1, b"lost")
    volume.close(clean=True)
    os.truncate(volume.path, last.offset + 3)
    volume.path.with_suffix(".idx").unlink()
    again = Volume.open(FileSystem(), volume.path)
    assert contents(again) == {NEEDLE: b"kept"}
    put(again, NEEDLE + 1, b"again")


def test_writes_go_on_while_a_checkpoint_is_written(volume: Volume) -> None:
    for number in range(100):
        volume.settle([write(volume, NEEDLE + number, b"")])
    job = volume.begin_checkpoint()
    put(volume, NEEDLE + 1000, b"meanwhile")
    delete(volume, NEEDLE)
    places = volume.write_checkpoint(job)
    put(volume, NEEDLE + 1001, b"meanwhile too")
    volume.end_checkpoint(job, places)
    expected, report = contents(volume), volume.report()
    again = reopen(volume, clean=False)
    assert contents(again) == expected
    assert again.report() == report


def test_failed_checkpoint_harms_nothing_and_is_not_tried_again(tmp_path: Path) -> None:
    files = FaultyFiles()
    volume = new_volume(tmp_path, files)
    put(volume, NEEDLE, b"data")
    job = volume.begin_checkpoint()
    files.fail("sync_file")
    with pytest.raises(OSError, match="Input/output"):
        volume.write_checkpoint(job)
    volume.end_checkpoint(job, None)
    put(volume, NEEDLE + 1, b"more")
    assert not volume.checkpoint_is_due
    assert contents(reopen(volume, clean=True)) == {NEEDLE: b"data", NEEDLE + 1: b"more"}


def test_clean_stop_whose_log_cannot_be_synced_leaves_no_checkpoint_and_seals(tmp_path: Path) -> None:
    files = FaultyFiles()
    volume = new_volume(tmp_path, files)
    put(volume, NEEDLE, b"data")
    files.fail("sync_data")
    volume.close(clean=True)
    assert volume.sealed
    assert not volume.path.with_suffix(".idx").exists()


@pytest.fixture
def indexed(volume: Volume) -> tuple[Volume, dict[int, bytes | None], dict[str, object]]:
    """Stopped cleanly, with an index of several segments; its contents and its figures."""
    for number in range(MAX_USED + 10):
        volume.settle([write(volume, NEEDLE + number, b"")])
    checkpoint(volume)
    mixed_from = NEEDLE << 8
    for number in range(60):
        put(volume, mixed_from + number, bytes(number))
    for number in range(0, 60, 4):
        delete(volume, mixed_from + number)
    expected, report = contents(volume), volume.report()
    volume.close(clean=True)
    return volume, expected, report


def opened_equals(path: Path, expected: dict[int, bytes | None], report: dict[str, object]) -> None:
    again = Volume.open(FileSystem(), path)
    assert dict(contents(again)) == expected
    assert again.report() == report
    again.close(clean=False)


def test_index_cut_off_at_any_page_is_rebuilt(
    indexed: tuple[Volume, dict[int, bytes | None], dict[str, object]],
) -> None:
    volume, expected, report = indexed
    index_path = volume.path.with_suffix(".idx")
    good = index_path.read_bytes()
    assert len(good) > 3 * (64 << 10)
    for size_bytes in range(0, len(good), 4096):
        index_path.write_bytes(good[:size_bytes])
        opened_equals(volume.path, expected, report)


def test_bit_flipped_anywhere_in_the_index_is_found(
    indexed: tuple[Volume, dict[int, bytes | None], dict[str, object]],
) -> None:
    volume, expected, report = indexed
    index_path = volume.path.with_suffix(".idx")
    good = index_path.read_bytes()
    head = range(2 * 4096 * 8)
    rng = random.Random(2)
    for bit in (*rng.sample(head, 30), *rng.sample(range(len(good) * 8), 60)):
        raw = bytearray(good)
        raw[bit // 8] ^= 1 << bit % 8
        index_path.write_bytes(raw)
        opened_equals(volume.path, expected, report)


@pytest.mark.parametrize(("call", "after"), [("open", 2), ("size_bytes", 2), ("read_at", 2), ("read_into", 0)])
def test_index_that_cannot_be_read_is_rebuilt(
    indexed: tuple[Volume, dict[int, bytes | None], dict[str, object]],
    caplog: pytest.LogCaptureFixture,
    call: str,
    after: int,
) -> None:
    """A device that does not answer for it; of the volume and its state it does."""
    volume, expected, report = indexed
    files = FaultyFiles()
    files.fail(call, after=after)
    again = Volume.open(files, volume.path)
    assert "its index could not be read and is rebuilt" in caplog.text
    assert (contents(again), again.report()) == (expected, report)
