"""Each thing that a system check can find, found."""

import fcntl
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core import checks
from django.core.checks import CheckMessage
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from keys.secrets import secrets_folder
from tests.support.programs import ROOT, clean_environment
from tests.unit.volumes.factories import make_server
from volume_server.record import MAX_DATA_BYTES
from warehouse_site import checks as ours
from warehouse_site import database_checks, gunicorn_conf, up
from warehouse_site.check_ids import KNOWN
from warehouse_site.checks import workers_asked_for
from warehouse_site.environment import Environment

TESTS = [Path(__file__), Path(__file__).parent / "test_settings.py"]


def run(*, deploy: bool = False, databases: list[str] | None = None) -> list[CheckMessage]:
    found = checks.run_checks(include_deployment_checks=deploy, databases=databases)
    return [message for message in found if (message.id or "").startswith("warehouse.")]


def ids(**options: Any) -> list[str]:
    return [str(message.id) for message in run(**options)]


def one(identifier: str, **options: Any) -> str:
    """The text of the one message of this id; its hint is there too."""
    [message] = [message for message in run(**options) if message.id == identifier]
    assert message.hint == KNOWN[identifier].hint
    return str(message.msg)


def test_a_store_as_it_should_be_has_nothing() -> None:
    assert ids() == []


def test_each_is_found_by_a_test() -> None:
    tests = "".join(path.read_text() for path in TESTS)
    assert [known for known in KNOWN if known.rpartition(".")[2] not in tests] == []


def test_each_says_what_to_do() -> None:
    for known in KNOWN.values():
        assert known.meaning.endswith(".")
        assert known.hint.endswith(".")


def test_the_table_in_the_operations_is_what_the_code_knows() -> None:
    written = (ROOT / "docs" / "operations.md").read_text()
    [table] = re.findall(r"<!-- checks -->\n(.*?)\n<!-- /checks -->", written, re.DOTALL)
    rows = [f"| `{known.id}` | {known.meaning} | {known.hint} |" for known in KNOWN.values()]
    assert table.splitlines() == ["| id | what it means | what to do |", "|---|---|---|", *rows]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WAREHOUSE_PUBLIC_URL", "https://store.example/path"),
        ("WAREHOUSE_CHUNK_SIZE", "256MiB"),
        ("WAREHOUSE_GET_SECONDS", "901"),
    ],
)
def test_values_that_cannot_be(settings: Settings, name: str, value: str, tmp_path: Path) -> None:
    env = clean_environment(WAREHOUSE_DATA=str(tmp_path / "data"), **{name: value})
    done = subprocess.run(
        [sys.executable, "manage.py", "check"], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"(warehouse.E001) {name}='{value}' cannot be used" in done.stderr
    assert KNOWN["warehouse.E001"].hint in done.stderr


def test_the_largest_chunk_is_one_that_a_needle_holds() -> None:
    env = Environment({"S": "255MiB"})
    assert env.size("S", "1", "", least=1, most=255 << 20) <= MAX_DATA_BYTES


def test_misspelt_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAREHOUSE_CHUNKSIZE", "1MiB")
    monkeypatch.setenv("WAREHOUSE_KEY", "whk_1_x")  # the SDK's
    assert one("warehouse.W004") == "WAREHOUSE_CHUNKSIZE is no setting of the store. Is WAREHOUSE_CHUNK_SIZE meant?"


@pytest.mark.parametrize("make", ["file", "below a file", "read-only"])
def test_a_data_folder_that_cannot_be(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: str
) -> None:
    (tmp_path / "file").touch()
    places = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "data", "read-only": tmp_path / "new"}
    settings.WAREHOUSE_DATA = places[make]
    if make == "read-only":
        assert "warehouse.E002" not in ids()
        monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
        assert "may not write" in one("warehouse.E002")
    assert str(tmp_path) in one("warehouse.E002")


def _refuse(*_: Any) -> None:
    raise OSError(37, "No locks available")


