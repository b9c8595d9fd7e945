"""What the worker's application does to Celery's own programs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.programs import ROOT

BEAT_THAT_IS_INTERRUPTED_WHERE_IT_MATTERS = """
import os, signal
from celery.beat import PersistentScheduler

def apply_entry(self, entry, producer=None):
    try:
        os.kill(os.getpid(), signal.{signal})
    except BaseException:
        pass  # as a client of a broker does that tidies up, and fails at it

PersistentScheduler.apply_entry = apply_entry
from warehouse_site.celery import app
app.start(["--quiet", "beat", "--schedule", "{schedule}"])
"""


def test_beat_ends_cleanly_wherever_it_is_when_it_is_told(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        program = BEAT_THAT_IS_INTERRUPTED_WHERE_IT_MATTERS.format(
            signal=number.name, schedule=f"{tmp_path}/{number.name}"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT, env={**os.environ, "WAREHOUSE_DATA": str(tmp_path)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "closed shelf" not in done.stderr
