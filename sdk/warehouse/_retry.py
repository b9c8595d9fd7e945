"""Pauses between repeats, and the end of patience."""

import random
import threading
import time

from warehouse.transfer import TransferConfig


class Cancelled(Exception):
    """Another part of the same transfer failed: this one ends without a word of its own."""


class Backoff:
    """Exponential pauses with jitter until `retry_s` are over.

    `stop`, when given, is a transfer's own signal: a pause ends with it and raises Cancelled.
    """

    def __init__(self, config: TransferConfig, *, stop: threading.Event | None = None) -> None:
        self._delay_s = config.backoff_s
        self._max_s = config.backoff_max_s
        self._deadline = time.monotonic() + config.retry_s
        self._stop = stop or threading.Event()

    def pause(self, *, at_least_s: float = 0.0) -> bool:
        """Wait for the next turn; False, without waiting, when there is none any more."""
        delay_s = max(at_least_s, self._delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter is no secret
        self._delay_s = min(self._delay_s * 2, self._max_s)
        ends = time.monotonic() + delay_s > self._deadline
        if self._stop.wait(0.0 if ends else delay_s):
            raise Cancelled
        return not ends


def retry_after_s(text: str | None) -> float:
    """Seconds of a Retry-After header (RFC 9110 section 10.2.3; dates are passed over), at most 30."""
    return min(float(text), 30.0) if text and text.isascii() and text.isdigit() else 0.0
