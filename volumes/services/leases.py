"""Lease numbers: every one is given once, for one database write in a thousand.

A block of numbers is set aside in the database before its first number is used (hi/lo). What a process has
not used when it ends is lost, which costs nothing: 2^47 numbers last for ever.
"""

import os
import threading

from django.db import connection

from volumes.services.store import raise_number

BLOCK = 1000

_lock = threading.Lock()
_block: range | None = None
_next = 0


def reserve_lease_number() -> int:
    """A lease number that nobody ever had or will have, from 1 up. Safe in threads and after a fork."""
    global _block, _next
    if connection.in_atomic_block:
        # A block set aside here would return to the database if the caller rolled back, while other threads
        # were using it. A single number dies with its caller's transaction.
        return _take_from_block() or raise_number("lease_high", by=1)
    while True:
        number = _take_from_block()
        if number is not None:
            return number
        # Not under the lock, which a thread that holds the database's write lock may want. So two threads may
        # come here at once; the later block wins and the rest of the other is never used.
        high = raise_number("lease_high", by=BLOCK)
        with _lock:
            _block, _next = range(high - BLOCK + 1, high + 1), 0


def _take_from_block() -> int | None:
    global _next
    with _lock:
        if _block is None or _next >= len(_block):
            return None
        number = _block[_next]
        _next += 1
        return number


def forget_block() -> None:
    """Drops the numbers set aside in this process; a child process must not share its parent's."""
    global _block, _lock
    _lock = threading.Lock()
    _block = None


os.register_at_fork(after_in_child=forget_block)
