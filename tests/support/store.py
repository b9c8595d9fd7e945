"""A real store: `manage.py up` with everything it starts, on free ports, in a directory of its own."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.api import Api
from tests.support.migrated import put_migrated_database
from tests.support.programs import (
    ROOT,
    adjacent_ports,
    argv_of,
    clean_environment,
    environment_of,
    family_of,
    free_ports,
    is_alive,
    start,
    stop,
)
from tests.support.waiting import PATIENCE_S, wait_until
from volume_server.signing import MAX_GET_SECONDS, presign_get

CHUNK_SIZE = 1 << 16
"""Chunk size of the shared store: small, so that an object of several chunks is quick."""

WRITE_TOMBSTONES = (
    "from django.utils import timezone; from buckets.models import Outbox; from buckets.tasks import collect_outbox; "
    "from buckets.services.journal import write_journal; write_journal(seconds=60, force=True); "
    "Outbox.objects.update(not_before=timezone.now()); collect_outbox()"
)
"""Python that has the tombstones written now that a worker writes when every signed URL has expired."""


@dataclass
class Part:
    """One process of the store, and how to start it again exactly as it was."""

    name: str
    pid: int
    argv: list[str]
    env: dict[str, str]
    restarted: subprocess.Popen[str] | None = field(default=None, repr=False)

    def kill(self, how: int = signal.SIGKILL) -> None:
        """Signals the process and waits until it is gone."""
        kill_together([self], how)

    def wait(self) -> None:
        if self.restarted is not None:
            self.restarted.wait()
        wait_until(lambda: not is_alive(self.pid), what=f"the end of {self.name}")

    def restart(self, log: Path) -> None:
        """Starts a new process with the old one's command line and environment."""
        assert not is_alive(self.pid), f"{self.name} still runs"
        self.restarted = start(self.argv, env=self.env, log=log)
        self.pid = self.restarted.pid

    @property
    def data(self) -> Path:
        """`--data` of a volume server."""
        return Path(self.argv[self.argv.index("--data") + 1])

    @property
    def port(self) -> int:
        """`--port` of a volume server."""
        return int(self.argv[self.argv.index("--port") + 1])

    def listens(self) -> bool:
        """Whether a volume server takes connections."""
        assert is_alive(self.pid), f"{self.name} {self.argv} has ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def identity(self) -> tuple[int, bytes, str]:
        """Secret id, secret and server id of a volume server, from where it keeps them."""
        known = json.loads((self.data / "server.json").read_text())
        return known["kid"], bytes.fromhex(known["secrets"][str(known["kid"])]), known["server"]


def kill_together(parts: Sequence[Part], how: int = signal.SIGKILL) -> None:
    """Signals all of them in one breath, then waits until all are gone."""
    for part in parts:
        os.kill(part.pid, how)
    for part in parts:
        part.wait()


