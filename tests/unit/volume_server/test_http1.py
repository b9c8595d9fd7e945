"""The request parser: a table of good and bad requests, fed whole and one byte at a time.

Which rule of HTTP as it is spoken here is tested where; rows are those of `BAD`, and `against_peers` is
`tests/property/test_http1_against_peers.py`, which tries all rules on streams that h11 and llhttp read too.

| rule | tests |
|---|---|
| lines end in CRLF, no bare CR or LF | rows "bare …", "blank line first", `test_refusal_comes_as_soon…` |
| no obs-fold | rows "obs-fold", "obs-fold first" |
| names are tokens right before the colon, values hold no controls | rows "space before the colon" … "DEL in a value" |
| origin form, known methods, HTTP/1.1 alone (400, 501, 505) | rows "lower-case method" … "version in lower case" |
| one Content-Length of ASCII digits | rows "two lengths" … "length of too many digits", `test_largest_length` |
| Transfer-Encoding is refused (411) | rows "chunked", "chunked and a length", "identity" |
| one Host, and a good one | rows "no Host" … "two Hosts" |
| limits on line, size and number (414, 431) | `test_limit_of_the_request_line`, `…_headers`, `…_number_of_headers` |
| what the parser remembers changes nothing | `test_repeated_headers…`, `test_own_headers…`, against_peers |
| pipelined requests in order | `test_pipelined_requests…`; `test_server.py`: `test_pipelined_mix…`, `test_verdict…` |
| short ways read as the long one | `test_short_ways.py`, `tests/property/test_http1_against_connection.py` |
| HEAD has a head alone | `test_routes.py`, `test_server.py`: `test_pipelined_mix…` |
| 100 Continue only for a good signature | `test_server.py`: `test_continue…` |
| other expectations are refused (417) | row "other expectation" |
| slow heads, bodies, readers, idle connections | `test_server.py`: time limits; `tests/integration/test_hardening.py` |
| connection cap, large bodies at once, memory | `test_server.py`: limits; `tests/integration/test_hardening.py` |
| after a refusal 1 MiB is drained, then the end | `test_server.py`: `test_body_of_a_refused…`, `test_draining_ends` |
| half-closed and reset connections | `test_server.py`: half-close, bodies; `tests/integration/test_hardening.py` |
"""

import pytest

from volume_server import http1
from volume_server.http1 import (
    HttpError,
    Own,
    Request,
    RequestParser,
    has_bare_line_break,
    parse_header_block,
    parse_request_line,
)

HOST = b"Host: x\r\n"


def feed(raw: bytes, step: int) -> tuple[list[Request], bytes]:
    """All requests in ``raw`` (heads only), fed in steps, and what was left. Raises HttpError."""
    parser, buffer, found = RequestParser(), bytearray(), []
    for start in range(0, len(raw), step):
        buffer += raw[start : start + step]
        while buffer and (parsed := parser.parse(buffer)) is not None:
            request, head_bytes = parsed
            del buffer[:head_bytes]
            found.append(request)
    return found, bytes(buffer)


WHOLE = 1 << 20
STEPS = pytest.mark.parametrize("step", [1, 7, WHOLE], ids=["one byte", "seven bytes", "whole"])


def head(line: bytes = b"GET / HTTP/1.1", *fields: bytes, host: bytes = HOST) -> bytes:
    return line + b"\r\n" + host + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


@STEPS
def test_plain_request(step: int) -> None:
    [request], rest = feed(head(b"PUT /1/2?a=b HTTP/1.1", b"Content-Length:  7 ", b"X-Y:\tz\t", b"Empty:"), step)
    assert (request.method, request.target, rest) == (b"PUT", b"/1/2?a=b", b"")
    assert request.block.fields == {b"host": b"x", b"x-y": b"z", b"empty": b""}
    assert request.own == Own(7, None, None)
    assert request.block.keep_alive
    assert not request.block.expect_continue


@STEPS
def test_pipelined_requests_are_found_one_by_one(step: int) -> None:
    heads = [head(b"GET /%d HTTP/1.1" % number, *([b"Range: x"] if number % 3 == 0 else [])) for number in range(9)]
    found, rest = feed(b"".join(heads) + b"GET /next", step)
    assert [request.target for request in found] == [b"/%d" % number for number in range(9)]
    assert [b"range" in request.block.fields for request in found] == [number % 3 == 0 for number in range(9)]
    assert rest == b"GET /next"


