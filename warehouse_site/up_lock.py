"""One `up` for each data folder, and what the one before may have left running."""

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

PATIENCE_S = 30.0
POLL_S = 0.05


class AlreadyUp(Exception):
    """Another `up`, or a `rebuild`, owns this data folder."""


class UpLock:
    """The lock file of a data folder: locked as long as `up` lives, it lists the children of the last one."""

    def __init__(self, file_descriptor: int) -> None:
        self._fd = file_descriptor

    @classmethod
    @contextlib.contextmanager
    def held(cls, data: Path) -> Iterator["UpLock"]:
        """Lock the folder. Raises AlreadyUp."""
        path = data / "up.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyUp(f"`manage.py up` or `rebuild` runs on {data}: stop it first, or let it end.") from None
            lock = cls(descriptor)
            lock.wait_for_leftovers()
            yield lock
        finally:
            os.close(descriptor)

    def remember(self, pids: Iterable[int]) -> None:
        """Note our children, with the moment each was born: a number alone may be somebody else's later."""
        known = [[pid, born] for pid in pids if (born := _born(pid)) is not None]
        raw = json.dumps(known).encode()
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, raw, 0)

    def wait_for_leftovers(self) -> None:
        """Children of an `up` that was killed are ending: let them, and kill those that take too long."""
        left = {pid for pid, born in self._remembered() if _born(pid) == born}
        deadline = time.monotonic() + PATIENCE_S
        while left:
            if time.monotonic() > deadline:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(POLL_S)
            left = {pid for pid, born in self._remembered() if pid in left and _born(pid) == born}
        self.remember(())

    def _remembered(self) -> list[tuple[int, str]]:
        raw = os.pread(self._fd, 1 << 20, 0)
        try:
            return [(int(pid), str(born)) for pid, born in json.loads(raw or b"[]")]
        except (ValueError, TypeError):
            return []  # torn by a power cut: then nothing of that time runs any more


def _born(pid: int) -> str | None:
    """When a process started, in the kernel's ticks (Linux); None when it is gone, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
