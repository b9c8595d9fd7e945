"""Hashes of passwords. One takes half a second of a core, on purpose; so few are made or checked at a time.

Whatever is tried, and whoever makes shares without end, the other threads stay free.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.contrib.auth.hashers import check_password, make_password

from buckets.errors import Busy

_hashing = threading.BoundedSemaphore(max(1, settings.WAREHOUSE_THREADS // 8))


def hash_password(password: str) -> str:
    """What is kept of a password. Raises Busy."""
    with _a_turn():
        return make_password(password)


def is_password(password: str, *, password_hash: str) -> bool:
    """Whether a hash is that of a password. Raises Busy."""
    with _a_turn():
        return check_password(password, password_hash)


@contextmanager
def _a_turn() -> Iterator[None]:
    if not _hashing.acquire(blocking=False):
        raise Busy("Too many passwords are being checked; try again.")
    try:
        yield
    finally:
        _hashing.release()
