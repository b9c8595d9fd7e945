"""A real store loses its database, and gets it back out of its volumes, or from a backup."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cluster.test_proof import SOUND
from tests.cluster.test_redundancy import (
    all_whole,
    client_of,
    fill,
    require_all,
    require_equal_files,
    server_id,
    wait_for_volumes,
)
from tests.conftest import STORE_KINDS, StartStore
from tests.support.api import Api
from tests.support.programs import program
from tests.support.store import CHUNK_SIZE, Store
from tests.support.waiting import wait_until

SETTINGS = {"WAREHOUSE_CHUNK_SIZE": str(CHUNK_SIZE), "WAREHOUSE_JOURNAL_SECONDS": "1"}


def rebuild(store: Store, *options: str) -> tuple[int, dict[str, Any]]:
    done = store.manage("rebuild", "--from", str(store.data / "volumes"), "--json", *options)
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
        done = store.manage("shell", "--command", "from buckets.services.journal import *; write_journal(seconds=60)")
        assert done.returncode == 0, done.stderr
        api.post(f"buckets/{bucket}/delete", {"keys": ["gone"]}, status=200)
        api.put(bucket, "last", b"last")
        delete_database(store)  # under it: whoever has it open reads it to its end
        wait_until(lambda: api.request("GET", "health").status == 503, what="the loss to be noticed")
        assert api.request("POST", f"buckets/{bucket}/delete", {"keys": ["kept"]}).status == 503
        assert store.stop() == 0
        assert not (store.data / "db.sqlite3").exists(), "somebody made an empty one"
        code, report = rebuild(store)
        assert (code, report["certain"]) == (0, True), report
        store.start()
        found = store.api().get(f"buckets/{bucket}/objects")["results"]
        assert {one["key"] for one in found} == {"kept", "last"}


def keep_database(store: Store, backup: Path) -> None:
    """Of a running store, as docs/operations.md has it."""
    if "DATABASE_URL" not in store.env:
        done = store.manage("backup", str(backup))
        assert done.returncode == 0, done.stderr
        assert store.manage("backup", str(backup)).returncode == 1, "it was overwritten"
        return
    with backup.open("wb") as file:
        subprocess.run([of_postgres("pg_dump"), "-Fc", store.env["DATABASE_URL"]], stdout=file, check=True)


def put_database_back(store: Store, backup: Path) -> None:
    if "DATABASE_URL" not in store.env:
        delete_database(store)
        shutil.copy(backup, store.data / "db.sqlite3")
        return
    import psycopg

    url = store.env["DATABASE_URL"]
    parts = urlsplit(url)
    name = parts.path.strip("/")
    with psycopg.connect(parts._replace(path="/postgres").geturl(), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    place = ["-h", str(parts.hostname), "-p", str(parts.port), "-U", str(parts.username)]
    subprocess.run([of_postgres("createdb"), *place, name], check=True)
    subprocess.run([of_postgres("pg_restore"), "--no-owner", "-d", url, str(backup)], check=True)


def of_postgres(name: str) -> str:
    found = program(name, f"usr/lib/postgresql/*/bin/{name}")
    assert found, f"{name} is not installed"
    return found


@pytest.mark.parametrize("kind", STORE_KINDS)
def test_yesterdays_database_is_refused_and_a_rebuild_mends_it(
    start_store: StartStore, tmp_path: Path, kind: str
) -> None:
    with start_store(tmp_path, kind=kind, env=SETTINGS) as store:
        api = store.api()
        bucket = api.make_bucket("b")
        api.put(bucket, "yesterday", b"yesterday")
        backup = tmp_path / "backup"
        keep_database(store, backup)
        api.put(bucket, "today", b"today")
        api.post(f"buckets/{bucket}/delete", {"keys": ["yesterday"]}, status=200)
        wait_for_journal(api)
        for part in store.parts:
            if part.name in ("worker", "beat"):
                part.kill(signal.SIGTERM)
        store.stop_master()
        put_database_back(store, backup)
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


OLD = (
    "from django.core.management import call_command; from buckets.services import fsck; fsck.MARGIN_S = -100_000; "
    "call_command({!r}, {!r})"
)
"""A command for which every needle is older than its lease."""


def test_copies_of_which_one_is_behind_and_what_is_wrong_with_copies(start_store: StartStore, tmp_path: Path) -> None:
    """A server's directory is an older copy when the database is lost; later a needle is gone, one is nobody's, and one
    copy has other bytes: each is told, and mended by what is told with it."""
    with start_store(tmp_path, env={**SETTINGS, "WAREHOUSE_SWEEP_SECONDS": "1"}) as store, client_of(store) as client:
        api = store.api()
        bodies = fill(store, client, count=6)
        wait_for_journal(api)
        behind = store.servers[1]
        behind.kill(signal.SIGKILL)
        shutil.copytree(behind.data, tmp_path / "behind")
        store.restart_servers(behind)
        for number in range(4):
            bodies[f"later/{number}"] = os.urandom(300)
            client.put("b", f"later/{number}", bodies[f"later/{number}"])
        api.post("buckets/b/delete", {"keys": ["small/0"]}, status=200)
        del bodies["small/0"]
        wait_for_journal(api)
        bodies["last"] = b"last"
        client.put("b", "last", bodies["last"])
        delete_database(store)
        store.stop(signal.SIGKILL)
        shutil.rmtree(behind.data)
        shutil.copytree(tmp_path / "behind", behind.data)

        _, report = rebuild(store)
        # A put that met the copy's absence may have been tried twice; the first try is nobody's.
        assert all(one["what"].startswith("not taken") for one in report["uncertain"]), report
        assert not report["unreadable"], report
        store.start()
        wait_for_volumes(api, "all volumes to be whole", all_whole)
        assert {one["key"] for one in api.get("buckets/b/objects")["results"]} == bodies.keys()
        require_all(client, bodies)
        require_equal_files(store, api)
        assert store.manage("fsck", "--deep").stdout.splitlines()[-1] == SOUND

        lease = api.lease("b")
        store.stop_master()
        assert lease.put(0, "orphan", b"orphan").status == 503
        store.start_master()
        store.wait_for_servers()
        volume, missing = place_of(api, "small/1")
        code = (
            "from volumes import client; from volumes.selectors import primaries_of; "
            f"client.delete_needles(primaries_of([{volume}])[{volume}], {volume}, [int('{missing}', 16)])"
        )
        wait_until(lambda: store.manage("shell", "--command", code).returncode == 0, what="a tombstone on both copies")
        volume, divergent = place_of(api, "large/1")
        spoilt = store.servers[0]
        with (spoilt.data / f"{volume:010d}.vol").open("r+b") as file:
            file.seek(file.read().index(bodies["large/1"][:100]))
            file.write(bytes([bodies["large/1"][0] ^ 1]))

        lines = store.manage("shell", "--command", OLD.format("fsck", "--deep")).stdout.splitlines()
        counts = re.fullmatch(r"2 missing, (\d+) orphaned, 1 divergent", lines[-1])
        assert counts, lines
        orphans = int(counts[1])  # the first try of a put that was tried twice is one, too
        assert orphans >= 1
        told = {line.partition(":")[0]: line for line in lines}
        named = [line for line in lines if missing in line]
        assert len(named) == 2
        assert all("object 'small/1' in bucket 'b'" in line for line in named)
        [named_copy] = [line for line in lines if divergent in line]
        assert f" {server_id(spoilt)[:8]}" in named_copy

        assert "put the objects named above again" in told["missing"]
        client.put("b", "small/1", bodies["small/1"])

        assert "stop its server, remove the volume's files (N.*) there, start it" in told["divergent"]
        spoilt.kill(signal.SIGTERM)
        for path in spoilt.data.glob(f"{volume:010d}.*"):
            path.unlink()
        store.restart_servers(spoilt)
        wait_for_volumes(api, "all volumes to be whole", all_whole)

        assert "`manage.py sweep --delete` does so now" in told["orphaned"]
        for deleted in (0, orphans):
            swept = store.manage("shell", "--command", OLD.format("sweep", "--delete")).stdout
            assert f"{orphans} orphans, {deleted} deleted" in swept

        assert store.manage("shell", "--command", OLD.format("fsck", "--deep")).stdout.splitlines()[-1] == SOUND
        require_all(client, bodies)
        require_equal_files(store, api)


def place_of(api: Api, key: str) -> tuple[int, str]:
    """Volume and needle of an object's first chunk."""
    path = api.look_up("b", key)[key]["chunks"][0]["urls"][0].split("?")[0]
    return int(path.split("/")[-2]), path[-16:]