class Store:
    """`manage.py up --json` and its children; a context manager.

    `env` are settings on top of the defaults. A part that a test kills stays dead unless `restart` is asked for. With
    `migrated` it begins with a database whose migrations have run; else with nothing, as a user's does. The parts are
    found through /proc, so that the tests see what runs, not what somebody says is running.
    """

    def __init__(
        self,
        directory: Path,
        *,
        env: Mapping[str, str] | None = None,
        volume_servers: int = 2,
        worker: bool = True,
        restart: bool = False,
        migrated: bool = False,
    ) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.log = directory / "up.log"
        self.volume_servers = volume_servers
        self.worker = worker
        self.restart = restart
        self.migrated = migrated
        self.env = clean_environment(**(env or {}))
        [self.port] = free_ports(1)
        self.volume_port = adjacent_ports(volume_servers) if volume_servers else 0
        self.ready: dict[str, Any] = {}
        self.master: Part
        self.servers: list[Part] = []
        self.parts: list[Part] = []

    @property
    def url(self) -> str:
        return str(self.ready["url"])

    @property
    def key(self) -> str:
        return str(self.ready["key"])

    @property
    def command(self) -> list[str]:
        command = [
            sys.executable, str(ROOT / "manage.py"), "up", "--json", "--data", str(self.data), "--port", str(self.port),
            "--volume-servers", str(self.volume_servers), "--volume-port", str(self.volume_port),
        ]  # fmt: skip
        if not self.worker:
            command.append("--no-worker")
        if not self.restart:
            command.append("--no-restart")
        return command

    def api(self, key: str | None = None) -> Api:
        """A client of the API, with the first admin key unless another is named."""
        return Api(self.url, key or self.key)

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.migrated and "DATABASE_URL" not in self.env and not self.data.exists():
            put_migrated_database(self.data)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            sys.stderr.write(f"--- the end of {self.log}\n{self.tail()}\n")
        self.stop()

    def start(self) -> None:
        """Starts the store and waits for its ready line."""
        self.up = start(self.command, env=self.env, log=self.log, stdout=subprocess.PIPE)
        self.ready = self._ready_line()
        assert self.ready.get("event") == "ready", self.ready
        self.parts = [
            Part(name, pid, argv_of(pid), environment_of(pid))
            for pid in family_of(self.up.pid)
            if (name := _name_of(argv_of(pid)))
        ]
        self.servers = sorted((part for part in self.parts if part.name == "volume server"), key=lambda part: part.port)
        # gunicorn's arbiter was started before its worker, which has the same command line.
        self.master = min((part for part in self.parts if part.name == "master"), key=lambda part: part.pid)
        assert len(self.servers) == self.volume_servers, f"volume servers found in /proc: {self.servers}"

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Stops the store, parts that a test restarted by itself too. Returns the exit code of `up`."""
        for part in self.parts:
            if part.restarted is not None and part.restarted.poll() is None:
                stop(part.restarted)
        code = stop(self.up, how)
        if self.up.stdout:
            self.up.stdout.close()
        return code

    def restart_servers(self, *parts: Part) -> None:
        """Starts volume servers again, and waits until they answer and the master shows all servers online."""
        for part in parts:
            part.restart(self.log)
        for part in parts:
            wait_until(part.listens, what=f"the volume server at port {part.port}")
        self.wait_for_servers()

    def stop_master(self) -> None:
        """Ends gunicorn, its worker included; the volume servers go on."""
        workers = family_of(self.master.pid)
        self.master.kill(signal.SIGTERM)
        wait_until(lambda: not any(map(is_alive, workers)), what="the end of gunicorn's worker")

    def start_master(self) -> None:
        """Starts gunicorn again as `up` had started it, and waits until it answers."""
        self.master.restart(self.log)
        self.wait_for_master()

    def wait_for_master(self) -> None:
        wait_until(lambda: self.api().answers(), what="the master")

    def wait_for_servers(self, status: Callable[[str], bool] = "online".__eq__) -> None:
        """Waits until the master shows every volume server in such a status."""
        api = self.api()
        wait_until(
            lambda: all(status(server["status"]) for server in api.get("servers")["results"]),
            what="the status of the volume servers",
        )

    def server_of(self, url: str) -> Part:
        """The volume server that a presigned URL leads to."""
        port = urlsplit(url).port
        [found] = [part for part in self.servers if part.port == port]
        return found

    def signed_get(self, server: Part, *, volume: int, needle: int) -> str:
        """A GET URL signed with the secret that the volume server keeps: good for a needle that no row names."""
        kid, secret, _ = server.identity()
        path = presign_get(
            secret,
            kid=kid,
            volume=volume,
            needle=needle,
            expires_at=int(time.time()) + MAX_GET_SECONDS - 60,
            etag="any",
        )
        return f"http://127.0.0.1:{server.port}{path}"

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`manage.py` of this store, run to its end, whatever that is."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            env={**self.env, "WAREHOUSE_DATA": str(self.data)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    def run_python(self, statements: str) -> str:
        """Python in a process that is set up as the store's own are; what it printed."""
        done = self.manage("shell", "--no-imports", "--command", statements)
        assert done.returncode == 0, done
        return done.stdout.strip()

    def write_tombstones(self) -> None:
        """Of all needles that are dead, the journal being told of them first."""
        self.run_python(WRITE_TOMBSTONES)

    def volume_files(self) -> dict[Path, int]:
        """Size of every file that the volume servers keep volumes in."""
        return {
            path: path.stat().st_size for part in self.servers for path in part.data.rglob("*.vol") if path.is_file()
        }

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def _ready_line(self) -> dict[str, Any]:
        """The first line of stdout; `up` prints it when all is there."""
        assert self.up.stdout is not None
        give_up_at = time.monotonic() + PATIENCE_S
        while not select.select([self.up.stdout], [], [], 0.2)[0]:
            if time.monotonic() > give_up_at:
                self.stop(signal.SIGKILL)
                raise AssertionError(f"`up` never was ready:\n{self.tail()}")
        line = self.up.stdout.readline()
        assert line, f"`up` ended with {self.up.wait()} before it was ready:\n{self.tail()}"
        ready: dict[str, Any] = json.loads(line)
        return ready


def _name_of(argv: list[str]) -> str | None:
    if "volume_server" in argv:
        return "volume server"
    if any("gunicorn" in word for word in argv):
        return "master"
    if any("celery" in word for word in argv):
        return "beat" if "beat" in argv else "worker"
    return None
