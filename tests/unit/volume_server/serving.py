"""A volume server on a loop of its own thread, with verdicts made up here, and a client that speaks in raw bytes."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.support.waiting import wait_until
from tests.unit.volume_server.faults import FaultyFiles
from volume_server import intent as intents
from volume_server import signing
from volume_server.clock import Clock
from volume_server.commit import Committer, Confirmer, Put
from volume_server.compactor import Compactor
from volume_server.internal_routes import InternalRoutes
from volume_server.leases import Gate
from volume_server.listings import Listings
from volume_server.replication import Replication
from volume_server.routes import NeedleConnection, NeedleRoutes, Origins
from volume_server.server import Listener
from volume_server.store import Store
from volume_server.upkeep import Upkeep
from volume_server.volume import Volume

T = TypeVar("T")
SECRET = b"\x01" * 32
MASTER_SECRET = b"\x02" * 32
KID = 1
FIRST = 1 << 16
MASTER = "http://master.example:8000"
EXPIRES_AT = int(time.time()) + 7200
"""Of all leases and URLs of one run: the same lease is the same text."""
LARGE = 3 << 20
"""More than two stream buffers."""

Done = Callable[[Put, dict[str, object]], None]


class Verdicts:
    """In the master's place. ``judge`` decides; while ``held`` is set, decisions wait for `release`."""

    def __init__(self) -> None:
        self.asked: list[Put] = []
        self.judge: Callable[[Put], dict[str, object]] = committed
        self.hold = False
        self._held: list[tuple[Put, Done]] = []

    def confirm(self, put: Put, done: Done) -> None:
        self.asked.append(put)
        if self.hold:
            self._held.append((put, done))
        else:
            done(put, self.judge(put))

    def release(self) -> None:
        """On the loop."""
        self.hold = False
        held, self._held = self._held, []
        for put, done in held:
            done(put, self.judge(put))


def committed(put: Put) -> dict[str, object]:
    return {
        "state": "committed",
        "bucket": put.lease.intent.bucket,
        "key": put.key or put.lease.intent.key,
        "size": put.size_bytes,
        "etag": f"{put.needle:016x}",
        "updated_at": "2000-01-01T00:00:00Z",
    }


def refused(put: Put) -> dict[str, object]:
    return {"state": "refused", "status": 412, "code": "precondition_failed", "title": "No", "detail": "it changed"}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> tuple[int, str]:
        return self.status, self.json()["code"]


