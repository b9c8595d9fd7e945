"""HTTP/1.1 to volume servers, over sockets.

A transfer is nothing but these requests, so they cost as little as they can: a small one is one send and one receive,
a large body goes from the page cache to the socket by sendfile and from the socket into the caller's buffer.
Only what volume servers speak is understood: answers with a Content-Length.
"""

import contextlib
import os
import re
import select
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from warehouse.errors import ProtocolError, SourceChanged, TransferError
from warehouse.transfer import TransferConfig

BLOCK_BYTES = 256 << 10
"""Bodies move in blocks of this size: large enough for few calls, small enough to stay in the processor's cache."""
_EXPECT_BYTES = 1 << 20
"""From this size on a body waits for `100 Continue`, so that a refusal does not cost the whole of it."""
_EXPECT_WAIT_S = 2.0
"""… but not for ever (RFC 9110 section 10.1.1)."""
_RECEIVE_BYTES = 32 << 10
"""For a head, and with it all of a small body."""
_MAX_HEAD_BYTES = 64 << 10
_MAX_ERROR_BYTES = 1 << 20
_UNFIT = re.compile(r"[^\x20-\x7e]")

Sink = Callable[[memoryview], None]


class Body(Protocol):
    """The bytes of a PUT; they can be gone through any number of times."""

    @property
    def size(self) -> int: ...

    def small(self) -> memoryview | None:
        """All bytes at once where they are at most BLOCK_BYTES and in memory."""

    def crc32(self) -> int: ...

    def send(self, transport: "Transport") -> None: ...


class NotConnected(TransferError):
    """Nothing reached the server."""


class Lost(TransferError):
    """The connection ended without an answer. ``sent``: the whole request had been handed over."""

    def __init__(self, text: str, *, sent: bool) -> None:
        super().__init__(text)
        self.sent = sent


