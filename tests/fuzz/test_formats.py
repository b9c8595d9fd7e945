"""The formats of a volume server's files, on bytes that only look like them.

Nothing but the documented errors comes out; what decodes is encoded to the same bytes, so that there is one spelling of
each value; checksums and lengths are mostly right here, so that the checks behind them are reached. Whole volumes are
golden ones to which a disk, a crash or another program did something.
"""

import json
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.golden import make
from volume_server import checkpoint, record, recovery, shipment, superblock
from volume_server import intent as intents
from volume_server import meta as metas
from volume_server import state as states
from volume_server.checkpoint import CheckpointFile, CheckpointInvalid, Figures
from volume_server.damage import Damage
from volume_server.durability import FileSystem
from volume_server.errors import Damaged, VolumeUnusable
from volume_server.index import SEGMENT_BYTES
from volume_server.inspection import Inspection, NotAVolume
from volume_server.state import ALONE, CLOSED, ROLES, SHARED, Replica, State, StateInvalid
from volume_server.superblock import RECORDS_START
from volume_server.volume import Volume

FORMAT1 = Path(make.__file__).parent / "format1"
TAGGER = record.Tagger(make.SALT)
NAME = "0000000007.vol"

u8, u16, u32, u64 = (
    st.integers(0, (1 << bits) - 1) | st.sampled_from([0, 1, (1 << bits) - 1]) for bits in (8, 16, 32, 64)
)
texts = st.text(max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
odd_json = (
    json_values.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(texts, texts, max_size=3).map(
        lambda value: json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()
    )
    | st.sampled_from([b"", b"{}", b"{ }", b"[" * 9000, b'{"a":' * 9000, b"1e999", b"NaN", b"\xff"])
    | st.sampled_from([b'{"a":"\\ud800"}', b'{"a":"1","a":"1"}', b'{"b":"1","a":"1"}', b'{"content_type":1}'])
)


def flipped(raw: bytes, bit: int) -> bytes:
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# -- codecs ----------------------------------------------------------------------------------------------------------


@given(st.sampled_from([record.MAGIC, b"WHRd"]), u8, st.sampled_from([0, 0, 0, 1]), u16, u64, u32, u32, u64, st.data())
def test_record_header(
    magic: bytes, kind: int, reserved: int, meta: int, needle: int, size: int, crc: int, now: int, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from([kind, record.LIVE, record.TOMBSTONE, record.FILLER]))
    fields = struct.pack("<4sBBHQIIQ", magic, kind, reserved, meta, needle, size, crc, now)
    raw = fields + TAGGER.tag(fields)
    header = record.decode_header(TAGGER, raw)
    if header is not None:
        again = record.encode_header(
            TAGGER, header.kind, header.needle, meta_bytes=header.meta_bytes, data_bytes=header.data_bytes,
            crc=header.crc, appended_ms=header.appended_ms,
        )  # fmt: skip
        assert again == raw
    assert record.decode_header(TAGGER, flipped(raw, data.draw(st.integers(0, len(raw) * 8 - 1)))) is None


@given(st.binary(max_size=100), st.integers(0, 60))
def test_record_header_of_any_bytes(raw: bytes, at: int) -> None:
    assert record.decode_header(TAGGER, raw, at) is None
    assert record.live_data(TAGGER, raw, 1) is None


@given(st.binary(max_size=40), st.binary(max_size=40), u64, st.data())
def test_live_record(meta: bytes, body: bytes, needle: int, data: st.DataObject) -> None:
    crc = zlib.crc32(meta, zlib.crc32(body))
    raw = record.encode_header(
        TAGGER, record.LIVE, needle, meta_bytes=len(meta), data_bytes=len(body), crc=crc, appended_ms=1
    )
    assert record.live_data(TAGGER, raw + meta + body, needle) == body
    bad = flipped(raw + meta + body, data.draw(st.integers(0, (len(raw) + len(meta) + len(body)) * 8 - 1)))
    assert record.live_data(TAGGER, bad, needle) is None


@given(
    st.sampled_from([superblock.MAGIC, b"WHVolumf"]), u32, u32, u32, u32, u64, st.binary(min_size=16, max_size=16),
    st.data(),
)  # fmt: skip
def test_superblock(
    magic: bytes,
    version: int,
    volume: int,
    revision: int,
    reserved: int,
    created: int,
    salt: bytes,
    data: st.DataObject,
) -> None:
    version, reserved = data.draw(st.sampled_from([(version, reserved), (1, 0)]))
    fields = struct.pack("<8sIIIIQ16s", magic, version, volume, revision, reserved, created, salt)
    raw = fields + struct.pack("<I", zlib.crc32(fields))
    for each in (raw, flipped(raw, data.draw(st.integers(0, len(raw) * 8 - 1))), raw[: data.draw(st.integers(0, 51))]):
        try:
            found = superblock.decode(each)
        except superblock.SuperblockInvalid:
            continue
        assert each is raw
        assert superblock.encode(found) == raw


@given(st.binary(max_size=9000))
def test_superblock_of_any_bytes(raw: bytes) -> None:
    try:
        superblock.decode_head(raw)
    except superblock.SuperblockInvalid:
        return
    raise AssertionError("a superblock of chance")


@given(
    u8, u8, st.binary(max_size=80), st.binary(max_size=20) | texts.map(str.encode), texts, texts, odd_json, st.data()
)
def test_meta(
    version: int,
    flags: int,
    intent: bytes,
    key: bytes,
    content_type: str,
    if_match: str,
    metadata: bytes,
    data: st.DataObject,
) -> None:
    version, flags = data.draw(st.sampled_from([(version, flags), (1, 0), (1, 1)]))
    parts = [intent, key, content_type.encode(), if_match.encode(), metadata]
    raw = struct.pack("<BB5H", version, flags, *map(len, parts)) + b"".join(parts)
    raw = raw[: data.draw(st.sampled_from([len(raw), len(raw), len(raw) - 1, 5]))]
    try:
        found = metas.decode(raw)
    except metas.MetaInvalid:
        return
    assert metas.encode(found) == raw


@given(st.binary(max_size=200))
def test_meta_of_any_bytes(raw: bytes) -> None:
    try:
        found = metas.decode(b"\x01" + raw)
    except metas.MetaInvalid:
        return
    assert metas.encode(found) == b"\x01" + raw


@given(
    u8, u8, st.tuples(u16, u32, u64, u16, u32, u32, u64, u64, u32, u32), st.binary(min_size=32, max_size=32),
    texts, st.binary(max_size=20) | texts.map(str.encode), texts, odd_json, st.data(),
)  # fmt: skip
def test_intent(
    version: int, flags: int, numbers: tuple[int, ...], upload: bytes, bucket: str, key: bytes, if_match: str,
    attributes: bytes, data: st.DataObject,
) -> None:  # fmt: skip
    version, flags = data.draw(st.sampled_from([(version, flags), (1, flags & 31)]))
    parts = [bucket.encode(), key, if_match.encode(), attributes[:2000]]
    head = struct.pack("<BBHIQHIIQQIIBHHH", version, flags, *numbers, *map(len, parts))
    body = head + (upload if flags & intents.IS_CHUNK else b"") + b"".join(parts)
    raw = body + intents._mac(body, make.MASTER_SECRET)
    assert intents.from_text(intents.to_text(raw)) == raw
    bad = flipped(raw, data.draw(st.integers(0, len(raw) * 8 - 1)))
    assert not intents.is_genuine(bad, make.MASTER_SECRET)
    for each in (raw, bad, raw[: data.draw(st.integers(0, len(raw)))]):
        try:
            found = intents.unpack(each)
        except intents.IntentInvalid:
            continue
        assert intents.pack(found, make.MASTER_SECRET)[: -intents.MAC_BYTES] == each[: -intents.MAC_BYTES]


@given(st.text(max_size=60) | st.text("ABCabc019-_=+/ \n", max_size=60))
def test_text_of_an_intent(text: str) -> None:
    try:
        raw = intents.from_text(text)
    except intents.IntentInvalid:
        return
    assert intents.to_text(raw) == text


damages = st.builds(Damage, offset=u64, size_bytes=u64, needle=st.none() | u64, reason=texts)
replicas = st.builds(
    Replica, role=st.sampled_from(sorted(ROLES)), mode=st.sampled_from([SHARED, ALONE, CLOSED]), revision=u32,
    history=st.lists(st.tuples(u32, u64), max_size=3).map(tuple),
)  # fmt: skip
all_states = st.builds(
    State, epoch=u32, sealed=st.none() | texts, unsynced=st.lists(st.tuples(u64, u64), max_size=3),
    scrubbed_ms=st.none() | u64, damaged_count=u32, damaged=st.lists(damages, max_size=3).map(tuple),
    damaged_revision=st.integers(1, (1 << 32) - 1), replica=st.none() | replicas,
)  # fmt: skip


@given(all_states)
def test_state_comes_back(state: State) -> None:
    assert states.decode(states.encode(state)) == state


@given(
    odd_json | st.binary(max_size=50),
    st.fixed_dictionaries(
        {},
        optional={
            "epoch": json_values | u32, "sealed": json_values, "unsynced": json_values | st.lists(st.tuples(u64, u64)),
            "scrubbed_ms": json_values,
            "replication": json_values
            | st.fixed_dictionaries(
                {"role": json_values, "mode": json_values, "revision": u32, "history": json_values}
            ),
            "damaged": json_values | st.fixed_dictionaries({"revision": u32, "count": u32, "listed": json_values}),
        },
    ),
)  # fmt: skip
@example(b"[" * 9000, {})
@example(
    b"",
    {"damaged": {"revision": 1, "count": 1, "listed": [{"needle": None, "offset": 1e999, "bytes": 1, "reason": ""}]}},
)
def test_state_of_anything(raw: bytes, fields: dict[str, object]) -> None:
    for each in (raw, json.dumps({"epoch": 1, "sealed": None} | fields).encode()):
        try:
            found = states.decode(each)
        except StateInvalid:
            continue
        assert states.decode(states.encode(found)).epoch == found.epoch


# -- what is sent to peers -------------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_shipment_of_anything(raw: bytes) -> None:
    with suppress(shipment.ShipmentInvalid):
        shipment.decode(raw)


@given(
    st.lists(st.tuples(st.integers(0, 100), st.binary(max_size=50)), max_size=5),
    st.lists(st.tuples(u64.filter(bool), st.integers(0, 10), st.sampled_from([1, 2])), max_size=5),
    st.integers(0, 400),
)
def test_shipment_comes_back(
    extents: list[tuple[int, bytes]], records: list[tuple[int, int, int]], cut_off: int
) -> None:
    sent = shipment.Shipment(
        7,
        RECORDS_START + 1000,
        RECORDS_START,
        8,
        [shipment.Extent(RECORDS_START + offset, data) for offset, data in extents],
        [shipment.Record(needle, RECORDS_START + 8 * place, 40, kind) for needle, place, kind in records],
    )
    raw = shipment.encode(sent)
    assert shipment.decode(raw) == sent
    if 0 < cut_off <= len(raw):
        with pytest.raises(shipment.ShipmentInvalid):
            shipment.decode(raw[:-cut_off])


# -- the index file --------------------------------------------------------------------------------------------------

headers = st.builds(
    checkpoint.Header,
    volume=st.just(7) | u32,
    revision=st.just(3) | u32,
    salt=st.just(make.SALT) | st.binary(min_size=16, max_size=16),
    generation=u64,
    watermark=st.integers(1024, 1300).map(lambda words: words * 8) | u64,
    clean_size_bytes=u64,
    live_count=u64,
    tombstone_count=u64,
    garbage_bytes=u64,
    damaged_count=u64,
    table_offset=st.just(8192) | u64,
    segment_count=st.integers(0, 5) | u32,
    table_crc=u32,
)


@given(headers, st.data())
def test_index_header(header: checkpoint.Header, data: st.DataObject) -> None:
    raw = checkpoint.encode_header(header)
    assert checkpoint.decode_header(raw) == header
    for bad in (flipped(raw, data.draw(st.integers(0, len(raw) * 8 - 1))), raw[: data.draw(st.integers(0, 107))]):
        try:
            checkpoint.decode_header(bad)
        except CheckpointInvalid:
            continue
        raise AssertionError("a header that does not check was taken")


@st.composite
def segments(draw: st.DrawFn) -> bytes:
    """4,096 slots: few, many or all of them taken."""
    slots = draw(st.dictionaries(st.integers(0, 4095), st.tuples(u64, u64), max_size=8))
    filled = draw(st.sampled_from([0, 0, 4095, 4096]))
    raw = bytearray(SEGMENT_BYTES)
    for slot in range(filled):
        struct.pack_into("<QQ", raw, slot * 16, slot + 1, 1 << 40)
    for slot, (needle, value) in slots.items():
        struct.pack_into("<QQ", raw, slot * 16, needle, value)
    return bytes(raw)


class Large(bytes):
    """Bytes that a failure shows by their checksum only: the blob that it prints as well makes them again."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes, CRC {zlib.crc32(self):08x}>"


@st.composite
def index_files(draw: st.DrawFn) -> bytes:
    """Files whose checksums are right and whose values are anything."""
    places = draw(st.lists(segments(), min_size=1, max_size=3))
    entries = b""
    depths = draw(st.sampled_from([[0], [1, 1], [1, 2, 2], [2, 2, 1], [2, 1, 2], [25], [1], [0xFFFF, 0]]))
    for depth in depths:
        place = draw(st.integers(1, len(places)) | st.integers(1, 4))
        crc = zlib.crc32(places[place - 1]) if place <= len(places) else 0
        used = draw(st.sampled_from([0, 1, 8, 3840, 4096, 0xFFFF]))
        entries += struct.pack("<IHHI", place, depth, used, crc)
    file = bytearray(8192 + (1 + len(places)) * SEGMENT_BYTES)
    file[8192 : 8192 + len(entries)] = entries
    for number, segment in enumerate(places, 1):
        file[8192 + number * SEGMENT_BYTES : 8192 + (number + 1) * SEGMENT_BYTES] = segment
    for offset in checkpoint.HEADER_OFFSETS:
        header = draw(headers)
        header = header._replace(table_crc=zlib.crc32(entries), segment_count=len(entries) // 12)
        if draw(st.booleans()):
            header = header._replace(volume=7, revision=3, salt=make.SALT, table_offset=8192, watermark=9000)
        raw = checkpoint.encode_header(header)
        file[offset : offset + len(raw)] = raw
    return Large(file[: draw(st.sampled_from([len(file), len(file), len(file) - 1, 9000, 100]))])


@contextmanager
def folder(case: str | None = None) -> Iterator[Path]:
    """A directory of its own for one example; with a golden case in it."""
    with tempfile.TemporaryDirectory(prefix="warehouse-fuzz-") as name:
        if case is not None:
            shutil.copytree(FORMAT1 / case, name, dirs_exist_ok=True)
        yield Path(name)


@given(index_files() | st.binary(max_size=9000), st.lists(u64, max_size=10))
def test_index_file(raw: bytes, needles: list[int]) -> None:
    """It is taken or not; a search in what was taken ends, and so does a put."""
    with folder() as directory:
        path = directory / "7.idx"
        path.write_bytes(raw)
        file = CheckpointFile(FileSystem(), path, make.SUPERBLOCK)
        loaded = file.load()
        if loaded is None:
            return
        for needle in needles:
            loaded.index.get(needle)
        before = list(loaded.index.items())
        assert len(before) <= len(raw) // 16
        frozen = loaded.index.freeze()
        places = file.write(frozen, Figures(), watermark=loaded.watermark, clean_size_bytes=0)
        loaded.index.release(frozen, places)
        again = CheckpointFile(FileSystem(), path, make.SUPERBLOCK).load()
        assert again is not None
        assert list(again.index.items()) == before


# -- the log ---------------------------------------------------------------------------------------------------------


def whole_record(needle: int, body: bytes) -> bytes:
    header = record.encode_header(
        TAGGER, record.LIVE, needle, meta_bytes=0, data_bytes=len(body), crc=zlib.crc32(body), appended_ms=1
    )
    return header + body + record.padding_of(len(body))


imitations = st.builds(
    lambda needle, bit: flipped(whole_record(needle, b"seven b"), bit), st.integers(1, 99), st.integers(0, 319)
)
"""All of a record but one bit of its header."""
junk = st.lists(
    st.binary(max_size=64) | imitations | st.sampled_from([record.MAGIC, bytes(4096), record.MAGIC * 20]), max_size=4
).map(lambda parts: b"".join(part + record.padding_of(len(part)) for part in parts))


@given(st.lists(junk | st.binary(max_size=40).map(lambda body: (body,)), max_size=8), st.integers(0, 50))
def test_scan_finds_every_record_whatever_lies_between(parts: list[bytes | tuple[bytes]], cut: int) -> None:
    raw, wanted = b"", {}
    for number, part in enumerate(parts, 1):
        if isinstance(part, tuple):
            wanted[len(raw)] = number
            raw += whole_record(number, part[0])
        else:
            raw += part
    raw = raw[: len(raw) - cut]
    with folder() as directory:
        (directory / "log").write_bytes(raw)
        with (directory / "log").open("rb") as file:
            found = list(recovery.scan(file.fileno(), TAGGER, start=0, end=len(raw)))
    at = 0
    for item in found:
        assert item.offset == at
        at += item.size_bytes if isinstance(item, recovery.Gap) else item.header.record_bytes
    assert len(raw) <= at < len(raw) + record.ALIGNMENT
    whole = {item.offset: item.header.needle for item in found if isinstance(item, recovery.Found) and item.sound}
    lost = {offset: needle for offset, needle in wanted.items() if whole.get(offset) != needle}
    assert all(offset + 40 > len(raw) - 40 for offset in lost), "a record that was not cut off is not found"


# -- whole volumes ---------------------------------------------------------------------------------------------------

CASES = [*make.CASES, "."]
FILES = [NAME, "0000000007.idx", "0000000007.state"]


@st.composite
def hurts(draw: st.DrawFn, size: int) -> list[tuple[str, int, bytes]]:
    """What a disk or a crash may do to a file of this size: bytes overwritten in place, the end cut off or grown."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        how = draw(st.sampled_from(["flip", "write", "zero", "cut", "grow"]))
        at = draw(st.integers(0, size))
        if how == "write":
            found.append((how, at, draw(st.binary(max_size=100))))
        elif how == "zero":
            found.append(("write", at // 4096 * 4096, bytes(4096)))
        elif how == "grow":
            found.append((how, 0, draw(st.binary(max_size=100) | st.just(bytes(5000)))))
        else:
            found.append((how, at, bytes((1 << draw(st.integers(0, 7)),))))
    return found


def hurt(path: Path, how: list[tuple[str, int, bytes]]) -> None:
    raw = bytearray(path.read_bytes())
    for kind, at, value in how:
        if kind == "cut":
            del raw[at:]
        elif kind == "grow":
            raw += value
        elif kind == "flip" and at < len(raw):
            raw[at] ^= value[0]
        elif kind == "write" and at < len(raw):
            end = min(at + len(value), len(raw))
            raw[at:end] = value[: end - at]
    path.write_bytes(raw)


def alive_by_scan(path: Path) -> dict[int, bytes]:
    """needle -> data, read as section 6 of docs/format.md says, with neither index nor engine."""
    raw = path.read_bytes()
    alive: dict[int, bytes] = {}
    seen: set[int] = set()
    with path.open("rb") as file:
        for found in recovery.scan(file.fileno(), TAGGER, start=RECORDS_START, end=len(raw)):
            if isinstance(found, recovery.Gap) or found.header.kind == record.FILLER:
                continue
            header = found.header
            if header.kind == record.TOMBSTONE:
                alive.pop(header.needle, None)
                seen.add(header.needle)
            elif found.sound and header.needle not in seen:
                seen.add(header.needle)
                start = found.offset + record.HEADER_BYTES + header.meta_bytes
                alive[header.needle] = raw[start : start + header.data_bytes]
    return alive


def contents(volume: Volume) -> dict[int, bytes | None]:
    """Of all that can be read: needle -> data, None where it is dead."""
    found: dict[int, bytes | None] = {}
    for needle, _, length in volume.index.items():
        try:
            found[needle] = bytes(volume.read(needle) or b"") if length else None
        except Damaged:
            continue
    return found


@given(st.sampled_from(CASES), st.data())
def test_volume_whose_log_was_hurt(case: str, data: st.DataObject) -> None:
    """It opens or is refused; what a scan finds alive is served, and nothing else is ever served in its place."""
    with folder(case) as directory:
        path = directory / NAME
        before = alive_by_scan(path)
        hurt(path, data.draw(hurts(path.stat().st_size)))
        if data.draw(st.booleans()):
            path.with_suffix(".idx").unlink(missing_ok=True)
        expected = alive_by_scan(path)
        try:
            volume = Volume.open(FileSystem(), path)
        except VolumeUnusable:
            return
        for needle, body in expected.items():
            if volume.stored_length(needle) != 0:  # the index may know of a tombstone that the log has lost
                assert volume.read(needle) == body
        served = {needle: body for needle, body in contents(volume).items() if body is not None}
        volume.close()
        again = Volume.open(FileSystem(), path)
        assert {needle: body for needle, body in contents(again).items() if body is not None} == served
        again.close()
        assert served.items() <= (before | expected).items()


@given(st.sampled_from(CASES), st.sampled_from(FILES[1:]), st.binary(max_size=200), st.data())
def test_volume_whose_other_files_were_hurt(case: str, name: str, soup: bytes, data: st.DataObject) -> None:
    """An index that does not check is made anew, a state that is none is refused: no needle is lost or comes back."""
    with folder(case) as directory:
        path = directory / NAME
        volume = Volume.open(FileSystem(), path)
        expected = contents(volume)
        volume.close(clean=False)
        other = directory / name
        size = other.stat().st_size if other.exists() else 0
        if size and data.draw(st.booleans()):
            hurt(other, data.draw(hurts(size)))
        else:
            other.write_bytes(soup)
        try:
            volume = Volume.open(FileSystem(), path)
        except VolumeUnusable:
            assert name.endswith(".state")
            return
        found = contents(volume)
        volume.close()
        if case == "damaged":  # whose index knows of tombstones and needles that a scan does not find
            assert found.items() <= expected.items()
        else:
            assert found == expected


@given(st.sampled_from(CASES), st.sampled_from(FILES), st.data())
def test_fsck_of_anything(case: str, name: str, data: st.DataObject) -> None:
    """It judges whatever it is given; and what it calls sound has lost nothing."""
    with folder(case) as directory:
        path = directory / NAME
        expected = alive_by_scan(path)
        other = directory / name
        hurt(other, data.draw(hurts(other.stat().st_size))) if other.exists() else other.write_bytes(b"soup")
        try:
            with Inspection(path) as inspection:
                report = inspection.run()
        except NotAVolume:
            return
        if not report.damage_count:
            volume = Volume.open(FileSystem(), path)
            for needle, body in alive_by_scan(path).items():
                assert volume.read(needle) == body
            volume.close()
            if report.index and "equals the scan" in report.index:
                assert alive_by_scan(path) == expected


@given(st.binary(max_size=20_000), st.binary(max_size=300), st.binary(max_size=100))
def test_volume_of_any_bytes(log: bytes, idx: bytes, state: bytes) -> None:
    with folder() as directory:
        path = directory / NAME
        path.write_bytes(superblock.encode_head(make.SUPERBLOCK) + log)
        path.with_suffix(".idx").write_bytes(idx)
        try:
            path.with_suffix(".state").write_bytes(state)
            Volume.open(FileSystem(), path).close()
        except VolumeUnusable:
            path.with_suffix(".state").unlink()
        volume = Volume.open(FileSystem(), path)
        assert list(volume.index.items()) == []
        volume.close()