@pytest.mark.parametrize(("lock", "says"), [(_refuse, "No locks available"), (lambda *_: None, "the same lock")])
def test_a_file_system_without_locks(monkeypatch: pytest.MonkeyPatch, lock: Callable[..., None], says: str) -> None:
    monkeypatch.setattr(fcntl, "flock", lock)
    assert says in one("warehouse.E006")


def test_looking_for_locks_leaves_nothing_behind(settings: Settings, tmp_path: Path) -> None:
    settings.WAREHOUSE_DATA = tmp_path
    assert "warehouse.E006" not in ids()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def secrets(settings: Settings, tmp_path: Path) -> Path:
    from keys.secrets import ensure_secrets

    settings.WAREHOUSE_DATA = tmp_path / "data"
    ensure_secrets()
    assert ids(deploy=True) == []
    return secrets_folder()


def test_secrets_that_are_missing(secrets: Path) -> None:
    (secrets / "join.token").unlink()
    assert one("warehouse.W001", deploy=True) == "The secret join.token is missing."
    assert ids() == []


def test_secrets_that_cannot_be_read(secrets: Path) -> None:
    (secrets / "signing.key").unlink()
    (secrets / "signing.key").mkdir()
    assert "signing.key" in one("warehouse.E003")


def test_secrets_that_others_can_read(secrets: Path) -> None:
    (secrets / "jwt.pem").chmod(0o640)
    assert one("warehouse.W003") == f"{secrets / 'jwt.pem'} has mode 0640."
    (secrets / "jwt.pem").chmod(0o400)
    assert ids() == []
    secrets.chmod(0o755)
    assert one("warehouse.W003") == f"{secrets} has mode 0755."


@pytest.mark.parametrize(
    ("concurrency", "arguments", "workers"),
    [
        ("", "", 1),
        ("3", "", 3),
        ("x", "", 1),
        ("3", "--workers 1", 1),
        ("", "--bind x -w 4 --threads 2", 4),
        ("", "--workers=2", 2),
    ],
)
def test_workers_without_redis(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, concurrency: str, arguments: str, workers: int
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", concurrency)
    monkeypatch.setenv("GUNICORN_CMD_ARGS", arguments)
    assert workers_asked_for(concurrency, arguments) == workers
    assert ids() == []  # `up` starts one worker whatever this says
    if workers > 1:
        assert f"{workers} gunicorn workers" in one("warehouse.E007", deploy=True)
    else:
        assert "warehouse.E007" not in ids(deploy=True)
    settings.REDIS_URL = "redis://host/0"
    assert "warehouse.E007" not in ids(deploy=True)


def test_gunicorn_does_not_start_several_workers_without_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    gunicorn_conf.on_starting(SimpleNamespace(cfg=SimpleNamespace(workers=1)))
    two = SimpleNamespace(cfg=SimpleNamespace(workers=2))
    with pytest.raises(SystemExit, match=r"warehouse\.E007: 2 gunicorn workers"):
        gunicorn_conf.on_starting(two)
    monkeypatch.setenv("REDIS_URL", "redis://host/0")
    gunicorn_conf.on_starting(two)


def test_debug_under_https(settings: Settings) -> None:
    settings.DEBUG = True
    assert ids() == []
    settings.WAREHOUSE_PUBLIC_URL = "https://store.example"
    assert "https://store.example" in one("warehouse.E009")


def test_a_clock_that_is_years_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "time", SimpleNamespace(time=lambda: 0.0, strftime=time.strftime, gmtime=time.gmtime))
    assert "1970-01-01" in one("warehouse.E010")