class LocalFault(Exception):
    """What the caller does with the bytes failed (a full disk, say): no fault of the connection."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    """Empty where a sink took it."""


@dataclass(frozen=True, slots=True)
class _Origin:
    scheme: str
    host: str
    port: int

    @property
    def text(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = {"http": 80, "https": 443}[self.scheme]
        return host if self.port == default else f"{host}:{self.port}"


class Transport:
    """One connection: sends from buffers and files, receives into buffers."""

    def __init__(self, sock: socket.socket, *, timeout_s: float) -> None:
        self._sock = sock
        self._timeout_s = timeout_s
        self._left = b""
        self.progress: Callable[[int], None] | None = None
        self.stop: threading.Event | None = None

    def send(self, data: bytes | memoryview) -> None:
        self._sock.sendall(data)

    def send_body(self, data: memoryview) -> None:
        for at in range(0, len(data), BLOCK_BYTES):
            self._check()
            block = data[at : at + BLOCK_BYTES]
            self._sock.sendall(block)
            self._count(len(block))

    def send_file(self, fd: int, offset: int, size: int) -> None:
        """Bytes of a file, by the kernel alone where it can. Raises SourceChanged when the file is too short."""
        if isinstance(self._sock, ssl.SSLSocket) or not hasattr(os, "sendfile"):
            end = offset + size
            while offset < end:
                self._check()
                block = os.pread(fd, min(BLOCK_BYTES, end - offset), offset)
                if not block:
                    raise SourceChanged("the file became shorter while it was being sent")
                self._sock.sendall(block)
                offset += len(block)
                self._count(len(block))
            return
        out, end = self._sock.fileno(), offset + size
        while offset < end:
            self._check()
            try:
                sent = os.sendfile(out, fd, offset, min(4 * BLOCK_BYTES, end - offset))
            except BlockingIOError:  # a socket with a timeout is a non-blocking one underneath
                if not self._wait(select.POLLOUT, self._timeout_s):
                    raise TimeoutError("the server does not take the bytes") from None
                continue
            if not sent:
                raise SourceChanged("the file became shorter while it was being sent")
            offset += sent
            self._count(sent)

    def continue_wanted(self) -> bool:
        """Whether to go on with the body: False when a final answer came instead of `100 Continue`."""
        if not self._left and not self._wait(select.POLLIN, _EXPECT_WAIT_S):
            return True
        status, _ = self._head_peek()
        if status != 100:
            return False
        self._left = self._left[self._left.index(b"\r\n\r\n") + 4 :]
        return True

    def read_head(self) -> tuple[int, dict[str, str]]:
        while True:
            status, lines = self._head_peek()
            self._left = self._left[self._left.index(b"\r\n\r\n") + 4 :]
            if status >= 200:
                break
        headers = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise ProtocolError(f"the answer has a header line without a colon: {line[:80]!r}")
            headers[name.lower()] = value.strip()
        return status, headers

    def read_body(self, size: int) -> bytes:
        if len(self._left) >= size:
            body, self._left = self._left[:size], self._left[size:]
            return body
        buffer = bytearray(size)
        self.read_into(memoryview(buffer))
        return bytes(buffer)

    def read_into(self, view: memoryview) -> None:
        at = min(len(self._left), len(view))
        view[:at] = self._left[:at]
        self._left = self._left[at:]
        while at < len(view):
            self._check()
            got = self._sock.recv_into(view[at:])
            if not got:
                raise EOFError
            at += got

    def read_through(self, size: int, buffer: memoryview, sink: Sink) -> None:
        """Pass ``size`` bytes on, a full ``buffer`` at a time: whole aligned blocks are what a file takes quickly."""
        while size:
            block = buffer[: min(size, len(buffer))]
            self.read_into(block)
            try:
                sink(block)
            except OSError as error:
                raise LocalFault(error) from error
            size -= len(block)

    def is_dropped(self) -> bool:
        """Whether an idle connection was closed, or said something unasked, meanwhile."""
        return bool(self._left) or self._wait(select.POLLIN, 0)

    def close(self) -> None:
        self._sock.close()

    def _head_peek(self) -> tuple[int, list[str]]:
        while b"\r\n\r\n" not in self._left:
            if len(self._left) > _MAX_HEAD_BYTES:
                raise ProtocolError("the head of the answer does not end")
            got = self._sock.recv(_RECEIVE_BYTES)
            if not got:
                raise EOFError
            self._left += got
        first, *lines = self._left[: self._left.index(b"\r\n\r\n")].decode("latin-1").split("\r\n")
        parts = first.split(" ", 2)
        if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not (parts[1].isascii() and parts[1].isdigit()):
            raise ProtocolError(f"this is no HTTP/1.1 answer: {first[:80]!r}")
        return int(parts[1]), lines

    def _wait(self, events: int, timeout_s: float) -> bool:
        if isinstance(self._sock, ssl.SSLSocket) and events == select.POLLIN and self._sock.pending():
            return True
        poll = select.poll()
        poll.register(self._sock, events)
        return bool(poll.poll(timeout_s * 1000))

    def _count(self, size: int) -> None:
        if self.progress is not None:
            self.progress(size)

    def _check(self) -> None:
        if self.stop is not None and self.stop.is_set():
            raise ConnectionAbortedError("the transfer was stopped")


class Wire:
    """Connections to volume servers, kept alive and shared by the threads of a client."""

    def __init__(self, config: TransferConfig, *, user_agent: str) -> None:
        self._config = config
        self._user_agent = user_agent
        self._idle: dict[_Origin, deque[Transport]] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._keep = config.concurrency + config.many_concurrency
        self._tls: ssl.SSLContext | None = None

    def put(
        self,
        url: str,
        headers: Mapping[str, str],
        body: Body,
        *,
        progress: Callable[[int], None] | None = None,
        stop: threading.Event | None = None,
    ) -> Answer:
        """Raises NotConnected, Lost or ProtocolError when there is no answer."""
        origin, target = _split(url)
        head = _head("PUT", target, origin, self._user_agent, {"Content-Length": str(body.size), **headers})
        transport = self._take(origin)
        transport.progress, transport.stop = progress, stop
        sent = False
        try:
            try:
                sent = self._send(transport, head, body)
            except (BrokenPipeError, ConnectionResetError):
                # The server may have refused in the middle of the body and closed: its answer is worth more.
                with contextlib.suppress(OSError, EOFError):
                    return self._receive(origin, transport, reuse=False)
                raise
            return self._receive(origin, transport, reuse=sent)
        except (OSError, EOFError) as error:
            transport.close()
            raise Lost(f"{origin.text}: {_reason(error)}", sent=sent) from error
        except BaseException:
            transport.close()
            raise

    def get(
        self,
        url: str,
        *,
        size: int,
        into: memoryview | None = None,
        through: tuple[memoryview, Sink] | None = None,
        stop: threading.Event | None = None,
    ) -> Answer:
        """A whole needle of exactly ``size`` bytes: into a buffer of that size, through a sink, or as bytes.

        The CRC is the caller's to judge. Raises NotConnected, Lost or ProtocolError when there is no answer.
        """
        origin, target = _split(url)
        head = _head("GET", target, origin, self._user_agent, {})
        transport = self._take(origin)
        transport.progress, transport.stop = None, stop
        try:
            transport.send(head + b"\r\n")
            return self._receive(origin, transport, size=size, into=into, through=through)
        except (OSError, EOFError) as error:
            transport.close()
            raise Lost(f"{origin.text}: {_reason(error)}", sent=True) from error
        except BaseException:
            transport.close()
            raise

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, {}
        for transports in idle.values():
            for transport in transports:
                transport.close()

    def _send(self, transport: Transport, head: bytes, body: Body) -> bool:
        """Whether all of it was sent: the server may refuse before the body."""
        small = body.small()
        if small is not None:
            transport.send(head + b"\r\n" + small)
            if transport.progress is not None:
                transport.progress(len(small))
            return True
        if body.size >= _EXPECT_BYTES:
            transport.send(head + b"Expect: 100-continue\r\n\r\n")
            if not transport.continue_wanted():
                return False
        else:
            transport.send(head + b"\r\n")
        body.send(transport)
        return True

    def _receive(
        self,
        origin: _Origin,
        transport: Transport,
        *,
        size: int | None = None,
        into: memoryview | None = None,
        through: tuple[memoryview, Sink] | None = None,
        reuse: bool = True,
    ) -> Answer:
        status, headers = transport.read_head()
        length_text = headers.get("content-length", "")
        if not (length_text.isascii() and length_text.isdigit()):
            raise ProtocolError(f"{origin.text} answered {status} without a Content-Length")
        length, body = int(length_text), b""
        if status == 200 and size is not None:
            if length != size:
                raise ProtocolError(f"{origin.text} has {length} bytes where {size} were stored")
            if into is not None:
                transport.read_into(into)
            elif through is not None:
                transport.read_through(size, *through)
            else:
                body = transport.read_body(size)
        elif length > _MAX_ERROR_BYTES:
            raise ProtocolError(f"{origin.text} answered {status} with {length} bytes")
        else:
            body = transport.read_body(length)
        if reuse and headers.get("connection", "").lower() != "close":
            self._give_back(origin, transport)
        else:
            transport.close()
        return Answer(status, headers, body)

    def _take(self, origin: _Origin) -> Transport:
        while True:
            with self._lock:
                if self._closed:
                    raise NotConnected("the client is closed")
                idle = self._idle.get(origin)
                transport = idle.pop() if idle else None
            if transport is None:
                return self._connect(origin)
            if not transport.is_dropped():
                return transport
            transport.close()

    def _give_back(self, origin: _Origin, transport: Transport) -> None:
        with self._lock:
            idle = self._idle.setdefault(origin, deque())
            if not self._closed and len(idle) < self._keep:
                idle.append(transport)
                return
        transport.close()

    def _connect(self, origin: _Origin) -> Transport:
        try:
            sock = socket.create_connection((origin.host, origin.port), self._config.connect_timeout_s)
        except OSError as error:
            raise NotConnected(f"{origin.text}: {_reason(error)}") from error
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if origin.scheme == "https":
                if self._tls is None:
                    self._tls = ssl.create_default_context()
                sock = self._tls.wrap_socket(sock, server_hostname=origin.host)
            sock.settimeout(self._config.io_timeout_s)
        except OSError as error:
            sock.close()
            raise NotConnected(f"{origin.text}: {_reason(error)}") from error
        return Transport(sock, timeout_s=self._config.io_timeout_s)


def _split(url: str) -> tuple[_Origin, str]:
    parts: SplitResult = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ProtocolError(f"the master gave a URL that is none: {url[:80]!r}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    # The target is sent as it was signed: nothing of it is decoded or put in another spelling.
    target = url[len(parts.scheme) + 3 + len(parts.netloc) :]
    return _Origin(parts.scheme, parts.hostname, port), target or "/"


def _head(method: str, target: str, origin: _Origin, user_agent: str, headers: Mapping[str, str]) -> bytes:
    """The head without its closing empty line. Raises ValueError for a header that would break out of its line."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {origin.text}", f"User-Agent: {user_agent}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    for line in lines:
        if _UNFIT.search(line):
            raise ValueError(f"only printable ASCII can stand in a header: {line[:80]!r}")
    return ("\r\n".join(lines) + "\r\n").encode("ascii")


def _reason(error: BaseException) -> str:
    if isinstance(error, EOFError):
        return "the connection was closed without an answer"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
