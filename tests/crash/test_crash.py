"""Hundreds of seeds of the crash run, in a process of its own: it forks servers, and is no place for threads."""

import os
import subprocess
import sys

import pytest

from tests.support.programs import ROOT, clean_environment

SEEDS = 200
pytestmark = pytest.mark.integration


def test_everything_acknowledged_outlives_kills_at_random_moments() -> None:
    command = [sys.executable, "-m", "tests.crash", "--seeds", str(SEEDS), "--jobs", "2"]
    if os.environ.get("CI"):
        command += ["--first", "1"]
    ended = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
