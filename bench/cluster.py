"""What a lease costs when the cluster is large (`make bench-cluster`): ten servers and a thousand, 100,000 volumes.

The servers are rows alone (`bench.placement`), each figure that of a thousand beside that of ten.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from bench.table import Effort, Figure
from tests.support.programs import ROOT

VOLUMES = 100_000
FEW, MANY = 10, 1000
MOST = 1.5
"""Flat: a table of a hundred times the servers is read beside the requests once a second, and takes a little of the
one core that Python has."""
NAMES = {
    "pick": "placement of one needle",
    "spread": "placement of 16 chunks",
    "lease": "lease, signed, without HTTP",
}


def placement(directory: Path, effort: Effort) -> list[Figure]:
    rounds = [
        {count: _measure(directory / f"{turn}-{count}", count, effort.seconds) for count in (FEW, MANY)}
        for turn in range(effort.rounds)
    ]
    return [
        Figure(
            what=f"{what}, {MANY:,} servers",
            against=f"{FEW} servers, {VOLUMES:,} volumes each",
            ours=median(one[MANY][f"{name}_us"] for one in rounds),
            reference=median(one[FEW][f"{name}_us"] for one in rounds),
            unit="µs",
            most=MOST,
        )
        for name, what in NAMES.items()
    ]


def _measure(directory: Path, servers: int, seconds: int) -> dict[str, float]:
    directory.mkdir()
    env = {**os.environ, "WAREHOUSE_DATA": str(directory), "DATABASE_URL": "", "REDIS_URL": ""}
    command = [sys.executable, "-m", "bench.placement", str(servers), str(VOLUMES), str(seconds)]
    told = subprocess.run(command, env=env, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    figures: dict[str, float] = json.loads(told.splitlines()[-1])
    return figures
