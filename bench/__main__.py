"""`make bench`, `make bench-engine`, `-compare`, `-master`, `-proof`, `-cluster`, `-web`: prints tables of figures.

python -m bench [store|engine|compare|master|proof|cluster|web] [--rounds N] [--seconds S] [--large-bytes B]
                [--objects N] [--only NAME] [--directory DIR]

Everything happens in a temporary directory, on free ports of the loopback interface.
"""

import argparse
import datetime as dt
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import cluster, compare, engine, figures, index, machine, master, proof, recovery, replication, servers, web
from bench.table import HEADER, Effort, Figure

Rows = Callable[[Path, Effort], list[Figure]]

TABLES: dict[str, dict[str, Rows]] = {
    "store": {
        "get": lambda directory, effort: [figures.signed_get(directory, effort)],
        "durable": lambda directory, effort: [figures.durable_put(directory, effort)],
        "commit": lambda directory, effort: [figures.committed_put(directory, effort)],
        "large": figures.large_put_and_get,
    },
    "engine": {
        "get": engine.small_get,
        "durable": engine.small_put,
        "streamed": engine.streamed_put,
        "sendfile": engine.large_get,
        "index": index.memory_stall_and_open,
        "compaction": engine.compaction,
        "overhead": engine.overhead,
        "servers": servers.two_of_one_node,
        "replicated": replication.replicated,
    },
    "compare": {
        "small": compare.small,
        "large": compare.large,
    },
    "cluster": {
        "placement": cluster.placement,
        "writes": replication.committed,
        "loss": recovery.loss,
    },
    "master": {
        "sqlite": master.on_sqlite,
        "postgresql": master.on_postgresql,
    },
    "web": {
        "pages": lambda directory, _: web.pages(directory),
        "scripts": lambda *_: [web.scripts()],
        "lists": web.lists,
    },
    "proof": {
        "sqlite": proof.on_sqlite,
        "postgresql": proof.on_postgresql,
    },
}
TITLES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
"""Of those that print a table of their own."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Figures, each against its reference.")
    parser.add_argument("table", nargs="?", choices=sorted(TABLES), default="store", help="which figures (store)")
    parser.add_argument("--rounds", type=int, default=3, help="each figure is the median of so many (3)")
    parser.add_argument("--seconds", type=int, default=5, help="of load in each round (5)")
    parser.add_argument("--large-bytes", type=int, default=1 << 30, help="size of the large file (1 GiB)")
    parser.add_argument("--objects", type=int, default=1_000_000, help="in the larger bucket of the master (1,000,000)")
    parser.add_argument("--only", action="append", metavar="NAME", help="this row or group of rows only")
    parser.add_argument("--directory", type=Path, help="where to make the temporary directory")
    asked = parser.parse_args()
    rows = TABLES[asked.table]
    for name in asked.only or []:
        if name not in rows:
            parser.error(f"--only {name}: the table has {', '.join(rows)}")
    effort = Effort(rounds=asked.rounds, seconds=asked.seconds, large_bytes=asked.large_bytes, objects=asked.objects)
    print(f"{dt.datetime.now(tz=dt.UTC).date()}, {machine.describe()}")
    print("python -m bench " + " ".join(sys.argv[1:]) + "\n")
    if not rows.keys() <= TITLES.keys():
        print(HEADER, flush=True)
    all_met = True
    for name, measure in rows.items():
        if asked.only and name not in asked.only:
            continue
        if name in TITLES:
            print(f"{TITLES[name]}:\n\n{HEADER}", flush=True)
        directory = Path(tempfile.mkdtemp(prefix="warehouse-bench-", dir=asked.directory))
        try:
            for figure in measure(directory, effort):
                print(figure.row(), flush=True)
                all_met &= figure.is_met
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        if name in TITLES:
            print()
    return 0 if all_met else 1


if __name__ == "__main__":
    sys.exit(main())
