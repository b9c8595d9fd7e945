"""A short storm, in a process of its own: everything in it, and all must hold."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import ROOT, clean_environment
from tests.support.redis_server import RedisServer

MINUTES = 0.4
pytestmark = pytest.mark.integration


def test_nothing_acknowledged_is_lost_in_a_short_storm(tmp_path: Path) -> None:
    seed = 1 if os.environ.get("CI") else random.randrange(1_000_000)
    broker = "redis" if RedisServer.is_installed() else "filesystem"
    command = [
        sys.executable, "-m", "tests.chaos", "--minutes", str(MINUTES), "--seed", str(seed), "--broker", broker,
        "--disk-mib", "160", "--directory", str(tmp_path / "run"),
    ]  # fmt: skip
    ended = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "all held" in ended.stdout
