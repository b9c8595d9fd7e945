"""A `Connection` on a transport, a loop and threads that are made up: each stream is one run without a socket."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from tests.property.http1_peers import TARGETS, Message, Reading
from volume_server.http1 import Request
from volume_server.server import CONTINUE, Connection, Listener

STREAMED_BYTES = 100
"""Longer bodies are streamed."""


class Loop:
    """Runs nothing by itself."""

    def __init__(self) -> None:
        self.due: deque[Callable[[], object]] = deque()

    def time(self) -> float:
        return 0.0

    def call_soon(self, call: Callable[..., object], *arguments: object) -> None:
        self.due.append(partial(call, *arguments))

    call_soon_threadsafe = call_soon

    def run(self) -> None:
        while self.due:
            self.due.popleft()()


class Threads:
    """One that is done at once."""

    def submit(self, call: Callable[..., object], *arguments: object) -> None:
        call(*arguments)


class Wire(asyncio.Transport):
    """Both ends of a connection: what the client sends is cut in pieces, what it gets is kept."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        super().__init__()
        self.pieces = deque(pieces)
        self.sent = b""
        self.reading = True
        self.closed = False
        self.protocol: asyncio.BaseProtocol

    def deliver(self) -> None:
        """The next piece, or as much of it as a buffer takes."""
        piece = self.pieces.popleft()
        if isinstance(self.protocol, asyncio.BufferedProtocol):
            room = self.protocol.get_buffer(-1)
            assert len(room) > 0
            taken = min(len(room), len(piece))
            room[:taken] = piece[:taken]
            if taken < len(piece):
                self.pieces.appendleft(piece[taken:])
            self.protocol.buffer_updated(taken)
        else:
            cast("asyncio.Protocol", self.protocol).data_received(piece)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def write(self, data: Any) -> None:
        assert not self.closed
        self.sent += data

    def write_eof(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


class Recorder:
    """In the place of the routes: writes down what it is asked, and answers with its number, at once or later."""

    def __init__(self, loop: Loop, late: Sequence[bool]) -> None:
        self.loop = loop
        self.late = late
        self.seen: list[Message] = []
        self.connection: Connection

    def plain_get(self, target: bytes, request_id: bytes) -> bytes | None:
        if target not in TARGETS:
            return None
        block = self.connection.parser._last_block
        assert block is not None
        self.seen.append(Message(b"GET", target, block.fields, b"", keep_alive=True))
        return self.answer

    def handle(self, connection: Connection, request: Request) -> None:
        length = request.own.content_length or 0
        record = partial(self._record, request)
        if not length:
            record(b"")
        elif length <= STREAMED_BYTES:
            connection.expect_body(record, limit=STREAMED_BYTES)
        elif (body := connection.whole_body()) is not None:
            record(body)
        else:
            connection.when_streams_allow(lambda: connection.stream_body(Body(record), length))

    @property
    def answer(self) -> bytes:
        return b"<%d>" % len(self.seen)

    def _record(self, request: Request, body: bytes) -> None:
        own = {
            b"content-length": None if request.own.content_length is None else b"%d" % request.own.content_length,
            b"warehouse-key": request.own.key,
            b"warehouse-crc32": request.own.crc,
        }
        fields = request.block.fields | {name: value for name, value in own.items() if value is not None}
        number = len(self.seen)
        self.seen.append(Message(request.method, request.target, fields, body, request.block.keep_alive))
        respond = partial(self.connection.respond, self.answer)
        if self.late and self.late[number % len(self.late)]:
            self.loop.call_soon(respond)
        else:
            respond()


class Body:
    """A sink that keeps what it gets."""

    def __init__(self, taker: Callable[[bytes], None]) -> None:
        self.taker = taker
        self.body = b""

    def write(self, data: memoryview, at: int) -> None:
        assert at == len(self.body)
        self.body += data

    def complete(self, crc: int) -> None:
        pass

    def done(self, crc: int) -> None:
        self.taker(self.body)

    def abandoned(self, error: Exception | None) -> None:
        raise AssertionError(error)


def connect(loop: Loop, wire: Wire, recorder: Recorder) -> None:
    listener = Listener(cast("asyncio.AbstractEventLoop", loop), cast("Any", Threads()), "test")
    connection = recorder.connection = Connection(listener, recorder)
    wire.set_protocol(connection)
    connection.connection_made(wire)


def read_by_connection(pieces: Sequence[bytes], late: Sequence[bool]) -> Reading:
    """What the handler was asked. ``late``: which answers come only after the loop went round, in turn."""
    loop, wire = Loop(), Wire(pieces)
    recorder = Recorder(loop, late)
    connect(loop, wire, recorder)
    while wire.pieces and not wire.closed:
        if wire.reading:
            wire.deliver()
        else:
            assert loop.due, "nothing is read, and nothing is under way"
        if not wire.reading or len(wire.pieces) % 2:  # some answers come before more is read, some after
            loop.run()
    loop.run()
    answers = b"".join(b"<%d>" % number for number in range(1, len(recorder.seen) + 1))
    sent = wire.sent.replace(CONTINUE, b"")
    assert sent.startswith(answers)
    refusal = sent[len(answers) :]
    assert not refusal or refusal.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
    assert not refusal.startswith(b"HTTP/1.1 500")
    return Reading(recorder.seen, refused=bool(refusal))
