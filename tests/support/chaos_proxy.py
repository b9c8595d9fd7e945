"""A fault proxy: TCP connections that go through it are cut, delayed, throttled, half-closed or corrupted when asked.

One `Proxy` has a thread of its own for all its links; a link listens on one port, leads to another, and has a weather.
"""

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from tests.support.chaos_content import MAGIC

_READ_BYTES = 64 << 10
PEERS = b"POST /replica/"
"""How a volume server begins what it says to another one: the master, which comes to the same port, never does."""
UP, DOWN = DIRECTIONS = ("up", "down")
"""What the clients of a link say, and what they are answered."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens to a link's connections. `Weather()` is fair.

    `cut`: new ones are refused, old ones reset. `stalled`: nothing moves. `end_after`: each new one ends after so many
    bytes at the most, in `direction`, by `ending`: `reset`, `close` or `half` (one direction is closed, the other
    goes on). `flips`: the share of pieces in which a bit is flipped, in `direction`; with `flips_objects` only behind
    the mark of an object's bytes (what is neither signed nor checked, TLS would have to guard).
    """

    cut: bool = False
    stalled: bool = False
    delay_s: float = 0.0
    bytes_per_s: float = 0.0
    end_after: int = 0
    ending: str = "reset"
    direction: str = DOWN
    flips: float = 0.0
    flips_objects: bool = True


class Link:
    """One port that leads to another. Connections that begin as ``of_peers`` do are its link's, weather and all."""

    def __init__(self, proxy: "Proxy", name: str, *, port: int, target: int, of_peers: "Link | None" = None) -> None:
        self.name = name
        self.port = port
        self.target = target
        self.weather = Weather()
        self.flipped = 0
        self._proxy = proxy
        self._of_peers = of_peers
        self._random = random.Random(name)
        self._moving = asyncio.Event()
        self._moving.set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def turn(self, weather: Weather) -> None:
        """From another thread: this is the weather from now on."""
        self._proxy.call(partial(self._turn, weather))

    def reset(self) -> None:
        """From another thread: all connections of now are lost."""
        self._proxy.call(self._reset)

    async def _turn(self, weather: Weather) -> None:
        self.weather = weather
        if weather.cut:
            await self._reset()
        if weather.stalled:
            self._moving.clear()
        else:
            self._moving.set()

    async def _reset(self) -> None:
        for writer in list(self._writers):
            _abort(writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its beginning to its end."""
        if self._of_peers is None:
            await self._carry(reader, writer, b"")
            return
        self._writers.add(writer)
        try:
            first = await reader.read(_READ_BYTES)
        except (OSError, asyncio.CancelledError):
            writer.close()
            return
        finally:
            self._writers.discard(writer)
        link = self._of_peers if first.startswith(PEERS) else self
        await link._carry(reader, writer, first)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes) -> None:
        """A connection of this link, of which ``first`` was read already."""
        self._writers.add(writer)
        onward = None
        try:
            if self.weather.cut:
                _abort(writer)
                return
            await self._moving.wait()
            try:
                from_target, onward = await asyncio.open_connection("127.0.0.1", self.target)
            except OSError:
                _abort(writer)
                return
            self._writers.add(onward)
            ends = (writer, onward)
            weather = self.weather
            limit = self._random.randint(1, weather.end_after) if weather.end_after else None
            limits = {weather.direction: limit}
            await asyncio.gather(
                self._pass(first, reader, onward, UP, limits.get(UP), ends),
                self._pass(b"", from_target, writer, DOWN, limits.get(DOWN), ends),
            )
        except asyncio.CancelledError:
            return  # the proxy ends; streams make a noise about tasks that were cancelled
        finally:
            for one in (writer, onward):
                if one is not None:
                    self._writers.discard(one)
                    one.close()

    async def _pass(
        self,
        first: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: str,
        limit: int | None,
        ends: tuple[asyncio.StreamWriter, ...],
    ) -> None:
        passed = 0
        piece = first
        try:
            while piece or (piece := await reader.read(_READ_BYTES)):
                weather = self.weather
                if weather.delay_s:
                    await asyncio.sleep(weather.delay_s * self._random.uniform(0.2, 1))
                if weather.bytes_per_s:
                    await asyncio.sleep(len(piece) / weather.bytes_per_s)
                await self._moving.wait()
                if weather.flips and weather.direction == direction and self._random.random() < weather.flips:
                    piece = self._flipped(piece, objects=weather.flips_objects)
                if limit is not None and passed + len(piece) >= limit:
                    await self._end(writer, piece[: limit - passed], weather.ending, ends)
                    return
                writer.write(piece)
                await writer.drain()
                passed += len(piece)
                piece = b""
            writer.write_eof()
        except (OSError, RuntimeError):  # one side is gone
            for one in ends:
                _abort(one)

    async def _end(
        self, writer: asyncio.StreamWriter, rest: bytes, ending: str, ends: tuple[asyncio.StreamWriter, ...]
    ) -> None:
        writer.write(rest)
        await writer.drain()
        if ending == "half":
            writer.write_eof()
            return
        for one in ends:
            if ending == "reset":
                _abort(one)
            else:
                one.close()

    def _flipped(self, piece: bytes, *, objects: bool) -> bytes:
        start = piece.find(MAGIC) if objects else 0
        if start < 0:
            return piece
        changed = bytearray(piece)
        changed[self._random.randrange(start, len(piece))] ^= 1 << self._random.randrange(8)
        self.flipped += 1
        return bytes(changed)


class Proxy:
    """All links, and the thread that they run in. A context manager."""

    def __init__(self) -> None:
        self.links: dict[str, Link] = {}
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.call(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def link(self, name: str, *, port: int, target: int, peers: str = "") -> Link:
        """A new link, which takes connections when this returns.

        ``peers``: name of a link of its own for what volume servers say to each other over the same port.
        """
        of_peers = Link(self, peers, port=port, target=target) if peers else None
        link = Link(self, name, port=port, target=target, of_peers=of_peers)
        self.call(partial(self._listen, link))
        if of_peers is not None:
            self.links[peers] = of_peers
        self.links[name] = link
        return link

    def clear(self) -> None:
        """Fair weather everywhere, and no connection left in which old bytes are still on their way."""
        for link in self.links.values():
            link.turn(Weather())
            link.reset()

    def call(self, coroutine: Callable[[], Awaitable[object]]) -> None:
        """Run one in the proxy's thread, and wait for its end."""

        async def run() -> None:
            await coroutine()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    async def _listen(self, link: Link) -> None:
        self._servers.append(await asyncio.start_server(link.serve, "127.0.0.1", link.port, limit=_READ_BYTES))

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _abort(writer: asyncio.StreamWriter) -> None:
    """Ends a connection as a crash of the other side does: with a reset."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
