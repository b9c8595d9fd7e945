import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from warehouse_site.supervisor import HEALTHY_S, Part, Signals, Supervisor

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


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(supervisor: Supervisor) -> Clock:
    made = Clock()
    supervisor.clock = made
    return made


def died(supervisor: Supervisor, one: Part) -> float:
    """Waits for its end and has it started again. Returns the pause."""
    while one not in supervisor.newly_dead():
        supervisor.signals.wait(None)
    return supervisor.restart_later(one)


def test_the_pause_grows_and_a_healthy_life_makes_it_short_again(
    supervisor: Supervisor, clock: Clock, tmp_path: Path
) -> None:
    one = part("one", "pass", tmp_path)
    supervisor.start(one)
    pauses = []
    for _ in range(7):
        pauses.append(died(supervisor, one))
        assert supervisor.seconds_to_next() == pauses[-1]
        clock.now_s += pauses[-1] - 0.1
        assert supervisor.due() == []
        clock.now_s += 0.2
        assert supervisor.due() == [one]
        assert supervisor.seconds_to_next() == 0
        supervisor.restart(one)
        assert supervisor.due() == []
        assert supervisor.seconds_to_next() is None
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert one.deaths == 7
    clock.now_s += HEALTHY_S
    assert died(supervisor, one) == 1
    assert one.deaths == 1


def test_a_part_started_again_is_watched_and_its_log_goes_on(
    supervisor: Supervisor, clock: Clock, tmp_path: Path
) -> None:
    one = part("one", "import os; print(os.getpid())", tmp_path)
    supervisor.start(one)
    died(supervisor, one)
    supervisor.restart(one)
    died(supervisor, one)
    assert one.log is not None
    assert len(set(one.log.read_text().split())) == 2
    assert one.last_lines(1) == one.log.read_text().splitlines()[-1:]
    assert supervisor.parts == [one]


def test_a_start_that_the_machine_refuses_is_tried_again(supervisor: Supervisor, clock: Clock, tmp_path: Path) -> None:
    one = part("one", "pass", tmp_path)
    supervisor.start(one)
    died(supervisor, one)
    one.log = tmp_path / "one.log" / "below a file"
    with pytest.raises(OSError, match=r"one\.log"):
        supervisor.restart(one)
    assert supervisor.restart_later(one) == 2
    one.log = tmp_path / "one.log"
    supervisor.restart(one)
    assert died(supervisor, one) == 4


def test_some_exit_codes_are_final(supervisor: Supervisor, tmp_path: Path) -> None:
    for code, reason in ((3, "refused"), (4, None)):
        one = part("one", f"raise SystemExit({code})", tmp_path)
        one.final_codes = {3: "refused"}
        assert one.why_final() is None
        supervisor.start(one)
        while one.is_running:
            supervisor.signals.wait(None)
        assert one.why_final() == reason


def test_the_end_of_a_log(tmp_path: Path) -> None:
    one = part("one", "pass", tmp_path)
    assert one.last_lines() == [f"(the log cannot be read: [Errno 2] No such file or directory: '{one.log}')"]
    assert one.log is not None
    one.log.write_bytes(b"\xff\n" + b"\n".join(b"line %d" % number for number in range(10_000)))
    assert one.last_lines(2) == ["line 9998", "line 9999"]
    one.log = None
    assert one.last_lines() == []


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Signals().caught():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
