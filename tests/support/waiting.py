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
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > give_up_at:
            raise AssertionError(f"waited {PATIENCE_S:.0f} s in vain for {what}; last seen: {value!r}")
        time.sleep(POLL_S)
