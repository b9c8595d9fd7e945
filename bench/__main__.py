"""`make bench`: prints the table of figures. Everything happens in a temporary directory, on free ports.

python -m bench [--rounds N] [--seconds S] [--large-bytes B] [--only NAME] [--directory DIR]
"""

import argparse
import datetime as dt
import shutil
import sys
import tempfile
from pathlib import Path

from bench import figures, machine

ROWS = {
    "get": lambda directory, effort: [figures.signed_get(directory, effort)],
    "durable": lambda directory, effort: [figures.durable_put(directory, effort)],
    "commit": lambda directory, effort: [figures.committed_put(directory, effort)],
    "large": figures.large_put_and_get,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Figures, each against its reference.")
    parser.add_argument("--rounds", type=int, default=3, help="each figure is the median of so many (3)")
    parser.add_argument("--seconds", type=int, default=5, help="of load in each round (5)")
    parser.add_argument("--large-bytes", type=int, default=1 << 30, help="size of the large file (1 GiB)")
    parser.add_argument("--only", choices=sorted(ROWS), action="append", help="this figure only")
    parser.add_argument("--directory", type=Path, help="where to make the temporary directory")
    asked = parser.parse_args()
    effort = figures.Effort(rounds=asked.rounds, seconds=asked.seconds, large_bytes=asked.large_bytes)
    print(f"{dt.datetime.now(tz=dt.UTC).date()}, {machine.describe()}")
    print("python -m bench " + " ".join(sys.argv[1:]) + "\n")
    print("| what | against | ours | reference | ratio | at least | |")
    print("|---|---|---|---|---|---|---|", flush=True)
    all_met = True
    for name, measure in ROWS.items():
        if asked.only and name not in asked.only:
            continue
        directory = Path(tempfile.mkdtemp(prefix="warehouse-bench-", dir=asked.directory))
        try:
            for figure in measure(directory, effort):
                print(row(figure), flush=True)
                all_met &= figure.is_met
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    return 0 if all_met else 1


def row(figure: figures.Figure) -> str:
    return (
        f"| {figure.what} | {figure.against} | {figure.ours:,.0f} {figure.unit} | {figure.reference:,.0f} "
        f"| {figure.ratio:.2f} | {figure.least:g} | {'met' if figure.is_met else 'MISSED'} |"
    )


if __name__ == "__main__":
    sys.exit(main())
