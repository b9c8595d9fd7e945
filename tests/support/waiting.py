"""Waiting for a condition instead of for time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 120.0
"""Long after a healthy machine is done; only a condition that never comes true gets here."""
POLL_S = 0.02


def wait_until(condition: Callable[[], T], *, what: str) -> T:
    """The first truthy value of `condition()`. AssertionError naming `what` when it never comes."""
    value = look_until(condition, bool, patience_s=PATIENCE_S, poll_s=POLL_S)
    if not value:
        raise AssertionError(f"waited {PATIENCE_S:.0f} s in vain for {what}; last seen: {value!r}")
    return value


def look_until(look: Callable[[], T], is_wanted: Callable[[T], object], *, patience_s: float, poll_s: float) -> T:
    """Looks again and again until what is seen is wanted, or patience is over: what was seen last."""
    give_up_at = time.monotonic() + patience_s
    while True:
        seen = look()
        if is_wanted(seen) or time.monotonic() > give_up_at:
            return seen
        time.sleep(poll_s)
