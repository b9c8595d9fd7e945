"""`manage.py backup`: what it refuses. What it copies is shown where a store lives from the copy."""

import sqlite3
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

pytestmark = pytest.mark.skipif(connection.vendor != "sqlite", reason="for PostgreSQL there is pg_dump")


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the settings say that the database is; nothing is there yet."""
    path = tmp_path / "db.sqlite3"
    monkeypatch.setitem(connection.settings_dict, "NAME", str(path))
    return path


def statements(path: Path, *texts: str) -> None:
    store = sqlite3.connect(path)
    for text in texts:
        store.execute(text)
    store.commit()
    store.close()


TABLE = "CREATE TABLE volumes_store (id)"


@pytest.mark.parametrize("texts", [(), (TABLE,)], ids=["no tables", "no store"])
def test_an_empty_database_is_no_backup(database: Path, tmp_path: Path, texts: tuple[str, ...]) -> None:
    statements(database, *texts)
    with pytest.raises(CommandError, match=r"holds no store.*manage.py rebuild"):
        call_command("backup", str(tmp_path / "copy"))
    assert [path.name for path in tmp_path.iterdir()] == ["db.sqlite3"]


def test_a_lost_database_is_told_and_not_made(database: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="There is no database"):
        call_command("backup", str(tmp_path / "copy"))
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_copied(database: Path, tmp_path: Path) -> None:
    statements(database, TABLE, "INSERT INTO volumes_store VALUES (1)")
    call_command("backup", str(tmp_path / "copy"))
    copy = sqlite3.connect(tmp_path / "copy")
    assert copy.execute("SELECT id FROM volumes_store").fetchall() == [(1,)]
    copy.close()
