"""How a volume's primary talks to its peers: requests signed by the ticket of volume and epoch (docs/protocol.md).

Two ways over one set of words: `PeerCalls` blocks, for threads that copy and for large bodies; `PeerLink` lives on the
loop, for shipments.
"""

import asyncio
import contextlib
import http.client
import json
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, LifoQueue
from typing import Any
from urllib.parse import urlsplit

from volume_server import signing
from volume_server.answers import AnswerReader, AnswerUnreadable
from volume_server.clock import Clock

PREFIX = "/replica"
IDLE_S = 30.0
"""A connection that was idle for longer is not used again: the peer may be about to close it."""

MAX_KID = (1 << 63) - 1
_HOST = re.compile(r"(?:[0-9A-Za-z._-]{1,253}|[0-9A-Fa-f:.]{2,45})\Z")
"""A name or an IPv4 address, or an IPv6 address: what may stand in a request's Host, and be looked up."""

Buffer = bytes | bytearray | memoryview


class PeerFailed(Exception):
    """A peer did not do what it was asked, or did not say so in time."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another server that holds the volume, and the ticket for it."""

    server: str
    url: str
    kid: int
    ticket: str

    @classmethod
    def of_json(cls, found: Any) -> "Peer":
        """As it stands in an `open`. Raises KeyError, TypeError, ValueError."""
        peer = cls(str(found["server"]), str(found["url"]), int(found["kid"]), str(found["ticket"]))
        parts = urlsplit(peer.url)
        if (
            parts.scheme not in ("http", "https")
            or not _HOST.match(parts.hostname or "")
            or parts.port == 0  # one that is no number, or too large, raises ValueError
            or len(bytes.fromhex(peer.ticket)) != 32
            or not 0 < peer.kid <= MAX_KID
        ):
            raise ValueError(f"{peer.url!r} is no address, or its ticket is none")
        return peer


@dataclass(frozen=True, slots=True)
class Line:
    """What is said to one peer about one volume in one epoch."""

    peer: Peer
    primary: str
    volume: int
    epoch: int
    clock: Clock

    def target(self, verb: str, at: int | None = None) -> str:
        query = "" if at is None else f"?at={at}"
        return f"{PREFIX}/{self.volume}/{self.epoch}/{verb}{query}"

    def headers(self, target: str, body: Buffer) -> dict[str, str]:
        time_ms = self.clock.now_ms()
        signature = signing.replica_signature(
            self.peer.ticket, target=target, body=body, primary=self.primary, time_ms=time_ms
        )
        return {
            signing.HEADER_SERVER: self.primary,
            signing.HEADER_KID: str(self.peer.kid),
            signing.HEADER_TIME: str(time_ms),
            signing.HEADER_SIGNATURE: signature,
            "Content-Length": str(len(body)),
        }


def judged(status: int, body: bytes) -> dict[str, Any]:
    """What a 200 says. Raises PeerFailed for anything else."""
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise PeerFailed(f"it answered {status} without JSON") from error
    if not isinstance(answer, dict):
        raise PeerFailed(f"it answered {status} with something else than an object")
    if status != 200:
        raise PeerFailed(f"{answer.get('code', status)}: {answer.get('detail', '')}")
    return answer


class PeerCalls:
    """Blocking calls over kept connections; for any number of threads."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self._idle: LifoQueue[tuple[http.client.HTTPConnection, float]] = LifoQueue()
        """And since when they are idle."""
        self._is_over = False
        self._used: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()

    def call(self, verb: str, body: Buffer, *, timeout_s: float, at: int | None = None) -> dict[str, Any]:
        """Raises PeerFailed."""
        return self.answer(self.send(verb, body, timeout_s=timeout_s, at=at))

    def send(self, verb: str, body: Buffer, *, timeout_s: float, at: int | None = None) -> http.client.HTTPConnection:
        """The first half of a call. Raises PeerFailed."""
        target = self.line.target(verb, at)
        connection = self._connection(timeout_s)
        with self._lock:
            if self._is_over:
                raise PeerFailed("it is not asked any more")
            self._used.add(connection)
        try:
            connection.request("POST", target, body=body, headers=self.line.headers(target, body))
        except (OSError, http.client.HTTPException) as error:
            self._end(connection)
            raise PeerFailed(_why(error)) from error
        return connection

    def answer(self, connection: http.client.HTTPConnection) -> dict[str, Any]:
        """The second half of a call. Raises PeerFailed."""
        try:
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._end(connection)
            raise PeerFailed(_why(error)) from error
        if response.will_close:
            self._end(connection)
        else:
            with self._lock:
                self._used.discard(connection)
            self._idle.put((connection, time.monotonic()))
        return judged(response.status, body)

    def _end(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._used.discard(connection)
            connection.close()

    def abort(self) -> None:
        """In any thread: whoever waits for an answer is told that there will be none, and nothing more is asked."""
        with self._lock:
            self._is_over = True
            for connection in self._used:
                if connection.sock is not None:
                    with contextlib.suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Nothing more is asked, and nobody waits any longer."""
        self.abort()
        with contextlib.suppress(Empty):
            while True:
                self._idle.get_nowait()[0].close()

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        with contextlib.suppress(Empty):
            while True:
                connection, since_s = self._idle.get_nowait()
                is_fresh = time.monotonic() - since_s < IDLE_S
                if is_fresh and connection.sock is not None and not _has_input(connection.sock.fileno()):
                    connection.sock.settimeout(timeout_s)
                    return connection
                connection.close()
        parts = urlsplit(self.line.peer.url)
        make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return make(parts.hostname or "", parts.port, timeout=timeout_s)


