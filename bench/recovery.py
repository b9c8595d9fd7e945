"""The loss of a volume server in a store of three, with two copies of everything (`make bench-cluster`).

One is killed, the others make its copies anew; then one more is stopped. Real processes, as `manage.py up` starts them,
each round in a new store; the time of grace and the time until the loss is seen are no part of the repair's.
"""

import shutil
import signal
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench import machine
from bench.figures import write_random_file
from bench.table import Effort, Figure
from tests.support.api import Api
from tests.support.store import Part, Store
from tests.support.waiting import wait_until
from warehouse import Client

SERVERS, COPIES = 3, 2
GRACE_S = 1
GIB = 1 << 30
POLL_S = 0.2


def loss(directory: Path, effort: Effort) -> list[Figure]:
    source = directory / "large"
    write_random_file(source, effort.large_bytes)
    offline, stopped, whole, copied = [], [], [], []
    for turn in range(effort.rounds):
        machine.level(2 * effort.large_bytes)
        copied.append(GIB / machine.synced_cp_bytes_per_second(source, directory / "copy"))
        with Store(
            directory / f"store-{turn}",
            volume_servers=SERVERS,
            env={"WAREHOUSE_REREPLICATE_SECONDS": str(GRACE_S)},
        ) as store:
            _fill(store, source)
            machine.level(2 * effort.large_bytes)
            offline.append(_seconds_to_offline(store, store.servers[0], signal.SIGKILL))
            whole.append(_seconds_to_whole(store, store.servers[0]))
            stopped.append(_seconds_to_offline(store, store.servers[1], signal.SIGTERM))
        shutil.rmtree(store.directory)
    return [
        Figure("a volume server that was killed is shown offline after", "", median(offline), None, "s", most=10),
        Figure("...one that was stopped", "", median(stopped), None, "s", most=2),
        Figure(
            "two copies of everything again after the loss of a server, a GiB",
            "cp of a GiB, and its fdatasync",
            median(whole),
            median(copied),
            "s",
            most=10,
        ),
    ]


def _fill(store: Store, source: Path) -> None:
    api = store.api()
    api.make_bucket("bench", replication=COPIES)
    wait_until(lambda: _are_whole(api), what="volumes of two copies")
    with Client(store.url, store.key) as client:
        client.put("bench", "large", source)


def _seconds_to_offline(store: Store, part: Part, how: int) -> float:
    """From the signal on, as the master shows it."""
    api, path = store.api(), f"servers/{part.identity()[2]}"
    started = time.perf_counter()
    part.kill(how)
    wait_until(lambda: api.get(path)["status"] == "offline", what="the server to be shown offline")
    return time.perf_counter() - started


def _seconds_to_whole(store: Store, part: Part) -> float:
    """From when its loss is known and the time of grace is over, for each GiB that it held."""
    api, gone = store.api(), part.identity()[2]
    lost_bytes = sum(path.stat().st_size for path in part.data.rglob("*.vol"))
    started = time.perf_counter() + GRACE_S
    while not _are_whole(api, gone):
        time.sleep(POLL_S)  # seldom: it takes from the two cores that the copying has
    return (time.perf_counter() - started) * GIB / lost_bytes


def _are_whole(api: Api, gone: str = "") -> bool:
    found: list[dict[str, Any]] = api.get("volumes?limit=1000")["results"]
    found = [one for one in found if one["replication"] == COPIES]
    return bool(found) and all(
        one["redundancy"] == "whole" and gone not in [copy["server"] for copy in one["replicas"]] for one in found
    )
