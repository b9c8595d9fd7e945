"""The power goes while a real server is at work: all that was acknowledged is there, and nothing else is shown.

SIGKILL cannot show this, since the page cache outlives it. Here nothing outlives but what an fsync brought to the
device; see `tests.support.loop_disk`.
"""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.lone_server import LoneServer, body_of
from tests.support.loop_disk import LoopDisk, loop_disk, require_loop_disks
from tests.support.waiting import wait_until
from tests.unit.volume_server.serving import Answer
from volume_server.durability import FileSystem
from volume_server.server import SMALL_BODY_BYTES
from volume_server.volume import CHECKPOINT_EVERY_BYTES, Volume

ROUNDS = 6
CLIENTS = 6
VOLUMES = 3
pytestmark = pytest.mark.integration


@pytest.fixture
def disk() -> Iterator[LoopDisk]:
    require_loop_disks()
    with loop_disk(512 << 20) as disk:
        yield disk


@pytest.fixture
def server(disk: LoopDisk, tmp_path: Path) -> Iterator[LoneServer]:
    with LoneServer(disk.mount / "data", log=tmp_path / "log", volume_count=VOLUMES) as server:
        yield server


class Record:
    """What clients sent, what was acknowledged of it, and what must therefore be there."""

    def __init__(self) -> None:
        self.sent: dict[tuple[int, int], bytes] = {}
        self.held: set[tuple[int, int]] = set()
        self.dead: set[tuple[int, int]] = set()
        self.in_doubt: set[tuple[int, int]] = set()
        """A delete was sent and not answered."""

    def check(self, server: LoneServer) -> None:
        """Everything that was acknowledged is there, byte for byte; the rest is whole or not at all."""
        for (volume, number), body in self.sent.items():
            key = (volume, number)
            answer = server.get(volume, number)
            if answer.status == 200:
                assert key not in self.dead, f"{key} was deleted, and lives"
                assert answer.body == body, f"{key} has other bytes than were sent"
                if len(body) > 10:
                    part = server.get(volume, number, Range="bytes=3-9")
                    assert (part.status, part.body) == (206, body[3:10])
                self.held.add(key)
            else:
                assert answer.code == (404, "needle_unknown"), (key, answer)
                assert key not in self.held or key in self.dead | self.in_doubt, f"{key} was acknowledged, and is gone"
                if key in self.in_doubt:
                    self.dead.add(key)
        self.in_doubt.clear()
        for found in server.usage().values():
            assert found["state"] == "open", "what was lost is cut off; no fsync failed since"


class Load:
    """Clients that put, small and streamed, and delete, until they are refused or the server is gone."""

    def __init__(self, server: LoneServer, record: Record, seed: int, *, first: int = 0) -> None:
        self.server = server
        self.record = record
        self.seed = seed
        self.first = first
        self.answered = 0
        """PUTs that were acknowledged."""
        self._power_is_off = False

    def __enter__(self) -> "Load":
        self._pool = ThreadPoolExecutor(CLIENTS)
        self._clients = [self._pool.submit(self._run, client) for client in range(CLIENTS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        for client in self._clients:
            client.result()

    def cut(self, disk: LoopDisk) -> None:
        """Answers that come from now on were never given: the machine that gave them was dead."""
        self._power_is_off = True
        disk.cut()

    def _run(self, client: int) -> None:
        rng = random.Random(f"{self.seed}/{client}")
        volume = 1 + client % VOLUMES
        mine: list[int] = []
        number = self.first + client * 10_000
        while True:
            number += 1
            size_bytes = rng.choice((0, 100, 1000, 20_000, SMALL_BODY_BYTES + rng.randrange(1 << 20)))
            body = self.record.sent[volume, number] = body_of(volume, number, size_bytes)
            if not self._acknowledged(self.server.put, 201, volume, number, body):
                return
            self.record.held.add((volume, number))
            self.answered += 1
            mine.append(number)
            if rng.random() < 0.2:
                gone = mine.pop(rng.randrange(len(mine)))
                self.record.in_doubt.add((volume, gone))
                if not self._acknowledged(self.server.delete, 200, volume, gone):
                    return
                self.record.dead.add((volume, gone))
                self.record.in_doubt.discard((volume, gone))

    def _acknowledged(self, ask: Callable[..., Answer], status: int, *arguments: object) -> bool:
        try:
            answer = ask(*arguments)
        except (OSError, EOFError):  # the server is gone
            return False
        return answer.status == status and not self._power_is_off


def cut_and_restart(disk: LoopDisk, server: LoneServer) -> None:
    """The machine without power, and again with it."""
    server.kill()
    disk.power_on()
    server.start()


def test_what_was_acknowledged_outlives_the_power(disk: LoopDisk, server: LoneServer) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it where the test fails
    rng = random.Random(seed)
    record = Record()
    server.start()
    for number in range(ROUNDS):
        with Load(server, record, rng.randrange(1 << 32), first=number * 100_000) as load:
            enough = rng.randrange(100)
            wait_until(lambda load=load, enough=enough: load.answered > enough, what="acknowledged PUTs")
            load.cut(disk)
        cut_and_restart(disk, server)
        record.check(server)
    assert len(record.held) > ROUNDS
    assert record.dead
    assert server.stop() == 0
    require_index_equals_log(server)
    server.start()
    record.check(server)


def require_index_equals_log(server: LoneServer) -> None:
    """After a clean stop: what the index file says is what a scan finds."""
    for path in sorted(server.directory.glob("*.vol")):
        found = []
        for _ in range(2):
            volume = Volume.open(FileSystem(), path)
            found.append((sorted(volume.index.items()), volume.report()))
            volume.close(clean=False)
            path.with_suffix(".idx").unlink(missing_ok=True)
        assert found[0] == found[1]


def test_power_cut_right_after_the_volumes_were_made(disk: LoopDisk, server: LoneServer) -> None:
    """The master was told of them, so they are there, before it tells the server to make them again."""
    server.start()
    disk.cut()
    server.kill()
    disk.power_on()
    assert sorted(path.name for path in server.directory.glob("*.vol")) == [
        f"{volume:010d}.vol" for volume in server.volumes
    ]
    server.start()
    for volume in server.volumes:
        assert server.put(volume, 0, b"at once").status == 201
    disk.cut()
    cut_and_restart(disk, server)
    for volume in server.volumes:
        assert server.get(volume, 0).body == b"at once"


def test_power_cut_during_a_checkpoint(disk: LoopDisk, server: LoneServer) -> None:
    """The load is bound to bring one, and the cut comes as soon as its file grows."""
    record = Record()
    server.start()
    index_path = server.directory / "0000000001.idx"
    assert not index_path.exists()
    chunk = body_of(1, 99_999, 3 << 20)
    for number in range(CHECKPOINT_EVERY_BYTES // len(chunk) + 1):
        record.sent[1, number] = chunk
        assert server.put(1, number, chunk).status == 201
        record.held.add((1, number))
    wait_until(index_path.exists, what="a checkpoint to begin")
    disk.cut()
    cut_and_restart(disk, server)
    record.check(server)


def test_power_cut_during_a_clean_stop(disk: LoopDisk, server: LoneServer) -> None:
    record = Record()
    server.start()
    index_path = server.directory / "0000000001.idx"
    with Load(server, record, 1) as load:
        wait_until(lambda: load.answered > 20, what="acknowledged PUTs")
        server.terminate()
        wait_until(index_path.exists, what="the first volume's last checkpoint")
        load.cut(disk)
    cut_and_restart(disk, server)
    record.check(server)
