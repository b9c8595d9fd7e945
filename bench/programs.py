"""The servers that benches start besides the store."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.api import Answer, send
from tests.support.programs import children_of, free_ports, start, stop
from tests.support.waiting import wait_until
from volume_server import signing

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


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
        """What starts it."""

    def __enter__(self) -> Self:
        self.process = start(self.command, log=self.log)
        wait_until(self._listens, what=f"{type(self).__name__} (its log: {self.log})")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stop(self.process, signal.SIGTERM)

    def cpu_seconds(self) -> float:
        """Of processor time spent so far, by its children too."""
        return sum(_cpu_seconds(pid) for pid in (self.process.pid, *children_of(self.process.pid)))

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class BareServer(_Server):
    """`bench.bare_server`."""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "bench.bare_server", str(self.port)]


class UncommittedServer(_Server):
    """`bench.uncommitted_server`: a volume server whose needles are durable and never confirmed.

    It serves what `directory` holds, or a new volume.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        super().__init__(directory / "log")
        self.directory = directory

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "bench.uncommitted_server", str(self.directory), str(self.port)]

    def __enter__(self) -> Self:
        super().__enter__()
        self.access = Access(**json.loads((self.directory / "access.json").read_text()))
        return self

    def lease_lines(self, count: int) -> list[str]:
        """Leases of 4,096 needles, as wrk's script reads them (the server wrote them down at its start)."""
        return self.access.leases[:count]

    def signed_get(self, needle: int) -> str:
        """Path and query of a signed GET."""
        return signing.presign_get(
            bytes.fromhex(self.access.secret), kid=self.access.kid, volume=self.access.volume, needle=needle,
            expires_at=int(time.time()) + signing.MAX_GET_SECONDS, etag=f"{needle:016x}",
        )  # fmt: skip

    def admin(self, target: str, body: dict[str, Any]) -> Answer:
        """What the server answers to a POST that its master would have signed."""
        raw = json.dumps(body).encode()
        access = self.access
        headers = signing.signed_headers(
            bytes.fromhex(access.secret), kid=access.kid, direction=signing.TO_SERVER, method="POST", target=target,
            body=raw, server=access.server, time_ms=int(time.time() * 1000),
        )  # fmt: skip
        return send("POST", self.url + target, raw, {"Content-Type": "application/json", **headers})

    def usage(self) -> dict[str, Any]:
        """The volume's figures."""
        access = self.access
        headers = signing.signed_headers(
            bytes.fromhex(access.secret), kid=access.kid, direction=signing.TO_SERVER, method="GET", target="/usage",
            body=b"", server=access.server, time_ms=int(time.time() * 1000),
        )  # fmt: skip
        [figures] = send("GET", f"{self.url}/usage", headers=headers).json["volumes"]
        found: dict[str, Any] = figures
        return found


@dataclass(frozen=True, slots=True)
class Access:
    """What `bench.uncommitted_server` writes down for those who measure it."""

    server: str
    secret: str
    kid: int
    volume: int
    leases: list[str]


class Nginx(_Server):
    """nginx with one worker, serving the files of `root`, set up for speed: no access log, kept-alive, sendfile.

    ``remembers_files``: with `open_file_cache`, which saves it the open and stat of each request.
    """

    def __init__(self, directory: Path, root: Path, *, remembers_files: bool = False) -> None:
        directory.mkdir()
        super().__init__(directory / "log")
        self.directory = directory
        cache = "open_file_cache max=100000 inactive=1h; open_file_cache_valid 1h;" if remembers_files else ""
        temporary = "".join(
            f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.geteuid() == 0 else ""
        (directory / "conf").write_text(
            f"daemon off; worker_processes 1; {user} pid {directory}/pid; error_log stderr;\n"
            "events { worker_connections 1024; }\n"
            "http {\n"
            f"  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; {cache} {temporary}\n"
            f"  server {{ listen 127.0.0.1:{self.port}; root {root}; }}\n"
            "}\n"
        )

    @property
    def command(self) -> list[str]:
        return ["nginx", "-p", str(self.directory), "-e", "stderr", "-c", str(self.directory / "conf")]


class SeaweedFS(_Server):
    """`weed server -filer -s3` with its defaults, on free ports; `url` is the S3 gateway's. It phones nobody."""

    def __init__(self, directory: Path, program: Path) -> None:
        directory.mkdir()
        super().__init__(directory / "log")
        self.directory = directory
        self.program = program
        self.parts = ("master", "volume", "filer", "s3")
        self.ports = dict(zip([*self.parts, *(f"{part}.grpc" for part in self.parts)], free_ports(8), strict=True))
        self.port = self.ports["s3"]
        self.kept: HTTPConnection | None = None

    @property
    def command(self) -> list[str]:
        listening = []
        for part in self.parts:
            listening += [f"-{part}.port={self.ports[part]}", f"-{part}.port.grpc={self.ports[f'{part}.grpc']}"]
        return [
            str(self.program), "server", f"-dir={self.directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *listening,
            "-filer", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-volume.max=100",
            f"-filer.localSocket={self.directory}/filer.sock",
        ]  # fmt: skip

    def put(self, path: str, body: bytes) -> None:
        """One object. RuntimeError when it is refused."""
        if self.kept is None:
            self.kept = HTTPConnection("127.0.0.1", self.port)
        self.kept.request("PUT", path, body)
        answer = self.kept.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status}")


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
