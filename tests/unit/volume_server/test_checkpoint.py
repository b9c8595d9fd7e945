"""The index on disk: what stands is loaded, what does not check is not used, and a crash loses at most the newest."""

import dataclasses
import struct
import zlib
from pathlib import Path

import pytest

from tests.unit.volume_server.faults import SUPERBLOCK, FaultyFiles
from volume_server.checkpoint import (
    HEADER_BYTES,
    HEADER_OFFSETS,
    PLACES_START,
    CheckpointFile,
    Figures,
    Loaded,
    decode_header,
    encode_header,
)
from volume_server.index import MAX_USED, SEGMENT_BYTES, Index

MANY = MAX_USED * 3
FIGURES = Figures(live_count=1, tombstone_count=2, garbage_bytes=3, damaged_count=4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "7.idx"


@pytest.fixture
def files() -> FaultyFiles:
    return FaultyFiles()


def save(file: CheckpointFile, index: Index, *, watermark: int = 8192, clean: int = 0) -> None:
    frozen = index.freeze()
    places = None
    try:
        places = file.write(frozen, FIGURES, watermark=watermark, clean_size_bytes=clean)
    finally:
        index.release(frozen, places)


def loaded(path: Path) -> Loaded | None:
    return CheckpointFile(FaultyFiles(), path, SUPERBLOCK).load()


def filled(amount: int) -> Index:
    index = Index()
    for needle in range(1, amount + 1):
        index.put(needle, needle * 8, needle % 999)
    return index


def items(index: Index) -> set[tuple[int, int, int]]:
    return set(index.items())


@pytest.mark.parametrize("amount", [0, 1, MANY])
def test_comes_back(path: Path, files: FaultyFiles, amount: int) -> None:
    index = filled(amount)
    save(CheckpointFile(files, path, SUPERBLOCK), index, watermark=9000, clean=9000)
    found = loaded(path)
    assert found is not None
    assert items(found.index) == items(index)
    assert (found.figures, found.watermark, found.clean_size_bytes) == (FIGURES, 9000, 9000)
    assert found.index.get(1) == index.get(1)


def test_no_file_is_no_checkpoint(path: Path) -> None:
    assert loaded(path) is None


def test_only_changed_segments_are_written_again(path: Path, files: FaultyFiles) -> None:
    index = filled(MANY)
    file = CheckpointFile(files, path, SUPERBLOCK)
    save(file, index)
    before = files.calls["write_at"]
    index.put(1, 80, 1)
    save(file, index)
    assert files.calls["write_at"] - before == 3  # one segment, the table, the header
    found = loaded(path)
    assert found is not None
    assert items(found.index) == items(index)


def test_goes_on_after_being_loaded(path: Path, files: FaultyFiles) -> None:
    save(CheckpointFile(files, path, SUPERBLOCK), filled(MANY))
    file = CheckpointFile(files, path, SUPERBLOCK)
    found = file.load()
    assert found is not None
    for round_number in range(1, 5):
        found.index.put(round_number, 8 * round_number, 77)
        save(file, found.index, watermark=8192 + 8 * round_number)
        again = loaded(path)
        assert again is not None
        assert items(again.index) == items(found.index)
        assert again.watermark == 8192 + 8 * round_number


def test_file_does_not_grow_without_end(path: Path, files: FaultyFiles) -> None:
    index = filled(MANY)
    file = CheckpointFile(files, path, SUPERBLOCK)
    for number in range(20):
        for needle in range(1, MANY, 50):
            index.put(needle, 8 * number, 1)
        save(file, index)
    segments = len(list(index.segments()))
    assert path.stat().st_size <= PLACES_START + (2 * segments + 2) * SEGMENT_BYTES


@pytest.mark.parametrize("call", ["write_at", "sync_file"])
def test_crash_at_any_step_leaves_the_checkpoint_before_it(path: Path, files: FaultyFiles, call: str) -> None:
    """Each write and each fsync in turn is the one at which the machine stops."""
    index = filled(MANY)
    file = CheckpointFile(files, path, SUPERBLOCK)
    save(file, index)
    before = items(index)
    for needle in range(1, MANY, 10):
        index.put(needle, 8, 5)
    after = items(index)
    for step in range(20):
        broken = FaultyFiles()
        broken.fail(call, after=step, part_bytes=50)
        attempt = CheckpointFile(broken, path, SUPERBLOCK)
        assert attempt.load() is not None
        frozen = index.freeze()
        try:
            attempt.write(frozen, FIGURES, watermark=9000, clean_size_bytes=0)
        except OSError:
            found = loaded(path)
            assert found is not None
            assert (found.watermark, items(found.index)) in ((8192, before), (9000, after))
            if found.watermark == 9000:  # the header was written, and only the last fsync failed
                assert call == "sync_file"
                break
        else:
            break
        finally:
            index.release(frozen, None)
    assert step >= 1


def test_newest_that_does_not_check_gives_way_to_the_one_before(path: Path, files: FaultyFiles) -> None:
    index = filled(10)
    file = CheckpointFile(files, path, SUPERBLOCK)
    save(file, index, watermark=8192)
    before = items(index)
    index.put(1, 800, 1)
    save(file, index, watermark=8200)
    raw = bytearray(path.read_bytes())
    raw[HEADER_OFFSETS[file.generation % 2] + 40] ^= 1
    path.write_bytes(raw)
    found = loaded(path)
    assert found is not None
    assert (found.watermark, items(found.index)) == (8192, before)


def test_bit_that_matters_flipped_anywhere_is_never_believed(path: Path, files: FaultyFiles) -> None:
    index = filled(10)
    save(CheckpointFile(files, path, SUPERBLOCK), index, clean=8192)
    good = path.read_bytes()
    segment_start, table_start = PLACES_START, PLACES_START + SEGMENT_BYTES
    places = [
        *range(HEADER_OFFSETS[1], HEADER_OFFSETS[1] + 108),
        *range(segment_start, segment_start + SEGMENT_BYTES, 997),
        *range(table_start, table_start + 12),
    ]
    for place in places:
        raw = bytearray(good)
        raw[place] ^= 0x10
        path.write_bytes(raw)
        assert loaded(path) is None, place


@pytest.mark.parametrize("size", [0, 50, 4096, 4200, 8192, PLACES_START + 100, PLACES_START + SEGMENT_BYTES + 5])
def test_file_that_is_cut_off_is_not_believed(path: Path, files: FaultyFiles, size: int) -> None:
    save(CheckpointFile(files, path, SUPERBLOCK), filled(10))
    path.write_bytes(path.read_bytes()[:size])
    assert loaded(path) is None


@pytest.mark.parametrize("change", [{"volume": 8}, {"revision": 2}, {"salt": bytes(16)}])
def test_checkpoint_of_another_volume_or_revision_is_not_believed(
    path: Path, files: FaultyFiles, change: dict[str, int]
) -> None:
    save(CheckpointFile(files, path, SUPERBLOCK), filled(10))
    assert CheckpointFile(files, path, dataclasses.replace(SUPERBLOCK, **change)).load() is None


def forged(path: Path, *, entry: bytes = b"", segment: bytes = b"", **fields: int) -> None:
    """Values that no version wrote, under checksums that are right, in a file of one segment."""
    raw = bytearray(path.read_bytes())
    header = decode_header(bytes(raw[HEADER_OFFSETS[1] :][:HEADER_BYTES]))
    table_at = header.table_offset
    if segment:
        raw[PLACES_START : PLACES_START + SEGMENT_BYTES] = segment
        raw[table_at + 8 : table_at + 12] = struct.pack("<I", zlib.crc32(segment))
    if entry:
        raw[table_at : table_at + 8] = entry
    fields = {"table_crc": zlib.crc32(raw[table_at : table_at + 12])} | fields
    raw[HEADER_OFFSETS[1] : HEADER_OFFSETS[1] + HEADER_BYTES] = encode_header(header._replace(**fields))
    path.write_bytes(raw)


@pytest.mark.parametrize(
    "fields",
    [
        {"watermark": 8191},
        {"watermark": 0},
        {"watermark": 8193},
        {"generation": 2},
        {"generation": (1 << 64) - 1},
        {"segment_count": 0},
        {"segment_count": (1 << 32) - 1},
        {"table_offset": (1 << 64) - 1},
        {"table_offset": 1 << 40},
    ],
    ids=str,
)
def test_header_with_a_value_that_no_version_wrote_is_not_believed(
    path: Path, files: FaultyFiles, fields: dict[str, int]
) -> None:
    save(CheckpointFile(files, path, SUPERBLOCK), filled(10))
    forged(path)
    assert loaded(path) is not None
    forged(path, **fields)
    assert loaded(path) is None


@pytest.mark.parametrize(("depth", "used"), [(0, MAX_USED + 1), (1, 10), (25, 10), (0xFFFF, 10)])
def test_segment_of_no_possible_size_is_not_believed(path: Path, files: FaultyFiles, depth: int, used: int) -> None:
    save(CheckpointFile(files, path, SUPERBLOCK), filled(10))
    forged(path, entry=struct.pack("<IHH", 0, depth, used))
    assert loaded(path) is None


def test_two_segments_in_one_place_are_not_believed(path: Path, files: FaultyFiles) -> None:
    save(CheckpointFile(files, path, SUPERBLOCK), filled(10))
    raw = path.read_bytes()
    table_at = decode_header(raw[HEADER_OFFSETS[1] :][:HEADER_BYTES]).table_offset
    entry = struct.pack("<IHH", 0, 1, 10) + raw[table_at + 8 : table_at + 12]
    path.write_bytes(raw[:table_at] + entry * 2)
    forged(path, segment_count=2, table_crc=zlib.crc32(entry * 2))
    assert loaded(path) is None


def test_segment_in_which_no_search_ends_is_not_believed(path: Path, files: FaultyFiles) -> None:
    save(CheckpointFile(files, path, SUPERBLOCK), filled(10))
    forged(path, segment=b"\1" * SEGMENT_BYTES)
    assert loaded(path) is None


def test_slots_lie_where_the_document_says() -> None:
    """docs/format.md: home slot = bits 28..39 of id x 0x9E3779B97F4A7C15; value = offset / 8 << 28 | length."""
    index = Index()
    index.put(0x12345, 8192, 100)
    [segment] = index.segments()
    home = (0x12345 * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 28 & 4095
    raw = segment.buffer[home * 16 : home * 16 + 16]
    assert int.from_bytes(raw[:8], "little") == 0x12345
    assert int.from_bytes(raw[8:], "little") == 8192 // 8 << 28 | 100
