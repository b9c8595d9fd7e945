"""The volume server that a crash run kills: the real one, with verdicts made up from the seed in the master's place.

It is forked from the run's own process, which has everything imported already, so that a start takes a fraction of
a second.
"""

import ctypes
import logging
import os
import random
import re
import select
import signal
import sys
import traceback
from asyncio import get_running_loop
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from tests.support.crash_model import COMMITTED, STORED, UNKNOWN, verdict_of
from tests.support.programs import children_of
from tests.support.waiting import PATIENCE_S
from tests.unit.volume_server.serving import KID, MASTER, SECRET
from volume_server import volume as volumes
from volume_server.__main__ import parse_options
from volume_server.commit import Put
from volume_server.durability import FileSystem
from volume_server.logs import configure_logging
from volume_server.process import VolumeServer
from volume_server.store import Store
from volume_server.volume import volume_path

SERVER = "00000000-0000-4000-8000-000000000001"
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None)
_PORT = re.compile(r"volume server at http://127\.0\.0\.1:([0-9]+)")
SECTOR_BYTES = 512
"""What is written whole or not at all, as disks do it; no kill leaves half a header, either."""
_HARMLESS = frozenset({"open", "close", "free_bytes", "total_bytes", "size_bytes", "read_at", "read_into", "read_file"})
"""File operations that change nothing: to die in one is to die before the next."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One start of the server."""

    directory: Path
    seed: int
    round: int
    volume_count: int
    """As many volumes there are to be; those that are missing are made first."""
    checkpoint_bytes: int
    """A checkpoint is made whenever a volume has grown by so much."""
    die_at_call: int | None = None
    """It kills itself half-way through this file operation, counted from 1..."""
    die_in_stop: bool = False
    """...or from SIGTERM on."""


class MadeUpMaster:
    """The verdict is a needle's own; whether and when it comes is drawn anew each time.

    When the server's ``store`` is closed nothing is told any more, as by a closed lane.
    """

    store: Store

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.random = random.Random(f"master {settings.seed} {settings.round}")

    def confirm(self, put: Put, done: Callable[[Put, dict[str, object]], None]) -> None:
        verdict = self._judge(put)
        draw = self.random.random()
        if draw < 0.5:
            done(put, verdict)
        else:
            later_s = self.random.random() * (0.005 if draw < 0.9 else 0.03)
            get_running_loop().call_later(later_s, self._tell, done, put, verdict)

    def _tell(self, done: Callable[[Put, dict[str, object]], None], put: Put, verdict: dict[str, object]) -> None:
        if self.store.volumes:
            done(put, verdict)

    def _judge(self, put: Put) -> dict[str, object]:
        if self.random.random() < 0.05:
            _, code = self.random.choice(sorted(UNKNOWN))
            return {"state": "unknown", "code": code, "detail": "repeat the same request"}
        status, code = verdict = verdict_of(self.settings.seed, put.volume.number, put.needle)
        if verdict not in (COMMITTED, STORED):
            return {"state": "refused", "status": status, "code": code, "title": "No", "detail": "no"}
        return {"state": code, "bucket": put.lease.intent.bucket, "key": put.key, "size": put.size_bytes}


class DeadlyFiles(FileSystem):
    """The operating system's files; the n-th operation that changes something is the process's last, half done."""

    def __init__(self, die_at_call: int, counts: Callable[[], bool]) -> None:
        self._die_at_call = die_at_call
        self._counts = counts
        self._calls = count(1)

    def _reached(self) -> bool:
        return self._counts() and next(self._calls) == self._die_at_call

    def write_at(self, fd: int, buffers: list[bytes | bytearray | memoryview], offset: int) -> None:
        if self._reached():
            whole = b"".join(buffers)
            half_bytes = len(whole) // 2 - (offset + len(whole) // 2) % SECTOR_BYTES
            super().write_at(fd, [whole[: max(half_bytes, 0)]], offset)
            die()
        super().write_at(fd, buffers, offset)


def _deadly(name: str) -> Callable[..., Any]:
    operation = getattr(FileSystem, name)

    @wraps(operation)
    def call(self: DeadlyFiles, *arguments: Any, **named: Any) -> Any:
        if self._reached():
            die()
        return operation(self, *arguments, **named)

    return call


for _name in vars(FileSystem):
    if not _name.startswith("_") and _name not in _HARMLESS and _name not in vars(DeadlyFiles):
        setattr(DeadlyFiles, _name, _deadly(_name))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Nursery:
    """Knows the processes that volume servers started, also after the servers' death: they come to this process."""

    def __init__(self) -> None:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._others = frozenset(children_of(os.getpid()))

    def orphans(self) -> list[int]:
        """While no server lives: what its processes left behind."""
        return [pid for pid in children_of(os.getpid()) if pid not in self._others]

    def end_orphans(self) -> None:
        """SIGKILL, and wait for their end. They are this process's own children: their ids are nobody else's."""
        while orphans := self.orphans():
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


class ServerProcess:
    """A volume server in a forked process. Its log is appended to ``log``."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self.settings = settings
        self.exit_code: int | None = None
        self.port: int | None = None
        reading, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(reading)
            _serve(settings, log, writing)
        os.close(writing)
        with open(reading, encoding="utf-8") as said:
            found = _PORT.search(said.readline())
        self.port = int(found[1]) if found else None
        """None: it died before it listened."""

    def kill(self) -> None:
        """SIGKILL, for it alone. It may be dead already."""
        if self.exit_code is None:
            os.kill(self.pid, signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: a clean stop begins."""
        if self.exit_code is None:
            os.kill(self.pid, signal.SIGTERM)

    def state(self) -> str:
        """In words, for a report."""
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return "it is still running" if ended is None else f"it ended with {ended.si_status}"

    def wait(self) -> int:
        """Its exit code, negative the signal that ended it. Raises TimeoutError where it does not end."""
        if self.exit_code is None:
            pidfd = os.pidfd_open(self.pid)
            try:
                if not select.select([pidfd], [], [], PATIENCE_S)[0]:
                    raise TimeoutError("the server does not end")
            finally:
                os.close(pidfd)
            _, status = os.waitpid(self.pid, 0)
            self.exit_code = os.waitstatus_to_exitcode(status)
        return self.exit_code


def _serve(settings: Settings, log: Path, said: int) -> NoReturn:
    """The forked process's life."""
    exit_code = 70
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(errors, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        configure_logging("text")
        logging.getLogger("tests.crash").info("%s", settings)
        exit_code = _run(settings)
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stderr.flush()
        os._exit(exit_code)


def _run(settings: Settings) -> int:
    volumes.CHECKPOINT_EVERY_BYTES = settings.checkpoint_bytes
    options = parse_options(["--data", str(settings.directory), "--port", "0", "--master", MASTER])
    master = MadeUpMaster(settings)
    server = VolumeServer(options, confirmer=master)
    store = master.store = server.store
    if settings.die_at_call is not None:
        counts = partial(_is_stopping, server) if settings.die_in_stop else lambda: True
        store.files = store.room.files = DeadlyFiles(settings.die_at_call, counts)
    store.identity.server = SERVER
    store.identity.kid = KID
    store.identity.secrets = {str(KID): SECRET.hex()}
    for number in range(1, settings.volume_count + 1):
        if not volume_path(settings.directory, number).exists():
            salt = random.Random(f"salt {settings.seed} {number}").randbytes(16)
            store.create_volume(number=number, salt=salt, created_ms=1, epoch=1).close()
    return server.run()


def _is_stopping(server: VolumeServer) -> bool:
    return hasattr(server, "stopping") and server.stopping.is_set()
