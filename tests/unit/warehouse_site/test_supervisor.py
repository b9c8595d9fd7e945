import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from warehouse_site.supervisor import Part, Signals, Supervisor

ROOT = Path(__file__).resolve().parents[3]
SLEEPER = "import sys, time; print('started', flush=True); time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('started', flush=True); time.sleep(600)"


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    with Signals().caught() as signals:
        made = Supervisor(signals, ROOT)
        yield made
        made.kill()


def part(name: str, code: str, tmp_path: Path) -> Part:
    return Part(name, [sys.executable, "-c", code], dict(os.environ), tmp_path / f"{name}.log")


def started(one: Part) -> None:
    assert one.log is not None
    while b"started" not in one.log.read_bytes():
        assert one.is_running, one.log.read_text()


def test_a_part_that_ends_is_told_once(supervisor: Supervisor, tmp_path: Path) -> None:
    one = part("one", "import sys; sys.exit(3)", tmp_path)
    supervisor.start(one)
    while not (dead := supervisor.newly_dead()):
        supervisor.signals.wait(None)
    assert dead == [one]
    assert one.ending() == f"one exited with 3; its log is {tmp_path / 'one.log'}"
    assert supervisor.newly_dead() == []


def test_a_killed_part_is_named_with_its_signal(supervisor: Supervisor, tmp_path: Path) -> None:
    one = part("one", SLEEPER, tmp_path)
    supervisor.start(one)
    started(one)
    assert one.pid is not None
    os.kill(one.pid, signal.SIGKILL)
    while one.is_running:
        supervisor.signals.wait(None)
    assert "one was ended by SIGKILL" in one.ending()


def test_children_stay_in_the_session_in_groups_of_their_own(supervisor: Supervisor, tmp_path: Path) -> None:
    one = part("one", SLEEPER, tmp_path)
    supervisor.start(one)
    assert one.pid is not None
    assert os.getsid(one.pid) == os.getsid(0)
    assert os.getpgid(one.pid) == one.pid


def test_stopping_waits_for_all(supervisor: Supervisor, tmp_path: Path) -> None:
    parts = [part("one", SLEEPER, tmp_path), part("two", SLEEPER, tmp_path)]
    for one in parts:
        supervisor.start(one)
        started(one)
    supervisor.stop(parts)
    assert not any(one.is_running for one in parts)
    supervisor.stop(parts)


def test_asked_twice_it_kills(supervisor: Supervisor, tmp_path: Path) -> None:
    one = part("one", STUBBORN, tmp_path)
    supervisor.start(one)
    started(one)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    assert supervisor.signals.asked_to_stop == 2
    supervisor.stop([one])
    assert "SIGKILL" in one.ending()


def test_the_log_of_the_run_before_is_kept(supervisor: Supervisor, tmp_path: Path) -> None:
    for text in ("first", "second"):
        one = part("one", f"print({text!r})", tmp_path)
        supervisor.start(one)
        while one.is_running:
            supervisor.signals.wait(None)
    assert (tmp_path / "one.log").read_text() == "second\n"
    assert (tmp_path / "one.old.log").read_text() == "first\n"


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Signals().caught():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
