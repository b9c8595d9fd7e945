"""Answers in all the ways that HTTP/1.1 allows, and in some that it does not."""

from itertools import pairwise

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volume_server.answers import MAX_BODY_BYTES, MAX_HEAD_BYTES, Answer, AnswerReader, AnswerUnreadable

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = [
    (b"HTTP/1.1 200 OK\r\ncontent-LENGTH:  3 \r\n\r\nabc", 200, b"abc", False),
    (b"HTTP/1.1 503 Not Now\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 503, b"", True),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 \r\nContent-Length: 1\r\n\r\nx", 200, b"x", False),
    (CHUNKED + b"3;a=b\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n", 200, b"abc0123456789", False),
    (CHUNKED + b"0\r\n\r\n", 200, b"", False),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, b"x", True),
    (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx", 200, b"x", False),
]


def read(reader: AnswerReader, raw: bytes, cuts: list[int]) -> list[Answer]:
    """What comes of ``raw`` in pieces."""
    places = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    found = [reader.feed(raw[start:end]) for start, end in pairwise(places)]
    while (more := reader.feed(b"")) is not None:
        found.append(more)
    return [answer for answer in found if answer is not None]


@pytest.mark.parametrize(("raw", "status", "body", "closes"), WHOLE)
def test_answers_of_all_forms_wherever_they_are_cut(raw: bytes, status: int, body: bytes, closes: bool) -> None:
    for cut in range(len(raw) + 1):
        reader = AnswerReader()
        assert read(reader, raw, [cut]) == [(status, body)], cut
        assert (reader.will_close, reader.is_idle) == (closes, True)


@given(st.lists(st.sampled_from(WHOLE), min_size=1), st.lists(st.integers(min_value=0)))
def test_many_over_one_connection(answers: list[tuple[bytes, int, bytes, bool]], cuts: list[int]) -> None:
    raw = b"".join(answer[0] for answer in answers)
    assert read(AnswerReader(), raw, cuts) == [(status, body) for _, status, body, _ in answers]


@given(st.integers(200, 599), st.binary(max_size=1000), st.booleans(), st.lists(st.integers(min_value=0)))
def test_what_h11_sends_is_read(status: int, body: bytes, chunked: bool, cuts: list[int]) -> None:
    sender = h11.Connection(h11.SERVER)
    sender.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    sender.next_event()
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(body)))
    if status in (204, 304):
        status = 200  # these have no body
    raw = sender.send(h11.Response(status_code=status, headers=[framing, ("Server", "x")])) or b""
    raw += (sender.send(h11.Data(data=body)) or b"") + (sender.send(h11.EndOfMessage()) or b"")
    assert read(AnswerReader(), raw, cuts) == [(status, body)]


def test_answer_that_ends_with_the_connection() -> None:
    reader = AnswerReader()
    assert reader.end() is None
    assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\nall that ") is None
    assert reader.feed(b"comes") is None
    assert reader.will_close
    assert reader.end() == (200, b"all that comes")


@pytest.mark.parametrize(
    "raw",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", CHUNKED + b"5\r\nabc"],
)
def test_what_is_cut_off_is_no_answer(raw: bytes) -> None:
    reader = AnswerReader()
    assert reader.feed(raw) is None
    assert reader.end() is None
    assert reader.is_idle == (not raw)


@pytest.mark.parametrize(
    "raw",
    [
        CHUNKED + b"5\r\nabcdefgh\r\n0\r\n\r\n",
        CHUNKED + b"-1\r\n\r\n",
        CHUNKED + b"1_0\r\n",
        CHUNKED + b"\r\n",
        CHUNKED + b"%x\r\n" % (MAX_BODY_BYTES + 1),
        CHUNKED + b"0\r\n" + b"x" * (MAX_HEAD_BYTES + 1),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1),
        b"HTTP/1.1 200 OK\r\n\r\n" + bytes(MAX_BODY_BYTES + 1),
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * (2 * MAX_HEAD_BYTES // 6),
    ],
    ids=range(16),
)
def test_what_is_no_answer_raises(raw: bytes) -> None:
    with pytest.raises(AnswerUnreadable):
        AnswerReader().feed(raw)
