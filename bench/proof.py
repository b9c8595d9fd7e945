"""Proof's figures (`python -m bench proof`): a volume full of small needles, each named by a row, checked and swept.

The store is started by `manage.py up` with one volume server, on SQLite and on PostgreSQL. Its rows are those of
`bench.crowd`; the needles are written into the volume's file while its server is down, by the volume's own code. The
times are those of the whole command, its start included.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from bench.crowd import OBJECT_BYTES
from bench.table import Effort, Figure
from bench.volumes import small_meta
from tests.support.postgres import Postgres
from tests.support.programs import ROOT
from tests.support.store import Part, Store
from volume_server.intent import MAX_COUNT
from volume_server.store import Store as DataDirectory

BUCKET = "bench"
GROUP = 512
"""Records that share a write."""
WHERE = (
    "from buckets.models import Chunk; row = Chunk.objects.order_by('needle').first(); print(row.volume_id, row.needle)"
)


def on_sqlite(directory: Path, effort: Effort) -> list[Figure]:
    return _figures(Store(directory, volume_servers=1, worker=False), "SQLite", effort)


def on_postgresql(directory: Path, effort: Effort) -> list[Figure]:
    with Postgres() as postgres:
        env = {"DATABASE_URL": postgres.new_database("proof")}
        return _figures(Store(directory, env=env, volume_servers=1, worker=False), "PostgreSQL", effort)


def _figures(store: Store, database: str, effort: Effort) -> list[Figure]:
    with store:
        store.api().make_bucket(BUCKET)
        _python(store, "-m", "bench.crowd", BUCKET, str(effort.objects))
        volume, first = map(int, _python(store, "manage.py", "shell", "--verbosity", "0", "--command", WHERE).split())
        [part] = store.servers
        part.kill(signal.SIGTERM)
        fill(part, volume, first, effort.objects)
        store.restart_servers(part)
        commands: dict[str, Callable[[], str]] = {
            "fsck": partial(_python, store, "manage.py", "fsck", "--json"),
            "sweep": partial(_python, store, "manage.py", "sweep"),
        }
        figures = []
        for name, run in commands.items():
            took_s = median(_seconds(run) for _ in range(effort.rounds))
            what = f"{name} of {effort.objects:,} needles, {database}, seconds a million"
            figures.append(Figure(what, "", took_s / effort.objects * 1e6, None, "s", most=10))
        found = json.loads(commands["fsck"]())
        assert found["verdict"] == "0 missing, 0 orphaned, 0 divergent", found
        assert (found["needles"], found["chunks"]) == (effort.objects, effort.objects), found
    return figures


def fill(part: Part, volume_id: int, first: int, count: int) -> None:
    """Writes the needles that `bench.crowd` has named, into the volume of a server that is stopped."""
    store = DataDirectory(part.data)
    store.open_volumes()
    volume = store.volume(volume_id)
    volume.size_limit = 1 << 38
    content = bytes(OBJECT_BYTES)
    now_ms = int(time.time() * 1000)
    claims = []
    for number in range(count):
        needle = first + (number // MAX_COUNT << 16) + number % MAX_COUNT
        # The row says that the CRC is the number; nobody reads the data here.
        claims.append(volume.enqueue(needle, small_meta(needle), content, data_crc=number, appended_ms=now_ms))
        if len(claims) == GROUP or number == count - 1:
            volume.flush()
            volume.settle(claims)
            claims.clear()
    store.close()


def _seconds(run: Callable[[], str]) -> float:
    began_s = time.perf_counter()
    run()
    return time.perf_counter() - began_s


def _python(store: Store, *arguments: str) -> str:
    env = {**store.env, "WAREHOUSE_DATA": str(store.data)}
    done = subprocess.run(
        [sys.executable, *arguments], env=env, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    return done.stdout
