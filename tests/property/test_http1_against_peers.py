"""The request parser beside h11 and llhttp, on whole streams of requests: whatever either of them refuses we refuse,
and what we accept both read the same: bounds, words, body, and whether the connection goes on.
"""

from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.property.http1_peers import SPLICES, compare, cuts, mutated, read_ours, requests, streams
from volume_server.http1 import HttpError, RequestParser

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
PUT = b"PUT /1/2?x=y HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nA: b c\r\n\r\nhello"


@given(streams(), cuts())
@settings(max_examples=800)
@example(GET + PUT + GET + GET, range(4000))
@example(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + GET, [])
@example(PUT.replace(b"A: b c", b"Connection: upgrade\r\nUpgrade: h2c") * 2, range(4000))
@example(b"CONNECT / HTTP/1.1\r\nHost: x\r\n\r\n", [])
@example(b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n", [])
@example(GET.replace(b"\r\n\r\n", b"\r\nProxy-Connection: close\r\n\r\n") + GET, [])
def test_streams(raw: bytes, at: Sequence[int]) -> None:
    compare(raw, at)


@given(mutated(requests()), cuts())
@settings(max_examples=600)
def test_one_request_mutated(raw: bytes, at: Sequence[int]) -> None:
    compare(raw, at)


@given(st.integers(0, len(PUT)), st.integers(0, 3), st.one_of(st.binary(max_size=3), st.sampled_from(SPLICES)))
@settings(max_examples=600)
def test_good_request_with_something_spliced_in(at: int, gone: int, splice: bytes) -> None:
    compare(PUT[:at] + splice + PUT[at + gone :])


def test_what_is_good_is_taken() -> None:
    """Else a parser that refuses everything would pass."""
    reading = compare(GET + PUT + GET + PUT, range(4000))
    assert [(message.method, message.body) for message in reading.messages] == [(b"GET", b""), (b"PUT", b"hello")] * 2


KNOWN = (
    b"PUT /1/2 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nA: b\r\nWarehouse-Key: a%2Fb\r\n"
    b"warehouse-crc32: 0a0b0c0d\r\n\r\n"
)


@given(st.integers(0, len(KNOWN)), st.integers(0, 20), st.sampled_from(SPLICES))
@example(KNOWN.index(b"a%2F"), 5, b"c")
@example(KNOWN.index(b"a%2F"), 5, b"two words")
@settings(max_examples=2000)
def test_what_the_parser_remembers_changes_nothing(at: int, length: int, put_in: bytes) -> None:
    """A request that is almost the one before is read as it would be alone."""
    raw = KNOWN[:at] + put_in + KNOWN[at + length :] + b"hello"
    first = KNOWN + b"hello"
    alone, after = read_ours([raw]), read_ours([first, raw])
    assert (after.messages[1:], after.refused) == alone


@pytest.mark.parametrize("excess", [0, 1])
def test_request_line_may_grow_to_the_limit_and_no_further_when_the_rest_is_repeated(excess: int) -> None:
    parser = RequestParser()
    parser.parse(GET)
    target = b"/" + b"a" * (8190 - len(b"GET / HTTP/1.1") + excess)
    raw = b"GET " + target + GET[5:]
    if excess:
        assert parser.repeated_get(raw) is None
        with pytest.raises(HttpError):
            parser.parse(raw)
    else:
        assert parser.repeated_get(raw) == target
        found = parser.parse(raw)
        assert found is not None
        assert found[0].target == target
