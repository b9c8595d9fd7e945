"""Waiting for a condition instead of for time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 120.0
"""Long after a healthy machine is done; only a condition that never comes true gets here."""
POLL_S = 0.02
LONGEST_POLL_S = 0.25
"""Looks that are in vain become rarer: each asks a master, which needs the machine for what is waited for."""
_RARER = 1.5


def wait_until(condition: Callable[[], T], *, what: str) -> T:
    """The first truthy value of `condition()`. AssertionError naming `what` when it never comes."""
    value = look_until(condition, bool, patience_s=PATIENCE_S)
    if not value:
        raise AssertionError(f"waited {PATIENCE_S:.0f} s in vain for {what}; last seen: {value!r}")
    return value


def look_until(
    look: Callable[[], T],
    is_wanted: Callable[[T], object],
    *,
    patience_s: float,
    poll_s: float = POLL_S,
    longest_poll_s: float = LONGEST_POLL_S,
) -> T:
    """Looks again and again until what is seen is wanted, or patience is over: what was seen last."""
    give_up_at = time.monotonic() + patience_s
    while True:
        seen = look()
        if is_wanted(seen) or time.monotonic() > give_up_at:
            return seen
        time.sleep(poll_s)
        poll_s = max(poll_s, min(_RARER * poll_s, longest_poll_s))
