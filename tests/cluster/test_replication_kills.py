"""Real processes hold two copies of a volume and are killed at random moments under load.

After each death a copy that has everything becomes the primary, whichever of them it is. Whatever was acknowledged
must then be on both, byte for byte, and what was deleted must not come back.
"""

import json
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.lone_server import LoneServer, body_of
from tests.support.waiting import wait_until
from tests.unit.volume_server.fake_master import SECRET
from tests.unit.volume_server.serving import KID
from volume_server import signing

VOLUME = 1
WRITERS = 6
LARGE = 400_000
GONE = (OSError, EOFError, ValueError)


class Copies:
    """Two servers, the epoch, and what was acknowledged."""

    def __init__(self, servers: list[LoneServer]) -> None:
        self.servers = servers
        self.epoch = 1
        self.opened_epoch = 0
        self.lock = threading.Lock()
        self.next_number = 0
        self.acknowledged: dict[int, int] = {}
        """Number of a needle -> its length."""
        self.deleted: set[int] = set()
        self.in_doubt: set[int] = set()
        self.stopping = threading.Event()

    def open(self, primary: LoneServer, *peers: LoneServer) -> None:
        self.epoch += 1
        self.order(primary, *peers)
        wait_until(lambda: self.state_of(primary) != "opening", what="the opening")
        assert self.state_of(primary) == "open", primary.usage()
        self.opened_epoch = self.epoch

    def order(self, primary: LoneServer, *peers: LoneServer) -> None:
        own = identity_of(primary)
        told = [
            {
                "server": identity_of(peer),
                "url": f"http://127.0.0.1:{peer.port}",
                "kid": KID,
                "ticket": signing.replica_ticket(SECRET, volume=VOLUME, epoch=self.epoch, primary=own),
            }
            for peer in peers
        ]
        answer = primary.admin("/admin/open", {"volume": VOLUME, "epoch": self.epoch, "peers": told})
        assert answer.status == 200, answer.body

    def state_of(self, server: LoneServer) -> str:
        return str(server.usage()[VOLUME]["replication"]["state"])

    def has_everything(self, server: LoneServer) -> bool:
        found = server.usage()[VOLUME]
        return bool(found["state"] == "open" and found["epoch"] >= self.opened_epoch)

    def write(self, primary: LoneServer, seed: int) -> None:
        """Until the volume takes no more, for whatever reason."""
        chance = random.Random(seed)
        while not self.stopping.is_set():
            with self.lock:
                number = self.next_number
                self.next_number += 1
                known = [found for found in self.acknowledged if found not in self.deleted | self.in_doubt]
            try:
                if known and chance.random() < 0.2:
                    self._delete(primary, chance.choice(known))
                else:
                    self._put(primary, number, LARGE if chance.random() < 0.1 else chance.randrange(3000))
            except GONE:
                return

    def _put(self, primary: LoneServer, number: int, size_bytes: int) -> None:
        answer = primary.put(VOLUME, number, body_of(VOLUME, number, size_bytes))
        if answer.status != 201:
            raise EOFError
        with self.lock:
            self.acknowledged[number] = size_bytes

    def _delete(self, primary: LoneServer, number: int) -> None:
        with self.lock:
            if number in self.in_doubt:
                return
            self.in_doubt.add(number)
        answer = primary.delete(VOLUME, number)
        if answer.status != 200:
            raise EOFError
        with self.lock:
            self.in_doubt.discard(number)
            self.deleted.add(number)

    def has_acknowledged(self, count: int) -> bool:
        return len(self.acknowledged) >= count

    def check(self) -> None:
        """Of a volume that is open, and that nobody writes."""
        first, second = (volume_file(server).read_bytes() for server in self.servers)
        assert len(first) == len(second)
        assert first == second, next(at for at, (one, two) in enumerate(zip(first, second, strict=True)) if one != two)
        for server in self.servers:
            for number, size_bytes in self.acknowledged.items():
                answer = server.get(VOLUME, number)
                if number in self.deleted or (number in self.in_doubt and answer.status == 404):
                    assert answer.code == (404, "needle_unknown"), number
                else:
                    assert (answer.status, answer.body) == (200, body_of(VOLUME, number, size_bytes)), number


@contextmanager
def copies_of(tmp_path: Path) -> Iterator[Copies]:
    with (
        LoneServer(tmp_path / "a", log=tmp_path / "a.log") as one,
        LoneServer(tmp_path / "b", log=tmp_path / "b.log") as two,
    ):
        for server in (one, two):
            server.start()
        yield Copies([one, two])


def identity_of(server: LoneServer) -> str:
    return str(json.loads((server.directory / "server.json").read_bytes())["server"])


def volume_file(server: LoneServer) -> Path:
    return server.directory / f"{VOLUME:010d}.vol"


@pytest.mark.parametrize("seed", range(2))
def test_what_was_acknowledged_outlives_any_death(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with copies_of(tmp_path) as copies:
        primary, peer = copies.servers
        for _ in range(5):
            copies.open(primary, peer)
            copies.check()
            enough = len(copies.acknowledged) + chance.randrange(20, 200)
            victims = chance.choice([[primary], [peer], [primary, peer]])
            copies.stopping.clear()
            with ThreadPoolExecutor(WRITERS) as writers:
                for _ in range(WRITERS):
                    writers.submit(copies.write, primary, chance.random()).add_done_callback(raise_it)
                wait_until(partial(copies.has_acknowledged, enough), what="enough needles")
                for victim in victims:
                    victim.kill()
                copies.stopping.set()
            for victim in victims:
                victim.start()
            whole = [server for server in copies.servers if copies.has_everything(server)]
            assert len(whole) == 2, "both were whole when the epoch began"
            primary = chance.choice(whole)
            peer = next(server for server in copies.servers if server is not primary)
        copies.open(primary, peer)
        copies.check()


def raise_it(done: Any) -> None:
    with suppress(*GONE):
        done.result()


def test_a_primary_that_slept_through_its_replacement_acknowledges_nothing(tmp_path: Path) -> None:
    with copies_of(tmp_path) as copies:
        old, new = copies.servers
        copies.open(old, new)
        for number in range(5):
            copies._put(old, number, 100)
        old.signal(signal.SIGSTOP)
        copies.open(new)
        for number in range(5, 10):
            copies._put(new, number, 100)
        old.signal(signal.SIGCONT)
        answer = old.put(VOLUME, 20, b"of another time")
        assert answer.code == (503, "volume_degraded")
        copies.open(new, old)
        copies.check()
        assert old.get(VOLUME, 20).code == (404, "needle_unknown")
