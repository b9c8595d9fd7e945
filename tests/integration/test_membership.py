"""Servers come, go, move and are doubled, as real processes. No worker: who is online is told by heartbeats alone."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import StartStore
from tests.support.api import Api
from tests.support.programs import free_ports, is_alive, start, stop
from tests.support.store import Part, Store
from tests.support.waiting import wait_until

OFFLINE_AFTER = timedelta(seconds=10)
REFUSED_FOR_GOOD = 3


@pytest.fixture(scope="module")
def store(start_store: StartStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Two volume servers and no worker. Each test starts again what it has ended."""
    with start_store(tmp_path_factory.mktemp("membership"), worker=False) as running:
        yield running


def server_at(api: Api, port: int) -> dict[str, Any] | None:
    """The server that clients are sent to at this port."""
    rows = [row for row in api.get("servers")["results"] if urlsplit(row["url"]).port == port]
    return dict(rows[0]) if rows else None


def known(api: Api, port: int) -> dict[str, Any]:
    row = server_at(api, port)
    assert row is not None
    return row


def volumes_of(api: Api, server_id: str) -> dict[int, str]:
    return {one["id"]: one["state"] for one in api.get(f"volumes?server={server_id}")["results"]}


def changed(argv: list[str], **options: str) -> list[str]:
    """A volume server's command line with other options."""
    other = list(argv)
    for name, value in options.items():
        other[other.index(f"--{name}") + 1] = value
    return other


def start_like(part: Part, log: Path, **options: str) -> subprocess.Popen[str]:
    return start(changed(part.argv, **options), env=part.env, log=log)


def put_some(api: Api, bucket: str) -> dict[str, bytes]:
    """Objects on every server, as placement spreads them."""
    bodies = {f"k{number}": os.urandom(2000 + number) for number in range(20)}
    for key, body in bodies.items():
        api.put(bucket, key, body)
    return bodies


def read_all(api: Api, bucket: str, keys: dict[str, bytes]) -> dict[str, bytes]:
    return {key: api.read(bucket, key) for key in keys}


def test_a_killed_server_is_offline_ten_seconds_after_its_last_word(store: Store) -> None:
    api = store.api()
    [first, second] = store.servers
    first.kill()

    def is_offline() -> bool:
        asked_at = datetime.now(UTC)
        row = known(api, first.port)
        silent_for = asked_at - datetime.fromisoformat(row["last_seen_at"])
        if silent_for > OFFLINE_AFTER:
            assert row["status"] == "offline", silent_for
        return bool(row["status"] == "offline")

    wait_until(is_offline, what="the killed server to be offline")
    assert known(api, second.port)["status"] == "online"
    store.restart_servers(first)


def test_a_server_that_stops_is_offline_at_once_and_comes_back_with_its_volumes(store: Store) -> None:
    api = store.api()
    bodies = put_some(api, api.make_bucket("stopped"))
    [first, _] = store.servers
    before = known(api, first.port)
    volumes = volumes_of(api, before["id"])
    first.kill(signal.SIGTERM)
    assert known(api, first.port)["status"] == "offline"
    store.restart_servers(first)
    after = known(api, first.port)
    assert (after["id"], after["status"]) == (before["id"], "online")
    assert volumes_of(api, before["id"]) == volumes
    assert read_all(api, "stopped", bodies) == bodies
    bodies |= put_some(api, "stopped")
    assert read_all(api, "stopped", bodies) == bodies


def test_a_killed_server_comes_back_at_another_address(store: Store, tmp_path: Path) -> None:
    api = store.api()
    bodies = put_some(api, api.make_bucket("moved"))
    [first, second] = store.servers
    before = known(api, first.port)
    volumes = volumes_of(api, before["id"])
    first.kill()
    [port] = free_ports(1)
    moved = start_like(first, tmp_path / "moved.log", host="127.0.0.2", port=str(port))
    try:
        wait_until(lambda: (row := server_at(api, port)) and row["status"] == "online", what="the moved server")
        after = known(api, port)
        assert (after["id"], after["url"]) == (before["id"], f"http://127.0.0.2:{port}")
        assert server_at(api, first.port) is None
        assert volumes_of(api, before["id"]) == volumes
        assert read_all(api, "moved", bodies) == bodies
        found = api.look_up("moved", *bodies).values()
        netlocs = {urlsplit(one["chunks"][0]["urls"][0]).netloc for one in found}
        assert netlocs == {f"127.0.0.2:{port}", f"127.0.0.1:{second.port}"}
        bodies |= put_some(api, "moved")
        assert read_all(api, "moved", bodies) == bodies
    finally:
        assert stop(moved) == 0
    assert known(api, port)["status"] == "offline"
    store.restart_servers(first)


def clone(store: Store, part: Part, to: Path) -> Path:
    shutil.copytree(part.data, to)
    return to


def test_a_cloned_data_directory_is_refused(store: Store, tmp_path: Path) -> None:
    api = store.api()
    bodies = put_some(api, api.make_bucket("cloned"))
    part, _ = store.servers
    copy = clone(store, part, tmp_path / "clone")
    [port] = free_ports(1)
    log = tmp_path / "clone.log"
    newcomer = start_like(part, log, data=str(copy), port=str(port))
    assert newcomer.wait() == REFUSED_FOR_GOOD, log.read_text()
    assert "server_running" in log.read_text()
    assert server_at(api, port) is None
    assert known(api, part.port)["status"] == "online"
    bodies |= put_some(api, "cloned")
    assert read_all(api, "cloned", bodies) == bodies


def test_of_two_processes_with_one_id_the_one_that_was_hung_ends(start_store: StartStore, tmp_path: Path) -> None:
    """It answers nobody, so another takes its place; when it goes on, it is told, and stops by itself."""
    with start_store(tmp_path, volume_servers=1, worker=False) as store:
        api = store.api()
        bodies = put_some(api, api.make_bucket("b"))
        [part] = store.servers
        copy = clone(store, part, tmp_path / "clone")
        [port] = free_ports(1)
        os.kill(part.pid, signal.SIGSTOP)
        log = tmp_path / "clone.log"
        newcomer = start_like(part, log, data=str(copy), port=str(port))
        try:
            wait_until(lambda: (row := server_at(api, port)) and row["status"] == "online", what="the newcomer")
            os.kill(part.pid, signal.SIGCONT)
            wait_until(lambda: not is_alive(part.pid), what="the end of the one before")
            assert newcomer.poll() is None, log.read_text()
            assert [row["status"] for row in api.get("servers")["results"]] == ["online"]
            assert read_all(api, "b", bodies) == bodies
            bodies |= put_some(api, "b")
            assert read_all(api, "b", bodies) == bodies
        finally:
            assert stop(newcomer) == 0
