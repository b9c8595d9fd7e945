"""A store whose every part is a process of its own, behind fault proxies, on disks that can be filled up.

Unlike `manage.py up` nothing here watches over anything: a part that a fault ends stays dead until the fault is over.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.api import Api
from tests.support.chaos_proxy import Link, Proxy
from tests.support.loop_disk import LoopDisk, loop_disk
from tests.support.postgres import Postgres
from tests.support.programs import ROOT, clean_environment, family_of, free_ports, program, start
from tests.support.waiting import wait_until

REDIS, FILESYSTEM = BROKERS = ("redis", "filesystem")
SQLITE, POSTGRES = DATABASES = ("sqlite", "postgres")
SETTINGS = {
    "WAREHOUSE_CHUNK_SIZE": "256KiB",
    "WAREHOUSE_VOLUME_SIZE": "16MiB",
    "WAREHOUSE_LEASE_SECONDS": "12",
    "WAREHOUSE_CHUNK_URL_SECONDS": "15",
    "WAREHOUSE_UPLOAD_SECONDS": "60",
    "WAREHOUSE_GET_SECONDS": "20",
    "WAREHOUSE_CONFIRM_GRACE_SECONDS": "10",
    "WAREHOUSE_SWEEP_SECONDS": "3",
    "WAREHOUSE_REREPLICATE_SECONDS": "15",
    "WAREHOUSE_LOG": "text",
}
"""Small volumes and short lives, so that minutes show what else takes days."""
_STOP_S = 60.0
"""A clean stop waits for what is in flight, half a minute at the most."""
_SPARE = """
from volumes.models import Replica, Server
server = Server.objects.get(pk={server!r})
copies = list(Replica.objects.filter(volume__replication__gt=1).exclude(volume__redundancy="making")
              .select_related("volume"))
own = {{one.volume_id for one in copies if one.server_id == server.pk}}
elsewhere = {{one.volume_id for one in copies if one.server_id != server.pk and one.has_all_of(one.volume)}}
is_healed = not any(str(one.server_id) in {lost!r} for one in copies)
print("spare" if not server.is_alive() and is_healed and own <= elsewhere else "needed")
"""
"""Asked of a server that is dead: whether all that was acknowledged is elsewhere, too. The master takes no volume's
truth from it any more, so this stays so whatever comes next; and volumes that still name a server which was emptied
before are not mended yet."""


class Process:
    """One part: how to start it, and the process of now."""

    stops_by = signal.SIGTERM

    def __init__(self, name: str, argv: list[str], env: Mapping[str, str], log: Path, starter: "Starter") -> None:
        self.name = name
        self.argv = argv
        self.env = env
        self.log = log
        self.is_wanted = False
        """It is to run: a fault that ended it says so itself."""
        self._starter = starter
        self._popen: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._popen is not None, self.name
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; of one that never ran, too."""
        return self._popen.poll() if self._popen is not None else None

    def start(self) -> None:
        self._popen = self._starter.start(self.argv, env=self.env, log=self.log)
        self.is_wanted = True

    def kill(self, *, family: bool = True) -> None:
        """SIGKILL, to it alone or to its children, too."""
        self.is_wanted = False
        self.signal(signal.SIGKILL, family=family)
        if self._popen is not None:
            self._popen.wait()

    def stop(self) -> int:
        """A clean stop; the exit code. One that takes longer than a minute is killed."""
        self.is_wanted = False
        if self._popen is None:
            return 0
        self.signal(self.stops_by, family=False)
        try:
            code = self._popen.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not stop within {_STOP_S:.0f} s") from None
        self.signal(signal.SIGKILL)  # children that did not end with it
        return code

    def signal(self, number: int, *, family: bool = True) -> None:
        if self._popen is None:
            return
        with suppress(ProcessLookupError):
            if family:
                os.killpg(self._popen.pid, number)
            elif self._popen.poll() is None:
                os.kill(self._popen.pid, number)


