"""Runs the fuzz targets for as long as it is told, with ever new seeds. See `make fuzz`.

    python -m tests.fuzz --seconds 600
    python -m tests.fuzz --target test_index_file --seed 4711

A target is a Hypothesis test of this folder; pytest runs each with a hundred examples, here they take turns of a
thousand. The first failure ends the run: it is shrunk and printed, with the command that repeats it.
"""

import argparse
import importlib
import logging
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, is_hypothesis_test, seed, settings

Target = Callable[[], None]
MAX_SEED = 1 << 32


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: nothing was found; 1: a target failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="for how long (default %(default)s)")
    parser.add_argument("--examples", type=int, default=1000, help="of one turn of a target (default %(default)s)")
    parser.add_argument("--target", help="this one alone")
    parser.add_argument("--seed", type=int, help="one turn with this seed, instead of many with random ones")
    options = parser.parse_args(arguments)
    logging.disable()
    settings.register_profile(
        "fuzz",
        max_examples=options.examples,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("fuzz")  # before the targets are imported: each keeps what it then finds
    targets = find_targets()
    if options.target is not None:
        if options.target not in targets:
            parser.error(f"no target {options.target}; there are {', '.join(targets)}")
        targets = {options.target: targets[options.target]}
    until_s = time.monotonic() + options.seconds
    turns = 0
    while True:
        for name, target in random.sample(list(targets.items()), len(targets)):
            number = random.randrange(MAX_SEED) if options.seed is None else options.seed
            if not run(name, target, number, options.examples):
                return 1
            turns += 1
            if time.monotonic() >= until_s and options.seed is None:
                break
        if options.seed is not None or time.monotonic() >= until_s:
            _say(f"nothing found in {turns} turns of {options.examples} examples")
            return 0


def find_targets() -> dict[str, Target]:
    """All Hypothesis tests of this folder, by name."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(f"{__package__}.{path.stem}")
        for name, each in vars(module).items():
            if name.startswith("test_") and is_hypothesis_test(each):
                found[name] = each
    return found


def run(name: str, target: Target, number: int, examples: int) -> bool:
    """One turn; whether it held."""
    started_s = time.monotonic()
    try:
        seed(number)(target)()
    except Exception:  # noqa: BLE001 - whatever a target raises is what is looked for
        traceback.print_exc()
        _say(f"{name} FAILED; repeat it with: make fuzz TARGET={name} SEED={number} EXAMPLES={examples}")
        return False
    _say(f"{name} seed {number} {time.monotonic() - started_s:.1f} s")
    return True


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
