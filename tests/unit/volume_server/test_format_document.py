"""docs/format.md says what the code does: its layouts are unpacked by hand here, its limits and tests are looked up."""

import hashlib
import re
import struct
import zlib
from pathlib import Path

from tests.support.programs import ROOT
from volume_server import checkpoint, intent, meta, record, superblock, volume
from volume_server import index as index_module

DOCUMENT = (ROOT / "docs" / "format.md").read_text()
GOLDEN = ROOT / "tests" / "golden" / "format1" / "0000000007.vol"


def layout(heading: str) -> dict[str, tuple[int, int]]:
    """field -> (at, size) of the table under a heading."""
    section = DOCUMENT.split(heading, 1)[1].split("\n#", 1)[0]
    rows = re.findall(r"^\| (\d+) \| (\d+) \| ([^|]+) \|$", section, re.MULTILINE)
    return {re.split(r"[:;,]| of | \(", name)[0].strip(): (int(at), int(size)) for at, size, name in rows}


def number(raw: bytes, place: tuple[int, int]) -> int:
    at, size = place
    return int.from_bytes(raw[at : at + size], "little")


def test_tables_have_no_holes() -> None:
    for heading, size in (
        ("### Superblock", superblock.SIZE_BYTES),
        ("### Record", record.HEADER_BYTES),
        ("### Meta", 12),
        ("### Intent", 57 + 32),
        ("## 4. The index file", 108),
    ):
        section = DOCUMENT.split(heading, 1)[1].split("\n#", 1)[0]
        end = 0
        for at, width in re.findall(r"^\| (\d+) \| (\d+) \|", section, re.MULTILINE):
            assert int(at) == end, heading
            end += int(width)
        assert end == size, heading


def test_a_stranger_reads_a_volume_by_the_tables_alone() -> None:
    raw = GOLDEN.read_bytes()
    block = layout("### Superblock")
    assert raw[:8] == b"WHVolume"
    assert number(raw, block["volume id"]) == 7
    assert number(raw, block["CRC"]) == zlib.crc32(raw[:48])
    salt_at, salt_size = block["salt"]
    salt = raw[salt_at : salt_at + salt_size]
    header = layout("### Record")
    at, live = 8192, {}
    while at < len(raw):
        found = raw[at:]
        genuine = hashlib.blake2b(found[:32], digest_size=8, key=salt).digest() == found[32:40]
        if not genuine:
            at += 8
            continue
        meta_bytes, data_bytes = number(found, header["meta length"]), number(found, header["data length"])
        kind, needle = number(found, header["kind"]), number(found, header["needle id"])
        body_meta, data = found[40 : 40 + meta_bytes], found[40 + meta_bytes : 40 + meta_bytes + data_bytes]
        if kind == 1 and number(found, header["CRC"]) == zlib.crc32(body_meta, zlib.crc32(data)):
            live[needle] = data
        elif kind == 2:
            live.pop(needle, None)
        at += (40 + meta_bytes + data_bytes + 7) // 8 * 8
    assert {needle & 0xFFFF: data for needle, data in live.items()} == {
        0: b"", 1: b"seven b", 3: bytes(range(256)), 8: b"behind the damage",
    }  # fmt: skip


def test_a_stranger_finds_a_needle_by_the_index_file() -> None:
    raw = GOLDEN.with_suffix(".idx").read_bytes()
    fields = layout("## 4. The index file")
    heads = [raw[at : at + 108] for at in (0, 4096)]
    good = [head for head in heads if number(head, (104, 4)) == zlib.crc32(head[:104])]
    head = max(good, key=lambda found: number(found, fields["generation"]))
    assert head[:8] == b"WHIndex2"
    table_at = number(head, fields["offset"])
    place, depth, used, crc = struct.unpack("<IHHI", raw[table_at : table_at + 12])
    segment = raw[8192 + place * 65536 :][:65536]
    assert (number(head, fields["number"]), depth, used, crc) == (1, 0, 6, zlib.crc32(segment))
    needle = 0x12340001
    slot = (needle * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 28 & 4095
    while number(segment, (slot * 16, 8)) != needle:
        slot = (slot + 1) % 4096
    value = number(segment, (slot * 16 + 8, 8))
    offset, length = (value >> 28) * 8, value & (1 << 28) - 1
    volume_raw = GOLDEN.read_bytes()
    assert number(volume_raw, (offset + 8, 8)) == needle
    assert volume_raw[offset : offset + length].endswith(b"seven b")


def test_limits_are_the_codes() -> None:
    for limit in (
        record.MAX_RECORD_BYTES,
        record.MAX_META_BYTES,
        record.MAX_DATA_BYTES,
        intent.MAX_BYTES,
        meta.MAX_KEY_BYTES,
        meta.MAX_METADATA_BYTES,
        index_module.SPLIT_USED,
        index_module.MAX_USED,
        index_module.SEGMENT_SLOTS,
    ):
        assert f"{limit:,}" in DOCUMENT, limit
    assert f"{volume.MAX_VERDICT_BYTES} bytes of ASCII" in DOCUMENT
    assert f"{volume.DEFAULT_SIZE_LIMIT >> 30} GiB unless" in DOCUMENT
    assert index_module.MAX_OFFSET < 1 << 39
    assert (checkpoint.PLACES_START, superblock.RECORDS_START) == (8192, 8192)


def test_every_test_that_is_named_is_there() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", DOCUMENT)
    assert len(named) > 25
    folders = [ROOT / "tests" / folder for folder in ("unit/volume_server", "golden", "integration", "cluster")]
    for file, test in named:
        [path] = [folder / file for folder in folders if (folder / file).exists()]
        assert f"def {test}(" in path.read_text(), test


def test_every_path_that_is_named_is_there() -> None:
    for path in re.findall(r"`((?:volume_server|tests)/[\w./]*)`", DOCUMENT):
        assert (ROOT / Path(path)).exists(), path
