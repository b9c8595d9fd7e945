"""A storm over a whole store: four volume servers, master, worker and broker, killed, filled up, cut off. `make chaos`.

    python -m tests.chaos --minutes 15 --broker redis --database postgres
    python -m tests.chaos --seed 4711

What breaks when is drawn from the seed; how the machine interleaves it with the load is not, so that a run may have to
be repeated to fail again. Exit code 0: nothing acknowledged was lost, nothing deleted came back, all healed.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.support.chaos_cluster import BROKERS, DATABASES, REDIS, SQLITE
from tests.support.chaos_run import Options, draw_seed, run

_started_s = time.monotonic()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=2.0, help="how long the storm is (default %(default)s)")
    parser.add_argument("--broker", choices=BROKERS, default=REDIS, help="(default %(default)s)")
    parser.add_argument("--database", choices=DATABASES, default=SQLITE, help="(default %(default)s)")
    parser.add_argument("--seed", type=int, metavar="N", help="play this storm (default: a new one)")
    parser.add_argument(
        "--replication", type=int, default=2, metavar="N", help="copies of objects (default %(default)s); with every "
        "second seed one of three buckets has single copies, else servers come back with an empty disk"
    )  # fmt: skip
    parser.add_argument(
        "--disk-mib", type=int, default=768, metavar="MIB", help="of each volume server (default %(default)s)"
    )
    parser.add_argument(
        "--without", action="append", default=[], metavar="KIND", help="leave faults out, such as 'link stalled'"
    )
    parser.add_argument("--directory", type=Path, help="where data and logs lie (default: a temporary one)")
    found = parser.parse_args(arguments)
    seed = draw_seed() if found.seed is None else found.seed
    directory = found.directory or Path(tempfile.mkdtemp(prefix="warehouse-chaos-"))
    options = Options(
        seed=seed,
        storm_s=found.minutes * 60,
        broker=found.broker,
        database=found.database,
        disk_bytes=found.disk_mib << 20,
        buckets=(found.replication, found.replication, found.replication if seed % 2 else 1),
        without=tuple(found.without),
    )
    replay = f"make chaos SEED={seed} MINUTES={found.minutes:g} BROKER={found.broker} DATABASE={found.database}"
    _say(f"chaos run of {found.minutes:g} min, seed {seed}, in {directory}; again with: {replay}")
    outcome = run(options, directory, _say)
    _say(outcome.summary)
    for remark in outcome.remarks:
        _say(f"note: {remark}")
    if not outcome.failures:
        _say(f"all held: nothing lost, nothing back, all healed. Seed {seed}")
        return 0
    _say(f"\n{len(outcome.failures)} FAILURES, the first:\n{outcome.failures[0]}")
    _say(f"logs, plan and data are in {directory}\nagain with: {replay}")
    return 1


def _say(line: str) -> None:
    sys.stdout.write(f"[{time.monotonic() - _started_s:6.1f}] {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