def test_chunks_that_no_volume_has_room_for(settings: Settings) -> None:
    settings.WAREHOUSE_VOLUME_SIZE = settings.WAREHOUSE_CHUNK_SIZE + 100
    assert str(settings.WAREHOUSE_CHUNK_SIZE) in one("warehouse.E011")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"WAREHOUSE_CONFIRM_GRACE_SECONDS": 5}, "WAREHOUSE_CONFIRM_GRACE_SECONDS=5"),
        ({"WAREHOUSE_UPLOAD_SECONDS": 60}, "WAREHOUSE_UPLOAD_SECONDS=60"),
        ({"WAREHOUSE_ACCESS_SECONDS": 300, "WAREHOUSE_REFRESH_SECONDS": 300}, "WAREHOUSE_REFRESH_SECONDS=300"),
    ],
)
def test_lifetimes_that_do_not_fit(settings: Settings, changed: dict[str, int], named: str) -> None:
    for name, value in changed.items():
        setattr(settings, name, value)
    assert named in one("warehouse.W005")


def test_an_old_sqlite(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warehouse_site.sqlite.choose", lambda: (3, 34, 1))
    if connection.vendor == "sqlite":
        assert "3.34.1" in one("warehouse.E008")
    else:
        assert ids() == []


# -- asked of the database itself --------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_journal_in_force_is_said() -> None:
    messages = run(databases=["default"])
    if connection.vendor != "sqlite":
        assert messages == []
        return
    [message] = messages
    assert (message.id, message.hint) == ("warehouse.I001", None)
    assert sqlite3.sqlite_version in str(message.msg)


@pytest.mark.django_db
def test_another_journal_than_asked_for(settings: Settings) -> None:
    if connection.vendor != "sqlite":
        return
    settings.SQLITE_JOURNAL_MODE = "WAL" if settings.SQLITE_JOURNAL_MODE == "PERSIST" else "PERSIST"
    assert settings.SQLITE_JOURNAL_MODE in one("warehouse.W002", databases=["default"])


def _answers(monkeypatch: pytest.MonkeyPatch, **changed: str) -> None:
    """A PostgreSQL that answers so."""
    usual = {"encoding": "UTF8", "reserved": "3", "max_connections": "100", "epoch": str(time.time())} | changed
    monkeypatch.setattr(
        database_checks, "_ask", lambda _, statement: next(v for k, v in usual.items() if k in statement)
    )
    monkeypatch.setattr(database_checks, "_of_what_was_heard", lambda _: [])


@pytest.mark.parametrize(
    ("changed", "identifier", "says"),
    [
        ({"encoding": "LATIN1"}, "warehouse.E012", "LATIN1"),
        ({"max_connections": "20"}, "warehouse.W006", "takes 17 connections"),
        ({"epoch": "0"}, "warehouse.W007", "behind this machine's"),
        ({"epoch": str(time.time() + 9999)}, "warehouse.W007", "ahead of this machine's"),
    ],
)
def test_a_postgresql_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], identifier: str, says: str
) -> None:
    server: Any = SimpleNamespace(vendor="postgresql")
    _answers(monkeypatch)
    assert database_checks.of(server) == []
    _answers(monkeypatch, **changed)
    [message] = database_checks.of(server)
    assert (message.id, message.hint) == (identifier, KNOWN[identifier].hint)
    assert says in str(message.msg)


@pytest.mark.django_db
def test_a_clock_that_was_set_back() -> None:
    make_server(last_seen_at=timezone.now() + timedelta(hours=2))
    assert "in the future" in one("warehouse.W007", databases=["default"])


def test_a_start_on_an_unfit_database_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from warehouse_site.check_ids import found

    message = found("warehouse.E012", "The database is in LATIN1.")
    monkeypatch.setattr(up, "run_checks", lambda **_: [message])
    with pytest.raises(up.CannotStart, match=r"LATIN1.*CREATE DATABASE.*warehouse\.E012"):
        up._require_fit_database()


def test_a_start_tells_what_is_odd_about_the_database(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from warehouse_site.check_ids import found

    odd = [found("warehouse.I001", "A journal."), found("warehouse.W006", "Few connections.")]
    monkeypatch.setattr(up, "run_checks", lambda **_: odd)
    up._require_fit_database()
    assert ["W006" in line for line in caplog.messages] == [True]
