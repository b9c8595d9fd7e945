import pytest
from hypothesis import given
from hypothesis import strategies as st

from volume_server import meta as metas
from volume_server.meta import Meta, MetaInvalid

texts = st.text(max_size=40)
all_metas = st.builds(
    Meta,
    intent=st.binary(max_size=200),
    key=texts,
    content_type=texts,
    if_match=texts,
    if_none_match=st.booleans(),
    metadata=st.dictionaries(texts, texts, max_size=4),
)


@given(all_metas)
def test_comes_back(meta: Meta) -> None:
    raw = metas.encode(meta)
    assert metas.decode(raw) == meta
    assert metas.encode(metas.decode(raw)) == raw


@given(all_metas, st.data())
def test_every_cut_is_refused(meta: Meta, data: st.DataObject) -> None:
    raw = metas.encode(meta)
    with pytest.raises(MetaInvalid):
        metas.decode(raw[: data.draw(st.integers(0, len(raw) - 1))])
    with pytest.raises(MetaInvalid):
        metas.decode(raw + b"x")


@given(st.binary(max_size=100))
def test_any_bytes_are_a_meta_or_refused(raw: bytes) -> None:
    try:
        found = metas.decode(raw)
    except MetaInvalid:
        return
    assert isinstance(found, Meta)


def test_same_attributes_give_the_same_bytes_in_any_order() -> None:
    assert metas.encode(Meta(b"", metadata={"a": "1", "b": "2"})) == metas.encode(
        Meta(b"", metadata={"b": "2", "a": "1"})
    )


def test_largest_of_each_fits_a_record_and_more_is_refused() -> None:
    largest = Meta(
        intent=bytes(4096), key="k" * 1024, content_type="t" * 255, if_match="e" * 16000, metadata={"n": "\0" * 2047}
    )
    assert len(metas.encode(largest)) < 0xFFFF
    for name in ("key", "content_type", "if_match"):
        with pytest.raises(MetaInvalid, match="too long"):
            metas.encode(Meta(b"", **{name: "x" * 0x10000}))
    with pytest.raises(MetaInvalid, match="too long"):
        metas.encode(Meta(bytes(0x10000)))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x02" + bytes(11),  # another version
        b"\x01\0\0\0\x01\0\0\0\0\0\0\0\xff",  # a key that is no UTF-8
        b"\x01\0\0\0\0\0\0\0\0\0\x01\0{",  # metadata that is no JSON
        b"\x01\0\0\0\0\0\0\0\0\0\x02\0[]",  # metadata that is no object
        b'\x01\0\0\0\0\0\0\0\0\0\x07\0{"a":1}',  # a value that is no text
        b"\x01\x02\0\0\0\0\0\0\0\0\0\0",  # a flag that no version wrote
        b"\x01\0\0\0\0\0\0\0\0\0\x02\0{}",  # no metadata, said in words
        b'\x01\0\0\0\0\0\0\0\0\0\x0a\0{"a": "1"}',  # another spelling
        b'\x01\0\0\0\0\0\0\0\0\0\x11\0{"a":"1","a":"1"}',  # a name twice
        b"\x01\0\0\0\0\0\0\0\0\0\x40\x9c" + b"[" * 40_000,  # deeper than any stack
    ],
)
def test_what_is_none_is_refused(raw: bytes) -> None:
    with pytest.raises(MetaInvalid):
        metas.decode(raw)


@pytest.mark.parametrize(
    ("key", "content_type"), [("k", ""), ("ключ/a", "text/plain; charset=utf-8"), ("x" * 1024, "a/b")]
)
def test_plain_meta_is_encoded_as_any_other(key: str, content_type: str) -> None:
    meta = Meta(intent=b"an intent", key=key, content_type=content_type)
    assert metas.encode_plain(meta.intent, key, content_type) == metas.encode(meta)
