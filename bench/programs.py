"""The servers that benches start besides the store."""

import json
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.programs import free_ports, start, stop
from tests.support.waiting import wait_until


class _Server(ABC):
    """A child process that listens on a free loopback port."""

    def __init__(self, log: Path) -> None:
        [self.port] = free_ports(1)
        self.log = log
        self.process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    @abstractmethod
    def command(self) -> list[str]:
        """What the interpreter is given to start it."""

    def __enter__(self) -> Self:
        self.process = start([sys.executable, *self.command], log=self.log)
        wait_until(self._listens, what=f"{type(self).__name__} (its log: {self.log})")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stop(self.process, signal.SIGTERM)

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class BareServer(_Server):
    """`bench.bare_server`."""

    @property
    def command(self) -> list[str]:
        return ["-m", "bench.bare_server", str(self.port)]


class UncommittedServer(_Server):
    """`bench.uncommitted_server`: a volume server whose needles are durable and never confirmed."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        super().__init__(directory / "log")
        self.directory = directory

    @property
    def command(self) -> list[str]:
        return ["-m", "bench.uncommitted_server", str(self.directory), str(self.port)]

    def lease_lines(self, count: int) -> list[str]:
        """Leases of 4,096 needles, as wrk's script reads them (the server wrote them down at its start)."""
        leases: list[str] = json.loads((self.directory / "leases.json").read_text())
        return leases[:count]
