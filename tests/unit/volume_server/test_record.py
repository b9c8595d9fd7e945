import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volume_server import record
from volume_server.record import (
    FILLER,
    HEADER_BYTES,
    LIVE,
    MAX_RECORD_BYTES,
    TOMBSTONE,
    Header,
    Tagger,
    decode_header,
    encode_header,
)

SALT = bytes(range(16))
TAGGER = Tagger(SALT)

headers = st.builds(
    Header,
    kind=st.sampled_from([LIVE, TOMBSTONE, FILLER]),
    meta_bytes=st.integers(0, 0xFFFF),
    needle=st.integers(1, (1 << 64) - 1),
    data_bytes=st.integers(0, record.MAX_DATA_BYTES),
    crc=st.integers(0, (1 << 32) - 1),
    appended_ms=st.integers(0, (1 << 64) - 1),
)


def encoded(header: Header, tagger: Tagger = TAGGER) -> bytes:
    return encode_header(
        tagger,
        header.kind,
        header.needle,
        meta_bytes=header.meta_bytes,
        data_bytes=header.data_bytes,
        crc=header.crc,
        appended_ms=header.appended_ms,
    )


@given(headers, st.binary(max_size=20))
def test_header_comes_back_from_any_place(header: Header, before: bytes) -> None:
    raw = encoded(header)
    assert len(raw) == HEADER_BYTES
    assert decode_header(TAGGER, raw) == header
    assert decode_header(TAGGER, before + raw + b"behind", len(before)) == header
    assert decode_header(TAGGER, memoryview(raw)) == header


@given(headers, st.integers(0, HEADER_BYTES * 8 - 1))
def test_no_bit_of_a_header_can_be_flipped(header: Header, bit: int) -> None:
    raw = bytearray(encoded(header))
    raw[bit // 8] ^= 1 << bit % 8
    assert decode_header(TAGGER, raw) is None


@given(headers, st.binary(min_size=16, max_size=16).filter(lambda salt: salt != SALT))
def test_header_of_another_salt_is_none(header: Header, salt: bytes) -> None:
    assert decode_header(TAGGER, encoded(header, Tagger(salt))) is None


@pytest.mark.parametrize("size", range(HEADER_BYTES))
def test_header_that_is_cut_off_is_none(size: int) -> None:
    raw = encoded(Header(LIVE, 0, 1, 0, 0, 0))
    assert decode_header(TAGGER, raw[:size]) is None


@pytest.mark.parametrize(
    ("kind", "reserved", "needle"), [(0, 0, 1), (4, 0, 1), (255, 0, 1), (LIVE, 1, 1), (LIVE, 0, 0)]
)
def test_genuine_header_with_a_value_that_no_version_wrote_is_none(kind: int, reserved: int, needle: int) -> None:
    fields = struct.pack("<4sBBHQIIQ", record.MAGIC, kind, reserved, 0, needle, 0, 0, 0)
    assert decode_header(TAGGER, fields + TAGGER.tag(fields)) is None


def test_live_record_that_the_index_could_not_name_is_none() -> None:
    largest = Header(LIVE, 0, 1, MAX_RECORD_BYTES - HEADER_BYTES, 0, 0)
    assert decode_header(TAGGER, encoded(largest)) == largest
    assert decode_header(TAGGER, encoded(largest._replace(data_bytes=largest.data_bytes + 1))) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("meta_bytes", 1 << 16), ("data_bytes", 1 << 32), ("crc", 1 << 32), ("appended_ms", 1 << 64), ("crc", -1)],
)
def test_value_that_does_not_fit_its_field_is_refused(name: str, value: int) -> None:
    values = {"meta_bytes": 0, "data_bytes": 0, "crc": 0, "appended_ms": 0} | {name: value}
    with pytest.raises(struct.error):
        encode_header(TAGGER, LIVE, 1, **values)


@given(st.integers(0, 1 << 32))
def test_record_is_aligned_and_padded_by_less_than_a_word(size: int) -> None:
    assert record.aligned(size) % record.ALIGNMENT == 0
    assert record.aligned(size) == size + len(record.padding_of(size))
    assert len(record.padding_of(size)) < record.ALIGNMENT


def test_sizes_of_a_header() -> None:
    header = Header(LIVE, 3, 1, 10, 0, 0)
    assert header.stored_bytes == 53
    assert header.record_bytes == 56


def test_limits_fit_the_index() -> None:
    assert record.HEADER_BYTES + record.MAX_META_BYTES + record.MAX_DATA_BYTES == record.MAX_RECORD_BYTES
    assert record.MAX_RECORD_BYTES < 1 << 28
    assert record.MAX_RECORD_BYTES % record.ALIGNMENT == 0


def test_filler_holds_its_space_whatever_lies_in_it() -> None:
    header = decode_header(TAGGER, record.encode_filler(TAGGER, 5, record_bytes=4096, appended_ms=9))
    assert header == Header(FILLER, 0, 5, 4096 - HEADER_BYTES, 0, 9)
    assert header is not None
    assert header.record_bytes == 4096
    assert record.body_is_sound(header, b"", b"what a client began to send")


@pytest.mark.parametrize("verdict", ["", "412 precondition_failed"])
def test_tombstone_is_a_whole_record(verdict: str) -> None:
    raw = record.encode_tombstone(TAGGER, 5, verdict=verdict, appended_ms=9)
    header = decode_header(TAGGER, raw)
    assert header is not None
    assert (header.kind, header.needle, header.data_bytes) == (TOMBSTONE, 5, 0)
    assert len(raw) == header.record_bytes
    meta = raw[HEADER_BYTES : HEADER_BYTES + header.meta_bytes]
    assert meta.decode() == verdict
    assert record.body_is_sound(header, meta, b"")


@given(st.binary(max_size=50), st.binary(max_size=50), st.data())
def test_body_is_sound_only_as_it_was_written(meta: bytes, data: bytes, draw: st.DataObject) -> None:
    crc = zlib.crc32(meta, zlib.crc32(data))
    header = Header(LIVE, len(meta), 1, len(data), crc, 0)
    assert record.body_is_sound(header, meta, data)
    if meta or data:
        both = bytearray(meta + data)
        bit = draw.draw(st.integers(0, len(both) * 8 - 1))
        both[bit // 8] ^= 1 << bit % 8
        assert not record.body_is_sound(header, both[: len(meta)], both[len(meta) :])


@given(st.binary(max_size=50), st.binary(max_size=50), st.data())
def test_live_data_is_found_only_as_it_was_written(meta: bytes, data: bytes, draw: st.DataObject) -> None:
    raw = encoded(Header(LIVE, len(meta), 7, len(data), zlib.crc32(meta, zlib.crc32(data)), 0)) + meta + data
    assert record.live_data(TAGGER, raw, 7) == data
    assert record.live_data(TAGGER, raw, 8) is None
    assert record.live_data(TAGGER, raw + b"\0", 7) is None
    assert record.live_data(TAGGER, raw[: draw.draw(st.integers(0, len(raw) - 1))], 7) is None
    flipped = bytearray(raw)
    bit = draw.draw(st.integers(0, len(raw) * 8 - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    assert record.live_data(TAGGER, bytes(flipped), 7) is None


@pytest.mark.parametrize("kind", [TOMBSTONE, FILLER])
def test_live_data_is_of_live_records_alone(kind: int) -> None:
    assert record.live_data(TAGGER, encoded(Header(kind, 0, 7, 0, 0, 0)), 7) is None
