"""A whole store on one machine: what `manage.py up` starts, and when it is ready."""

import http.client
import logging
import os
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from django.conf import settings
from django.core.checks import WARNING, Tags, run_checks
from django.core.management import call_command
from django.db import DatabaseError, OperationalError, connection, connections, transaction
from django.utils import timezone

from buckets.journal_format import TAIL_NAME
from buckets.services.journal import read_tail
from keys.errors import WarehouseError
from keys.permissions import Permission
from keys.secrets import ensure_secrets, secret, secrets_folder, write_file, write_secret
from keys.selectors import key_works, live_admin_exists
from keys.services.keys import create_key
from volumes import client
from volumes.selectors import online_servers
from volumes.services.placement import pick
from warehouse_site import lost_database
from warehouse_site.supervisor import Part, Signals, Supervisor
from warehouse_site.up_lock import UpLock

logger = logging.getLogger("warehouse.up")

HOST = "127.0.0.1"
ADMIN_KEY_FILE = "admin.key"
POLL_S = 0.1
WORKER_CLASS = "warehouse_site.gunicorn_worker.PatientWorker"
REFUSED_FOR_GOOD = 3
"""Exit code of a volume server (`volume_server.process.STOP_SERVING`)."""
DEATHS_TO_QUOTE = 3
"""So many deaths in a row are no accident: the end of the log is shown too."""


class CannotStart(Exception):
    """The store cannot be started as asked; the text says why and what to do."""


class PartDied(CannotStart):
    """A part ended before the store was ready."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start, and where."""

    data: Path
    port: int
    volume_ports: tuple[int, ...]
    worker: bool
    json_logs: bool
    restart: bool = True

    @property
    def master_url(self) -> str:
        """Where the other parts reach the master."""
        return f"http://{HOST}:{self.port}"


def plan(*, volume_servers: int, volume_port: int, worker: bool, json_logs: bool, restart: bool = True) -> Plan:
    """A plan for the store of the settings. Raises CannotStart when the ports cannot be."""
    ports = tuple(range(volume_port, volume_port + volume_servers))
    if ports and ports[-1] > 65535:
        raise CannotStart(f"{volume_servers} volume servers from port {volume_port} on end above 65535.")
    if settings.WAREHOUSE_PORT in ports:
        raise CannotStart(
            f"Port {settings.WAREHOUSE_PORT} is asked for twice: by the master (--port) and by a volume server "
            "(--volume-port)."
        )
    return Plan(settings.WAREHOUSE_DATA, settings.WAREHOUSE_PORT, ports, worker, json_logs, restart)


