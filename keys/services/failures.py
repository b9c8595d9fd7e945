"""Failed tries, counted in slices of ten seconds, so that nobody guesses for long.

    ... | 6 before | 5 | 4 | 3 | 2 | 1 | begun ──> now        these seven hold all of the last minute, and a little more

So no sixty seconds, wherever they begin, let more than the limit through; whoever was held up waits for seventy at the
most. Windows of a minute each would let twice as much through to whoever begins at the end of one.
"""

import math
import time
from typing import Final

from django.core.cache import cache

from keys.errors import TooManyFailures

WINDOW_S: Final = 60
SLICE_S: Final = 10
_SLICES: Final = WINDOW_S // SLICE_S + 1


def count_failure(what: str, *, limit: int) -> None:
    """Count one more failure of ``what``. Raises TooManyFailures when that is more than ``limit`` in a minute."""
    name = _name(what, _slice())
    cache.add(name, 0, timeout=WINDOW_S + 2 * SLICE_S)
    try:
        cache.incr(name)
    except ValueError:  # the cache dropped it between the two calls
        return
    counts = _counts(what)
    if sum(counts.values()) > limit:
        raise _too_many(counts, limit)


def require_few_failures(what: str, *, limit: int) -> None:
    """Raises TooManyFailures when ``limit`` of them were counted in the last minute, before a try costs anything."""
    counts = _counts(what)
    if sum(counts.values()) >= limit:
        raise _too_many(counts, limit)


def _counts(what: str) -> dict[int, int]:
    """The failures of each slice that has some, the oldest first."""
    begun = _slice()
    names = {_name(what, at): at for at in range(begun - _SLICES + 1, begun + 1)}
    found = cache.get_many(names)
    return {at: found[name] for name, at in names.items() if name in found}


def _name(what: str, at: int) -> str:
    return f"failures.{what}.{at}"


def _slice() -> int:
    return int(_now() // SLICE_S)


def _now() -> float:
    return time.time()


def _too_many(counts: dict[int, int], limit: int) -> TooManyFailures:
    left = sum(counts.values())
    frees = _slice()
    for at, count in counts.items():
        left -= count
        frees = at + _SLICES
        if left < limit:
            break
    wait_s = max(1, math.ceil(frees * SLICE_S - _now()))
    return TooManyFailures(f"More than {limit} failed tries in a minute.", retry_after_s=wait_s)
