"""The event loop's side: connections, bodies, time limits. What a request means is `volume_server.routes`.

One `asyncio.Protocol` a connection; small requests are parsed and answered inside one `data_received` with one
write, no task or coroutine each. A large body goes through a `BufferedProtocol` into two reused buffers: one fills
while a thread writes the other out. A connection answers its requests in order: while one is on its way, the next
ones wait.
"""

import asyncio
import logging
import os
import resource
import zlib
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Protocol

from volume_server import responses
from volume_server.errors import StoreError
from volume_server.http1 import HttpError, Request, RequestParser

log = logging.getLogger(__name__)

Body = bytes | bytearray

SMALL_BODY_BYTES = 256 * 1024
MAX_ADMIN_BODY_BYTES = 1 << 20
"""Read before the signature over it can be judged, so no more than some 50,000 needle ids take."""
READ_BYTES = 64 << 10
"""Asked of a socket at a time. asyncio's own 256 KiB lie above what malloc maps and unmaps for each call."""
DRAIN_BYTES = 1 << 20
STREAM_BUFFER_BYTES = 1 << 20
SENDFILE_PIECE_BYTES = 4 << 20
FLUSH_BYTES = 1 << 20
"""Answers of one read are collected up to here, then written, so that a client that does not read is noticed."""
HEAD_TIMEOUT_S = 30.0
BODY_TIMEOUT_S = 120.0
"""For a small body, for each buffer of a large one, and for each piece of an answer: 9 kB/s of a large body at the
least, 35 kB/s of a large answer."""
IDLE_TIMEOUT_S = 120.0
DRAIN_TIMEOUT_S = 10.0
SWEEP_S = 1.0
MAX_CONNECTIONS = 20_000
MAX_STREAMS = 128
"""Large bodies that come in at once. Each has two buffers, 256 MiB in all; the others wait for their turn, unread."""
MAX_HELD_BYTES = 512 << 20
"""What all connections together may hold of small bodies, requests that wait and answers that are not read."""
NEVER = float("inf")
"""The deadline of a connection whose answer depends on us, not on the client."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Sink(Protocol):
    """Takes the body of one large PUT. `write` runs in a thread; the others on the loop."""

    def write(self, data: memoryview, at: int) -> None: ...

    def complete(self, crc: int) -> None:
        """In a thread, after the last write."""

    def done(self, crc: int) -> None:
        """The whole body is in; answer through the connection."""

    def abandoned(self, error: Exception | None) -> None:
        """The body never came whole (None), or could not be taken (the error); answer if there is somebody."""


class Handler(Protocol):
    def plain_get(self, target: bytes, request_id: bytes) -> bytes | None:
        """The whole answer to a GET without conditions or range, or None where `handle` must see to it."""

    def handle(self, connection: "Connection", request: Request) -> None:
        """Answer with `connection.respond`, or call `expect_body` or `stream_body`. Raises HttpError."""


class Counters:
    def __init__(self) -> None:
        self.requests = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.answers: dict[int, int] = {}

    def traffic(self) -> dict[str, int]:
        """What the master keeps a history of; counted since the process was started."""
        return {
            "requests": self.requests,
            "puts": self.answers.get(201, 0) + self.answers.get(202, 0),
            "received_bytes": self.bytes_in,
            "sent_bytes": self.bytes_out,
        }


class Listener:
    """What the connections of one process share."""

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: Executor, instance: str) -> None:
        self.loop = loop
        self.threads = threads
        self.connections: set[Connection] = set()
        self.counters = Counters()
        self.draining = False
        self.idle_deadline_s = loop.time() + IDLE_TIMEOUT_S + SWEEP_S
        """That of a connection that falls idle now, to a second or so."""
        self._id_prefix = instance[:12].encode()
        self._id_count = 0
        self._spare_buffers: list[bytearray] = []
        self.max_connections = connection_limit()
        self.streams = 0
        """Large bodies that have their buffers."""
        self.waiting: dict[Connection, Callable[[], None]] = {}
        """Those that wait for a large body's buffers, first come first, and what is to be done then."""

    def next_request_id(self) -> bytes:
        self._id_count += 1
        return b"%b-%x" % (self._id_prefix, self._id_count)

    def take_buffer(self) -> bytearray:
        return self._spare_buffers.pop() if self._spare_buffers else bytearray(STREAM_BUFFER_BYTES)

    def give_buffer(self, buffer: bytearray) -> None:
        if len(self._spare_buffers) < 16:
            self._spare_buffers.append(buffer)

    def begin_stream(self) -> None:
        self.streams += 1

    def end_stream(self) -> None:
        """A large body's buffers are free: let the next ones have them, soon."""
        self.streams -= 1
        if self.waiting:
            self.loop.call_soon(self._admit_streams)

    def _admit_streams(self) -> None:
        while self.waiting and self.streams < MAX_STREAMS:
            connection = next(iter(self.waiting))
            connection.resume_with(self.waiting.pop(connection))  # which may end without a stream

    def sweep(self) -> None:
        """Close what has been waiting for too long, and what holds too much. Called every `SWEEP_S`."""
        now_s = self.loop.time()
        self.idle_deadline_s = now_s + IDLE_TIMEOUT_S + SWEEP_S
        for connection in [found for found in self.connections if found.deadline_s < now_s]:
            connection.time_out()
        self._shed()

    def _shed(self) -> None:
        """Hold memory to `MAX_HELD_BYTES`, by dropping the connections that hold most of it.

        What one of them holds has a bound, but thousands that each stay below theirs would take it all.
        """
        held = [
            (found.held_bytes, found)
            for found in self.connections
            if found.buffer or found.filler or not found.is_writable
        ]
        excess = sum(size for size, _ in held) - MAX_HELD_BYTES
        if excess <= 0:
            return
        dropped = 0
        for size, connection in sorted(held, key=lambda entry: entry[0], reverse=True):
            connection.abort()
            dropped += 1
            excess -= size
            if excess <= 0:
                break
        log.warning("%d connections were dropped: what clients sent ahead or did not read took too much", dropped)

    def drain(self) -> None:
        """A stop is near: idle connections are closed now, the others after the answer they are waiting for."""
        self.draining = True
        for connection in list(self.connections):
            connection.close_if_idle()


