"""Failed tries, counted in windows of a minute of the clock, so that nobody guesses for long."""

import time
from typing import Final

from django.core.cache import cache

from keys.errors import TooManyFailures

WINDOW_S: Final = 60


def count_failure(what: str, *, limit: int) -> None:
    """Count one more failure of ``what``. Raises TooManyFailures when that is more than ``limit`` in this minute."""
    name = _name(what)
    cache.add(name, 0, timeout=2 * WINDOW_S)
    try:
        failures = cache.incr(name)
    except ValueError:  # the cache dropped it between the two calls
        return
    if failures > limit:
        raise _too_many(limit)


def require_few_failures(what: str, *, limit: int) -> None:
    """Raises TooManyFailures when ``limit`` of them were counted in this minute, before a try costs anything."""
    if cache.get(_name(what), 0) >= limit:
        raise _too_many(limit)


def _name(what: str) -> str:
    return f"failures.{what}.{_window()}"


def _window() -> int:
    return int(time.time() // WINDOW_S)


def _too_many(limit: int) -> TooManyFailures:
    wait_s = max(1, round(WINDOW_S - time.time() % WINDOW_S))
    return TooManyFailures(f"More than {limit} failed tries in a minute.", retry_after_s=wait_s)
