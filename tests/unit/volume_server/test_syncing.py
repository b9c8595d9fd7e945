"""The process that syncs: it answers for each volume, tells errors, and never outlives or survives unnoticed."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from tests.unit.volume_server.faults import NEEDLE, new_volume, reopen, write
from volume_server.durability import FileSystem
from volume_server.errors import StoreError
from volume_server.superblock import Superblock
from volume_server.syncing import CHILD, SyncProcess, Syncs, Waiting
from volume_server.volume import Volume

PARENT = """
import sys
from volume_server.syncing import SyncProcess
process = SyncProcess(lambda: None)
print(process._child.pid, flush=True)
sys.stdin.read()
"""
Outcome = tuple[Waiting, OSError | None]


class Driver:
    """A syncer on a running loop, asked one sync at a time."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.deaths = 0
        self.process = SyncProcess(self._died)
        self.died = asyncio.Event()
        self._outcomes: asyncio.Queue[Outcome] = asyncio.Queue()

    def attach(self, volume: Volume) -> Syncs:
        return self.process.attach(self.loop, volume, self._done)

    async def sync(self, syncs: Syncs) -> Outcome:
        syncs.start()
        return await self._outcomes.get()

    def _done(self, _: Syncs, batch: Waiting, failure: OSError | None) -> None:
        self._outcomes.put_nowait((batch, failure))

    def _died(self) -> None:
        self.deaths += 1
        self.died.set()


def ignore(_: StoreError | None) -> None:
    pass


def drive(scene: Callable[[Driver], Coroutine[None, None, None]]) -> None:
    async def run() -> None:
        await scene(Driver())

    asyncio.run(run())


def test_what_was_waiting_comes_back_once_it_is_synced(tmp_path: Path) -> None:
    async def scene(driver: Driver) -> None:
        volume = new_volume(tmp_path)
        syncs = driver.attach(volume)
        for slot in range(3):
            waiting: Waiting = [(write(volume, NEEDLE + slot, b"data"), ignore)]
            syncs.waiting = waiting
            assert await driver.sync(syncs) == (waiting, None)
            assert syncs.waiting == []
        syncs.close()
        driver.process.close()

    drive(scene)


def test_volumes_are_synced_side_by_side(tmp_path: Path) -> None:
    async def scene(driver: Driver) -> None:
        volumes = [
            Volume.create(FileSystem(), tmp_path, Superblock(volume=number, revision=1, created_ms=1, salt=bytes(16)))
            for number in range(1, 6)
        ]
        channels = [driver.attach(volume) for volume in volumes]
        for syncs in channels:
            syncs.start()
        outcomes = [await driver._outcomes.get() for _ in channels]
        assert outcomes == [([], None)] * 5
        for syncs in channels:
            syncs.close()
        driver.process.close()

    drive(scene)


def test_a_failed_sync_is_told_with_its_error(tmp_path: Path) -> None:
    async def scene(driver: Driver) -> None:
        volume = new_volume(tmp_path)
        reader, writer = os.pipe()
        os.dup2(writer, volume.fd)  # a pipe cannot be synced
        syncs = driver.attach(volume)
        batch, failure = await driver.sync(syncs)
        assert batch == []
        assert isinstance(failure, OSError)
        assert volume.sync_failure is failure
        for fd in (reader, writer):
            os.close(fd)
        syncs.close()
        driver.process.close()

    drive(scene)


def test_death_of_the_child_is_told_once_and_nobody_is_answered(tmp_path: Path) -> None:
    async def scene(driver: Driver) -> None:
        channels = [
            driver.attach(
                Volume.create(
                    FileSystem(), tmp_path, Superblock(volume=number, revision=1, created_ms=1, salt=bytes(16))
                )
            )
            for number in (1, 2)
        ]
        driver.process._child.kill()
        await driver.died.wait()
        for syncs in channels:
            syncs.start()
        await asyncio.sleep(0)
        assert driver.process.is_dead
        assert driver.deaths == 1
        assert driver._outcomes.empty()

    drive(scene)


@pytest.mark.parametrize("how", ["killed", "closed"])
def test_volume_whose_first_sync_comes_after_the_end_of_the_child(tmp_path: Path, how: str) -> None:
    async def scene(driver: Driver) -> None:
        if how == "killed":
            driver.process._child.kill()
            driver.process._child.wait()
        else:
            driver.process.close()
        syncs = driver.attach(new_volume(tmp_path))
        syncs.start()
        await driver.died.wait()
        assert driver.deaths == 1
        assert driver._outcomes.empty()
        syncs.close()

    drive(scene)


def test_what_the_child_synced_is_there_after_a_crash(tmp_path: Path) -> None:
    async def scene(driver: Driver) -> None:
        volume = new_volume(tmp_path)
        syncs = driver.attach(volume)
        write(volume, NEEDLE, b"data")
        await driver.sync(syncs)
        syncs.close()
        driver.process.close()
        assert bytes(reopen(volume, clean=False).read(NEEDLE) or b"") == b"data"

    drive(scene)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_child_ends_with_its_parent_and_not_before(number: signal.Signals) -> None:
    """Ctrl-C reaches the whole process group; the child must outlive what its parent still has to sync."""
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            PARENT,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=CHILD.parent.parent,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    wait_until(lambda: ignores(child, number), what="the child to ignore the signal")
    os.kill(child, number)
    assert ignores(child, number)  # it is still there
    parent.kill()
    parent.communicate()
    wait_until(lambda: not Path(f"/proc/{child}/status").exists() or is_zombie(child), what="the child's end")


def ignores(pid: int, number: signal.Signals) -> bool:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn:")]
    return bool(int(line.split()[1], 16) & 1 << number - 1)


def is_zombie(pid: int) -> bool:
    return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
