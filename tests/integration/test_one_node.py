"""Several volume servers of one node, each with its own directory and port: how a machine puts all its cores to use."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from tests.conftest import StartStore
from tests.support.api import Api, Lease, send
from tests.support.programs import adjacent_ports, start, stop
from tests.support.store import Store
from tests.support.waiting import wait_until

EACH = 50


def lease_at(api: Api, bucket: str, port: int) -> Lease:
    """A lease on a volume of the server at this port; placement gives one sooner or later."""

    def wanted() -> Lease | None:
        lease = api.lease(bucket, count=EACH)
        return lease if urlsplit(lease.url).port == port else None

    found = wait_until(wanted, what=f"a lease on the server at port {port}")
    assert found is not None
    return found


def test_two_servers_of_one_node_both_take_writes_and_reads(start_store: StartStore, tmp_path: Path) -> None:
    with start_store(tmp_path, volume_servers=1, worker=False) as store:
        api = store.api()
        bucket = api.make_bucket("b")
        [first] = store.servers
        port = adjacent_ports(1)
        argv = beside(first.argv, data=tmp_path / "second", port=port)
        second = start(argv, env=first.env, log=tmp_path / "second.log")
        try:
            rows = wait_until(lambda: both_online(store), what="the second server to be online")
            assert {row["node"] for row in rows} == {"n1"}
            assert {urlsplit(row["url"]).port for row in rows} == {first.port, port}
            leases = [lease_at(api, bucket, one) for one in (first.port, port)]
            assert leases[0].volume != leases[1].volume
            bodies = {f"{number}/{slot}": os.urandom(1000) for number in (0, 1) for slot in range(EACH)}

            def put(key: str) -> int:
                number, slot = map(int, key.split("/"))
                return leases[number].put(slot, key, bodies[key]).status

            with ThreadPoolExecutor(8) as threads:  # both servers at the same time
                assert set(threads.map(put, bodies)) == {201}
            found = api.look_up(bucket, *bodies)
            at = {key: found[key]["chunks"][0]["urls"][0] for key in bodies}
            assert {key: urlsplit(url).port for key, url in at.items()} == {
                key: (first.port, port)[int(key[0])] for key in bodies
            }
            with ThreadPoolExecutor(8) as threads:
                read = dict(zip(bodies, threads.map(lambda key: send("GET", at[key]).body, bodies), strict=True))
            assert read == bodies
        finally:
            assert stop(second) == 0


def beside(argv: list[str], *, data: Path, port: int) -> list[str]:
    """A volume server's command line with another directory and port, and so of the same node."""
    assert argv[argv.index("--node") + 1] == "n1"
    changed = list(argv)
    changed[changed.index("--data") + 1] = str(data)
    changed[changed.index("--port") + 1] = str(port)
    for name in ("--internal-port", "--public-url", "--internal-url"):
        assert name not in changed
    return changed


def both_online(store: Store) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = store.api().get("servers")["results"]
    return rows if [row["status"] for row in rows] == ["online", "online"] else []
