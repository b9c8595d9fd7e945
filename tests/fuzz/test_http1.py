"""The request parser, on bytes that only look like requests: it takes what h11 and llhttp take and read alike, refuses
the rest, and never fails in another way; a whole connection reads the same as the parser.
"""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tests.property.http1_connection import read_by_connection
from tests.property.http1_peers import SPLICES, compare, cuts, mutated, read_ours, split, streams

TOKENS = [
    b"GET / HTTP/1.1", b"PUT /1/2 HTTP/1.1", b"Host: x", b"Content-Length: 3", b"Transfer-Encoding: chunked",
    b"Connection: close", b"Connection: upgrade", b"Upgrade: x", b"Expect: 100-continue", b"Warehouse-Key: k",
    b"\r\n", b"\r\n\r\n", b"abc", b": ", *SPLICES,
]  # fmt: skip


@given(st.lists(st.sampled_from(TOKENS), max_size=20).map(b"".join), cuts())
def test_tokens_in_any_order(raw: bytes, at: Sequence[int]) -> None:
    compare(raw, at)


@given(mutated(mutated(streams())), cuts())
def test_streams_mutated(raw: bytes, at: Sequence[int]) -> None:
    compare(raw, at)


@given(mutated(streams()), cuts(), st.lists(st.booleans(), max_size=3))
def test_connection_on_streams_mutated(raw: bytes, at: Sequence[int], late: Sequence[bool]) -> None:
    assert read_by_connection(split(raw, at), late) == read_ours([raw])


@given(st.binary(max_size=200), cuts())
def test_bytes(raw: bytes, at: Sequence[int]) -> None:
    compare(raw, at)
