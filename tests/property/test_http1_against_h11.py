"""The request parser beside h11: whatever h11 refuses we refuse, and what we accept h11 reads the same.

Two programs that read one request differently are how requests are smuggled.
"""

import h11
from hypothesis import example, given, settings
from hypothesis import strategies as st

from volume_server.http1 import HttpError, Request, RequestParser

GOOD_FIELDS = [
    (b"A", b"x"), (b"A", b""), (b"a-b", b"c d\t\xe4"), (b"B", b"y"), (b"Accept", b"a"), (b"accept", b"b"),
    (b"Connection", b"close"), (b"connection", b"keep-alive, x"), (b"Expect", b"100-continue"),
    (b"Content-Length", b"5"), (b"content-length", b"0"), (b"Warehouse-Key", b"a/b"), (b"warehouse-CRC32", b"0a0b0c0d"),
]  # fmt: skip
ODD = {
    "method": [b"get", b"G T", b"", b"G\x00T", b"A" * 17, b"G\xe4T", b"\r\nGET"],
    "target": [b"*", b"http://x/", b"", b"/a b", b"/\xc3", b"/\t", b"x:1", b"/#", b"//", b"/\x7f", b"/\r"],
    "version": [b"HTTP/1.0", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b"HTTP/11", b"", b"HTTP/1.10"],
    "space": [b"  ", b"\t", b"", b"\xa0"],
    "break": [b"\n", b"\r", b"\r\r\n", b"", b"\n\r", b"\r\n\r\n", b" \r\n"],
    "name": [
        b"A ", b" A", b"", b"A(", b"A\x00", b"\xff", b"Content_Length", b"Content-Length\t", b"Transfer-Encoding",
        b"Content-Length", b"Host", b"Expect", b"A\n", b"\tA",
    ],
    "colon": [b"", b" :", b"::", b"=", b"\x00:"],
    "blank": [b"", b" ", b"\t ", b"\x0b", b"\x0c", b"\xa0", b"\r\n "],
    "value": [
        b"+1", b"-1", b"1, 1", b"5, 5", b"1 1", b"0x1", b"05", b"1_0", b"chunked", b"identity", b"a\x00b", b"a\rb",
        b"\x7f", b"1" * 15, b"1" * 19, b"1" * 30, b"\xb2", b"close", b"\x0b", b"\x1f",
    ],
    "end": [b"\n", b"", b"\r", b"\r\n\r\n", b" \r\n"],
}  # fmt: skip


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A good request of which up to two parts were replaced by odd ones."""
    parts = [
        ("method", draw(st.sampled_from([b"GET", b"PUT", b"OPTIONS"]))),
        ("space", b" "),
        ("target", draw(st.sampled_from([b"/", b"/1/2?a=b&c=%20"]))),
        ("space", b" "),
        ("version", b"HTTP/1.1"),
        ("break", b"\r\n"),
    ]
    fields = draw(st.lists(st.sampled_from(GOOD_FIELDS), max_size=4))
    if draw(st.integers(0, 19)):
        fields.insert(draw(st.integers(0, len(fields))), (b"Host", b"x"))
    for name, value in fields:
        parts += [
            ("name", name),
            ("colon", b":"),
            ("blank", b" "),
            ("value", value),
            ("blank", b""),
            ("break", b"\r\n"),
        ]
    parts.append(("end", b"\r\n"))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(parts) - 1))
        kind = parts[at][0]
        parts[at] = (kind, draw(st.sampled_from(ODD[kind])))
    return b"".join(raw for _, raw in parts) + draw(st.sampled_from([b"", b"hello", b"GET / HTTP/1.1\r\n"]))


def ours(raw: bytes) -> tuple[Request | None, bytes] | None:
    """The first request (None: more is needed) and what follows it; None: refused."""
    buffer = bytearray(raw)
    try:
        parsed = RequestParser().parse(buffer)
    except HttpError:
        return None
    if parsed is None:
        return None, raw
    request, head_bytes = parsed
    return request, raw[head_bytes:]


def theirs(raw: bytes) -> tuple[h11.Request | None, bytes, h11.Connection] | None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    try:
        connection.receive_data(raw)
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.Request):
        return None, raw, connection
    return event, connection.trailing_data[0], connection


def body_length(request: h11.Request) -> int:
    """The only framing that we take: a length, or none at all."""
    fields = dict(request.headers)
    assert b"transfer-encoding" not in fields
    return int(fields.get(b"content-length", b"0"))


def compare(raw: bytes) -> None:
    own, other = ours(raw), theirs(raw)
    if own is None:
        return
    if other is None:
        # refused by h11: at the most we still wait for more, of which nothing good can come
        assert own[0] is None, raw
        return
    request, rest = own
    if request is None:
        return
    found, other_rest, connection = other
    assert found is not None, raw
    assert rest == other_rest
    assert (request.method, request.target, found.http_version) == (found.method, found.target, b"1.1")
    fields = _joined(found)
    fields.pop(b"content-length", None)
    assert request.own.key == fields.pop(b"warehouse-key", None)
    assert request.own.crc == fields.pop(b"warehouse-crc32", None)
    assert request.block.fields == fields
    assert (request.own.content_length or 0) == body_length(found)
    assert request.block.keep_alive == (connection.our_state is not h11.MUST_CLOSE and not _closes(found))
    assert request.block.expect_continue == connection.they_are_waiting_for_100_continue or not body_length(found)


def _joined(request: h11.Request) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for name, value in request.headers:
        fields[name] = fields[name] + b", " + value if name in fields else value
    return fields


def _closes(request: h11.Request) -> bool:
    return any(
        token.strip().lower() == b"close"
        for name, value in request.headers
        if name == b"connection"
        for token in value.split(b",")
    )


@given(heads())
@settings(max_examples=1500)
@example(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
@example(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
@example(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
def test_made_of_parts_that_smuggle(raw: bytes) -> None:
    compare(raw)


@given(st.data(), st.binary(max_size=3))
@settings(max_examples=700)
def test_good_request_with_something_spliced_in(data: st.DataObject, splice: bytes) -> None:
    good = b"PUT /1/2?x=y HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nA: b c\r\n\r\n"
    at = data.draw(st.integers(0, len(good)))
    cut = data.draw(st.integers(0, 3))
    compare(good[:at] + splice + good[at + cut :])


KNOWN = (
    b"PUT /1/2 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nA: b\r\nWarehouse-Key: a%2Fb\r\n"
    b"warehouse-crc32: 0a0b0c0d\r\n\r\n"
)
SPLICES = sorted({odd for kind in ODD.values() for odd in kind} | {b"c", b"7", b"two words", b"\r\nWarehouse-Key: c"})


@given(st.integers(0, len(KNOWN)), st.integers(0, 20), st.sampled_from(SPLICES))
@example(KNOWN.index(b"a%2F"), 5, b"c")
@example(KNOWN.index(b"a%2F"), 5, b"two words")
@settings(max_examples=2000, deadline=None)
def test_what_the_parser_remembers_changes_nothing(at: int, length: int, put_in: bytes) -> None:
    """A request that is almost the one before is read as it would be alone."""
    raw = KNOWN[:at] + put_in + KNOWN[at + length :] + b"hello"
    parser = RequestParser()
    assert parser.parse(KNOWN) is not None
    alone = ours(raw)
    try:
        parsed = parser.parse(raw)
    except HttpError:
        assert alone is None
        return
    assert alone is not None
    if parsed is None:
        assert alone[0] is None
        return
    request, head_bytes = parsed
    assert alone[0] is not None
    assert (request[:2], request.own, request.block.fields) == (alone[0][:2], alone[0].own, alone[0].block.fields)
    assert raw[head_bytes:] == alone[1]
