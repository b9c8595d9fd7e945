"""One real volume server process without a store around it: its master commits whatever it is told of."""

import json
import os
import re
import signal
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path
from typing import Any, Self

from tests.support.programs import clean_environment, family_of, is_alive, start, stop
from tests.support.waiting import wait_until
from tests.unit.volume_server.fake_master import SECRET, FakeMaster
from tests.unit.volume_server.serving import FIRST, KID, Answer, Wire, get_url, lease, put_url, request
from volume_server import signing
from volume_server.clock import Clock

LEASE_NEEDLES = 4096


class LoneServer:
    """`python -m volume_server` on ``directory`` with volumes 1 to ``volume_count``; killed at the end of the context.

    `kill` and `stop` end it before, `start` starts it again on what is there. Needles are counted from 0, of leases of
    4,096 each.
    """

    def __init__(self, directory: Path, *, log: Path, volume_count: int = 1) -> None:
        self.directory = directory
        self.log = log
        self.volumes = range(1, volume_count + 1)
        self.master = FakeMaster()
        self.port = 0
        self._process: subprocess.Popen[str] | None = None
        self._clock = Clock()

    def __enter__(self) -> Self:
        self.master.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.master.__exit__()

    # -- the process -----------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Until it listens, has joined and has all its volumes."""
        master = self.master
        master.calls.clear()
        master.instructions = [
            {"do": "create", "volume": volume, "salt": f"{volume:032x}", "created_ms": 5, "epoch": 1}
            for volume in self.volumes
        ]
        command = [sys.executable, "-m", "volume_server", "--data", str(self.directory), "--port", "0"]
        command += ["--master", master.url, "--node", "n1", "--join-token", "t"]
        self._process = start(command, log=self.log, env=clean_environment(), stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        found = re.search(r"at http://127\.0\.0\.1:(\d+)", self._process.stdout.readline())
        assert found is not None, self.log.read_text()
        self.port = int(found[1])
        wait_until(lambda: len(self.reported()) == len(self.volumes), what="all volumes")
        return self

    def reported(self) -> list[dict[str, Any]]:
        """The volumes of the latest registration or heartbeat."""
        calls = [body for _, body in list(self.master.calls) if "volumes" in body]
        found: list[dict[str, Any]] = calls[-1]["volumes"] if calls else []
        return found

    def kill(self) -> None:
        """SIGKILL, and wait until its children have ended with it and no file is open any more."""
        if self._process is None:
            return
        family = family_of(self._process.pid)
        stop(self._process, signal.SIGKILL)
        self._process = None
        wait_until(lambda: not any(is_alive(pid) for pid in family), what="its children's end")

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP, SIGCONT; nobody waits for what comes of it."""
        assert self._process is not None
        self._process.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM: a clean stop begins."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """A clean stop; its exit code."""
        assert self._process is not None
        exit_code = stop(self._process)
        self._process = None
        return exit_code

    # -- requests, each on a connection of its own: safe in any thread -----------------------------------------------

    def put(self, volume: int, number: int, body: bytes) -> Answer:
        """Raises OSError, EOFError where the server is gone."""
        return self._ask(request("PUT", put_url(needle_of(number), _lease_of(volume, number // LEASE_NEEDLES)), body))

    def get(self, volume: int, number: int, **headers: str) -> Answer:
        return self._ask(request("GET", get_url(needle_of(number), volume=volume), b"", **headers))

    def delete(self, volume: int, *numbers: int) -> Answer:
        names = [f"{needle_of(number):016x}" for number in numbers]
        return self.admin("/admin/delete", {"volume": volume, "needles": names})

    def usage(self) -> dict[int, dict[str, Any]]:
        """The figures of each volume."""
        return {found["volume"]: found for found in self.admin("/usage").json()["volumes"]}

    def admin(self, path: str, content: dict[str, object] | None = None) -> Answer:
        """As the master signs it: a GET, or a POST of ``content``."""
        method, raw = ("GET", b"") if content is None else ("POST", json.dumps(content).encode())
        identity = json.loads((self.directory / "server.json").read_bytes())
        headers = signing.signed_headers(
            SECRET, kid=KID, direction=signing.TO_SERVER, method=method, target=path, body=raw,
            server=identity["server"], time_ms=self._clock.now_ms(),
        )  # fmt: skip
        return self._ask(request(method, path, raw, **headers))

    def _ask(self, raw: bytes) -> Answer:
        wire = Wire(self.port)
        try:
            return wire.send(raw).answer()
        finally:
            wire.close()


def needle_of(number: int) -> int:
    return FIRST + (number // LEASE_NEEDLES << 16) + number % LEASE_NEEDLES


@cache
def _lease_of(volume: int, number: int) -> str:
    return lease(volume=volume, first=FIRST + (number << 16), count=LEASE_NEEDLES)


def body_of(volume: int, number: int, size_bytes: int) -> bytes:
    """Bytes that no other needle has."""
    seed = zlib.crc32(b"%d/%d" % (volume, number)).to_bytes(4, "big") + number.to_bytes(4, "big")
    return (seed * (size_bytes // len(seed) + 1))[:size_bytes]


def fill_up(path: Path) -> None:
    """A file that takes every block the file system has left."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        size_bytes = 1 << 20
        while size_bytes:
            try:
                os.write(fd, bytes(size_bytes))
            except OSError:
                size_bytes //= 2
        os.fsync(fd)
    finally:
        os.close(fd)