class Database(Process):
    """PostgreSQL. Its own processes lead groups of their own."""

    stops_by = signal.SIGINT
    """It waits for no client to leave."""

    def __init__(self, postgres: Postgres, log: Path, starter: "Starter") -> None:
        super().__init__("database", postgres.command, clean_environment(), log, starter)
        self.postgres = postgres

    def start(self) -> None:
        """Until it answers. What is left of processes that were killed may keep it from starting for a moment."""
        wait_until(self._is_started, what="the database")
        self.is_wanted = True

    def _is_started(self) -> bool:
        if self._popen is None or self.exit_code is not None:
            self._popen = self._starter.start(
                self.argv, env=self.env, log=self.log, user=self.postgres.user, cwd=self.postgres.directory
            )
        return self.postgres.answers()

    def signal(self, number: int, *, family: bool = True) -> None:
        if self._popen is None or self.exit_code is not None:
            return
        for pid in family_of(self.pid) if family else [self.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


class Starter:
    """Starts processes from one thread: they are killed when the thread that started them ends (`programs.start`)."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="starter")

    def start(
        self, argv: list[str], *, env: Mapping[str, str], log: Path, user: str | None = None, cwd: Path = ROOT
    ) -> subprocess.Popen[str]:
        return self._thread.submit(partial(start, argv, env=env, log=log, user=user, cwd=cwd)).result()

    def close(self) -> None:
        self._thread.shutdown()


class Cluster:
    """Master, volume servers, worker, beat, broker and database. A context manager; `start` starts them.

    ``disk_bytes``: each server's data lies on a file system of its own of that size; None: in a directory.
    """

    def __init__(
        self,
        directory: Path,
        *,
        servers: int,
        broker: str,
        database: str = SQLITE,
        disk_bytes: int | None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.broker = broker
        self.lost_ids: set[str] = set()
        """Servers whose data are gone; others came in their places, with the same names."""
        self.server_names = [f"s{number}" for number in range(1, servers + 1)]
        self.disks: dict[str, LoopDisk] = {}
        self.processes: dict[str, Process] = {}
        self.proxy = Proxy()
        self.key = ""
        self._disk_bytes = disk_bytes
        self._starter = Starter()
        self._stack = ExitStack()
        ports = iter(free_ports(3 + 5 * servers))
        self.master_port, self._redis_port = next(ports), next(ports)
        self.ports = {name: next(ports) for name in self.server_names}
        self._link_ports = {"clients>master": next(ports)}
        for name in self.server_names:
            self._link_ports |= {f"clients>{name}": next(ports), f"master>{name}": next(ports)}
            self._link_ports[f"{name}>master"] = next(ports)
        self.env = clean_environment(
            **SETTINGS,
            **(env or {}),
            WAREHOUSE_DATA=str(self.data),
            WAREHOUSE_PORT=str(self.master_port),
            WAREHOUSE_PUBLIC_URL=f"http://127.0.0.1:{self._link_ports['clients>master']}",
        )
        if broker == REDIS:
            self.env["REDIS_URL"] = f"redis://127.0.0.1:{self._redis_port}/0"
        self._postgres = Postgres() if database == POSTGRES else None
        if self._postgres is not None:
            self.env["DATABASE_URL"] = self._postgres.url()

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.data.mkdir()
        (self.directory / "logs").mkdir()
        with ExitStack() as stack:
            stack.callback(self._starter.close)
            if self._postgres is not None:
                stack.callback(self._postgres.remove)
            stack.callback(self._kill_all)
            for name in self.server_names if self._disk_bytes else ():
                self.disks[name] = stack.enter_context(loop_disk(self._disk_bytes or 0))
            stack.enter_context(self.proxy)
            for name, port in self._link_ports.items():
                listener = name.partition(">")[2]
                target = self.master_port if listener == "master" else self.ports[listener]
                peers = f"servers>{listener}" if name.startswith("master>") else ""
                self.proxy.link(name, port=port, target=target, peers=peers)
            stack.callback(self._kill_all)  # before the disks go
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def links(self) -> dict[str, Link]:
        return self.proxy.links

    @property
    def client_url(self) -> str:
        """Where clients reach the master: through the proxy."""
        return self.links["clients>master"].url

    def api(self, *, timeout_s: float = 10.0) -> Api:
        """The API, past the proxy."""
        return Api(f"http://127.0.0.1:{self.master_port}", self.key, timeout_s=timeout_s)

    def server_data(self, name: str) -> Path:
        disk = self.disks.get(name)
        return (disk.mount if disk is not None else self.directory / "servers") / f"data-{name}"

    def start(self) -> None:
        """Starts everything and waits until all servers are registered and a lease can be had."""
        if self._postgres is not None:
            self._postgres.prepare()
            log = self.directory / "logs" / "database.log"
            self.processes["database"] = Database(self._postgres, log, self._starter)
            self.processes["database"].start()
        initialised = self.manage("up", "--init", "--json", "--data", str(self.data))
        self.key = json.loads(initialised.stdout.splitlines()[-1])["key"]
        if self.broker == FILESYSTEM:
            for folder in ("queue", "control"):
                (self.data / "broker" / folder).mkdir(parents=True, exist_ok=True)
        token = (self.data / "secrets" / "join.token").read_text().strip()
        if self.broker == REDIS:
            self._add("broker", self._redis_command())
        self._add("master", self._master_command())
        for name in self.server_names:
            self.server_data(name).parent.mkdir(exist_ok=True)
            self._add(name, self._server_command(name), WAREHOUSE_JOIN_TOKEN=token)
        self._add("worker", _celery("worker", "--pool", "threads", "--concurrency", "4", "--without-gossip"))
        self._add("beat", _celery("beat", "--pidfile", "", "--schedule", str(self.directory / "beat")))
        for process in self.processes.values():
            if process.name != "database":
                process.start()
        self.wait_for_master()
        wait_until(self._servers_online, what="all volume servers to be online")

    def manage(self, *words: str, timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        """`manage.py` of this store, run to its end, whatever that is."""
        return subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), *words],
            cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def wait_for_master(self) -> None:
        api = self.api()
        wait_until(api.answers, what="the master")

    def wait_for(self, name: str) -> None:
        """Waits until a process that was started again takes work; of worker and beat nobody knows."""
        if name == "master":
            self.wait_for_master()
        elif name in self.ports:
            wait_until(partial(self._listens, name), what=f"{name} to listen")

    def _listens(self, name: str) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.ports[name])) == 0

    def servers(self) -> dict[str, dict[str, Any]]:
        """What the master shows of each volume server, by our names for them. Not of those that were emptied."""
        shown = self.api().get("servers")["results"]
        return {row["node"]: row for row in shown if row["id"] not in self.lost_ids}

    def is_spare(self, name: str) -> bool:
        """Whether all that lies on a dead server lies elsewhere, too, and no other one's loss is still to be mended."""
        if not self._identity_file(name).exists():  # it had another disk just now, and was not even started
            return False
        told = self._ask(_SPARE.format(server=self._server_id(name), lost=sorted(self.lost_ids)))
        return told.returncode == 0 and told.stdout.strip() == "spare"

    def empty(self, name: str) -> None:
        """A dead server gets another disk, without anything on it. It will be another server, of the same node."""
        self.lost_ids.add(self._server_id(name))
        shutil.rmtree(self.server_data(name))

    def _server_id(self, name: str) -> str:
        return str(json.loads(self._identity_file(name).read_bytes())["server"])

    def _identity_file(self, name: str) -> Path:
        return self.server_data(name) / "server.json"

    def _ask(self, code: str) -> subprocess.CompletedProcess[str]:
        return self.manage("shell", "--no-imports", "--command", code)

    def set_admin_state(self, name: str, wanted: str) -> None:
        """What the admin site's actions on servers do; past master and proxies, so that it is done come what may."""
        code = (
            "from volumes.models import Server; from volumes.services.servers import set_admin_state\n"
            f"for one in Server.objects.filter(node={name!r}).exclude(pk__in={sorted(self.lost_ids)!r}):\n"
            f"    set_admin_state(server_id=one.pk, admin_state={wanted!r})"
        )
        # The database may be away for a moment.
        wait_until(lambda: self._ask(code).returncode == 0, what=f"{name} to be set to {wanted}")

    def unwanted_ends(self) -> list[tuple[Process, int]]:
        """Processes that ended by themselves, with their exit codes."""
        return [
            (process, code)
            for process in list(self.processes.values())
            if process.is_wanted and (code := process.exit_code) is not None
        ]

    def fill(self, name: str, *, left_bytes: int) -> Callable[[], None]:
        """Fills a server's disk up to the last ``left_bytes``; the returned function gives the space back."""
        disk = self.disks[name]
        filler = disk.mount / "filler"
        with filler.open("wb") as file:
            while (free_bytes := _free_bytes(disk.mount) - left_bytes) > 0:
                try:
                    os.posix_fallocate(file.fileno(), file.tell(), min(free_bytes, 8 << 20))
                except OSError:
                    break
                file.seek(0, os.SEEK_END)
        return partial(filler.unlink, missing_ok=True)

    def damage_broker(self) -> None:
        """A message of the filesystem broker that was cut off, as a crash leaves it; Redis loses all that it holds."""
        if self.broker == FILESYSTEM:
            torn = self.data / "broker" / "queue" / f"{time.time_ns()}_0.celery.msg"
            torn.write_text('{"body": "W1tdLCB7fSwgey')
        else:
            with suppress(subprocess.SubprocessError):
                subprocess.run(
                    [str(program("redis-cli")), "-p", str(self._redis_port), "flushall"],
                    capture_output=True, timeout=5, check=False,
                )  # fmt: skip

    def keep_disks(self) -> None:
        """Copies what lies on the disks beside the logs, for somebody to look at. All processes have ended."""
        for name, disk in self.disks.items():
            shutil.copytree(disk.mount, self.directory / "disks" / name, ignore=_ignore_filler)

    def _add(self, name: str, argv: list[str], **env: str) -> None:
        log = self.directory / "logs" / f"{name}.log"
        self.processes[name] = Process(name, argv, {**self.env, **env}, log, self._starter)

    def _kill_all(self) -> None:
        for process in self.processes.values():
            process.kill()

    def _servers_online(self) -> bool:
        for process, code in self.unwanted_ends():
            raise AssertionError(f"{process.name} ended with {code} before the run began: see {process.log}")
        shown = self.servers()
        return len(shown) == len(self.server_names) and all(row["status"] == "online" for row in shown.values())

    def _redis_command(self) -> list[str]:
        return [
            str(program("redis-server")), "--bind", "127.0.0.1", "--port", str(self._redis_port), "--save", "",
            "--appendonly", "no", "--dir", str(self.directory),
        ]  # fmt: skip

    def _master_command(self) -> list[str]:
        """As `manage.py up` starts it."""
        return [
            sys.executable, "-m", "gunicorn", "warehouse_site.wsgi:application",
            "--config", "python:warehouse_site.gunicorn_conf", "--bind", f"127.0.0.1:{self.master_port}",
            "--workers", "1", "--worker-class", "warehouse_site.gunicorn_worker.PatientWorker", "--threads", "16",
            "--no-control-socket", "--keep-alive", "75", "--limit-request-line", "8190",
        ]  # fmt: skip

    def _server_command(self, name: str) -> list[str]:
        return [
            sys.executable, "-m", "volume_server", "--data", str(self.server_data(name)), "--host", "127.0.0.1",
            "--port", str(self.ports[name]), "--master", self.links[f"{name}>master"].url, "--node", name,
            "--public-url", self.links[f"clients>{name}"].url, "--internal-url", self.links[f"master>{name}"].url,
            "--scrub-days", "0",
        ]  # fmt: skip


def _celery(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "celery", "--quiet", "--app", "warehouse_site.celery", *arguments]


def _free_bytes(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def _ignore_filler(_: object, names: list[str]) -> list[str]:
    return [name for name in names if name in {"filler", "lost+found"}]
