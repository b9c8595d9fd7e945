"""Gunicorn's threaded worker, with an end to its patience, and a short way for the lanes of the volume servers.

Gunicorn's own waits for the rest of a request as long as the client likes, and a thread waits with it: as many
clients as there are threads, each of which stops in the middle of a head or a body, would stop the store. Here a
request has a budget of time that its client may let us wait: `GRACE_S`, and a second more for each `BYTES_PER_S`
that came. Only the waiting counts, so a busy database spends nothing of it. When it is spent, the request ends as
if the client had gone. Idle connections are not touched: they wait at the poller and hold no thread.
"""

import contextlib
import select
import socket
import threading
import time
from typing import Any

from gunicorn.http import get_parser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn, ThreadWorker

GRACE_S = 10.0
BYTES_PER_S = 16 * 1024
LANE_PATH = "/api/v1/internal/confirm"
LANE_READ_BYTES = 64 << 10
"""A batch of some hundred needles with its head."""
LANE_WAIT_S = 0.02
"""Many times what lies between two batches under load, and nothing to whoever waits for the thread instead."""
LANE_SHARE = 4
"""One thread in so many may wait with a lane."""


class PatientUnreader(SocketUnreader):  # type: ignore[misc]  # gunicorn has no types
    """Reads requests from a socket until one of them has used its budget up."""

    def __init__(self, sock: socket.socket, *, grace_s: float = GRACE_S) -> None:
        super().__init__(sock)
        self.gave_up = False
        self._grace_s = grace_s
        self._left_s = grace_s

    def new_request(self) -> None:
        self._left_s = self._grace_s

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The next bytes; none when the client has gone or was given up."""
        if self.gave_up:
            return b""
        before = self.sock.gettimeout()
        self.sock.settimeout(self._left_s if before is None else min(before, self._left_s))
        began = time.monotonic()
        try:
            raw: bytes = super().chunk(size_hint)
        except TimeoutError:
            self.gave_up = True
            return b""
        finally:
            self.sock.settimeout(before)  # answers are written without this limit
        self._left_s += len(raw) / BYTES_PER_S - (time.monotonic() - began)
        self.gave_up = self._left_s <= 0
        return raw


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    """Plain HTTP/1, as `manage.py up` starts it; connections with TLS are left to gunicorn's own ways."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting_with_lanes = threading.BoundedSemaphore(max(1, self.cfg.threads // LANE_SHARE))

    def handle(self, conn: TConn) -> Any:
        """Answers a request, of a lane all that follow at once, in a thread of the pool.

        False: the connection is to be closed. True: it goes to the poller, until it can be read again.
        """
        if conn.parser is None and not self.cfg.is_ssl:
            conn.parser = get_parser(self.cfg, conn.sock, conn.client)
            conn.parser.unreader = PatientUnreader(conn.sock)
        unreader = getattr(conn.parser, "unreader", None)
        if not isinstance(unreader, PatientUnreader):
            return super().handle(conn)
        while True:
            unreader.new_request()
            result = self._short_way(conn)
            if result is None:
                result = super().handle(conn)
            if unreader.gave_up:
                # The main thread would linger on the connection for what the client may still send.
                with contextlib.suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RDWR)
                return False
            if result is not True or not self._next_of_lane(conn):
                return result

    def _short_way(self, conn: TConn) -> bool | None:
        """Answers a confirm that came on a lane without WSGI, where the application knows how.

        None: that is not what came, nothing was taken. Else whether the connection is to be kept.
        """
        lane, parser = getattr(self.wsgi, "lane", None), conn.parser
        if lane is None or parser.mesg is None or parser.mesg.path != LANE_PATH:
            return None  # of a new connection's first request nothing is known yet
        if not self.alive or not self.cfg.keepalive or self.nr + 1 >= self.max_requests:
            return None  # gunicorn says that the connection ends
        try:
            conn.sock.settimeout(None)
            raw = parser.unreader.read(None, LANE_READ_BYTES)
            head = lane.head_of(raw)
            if head is None:
                parser.unreader.unread(raw)
                return None
            body = raw[head.body_at :]
            while len(body) < head.body_bytes:
                piece = parser.unreader.read(None, head.body_bytes - len(body))
                if not piece:
                    return False
                body += piece
            parser.unreader.unread(body[head.body_bytes :])
            self.nr += 1
            conn.sock.sendall(lane.answer(head, body[: head.body_bytes]))
        except OSError as error:
            self.log.debug("A lane has gone: %s", error)
            return False
        return True

    def _next_of_lane(self, conn: TConn) -> bool:
        """Whether this is a lane whose next request has come, or comes while a thread may wait for it."""
        if conn.parser.mesg.path != LANE_PATH or not self.alive:
            return False
        if not self._waiting_with_lanes.acquire(blocking=False):
            return False
        try:
            if conn.parser.unreader.buf.getvalue():
                return True  # read ahead already: the socket need not say so
            poll = select.poll()  # select() itself takes no descriptor above 1023
            poll.register(conn.sock, select.POLLIN)
            return bool(poll.poll(LANE_WAIT_S * 1000))
        finally:
            self._waiting_with_lanes.release()