@STEPS
def test_repeated_headers_are_parsed_as_the_first_time(step: int) -> None:
    """The parser remembers the last header block; a longer one that starts like it is another one."""
    first = head(b"GET /1 HTTP/1.1", b"Range: bytes=0-1")
    longer = head(b"GET /2 HTTP/1.1", b"Range: bytes=0-1", b"If-Match: x")
    found, _ = feed(first + longer + first, step)
    assert [b"if-match" in request.block.fields for request in found] == [False, True, False]


def put(*fields: bytes) -> bytes:
    return head(b"PUT /1/2 HTTP/1.1", b"X-Y: z", *fields, b"Accept: */*")


@STEPS
@pytest.mark.parametrize(
    "second",
    [
        (b"Content-Length: 12", b"Warehouse-Key: other", b"Warehouse-CRC32: 00000001"),
        (b"Content-Length: 12", b"Warehouse-Key:  spaces ", b"Warehouse-CRC32: 00000001"),
        (b"Content-Length: 12", b"Warehouse-Key: two words", b"Warehouse-CRC32: 00000001"),
        (b"content-length: 12", b"warehouse-key: lower", b"warehouse-crc32: 00000001"),
        (b"Warehouse-Key: a", b"Content-Length: 12", b"Warehouse-CRC32: 00000001"),
        (b"Content-Length: 12", b"Warehouse-Key: a"),
        (b"Content-Length: 12", b"Warehouse-Key:"),
        (b"Content-Length: 12",),
        (),
    ],
)
def test_own_headers_are_those_of_their_request(second: tuple[bytes, ...], step: int) -> None:
    """The parser knows the block again, whatever the values of these; none is taken over from another request."""
    first = put(b"Content-Length: 7", b"Warehouse-Key: a/%C3%A4", b"Warehouse-CRC32: 0a0b0c0d")
    found, _ = feed(first + put(*second) + first, step)
    alone, _ = feed(put(*second), step)
    assert found[0].own == found[2].own == Own(7, b"a/%C3%A4", b"0a0b0c0d")
    assert (found[1].own, found[1].block.fields) == (alone[0].own, alone[0].block.fields)
    found, _ = feed(put(*second) + put(*second) + first, step)
    assert [request.own for request in found] == [alone[0].own, alone[0].own, Own(7, b"a/%C3%A4", b"0a0b0c0d")]


def test_known_block_takes_no_bad_length() -> None:
    first = put(b"Content-Length: 7")
    for bad in (b"7x", b"-7", b"+7", b"7,7", b"9" * 16, b"\xb2"):
        with pytest.raises(HttpError):
            feed(first + put(b"Content-Length: " + bad), WHOLE)


def test_known_block_may_not_grow_beyond_the_limit() -> None:
    spare = http1.MAX_HEADER_BYTES - len(put(b"Warehouse-Key: ")) + len(b"PUT /1/2 HTTP/1.1\r\n") + len(b"\r\n")
    found, _ = feed(put(b"Warehouse-Key: a") + put(b"Warehouse-Key: " + b"k" * spare), WHOLE)
    assert len(found[1].own.key or b"") == spare
    with pytest.raises(HttpError) as caught:
        feed(put(b"Warehouse-Key: a") + put(b"Warehouse-Key: " + b"k" * (spare + 1)), WHOLE)
    assert caught.value.status == 431


@pytest.mark.parametrize(
    ("field", "alive"),
    [
        (b"Connection: keep-alive", True),
        (b"Connection: close", False),
        (b"Connection: Close", False),
        (b"Connection: upgrade, close", False),
        (b"Connection: closed", True),
        (b"Connection: upgrade\r\nConnection: close", False),
        (b"Connection: x,\tclose\t", False),
        (b"Connection: close\xa0", True),
        (b"Proxy-Connection: close", False),
        (b"Proxy-Connection: keep-alive", True),
    ],
)
def test_connection(field: bytes, alive: bool) -> None:
    [request], _ = feed(head(b"GET / HTTP/1.1", field), WHOLE)
    assert request.block.keep_alive == alive


def test_plain_block_is_one_that_changes_no_answer() -> None:
    assert parse_header_block(HOST + b"User-Agent: a\r\nAccept: b\r\nAccept-Encoding: c\r\n")[0].plain
    for field in (b"Range", b"If-None-Match", b"Origin", b"X-Request-Id", b"If-Range"):
        assert not parse_header_block(HOST + field + b": 1\r\n")[0].plain


def test_list_headers_may_come_twice() -> None:
    block, _ = parse_header_block(HOST + b"Accept: a\r\nAccept: b\r\n")
    assert block.fields[b"accept"] == b"a, b"


