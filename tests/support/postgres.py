"""A throw-away PostgreSQL server.

    python -m tests.support.postgres COMMAND...

runs a command with DATABASE_URL pointing at one. Where PostgreSQL is not installed the command is skipped with a
loud line, and in CI that is a failure.
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from tests.support.programs import clean_environment, free_ports, program, start, stop
from tests.support.waiting import wait_until

_BINARIES = "usr/lib/postgresql/*/bin/"


class Postgres:
    """A server on a free loopback port, in a directory of its own, gone with the context.

    It does not ``fsync``: tests ask it for its semantics, not for durability. Benches have it do so.
    """

    def __init__(self, *, fsync: bool = False) -> None:
        self.fsync = fsync
        # PostgreSQL refuses to run as root, and needs a directory that its user can reach: not below pytest's.
        self.user = "postgres" if os.geteuid() == 0 else None
        self.directory = Path(tempfile.mkdtemp(prefix="warehouse-postgres-"))
        [self.port] = free_ports(1)
        self.log = self.directory.with_suffix(".log")

    @staticmethod
    def is_installed() -> bool:
        return program("postgres", _BINARIES + "postgres") is not None

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{self._superuser}@127.0.0.1:{self.port}/{database}"

    def new_database(self, name: str) -> str:
        """Creates an empty database and returns its URL."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    @property
    def _superuser(self) -> str:
        return self.user or pwd.getpwuid(os.geteuid()).pw_name

    def prepare(self) -> None:
        """Makes the files of a new server."""
        if self.user:
            shutil.chown(self.directory, self.user, self.user)
        # A locale that does not sort by bytes shows code that leans on the database's own order.
        self._run("initdb", "--pgdata", str(self.directory / "data"), "--auth", "trust", "--encoding", "UTF8",
                  "--locale", "C.UTF-8", "--locale-provider", "icu", "--icu-locale", "en-US")  # fmt: skip

    @property
    def command(self) -> list[str]:
        binary = program("postgres", _BINARIES + "postgres")
        assert binary, "PostgreSQL is not installed"
        return [
            binary, "-D", str(self.directory / "data"), "-p", str(self.port), "-k", str(self.directory),
            "-h", "127.0.0.1", "-c", f"fsync={'on' if self.fsync else 'off'}", "-c", "max_connections=200",
        ]  # fmt: skip

    def __enter__(self) -> Self:
        self.prepare()
        self.process = start(self.command, log=self.log, user=self.user, cwd=self.directory)
        wait_until(self._answers, what=f"PostgreSQL (its log: {self.log})")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stop(self.process, signal.SIGINT)  # "fast shutdown": does not wait for clients
        self.remove()

    def remove(self) -> None:
        """Of a server that has ended."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.log.unlink(missing_ok=True)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return self.answers()

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url()).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, name: str, *arguments: str) -> None:
        binary = program(name, _BINARIES + name)
        assert binary, f"{name} is not installed"
        done = subprocess.run(
            [binary, *arguments],
            cwd=self.directory,
            env=clean_environment(),
            user=self.user,
            group=self.user,
            extra_groups=[] if self.user else None,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def main(command: list[str]) -> int:
    if not Postgres.is_installed():
        sys.stderr.write("NOT TESTED on PostgreSQL: it is not installed (apt-get install postgresql)\n")
        return 1 if os.environ.get("CI") else 0
    with Postgres() as server:
        return subprocess.run(command, env={**os.environ, "DATABASE_URL": server.url()}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
