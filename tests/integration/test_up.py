"""`manage.py up`: it starts all, says so, and leaves nothing behind, however it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartStore
from tests.support.programs import ROOT, argv_of, children_of, clean_environment, family_of, is_alive
from tests.support.store import Store
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def small(start_store: StartStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One volume server and no worker, for tests that leave it whole."""
    with start_store(tmp_path_factory.mktemp("small"), volume_servers=1, worker=False) as running:
        yield running


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def all_ports(store: Store) -> list[int]:
    return [store.port, *range(store.volume_port, store.volume_port + store.volume_servers)]


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "Ctrl-C"])
def test_stopping_it_leaves_no_process(start_store: StartStore, tmp_path: Path, how: str) -> None:
    with start_store(tmp_path, migrated=False) as store:
        family = family_of(store.up.pid)
        assert {part.name for part in store.parts} == {"master", "volume server", "worker", "beat"}
        if how == "Ctrl-C":  # the terminal signals the whole group, children included
            os.killpg(store.up.pid, signal.SIGINT)
            code = store.up.wait()
        else:
            code = store.stop(signal.Signals[how])
        assert code == 0, store.tail()
        assert [pid for pid in family if is_alive(pid)] == []
        assert all(map(is_free, all_ports(store)))
        assert "Traceback" not in store.tail(10_000)


def test_killing_it_leaves_nothing_that_stops_the_next_start(start_store: StartStore, tmp_path: Path) -> None:
    with start_store(tmp_path) as store:
        api = store.api()
        bucket = api.make_bucket("kept")
        api.put(bucket, "k", b"mine")
        first_key = store.key
        family = family_of(store.up.pid)
        assert store.stop(signal.SIGKILL) == -signal.SIGKILL
        wait_until(lambda: not any(map(is_alive, family)), what="the end of the children")
        # A broker that died in the middle of a message must not stop the next worker.
        broker = store.data / "broker"
        torn = [folder for folder in [broker, *broker.rglob("*")] if folder.is_dir()]
        for folder in torn:
            (folder / "1_torn.celery.msg").write_bytes(b'{"body": "')

        store.start()
        assert store.key == first_key
        assert store.api().read(bucket, "k") == b"mine"
        store.api().put(bucket, "k2", b"more")
        assert not list(broker.rglob("1_torn*"))


def run_up(store: Store, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*store.command, *more], env=store.env, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("which", ["master", "volume server"])
def test_taken_port_is_a_clear_message(start_store: StartStore, tmp_path: Path, which: str) -> None:
    store = start_store(tmp_path)
    port = store.port if which == "master" else store.volume_port + 1
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        done = run_up(store)
    assert done.returncode not in {0, None}
    assert str(port) in done.stderr
    assert ("--port" if which == "master" else "--volume-port") in done.stderr
    assert "Traceback" not in done.stderr
    assert "ready" not in done.stdout
    assert not store.data.exists()


def test_second_start_on_the_same_data_is_refused(small: Store, start_store: StartStore) -> None:
    other = start_store(small.directory, volume_servers=1, worker=False)
    done = run_up(other)
    assert done.returncode not in {0, None}
    assert str(small.data) in done.stderr
    assert "Traceback" not in done.stderr
    assert small.api().answers()


def test_parts_that_are_killed_come_back(start_store: StartStore, tmp_path: Path) -> None:
    with start_store(tmp_path, volume_servers=1, restart=True) as store:
        api = store.api()
        bucket = api.make_bucket("b")
        killed = {part.name: part for part in (store.master, *store.parts)}
        assert {"master", "volume server", "worker", "beat"} <= killed.keys()
        gone = {part.pid for part in killed.values()}
        for part in killed.values():
            part.kill(signal.SIGKILL)

        def successors() -> bool:
            """Children of `up` with the same command lines; not those in between that are about to become them."""
            found = [argv_of(pid) for pid in children_of(store.up.pid) if pid not in gone]
            return all(part.argv in found for part in killed.values())

        wait_until(successors, what="another of each part")
        store.wait_for_master()
        store.wait_for_servers()
        before = api.get("servers")["results"][0]["last_checked_at"]
        wait_until(
            lambda: api.get("servers")["results"][0]["last_checked_at"] != before,
            what="a health check, which needs them all",
        )
        api.put(bucket, "k", b"hello")
        assert api.read(bucket, "k") == b"hello"
        assert "was ended by SIGKILL" in store.log.read_text()
        assert "is started again." in store.log.read_text()
        family = family_of(store.up.pid)
        assert store.stop() == 0
        assert [pid for pid in family if is_alive(pid)] == []


def test_a_part_that_died_is_reported_and_the_others_go_on(start_store: StartStore, tmp_path: Path) -> None:
    with start_store(tmp_path) as store:
        [worker] = [part for part in store.parts if part.name == "worker"][:1]
        before = len(store.log.read_text())
        worker.kill(signal.SIGKILL)
        wait_until(lambda: "worker" in store.log.read_text()[before:], what="a word about the worker")
        assert store.up.poll() is None
        assert store.api().answers()


def test_init_makes_the_key_and_stops(start_store: StartStore, tmp_path: Path) -> None:
    store = start_store(tmp_path, volume_servers=1, worker=False)
    done = run_up(store, "--init")
    assert done.returncode == 0, done.stderr
    key_file = store.data / "secrets" / "admin.key"
    key = key_file.read_text().strip()
    assert key.startswith("whk_")
    assert key in done.stdout
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert all(file.stat().st_mode & 0o077 == 0 for file in key_file.parent.iterdir())
    with store:
        assert store.key == key


def test_createkey_makes_a_key_that_works(small: Store) -> None:
    env = {**small.env, **clean_environment(WAREHOUSE_DATA=str(small.data))}
    done = subprocess.run(
        [sys.executable, "manage.py", "createkey", "--name", "second", "--admin", "--json"],
        env=env, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    made = json.loads(done.stdout.splitlines()[-1])
    assert small.api(made["key"]).get("buckets") is not None
    assert made["key"] not in small.log.read_text()


def test_no_secret_is_in_the_logs_or_in_a_command_line(store: Store, bucket: str) -> None:
    lease = store.api().lease(bucket)
    lease.put(0, "k", b"x")
    signature = lease.url.rpartition("sig=")[2]
    secrets = [file.read_text(errors="replace").strip() for file in (store.data / "secrets").iterdir()]
    log = store.log.read_text() + "".join(file.read_text(errors="replace") for file in store.data.rglob("*.log"))
    words = " ".join(word for part in store.parts for word in part.argv)
    for secret in [*secrets, store.key, signature]:
        assert secret not in log
        assert secret not in words


def test_data_directory_stays_locked_by_a_running_volume_server(small: Store) -> None:
    [part] = small.servers
    again = [*part.argv]
    again[again.index("--port") + 1] = "0"
    done = subprocess.run(again, env=part.env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode not in {0, None}
    assert "Traceback" not in done.stderr
    assert str(part.data) in done.stderr
