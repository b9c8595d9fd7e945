"""A throw-away Redis server."""

import shutil
import signal
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from tests.support.programs import free_ports, program, start, stop
from tests.support.waiting import wait_until


class RedisServer:
    """A server on a free loopback port that writes nothing to disk, gone with the context."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="warehouse-redis-"))
        [self.port] = free_ports(1)

    @staticmethod
    def is_installed() -> bool:
        return program("redis-server") is not None

    def url(self, database: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{database}"

    def __enter__(self) -> Self:
        self._start()
        return self

    def restart(self, *, how: int = signal.SIGTERM) -> None:
        """Ends it, with all that it holds, and starts it again at the same port."""
        stop(self.process, how)
        self._start()

    def _start(self) -> None:
        binary = program("redis-server")
        assert binary, "redis-server is not installed"
        self.process = start(
            [binary, "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no",
             "--dir", str(self.directory), "--databases", "64"],
            log=self.directory / "log",
        )  # fmt: skip
        wait_until(self._answers, what="Redis")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stop(self.process)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.directory / "log").read_text()
        with redis.Redis(port=self.port) as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False
