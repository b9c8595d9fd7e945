"""The settings as a fresh process reads them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def python(code: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("WAREHOUSE_", "DATABASE", "REDIS"))
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": "warehouse_site.settings", **env},
        capture_output=True,
        text=True,
        check=False,
    )


def manage(cwd: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    code = (
        f"import sys, runpy; sys.argv = ['manage.py', *{list(arguments)!r}];"
        f"runpy.run_path({str(ROOT / 'manage.py')!r}, run_name='__main__')"
    )
    return python(code, cwd, **env)


def test_importing_writes_nothing_and_needs_no_secret(tmp_path: Path) -> None:
    done = python(
        "import django; django.setup(); from django.urls import reverse; print(reverse('api:keys'))", tmp_path
    )
    assert (done.returncode, done.stdout.strip()) == (0, "/api/v1/keys"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_secret_is_a_clear_message(tmp_path: Path) -> None:
    done = manage(tmp_path, "shell", "-c", "from django.core import signing; signing.dumps(1)")
    assert done.returncode == 1
    assert "django.key is missing" in done.stderr
    assert "manage.py up --init" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_check_is_clean_without_data_and_writes_nothing(tmp_path: Path) -> None:
    done = manage(tmp_path, "check")
    assert (done.returncode, done.stdout.strip()) == (0, "System check identified no issues (0 silenced)."), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("url", "silenced"), [("https://store.example", 0), ("http://store.example:8000", 4)])
def test_check_deploy_is_clean(tmp_path: Path, url: str, silenced: int) -> None:
    made = python("import django; django.setup(); from keys.secrets import ensure_secrets; ensure_secrets()", tmp_path)
    assert made.returncode == 0, made.stderr
    done = manage(tmp_path, "check", "--deploy", "--fail-level", "WARNING", WAREHOUSE_PUBLIC_URL=url)
    assert done.returncode == 0, done.stderr
    assert f"no issues ({silenced} silenced)" in done.stdout


def test_check_deploy_names_missing_secrets(tmp_path: Path) -> None:
    done = manage(tmp_path, "check", "--deploy")
    assert "Traceback" not in done.stderr
    assert done.stderr.count("warehouse.W001") == 4
    assert "manage.py up --init" in done.stderr


def test_wrong_values_are_named_by_a_check(tmp_path: Path) -> None:
    done = manage(tmp_path, "check", WAREHOUSE_PORT="99999", WAREHOUSE_CHUNK_SIZE="80MB", WAREHOUSE_LOG="loud")
    assert done.returncode == 1
    assert done.stderr.count("warehouse.E001") == 3
    for name in ("WAREHOUSE_PORT='99999'", "WAREHOUSE_CHUNK_SIZE='80MB'", "WAREHOUSE_LOG='loud'"):
        assert name in done.stderr


def test_the_environment_becomes_settings(tmp_path: Path) -> None:
    code = (
        "import json; from django.conf import settings as s;"
        "print(json.dumps([str(s.WAREHOUSE_DATA), s.WAREHOUSE_PUBLIC_URL, s.WAREHOUSE_CHUNK_SIZE, s.ALLOWED_HOSTS,"
        "s.DATABASES['default']['ENGINE'], s.CELERY_BROKER_URL, s.CACHES['default']['BACKEND']]))"
    )
    plain = json.loads(python(code, tmp_path).stdout)
    assert plain[:3] == [str(tmp_path / "data"), "http://127.0.0.1:8000", 80 << 20]
    assert plain[3] == ["127.0.0.1", "[::1]", "localhost"]
    assert plain[4:6] == ["warehouse_site.sqlite", "filesystem://localhost//"]
    assert "locmem" in plain[6]
    full = json.loads(
        python(
            code,
            tmp_path,
            WAREHOUSE_DATA="/srv/store",
            WAREHOUSE_PUBLIC_URL="https://store.example/",
            WAREHOUSE_CHUNK_SIZE="1MiB",
            WAREHOUSE_HOSTS="master, other.example",
            DATABASE_URL="postgres://u:p@h/n",
            REDIS_URL="redis://h/0",
        ).stdout
    )
    assert full[:3] == ["/srv/store", "https://store.example", 1 << 20]
    assert set(full[3]) >= {"store.example", "master", "other.example"}
    assert full[4:6] == ["warehouse_site.postgresql", "redis://h/0"]
    assert "redis" in full[6]


def test_sqlite_is_asked_for_durability(tmp_path: Path) -> None:
    code = (
        "import django; django.setup(); from django.db import connection as c; k = c.cursor();"
        "print(k.execute('PRAGMA synchronous').fetchone()[0], k.execute('PRAGMA journal_mode').fetchone()[0],"
        "k.execute('PRAGMA journal_size_limit').fetchone()[0], c.settings_dict['OPTIONS']['transaction_mode'])"
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "db.sqlite3").touch()
    full, journal, kept_bytes, mode = python(code, tmp_path).stdout.split()
    assert (full, kept_bytes, mode) == ("2", str(32 << 20), "IMMEDIATE")
    assert journal in {"persist", "wal"}


def test_a_python_without_the_packages_gets_a_clear_message(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(ROOT / "manage.py"), "up"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "make setup" in done.stderr
    assert "django" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_that_is_not_there_is_a_clear_message(tmp_path: Path) -> None:
    done = manage(tmp_path, "up", "--init", DATABASE_URL="postgres://nobody@127.0.0.1:1/none")
    assert done.returncode == 1
    assert "DATABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WAREHOUSE_SIGNING_KEY", "ab" * 16),
        ("WAREHOUSE_SIGNING_KEY", "not hex" * 10),
        ("WAREHOUSE_JWT_KEY", "-----BEGIN PRIVATE KEY-----"),
        ("DATABASE_URL", "store.sqlite3"),
        ("DATABASE_URL", "mysql://user:hidden@host/name"),
        ("DATABASE_URL", "postgres://user:hidden@host:port/name"),
        ("REDIS_URL", "localhost:6379"),
        ("WAREHOUSE_DATA", "a file"),
        ("WAREHOUSE_DATA", "a file/data"),
        ("WAREHOUSE_PUBLIC_URL", "https://example.com/store"),
    ],
)
def test_what_cannot_be_used_is_said_early(tmp_path: Path, name: str, value: str) -> None:
    (tmp_path / "a file").touch()
    done = manage(tmp_path, "up", "--init", **{name: value})
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if name in line and "cannot be used: " in line], done.stderr
    assert "Traceback" not in done.stderr
    assert "hidden" not in done.stderr
    codes = {"DATABASE_URL": "warehouse.E004", "REDIS_URL": "warehouse.E005"}
    assert codes.get(name, "warehouse.E00") in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


def test_what_a_start_writes_is_for_its_user_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o755)
    done = manage(tmp_path, "up", "--init")
    assert done.returncode == 0, done.stderr
    assert data.stat().st_mode & 0o077 == 0
    written = list(data.rglob("*"))
    assert data / "db.sqlite3" in written
    assert [path for path in written if path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize("command", ["createkey --name x", "compact --all", "scrub 5", "rotatekeys"])
def test_a_command_without_a_store_is_a_clear_message(tmp_path: Path, command: str) -> None:
    done = manage(tmp_path, *command.split())
    assert done.returncode == 1
    assert str(tmp_path / "data") in done.stderr
    assert "manage.py up --init" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "db.sqlite3").touch()
    done = manage(tmp_path, *command.split())  # an empty database
    assert "no such table" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_traceback_is_there_for_whoever_asks(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "db.sqlite3").touch()
    assert "Traceback" in manage(tmp_path, "rotatekeys", "--traceback").stderr