def connection_limit() -> int:
    """How many connections this process can have: a quarter of its descriptors stays for volumes and the master.

    Without a descriptor a checkpoint, a compaction and a confirm would fail as well as the next client.
    """
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if descriptors == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, descriptors * 3 // 4)


class Connection(asyncio.Protocol):
    def __init__(self, listener: Listener, handler: Handler) -> None:
        self.listener = listener
        self.handler = handler
        self.transport: asyncio.Transport
        self.buffer = bytearray()
        self.parser = RequestParser()
        self.request: Request | None = None
        self.request_id = b""
        self.busy = False
        """An answer is on its way; nothing more is parsed until it is out."""
        self.closed = False
        self.deadline_s = 0.0
        self._body_needed = -1
        self._body_taker: Callable[[Body], None] | None = None
        self.filler: BodyFiller | None = None
        self._body: bytes | None = None
        """The current request's whole body, where it came together with the head."""
        self._body_begun = False
        """The current request's body was asked for, so that what follows in the buffer is not a request."""
        self._head_begun = False
        """A part of a request's head is here; its time runs from the first byte."""
        self._discard = -1
        self.is_writable = True
        """The client reads what it is sent."""
        self._out: list[bytes] | None = None
        self._out_bytes = 0
        self.client_is_done = False
        """It half-closed: no more requests will come."""
        self._receiver: BodyReceiver | None = None
        self._sending: asyncio.Task[None] | None = None

    # -- asyncio's side ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        self.deadline_s = self.listener.loop.time() + HEAD_TIMEOUT_S
        if len(self.listener.connections) >= self.listener.max_connections or self.listener.draining:
            self.closed = True
            transport.abort()
            return
        self.listener.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.listener.connections.discard(self)
        self.listener.waiting.pop(self, None)
        self._body_taker = None

    def data_received(self, data: bytes) -> None:
        if self._discard >= 0 or self.closed:
            self._discard -= len(data)
            if self._discard <= 0:
                self.transport.abort()
            return
        self.listener.counters.bytes_in += len(data)
        if (
            not self.buffer
            and not self.busy
            and self._body_needed < 0
            and self.is_writable
            and (self._answer_at_once(data) or self._take_whole(data))
        ):
            return
        self.buffer += data
        if self.busy:
            if len(self.buffer) > SMALL_BODY_BYTES:
                self.transport.pause_reading()
            return
        self.process()

    def _answer_at_once(self, data: bytes) -> bool:
        """The short way for what comes most often: a whole small GET whose headers repeat those of the one before.

        Whatever is unusual about it goes the long way, refusals too.
        """
        target = self.parser.repeated_get(data)
        if target is None or self.listener.draining:
            return False
        listener = self.listener
        raw = self.handler.plain_get(target, listener.next_request_id())
        if raw is None:
            return False
        counters = listener.counters
        counters.requests += 1
        counters.bytes_out += len(raw)
        self.deadline_s = listener.idle_deadline_s
        self.transport.write(raw)
        return True

    def _take_whole(self, data: bytes) -> bool:
        """The short way for one whole small PUT: its bytes are copied no more than once."""
        found = self.parser.whole_put(data)
        if found is None:
            return False
        self.request, head_bytes = found
        self._body = data[head_bytes:]
        self._begin(self.request)
        return True

    def eof_received(self) -> bool:
        # a client that half-closes still gets the answers it is waiting for
        if not self.busy:
            return False
        self.client_is_done = True
        return True

    def pause_writing(self) -> None:
        self.is_writable = False
        self.transport.pause_reading()
        self.deadline_s = self.listener.loop.time() + BODY_TIMEOUT_S

    def resume_writing(self) -> None:
        self.is_writable = True
        if self.busy:
            if self._sending is None:
                self.deadline_s = NEVER  # what comes next depends on us again
        elif not self.closed:
            self.transport.resume_reading()
            self.process()

    # -- requests ------------------------------------------------------------------------------------------------

    def process(self) -> None:
        """Answer all that the buffer holds, with one write."""
        self._out = []
        buffer = self.buffer
        while buffer and not self.busy and not self.closed and self.is_writable and self._discard < 0:
            if self._body_needed >= 0:
                if not self._take_body():
                    break
                continue
            try:
                parsed = self.parser.parse(buffer)
            except HttpError as error:
                self.request, self.request_id = None, self.listener.next_request_id()
                self.refuse(error)
                break
            if parsed is None:
                if not self._head_begun:
                    self._head_begun = True
                    self.deadline_s = self.listener.loop.time() + HEAD_TIMEOUT_S
                break
            self._head_begun = False
            self.request, head_bytes = parsed
            del buffer[:head_bytes]
            self._begin(self.request)
        self._flush()
        self._out = None
        if self.client_is_done and self.is_writable and not self.busy and self._discard < 0:
            self._close_softly(0)  # whatever is left in the buffer will never be a whole request
        elif not buffer and not self.busy and self._body_needed < 0 and self._discard < 0:
            self.deadline_s = self.listener.loop.time() + IDLE_TIMEOUT_S

    def _begin(self, request: Request) -> None:
        self.listener.counters.requests += 1
        given = None if request.block.plain else request.block.fields.get(b"x-request-id")
        self.request_id = given if given and is_request_id(given) else self.listener.next_request_id()
        self.busy = True
        self._body_begun = False
        self.deadline_s = NEVER
        self._guarded(self.handler.handle, self, request)

    def resume_with(self, step: Callable[[], None]) -> None:
        """Take up a request again that had to wait for another one."""
        if not self.closed:
            self._guarded(step)

    def _guarded(self, step: Callable[..., None], *arguments: object) -> None:
        """Whatever a step raises is an answer."""
        try:
            step(*arguments)
        except HttpError as error:
            self.refuse(error)
        except StoreError as error:
            self.refuse(HttpError(error.status, error.code, error.detail))
        except Exception:
            log.exception("request %s failed", self.request_id.decode())
            self.refuse(HttpError(500, "internal", "something went wrong here; the log says what"))

    def expect_body(self, taker: Callable[[Body], None], *, limit: int) -> None:
        """Call ``taker`` with the whole body once it is here. Raises HttpError 411, 413."""
        length = self._body_length(limit)
        body = self.whole_body()
        if body is not None:
            taker(body)
            return
        self._body_begun = True
        self._body_needed = length
        self._body_taker = taker
        self.busy = False
        self.deadline_s = self.listener.loop.time() + BODY_TIMEOUT_S
        if len(self.buffer) >= length:
            self._take_body()
            return
        self._send_continue()
        if length > SMALL_BODY_BYTES:
            self.filler = BodyFiller(self, length)
            self.filler.start()

    def when_streams_allow(self, step: Callable[[], None]) -> None:
        """Call ``step``, which may call `stream_body`, as soon as there are buffers for one more large body.

        Until then nothing is read, so that who waits holds no more than came together with its head, and its time
        does not run.
        """
        listener = self.listener
        if listener.streams < MAX_STREAMS and not listener.waiting:
            step()
            return
        self.transport.pause_reading()
        listener.waiting[self] = step

    def stream_body(self, sink: Sink, length: int) -> None:
        """Hand the body over to ``sink``, piece by piece. Only from within `when_streams_allow`."""
        self._body_begun = True
        receiver = self._receiver = BodyReceiver(self, sink, length)
        if len(self.buffer) < length:
            self._send_continue()
        receiver.start()

    def whole_body(self) -> bytes | None:
        """The current request's body where it came together with the head; once."""
        body, self._body = self._body, None
        self._body_begun = self._body_begun or body is not None
        return body

    def _body_length(self, limit: int) -> int:
        assert self.request is not None
        length = self.request.own.content_length
        if length is None:
            raise HttpError(411, "length_required", "send a Content-Length")
        if length > limit:
            raise HttpError(413, "payload_too_large", f"at most {limit} bytes are taken")
        return length

    def _take_body(self) -> bool:
        if len(self.buffer) < self._body_needed:
            return False
        if len(self.buffer) == self._body_needed:
            body = bytes(self.buffer)
            self.buffer.clear()
        else:
            with memoryview(self.buffer) as view:
                body = bytes(view[: self._body_needed])
            del self.buffer[: self._body_needed]
        self._give_body(body)
        return True

    def _give_body(self, body: Body) -> None:
        taker, self._body_taker = self._body_taker, None
        self._body_needed = -1
        self.busy = True
        self.deadline_s = NEVER
        assert taker is not None
        self._guarded(taker, body)

    def filled(self, body: Body | None, missing_bytes: int) -> None:
        """A large body is here, or will not be waited for any longer (None)."""
        self.filler = None
        if not self.closed:
            self.transport.set_protocol(self)
        if body is not None:
            self._give_body(body)
        else:
            self._body_needed = missing_bytes

    def _send_continue(self) -> None:
        assert self.request is not None
        if self.request.block.expect_continue:
            self._write(CONTINUE)

    @property
    def held_bytes(self) -> int:
        """Memory for what was read and is not used yet, or was answered and is not sent yet."""
        filling = 0 if self.filler is None else len(self.filler.body)
        return len(self.buffer) + filling + self.transport.get_write_buffer_size()

    # -- answers -------------------------------------------------------------------------------------------------

    @property
    def closes(self) -> bool:
        """Whether this answer is the connection's last."""
        return self.listener.draining or self.request is None or not self.request.block.keep_alive

    def respond(self, raw: bytes, *, close: bool | None = None) -> None:
        """Send a whole answer to the current request; the next one may then come."""
        if self.closed:
            return
        self._write(raw)
        self.listener.counters.bytes_out += len(raw)
        self.end_answer(self.closes if close is None else close)

    def end_answer(self, close: bool) -> None:
        self.busy = False
        if close:
            self._close_softly(0)
        elif self._out is None:  # not inside process(): go on with what came meanwhile
            if self.is_writable and not self.transport.is_reading():
                self.transport.resume_reading()
            if self.buffer or self.client_is_done:
                self.process()
            else:
                self.deadline_s = self.listener.idle_deadline_s

    def refuse(self, error: HttpError) -> None:
        """Answer with a problem. A body that was not read is drained a little, then the connection closes."""
        self.listener.counters.answers[error.status] = self.listener.counters.answers.get(error.status, 0) + 1
        request = self.request
        unread = 0
        if request is None:
            unread = DRAIN_BYTES
        elif self._body is not None:
            self._body = None
        elif not self._body_begun:
            unread = request.own.content_length or 0
            if unread and unread <= len(self.buffer):
                del self.buffer[:unread]
                unread = 0
        elif self._body_needed >= 0:
            unread = self._body_needed
        close = unread > 0 or self.closes
        raw = responses.document(
            error.status,
            {
                **responses.problem(error.status, error.code, error.detail),
                "request_id": self.request_id.decode(),
            },
            request_id=self.request_id,
            content_type=responses.PROBLEM,
            close=close,
            head_only=request is not None and request.method == b"HEAD",
            headers=error.headers + self.extra_headers(),
        )
        if unread > 0:
            self._write(raw)
            self.busy = False
            self._close_softly(max(min(unread - len(self.buffer), DRAIN_BYTES), 1))
        else:
            self.respond(raw, close=close)

    def extra_headers(self) -> tuple[bytes, ...]:
        """Headers that every answer of this connection's current request carries (CORS)."""
        return ()

    def _write(self, raw: bytes) -> None:
        if self._out is not None:
            self._out.append(raw)
            self._out_bytes += len(raw)
            if self._out_bytes >= FLUSH_BYTES:
                self._flush()
        elif not self.transport.is_closing():
            self.transport.write(raw)

    def _flush(self) -> None:
        """Write what `process` has collected."""
        out = self._out
        if out and not self.transport.is_closing():
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()
        self._out_bytes = 0

    def _close_softly(self, discard_bytes: int) -> None:
        """Half-close after the answer and read on for a moment, so that no reset overtakes the answer."""
        self._flush()
        self.buffer.clear()
        self._body_needed = -1
        if discard_bytes and self.transport.can_write_eof():
            self._discard = discard_bytes
            self.deadline_s = self.listener.loop.time() + DRAIN_TIMEOUT_S
            self.transport.write_eof()
            self.transport.resume_reading()
        else:
            self.closed = True
            self.deadline_s = self.listener.loop.time() + BODY_TIMEOUT_S
            self.transport.close()

    def close_if_idle(self) -> None:
        if not self.busy and not self.buffer and self._body_needed < 0:
            self.transport.close()

    def time_out(self) -> None:
        """The client took too long over whatever it was at."""
        if self._receiver is not None:
            self._receiver.time_out()
            return
        if self.filler is not None:
            self.filler.give_up()
        if self._body_needed >= 0 and not self.busy and self._discard < 0:
            self.refuse(HttpError(408, "timeout", "the body came too slowly"))
        elif self.buffer and not self.busy and self._discard < 0 and self.is_writable:
            self.request, self.request_id = None, self.listener.next_request_id()
            self.refuse(HttpError(408, "timeout", "the request came too slowly"))
        else:
            self.abort()

    def abort(self) -> None:
        """Drop the connection now."""
        if self._sending is not None:
            # before the socket is closed: the loop would else wait for ever for a descriptor that is no more
            self._sending.cancel()
        self.transport.abort()

    def send_file(self, head: bytes, fd: int, offset: int, count: int) -> None:
        """Send an answer whose body lies in a file, by sendfile, a piece at a time.

        Through a descriptor of its own, since the file may be another one before a slow client has read all of it.
        """
        file = PositionalFile(os.dup(fd))
        self._sending = self.listener.loop.create_task(self._send_file(head, file, offset, count))
        self._sending.add_done_callback(lambda _: file.close())

    async def _send_file(self, head: bytes, file: "PositionalFile", offset: int, count: int) -> None:
        loop = self.listener.loop
        try:
            self.transport.write(head)
            while count > 0 and not self.closed:
                self.deadline_s = loop.time() + BODY_TIMEOUT_S
                piece = min(count, SENDFILE_PIECE_BYTES)
                sent = await loop.sendfile(self.transport, file, offset, piece)  # type: ignore[arg-type]
                self.listener.counters.bytes_out += sent
                offset += sent
                count -= sent
                if sent != piece:
                    break
        except (OSError, RuntimeError) as error:
            # the head is out: all that can still be said is to stop short of the promised length
            log.warning("request %s: the body broke off: %s", self.request_id.decode(), error)
            self.transport.abort()
            return
        finally:
            self._sending = None
        if count:
            log.error("request %s: the volume file ended early", self.request_id.decode())
            self.transport.abort()
        elif not self.closed:
            self.end_answer(self.closes)


