"""Answers as they go over the wire."""

import json

from hypothesis import given
from hypothesis import strategies as st

from volume_server.responses import document

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


@given(VALUES)
def test_a_document_is_compact_json_in_utf8(value: object) -> None:
    raw = document(200, value, request_id=b"r")
    head, _, body = raw.partition(b"\r\n\r\n")
    assert body == json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    assert b"\r\nContent-Length: %d\r\n" % len(body) in head


def test_a_document_for_head_is_counted_and_left_out() -> None:
    whole = document(200, {"a": 1}, request_id=b"r")
    assert document(200, {"a": 1}, request_id=b"r", head_only=True) == whole[: -len(b'{"a":1}')]
