"""What a copy on a second server costs, and how fast one is made. Both servers run on this machine, on one disk."""

import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import light, machine, wrk
from bench.figures import write_leases, write_random_file
from bench.programs import UncommittedServer
from bench.table import Effort, Figure, in_turn
from tests.support.api import Api
from tests.support.store import Store
from tests.support.waiting import wait_until
from volume_server.signing import replica_ticket
from warehouse import Client

CHUNK_BYTES = 80 << 20
CHUNKS = 8
CREATED = 201
POLL_S = 0.02
LEVEL = 6
"""So many times what is written is taken and given back before, for either side: the page cache of two copies takes
other free pages than the last ones as well, and those that the host has to give first cost it ten times as much."""


def replicated(directory: Path, effort: Effort) -> list[Figure]:
    """Small and large PUTs into a volume with one peer, against the same without; and the copying of what is there."""
    source = directory / "large"
    write_random_file(source, CHUNKS * CHUNK_BYTES)

    def small(peers: int) -> float:
        with Pair(directory / f"pair-{time.monotonic_ns()}", peers) as servers:
            leases = directory / "leases"
            leases.write_text("".join(line + "\n" for line in servers.primary.lease_lines(200)))
            return wrk.drive(servers.primary.url, "put", leases, connections=64, seconds=effort.seconds).per_second

    def large(peers: int) -> float:
        with Pair(directory / f"pair-{time.monotonic_ns()}", peers) as servers:
            machine.level(LEVEL * CHUNKS * CHUNK_BYTES)
            return _put_chunks(servers.primary, source) / 1e6

    def copy() -> float:
        with Pair(directory / f"pair-{time.monotonic_ns()}", 0) as servers:
            _put_chunks(servers.primary, source)
            machine.level(2 * CHUNKS * CHUNK_BYTES)
            started = time.perf_counter()
            servers.open(1)
            return CHUNKS * CHUNK_BYTES / (time.perf_counter() - started) / 1e6

    def dd() -> float:
        machine.level(2 * CHUNKS * CHUNK_BYTES)
        return machine.dd_bytes_per_second(source, directory / "copy") / 1e6

    rows = []
    ours, reference = in_turn(effort, lambda: small(1), lambda: small(0))
    what = "durable PUT of 1 KiB needles on two servers, without commit, 64 connections"
    rows.append(Figure(what, "the same on one server", ours, reference, "needles/s", least=0.4))
    ours, reference = in_turn(effort, lambda: large(1), lambda: large(0))
    what = f"durable streamed PUT of {CHUNKS} x 80 MiB on two servers"
    rows.append(Figure(what, "the same on one server", ours, reference, "MB/s", least=0.3))
    ours, reference = in_turn(effort, copy, dd)
    what = f"a second copy of a volume of {CHUNKS} x 80 MiB, until it is whole and open"
    rows.append(Figure(what, "dd conv=fdatasync of the same bytes", ours, reference, "MB/s", least=0.1))
    return rows


def committed(directory: Path, effort: Effort) -> list[Figure]:
    """What two copies cost a client, from end to end: a store of two servers, a bucket of one copy and one of two."""
    source = directory / "large"
    write_random_file(source, effort.large_bytes)
    rows = []
    with (
        Store(directory / "store", volume_servers=2) as store,
        Client(store.url, store.key) as client,
    ):
        api = store.api()
        buckets = {copies: api.make_bucket(f"copies.{copies}", replication=copies) for copies in (1, 2)}
        wait_until(lambda: all(_can_be_leased(api, bucket) for bucket in buckets.values()), what="volumes")

        def small(copies: int) -> float:
            leases = directory / "leases"
            url = write_leases(api, buckets[copies], leases)
            return wrk.drive(url, "put", leases, connections=64, seconds=effort.seconds).per_second

        def large(copies: int) -> float:
            machine.level(LEVEL * effort.large_bytes)
            started = time.perf_counter()
            client.put(buckets[copies], f"large/{time.monotonic_ns()}", source)
            return effort.large_bytes / (time.perf_counter() - started) / 1e6

        ours, reference = in_turn(effort, lambda: small(2), lambda: small(1))
        what = "PUT + commit through leases of 1 KiB with two copies, 64 connections"
        rows.append(Figure(what, "the same with one copy", ours, reference, "objects/s", least=0.5))
        ours, reference = in_turn(effort, lambda: large(2), lambda: large(1))
        what = f"{effort.large_bytes / (1 << 30):g} GiB put through the SDK with two copies"
        rows.append(Figure(what, "the same with one copy", ours, reference, "MB/s", least=0.3))
    return rows


def _can_be_leased(api: Api, bucket: str) -> bool:
    return api.request("POST", f"buckets/{bucket}/leases", {"count": 1, "max_bytes": 1}).status == CREATED


def _put_chunks(server: UncommittedServer, source: Path) -> float:
    before, number, _, after = server.lease_lines(1)[0].split("\t")
    targets = [f"{before}{number}{slot:04x}{after}" for slot in range(CHUNKS)]
    return light.put_bytes_per_second(server.port, source, targets, size_bytes=CHUNK_BYTES, at_a_time=4)


class Pair:
    """Two servers in one directory, of which the first has a volume, open with so many peers."""

    def __init__(self, directory: Path, peers: int) -> None:
        directory.mkdir()
        self.directory = directory
        self.peers = peers
        self.primary = UncommittedServer(directory / "a")
        self.peer = UncommittedServer(directory / "b")
        self._epoch = 1
        self._stack = ExitStack()

    def __enter__(self) -> "Pair":
        self._stack.callback(shutil.rmtree, self.directory)
        self._stack.enter_context(self.primary)
        self._stack.enter_context(self.peer)
        self.peer.admin("/admin/drop", {"volume": 1, "epoch": 1})
        self.open(self.peers)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self, peers: int) -> None:
        """Until it is open under the next epoch."""
        self._epoch += 1
        access = self.peer.access
        ticket = replica_ticket(
            bytes.fromhex(access.secret), volume=1, epoch=self._epoch, primary=self.primary.access.server
        )
        told = {"server": access.server, "url": self.peer.url, "kid": access.kid, "ticket": ticket}
        order: dict[str, Any] = {"volume": 1, "epoch": self._epoch, "peers": [told] * peers}
        self.primary.admin("/admin/open", order)
        while (found := self.primary.usage()["replication"])["state"] == "opening":
            time.sleep(POLL_S)
        if found["state"] != "open":
            raise RuntimeError(f"the volume is not open: {found}")