class PositionalFile:
    """A file for `loop.sendfile` with a position of its own, since many answers read one descriptor at once.

    Only where the file system knows no sendfile does the loop seek and read by itself.
    """

    mode = "rb"

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._position = 0

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)

    def seek(self, position: int) -> int:
        self._position = position
        return position

    def readinto(self, view: memoryview) -> int:
        read = os.preadv(self._fd, [view], self._position)
        self._position += read
        return read


class BodyFiller(asyncio.BufferedProtocol):
    """Receives one whole body, each byte into its place, instead of its connection's protocol.

    For those that the connection takes whole and that are large: what peers ship.
    """

    def __init__(self, connection: Connection, length: int) -> None:
        self.connection = connection
        self.body = bytearray(length)
        self._received = 0

    def start(self) -> None:
        buffered = self.connection.buffer
        self._received = len(buffered)
        self.body[: self._received] = buffered
        buffered.clear()
        self.connection.transport.set_protocol(self)

    def give_up(self) -> None:
        self.connection.filled(None, len(self.body) - self._received)

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self.body)[self._received :]

    def buffer_updated(self, nbytes: int) -> None:
        self._received += nbytes
        self.connection.listener.counters.bytes_in += nbytes
        if self._received == len(self.body):
            self.connection.filled(self.body, 0)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.connection.filler = None
        self.connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self.connection.pause_writing()

    def resume_writing(self) -> None:
        self.connection.resume_writing()