class Wire:
    """One connection, as a client that sends what it likes."""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(60)
        self.socket.connect(("127.0.0.1", port))
        self._buffer = b""

    def send(self, raw: bytes) -> "Wire":
        self.socket.sendall(raw)
        return self

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Gone without a word: the peer gets an RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.socket.close()

    def answer(self, *, head: bool = False) -> Answer:
        """The next response; ``head``: it answers a HEAD and has no body."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        raw, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        lines = raw.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        assert len(headers) == len(lines) - 1, lines
        status = int(lines[0].split(" ")[1])
        length = 0 if head or status in (100, 204, 304) else int(headers["content-length"])
        while len(self._buffer) < length:
            self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return Answer(status, headers, body)

    def rest(self) -> bytes:
        """All until the server closes."""
        try:
            while True:
                self._more()
        except EOFError:
            return self._buffer

    def at_end(self) -> bool:
        return self.rest() == b""

    def _more(self) -> None:
        received = self.socket.recv(1 << 20)
        if not received:
            raise EOFError
        self._buffer += received


def request(method: str, target: str, body: bytes = b"", **headers: str | None) -> bytes:
    """A whole request; header names with _ for -. A PUT gets its Content-Length and the key "k"."""
    fields: dict[str, str | None] = {"Host": "x"}
    if method == "PUT":
        fields |= {"Content-Length": str(len(body)), "Warehouse-Key": "k"}
    elif body:
        fields["Content-Length"] = str(len(body))
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def lease(
    *,
    first: int = FIRST,
    count: int = 4096,
    max_bytes: int = LARGE,
    volume: int = 1,
    expires: int = EXPIRES_AT,
    secret: bytes = SECRET,
    signed_volume: int | None = None,
    signed_expires: int | None = None,
    **fields: Any,
) -> str:
    """Path and query of a lease, with the literal {needle}."""
    values: dict[str, Any] = {"epoch": 1, "bucket_id": 1, "bucket": "b", "api_key": 5, "generation": 2} | fields
    intent = intents.Intent(volume=volume, first=first, count=count, max_bytes=max_bytes, expires_at=expires, **values)
    return signing.presign_put(
        secret,
        kid=KID,
        volume=volume if signed_volume is None else signed_volume,
        expires_at=expires if signed_expires is None else signed_expires,
        intent=intents.to_text(intents.pack(intent, MASTER_SECRET)),
    )


def put_url(needle: int = FIRST, url: str | None = None) -> str:
    return (url or lease()).replace("{needle}", f"{needle:016x}")


def get_url(needle: int = FIRST, *, volume: int = 1, expires: int = EXPIRES_AT, **fields: Any) -> str:
    values: dict[str, Any] = {"etag": "e", "api_key": 5, "generation": 2} | fields
    return signing.presign_get(SECRET, kid=KID, volume=volume, needle=needle, expires_at=expires, **values)


@dataclass
class Server:
    """The parts of a volume server as `process.VolumeServer` puts them together, on a thread that tests can ask."""

    directory: Path
    files: FaultyFiles = field(default_factory=FaultyFiles)
    confirmer: Confirmer | None = None
    verdicts: Verdicts = field(default_factory=Verdicts)
    salt: bytes = b"s" * 16
    ends_clean: bool = True
    """Checkpoints are written at the end."""

    def start(self) -> None:
        started: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(started)))
        self._thread.start()
        started.result()

    async def _main(self, started: "Future[None]") -> None:
        self.loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self.errors: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.store = Store(self.directory, self.files)
        self.store.identity.secrets = {str(KID): SECRET.hex()}
        self.store.identity.kid = KID
        self.store.open_volumes()
        if 1 not in self.store.volumes:
            self.store.adopt(self.store.create_volume(number=1, salt=self.salt, created_ms=1, epoch=1))
        self.clock = Clock()
        self.gate = Gate(self.clock)
        self.gate.set_secrets(self.store.identity.secrets)
        self.origins = Origins(MASTER)
        self.threads = ThreadPoolExecutor(8)
        self.committer = Committer(self.loop, self.threads, self.confirmer or self.verdicts, self.clock)
        self.listener = Listener(self.loop, self.threads, "instance-of-this-test")
        needles = NeedleRoutes(self.store, self.gate, self.committer, self.clock, self.listener)
        self.upkeep = Upkeep(self.loop, self.threads, self.store, self.clock)
        self.compactor = Compactor(
            self.loop,
            self.threads,
            self.store,
            self.committer,
            self.clock,
            before=self.upkeep.give_way,
            on_damage=self.upkeep.ask,
        )
        self.replication = Replication(
            self.loop, self.store, self.committer, self.clock, compactor=self.compactor, upkeep=self.upkeep
        )
        self.upkeep.is_busy = lambda volume: self.compactor.is_running(volume) or volume.is_being_replaced
        self.listings = Listings(self.loop, self.threads, self.store)
        routes = InternalRoutes(
            self.store,
            self.committer,
            self.clock,
            self.listener,
            compactor=self.compactor,
            upkeep=self.upkeep,
            listings=self.listings,
            replication=self.replication,
            instance="instance-of-this-test",
            public=needles,
        )
        self.routes, self.receiver = routes, routes.receiver

        def connect() -> NeedleConnection:
            connection = NeedleConnection(self.listener, routes)
            connection.origins = self.origins
            return connection

        server = await self.loop.create_server(connect, "127.0.0.1", 0)
        self.port: int = server.sockets[0].getsockname()[1]
        started.set_result(None)
        await self._stopping.wait()
        await self.upkeep.stop()
        await self.compactor.stop()
        await self.listings.stop()
        await self.replication.stop()
        server.close()
        for connection in list(self.listener.connections):
            connection.abort()
        await asyncio.sleep(0)
        while any(volume.claims for volume in self.store.volumes.values()):
            await asyncio.sleep(0.001)
        self.replication.close()
        self.committer.close()
        self.threads.shutdown()
        self.store.close(clean=self.ends_clean)

    def stop(self) -> None:
        self.call(self._stopping.set)
        self._thread.join()
        assert self.errors == []

    def call(self, function: Callable[[], T]) -> T:
        """Run on the loop, and wait for what it gives."""
        result: Future[T] = Future()

        def run() -> None:
            try:
                result.set_result(function())
            except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
                result.set_exception(error)

        self.loop.call_soon_threadsafe(run)
        return result.result(60)

    @property
    def volume(self) -> Volume:
        return self.store.volumes[1]

    def wire(self, **options: Any) -> Wire:
        return Wire(self.port, **options)

    def ask(self, method: str, target: str, body: bytes = b"", **headers: Any) -> Answer:
        """One request on a connection of its own."""
        wire = self.wire()
        try:
            return wire.send(request(method, target, body, **headers)).answer(head=method == "HEAD")
        finally:
            wire.close()

    def put(self, needle: int, body: bytes, *, url: str | None = None, **headers: Any) -> Answer:
        return self.ask("PUT", put_url(needle, url), body, **headers)

    def get(self, needle: int = FIRST, **headers: Any) -> Answer:
        return self.ask("GET", get_url(needle), **headers)

    def wait(self, condition: Callable[[], object], *, what: str) -> None:
        wait_until(lambda: self.call(condition), what=what)

    def wait_received(self, size_bytes: int) -> None:
        """Until so much has come in, over all connections."""
        self.wait(lambda: self.listener.counters.bytes_in >= size_bytes, what=f"{size_bytes} bytes")

    def sweep(self) -> None:
        self.call(self.listener.sweep)


@contextmanager
def running(directory: Path, **options: Any) -> Iterator[Server]:
    server = Server(directory, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def admin(
    server: Server, target: str, body: object, *, method: str = "POST", signed_as: dict[str, Any] | None = None
) -> Answer:
    """A request of the master's; ``signed_as``: what is signed instead of what is sent."""
    raw = b"" if body is None else json.dumps(body).encode()
    values: dict[str, Any] = {
        "direction": signing.TO_SERVER, "method": method, "target": target, "body": raw,
        "server": server.store.identity.server, "time_ms": server.clock.now_ms(),
    }  # fmt: skip
    headers = signing.signed_headers(SECRET, kid=KID, **(values | (signed_as or {})))
    return server.ask(method, target, raw, **headers)
