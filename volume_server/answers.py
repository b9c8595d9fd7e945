"""Reading the master's HTTP/1.1 answers out of the bytes of a connection, in whatever pieces they come.

For the confirm lane alone, whose writers all wait while this is done; `http.client` takes three times as long, most of
it for turning a head into an e-mail message, and a thread. No I/O: bytes in, answers out.
"""

MAX_HEAD_BYTES = 64 << 10
MAX_BODY_BYTES = 16 << 20
_INTERIM = range(100, 200)

Answer = tuple[int, bytes]
"""Status and body."""


class AnswerUnreadable(Exception):
    """This is no HTTP/1.1 answer, or one that is not taken. Nothing more can be read from this connection."""


class AnswerReader:
    """The answers that come over one connection, one after the other."""

    def __init__(self) -> None:
        self.will_close = False
        """The other side said that it ends the connection after the last answer."""
        self._buffer = b""
        self._head: tuple[int, dict[str, str]] | None = None
        self._chunks: list[bytes] = []
        self._chunk_bytes: int | None = None
        """Of the chunk that comes next, where its size was read; 0: the trailers come."""

    @property
    def is_idle(self) -> bool:
        """Whether all that came was answers."""
        return not self._buffer and self._head is None

    def feed(self, data: bytes) -> Answer | None:
        """The next answer, once it is whole. Raises AnswerUnreadable."""
        self._buffer += data
        if self._head is None:
            self._head = self._next_head()
            if self._head is None:
                return None
        status, headers = self._head
        body = self._body(headers)
        if body is None:
            return None
        self._head = None
        return status, body

    def end(self) -> Answer | None:
        """The connection has ended: the answer that ends with it, if there is one."""
        if self._head is None or "content-length" in self._head[1] or "transfer-encoding" in self._head[1]:
            return None
        return self._head[0], self._buffer

    def _next_head(self) -> tuple[int, dict[str, str]] | None:
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                self._require(MAX_HEAD_BYTES)
                return None
            first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
            self._buffer = self._buffer[end + 4 :]
            version, _, rest = first.partition(" ")
            if version not in ("HTTP/1.1", "HTTP/1.0") or not rest[:3].isdecimal() or not rest[:3].isascii():
                raise AnswerUnreadable(f"this is no HTTP/1.1 answer: {first[:80]!r}")
            headers = {}
            for line in lines:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            if int(rest[:3]) not in _INTERIM:
                connection = headers.get("connection", "").lower()
                self.will_close = "close" in connection or (version == "HTTP/1.0" and "keep-alive" not in connection)
                return int(rest[:3]), headers

    def _body(self, headers: dict[str, str]) -> bytes | None:
        length, coding = headers.get("content-length"), headers.get("transfer-encoding")
        if coding is not None:
            if coding.lower() != "chunked":
                raise AnswerUnreadable(f"the answer is {coding!r}")
            return self._chunked()
        if length is None:  # all up to the end of the connection
            self.will_close = True
            self._require(MAX_BODY_BYTES)
            return None
        size = _size(length, 10)
        if size > MAX_BODY_BYTES:
            raise AnswerUnreadable(f"an answer of {size} bytes")
        if len(self._buffer) < size:
            return None
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return body

    def _chunked(self) -> bytes | None:
        """RFC 9112, section 7.1; extensions and trailers are passed over."""
        while True:
            if not self._chunk_bytes:
                line = self._line()
                if line is None:
                    return None
                if self._chunk_bytes is None:
                    self._chunk_bytes = _size(line.partition(b";")[0].decode("latin-1").strip(), 16)
                elif not line:
                    body = b"".join(self._chunks)
                    self._chunks, self._chunk_bytes = [], None
                    return body
                continue
            size = self._chunk_bytes
            if size + sum(map(len, self._chunks)) > MAX_BODY_BYTES:
                raise AnswerUnreadable(f"an answer of more than {MAX_BODY_BYTES} bytes")
            if len(self._buffer) < size + 2:
                return None
            if self._buffer[size : size + 2] != b"\r\n":
                raise AnswerUnreadable("a chunk of the answer is longer than it says")
            self._chunks.append(self._buffer[:size])
            self._buffer = self._buffer[size + 2 :]
            self._chunk_bytes = None

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            self._require(MAX_HEAD_BYTES)
            return None
        line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
        return line

    def _require(self, most: int) -> None:
        if len(self._buffer) > most:
            raise AnswerUnreadable(f"more than {most} bytes where so many are not expected")


def _size(text: str, base: int) -> int:
    """Raises AnswerUnreadable."""
    if not text.isalnum() or not text.isascii():
        raise AnswerUnreadable(f"{text[:40]!r} is no number of bytes")
    try:
        return int(text, base)
    except ValueError:
        raise AnswerUnreadable(f"{text[:40]!r} is no number of bytes") from None
