"""A real store loses its database, and gets it back out of its volumes."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import STORE_KINDS, StartStore
from tests.support.api import Api
from tests.support.programs import ROOT
from tests.support.store import CHUNK_SIZE, Store
from tests.support.waiting import wait_until

SETTINGS = {"WAREHOUSE_CHUNK_SIZE": str(CHUNK_SIZE), "WAREHOUSE_JOURNAL_SECONDS": "1"}


def manage(store: Store, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**store.env, "WAREHOUSE_DATA": str(store.data)}
    return subprocess.run(
        [sys.executable, "manage.py", *arguments], env=env, cwd=ROOT, capture_output=True, text=True, check=False
    )


def rebuild(store: Store, *options: str) -> tuple[int, dict[str, Any]]:
    done = manage(store, "rebuild", "--from", str(store.data / "volumes"), "--json", *options)
    assert done.returncode in (0, 1), done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, report


def delete_database(store: Store) -> None:
    """Under whatever uses it."""
    if "DATABASE_URL" not in store.env:
        for path in store.data.glob("db.sqlite3*"):
            path.unlink()
        return
    import psycopg

    with psycopg.connect(store.env["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


def wait_for_journal(api: Api) -> None:
    def is_told() -> bool:
        journal = api.get("health")["journal"]
        return journal["state"] == "ok" and journal["commits_behind"] == 0

    wait_until(is_told, what="the journal")


@pytest.mark.parametrize("kind", STORE_KINDS)
def test_a_database_that_is_deleted_under_a_running_store_comes_back(
    start_store: StartStore, tmp_path: Path, kind: str
) -> None:
    with start_store(tmp_path, kind=kind, env=SETTINGS) as store:
        api = store.api()
        bucket = api.make_bucket("b", quota_objects=1000)
        expected = {}
        for number in range(20):
            expected[f"key{number}"] = b"%d" % number
            api.put(bucket, f"key{number}", expected[f"key{number}"])
        [worker] = [part for part in store.parts if part.name == "worker"]
        worker.kill(signal.SIGKILL)  # wherever it was
        worker.restart(store.log)
        expected["large"] = b"l" * (2 * CHUNK_SIZE + 5)
        api.put_chunks(bucket, "large", expected["large"])
        api.post(f"buckets/{bucket}/delete", {"keys": ["key1", "key2"]}, status=200)
        api.post(f"buckets/{bucket}/rename", {"renames": [{"from": "key3", "to": "renamed"}]}, status=200)
        del expected["key1"], expected["key2"]
        expected["renamed"] = expected.pop("key3")
        wait_for_journal(api)
        api.put(bucket, "late", b"late")
        expected["late"] = b"late"
        delete_database(store)
        store.stop(signal.SIGKILL if kind == "sqlite" else signal.SIGTERM)

        code, report = rebuild(store)
        assert not report["uncertain"], report
        assert not report["unreadable"], report
        assert code == (0 if report["certain"] else 1)
        store.start()
        api = store.api()
        assert {found["key"] for found in api.get(f"buckets/{bucket}/objects")["results"]} == expected.keys()
        for key, data in expected.items():
            assert api.read(bucket, key) == data, key
        assert api.get(f"buckets/{bucket}")["quota_objects"] == 1000
        assert api.get(f"buckets/{bucket}")["object_count"] == len(expected)
        api.put(bucket, "new", b"new")
        assert api.read(bucket, "new") == b"new"
        wait_for_journal(api)


def test_a_clean_stop_leaves_nothing_untold(start_store: StartStore, tmp_path: Path) -> None:
    with start_store(tmp_path, env={**SETTINGS, "WAREHOUSE_JOURNAL_SECONDS": "3600"}) as store:
        api = store.api()
        bucket = api.make_bucket("b")
        api.put(bucket, "kept", b"kept")
        api.put(bucket, "gone", b"gone")
        done = manage(store, "shell", "--command", "from buckets.services.journal import *; write_journal(seconds=60)")
        assert done.returncode == 0, done.stderr
        api.post(f"buckets/{bucket}/delete", {"keys": ["gone"]}, status=200)
        api.put(bucket, "last", b"last")
        assert store.stop() == 0
        delete_database(store)
        code, report = rebuild(store)
        assert (code, report["certain"]) == (0, True), report
        store.start()
        found = store.api().get(f"buckets/{bucket}/objects")["results"]
        assert {one["key"] for one in found} == {"kept", "last"}


def test_yesterdays_database_is_refused_and_a_rebuild_mends_it(start_store: StartStore, tmp_path: Path) -> None:
    with start_store(tmp_path, env=SETTINGS) as store:
        api = store.api()
        bucket = api.make_bucket("b")
        api.put(bucket, "yesterday", b"yesterday")
        backup = tmp_path / "backup.sqlite3"
        done = manage(store, "backup", str(backup))
        assert done.returncode == 0, done.stderr
        assert manage(store, "backup", str(backup)).returncode == 1, "it was overwritten"
        api.put(bucket, "today", b"today")
        api.post(f"buckets/{bucket}/delete", {"keys": ["yesterday"]}, status=200)
        wait_for_journal(api)
        for part in store.parts:
            if part.name in ("worker", "beat"):
                part.kill(signal.SIGTERM)
        store.stop_master()
        delete_database(store)
        shutil.copy(backup, store.data / "db.sqlite3")
        store.start_master()

        def refusal() -> str | None:
            answer = api.request("POST", f"buckets/{bucket}/leases", {"count": 1, "max_bytes": 1})
            return answer.code if answer.status == 503 else None

        wait_until(lambda: refusal() == "leases_halted", what="the refusal")
        assert api.read(bucket, "yesterday") == b"yesterday", "nothing was deleted"
        store.stop()
        delete_database(store)
        _, report = rebuild(store)
        store.start()
        api = store.api()
        assert {one["key"] for one in api.get(f"buckets/{bucket}/objects")["results"]} == {"today"}, report
        assert api.read(bucket, "today") == b"today"
