"""Parts that are killed or stopped at the worst moment: what was acknowledged stays, what was not is said plainly."""

import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from urllib.parse import urlsplit

import pytest

from tests.conftest import STORE_KINDS, StartStore
from tests.support.api import Answer, Lease, put_headers, send
from tests.support.store import CHUNK_SIZE, Store, kill_together
from tests.support.waiting import wait_until

SETTINGS = {"WAREHOUSE_CHUNK_SIZE": str(CHUNK_SIZE)}


@pytest.fixture(scope="module", params=STORE_KINDS)
def store(
    request: pytest.FixtureRequest, start_store: StartStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """Two volume servers and no worker. Each test starts again what it has ended."""
    with start_store(tmp_path_factory.mktemp("crashes"), kind=request.param, env=SETTINGS, worker=False) as running:
        yield running


only_on_sqlite = pytest.mark.parametrize("store", STORE_KINDS[:1], indirect=True)


def leases_of_both_servers(store: Store, bucket: str) -> list[Lease]:
    """One lease at least on each of the volume servers."""
    api = store.api()
    found: dict[int | None, Lease] = {}

    def all_found() -> bool:
        lease = api.lease(bucket, count=4096, max_bytes=4096)
        found.setdefault(urlsplit(lease.url).port, lease)
        return len(found) == len(store.servers)

    wait_until(all_found, what="a lease on every server")
    return list(found.values())


def test_everything_acknowledged_is_there_after_sigkill_of_the_volume_servers(store: Store) -> None:
    api = store.api()
    bucket = api.make_bucket("kept")
    written: dict[str, bytes] = {}
    leases = leases_of_both_servers(store, bucket)

    def put(number: int) -> None:
        key, body = f"{number:04}", os.urandom(1 + number * 7)
        answer = leases[number % len(leases)].put(number, key, body)
        assert answer.status == 201, answer
        written[key] = body

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, range(300)))
    large = os.urandom(3 * CHUNK_SIZE)
    api.put_chunks(bucket, "large", large)
    kill_together(store.servers)
    store.restart_servers(*store.servers)
    assert api.list(bucket) == [*sorted(written), "large"]
    for key, body in written.items():
        assert api.read(bucket, key) == body
    assert api.read(bucket, "large") == large
    api.put(bucket, "new", b"the volumes still take needles")
    assert api.read(bucket, "new") == b"the volumes still take needles"


@only_on_sqlite
def test_puts_under_way_when_a_server_is_killed_are_there_whole_or_not_at_all(store: Store) -> None:
    api = store.api()
    bucket = api.make_bucket("storm")
    leases = leases_of_both_servers(store, bucket)
    acknowledged: dict[str, bytes] = {}
    sent: dict[str, bytes] = {}

    def put_until_it_breaks(worker: int) -> None:
        lease = leases[worker % len(leases)]
        for number in range(400):
            key, body = f"{worker}-{number:04}", os.urandom(1000 + number)
            sent[key] = body
            try:
                answer = lease.put(worker * 400 + number, key, body)
            except OSError:
                return
            if answer.status != 201:
                return
            acknowledged[key] = body

    with ThreadPoolExecutor(8) as pool:
        writers = [pool.submit(put_until_it_breaks, worker) for worker in range(8)]
        wait_until(lambda: len(acknowledged) > 100, what="a hundred acknowledged puts")
        kill_together(store.servers)
        for writer in writers:
            writer.result()
    store.restart_servers(*store.servers)
    listed = api.list(bucket)
    assert set(acknowledged) <= set(listed) <= set(sent)
    for key in listed:
        assert api.read(bucket, key) == sent[key]


@only_on_sqlite
def test_put_while_the_master_is_stopped_succeeds_when_it_is_back(store: Store) -> None:
    api = store.api()
    bucket = api.make_bucket("patient")
    lease = api.lease(bucket, count=8)
    before = lease.put(0, "before", b"x")
    assert before.status == 201
    store.stop_master()
    refused = lease.put(1, "k", b"hello")
    assert (refused.status, refused.code) == (503, "master_unavailable")
    assert int(refused.headers.get("retry-after", "1")) >= 1
    store.start_master()

    def accepted() -> Answer | None:
        answer = lease.put(1, "k", b"hello")
        return answer if answer.status != 503 else None

    answer = wait_until(accepted, what="the same PUT to be taken")
    assert answer.status == 201, answer
    assert api.read(bucket, "k") == b"hello"
    assert lease.put(1, "k", b"hello").json == answer.json
    assert api.list(bucket) == ["before", "k"]


@only_on_sqlite
def test_master_stopped_in_the_middle_of_a_put(store: Store) -> None:
    api = store.api()
    bucket = api.make_bucket("middle")
    body = os.urandom(1 << 20)
    lease = api.lease(bucket, max_bytes=len(body), count=4)
    url = urlsplit(lease.url_of(0))
    with socket.create_connection((url.hostname, url.port)) as connection:
        lines = [f"PUT {url.path}?{url.query} HTTP/1.1", f"Host: {url.netloc}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in put_headers("k").items()]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body[: len(body) // 2])
        store.stop_master()
        connection.sendall(body[len(body) // 2 :])
        response = HTTPResponse(connection, method="PUT")
        response.begin()
        answer = Answer(response.status, {n.lower(): v for n, v in response.getheaders()}, response.read())
    assert (answer.status, answer.code) == (503, "master_unavailable")
    store.start_master()
    wait_until(lambda: lease.put(0, "k", body).status == 201, what="the same PUT to be taken")
    assert api.read(bucket, "k") == body


@only_on_sqlite
def test_server_is_shown_offline_when_killed_and_online_when_back(store: Store) -> None:
    api = store.api()
    bucket = api.make_bucket("elsewhere")
    [first, second] = store.servers
    first.kill()

    def statuses() -> dict[int | None, str]:
        return {urlsplit(server["url"]).port: server["status"] for server in api.get("servers")["results"]}

    wait_until(lambda: statuses() == {first.port: "offline", second.port: "online"}, what="one server offline")
    ports = {urlsplit(api.lease(bucket).url).port for _ in range(20)}
    assert ports == {second.port}, "leases go to the server that lives"
    store.restart_servers(first)
    second.kill(signal.SIGTERM)
    wait_until(lambda: statuses()[second.port] == "offline", what="a stopped server shown offline")
    store.restart_servers(second)


@only_on_sqlite
def test_a_lease_outlives_a_restart_of_its_volume_server(store: Store) -> None:
    api = store.api()
    bucket = api.make_bucket("b")
    lease = api.lease(bucket, count=3)
    assert lease.put(0, "k0", b"0").status == 201
    part = store.server_of(lease.url)
    part.kill(signal.SIGTERM)
    store.restart_servers(part)
    assert lease.put(1, "k1", b"1").status == 201
    assert lease.put(0, "k0", b"0").status == 201, "a needle of before, with its verdict of before"
    taken = lease.put(0, "k0", b"9")
    assert (taken.status, taken.code) == (409, "needle_taken")
    url = api.look_up(bucket, "k1")["k1"]["chunks"][0]["urls"][0]
    assert send("GET", url).body == b"1"
