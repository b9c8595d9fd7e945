"""Many seeds of the crash run, in a process of its own: it forks servers, and is no place for threads."""

import os
import subprocess
import sys

import pytest

from tests.support.loop_disk import require_loop_disks
from tests.support.programs import ROOT, clean_environment

SEEDS = 30
POWER_SEEDS = 6
pytestmark = pytest.mark.integration


def crash(*arguments: str) -> None:
    command = [sys.executable, "-m", "tests.crash", *arguments]
    if os.environ.get("CI"):
        command += ["--first", "1"]
    ended = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_everything_acknowledged_outlives_kills_at_random_moments() -> None:
    crash("--seeds", str(SEEDS))


def test_everything_acknowledged_outlives_power_cuts_at_random_moments() -> None:
    require_loop_disks()
    crash("--seeds", str(POWER_SEEDS), "--power")
