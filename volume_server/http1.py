"""A strict HTTP/1.1 request parser (RFC 9112) for the subset that this server speaks. Bytes in, values out, no I/O.

Where the RFC lets a server be lenient, this one is not: two programs that read one request differently
are how requests are smuggled. Lines end in CRLF exactly, there is no obs-fold, no bare CR or LF,
no Transfer-Encoding (411), one Host, at most one Content-Length of ASCII digits, known methods (501), and limits on
everything.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

MAX_REQUEST_LINE_BYTES = 8190
MAX_HEADER_BYTES = 16 * 1024
MAX_HEADER_COUNT = 64
MAX_HEAD_BYTES = MAX_REQUEST_LINE_BYTES + 2 + MAX_HEADER_BYTES
MAX_LENGTH_DIGITS = 15

_REQUEST_LINE = re.compile(rb"(GET|HEAD|PUT|POST|OPTIONS|DELETE|PATCH) (/[!-~]*) HTTP/1\.1\Z")
_OTHER_METHOD = re.compile(rb"[A-Z]{1,16} /[!-~]* HTTP/1\.1\Z")
_OTHER_VERSION = re.compile(rb"[A-Z]+ [!-~]+ HTTP/\d\.\d\Z")
# One repetition a field, and white space stripped afterwards: two in a row that both take spaces would be tried in all
# ways of sharing them, a second for one bad header of 16 KiB.
_HEADER_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t \x21-\x7e\x80-\xff]*)\Z")
_HOST = re.compile(rb"[A-Za-z0-9\-._~%!$&'()*+,;=:\[\]]*\Z")
_DIGITS = re.compile(rb"[0-9]+\Z")
_OWN_LINE = re.compile(rb"\r\n(content-length|warehouse-key|warehouse-crc32): ([!-~]+)(?=\r\n)", re.IGNORECASE)
_OWN_VALUE = re.compile(rb"[!-~]+")
_LIST_HEADERS = frozenset({b"accept", b"accept-encoding", b"accept-language", b"cache-control", b"connection", b"via"})
"""Headers that may come more than once (as a list) and that nothing here depends on, but for Connection."""


class HttpError(Exception):
    """A request that is answered with a refusal, after which the connection is closed."""

    def __init__(self, status: int, code: str, detail: str, headers: tuple[bytes, ...] = ()) -> None:
        super().__init__(detail)
        self.headers = headers
        """Header lines that the refusal carries besides, without their CRLF."""
        self.status = status
        self.code = code
        self.detail = detail


_PLAIN = frozenset({b"host", b"user-agent", b"accept", b"accept-encoding", b"connection"})


@dataclass(slots=True, eq=False)
class HeaderBlock:
    """What the requests of one client have in common: all headers but those of `Own`."""

    fields: dict[bytes, bytes]
    """Lower-case names, values without the white space around them."""
    keep_alive: bool
    expect_continue: bool
    plain: bool
    """Nothing in it changes what a GET gets: no range, no condition, no origin, no request id."""
    attributes: object = None
    """What a handler made of the fields, kept for the next request that has them."""


class Own(NamedTuple):
    """The headers that differ from one PUT of a client to its next."""

    content_length: int | None
    key: bytes | None
    """Warehouse-Key."""
    crc: bytes | None
    """Warehouse-CRC32."""


_OWN_NAMES = (b"content-length", b"warehouse-key", b"warehouse-crc32")
_NOTHING = Own(None, None, None)


class Request(NamedTuple):
    method: bytes
    target: bytes
    block: HeaderBlock
    own: Own


class RequestParser:
    """Parses the requests of one connection. Remembers the last header block, which clients like to repeat."""

    def __init__(self) -> None:
        self._last_block: HeaderBlock | None = None
        self._pieces: list[tuple[bytes, int]] = []
        """The last header block up to each of its own values, and which of `Own` that is."""
        self._last_piece = b""
        """What comes behind the last of them, the blank line included."""
        self._most_repeated_bytes = 0
        """The size of the longest request that could repeat it."""
        self._repeatable: bytes | None = None
        """All behind the target of a request with the last block, where nothing in that changes what a GET gets."""

    def repeated_get(self, data: bytes) -> bytes | None:
        """The target where ``data`` may be one whole GET with the header block of the request before.

        A target is not looked at here. Only a caller who knows each character that it may have can take it
        for one; all others (more requests than one, say) go through `parse`.
        """
        rest = self._repeatable
        if (
            rest is not None
            and data.startswith(b"GET /")
            and data.endswith(rest)
            and len(data) <= self._most_repeated_bytes
        ):
            return data[4 : -len(rest)]
        return None

    def whole_put(self, data: bytes) -> tuple[Request, int] | None:
        """The request and the length of its head where ``data`` is one whole PUT, head and body, and nothing else.

        Whatever is not (or not good) gives None, and goes through `parse`.
        """
        if not data.startswith(b"PUT /"):
            return None
        try:
            parsed = self.parse(data)
        except HttpError:
            return None
        if parsed is None or parsed[0].own.content_length != len(data) - parsed[1]:
            return None
        return parsed

    def parse(self, buffer: bytes | bytearray) -> tuple[Request, int] | None:
        """The request whose head starts ``buffer`` and the length of that head; None: more bytes are needed.

        Raises HttpError as soon as it is certain that no more bytes can make it a good request.
        """
        line_end = buffer.find(b"\r\n", 0, MAX_REQUEST_LINE_BYTES + 2)
        if line_end >= 0 and self._last_block is not None:
            repeated = self._repeated(buffer, line_end)
            if repeated is not None:
                own, end = repeated
                method, target = parse_request_line(bytes(buffer[:line_end]))
                return Request(method, target, self._last_block, own), end
        end = buffer.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES + 4)
        if line_end < 0 and len(buffer) > MAX_REQUEST_LINE_BYTES + 1:
            raise HttpError(414, "uri_too_long", f"a request line may have {MAX_REQUEST_LINE_BYTES} bytes")
        if end < 0:
            if line_end >= 0 and len(buffer) - line_end > MAX_HEADER_BYTES + 3:
                raise HttpError(431, "headers_too_large", f"headers may have {MAX_HEADER_BYTES} bytes in all")
            if has_bare_line_break(buffer):
                raise HttpError(400, "bad_request", "a line that does not end in CRLF")
            return None
        if line_end < 0:
            raise HttpError(414, "uri_too_long", f"a request line may have {MAX_REQUEST_LINE_BYTES} bytes")
        if end - line_end > MAX_HEADER_BYTES:
            raise HttpError(431, "headers_too_large", f"headers may have {MAX_HEADER_BYTES} bytes in all")
        method, target = parse_request_line(bytes(buffer[:line_end]))
        raw = bytes(buffer[line_end : end + 4])
        block, own = parse_header_block(raw[2:-2])
        self._learn(raw, block, own)
        return Request(method, target, block, own), end + 4

    def _learn(self, raw: bytes, block: HeaderBlock, own: Own) -> None:
        """Keep what `_repeated` and `repeated_get` compare with; ``raw`` from the CRLF in front of the block on."""
        self._pieces, at = [], 0
        for match in _OWN_LINE.finditer(raw):
            self._pieces.append((raw[at : match.start(2)], _OWN_NAMES.index(match[1].lower())))
            at = match.end()
        self._last_piece = raw[at:]
        # a value that is spelt in another way would be taken for a part of what never changes
        self._last_block = block if len(self._pieces) == 3 - own.count(None) else None
        self._most_repeated_bytes = MAX_REQUEST_LINE_BYTES + len(raw)
        self._repeatable = b" HTTP/1.1" + raw if block.plain and block.keep_alive and own == _NOTHING else None

    def _repeated(self, buffer: bytes | bytearray, line_end: int) -> tuple[Own, int] | None:
        """What is own in a header block that is else the last one, and the end of the head; None: it is another."""
        at = line_end
        values: list[bytes | None] = [None, None, None]
        for piece, which in self._pieces:
            if not buffer.startswith(piece, at):
                return None
            match = _OWN_VALUE.match(buffer, at + len(piece))
            if match is None:
                return None
            values[which] = match[0]
            at = match.end()
        if not buffer.startswith(self._last_piece, at):
            return None
        at += len(self._last_piece)
        length, key, crc = values
        if at - 4 - line_end > MAX_HEADER_BYTES:
            return None
        if length is None:
            return Own(None, key, crc), at
        if not length.isdigit() or len(length) > MAX_LENGTH_DIGITS:
            return None
        return Own(int(length), key, crc), at


def has_bare_line_break(begun: bytes | bytearray) -> bool:
    """Whether there is a CR or LF alone; a CR at the very end may still get its LF.

    Counted, not searched for: whoever sends a head byte by byte has it looked through at each of them.
    """
    pairs = begun.count(b"\r\n")
    return begun.count(b"\n") != pairs or begun.count(b"\r") - begun.endswith(b"\r") != pairs


def parse_request_line(line: bytes) -> tuple[bytes, bytes]:
    """Method and target (origin form only). Raises HttpError."""
    match = _REQUEST_LINE.match(line)
    if match is not None:
        return match[1], match[2]
    if _OTHER_METHOD.match(line):
        raise HttpError(501, "method_unknown", "no such method is spoken here")
    if _OTHER_VERSION.match(line) and not line.endswith(b"HTTP/1.1"):
        raise HttpError(505, "http_version_unknown", "HTTP/1.1 is spoken here")
    raise HttpError(400, "bad_request", "not a request line of HTTP/1.1 with a target in origin form")


def parse_header_block(raw: bytes) -> tuple[HeaderBlock, Own]:
    """The header lines, each with its CRLF. Raises HttpError."""
    fields: dict[bytes, bytes] = {}
    lines = raw.split(b"\r\n")
    if len(lines) - 1 > MAX_HEADER_COUNT:
        raise HttpError(431, "headers_too_large", f"{MAX_HEADER_COUNT} header lines are allowed")
    if lines.pop():
        raise HttpError(400, "bad_request", "a header line that does not end in CRLF")
    for line in lines:
        name, value = _known_lines.get(line) or _parse_line(line)
        if name in fields:
            if name not in _LIST_HEADERS:
                raise HttpError(400, "bad_request", f"{name.decode()} stands twice")
            value = fields[name] + b", " + value
        fields[name] = value
    host = fields.get(b"host")
    if host is None or not _HOST.match(host):
        raise HttpError(400, "bad_request", "no Host, or none that is one")
    if b"transfer-encoding" in fields:
        raise HttpError(411, "length_required", "Transfer-Encoding is not taken; send a Content-Length")
    length = fields.pop(b"content-length", None)
    if length is not None and (not _DIGITS.match(length) or len(length) > MAX_LENGTH_DIGITS):
        raise HttpError(400, "bad_request", "Content-Length is not a number")
    expect = fields.get(b"expect")
    if expect is not None and expect.lower() != b"100-continue":
        raise HttpError(417, "expectation_failed", "only 100-continue can be expected")
    # Proxy-Connection is no standard, but some heed it: whoever does takes this request for the last one
    keep_alive = not (_closes(fields.get(b"connection")) or _closes(fields.get(b"proxy-connection")))
    own = Own(
        None if length is None else int(length),
        fields.pop(b"warehouse-key", None),
        fields.pop(b"warehouse-crc32", None),
    )
    return HeaderBlock(fields, keep_alive, expect is not None, fields.keys() <= _PLAIN), own


def _closes(connection: bytes | None) -> bool:
    return connection is not None and b"close" in {token.strip(b"\t ") for token in connection.lower().split(b",")}


_known_lines: dict[bytes, tuple[bytes, bytes]] = {}
"""Lines that came before, parsed: most of them come with every request of a client."""
_MAX_KNOWN_LINES = 1000
_MAX_KNOWN_BYTES = 200
_NEVER_KNOWN = b"warehouse-"
"""Lines that differ from request to request would only push the others out."""


def _parse_line(line: bytes) -> tuple[bytes, bytes]:
    """Name, in lower case, and value of one header line without its CRLF. Raises HttpError."""
    match = _HEADER_LINE.match(line)
    if match is None:
        raise HttpError(400, "bad_request", "a header line that is none")
    name, value = match[1].lower(), match[2].strip(b"\t ")
    if len(line) <= _MAX_KNOWN_BYTES and not name.startswith(_NEVER_KNOWN):
        if len(_known_lines) >= _MAX_KNOWN_LINES:
            _known_lines.clear()
        _known_lines[line] = name, value
    return name, value
