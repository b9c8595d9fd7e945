"""The database's file: who makes one, and what happens when it is removed or replaced under an open connection."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.db import OperationalError, connections
from django.db.utils import ConnectionHandler
from pytest_django import Settings
from rest_framework.test import APIClient

from tests.support.programs import ROOT, clean_environment
from warehouse_site import up
from warehouse_site.sqlite.base import DatabaseWrapper
from warehouse_site.sqlite.file import LOOK_EVERY_S, DatabaseLost, file_of

pytestmark = pytest.mark.django_db

Advance = Callable[[float], None]


def connect(path: Path) -> DatabaseWrapper:
    made = ConnectionHandler({"default": {"ENGINE": "warehouse_site.sqlite", "NAME": str(path)}})["default"]
    assert isinstance(made, DatabaseWrapper)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a database file that nobody has opened yet."""
    path = tmp_path / "a %?#é.sqlite3"
    file = file_of(str(path))
    assert file is not None
    file.make()
    return path


@pytest.fixture
def wrapper(path: Path) -> Iterator[DatabaseWrapper]:
    made = connect(path)
    with made.cursor() as cursor:
        cursor.execute("CREATE TABLE kept (id)")
    yield made
    made.close()


@pytest.fixture
def advance(wrapper: DatabaseWrapper, monkeypatch: pytest.MonkeyPatch) -> Advance:
    """Lets so many seconds go by for whoever looks at the file. The last look was right now."""
    now_s = [1_000_000.0]
    monkeypatch.setattr(wrapper.file, "_clock", lambda: now_s[0])
    write(wrapper)

    def advance(seconds: float) -> None:
        now_s[0] += seconds

    return advance


def write(wrapper: DatabaseWrapper) -> None:
    with wrapper.cursor() as cursor:
        cursor.execute("INSERT INTO kept VALUES (1)")


def count(wrapper: DatabaseWrapper) -> int:
    with wrapper.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM kept")
        return int(cursor.fetchone()[0])


def test_a_file_is_opened_by_its_very_name_and_for_its_user_alone(path: Path, wrapper: DatabaseWrapper) -> None:
    write(wrapper)
    assert path.stat().st_size > 0
    assert path.stat().st_mode & 0o777 == 0o600


def test_nobody_makes_a_database_by_looking_for_one(tmp_path: Path) -> None:
    missing = connect(tmp_path / "db.sqlite3")
    with pytest.raises(OperationalError, match="unable to open"), missing.cursor():
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_lost_file_is_noticed_within_a_second(
    path: Path, wrapper: DatabaseWrapper, advance: Advance, how: str
) -> None:
    kept = path.with_name("kept")
    path.rename(kept)
    if how == "replaced":
        path.touch()
    assert count(wrapper) == 1, "nobody has looked yet"
    advance(LOOK_EVERY_S)
    for _ in range(3):  # each time, not once a second
        with pytest.raises(DatabaseLost, match=f"was {how} while the store ran"):
            write(wrapper)
    other = connect(path)
    with pytest.raises(DatabaseLost), other.cursor():
        pass  # neither does another thread of the process go on with what is there now
    path.unlink(missing_ok=True)
    kept.rename(path)
    write(wrapper)
    other = connect(path)
    assert count(other) == 2
    other.close()


def test_what_cannot_be_looked_at_is_not_taken_for_lost(
    wrapper: DatabaseWrapper, advance: Advance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(wrapper.file, "_identity", refuse)
    advance(LOOK_EVERY_S)
    write(wrapper)


def test_the_end_of_the_journal_is_read_from_a_lost_file(
    path: Path, wrapper: DatabaseWrapper, advance: Advance, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.unlink()
    advance(LOOK_EVERY_S)
    assert wrapper.file is not None
    monkeypatch.setattr(wrapper.file, "is_minded", False)
    assert count(wrapper) == 1


def test_the_api_says_what_happened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = file_of(str(tmp_path / "db.sqlite3"))
    assert file is not None
    file.make()
    file.note_opened()
    (tmp_path / "db.sqlite3").unlink()

    def lost(*_: object) -> None:
        file.require_same()

    monkeypatch.setattr(type(connections["default"]), "cursor", lost)
    answer = APIClient().post("/api/v1/tokens", {"key": f"whk_1_{'a' * 43}"}, format="json")
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert "removed while the store ran" in answer.json()["detail"]
    assert str(tmp_path) not in answer.json()["detail"]
    health = APIClient().get("/api/v1/health")
    assert (health.status_code, health.json()["status"]) == (503, "unavailable")


@pytest.mark.parametrize("content", [None, b""], ids=["missing", "empty"])
def test_up_makes_no_new_store_beside_volumes(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    settings.WAREHOUSE_DATA, settings.DATABASE_URL = tmp_path, ""
    (tmp_path / "volumes" / "1").mkdir(parents=True)
    (tmp_path / "volumes" / "1" / "0000000001.vol").write_bytes(b"all there is")
    if content is not None:
        (tmp_path / "db.sqlite3").write_bytes(content)
    monkeypatch.setattr("warehouse_site.lost_database.connection", connect(tmp_path / "db.sqlite3"))
    with pytest.raises(up.CannotStart, match=f"rebuild --from {tmp_path / 'volumes'}"):
        up.prepare()
    assert not (tmp_path / "secrets").exists()


def test_a_command_in_a_folder_whose_database_is_lost_names_the_rebuild(tmp_path: Path) -> None:
    (tmp_path / "volumes" / "1").mkdir(parents=True)
    (tmp_path / "volumes" / "1" / "0000000001.vol").write_bytes(b"all there is")
    done = subprocess.run(
        [sys.executable, "manage.py", "createkey"],
        cwd=ROOT,
        env=clean_environment(WAREHOUSE_DATA=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"manage.py rebuild --from {tmp_path / 'volumes'}" in done.stderr
    assert "--init" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["volumes"]
