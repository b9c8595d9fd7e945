import dataclasses
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volume_server import intent as intents
from volume_server.intent import Intent, IntentInvalid

SECRET = b"s" * 32
u32 = st.integers(0, (1 << 32) - 1)
u64 = st.integers(0, (1 << 64) - 1)
texts = st.text(max_size=30)

plain = st.builds(
    Intent,
    volume=u32,
    first=st.integers(1, (1 << 64) - 1),
    count=st.integers(1, intents.MAX_COUNT),
    epoch=u32,
    max_bytes=u32,
    bucket_id=u64,
    bucket=texts,
    api_key=u64,
    generation=u32,
    expires_at=u32,
    key=texts,
    key_fixed=st.booleans(),
    exact=st.booleans(),
    if_match=texts,
    if_none_match=st.booleans(),
    content_type=texts,
    metadata=st.dictionaries(texts, texts, max_size=3),
    secret_id=st.integers(0, 0xFFFF),
)
chunks = st.builds(
    dataclasses.replace,
    plain,
    upload=st.uuids(),
    held=st.booleans(),
    chunk_index=u32,
    chunk_count=u32,
    total_bytes=u64,
)
all_intents = plain | chunks
ONE = Intent(
    volume=1,
    first=1 << 16,
    count=1,
    epoch=1,
    max_bytes=10,
    bucket_id=1,
    bucket="b",
    api_key=1,
    generation=1,
    expires_at=1,
)


@given(all_intents)
def test_comes_back_and_is_genuine(intent: Intent) -> None:
    raw = intents.pack(intent, SECRET)
    assert intents.unpack(raw) == intent
    assert intents.is_genuine(raw, SECRET)
    assert not intents.is_genuine(raw, b"t" * 32)
    assert intents.from_text(intents.to_text(raw)) == raw


@given(all_intents, st.data())
def test_flipped_bit_is_never_genuine(intent: Intent, data: st.DataObject) -> None:
    raw = bytearray(intents.pack(intent, SECRET))
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    assert not intents.is_genuine(bytes(raw), SECRET)


@given(all_intents, st.data())
def test_every_cut_is_refused(intent: Intent, data: st.DataObject) -> None:
    raw = intents.pack(intent, SECRET)
    with pytest.raises(IntentInvalid):
        intents.unpack(raw[: data.draw(st.integers(0, len(raw) - 1))])
    with pytest.raises(IntentInvalid):
        intents.unpack(raw + b"\0")


@given(st.binary(min_size=70, max_size=140))
def test_any_bytes_are_an_intent_or_refused(raw: bytes) -> None:
    try:
        found = intents.unpack(b"\x01" + raw)
    except IntentInvalid:
        return
    assert isinstance(found, Intent)


@pytest.mark.parametrize("count", [0, intents.MAX_COUNT + 1])
def test_range_outside_the_limits_is_refused(count: int) -> None:
    with pytest.raises(IntentInvalid, match="range"):
        intents.unpack(intents.pack(dataclasses.replace(ONE, count=count), SECRET))


def test_needle_zero_is_never_allowed() -> None:
    with pytest.raises(IntentInvalid, match="range"):
        intents.unpack(intents.pack(dataclasses.replace(ONE, first=0), SECRET))


@pytest.mark.parametrize(
    ("name", "value"),
    [("volume", 1 << 32), ("epoch", -1), ("max_bytes", 1 << 32), ("bucket", "b" * 256), ("expires_at", 1 << 32)],
)
def test_value_that_does_not_fit_is_refused(name: str, value: object) -> None:
    with pytest.raises(IntentInvalid, match="does not fit"):
        intents.pack(dataclasses.replace(ONE, **{name: value}), SECRET)


def test_intent_has_a_largest_size() -> None:
    spare = intents.MAX_BYTES - len(intents.pack(dataclasses.replace(ONE, key=""), SECRET))
    assert len(intents.pack(dataclasses.replace(ONE, key="k" * spare), SECRET)) == intents.MAX_BYTES
    with pytest.raises(IntentInvalid, match="4096 are allowed"):
        intents.pack(dataclasses.replace(ONE, key="k" * (spare + 1)), SECRET)


def test_other_version_is_refused() -> None:
    with pytest.raises(IntentInvalid, match="not known"):
        intents.unpack(b"\x02" + intents.pack(ONE, SECRET)[1:])


def test_largest_lease_of_the_largest_intent_fits_a_request_line() -> None:
    assert (
        len(intents.to_text(bytes(intents.MAX_BYTES))) + len("PUT /4294967295/ HTTP/1.1?exp=&intent=&kid=&sig=") + 130
        < 8190
    )


@pytest.mark.parametrize("text", ["AA==", "AB", "A", "A A", "A+", "A/", "é", "AA\n"])
def test_only_one_spelling_of_base64_is_taken(text: str) -> None:
    """`AB` has spare bits set: the same byte as `AA`."""
    with pytest.raises(IntentInvalid):
        intents.from_text(text)


def test_what_a_lease_allows() -> None:
    lease = dataclasses.replace(ONE, first=10, count=3)
    assert [needle for needle in range(8, 16) if lease.allows(needle)] == [10, 11, 12]


def test_upload_is_told_from_none() -> None:
    assert intents.unpack(intents.pack(dataclasses.replace(ONE, upload=uuid.UUID(int=0)), SECRET)).upload == uuid.UUID(
        int=0
    )
    assert intents.unpack(intents.pack(ONE, SECRET)).upload is None