def require_free_ports(wanted: Plan) -> None:
    """Raise CannotStart, naming the port and its option, when one is taken."""
    for port, option in ((wanted.port, "--port"), *((port, "--volume-port") for port in wanted.volume_ports)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise CannotStart(
                    f"Port {port} on {HOST} cannot be used: {error.strerror}. Choose another with {option}."
                ) from error


def prepare() -> None:
    """Secrets, database, first admin key: all that must be there before the first part starts.

    Raises CannotStart when the database cannot be used, or was lost: the volumes of its store take no new one.
    """
    if lost_database.is_lost():
        raise CannotStart(
            f"There is no database at {settings.DATABASES['default']['NAME']}. {lost_database.hint() or ''}".strip()
        )
    ensure_secrets()
    try:
        call_command("migrate", interactive=False, verbosity=0)
    except OperationalError as error:
        where = "DATABASE_URL" if settings.DATABASE_URL else settings.DATABASES["default"]["NAME"]
        raise CannotStart(f"The database ({where}) cannot be used: {str(error).strip()}") from error
    _require_fit_database()
    if not live_admin_exists():
        with transaction.atomic():
            new = create_key(actor=None, name="first admin key", permissions=int(Permission.ADMIN))
            # Before the commit: a key that nobody knows would keep the next start from making one.
            write_secret(ADMIN_KEY_FILE, new.text.encode() + b"\n", replace=True)


def _require_fit_database() -> None:
    """What the database itself says, now that there is one. Raises CannotStart for errors; warnings are logged."""
    for message in run_checks(tags=[Tags.database], databases=["default"]):
        if message.is_serious():
            raise CannotStart(f"{message.msg} {message.hint} ({message.id})")
        if message.level >= WARNING:
            logger.warning("%s %s (%s)", message.msg, message.hint, message.id)


def admin_key() -> str | None:
    """The first admin key, as long as it works."""
    try:
        text = (secrets_folder() / ADMIN_KEY_FILE).read_text().strip()
    except FileNotFoundError:
        return None
    return text if key_works(key_text=text) else None


def empty_broker() -> None:
    """Throw the wake-up calls of the run before away, and what a crash left of them: beat calls again."""
    shutil.rmtree(settings.BROKER_FOLDER, ignore_errors=True)
    for name in ("queue", "control"):
        (settings.BROKER_FOLDER / name).mkdir(parents=True)


class Running:
    """A store that runs: its parts, and how they are started and stopped."""

    def __init__(self, wanted: Plan, signals: Signals, lock: UpLock) -> None:
        self.plan = wanted
        self.signals = signals
        self.supervisor = Supervisor(signals, settings.BASE_DIR)
        self._lock = lock
        self._master: Part | None = None

    def start(self) -> bool:
        """Start all parts and wait until the store is ready; False when asked to stop meanwhile.

        Ready: the master answers, every volume server is registered, and a lease can be had. Raises PartDied.
        """
        began = timezone.now()
        self._master = self._start("master", _master_command(self.plan))
        if not self._wait(lambda: _master_answers(self.plan)):
            return False
        for number, port in enumerate(self.plan.volume_ports, start=1):
            self._start(
                f"volume-server-{number}",
                _server_command(self.plan, number, port),
                {REFUSED_FOR_GOOD: "the master refuses it for good, and its log says why"},
                **_join_token(),
            )
        if self.plan.worker:
            empty_broker()
            worker = _celery("worker", "--pool", "threads", "--concurrency", "8", "--without-gossip")
            beat = _celery("beat", "--pidfile", "", "--schedule", str(settings.BROKER_FOLDER / "beat"))
            # All checks have been run by this very process; twice more would only make the start slow.
            self._start("worker", worker, CELERY_SKIP_CHECKS="1")
            self._start("beat", beat, CELERY_SKIP_CHECKS="1")
        ready = self._wait(lambda: _servers_registered(self.plan, began) and _lease_possible(self.plan))
        if connection.vendor != "sqlite":
            connections.close_all()
        # Else it is kept for the end of the journal, which is read from the file that this is, wherever it may be then.
        return ready

    def watch(self) -> None:
        """Report parts that die and start them again, until asked to stop."""
        while not self.signals.asked_to_stop:
            for part in self.supervisor.newly_dead():
                self._report(part)
            for part in self.supervisor.due():
                self._restart(part)
            self.signals.wait(self.supervisor.seconds_to_next())

    def stop(self) -> None:
        """Volume servers and worker first, so that what is under way can still be confirmed; then the master.

        Then nothing is committed any more, and what the journal does not tell yet is put beside the volumes.
        """
        self.supervisor.stop([part for part in self.supervisor.parts if part is not self._master])
        self.supervisor.stop([part for part in self.supervisor.parts if part is self._master])
        if self.plan.worker and self._master is not None:
            self._end_journal()
        if self._master is not None:
            connections.close_all()
        self._lock.remember(())

    def _end_journal(self) -> None:
        folders = [self.plan.data / "volumes" / str(number) for number in range(1, len(self.plan.volume_ports) + 1)]
        if (file := getattr(connection, "file", None)) is not None:
            file.is_minded = False
        try:
            raw = read_tail()
            for folder in folders:
                if raw and folder.is_dir():
                    write_file(folder / TAIL_NAME, raw, replace=True)
        except (DatabaseError, OSError, WarehouseError) as error:
            logger.warning("The end of the journal could not be written: %s", error)

    def _start(
        self, name: str, command: Sequence[str], final_codes: Mapping[int, str] | None = None, **variables: str
    ) -> Part:
        log = None if self.plan.json_logs else self.plan.data / "logs" / f"{name}.log"
        part = Part(name, command, {**os.environ, **variables}, log, final_codes or {})
        self.supervisor.start(part)
        self._remember()
        return part

    def _report(self, part: Part) -> None:
        """Say how a part died and what becomes of it."""
        reason = part.why_final() if self.plan.restart else "as --no-restart says"
        if reason is not None:
            logger.error("%s. It is not started again: %s.%s", part.ending(), reason, _quoted(part))
            return
        pause_s = self.supervisor.restart_later(part)
        if part.deaths < DEATHS_TO_QUOTE:
            logger.error("%s. It is started again in %g s.", part.ending(), pause_s)
        else:
            logger.error(
                "%s. It died %d times in a row, and is tried again in %g s.%s",
                *(part.ending(), part.deaths, pause_s, _quoted(part)),
            )

    def _restart(self, part: Part) -> None:
        try:
            self.supervisor.restart(part)
        except OSError as error:  # no room for its log, or for a process: that may pass
            pause_s = self.supervisor.restart_later(part)
            logger.error("%s cannot be started: %s. It is tried again in %g s.", part.name, error, pause_s)
            return
        self._remember()
        logger.info("%s is started again.", part.name)

    def _remember(self) -> None:
        self._lock.remember(part.pid for part in self.supervisor.parts if part.pid is not None)

    def _wait(self, condition: Callable[[], bool]) -> bool:
        while not condition():
            for part in self.supervisor.newly_dead():
                raise PartDied(f"The store did not start: {part.ending()}.")
            if self.signals.asked_to_stop:
                return False
            self.signals.wait(POLL_S)
        return not self.signals.asked_to_stop


def _quoted(part: Part) -> str:
    """The end of a part's log, to follow a sentence about it; nothing where the log is our own stderr."""
    lines = part.last_lines()
    return "\n".join([" Its last lines:", *(f"    {line}" for line in lines)]) if lines else ""


def _join_token() -> dict[str, str]:
    """By the environment: a command line can be read by everyone on the machine."""
    return {"WAREHOUSE_JOIN_TOKEN": secret("join.token").decode()}


def _master_command(wanted: Plan) -> list[str]:
    return [
        *(sys.executable, "-m", "gunicorn", "warehouse_site.wsgi:application"),
        *("--config", "python:warehouse_site.gunicorn_conf"),
        *("--bind", f"{HOST}:{wanted.port}"),
        # One process: without Redis the cache is this process's own.
        *("--workers", "1", "--worker-class", WORKER_CLASS, "--threads", str(settings.WAREHOUSE_THREADS)),
        *("--no-control-socket", "--keep-alive", "75", "--limit-request-line", "8190"),
    ]


def _server_command(wanted: Plan, number: int, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "volume_server", "--data", str(wanted.data / "volumes" / str(number))),
        *("--host", HOST, "--port", str(port), "--master", wanted.master_url, "--node", f"n{number}"),
    ]


def _celery(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "celery", "--quiet", "--app", "warehouse_site.celery", *arguments]


def _master_answers(wanted: Plan) -> bool:
    connection = http.client.HTTPConnection(HOST, wanted.port, timeout=5)
    try:
        connection.request("GET", "/api/v1/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _servers_registered(wanted: Plan, since: datetime) -> bool:
    """Whether each server that answers at our ports has been heard by the master since the start."""
    found = [client.probe(f"http://{HOST}:{port}") for port in wanted.volume_ports]
    identities = {health.server for health in found if health is not None}
    if len(identities) < len(found):
        return False
    return online_servers().filter(pk__in=identities, last_seen_at__gte=since).count() == len(found)


def _lease_possible(wanted: Plan) -> bool:
    if not wanted.volume_ports:
        return True
    try:
        pick(needed_bytes=1)
    except WarehouseError as error:
        logger.debug("no lease yet: %s", error)
        return False
    return True
