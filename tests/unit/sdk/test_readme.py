"""The examples for newcomers can be pasted as they stand."""

import re
import subprocess
import sys

import pytest

from tests.support.programs import ROOT

README = (ROOT / "README.md").read_text()


def test_python_examples_use_no_name_that_is_not_there() -> None:
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert examples
    for example in examples:
        checked = subprocess.run(
            [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", "-"],
            input=example,
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("example", re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
def test_shell_examples_leave_no_files_behind(example: str) -> None:
    assert not re.search(r"(?<![<\d])>\s*[\w./]", example)
    subprocess.run(["sh", "-n"], input=example, text=True, check=True)
