"""One seed of the crash run: a data directory, a volume server that is killed on it several times, and the checks.

Each round starts the server on what the one before it left, reads everything that was ever sent, puts load on it and
ends it in one of the ways of `ENDINGS`. Between two rounds the files themselves are read now and then.
"""

import asyncio
import json
import logging
import os
import random
import shutil
import signal
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.support.crash_load import GONE, Clients, Trigger, Wire
from tests.support.crash_model import Contradiction
from tests.support.crash_server import Nursery, ServerProcess, Settings
from tests.support.loop_disk import LoopDiskFailed, loop_disk
from tests.support.programs import children_of
from tests.support.waiting import PATIENCE_S, wait_until
from volume_server import recovery
from volume_server.durability import FileSystem
from volume_server.record import LIVE, TOMBSTONE, Tagger
from volume_server.superblock import RECORDS_START, decode_head
from volume_server.volume import Volume

logging.getLogger().addHandler(logging.NullHandler())  # what is logged is the servers' matter; they have handlers

MAX_ROUNDS = 4
POWER_DISK_BYTES = 64 << 20
KILLED = -signal.SIGKILL
SYNCER_DIED = 1
"""The server's exit code when it lost the process that syncs."""

BYTES, ANSWERS, CALL, START, SYNCER, STOP, LEAVE = ENDINGS = (
    "SIGKILL after so many bytes sent",
    "SIGKILL after so many answers",
    "SIGKILL half-way through the n-th file operation",
    "SIGKILL half-way through the n-th file operation of the start",
    "SIGKILL of its children",
    "SIGTERM, then SIGKILL half-way through the n-th file operation of the stop",
    "SIGTERM",
)
_SUFFIXES = frozenset({".vol", ".state", ".idx", ".json"})
_WEIGHTS = (25, 25, 25, 10, 5, 5, 5)


class Disk(Protocol):
    """Where the data directory lies."""

    directory: Path

    def cut(self) -> None:
        """The power goes: what was not synced is lost. A server may still be running."""

    def restore(self) -> None:
        """The power is back. No server is running."""

    def drop(self, *, keep: bool) -> None:
        """The end; ``keep``: something failed, and somebody will want to look at the files."""


class PlainDisk:
    """A directory, and no power cut: what a process wrote outlives it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()

    def cut(self) -> None:
        """Nothing is lost."""

    def restore(self) -> None:
        """Nothing was lost."""

    def drop(self, *, keep: bool) -> None:
        if not keep:
            shutil.rmtree(self.directory)


class PowerDisk:
    """An ext4 of its own on a loop device, whose power is cut. Raises LoopDiskFailed."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._kept = directory
        self._stack = ExitStack()
        self._disk = self._stack.enter_context(loop_disk(POWER_DISK_BYTES))
        self._is_on = True
        self.directory = self._disk.mount

    def cut(self) -> None:
        if self._is_on:
            self._is_on = False
            self._disk.cut()

    def restore(self) -> None:
        # files that were on their way from process to process when these died are closed a moment later
        wait_until(self._power_on, what="the disk to be let go of")
        self._is_on = True

    def _power_on(self) -> bool:
        try:
            self._disk.power_on()
        except LoopDiskFailed as error:
            if "busy" in str(error):
                return False
            raise
        return True

    def drop(self, *, keep: bool) -> None:
        with self._stack:
            if keep:
                if not self._is_on:
                    self.restore()
                shutil.copytree(self.directory, self._kept, dirs_exist_ok=True, ignore=_ignore_lost_and_found)