class BodyReceiver(asyncio.BufferedProtocol):
    """Receives one large body in place of its connection's protocol, then hands the transport back."""

    def __init__(self, connection: Connection, sink: Sink, length: int) -> None:
        self.connection = connection
        self.listener = connection.listener
        self.sink = sink
        self.length = length
        self.received = 0
        self.written = 0
        self.crc = 0
        self.writing = False
        self.lost = False
        self.failure: Exception | None = None
        self.listener.begin_stream()
        self._filling = self.listener.take_buffer()
        self._spare: bytearray | None = self.listener.take_buffer()
        self._filled = 0

    def start(self) -> None:
        connection = self.connection
        self._renew_deadline()
        first = bytes(connection.buffer[: self.length])
        del connection.buffer[: len(first)]
        connection.transport.set_protocol(self)
        with memoryview(first) as view:
            self._filling[: len(view)] = view  # what a connection buffers is smaller than one of these
        connection.transport.resume_reading()
        self.buffer_updated(len(first))
        if connection.client_is_done and self.received < self.length:
            connection.transport.close()  # it left while it waited, and its end is told only once

    def get_buffer(self, sizehint: int) -> memoryview:
        room = min(len(self._filling) - self._filled, self.length - self.received)
        return memoryview(self._filling)[self._filled : self._filled + room]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        self.received += nbytes
        self.listener.counters.bytes_in += nbytes
        if self._filled == len(self._filling) or self.received == self.length:
            if self._spare is not None and not self.writing:
                self._write_out()
            if not self._has_room:
                self.connection.transport.pause_reading()

    def eof_received(self) -> bool:
        return self.received == self.length

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.connection.connection_lost(exc)
        if not self.writing:
            self._finish()

    def pause_writing(self) -> None:
        self.connection.pause_writing()

    def resume_writing(self) -> None:
        self.connection.is_writable = True
        self._renew_deadline()
        if self._has_room:
            self.connection.transport.resume_reading()

    def time_out(self) -> None:
        """The body comes too slowly, or the client does not read what it is sent."""
        if self.writing:  # its buffers are not ours to give back yet
            self.connection.abort()
            return
        self.failure = HttpError(408, "timeout", "the body came too slowly")
        self._finish()

    @property
    def _has_room(self) -> bool:
        return self._filled < len(self._filling) and self.received < self.length

    def _renew_deadline(self) -> None:
        self.connection.deadline_s = NEVER if self.writing else self.listener.loop.time() + BODY_TIMEOUT_S

    def _write_out(self) -> None:
        """Swap the buffers and let a thread write the full one."""
        full, size = self._filling, self._filled
        assert self._spare is not None
        self._filling, self._spare, self._filled = self._spare, None, 0
        self.writing = True
        self._renew_deadline()
        last = self.received == self.length
        self.listener.threads.submit(self._write_in_thread, full, size, self.written, last)
        self.written += size

    def _write_in_thread(self, buffer: bytearray, size: int, at: int, last: bool) -> None:
        failure: Exception | None = None
        try:
            with memoryview(buffer)[:size] as piece:
                self.crc = zlib.crc32(piece, self.crc)
                self.sink.write(piece, at)
            if last:
                self.sink.complete(self.crc)
        except Exception as error:  # noqa: BLE001 - it is told on the loop, to the sink
            failure = error
        self.listener.loop.call_soon_threadsafe(self._wrote, buffer, failure)

    def _wrote(self, buffer: bytearray, failure: Exception | None) -> None:
        self.writing = False
        self._spare = buffer
        self.failure = failure
        if failure is not None or self.lost or self.written == self.length:
            self._finish()
            return
        self._renew_deadline()
        if self._filled == len(self._filling) or self.received == self.length:
            self._write_out()
        if self._has_room and self.connection.is_writable:
            self.connection.transport.resume_reading()

    def _finish(self) -> None:
        self.listener.give_buffer(self._filling)
        if self._spare is not None:
            self.listener.give_buffer(self._spare)
        self.listener.end_stream()
        connection = self.connection
        connection._receiver = None
        whole = self.written == self.length and self.failure is None
        if not self.lost:
            connection.transport.set_protocol(connection)
            connection.deadline_s = NEVER
            if self.received < self.length:
                connection._body_begun = False  # the rest is drained by the refusal
        if whole:
            self.sink.done(self.crc)
        else:
            self.sink.abandoned(self.failure)


_REQUEST_ID_CHARS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


def is_request_id(value: bytes) -> bool:
    return len(value) <= 64 and _REQUEST_ID_CHARS.issuperset(value)
