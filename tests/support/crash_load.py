"""The load of a crash run: clients that put, read and delete all at once and judge every answer (`crash_model`).

What is sent and when the end comes is drawn from the seed; how the machine interleaves it is not.
"""

import asyncio
import json
import random
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from tests.support.crash_model import Code, Contradiction, Needle, verdict_of
from tests.support.crash_server import SERVER
from tests.unit.volume_server.serving import FIRST, KID, SECRET, get_url, lease, put_url, request
from volume_server import record, signing
from volume_server.clock import Clock
from volume_server.server import SMALL_BODY_BYTES

MAX_BODY_BYTES = SMALL_BODY_BYTES + (128 << 10)
MAX_NEEDLES = 4000
"""Of a volume: they share one lease."""
GONE = (ConnectionError, asyncio.IncompleteReadError)
"""How a client learns that the server is dead."""
_FORGER = record.Tagger(b"not the volume's")


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes

    @property
    def code(self) -> Code:
        """The status with the state or problem code, "" for a needle's bytes."""
        if self.status in (200, 206):
            return self.status, ""
        found: dict[str, Any] = json.loads(self.body)
        return self.status, str(found.get("state") or found.get("code"))


class Trigger:
    """Pulled once, when so many bytes were sent or so many answers came.

    ``cuts_power``: no answer that comes afterwards counts, since a machine without power gives none.
    """

    def __init__(
        self,
        pull: Callable[[], None],
        *,
        after_bytes: int | None = None,
        after_answers: int | None = None,
        cuts_power: bool = False,
    ) -> None:
        self.cuts_power = cuts_power
        self._pull = pull
        self._bytes_left = after_bytes
        self._answers_left = after_answers
        self.pulled = False

    def sent(self, size_bytes: int) -> None:
        if self._bytes_left is not None:
            self._bytes_left -= size_bytes
            self._pull_at(self._bytes_left)

    def answered(self) -> None:
        if self._answers_left is not None:
            self._answers_left -= 1
            self._pull_at(self._answers_left)

    def pull(self) -> None:
        if not self.pulled:
            self.pulled = True
            self._pull()

    def _pull_at(self, left: int) -> None:
        if left <= 0:
            self.pull()


class Wire:
    """One connection at a time: where the server closes it after an answer, the next request makes a new one."""

    _reader: StreamReader
    _writer: StreamWriter

    def __init__(self, port: int, trigger: Trigger) -> None:
        self.port = port
        self.is_open = False
        self.trigger = trigger

    async def send(self, raw: bytes, *, pieces: Sequence[int] = ()) -> None:
        """In pieces that end there. Raises ConnectionError."""
        if not self.is_open:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
            self.is_open = True
        start = 0
        for end in (*sorted(pieces), len(raw)):
            self._writer.write(raw[start:end])
            await self._writer.drain()
            self.trigger.sent(end - start)
            start = end

    async def reply(self) -> Reply:
        """The next answer. Raises GONE."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        body = await self._reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.close()
        if self.trigger.pulled and self.trigger.cuts_power:
            raise ConnectionResetError("the power is gone")
        self.trigger.answered()
        return Reply(int(head[0].split(" ")[1]), body)

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self._writer.close()


class Clients:
    """All that is known of one store's needles, and those who ask for them. It outlives the server's restarts."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.needles: dict[tuple[int, int], Needle] = {}
        self.leases: dict[int, str] = {}
        self._numbers = count(FIRST)
        self._clock = Clock()

    # -- the load ------------------------------------------------------------------------------------------------

    async def load(self, port: int, trigger: Trigger, *, rng: random.Random, volume_count: int, steps: int) -> None:
        """Several clients, each one request after the other, until all is done or the server is gone.

        Raises Contradiction.
        """
        async with asyncio.TaskGroup() as clients:
            for number in range(rng.randint(2, 6)):
                client = Client(self, port, trigger, random.Random(rng.random()), volume_count, has_large=number < 2)
                clients.create_task(client.run(steps))
            if rng.random() < 0.4:
                client = Client(self, port, trigger, random.Random(rng.random()), volume_count, has_large=False)
                clients.create_task(client.keep_up(steps))

    async def put_one(self, port: int, rng: random.Random) -> None:
        """A PUT that no server without its syncing process can answer; it finds out by this. Raises GONE."""
        client = Client(self, port, Trigger(lambda: None), rng, 1, has_large=False)
        await client.put()
        raise Contradiction("a PUT was answered, though the process that syncs is dead")

    def new_needle(self, volume: int) -> Needle:
        number = next(self._numbers)
        needle = Needle(volume, number, verdict_of(self.seed, volume, number))
        self.needles[volume, number] = needle
        return needle

    def put_url(self, needle: Needle) -> str:
        if needle.volume not in self.leases:
            self.leases[needle.volume] = lease(volume=needle.volume, max_bytes=MAX_BODY_BYTES)
        return put_url(needle.number, self.leases[needle.volume])

    def put_request(self, needle: Needle, body: bytes, **headers: Any) -> bytes:
        return request("PUT", self.put_url(needle), body, **headers)

    def get_request(self, needle: Needle, **headers: Any) -> bytes:
        return request("GET", get_url(needle.number, volume=needle.volume), **headers)

    def admin_request(self, path: str, content: dict[str, object] | None = None) -> bytes:
        """As the master signs it: a GET, or a POST of ``content``."""
        method, raw = ("GET", b"") if content is None else ("POST", json.dumps(content).encode())
        headers: dict[str, Any] = signing.signed_headers(
            SECRET, kid=KID, direction=signing.TO_SERVER, method=method, target=path, body=raw, server=SERVER,
            time_ms=self._clock.now_ms(),
        )  # fmt: skip
        return request(method, path, body=raw, **headers)

    # -- after a restart -----------------------------------------------------------------------------------------

    async def check_all(self, port: int, rng: random.Random, *, power_was_cut: bool) -> dict[int, tuple[int, int]]:
        """Read every needle there ever was, whole and in part, and put the dead ones again.

        Returns for each volume how many needles live and how many at least are dead. Raises Contradiction.
        """
        wire = Wire(port, Trigger(lambda: None))
        counts = {volume: (0, 0) for volume, _ in self.needles}
        try:
            needles = list(self.needles.values())
            for at in range(0, len(needles), _BATCH):
                batch = needles[at : at + _BATCH]
                await wire.send(b"".join(self.get_request(needle) for needle in batch))
                for needle in batch:
                    reply = await wire.reply()
                    lives = needle.found(reply.code, reply.body, may_return=power_was_cut)
                    live_count, dead_count = counts[needle.volume]
                    counts[needle.volume] = (live_count + lives, dead_count + needle.is_dead)
            for needle in needles:
                if needle.is_dead:
                    await wire.send(self.put_request(needle, needle.kept or b"again"))
                    needle.found_dead((await wire.reply()).code)
                elif needle.kept and rng.random() < 0.2:
                    await read_range(self, wire, needle, rng)
        finally:
            wire.close()
        return counts


