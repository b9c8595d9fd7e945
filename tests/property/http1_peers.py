"""Streams of requests, good ones and such as smuggle, and what our parser, h11 and llhttp read in them.

A reader gives the messages that it took whole, in order. Two programs that read one stream differently are how
requests are smuggled: so each message that we take, both others must take too, with the same bounds and the same words.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import h11
import httptools
from hypothesis import strategies as st

from volume_server.http1 import HttpError, RequestParser


class Message(NamedTuple):
    """One request as somebody read it."""

    method: bytes
    target: bytes
    fields: dict[bytes, bytes]
    """Lower-case names; values without the white space around them, several of one name joined by a comma."""
    body: bytes
    keep_alive: bool


class Reading(NamedTuple):
    messages: list[Message]
    refused: bool
    """What follows the messages was refused, not merely cut short."""


# -- readers -----------------------------------------------------------------------------------------------------------


def read_ours(pieces: Iterable[bytes]) -> Reading:
    """By `RequestParser`, fed as `volume_server.server` feeds it."""
    parser, buffer, found = RequestParser(), bytearray(), []
    for piece in pieces:
        buffer += piece
        while buffer:
            try:
                parsed = parser.parse(buffer)
            except HttpError:
                return Reading(found, refused=True)
            if parsed is None:
                break
            request, head_bytes = parsed
            end = head_bytes + (request.own.content_length or 0)
            if len(buffer) < end:
                break
            own = {
                b"content-length": None if request.own.content_length is None else b"%d" % request.own.content_length,
                b"warehouse-key": request.own.key,
                b"warehouse-crc32": request.own.crc,
            }
            fields = request.block.fields | {name: value for name, value in own.items() if value is not None}
            body = bytes(buffer[head_bytes:end])
            found.append(Message(request.method, request.target, fields, body, request.block.keep_alive))
            del buffer[:end]
            if not request.block.keep_alive:
                return Reading(found, refused=False)
    return Reading(found, refused=False)


def read_h11(pieces: Iterable[bytes]) -> Reading:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    found: list[Message] = []
    head: h11.Request | None = None
    body = b""
    for piece in pieces:
        connection.receive_data(piece)
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError:
                return Reading(found, refused=True)
            if isinstance(event, h11.Request):
                if event.method == b"CONNECT":  # what follows is no HTTP
                    return Reading(found, refused=True)
                head, body = event, b""
                # whatever it asks for, an upgrade too, the answer is one of HTTP/1.1
                connection.send(h11.Response(status_code=404, headers=[(b"content-length", b"0")]))
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                connection.send(h11.EndOfMessage())
                keep_alive = connection.our_state is h11.DONE
                found.append(Message(head.method, head.target, _joined(head.headers), body, keep_alive))
                if not keep_alive:
                    return Reading(found, refused=False)
                connection.start_next_cycle()
            else:
                break
    return Reading(found, refused=False)


class _Events:
    """What llhttp calls."""

    parser: httptools.HttpRequestParser

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def on_message_begin(self) -> None:
        self.target, self.headers, self.body = b"", [], b""

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value.strip(b"\t ")))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        parser = self.parser
        method, keep_alive = parser.get_method(), parser.should_keep_alive()
        assert parser.get_http_version() == "1.1" or not self.messages
        self.messages.append(Message(method, self.target, _joined(self.headers), self.body, keep_alive))


def read_llhttp(pieces: Iterable[bytes]) -> Reading:
    """By llhttp, through httptools.

    An upgrade is offered, not taken (RFC 9110 section 7.8): what follows is HTTP/1.1 again. llhttp would read the body
    of such a request first, but httptools tells it that there is none; so the body is taken off here.
    """
    events = _Events()
    parser = events.parser = httptools.HttpRequestParser(events)
    body_left = 0
    for piece in pieces:
        while piece:
            if body_left:
                last = events.messages[-1]
                events.messages[-1] = last._replace(body=last.body + piece[:body_left])
                piece, body_left = piece[body_left:], max(body_left - len(piece), 0)
                continue
            try:
                parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                if events.messages[-1].method == b"CONNECT":
                    return Reading(events.messages[:-1], refused=True)
                piece = piece[upgrade.args[0] :]
                body_left = int(events.messages[-1].fields.get(b"content-length", b"0"))
                parser = events.parser = httptools.HttpRequestParser(events)
                continue
            except httptools.HttpParserError:
                return Reading(_whole(events.messages, body_left), refused=True)
            break
    return Reading(_whole(events.messages, body_left), refused=False)


def _whole(messages: list[Message], body_left: int) -> list[Message]:
    return messages[:-1] if body_left else messages


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        name = name.lower()
        fields[name] = fields[name] + b", " + value if name in fields else value
    return fields


def compare(raw: bytes, cuts: Sequence[int] = ()) -> Reading:
    """AssertionError where we take what one of the others refuses or reads differently. What we read in ``raw``."""
    pieces = split(raw, cuts)
    ours = read_ours(pieces)
    assert ours == read_ours([raw]), "read differently in pieces"
    others = {"h11": read_h11([raw]), "h11 in pieces": read_h11(pieces), "llhttp": read_llhttp([raw])}
    others["llhttp in pieces"] = read_llhttp(pieces)
    for reader, reading in others.items():
        assert len(reading.messages) >= len(ours.messages), (reader, reading, ours)
        for own, other in zip(ours.messages, reading.messages, strict=False):
            _compare(own, other, reader)
    return ours


def _compare(own: Message, other: Message, reader: str) -> None:
    own, other = _without_spelling(own), _without_spelling(other)
    if reader.startswith("h11") and b"proxy-connection" in own.fields:
        other = other._replace(keep_alive=own.keep_alive and other.keep_alive)  # which h11 does not heed
    assert own == other, (reader, own, other)


def _without_spelling(message: Message) -> Message:
    """A length is a number."""
    length = message.fields.get(b"content-length")
    if length is None:
        return message
    return message._replace(fields=message.fields | {b"content-length": b"%d" % int(length)})


def split(raw: bytes, cuts: Sequence[int]) -> list[bytes]:
    """``raw`` cut at these places; those beyond its end count from the start again."""
    places = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    return [raw[start:end] for start, end in pairwise(places)]


# -- streams -----------------------------------------------------------------------------------------------------------

TARGETS = [b"/", b"/1/2?a=b&c=%20", b"/3/0000000000000001?sig=0", b'/#"<>\\^`{|}~']
GOOD_FIELDS = [
    (b"A", b"x"), (b"A", b""), (b"a-b", b"c d\t\xe4"), (b"B", b"y"), (b"Accept", b"a"), (b"accept", b"b"),
    (b"Connection", b"close"), (b"connection", b"keep-alive, x"), (b"Connection", b"upgrade"), (b"Upgrade", b"h2c"),
    (b"Connection", b"x, CLOSE\t, y"), (b"Connection", b"close x"), (b"Connection", b"x;close"), (b"connection", b","),
    (b"Proxy-Connection", b"close"), (b"Proxy-Connection", b"keep-alive"), (b"Keep-Alive", b"timeout=5"),
    (b"Expect", b"100-continue"), (b"TE", b"trailers"), (b"Trailer", b"A"), (b"User-Agent", b"a/1 (b; c)"),
    (b"Warehouse-Key", b"a/b"), (b"warehouse-CRC32", b"0a0b0c0d"), (b"Warehouse-Key", b"two words"),
]  # fmt: skip
ODD = {
    "method": [
        b"get", b"G T", b"", b"G\x00T", b"A" * 17, b"G\xe4T", b"\r\nGET", b"CONNECT", b"PRI", b"FOO", b"TRACE", b"HEAD",
        b"POST", b"DELETE", b"PATCH", b"M-SEARCH", b"GETX", b"GE", b"PUT/", b" GET",
    ],
    "target": [
        b"*", b"http://x/", b"", b"/a b", b"/\xc3", b"/\t", b"x:1", b"/#", b"//", b"/\x7f",
        b"/\r", b"?", b"/\x00", b"/\n",
        b"/\x0b", b"/\x0c", b"//x/", b"/%", b"https://x", b"/?#?#",
    ],
    "version": [
        b"HTTP/1.0", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b"HTTP/11", b"", b"HTTP/1.10", b"HTTP/0.9", b"HTTP/1.2",
        b"HTTP/1.1\t", b"ICE/1.1", b"RTSP/1.1", b"HTTP/ 1.1", b"HTTP/1,1", b"HTTP/1.1 HTTP/1.1",
    ],
    "space": [b"  ", b"\t", b"", b"\xa0", b"\x0b", b" \t", b"\r", b"\n"],
    "break": [
        b"\n", b"\r", b"\r\r\n", b"", b"\n\r", b"\r\n\r\n", b" \r\n", b"\r\n ", b"\r\n\t", b"\x00\r\n", b"\r\n\n",
        b"\r\n\r",
    ],
    "name": [
        b"A ", b" A", b"", b"A(", b"A\x00", b"\xff", b"Content_Length", b"Content-Length\t", b"Transfer-Encoding",
        b"Content-Length", b"Host", b"Expect", b"A\n", b"\tA", b"transfer-encoding",
        b"Transfer-Encoding ", b"Connection",
        b"Upgrade", b"Content-Length\x0b", b"\r\nContent-Length", b"A:B", b"Content-Len",
        b"Content-Length-", b"@", b"A\r",
    ],
    "colon": [b"", b" :", b"::", b"=", b"\x00:", b"\t:", b"\r\n:", b":\r\n"],
    "blank": [b"", b" ", b"\t ", b"\x0b", b"\x0c", b"\xa0", b"\r\n ", b"\r", b"\n", b"\n ", b"\x85"],
    "value": [
        b"+1", b"-1", b"1, 1", b"5, 5", b"1 1", b"0x1", b"05", b"1_0", b"chunked", b"identity", b"a\x00b", b"a\rb",
        b"\x7f", b"1" * 15, b"1" * 19, b"1" * 30, b"\xb2", b"close", b"\x0b", b"\x1f", b"a\nb",
        b"5\t", b"5 ", b"\xd9\xa3",
        b"18446744073709551616", b"18446744073709551621", b"4294967301", b"5;", b"5\r", b"0", b"", b"chunked, identity",
        b"xchunked", b"a\r\n b", b"upgrade, close", b"100-continue", b"x@y", b"[::1]:80", b"x/y",
    ],
    "end": [b"\n", b"", b"\r", b"\r\n\r\n", b" \r\n", b"\r\r\n", b"\x00\r\n"],
    "body": [
        b"", b"0\r\n\r\n", b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n", b"5\r\nhello\r\n0\r\n\r\n",
        b"x" * 300,
    ],
}  # fmt: skip
BODIES = [
    b"", b"a", b"hello", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n\r\n", b"b" * 300,
    b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na",
]  # fmt: skip
SPLICES = sorted({odd for kind in ODD.values() for odd in kind} | {b"c", b"7", b"\r\nWarehouse-Key: c", b"\r\nA: b"})


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A good request with its body, of which up to two parts were replaced by odd ones."""
    method = draw(st.sampled_from([b"GET", b"GET", b"PUT", b"OPTIONS", b"HEAD"]))
    parts = [
        ("method", method),
        ("space", b" "),
        ("target", draw(st.sampled_from(TARGETS))),
        ("space", b" "),
        ("version", b"HTTP/1.1"),
        ("break", b"\r\n"),
    ]
    body = draw(st.sampled_from(BODIES)) if method == b"PUT" else b""
    fields = draw(st.lists(st.sampled_from(GOOD_FIELDS), max_size=4))
    if body or method == b"PUT":
        name = draw(st.sampled_from([b"Content-Length", b"content-length"]))
        fields.insert(draw(st.integers(0, len(fields))), (name, b"%d" % len(body)))
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
    parts += [("end", b"\r\n"), ("body", body)]
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        at = draw(st.integers(0, len(parts) - 1))
        kind = parts[at][0]
        parts[at] = (kind, draw(st.sampled_from(ODD[kind])))
    return b"".join(raw for _, raw in parts)


@st.composite
def mutated(draw: st.DrawFn, source: st.SearchStrategy[bytes]) -> bytes:
    """One of ``source`` with up to three places spliced, overwritten or cut."""
    raw = draw(source)
    for _ in range(draw(st.integers(0, 3))):
        at, gone = draw(st.integers(0, len(raw))), draw(st.integers(0, 3))
        raw = raw[:at] + draw(st.one_of(st.binary(max_size=3), st.sampled_from(SPLICES))) + raw[at + gone :]
    return raw


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Several requests in a row. Many are the one before again, or almost: that is where what is remembered shows."""
    found = [draw(requests())]
    for _ in range(draw(st.integers(0, 4))):
        again = st.just(draw(st.sampled_from(found)))
        found.append(draw(st.one_of(again, mutated(again), requests(), mutated(requests()))))
    return b"".join(found)


def cuts() -> st.SearchStrategy[Sequence[int]]:
    """Where a stream is cut in pieces for `split`; one byte at a time among them."""
    return st.one_of(st.lists(st.integers(0, 2000), max_size=12), st.just(range(4000)))
