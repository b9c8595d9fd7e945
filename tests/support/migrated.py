"""A database whose migrations have run, made once for a test run: a store that gets a copy starts sooner."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from tests.support.programs import ROOT, clean_environment

NAME = "db.sqlite3"


def put_migrated_database(data: Path) -> None:
    """Into the data directory of a store that never ran. There are no rows in it but Django's own."""
    data.mkdir(mode=0o700, parents=True)
    shutil.copyfile(_template() / NAME, data / NAME)
    (data / NAME).chmod(0o600)


@cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="warehouse-migrated-"))
    atexit.register(_remove, folder, os.getpid())
    migrate({"WAREHOUSE_DATA": str(folder)})
    return folder


def migrate(settings: dict[str, str]) -> None:
    """Runs all migrations on the database of these settings."""
    command = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    done = subprocess.run(
        command, env=clean_environment(**settings), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _remove(folder: Path, owner: int) -> None:
    """By the process that made it alone, and not by children of it."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
