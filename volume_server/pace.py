"""A limit on how fast background work goes: a token bucket over bytes."""

import time
from collections.abc import Callable

LONGEST_SLEEP_S = 0.25
"""So that whoever is paced can say that it lives, and be stopped."""


class Pace:
    """``rate_bytes`` a second on average, a second's worth at once at the most; 0: no limit."""

    def __init__(
        self,
        rate_bytes: int,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.rate_bytes = rate_bytes
        self._now = now
        self._sleep = sleep
        self._owed = 0.0
        self._at = now()

    def spend(self, size_bytes: int, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Sleep for as long as ``size_bytes`` more are too fast; ``meanwhile`` is called between the naps."""
        if not self.rate_bytes:
            return
        self._owed += size_bytes
        while True:
            now = self._now()
            self._owed = max(self._owed - (now - self._at) * self.rate_bytes, 0.0)
            self._at = now
            if self._owed <= self.rate_bytes / 10:
                return
            self._sleep(min(self._owed / self.rate_bytes, LONGEST_SLEEP_S))
            meanwhile()