BAD = [
    ("no method", b" / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("lower-case method", head(b"get / HTTP/1.1"), 400),
    ("method too long", head(b"A" * 17 + b" / HTTP/1.1"), 400),
    ("unknown method", head(b"GETX / HTTP/1.1"), 501),
    ("TRACE", head(b"TRACE / HTTP/1.1"), 501),
    ("CONNECT with a path", head(b"CONNECT / HTTP/1.1"), 501),
    ("two spaces", head(b"GET  / HTTP/1.1"), 400),
    ("space in the target", head(b"GET /a b HTTP/1.1"), 400),
    ("tab in the line", head(b"GET\t/ HTTP/1.1"), 400),
    ("space at the end of the line", head(b"GET / HTTP/1.1 "), 400),
    ("absolute target", head(b"GET http://x/ HTTP/1.1"), 400),
    ("asterisk", head(b"OPTIONS * HTTP/1.1"), 400),
    ("authority", head(b"CONNECT x:1 HTTP/1.1"), 400),
    ("target that is no ASCII", head(b"GET /\xc3\xa4 HTTP/1.1"), 400),
    ("control character in the target", head(b"GET /\x7f HTTP/1.1"), 400),
    ("no version", head(b"GET /"), 400),
    ("version 1.0", head(b"GET / HTTP/1.0"), 505),
    ("version 2.0", head(b"GET / HTTP/2.0"), 505),
    ("version 1.10", head(b"GET / HTTP/1.10"), 400),
    ("version in lower case", head(b"GET / http/1.1"), 400),
    ("blank line first", b"\r\n" + head(), 400),
    ("bare LF after the request line", b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400),
    ("bare LF after a header", b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400),
    ("bare LF at the end", b"GET / HTTP/1.1\r\nHost: x\r\n\n", 400),
    ("bare CR in a value", head(b"GET / HTTP/1.1", b"A: b\rc"), 400),
    ("bare CR in the target", head(b"GET /\r HTTP/1.1"), 400),
    ("obs-fold", head(b"GET / HTTP/1.1", b"A: b", b" c"), 400),
    ("obs-fold first", b"GET / HTTP/1.1\r\n a: b\r\n" + HOST + b"\r\n", 400),
    ("space before the colon", head(b"GET / HTTP/1.1", b"A : b"), 400),
    ("no name", head(b"GET / HTTP/1.1", b": b"), 400),
    ("no colon", head(b"GET / HTTP/1.1", b"abc"), 400),
    ("NUL in a value", head(b"GET / HTTP/1.1", b"A: \0"), 400),
    ("DEL in a value", head(b"GET / HTTP/1.1", b"A: \x7f"), 400),
    ("name that is no token", head(b"GET / HTTP/1.1", b"A(b): c"), 400),
    ("name that is no ASCII", head(b"GET / HTTP/1.1", b"\xc3\xa4: c"), 400),
    ("no Host", head(host=b""), 400),
    ("Host that is none", head(host=b"Host: x y\r\n"), 400),
    ("Host with a path", head(host=b"Host: x/y\r\n"), 400),
    ("Host with a user", head(host=b"Host: a@x\r\n"), 400),
    ("two Hosts", head(b"GET / HTTP/1.1", b"Host: x"), 400),
    ("two lengths", head(b"PUT / HTTP/1.1", b"Content-Length: 1", b"Content-Length: 1"), 400),
    ("list of lengths", head(b"PUT / HTTP/1.1", b"Content-Length: 1, 1"), 400),
    ("empty length", head(b"PUT / HTTP/1.1", b"Content-Length:"), 400),
    ("signed length", head(b"PUT / HTTP/1.1", b"Content-Length: +1"), 400),
    ("negative length", head(b"PUT / HTTP/1.1", b"Content-Length: -1"), 400),
    ("hexadecimal length", head(b"PUT / HTTP/1.1", b"Content-Length: 0x1"), 400),
    ("length with an underscore", head(b"PUT / HTTP/1.1", b"Content-Length: 1_0"), 400),
    ("length of other digits", head(b"PUT / HTTP/1.1", "Content-Length: ٣".encode()), 400),
    ("length of too many digits", head(b"PUT / HTTP/1.1", b"Content-Length: " + b"1" * 16), 400),
    ("no-break space behind the length", head(b"PUT / HTTP/1.1", b"Content-Length: 1\xa0"), 400),
    ("chunked", head(b"PUT / HTTP/1.1", b"Transfer-Encoding: chunked"), 411),
    ("chunked and a length", head(b"PUT / HTTP/1.1", b"Content-Length: 1", b"Transfer-Encoding: chunked"), 411),
    ("identity", head(b"PUT / HTTP/1.1", b"Transfer-Encoding: identity"), 411),
    ("other expectation", head(b"PUT / HTTP/1.1", b"Expect: 200-ok"), 417),
    ("two Expects", head(b"PUT / HTTP/1.1", b"Expect: 100-continue", b"Expect: 100-continue"), 400),
    ("65 headers", head(b"GET / HTTP/1.1", *(b"A%d: b" % number for number in range(64))), 431),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
]  # fmt: skip


@STEPS
@pytest.mark.parametrize(("raw", "status"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_request_is_refused_however_it_comes(raw: bytes, status: int, step: int) -> None:
    with pytest.raises(HttpError) as caught:
        feed(raw, step)
    assert caught.value.status == status


def test_refusal_comes_as_soon_as_it_is_certain() -> None:
    """Nobody waits for the end of a head that cannot become good."""
    parser = RequestParser()
    with pytest.raises(HttpError):
        parser.parse(bytearray(b"GET / HTTP/1.1\nHost"))


# -- limits: the largest that is taken, and one more -------------------------------------------------------------


def line_of(size: int) -> bytes:
    return b"GET /" + b"a" * (size - len(b"GET / HTTP/1.1")) + b" HTTP/1.1"


@STEPS
def test_limit_of_the_request_line(step: int) -> None:
    most = http1.MAX_REQUEST_LINE_BYTES
    [request], _ = feed(head(line_of(most)), max(step, 5))
    assert len(request.target) == most - len(b"GET  HTTP/1.1")
    for raw in (head(line_of(most + 1)), line_of(most + 2)):
        with pytest.raises(HttpError) as caught:
            feed(raw, max(step, 5))
        assert (caught.value.status, caught.value.code) == (414, "uri_too_long")


@pytest.mark.parametrize("step", [1, WHOLE])
def test_limit_of_the_headers(step: int) -> None:
    """Each step of one byte parses the whole head anew: hence one request only, the largest."""
    most = http1.MAX_HEADER_BYTES

    def request_of(size: int) -> bytes:
        """``size``: from the end of the request line up to the blank line."""
        spare = size - len(b"\r\n" + HOST + b"A: ")
        return b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"a" * spare + b"\r\n\r\n"

    raw = request_of(most)
    parser, buffer = RequestParser(), bytearray(raw[:-6])
    for byte in raw[-6:-1]:
        assert parser.parse(buffer) is None
        buffer.append(byte)
    [request], _ = feed(raw, len(raw) - 1 if step == 1 else step)
    assert len(request.block.fields[b"a"]) == most - 14
    for bad in (request_of(most + 1), request_of(most + 4)[:-1]):
        with pytest.raises(HttpError) as caught:
            feed(bad, WHOLE)
        assert (caught.value.status, caught.value.code) == (431, "headers_too_large")


def test_limit_of_the_number_of_headers() -> None:
    fields = [b"A%d: b" % number for number in range(http1.MAX_HEADER_COUNT - 1)]
    [request], _ = feed(head(b"GET / HTTP/1.1", *fields), WHOLE)
    assert len(request.block.fields) == http1.MAX_HEADER_COUNT


def test_largest_length() -> None:
    def length(raw: bytes) -> int | None:
        return parse_header_block(HOST + raw)[1].content_length

    assert length(b"Content-Length: " + b"9" * 15 + b"\r\n") == 10**15 - 1
    assert length(b"Content-Length: 007\r\n") == 7
    assert length(b"") is None


def test_request_line_alone() -> None:
    assert parse_request_line(b"OPTIONS /!$&'()*+,;=:@%20?#~ HTTP/1.1") == (b"OPTIONS", b"/!$&'()*+,;=:@%20?#~")


@pytest.mark.parametrize("raw", [b"Host: x", b"Host: x\r\nA", b"Host: x\r\nA: b\r"])
def test_block_that_does_not_end_in_crlf_is_refused(raw: bytes) -> None:
    with pytest.raises(HttpError):
        parse_header_block(raw)


@pytest.mark.parametrize("host", [b"x", b"", b"x:80", b"[::1]:80", b"a-b.example:8081", b"192.0.2.1"])
def test_hosts(host: bytes) -> None:
    assert parse_header_block(b"Host: " + host + b"\r\n")[0].fields[b"host"] == host


@pytest.mark.parametrize(
    ("begun", "bare"),
    [(b"", False), (b"a\r\nb\r", False), (b"\r\n\r\n", False), (b"\n", True), (b"a\rb", True), (b"\r\r\n", True),
     (b"\n\r", True), (b"\r\n\n", True), (b"a\r\n\r\r", True), (b"a\rb\r", True)],
)  # fmt: skip
def test_bare_line_breaks(begun: bytes, bare: bool) -> None:
    assert has_bare_line_break(begun) == bare