def _ignore_lost_and_found(_: object, names: list[str]) -> list[str]:
    return [name for name in names if name == "lost+found"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one seed."""

    seed: int
    kills: int
    needles: int
    failure: str | None = None
    """What contradicted what, and where the files are."""


def run_seed(seed: int, directory: Path, *, power: bool = False) -> Outcome:
    """Run one seed below ``directory``; with ``power`` most rounds end in a power cut (`PowerDisk`).

    In a process of its own, without threads: it forks.
    """
    place = directory / f"seed-{seed}"
    place.mkdir()
    disk: Disk = (PowerDisk if power else PlainDisk)(place / "disk")
    run = SeedRun(seed, disk, place / "server.log", power=power)
    try:
        run.run()
    except BaseException as error:
        disk.drop(keep=True)
        if not isinstance(error, Exception):
            raise
        told = "\n".join(_told(error))
        return Outcome(seed, run.kills, len(run.clients.needles), f"{told}\nfiles and log: {place}")
    disk.drop(keep=False)
    shutil.rmtree(place)
    return Outcome(seed, run.kills, len(run.clients.needles))


def _told(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [line for inner in error.exceptions for line in _told(inner)]
    return [f"{type(error).__name__}: {error}"]


class SeedRun:
    def __init__(self, seed: int, disk: Disk, log: Path, *, power: bool) -> None:
        self.seed = seed
        self.disk = disk
        self.log = log
        self.power = power
        self.cuts_power = False
        """Whether the round ends in a power cut."""
        self.random = random.Random(f"crash {seed}")
        self.clients = Clients(seed)
        self.nursery = Nursery()
        self.data = disk.directory / "data"
        self.volume_count = 1
        self.kills = 0
        self.checkpoint_bytes = self.random.choice((4 << 10, 32 << 10, 256 << 10))

    def run(self) -> None:
        """Raises Contradiction, or whatever else went wrong."""
        try:
            for number in range(self.random.randint(2, MAX_ROUNDS)):
                self._round(number, self.random.choices(ENDINGS, _WEIGHTS)[0])
            self._round(MAX_ROUNDS, LEAVE)
            self._check_files()
            self._check_indexes()
        finally:
            self.nursery.end_orphans()

    # -- one start and its end -----------------------------------------------------------------------------------

    def _round(self, number: int, ending: str) -> None:
        rng = self.random
        if rng.random() < 0.3:
            self.volume_count += 1
        # not always: what a killed server left unsynced is read by the next one, and must outlive a cut after that
        self.cuts_power = self.power and rng.random() < 0.7
        die_at_call = None
        if ending in (CALL, START, STOP):
            die_at_call = int(2 ** (rng.random() * (8 if ending == CALL else 4)))
        settings = Settings(
            self.data, self.seed, number, self.volume_count, self.checkpoint_bytes, die_at_call,
            die_in_stop=ending == STOP,
        )  # fmt: skip
        had_orphans = bool(self.nursery.orphans())
        server = ServerProcess(settings, self.log)
        try:
            if server.port is not None:
                asyncio.run(self._serve(server, server.port, ending, had_orphans=had_orphans))
            self._end(server, ending)
        finally:
            server.kill()
            server.wait()
        if self.cuts_power:
            self.disk.cut()
        if self.cuts_power or rng.random() < 0.5:
            self.nursery.end_orphans()  # else they may meet the next server, as after a plain kill -9
        if self.cuts_power:
            self.disk.restore()
        if rng.random() < 0.3:
            self._check_files()

    async def _serve(self, server: ServerProcess, port: int, ending: str, *, had_orphans: bool) -> None:
        rng = self.random
        trigger = self._trigger(server, ending)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._check_all(port, had_orphans=had_orphans)
                await self.clients.load(
                    port, trigger, rng=rng, volume_count=self.volume_count, steps=rng.randint(5, 60)
                )
        except GONE as error:
            if ending not in (CALL, START):
                raise Contradiction(f"{ending}: the server left before that: {server.state()}") from error
        except TimeoutError as error:
            raise Contradiction(f"{ending}: no answer within {PATIENCE_S:.0f} s: {server.state()}") from error
        if ending != START:
            trigger.pull()
        if ending == SYNCER:
            with suppress(*GONE):
                await self.clients.put_one(port, rng)

    def _trigger(self, server: ServerProcess, ending: str) -> Trigger:
        rng = self.random
        answers = int(2 ** (rng.random() * 8))
        if ending == BYTES:
            size_bytes = int(2 ** (8 + rng.random() * 13))
            return Trigger(lambda: self._kill(server), after_bytes=size_bytes, cuts_power=self.cuts_power)
        if ending == ANSWERS:
            return Trigger(lambda: self._kill(server), after_answers=answers, cuts_power=self.cuts_power)
        if ending == SYNCER:
            return Trigger(lambda: _kill_children(server), after_answers=answers)
        if ending in (STOP, LEAVE):
            return Trigger(server.stop, after_answers=answers)
        return Trigger(lambda: self._kill(server), cuts_power=self.cuts_power)

    def _kill(self, server: ServerProcess) -> None:
        if self.cuts_power:
            self.disk.cut()
        server.kill()

    def _end(self, server: ServerProcess, ending: str) -> None:
        if ending == START:
            server.kill()  # it was to die in the start, which had fewer calls
        expected = {LEAVE: {0}, SYNCER: {SYNCER_DIED}, STOP: {KILLED, 0}}.get(ending, {KILLED})
        exit_code = server.wait()
        if exit_code not in expected:
            raise Contradiction(f"{ending}: the server ended with {exit_code}")
        self.kills += ending != LEAVE
        if "Traceback" in self.log.read_text() and not self.power:  # without a disk much may go wrong
            raise Contradiction("the server's log has a traceback")

    # -- checks --------------------------------------------------------------------------------------------------

    async def _check_all(self, port: int, *, had_orphans: bool) -> None:
        counts = await self.clients.check_all(port, self.random, power_was_cut=self.power)
        wire = Wire(port, Trigger(lambda: None))
        await wire.send(self.clients.admin_request("/usage"))
        reply = await wire.reply()
        wire.close()
        left = [path.name for path in self.data.iterdir() if path.suffix not in _SUFFIXES and path.name != "lock"]
        if left and not had_orphans:  # a compaction's process that outlives its server tidies up nothing
            raise Contradiction(f"the start left {sorted(left)} behind")
        figures = {found["volume"]: found for found in json.loads(reply.body)["volumes"]}
        if set(figures) != set(range(1, self.volume_count + 1)):
            raise Contradiction(f"there are {sorted(figures)} of {self.volume_count} volumes")
        for volume, (live_count, dead_count) in counts.items():
            found = figures[volume]
            if found["live_count"] != live_count or found["tombstone_count"] < dead_count:
                raise Contradiction(f"volume {volume} counts {found}; {live_count} needles live, {dead_count} are dead")
            if found["state"] != "open" or (found["damaged_count"] and not self.power):
                raise Contradiction(f"volume {volume} is damaged or sealed: {found}")

    def _check_files(self) -> None:
        """The volume files alone, as a stranger would read them: nothing damaged, and all that was acknowledged."""
        for path in sorted(self.data.glob("*.vol")):
            fd = os.open(path, os.O_RDONLY)
            try:
                superblock = decode_head(os.pread(fd, RECORDS_START, 0))
                size_bytes = os.fstat(fd).st_size
                kinds: dict[int, int] = {}
                for found in recovery.scan(fd, Tagger(superblock.salt), start=RECORDS_START, end=size_bytes):
                    if isinstance(found, recovery.Gap):
                        if not found.torn and not self.power:
                            raise Contradiction(f"{path.name}: {found.size_bytes} damaged bytes at {found.offset}")
                    elif found.sound:
                        if found.header.kind == TOMBSTONE:
                            kinds[found.header.needle] = TOMBSTONE
                        elif found.header.kind == LIVE:
                            kinds.setdefault(found.header.needle, LIVE)
                    elif not self.power:
                        raise Contradiction(f"{path.name}: a damaged record at {found.offset}")
            finally:
                os.close(fd)
            for needle in self.clients.needles.values():
                if needle.volume != superblock.volume or (needle.kept is None and not needle.is_dead):
                    continue
                expected = {LIVE, TOMBSTONE} if needle.may_die else {LIVE}
                if kinds.get(needle.number) not in ({TOMBSTONE} if needle.is_dead else expected):
                    raise Contradiction(f"{path.name}: {needle} is of kind {kinds.get(needle.number)}")

    def _check_indexes(self) -> None:
        """After a clean stop the index file says what a scan would."""
        for path in sorted(self.data.glob("*.vol")):
            states = []
            for _ in range(2):
                volume = Volume.open(FileSystem(), path)
                states.append((sorted(volume.index.items()), volume.report()))
                volume.close(clean=False)
                path.with_suffix(".idx").unlink(missing_ok=True)
            if states[0] != states[1]:
                raise Contradiction(f"{path.name}: the index differs from the log")


def _kill_children(server: ServerProcess) -> None:
    for pid in children_of(server.pid):
        with suppress(ProcessLookupError):  # it ended by itself in between
            os.kill(pid, signal.SIGKILL)
