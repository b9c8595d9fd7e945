"""Kills a real volume server at random moments under load, and checks every acknowledged write. See `make crash`.

    python -m tests.crash --seeds 1000 --jobs 2
    python -m tests.crash --seed 4711

Each seed is a data directory of its own, on which a server is started and killed several times. What is sent and when
the end comes is drawn from the seed; how the machine interleaves it is not, so that one seed may have to be repeated
a few times to fail again.
"""

import argparse
import random
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tests.support.crash_run import Outcome, run_seed
from tests.support.loop_disk import why_no_loop_disks

MAX_SEED = 1_000_000_000


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: every seed held; 1: one did not, and what it contradicted was printed."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="how many (default %(default)s)")
    parser.add_argument("--seed", type=int, metavar="N", help="this one alone")
    parser.add_argument("--first", type=int, metavar="N", help="the first seed (default: a random one)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="so many at a time (default %(default)s)")
    parser.add_argument(
        "--power", action="store_true", help="end most rounds in a power cut on a loop-mounted ext4 (needs root)"
    )
    parser.add_argument("--directory", type=Path, help="where the data directories are made (default: a temporary one)")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        seeds = range(options.seed, options.seed + 1)
    else:
        first = random.randrange(MAX_SEED) if options.first is None else options.first
        seeds = range(first, first + options.seeds)
    if options.power and (reason := why_no_loop_disks()) is not None:
        _say(f"NOT RUN, no loop-mounted ext4 here: {reason}")
        return 0
    directory = options.directory or Path(tempfile.mkdtemp(prefix="warehouse-crash-"))
    directory.mkdir(parents=True, exist_ok=True)
    _say(f"crash run: seeds {seeds.start} to {seeds.stop - 1}, {options.jobs} at a time")
    failed = _run(seeds, directory, options.jobs, power=options.power)
    if failed is None:
        if options.directory is None:
            directory.rmdir()
        return 0
    _say(f"seed {failed.seed} FAILED after {failed.kills} kills\n{failed.failure}")
    _say(f"repeat it with: make crash SEED={failed.seed}{' POWER=1' if options.power else ''}")
    return 1


def _run(seeds: range, directory: Path, jobs: int, *, power: bool) -> Outcome | None:
    """The first failure, after which no further seed is begun."""
    started_s = time.monotonic()
    kills = needles = 0
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        pending = [pool.submit(partial(run_seed, seed, directory, power=power)) for seed in seeds]
        for done, future in enumerate(as_completed(pending), 1):
            outcome = future.result()
            if outcome.failure is not None:
                pool.shutdown(wait=True, cancel_futures=True)
                return outcome
            kills += outcome.kills
            needles += outcome.needles
            if done % 100 == 0 or done == len(seeds):
                took_s = time.monotonic() - started_s
                _say(f"{done} seeds, {kills} kills, {needles} needles: all held, {took_s:.0f} s")
    return None


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
