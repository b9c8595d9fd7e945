"""A disk that is really full: refused clearly, nothing lost, nothing sealed, and well again once there is room."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.lone_server import LoneServer, body_of, fill_up
from tests.support.loop_disk import LoopDisk, loop_disk, require_loop_disks
from volume_server.server import SMALL_BODY_BYTES

SIZE_BYTES = 64 << 20
BALLAST_BYTES = 16 << 20
SMALL, STREAMED = 20_000, SMALL_BODY_BYTES + 300_000
VOLUMES = 2
pytestmark = pytest.mark.integration


@pytest.fixture
def disk() -> Iterator[LoopDisk]:
    require_loop_disks()
    with loop_disk(SIZE_BYTES) as disk:
        yield disk


@pytest.fixture
def ballast(disk: LoopDisk) -> Path:
    """What an operator finds to delete when the disk is full."""
    path = disk.mount / "ballast"
    path.write_bytes(bytes(BALLAST_BYTES))
    return path


@pytest.fixture
def server(disk: LoopDisk, ballast: Path, tmp_path: Path) -> Iterator[LoneServer]:
    with LoneServer(disk.mount / "data", log=tmp_path / "log", volume_count=VOLUMES) as server:
        yield server.start()


Held = dict[tuple[int, int], bytes]


def fill(server: LoneServer, *, first: int = 0) -> Held:
    """PUTs of both kinds by four clients, then of no bytes, until each is refused; what was acknowledged."""
    held: Held = {}

    def put_until_it_is_full(client: int) -> None:
        volume, size_bytes = 1 + client % VOLUMES, (SMALL, STREAMED)[client // VOLUMES]
        number = first + client * 5000
        for fitting_bytes in (size_bytes, 0):
            answer = None
            while answer is None or answer.status == 201:
                number += 1
                body = body_of(volume, number, fitting_bytes)
                answer = server.put(volume, number, body)
                if answer.status == 201:
                    held[volume, number] = body
            assert answer.code == (507, "disk_full")

    with ThreadPoolExecutor(2 * VOLUMES) as clients:
        list(clients.map(put_until_it_is_full, range(2 * VOLUMES)))
    assert {len(body) for body in held.values()} >= {SMALL, STREAMED}
    return held


def require_held(server: LoneServer, held: Held) -> None:
    for (volume, number), body in held.items():
        answer = server.get(volume, number)
        assert (answer.status, answer.body == body) == (200, True), (volume, number)


def test_full_disk_refuses_keeps_deletes_and_takes_again(server: LoneServer, ballast: Path) -> None:
    held = fill(server)
    require_held(server, held)
    assert {found["state"] for found in server.usage().values()} == {"open"}
    gone = random.Random(1).sample(sorted(held), len(held) // 2)
    for volume in server.volumes:
        numbers = [number for of, number in gone if of == volume]
        answer = server.delete(volume, *numbers)
        assert (answer.status, len(answer.json()["deleted"])) == (200, len(numbers)), "the reserve is there for this"
    for key in gone:
        assert server.get(*key).code == (404, "needle_unknown")
        del held[key]
    assert server.put(1, 60_000, bytes(STREAMED)).code == (507, "disk_full"), "deleted is not compacted"
    ballast.unlink()
    held |= fill(server, first=30_000)
    require_held(server, held)
    before = server.usage()
    assert server.stop() == 0
    server.start()
    assert server.usage() == before
    require_held(server, held)
    assert server.delete(1, next(number for volume, number in held if volume == 1)).status == 200


def test_disk_without_a_single_block_seals_nothing(server: LoneServer, ballast: Path) -> None:
    """Not even the reserve is left: another program took it. Reads go on; writes and deletes wait for room."""
    held = {(volume, number): body_of(volume, number, SMALL) for volume in server.volumes for number in range(20)}
    for (volume, number), body in held.items():
        assert server.put(volume, number, body).status == 201
    other = ballast.with_name("other")
    fill_up(other)
    for size_bytes in (SMALL, STREAMED):
        assert server.put(1, 1000, bytes(size_bytes)).code == (507, "disk_full")
    for number in range(20, 300):  # what fits behind the last record, in its block, is still taken
        answer = server.delete(1, *range(20)) if number == 20 else server.put(2, number, bytes(4096))
        assert answer.status in (200, 507), answer
    require_held(server, {key: body for key, body in held.items() if key[0] == 2})
    assert {found["state"] for found in server.usage().values()} == {"open"}
    other.unlink()
    answer = server.delete(1, *range(20))
    assert answer.status == 200
    assert server.put(1, 1000, b"room again").status == 201
    assert server.stop() == 0


def test_stop_and_start_on_a_disk_without_a_single_block(server: LoneServer, ballast: Path) -> None:
    held = {(1, number): body_of(1, number, SMALL) for number in range(20)}
    for (volume, number), body in held.items():
        assert server.put(volume, number, body).status == 201
    other = ballast.with_name("other")
    fill_up(other)
    assert server.stop() == 0, "what could not be written is derived, or was there before"
    server.start()
    require_held(server, held)
    assert {found["state"] for found in server.usage().values()} == {"open"}
    other.unlink()
    assert server.put(1, 1000, b"room again").status == 201
