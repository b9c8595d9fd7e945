"""The confirm lane's connection: HTTP/1.1, kept alive, one request at a time, each answered before the next.

All of a batch's writers wait while this is done, beside a loop that wants the interpreter, too: `http.client` takes
three times as long, most of it for turning the answer's head into an e-mail message.
"""

import select
import socket
import ssl
import time

MAX_HEAD_BYTES = 64 << 10
MAX_BODY_BYTES = 16 << 20
_RECEIVE_BYTES = 64 << 10
_INTERIM = range(100, 200)


class AnswerUnreadable(Exception):
    """This is no HTTP/1.1 answer, or one that is not taken."""


class ConnectionClosed(ConnectionError):
    """The other side ended the connection."""


class Exchange:
    """A connection to ``host`` and ``port``. Raises OSError where there is nobody within ``timeout_s``."""

    def __init__(self, host: str, port: int, *, secure: bool, timeout_s: float) -> None:
        self.will_close = False
        """The other side said that it ends the connection after the last answer."""
        self._buffer = b""
        self._end_s = 0.0
        named = f"[{host}]" if ":" in host else host
        self._host = named if port == (443 if secure else 80) else f"{named}:{port}"
        self.socket = socket.create_connection((host, port), timeout_s)
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if secure:
                self.socket = ssl.create_default_context().wrap_socket(self.socket, server_hostname=host)
        except BaseException:
            self.socket.close()
            raise

    def is_dropped(self) -> bool:
        """Whether the other side has closed it, or said something unasked, while it was idle."""
        poll = select.poll()  # select() itself takes no descriptor above 1023
        poll.register(self.socket, select.POLLIN)
        return bool(self._buffer) or bool(poll.poll(0))

    def post(self, target: str, headers: dict[str, str], body: bytes, *, timeout_s: float) -> tuple[int, bytes]:
        """Status and body of the answer. Raises OSError and AnswerUnreadable; then nothing more can be asked here."""
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"POST {target} HTTP/1.1\r\nHost: {self._host}\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
        self._end_s = time.monotonic() + timeout_s
        self.socket.settimeout(timeout_s)
        self.socket.sendall(head.encode("ascii") + body)
        status, answered = self._head()
        while status in _INTERIM:
            status, answered = self._head()
        length, coding = answered.get("content-length"), answered.get("transfer-encoding")
        if coding is not None:
            if coding.lower() != "chunked":
                raise AnswerUnreadable(f"the answer is {coding!r}")
            return status, self._chunked()
        if length is None:
            return status, self._rest()
        return status, self._take(_size(length, 10))

    def close(self) -> None:
        self.socket.close()

    def _head(self) -> tuple[int, dict[str, str]]:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            self._fill(MAX_HEAD_BYTES)
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        self._buffer = self._buffer[end + 4 :]
        version, _, rest = first.partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0") or not rest[:3].isdecimal() or not rest[:3].isascii():
            raise AnswerUnreadable(f"this is no HTTP/1.1 answer: {first[:80]!r}")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        connection = headers.get("connection", "").lower()
        self.will_close = "close" in connection or (version == "HTTP/1.0" and "keep-alive" not in connection)
        return int(rest[:3]), headers

    def _chunked(self) -> bytes:
        """RFC 9112, section 7.1; extensions and trailers are passed over."""
        pieces: list[bytes] = []
        while size := _size(self._line().partition(b";")[0].decode("latin-1").strip(), 16):
            pieces.append(self._take(size))
            if self._line() or sum(map(len, pieces)) > MAX_BODY_BYTES:
                raise AnswerUnreadable("a chunk of the answer is longer than it says, or the whole too long")
        while self._line():
            pass
        return b"".join(pieces)

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._fill(MAX_HEAD_BYTES)
        line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
        return line

    def _take(self, size: int) -> bytes:
        if size > MAX_BODY_BYTES:
            raise AnswerUnreadable(f"an answer of {size} bytes")
        while len(self._buffer) < size:
            self._fill(MAX_BODY_BYTES)
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _rest(self) -> bytes:
        """All up to the end of the connection."""
        self.will_close = True
        try:
            while True:
                self._fill(MAX_BODY_BYTES)
        except ConnectionClosed:
            return self._buffer

    def _fill(self, limit: int) -> None:
        """Read more. Raises ConnectionClosed at the end of the connection."""
        if len(self._buffer) > limit:
            raise AnswerUnreadable(f"more than {limit} bytes where so many are not expected")
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the answer did not come in time")
        self.socket.settimeout(left_s)
        got = self.socket.recv(_RECEIVE_BYTES)
        if not got:
            raise ConnectionClosed("the connection was closed before the answer's end")
        self._buffer += got


def _size(text: str, base: int) -> int:
    """Raises AnswerUnreadable."""
    if not text.isalnum() or not text.isascii():
        raise AnswerUnreadable(f"{text[:40]!r} is no number of bytes")
    try:
        return int(text, base)
    except ValueError:
        raise AnswerUnreadable(f"{text[:40]!r} is no number of bytes") from None
