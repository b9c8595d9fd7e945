"""Finding the programs that tests start, and starting them so that nothing outlives the test run."""

import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).resolve().parents[2]
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)
_STORE_VARIABLES = ("DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE")


def missing(what: str) -> None:
    """Skips the test, loudly; in CI, where everything must be there, fails it."""
    reason = f"NOT TESTED, {what} is not installed"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def program(name: str, *places: str) -> str | None:
    """Path of a program on the PATH or matching one of the glob patterns (below /), the newest version first."""
    found = shutil.which(name)
    if found:
        return found
    matches = [match for place in places for match in Path("/").glob(place)]
    return str(max(matches)) if matches else None


_PORTS = range(10_240, 32_768)
"""Below the range that the kernel draws outgoing connections' ports from: what is free there stays free."""


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on, all different."""
    with ExitStack() as stack:
        found: list[int] = []
        for port in random.sample(_PORTS, len(_PORTS)):
            if len(found) == count:
                break
            if _bind(stack, port):
                found.append(port)
        return found


def adjacent_ports(count: int) -> int:
    """The first of `count` free ports in a row, as `manage.py up --volume-port` wants them."""
    for first in random.sample(_PORTS[:-count], len(_PORTS) - count):
        with ExitStack() as stack:
            if all(_bind(stack, port) for port in range(first, first + count)):
                return first
    raise AssertionError(f"no {count} free ports in a row")


def _bind(stack: ExitStack, port: int) -> bool:
    one = stack.enter_context(socket.socket())
    try:
        one.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def clean_environment(**added: str) -> dict[str, str]:
    """This process's environment without anything that points at a store, plus `added`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WAREHOUSE_") and name not in _STORE_VARIABLES
    }
    return {**kept, "PYTHONUNBUFFERED": "1", **added}


def start(
    command: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    stdout: int | IO[str] | None = None,
    cwd: Path = ROOT,
) -> subprocess.Popen[str]:
    """Starts a program, at the head of a process group, that is killed when this process ends, however it ends.

    Its output is appended to `log`.
    """
    with log.open("a") as output:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env) if env is not None else clean_environment(),
            user=user,
            group=user,
            extra_groups=[] if user else None,
            stdin=subprocess.DEVNULL,
            stdout=output if stdout is None else stdout,
            stderr=output,
            text=True,
            process_group=0,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call, its function looked up beforehand
        )


def stop(process: subprocess.Popen[str], how: int = signal.SIGTERM) -> int:
    """Signals one process, by its own id, and waits for its end. Returns its exit code."""
    if process.poll() is None:
        process.send_signal(how)
    return process.wait()


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


# -- /proc ------------------------------------------------------------------------------------------------------------


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def argv_of(pid: int) -> list[str]:
    """The command line of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def environment_of(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def children_of(pid: int) -> list[int]:
    """Living direct children."""
    found = []
    for stat_file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat_file.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat_file.parent.name))
    return sorted(found)


def family_of(pid: int) -> list[int]:
    """The process and all its living descendants."""
    found, unseen = [], [pid]
    while unseen:
        one = unseen.pop()
        found.append(one)
        unseen.extend(children_of(one))
    return found


def resident_bytes(pid: int) -> int:
    """Anonymous memory that the process holds (RssAnon): its own, without mapped files."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc/{pid}/status has no RssAnon")
