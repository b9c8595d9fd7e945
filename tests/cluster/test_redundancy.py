"""Copies on several nodes, with real processes: losses, returns, moves, and what is read and written meanwhile."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.integration.test_outbox import let_all_urls_expire
from tests.support.api import Answer, Api, put_headers, read_chunk, send
from tests.support.programs import start, stop
from tests.support.store import CHUNK_SIZE, Part, Store
from tests.support.waiting import wait_until
from warehouse import Client, TransferConfig

SETTINGS = {"WAREHOUSE_CHUNK_SIZE": str(CHUNK_SIZE), "WAREHOUSE_REREPLICATE_SECONDS": "600"}
SOON = {**SETTINGS, "WAREHOUSE_REREPLICATE_SECONDS": "1"}


@contextmanager
def store_of(directory: Path, servers: int, env: dict[str, str] | None = None) -> Iterator[Store]:
    with Store(directory, env=env or SETTINGS, volume_servers=servers) as store:
        yield store


@contextmanager
def client_of(store: Store) -> Iterator[Client]:
    with Client(store.url, store.key, transfer=TransferConfig(retry_s=60.0)) as client:
        yield client


def volumes(api: Api, replication: int = 2) -> list[dict[str, Any]]:
    return [one for one in api.get("volumes?limit=1000")["results"] if one["replication"] == replication]


def wait_for_volumes(api: Api, what: str, fits: Callable[[list[dict[str, Any]]], bool], replication: int = 2) -> None:
    wait_until(lambda: fits(volumes(api, replication)), what=what)


def all_whole(found: list[dict[str, Any]]) -> bool:
    return bool(found) and all(one["redundancy"] == "whole" for one in found)


def holders(one: dict[str, Any]) -> set[str]:
    return {copy["server"] for copy in one["replicas"]}


def fill(store: Store, client: Client, count: int = 30) -> dict[str, bytes]:
    """A bucket with two copies of everything, small objects and some of several chunks."""
    store.api().make_bucket("b", replication=2)
    bodies = {f"small/{number}": os.urandom(100 + number) for number in range(count)}
    bodies |= {f"large/{number}": os.urandom(3 * CHUNK_SIZE + number) for number in range(3)}
    for key, body in bodies.items():
        client.put("b", key, body)
    return bodies


def require_all(client: Client, bodies: dict[str, bytes]) -> None:
    for key, body in bodies.items():
        assert client.get("b", key) == body, key


def server_id(part: Part) -> str:
    return part.identity()[2]


def files_of(store: Store, volume: int) -> list[bytes]:
    return [path.read_bytes() for path in sorted(store.volume_files()) if path.name == f"{volume:010d}.vol"]


def test_a_server_is_killed_and_comes_back(tmp_path: Path) -> None:
    """Reads go on at once, writes go on in other volumes, and the copies are equal again after its return."""
    with store_of(tmp_path, 3) as store, client_of(store) as client:
        api = store.api()
        bodies = fill(store, client)
        assert all(len(holders(one)) == 2 for one in volumes(api))
        [dead, *_] = store.servers
        dead.kill(signal.SIGKILL)
        require_all(client, bodies)
        for number in range(10):
            key, body = f"meanwhile/{number}", os.urandom(200)
            client.put("b", key, body)
            bodies[key] = body
        require_all(client, bodies)
        gone = server_id(dead)
        wait_for_volumes(
            api,
            "its volumes to be degraded",
            lambda found: all(one["redundancy"] == "degraded" for one in found if gone in holders(one)),
        )
        store.restart_servers(dead)
        wait_for_volumes(api, "all volumes to be whole again", all_whole)
        require_all(client, bodies)
        require_equal_files(store, api)


def require_equal_files(store: Store, api: Api) -> None:
    """Of all volumes but those that are just being made, ahead of need."""
    whole = [one for one in volumes(api) if one["redundancy"] == "whole"]
    assert whole
    for one in whole:
        first, *others = files_of(store, one["id"])
        assert len(others) == 1
        assert all(first == other for other in others), one


def test_the_copies_of_a_lost_server_are_made_anew_elsewhere(tmp_path: Path) -> None:
    with store_of(tmp_path, 3, SOON) as store, client_of(store) as client:
        api = store.api()
        bodies = fill(store, client)
        [dead, *_] = store.servers
        gone = server_id(dead)
        dead.kill(signal.SIGKILL)
        wait_for_volumes(
            api,
            "copies on other servers",
            lambda found: all_whole(found) and all(gone not in holders(one) for one in found),
        )
        require_all(client, bodies)
        # Back again, it holds what nobody needs any more, and lets go of it.
        store.restart_servers(dead)
        wait_until(lambda: not [one for one in held(api, gone) if one["replicas"]], what="nothing")
        wait_until(lambda: stray_volumes(api, gone) == [], what="its old copies to be dropped")
        require_all(client, bodies)
        require_equal_files(store, api)


def held(api: Api, server: str) -> list[dict[str, Any]]:
    return [one for one in volumes(api) if server in holders(one) and one["redundancy"] != "whole"]


def stray_volumes(api: Api, server: str) -> list[int]:
    found: list[int] = api.get(f"servers/{server}")["stray_volumes"]
    return found


def test_a_server_is_drained(tmp_path: Path) -> None:
    """Its volumes move elsewhere while they are read, those of a single copy too; then it can be switched off."""
    with store_of(tmp_path, 3) as store, client_of(store) as client:
        api = store.api()
        bodies = fill(store, client)
        api.make_bucket("single")
        for number in range(20):
            api.put("single", f"one/{number}", b"%d" % number)
        [leaving, *_] = store.servers
        gone = server_id(leaving)
        answer = api.request("PATCH", f"servers/{gone}", {"admin_state": "draining"})
        assert (answer.status, answer.json["status"]) == (200, "draining")
        wait_until(lambda: api.get(f"servers/{gone}")["drain"]["is_empty"], what="the server to be empty")
        assert api.get(f"servers/{gone}")["volumes"] == 0
        assert not list(leaving.data.rglob("*.vol"))
        leaving.kill(signal.SIGTERM)
        require_all(client, bodies)
        for number in range(20):
            assert api.read("single", f"one/{number}") == b"%d" % number
        wait_for_volumes(api, "whole volumes", all_whole)


def test_a_server_that_dies_while_it_is_drained(tmp_path: Path) -> None:
    """What has copies moves at once, without it. What lay there alone waits, and moves when it is back."""
    with store_of(tmp_path, 3) as store, client_of(store) as client:
        api = store.api()
        bodies = fill(store, client, count=10)
        api.make_bucket("single")
        for number in range(20):
            api.put("single", f"one/{number}", b"%d" % number)
        [leaving, *_] = store.servers
        gone = server_id(leaving)
        leaving.kill(signal.SIGKILL)
        with drain_of(store, gone) as drain:
            wait_for_volumes(
                api,
                "copies elsewhere",
                lambda found: all_whole(found) and all(gone not in holders(one) for one in found),
            )
            require_all(client, bodies)
            assert any(gone in holders(one) for one in volumes(api, 1)), "single copies were given up"
            assert drain.poll() is None
            leaving.restart(store.log)
            assert drain.wait() == 0
        wait_until(lambda: not list(leaving.data.rglob("*.vol")), what="its files to be gone")
        leaving.kill(signal.SIGTERM)
        for number in range(20):
            assert api.read("single", f"one/{number}") == b"%d" % number
        require_all(client, bodies)
        wait_for_volumes(api, "whole volumes", all_whole)
        require_equal_files(store, api)


@contextmanager
def drain_of(store: Store, server: str) -> Iterator[subprocess.Popen[str]]:
    """`manage.py drain`, watching."""
    command = [sys.executable, "manage.py", "drain", server]
    drain = start(command, env={**store.env, "WAREHOUSE_DATA": str(store.data)}, log=store.directory / "drain.log")
    try:
        yield drain
    finally:
        stop(drain)


def test_nothing_rises_from_the_dead(tmp_path: Path) -> None:
    """Down, delete, compact, up, repair: what was deleted while a copy was away stays deleted, and its bytes go."""
    with store_of(tmp_path, 3, SOON) as store, client_of(store) as client:
        api = store.api()
        bodies = fill(store, client, count=10)
        [dead, *_] = store.servers
        gone = server_id(dead)
        dead.kill(signal.SIGKILL)
        deleted = [key for key in bodies if key.startswith("small/")]
        chunks = sum(-(-len(body) // CHUNK_SIZE) for key, body in bodies.items() if key not in deleted)
        assert set(api.post("buckets/b/delete", {"keys": deleted}, status=200)["deleted"]) == set(deleted)
        let_all_urls_expire(store)
        wait_for_volumes(
            api, "copies elsewhere", lambda found: all_whole(found) and all(gone not in holders(one) for one in found)
        )
        wait_until(
            lambda: (
                sum(copy["live_count"] for one in volumes(api) for copy in one["replicas"] if copy["role"] == "primary")
                == chunks
            ),
            what="tombstones",
        )
        for one in volumes(api):
            answer = api.request("POST", f"volumes/{one['id']}/compact", {})
            assert answer.status == 202, answer
        wait_for_volumes(
            api,
            "compacted volumes",
            lambda found: all_whole(found) and all(copy["revision"] == 2 for one in found for copy in one["replicas"]),
        )
        store.restart_servers(dead)
        wait_until(lambda: stray_volumes(api, gone) == [], what="its old copies to be dropped")
        wait_for_volumes(api, "whole volumes", all_whole)  # some are made anew on the server that is back
        require_equal_files(store, api)
        assert live_count(api) == 2 * chunks
        require_all(client, {key: body for key, body in bodies.items() if key not in deleted})


def test_a_buckets_replication_is_raised_and_lowered(tmp_path: Path) -> None:
    with store_of(tmp_path, 2) as store, client_of(store) as client:
        api = store.api()
        api.make_bucket("b")
        bodies = {f"{number}": os.urandom(5000) for number in range(10)}
        for key, body in bodies.items():
            client.put("b", key, body)
        used = {
            int(url.split("/")[3]) for found in api.look_up("b", *bodies).values() for url in found["chunks"][0]["urls"]
        }
        assert api.request("PATCH", "buckets/b", {"replication": 2}).status == 200
        wait_until(
            lambda: (
                used
                <= {one["id"] for one in volumes(api) if one["redundancy"] == "whole" and len(one["replicas"]) == 2}
            ),
            what="two copies of what was there",
        )
        # The primary may tell of the copy before the copy's own server does.
        wait_until(
            lambda: all(len(found["chunks"][0]["urls"]) == 2 for found in api.look_up("b", *bodies).values()),
            what="both copies to be read from",
        )
        for found in api.look_up("b", *bodies).values():
            for url in found["chunks"][0]["urls"]:
                assert read_chunk({**found["chunks"][0], "urls": [url]}) == bodies[found["key"]]
        client.put("b", "after", b"two copies")
        assert api.request("PATCH", "buckets/b", {"replication": 1}).status == 200
        wait_until(
            lambda: (
                used
                <= {one["id"] for one in volumes(api, 1) if one["redundancy"] == "whole" and len(one["replicas"]) == 1}
            ),
            what="single copies again",
        )
        require_all(client, bodies)


def live_count(api: Api) -> int:
    """Live needles, every copy counted."""
    return sum(copy["live_count"] for one in volumes(api) for copy in one["replicas"])


def test_too_few_nodes_are_told(tmp_path: Path) -> None:
    with store_of(tmp_path, 1) as store:
        api = store.api()
        api.make_bucket("b", replication=2)
        answer: Answer = api.request("POST", "buckets/b/leases", {"count": 1, "max_bytes": 10})
        assert (answer.status, answer.code) == (507, "no_space")
        assert "2 different nodes" in answer.json["detail"]

        # Nor is there another one to drain it to; it is told, until somebody thinks better of it.
        api.put(api.make_bucket("single"), "k", b"k")
        [only] = store.servers
        log = store.directory / "drain.log"
        with drain_of(store, server_id(only)) as drain:
            wait_until(lambda: "waiting: volume " in log.read_text(), what="the reason")
            assert "no server on another node has room" in log.read_text()
            answer = api.request("PATCH", f"servers/{server_id(only)}", {"admin_state": "active"})
            assert answer.status == 200
            assert drain.wait() == 1
        assert "is to be active again; its emptying has ended." in log.read_text()
        assert api.read("single", "k") == b"k"


def test_maintenance(tmp_path: Path) -> None:
    """A server that is off for an announced while is not offline, and nothing is copied for it."""
    with store_of(tmp_path, 3, SOON) as store, client_of(store) as client:
        api = store.api()
        bodies = fill(store, client, count=10)
        # Those that are just being made, ahead of need, get another home at once: nothing was written to them.
        before = {one["id"]: holders(one) for one in volumes(api) if one["redundancy"] == "whole"}
        assert before
        [away, *_] = store.servers
        gone = server_id(away)
        assert api.request("PATCH", f"servers/{gone}", {"admin_state": "maintenance"}).status == 200
        away.kill(signal.SIGTERM)
        wait_for_volumes(
            api,
            "its volumes to be degraded",
            lambda found: all(one["redundancy"] in {"degraded", "making"} for one in found if gone in holders(one)),
        )
        assert api.get(f"servers/{gone}")["status"] == "maintenance"
        require_all(client, bodies)
        client.put("b", "meanwhile", b"elsewhere")
        heard = api.get(f"servers/{gone}")["last_seen_at"]
        away.restart(store.log)
        wait_until(lambda: api.get(f"servers/{gone}")["last_seen_at"] != heard, what="the server to be heard again")
        assert api.request("PATCH", f"servers/{gone}", {"admin_state": "active"}).status == 200
        wait_for_volumes(api, "whole volumes", all_whole)
        after = {one["id"]: holders(one) for one in volumes(api)}
        assert all(after[volume] == servers for volume, servers in before.items())


def test_a_lease_on_a_volume_that_lost_a_copy_is_refused(tmp_path: Path) -> None:
    with store_of(tmp_path, 2) as store:
        api = store.api()
        api.make_bucket("b", replication=2)
        wait_until(
            lambda: api.request("POST", "buckets/b/leases", {"count": 1, "max_bytes": 10}).status == 201, what="a lease"
        )
        lease = api.lease("b", count=2)
        assert lease.put(0, "before", b"x").status == 201
        primary = store.server_of(lease.url)

        def chunk_url_there() -> str | None:
            url: str = api.post("buckets/b/uploads", {"key": "k", "size": 3})["chunks"][0]["url"]
            return url if store.server_of(url) is primary else None

        chunk_url = wait_until(chunk_url_there, what="a chunk in a volume of the same server")
        assert chunk_url is not None
        [other] = [part for part in store.servers if part is not primary]
        other.kill(signal.SIGKILL)
        for url, headers in ((lease.url_of(1), put_headers("after")), (chunk_url, put_headers(None))):
            answer = send("PUT", url, b"abc", headers)
            assert (answer.status, answer.code) == (503, "volume_degraded")
