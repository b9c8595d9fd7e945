"""Failed tries are counted over the last minute, wherever it begins."""

import pytest

from keys.errors import TooManyFailures
from keys.services import failures
from keys.services.failures import SLICE_S, WINDOW_S, count_failure, require_few_failures

LIMIT = 5
BEGIN = 1_700_000_000 - 1_700_000_000 % WINDOW_S
"""A full minute."""


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = float(BEGIN)
        monkeypatch.setattr(failures, "_now", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def fails(what: str) -> bool:
    """Whether a try that fails is told so, and not held up."""
    try:
        require_few_failures(what, limit=LIMIT)
        count_failure(what, limit=LIMIT)
    except TooManyFailures:
        return False
    return True


@pytest.mark.parametrize("offset_s", [0, 1, SLICE_S - 1, 29, WINDOW_S - 1, WINDOW_S])
def test_no_minute_lets_more_through(clock: Clock, offset_s: int) -> None:
    """An attacker who knows how time is divided has no more tries than others."""
    clock.now += offset_s
    told_at: list[float] = []
    for _ in range(4 * WINDOW_S):
        while fails("x"):
            told_at.append(clock.now)
        clock.now += 1
    most = max(sum(begin <= at < begin + WINDOW_S for at in told_at) for begin in told_at)
    assert most == LIMIT
    assert len(told_at) >= 3 * LIMIT, "and it is not held up for ever"


def test_waiting_as_long_as_told_is_enough(clock: Clock) -> None:
    clock.now += 7
    for _ in range(LIMIT):
        assert fails("x")
        clock.now += 4
    with pytest.raises(TooManyFailures) as caught:
        require_few_failures("x", limit=LIMIT)
    wait_s = caught.value.extra["retry_after_s"]
    assert isinstance(wait_s, int)
    assert 0 < wait_s <= WINDOW_S + SLICE_S
    clock.now += wait_s - 1
    assert not fails("x")
    clock.now += 1
    assert fails("x")


def test_others_are_counted_apart(clock: Clock) -> None:
    while fails("x"):
        pass
    assert fails("y")


def test_who_never_asked_before_is_counted_too(clock: Clock) -> None:
    for _ in range(LIMIT):
        count_failure("x", limit=LIMIT)
    clock.now += WINDOW_S - 1
    with pytest.raises(TooManyFailures):
        count_failure("x", limit=LIMIT)
