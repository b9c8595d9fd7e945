"""Every file operation fails once, at the primary or at its peer: what was acknowledged is on both afterwards.

One file operation of one side fails (each in turn with FAULT_STRIDE=1, else every third) while a volume is opened,
written, dropped at the peer and fetched again; the master's part, which orders another opening where one did not
succeed, is played here. Then both are started anew as after SIGKILL, a copy that has everything is opened with the
other one, and each of these must hold:

- what was answered with 201 is read from both, what was deleted is read from neither;
- the files are byte-identical, and so are the indexes;
- a copy whose fdatasync failed is sealed, and is dropped and fetched again.
"""

import errno
import os
import random
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.pairs import order_drop, order_open, replication_of, require_equal, state_of, usage_of
from tests.unit.volume_server.faults import ANY, FaultyDisk
from tests.unit.volume_server.serving import FIRST, Server, admin, get_url, put_url, request

PRIMARY, PEER = 0, 1
TRIES = 4
STRIDE = int(os.environ.get("FAULT_STRIDE", "3"))
"""One operation in so many is made to fail; 1: each of them."""
SETTLED = ("open", "degraded")


@dataclass
class Life:
    servers: list[Server]
    epoch: int = 1
    opened_epoch: int = 0
    prefer: int = PRIMARY
    acknowledged: dict[int, bytes | None] = field(default_factory=dict)
    in_doubt: set[int] = field(default_factory=set)

    @property
    def primary(self) -> Server:
        return self.servers[PRIMARY]

    @property
    def peer(self) -> Server:
        return self.servers[PEER]

    def run(self) -> None:
        self.open()
        self.put(1, b"small")
        self.put(2, b"large" * 70_000)
        self.put(3, b"")
        self.give_up(4)
        self.put(5, b"behind it")
        self.delete(1)
        if usage_of(self.primary)["state"] == "open" and replication_of(self.primary)["state"] == "open":
            order_drop(self.peer)
            self.open()
        self.put(6, b"on the fetched copy")
        self.checkpoint()
        self.put(7, b"behind the checkpoint")

    def open(self) -> None:
        """As a master does it: again with a higher epoch, until it is open; sealed copies are given up."""
        for _ in range(TRIES):
            self.epoch += 1
            if order_open(self.primary, [self.peer], self.epoch).status != 200:
                continue
            self.primary.wait(lambda: state_of(self.primary) in SETTLED, what="an end of the opening")
            if self.primary.call(lambda: state_of(self.primary)) == "open":
                self.opened_epoch = self.epoch
                return

    def put(self, number: int, body: bytes) -> None:
        answer = self.primary.put(FIRST + number, body)
        if answer.status == 201:
            self.acknowledged[number] = body
        else:
            assert answer.status in (503, 507), answer.body
            if answer.code[1] == "volume_degraded":
                self.open()

    def give_up(self, number: int) -> None:
        """An upload whose client leaves in the middle of it."""
        wire = self.primary.wire().send(request("PUT", put_url(FIRST + number), bytes(300_000))[:-1000])
        self.primary.wait_received(self.primary.listener.counters.bytes_in)
        wire.close()
        self.primary.wait(lambda: not self.primary.volume.reservations, what="the end of the upload")

    def delete(self, number: int) -> None:
        if number not in self.acknowledged:
            return
        self.in_doubt.add(number)
        answer = admin(self.primary, "/admin/delete", {"volume": 1, "needles": [f"{FIRST + number:016x}"]})
        if answer.status == 200:
            self.acknowledged[number] = None
            self.in_doubt.discard(number)

    def checkpoint(self) -> None:
        for server in self.servers:
            if 1 in server.store.volumes:
                server.call(lambda server=server: server.committer._checkpoint(server.volume))  # type: ignore[misc]
                server.wait(lambda server=server: not server.volume.checkpointing, what="it")  # type: ignore[misc]

    def end(self) -> None:
        """Restart both as after SIGKILL, open a copy that has everything, and look at all of it."""
        for server in self.servers:
            server.files.heal()
            server.stop()
            server.start()
        self.require_kept()

    def require_kept(self) -> None:
        if not self.opened_epoch:
            return
        having = [server for server in self.servers if self._has_everything(server)]
        assert having, "one fault never takes both copies away"
        whole = [server for server in having if usage_of(server)["state"] == "open"]
        if not whole:  # the only copy at that moment; it is sealed, and readable
            self._require_held(having[0])
            return
        first = whole[self.prefer % len(whole)]  # any that has everything may be the next primary
        others = [server for server in self.servers if server is not first]
        for other in others:
            if usage_of(other)["state"] == "sealed":
                order_drop(other)
        assert order_open(first, others, 100).status == 200
        first.wait(lambda: state_of(first) in SETTLED, what="an end of the opening")
        assert replication_of(first)["detail"] == ""
        assert first.put(FIRST + 50, b"and it goes on").status == 201
        require_equal(first, *others)
        for server in self.servers:
            self._require_held(server)

    def _has_everything(self, server: Server) -> bool:
        """The master takes a copy for whole where it was so in the epoch that was open last."""
        if 1 not in server.store.volumes:
            return False
        found = usage_of(server)
        return bool(found["replication"] and found["epoch"] >= self.opened_epoch)

    def _require_held(self, server: Server) -> None:
        for number, body in self.acknowledged.items():
            answer = server.ask("GET", get_url(FIRST + number))
            if body is None or (number in self.in_doubt and answer.status == 404):
                assert answer.code == (404, "needle_unknown"), number
            else:
                assert (answer.status, answer.body) == (200, body), number