_BATCH = 32


class Client:
    """One connection's requests, one after the other; a few of them at a time where that is a pipeline of PUTs."""

    def __init__(
        self,
        clients: Clients,
        port: int,
        trigger: Trigger,
        rng: random.Random,
        volume_count: int,
        *,
        has_large: bool,
    ) -> None:
        self.clients = clients
        self.wire = Wire(port, trigger)
        self.rng = rng
        self.volume_count = volume_count
        self.has_large = has_large

    async def run(self, steps: int) -> None:
        """Until the steps are done or the server is gone. Raises Contradiction."""
        actions = [self.put, self.put_again, self.read, self.read_range, self.delete, self.leave, self.lie]
        weights = [50, 12, 20, 8, 6, 3, 2]
        try:
            for _ in range(steps):
                await self.rng.choices(actions, weights)[0]()
        except GONE:
            return
        finally:
            self.wire.close()

    async def keep_up(self, steps: int) -> None:
        """Compact and scrub, one volume after the other. Raises Contradiction."""
        try:
            for _ in range(1 + steps // 20):
                await self.rng.choice((self.compact, self.compact, self.scrub))()
        except GONE:
            return
        finally:
            self.wire.close()

    async def put(self) -> None:
        """One to eight new needles, sent without waiting for answers."""
        await self._put([(self._new(), self._body()) for _ in range(self.rng.choice((1, 1, 1, 2, 4, 8)))])

    async def put_again(self) -> None:
        """The same needle, with the same bytes or others; the first PUT may still be under way."""
        needle = self._any()
        known = needle.kept if needle.kept is not None else (needle.sent[-1] if needle.sent else None)
        body = self._body() if known is None or self.rng.random() < 0.3 else known
        await self._put([(needle, body)])

    async def _put(self, puts: list[tuple[Needle, bytes]]) -> None:
        for needle, body in puts:
            needle.put_sent(body)
        before = [needle.seen() for needle, _ in puts]
        raw = b"".join(self.clients.put_request(needle, body) for needle, body in puts)
        await self.wire.send(raw, pieces=self._pieces(raw))
        for (needle, body), known in zip(puts, before, strict=True):
            if self.wire.is_open:  # else this one's answer will never come
                needle.put_answered(known, body, (await self.wire.reply()).code)

    async def lie(self) -> None:
        """A PUT whose CRC-32 is not that of its body: nothing of it is kept."""
        needle = self._new()
        needle.begun()
        before = needle.seen()
        body = self._body()
        await self.wire.send(self.clients.put_request(needle, body, Warehouse_CRC32="00c0ffee"))
        needle.bad_put_answered(before, (await self.wire.reply()).code)

    async def leave(self) -> None:
        """A PUT that breaks off in its body: nothing of it is kept."""
        needle = self._new()
        needle.begun()
        body = self.rng.randbytes(self._size()) or b"x"
        raw = self.clients.put_request(needle, body)
        await self.wire.send(raw[: -self.rng.randint(1, len(body))])
        self.wire.close()

    async def read(self) -> None:
        needle = self._any()
        before = needle.seen()
        await self.wire.send(self.clients.get_request(needle))
        reply = await self.wire.reply()
        needle.read(before, reply.code, reply.body)

    async def read_range(self) -> None:
        needle = self._any()
        if needle.kept:
            await read_range(self.clients, self.wire, needle, self.rng)

    async def delete(self) -> None:
        """A batch, as the master deletes; of needles of any kind."""
        volume = self.rng.randint(1, self.volume_count)
        mine = [needle for needle in self.clients.needles.values() if needle.volume == volume]
        chosen = self.rng.sample(mine, min(len(mine), self.rng.randint(1, 4)))
        for needle in chosen:
            needle.delete_sent()
        before = [needle.seen() for needle in chosen]
        names = [f"{needle.number:016x}" for needle in chosen]
        await self.wire.send(self.clients.admin_request("/admin/delete", {"volume": volume, "needles": names}))
        reply = await self.wire.reply()
        if reply.status != 200:
            raise Contradiction(f"a delete was answered {reply.code}")
        outcome = json.loads(reply.body)
        for needle, known, name in zip(chosen, before, names, strict=True):
            found = [list_name for list_name in ("deleted", "absent") if name in outcome[list_name]]
            needle.delete_answered(known, found[0] if found else None)

    async def compact(self) -> None:
        """With a pace that lets it last, now and then, and to its end, unless the server meets its own before that."""
        rate_bytes = self.rng.choice((0, 0, 4 << 20))
        await self._work("compaction", "/admin/compact", {"rate_bytes": rate_bytes})

    async def scrub(self) -> None:
        await self._work("scrub", "/admin/scrub", {})

    async def _work(self, job: str, path: str, order: dict[str, object]) -> None:
        volume = self.rng.randint(1, self.volume_count)
        reply = await self._ask(self.clients.admin_request(path, {"volume": volume, **order}))
        while reply.status == 200:
            figures = json.loads(reply.body)
            found = next(each for each in figures.get("volumes", [figures]) if each["volume"] == volume)[job]
            if found["state"] != "running":
                if found["state"] != "done" and not self.wire.trigger.pulled:
                    raise Contradiction(f"the {job} of volume {volume} failed: {found}")
                return
            await asyncio.sleep(self.rng.random() * 0.01)
            reply = await self._ask(self.clients.admin_request("/usage"))
        if not self.wire.trigger.pulled:
            raise Contradiction(f"the {job} of volume {volume} was answered {reply.code}")

    async def _ask(self, raw: bytes) -> Reply:
        await self.wire.send(raw)
        return await self.wire.reply()

    # -- drawn from the seed -------------------------------------------------------------------------------------

    def _new(self) -> Needle:
        return self.clients.new_needle(self.rng.randint(1, self.volume_count))

    def _any(self) -> Needle:
        """One that was sent before, of the newest more often."""
        needles = list(self.clients.needles.values())
        if not needles:
            return self._new()
        return needles[-1 - min(int(self.rng.expovariate(1 / 30)), len(needles) - 1)]

    def _size(self) -> int:
        draw = self.rng.random()
        if draw < 0.04 and self.has_large:
            return self.rng.randint(SMALL_BODY_BYTES + 1, MAX_BODY_BYTES)
        if draw < 0.1:
            return self.rng.randint(0, SMALL_BODY_BYTES)
        return int(self.rng.expovariate(1 / 1500)) % 8192

    def _body(self) -> bytes:
        body = self.rng.randbytes(self._size())
        if self.rng.random() < 0.1:
            forged = record.encode_header(
                _FORGER, record.LIVE, FIRST, meta_bytes=0, data_bytes=8, crc=0, appended_ms=1
            )  # fmt: skip
            body += (forged + bytes(8)) * 3
        return body[:MAX_BODY_BYTES]

    def _pieces(self, raw: bytes) -> list[int]:
        if len(raw) < 1 << 14 and self.rng.random() < 0.7:
            return []
        return [self.rng.randrange(len(raw)) for _ in range(1 + len(raw) // 40_000)]


async def read_range(clients: Clients, wire: Wire, needle: Needle, rng: random.Random) -> None:
    """A part of a needle whose bytes are known and not empty."""
    assert needle.kept
    start = rng.randrange(len(needle.kept))
    end = rng.randint(start, len(needle.kept) - 1)
    before = needle.seen()
    await wire.send(clients.get_request(needle, Range=f"bytes={start}-{end}"))
    reply = await wire.reply()
    needle.read(before, reply.code, reply.body, slice(start, end + 1))
