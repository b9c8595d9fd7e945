"""Copy the database, beside a running store."""

import os
import sqlite3
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection


class Command(BaseCommand):
    help = (
        "Copy the SQLite database into FILE while the store runs; FILE is there whole or not at all. Keep it with the "
        "secrets folder. For PostgreSQL use pg_dump (docs/operations.md)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", metavar="FILE", type=Path, help="Where to; it must not exist yet.")

    def handle(self, *args: Any, **options: Any) -> None:
        if connection.vendor != "sqlite":
            raise CommandError("The database is PostgreSQL: use pg_dump -Fc, as docs/operations.md shows it.")
        source, target = Path(str(connection.settings_dict["NAME"])), options["file"]
        if not source.exists():
            raise CommandError(f"There is no database at {source} (WAREHOUSE_DATA).")
        if target.exists():
            raise CommandError(f"{target} exists already; name another file.")
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            _copy(source, temporary)
            # Fails where somebody made the file meanwhile; a rename would replace it.
            os.link(temporary, target)
            _sync(target.parent)
        except (OSError, sqlite3.Error) as error:
            raise CommandError(f"The database could not be copied: {error}") from error
        finally:
            temporary.unlink(missing_ok=True)
        self.stdout.write(f"{target} holds the database as it was just now. Keep the secrets folder with it.")


def _copy(source: Path, target: Path) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.close(descriptor)
    with _connected(f"file:{source}?mode=ro") as reader, _connected(f"file:{target}") as writer:
        # In one go: by stretches it would begin anew after each commit of the store.
        reader.backup(writer)
        _require_store(writer, source)
        # A file of its own, without a log beside it.
        writer.execute("PRAGMA journal_mode=DELETE")
        (verdict,) = writer.execute("PRAGMA quick_check").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"the copy is damaged: {verdict}")
    _sync(target)


def _require_store(copy: sqlite3.Connection, source: Path) -> None:
    """Raises CommandError: a copy of an empty database is no backup, and must not be taken for one."""
    try:
        found = copy.execute("SELECT 1 FROM volumes_store").fetchone()
    except sqlite3.OperationalError:
        found = None  # not even its tables
    if found is None:
        raise CommandError(
            f"The database at {source} holds no store, so there is nothing to back up. Is that the one you mean? If "
            "its file was lost, put a backup in its place, or stop the store and run `manage.py rebuild`."
        )


class _connected:  # noqa: N801 - a context manager
    """`sqlite3`'s own context manager ends a transaction and leaves the connection open."""

    def __init__(self, uri: str) -> None:
        self.connection = sqlite3.connect(uri, uri=True, timeout=60)

    def __enter__(self) -> sqlite3.Connection:
        return self.connection

    def __exit__(self, *_: object) -> None:
        self.connection.close()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