def live(directory: Path, side: int, nth: int, error: int) -> bool:
    """Whether the n-th file operation was ever come to."""
    with ExitStack() as stack:
        servers = [Server(directory / name) for name in ("a", "b")]
        for server in servers:
            server.start()
            stack.callback(server.stop)
        servers[side].files.fail(ANY, error, after=nth)
        life = Life(servers, prefer=nth)
        life.run()
        struck = bool(servers[side].files.struck)
        for server in servers:
            server.ends_clean = False
        life.end()
    return struck


@pytest.mark.parametrize("side", [PRIMARY, PEER])
def test_any_file_operation_fails_on_either_side(tmp_path: Path, side: int) -> None:
    lives = 0
    while live(tmp_path / str(lives), side, side + lives * STRIDE, (errno.EIO, errno.ENOSPC)[lives % 2]):
        lives += 1
    assert lives * STRIDE > 50


class PowerCut:
    """At the n-th file operation of one side the power of both goes: what disks may then hold, and who knew what."""

    def __init__(self, life: Life, disks: list[FaultyDisk], images: list[Path], *, nth: int, seed: int) -> None:
        self.life = life
        self.disks = disks
        self.images = images
        self.left = nth
        self.chance = random.Random(seed)
        self.known: tuple[int, dict[int, bytes | None], set[int]] | None = None

    def before(self, _: str) -> None:
        self.left -= 1
        if self.left or self.known is not None:
            return
        life = self.life
        self.known = life.opened_epoch, dict(life.acknowledged), set(life.in_doubt)
        for disk, image in zip(self.disks, self.images, strict=True):
            image.mkdir(parents=True)
            disk.crash_image(image, self.chance.randrange)


@pytest.mark.parametrize("seed", range(24))
def test_power_goes_on_both_sides(tmp_path: Path, seed: int) -> None:
    disks, images = [], [tmp_path / "image-a", tmp_path / "image-b"]
    with ExitStack() as stack:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            disks.append(FaultyDisk(tmp_path / name))
            stack.callback(disks[-1].release)
        servers = [Server(disk.directory, files=disk) for disk in disks]
        for server in servers:
            server.start()
            stack.callback(server.stop)
        life = Life(servers)
        cut = PowerCut(life, disks, images, nth=random.Random(seed).randrange(1, 160), seed=seed)
        disks[seed % 2].before = cut.before
        life.run()
        assert life.acknowledged[7] == b"behind the checkpoint", "no fault was there"
    if cut.known is None:
        return
    with ExitStack() as stack:
        revived = [Server(image) for image in images]
        for server in revived:
            server.start()
            stack.callback(server.stop)
        after = Life(revived, prefer=PEER)
        after.opened_epoch, after.acknowledged, after.in_doubt = cut.known
        after.require_kept()
