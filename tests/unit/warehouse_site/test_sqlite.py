"""Which SQLite is used, and that its journal loses nothing."""

import sqlite3
import subprocess
import sys
from types import ModuleType

import pytest
from django.db import connection

from warehouse_site import sqlite


@pytest.mark.parametrize(
    ("version", "is_safe"),
    [
        ((3, 40, 1), False), ((3, 44, 5), False), ((3, 44, 6), True), ((3, 45, 0), False), ((3, 50, 6), False),
        ((3, 50, 7), True), ((3, 51, 2), False), ((3, 51, 3), True), ((3, 53, 0), True), ((4, 0, 0), True),
    ],
)  # fmt: skip
def test_versions_with_the_fix(version: tuple[int, ...], is_safe: bool) -> None:
    assert sqlite.wal_is_safe(version) == is_safe


def module(name: str, version: tuple[int, int, int]) -> ModuleType:
    made = ModuleType(name)
    made.sqlite_version_info = version  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize(
    ("own", "wheel", "chosen"),
    [
        ((3, 40, 1), (3, 53, 4), "pysqlite3"),
        ((3, 51, 3), (3, 53, 4), "sqlite3"),
        ((3, 40, 1), None, "sqlite3"),
    ],
)
def test_newer_one_takes_the_place_of_one_that_is_not_fit_for_wal(
    monkeypatch: pytest.MonkeyPatch,
    own: tuple[int, int, int],
    wheel: tuple[int, int, int] | None,
    chosen: str,
) -> None:
    monkeypatch.setitem(sys.modules, "sqlite3", module("sqlite3", own))
    monkeypatch.setitem(sys.modules, "sqlite3.dbapi2", module("dbapi2", own))
    for name in ("pysqlite3", "pysqlite3.dbapi2"):
        monkeypatch.setitem(sys.modules, name, None if wheel is None else module(name, wheel))  # type: ignore[arg-type]
    assert sqlite.choose() == (wheel if chosen == "pysqlite3" else own)
    assert sys.modules["sqlite3"].__name__ == chosen
    sqlite.choose()
    assert sys.modules["sqlite3"].__name__ == chosen


def test_django_uses_what_was_chosen() -> None:
    """In an interpreter of its own: here somebody may have imported either before."""
    code = (
        "import django; from django.conf import settings; django.setup(); "
        "from django.db.backends.sqlite3.base import Database; "
        "print(Database.sqlite_version, settings.SQLITE_JOURNAL_MODE)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    version, mode = done.stdout.split()
    is_safe = sqlite.wal_is_safe(tuple(int(part) for part in version.split(".")))
    assert mode == ("WAL" if is_safe else "PERSIST")
    assert version == sqlite3.sqlite_version


@pytest.mark.django_db
def test_parameters_find_their_places_again_and_again() -> None:
    """On either database: what is kept of a statement must not depend on its first parameters."""
    with connection.cursor() as cursor:
        for value in ("%s", "?", "a%b"):
            cursor.execute("SELECT %s, '100%%', %s", [value, 7])
            assert cursor.fetchone() == (value, "100%", 7)
            cursor.execute("SELECT %(one)s, %(two)s", {"two": value, "one": 1})
            assert cursor.fetchone() == (1, value)
        cursor.execute("SELECT '%s'")
        assert cursor.fetchone() == ("%s",)
