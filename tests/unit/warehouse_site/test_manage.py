"""The command line's own part, in a process of its own."""

import os
import subprocess
import sys

import pytest

from tests.support.programs import ROOT

INTERRUPTED_WHILE_IT_IMPORTS = """
import runpy, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "django.core.management":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
sys.argv = ["manage.py", "compact", "--all"]
runpy.run_path("manage.py", run_name="__main__")
"""


def test_ctrl_c_among_the_imports_is_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_WHILE_IT_IMPORTS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("arguments", [("createsuperuser", "--username", "ana"), ("changepassword", "ana")])
def test_there_are_no_users(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "createkey" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_has_seen_enough_is_no_traceback() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [sys.executable, "manage.py", "help"], cwd=ROOT, stdout=write_end, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (1, b"")