class PeerLink:
    """One request at a time to a peer, over one kept connection. On the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, line: Line) -> None:
        self.line = line
        self._loop = loop
        parts = urlsplit(line.peer.url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host_header = parts.netloc.rpartition("@")[2]
        self._wire: _Wire | None = None
        self._used_s = 0.0
        self._done: Callable[[PeerFailed | None], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Task[None] | None = None

    def post(self, verb: str, body: bytes, done: Callable[[PeerFailed | None], None], *, timeout_s: float) -> None:
        """Call ``done`` once, later: with None for a 200, else with the reason."""
        assert self._done is None
        self._done = done
        self._timer = self._loop.call_later(timeout_s, self.failed, f"no answer within {timeout_s:g} s")
        target = self.line.target(verb)
        fields = {"Host": self._host_header, **self.line.headers(target, body)}
        text = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
        raw = f"POST {target} HTTP/1.1\r\n{text}\r\n".encode("ascii") + body
        wire = self._wire
        if wire is not None and self._loop.time() - self._used_s < IDLE_S and not wire.is_dropped:
            wire.transport.write(raw)
            return
        self._drop()
        self._connecting = self._loop.create_task(self._connect(raw))

    def close(self) -> None:
        """Whoever waits is told that it failed."""
        self.failed("the epoch has ended")

    async def _connect(self, raw: bytes) -> None:
        try:
            _, wire = await self._loop.create_connection(lambda: _Wire(self), self._host, self._port, ssl=self._tls)
        except OSError as error:
            self.failed(_why(error))
            return
        if self._done is None:
            wire.drop()
            return
        self._wire = wire
        wire.transport.write(raw)

    def answered(self, status: int, body: bytes, *, is_last: bool) -> None:
        """``is_last``: the peer closes this connection."""
        self._used_s = self._loop.time()
        if is_last:
            self._drop()
        try:
            judged(status, body)
        except PeerFailed as error:
            self._end(error)
        else:
            self._end(None)

    def failed(self, reason: str) -> None:
        self._drop()
        if self._connecting is not None and not self._connecting.done():
            self._connecting.cancel()
        self._end(PeerFailed(reason))

    def _end(self, failure: PeerFailed | None) -> None:
        done, self._done = self._done, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if done is not None:
            done(failure)

    def _drop(self) -> None:
        if self._wire is not None:
            wire, self._wire = self._wire, None
            wire.drop()


class _Wire(asyncio.Protocol):
    def __init__(self, link: PeerLink) -> None:
        self._link: PeerLink | None = link
        self._reader = AnswerReader()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    @property
    def is_dropped(self) -> bool:
        """Whether the peer has closed it while it was idle."""
        if self.transport.is_closing() or not self._reader.is_idle:
            return True
        return _has_input(self.transport.get_extra_info("socket").fileno())

    def drop(self) -> None:
        self._link = None
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            answer = self._reader.feed(data)
        except AnswerUnreadable as error:
            self._lost(str(error))
            return
        if answer is not None and self._link is not None:
            self._link.answered(*answer, is_last=self._reader.will_close)

    def connection_lost(self, error: Exception | None) -> None:
        self._lost("the connection was closed" if error is None else _why(error))

    def _lost(self, reason: str) -> None:
        link, self._link = self._link, None
        if link is not None and link._wire is self:
            link.failed(reason)


def _has_input(fd: int) -> bool:
    """Of an idle connection: the other side has closed it, or said something unasked."""
    poll = select.poll()  # select() itself takes no descriptor above 1023
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
