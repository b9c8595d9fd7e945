"""Denied tries in the audit trail: written at once in a calm store, counted together in a flood.

    a try ── the same address, key, action and target in this minute? ── yes: its count + 1
      └─ no: an entry of its own, or, when its address (or all together) had its share of entries in this minute,
             the count of `denied.more` + 1

What is new is kept in memory and written by one statement, at most once in a second by each process: by the try
itself, else by the next request that ends (`write_denials`). So a flood costs the store a commit a second, and the disk
some entries a minute, whatever comes. Processes meet in the database: an entry's `fold` is the same in all of them.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import DatabaseError, connection, transaction

from keys.actions import Action, Outcome
from keys.services.acting import acting
from keys.services.audit import COLUMNS, TABLE, row

log = logging.getLogger("warehouse.audit")

FOLD_S = 60
ENTRIES_OF_AN_ADDRESS = 20
ENTRIES_IN_ALL = 200
"""In a minute, by each process."""
WRITE_EVERY_S = 1.0
MAX_WAIT_MS = 250
"""For another writer of SQLite; the answer to the try waits for it."""
MAX_PENDING = 1_000
"""Entries that wait for a database that cannot be written; beyond that the newest are lost."""


@dataclass(slots=True)
class _Pending:
    columns: tuple[Any, ...]
    count: int


_lock = threading.Lock()
_minute = -1
_folds: set[str] = set()
"""The entries of this minute."""
_of_address: dict[str, int] = {}
"""How many of them each address has."""
_pending: dict[str, _Pending] = {}
_written_at = float("-inf")
"""Monotonic seconds."""

_STATEMENT = (
    f"INSERT INTO {TABLE} ({', '.join(COLUMNS)}, fold) VALUES ({', '.join(['%s'] * (len(COLUMNS) + 1))}) "  # noqa: S608
    f"ON CONFLICT (fold) WHERE fold IS NOT NULL DO UPDATE SET count = {TABLE}.count + EXCLUDED.count"
)


def note_denied(action: str, *, bucket: str = "", target: str = "", **detail: object) -> None:
    """Notes that whoever acts in this thread was refused something."""
    now = time.time()
    who = acting()
    key: tuple[int | None, str] = (who.key_id, who.key_name)
    with _lock:
        minute = _turn_to(now)
        fold = _fold(minute, who.address, who.key_id, action, bucket, target)
        address = who.address
        if fold not in _folds:
            is_full = len(_folds) >= ENTRIES_IN_ALL
            if is_full or _of_address.get(address, 0) >= ENTRIES_OF_AN_ADDRESS:
                address = "" if is_full else address
                action, bucket, target, detail, key = Action.MORE_DENIED, "", "", {}, (None, "")
                fold = _fold(minute, address, action)
            else:
                _folds.add(fold)
                _of_address[address] = _of_address.get(address, 0) + 1
        if fold in _pending:
            _pending[fold].count += 1
        elif len(_pending) < MAX_PENDING:
            columns = row(
                action,
                at=datetime.fromtimestamp(now, UTC),
                key=key,
                bucket=bucket,
                target=target,
                outcome=Outcome.DENIED,
                detail=detail,
                address=address,
            )
            _pending[fold] = _Pending(columns, 1)
    write_denials()


def write_denials(*, at_once: bool = False) -> None:
    """Writes what is pending, unless that was done within the last second. Never raises for the database's sake."""
    global _pending, _written_at
    if not _pending or connection.needs_rollback:
        return
    with _lock:
        now = time.monotonic()
        if not at_once and now - _written_at < WRITE_EVERY_S:
            return
        batch, _pending, _written_at = _pending, {}, now
    try:
        with _impatient(), transaction.atomic(), connection.cursor() as cursor:
            cursor.executemany(
                _STATEMENT, [(*one.columns[:-1], one.count, fold) for fold, one in sorted(batch.items())]
            )
    except DatabaseError:
        log.warning("denied tries could not be written to the audit trail yet", exc_info=True)
        with _lock:
            for fold, one in batch.items():
                if fold in _pending:
                    _pending[fold].count += one.count
                elif len(_pending) < MAX_PENDING:
                    _pending[fold] = one


@contextmanager
def _impatient() -> Iterator[None]:
    """Waits for another writer of SQLite for a moment alone: nobody's answer is to wait for the trail.

    What could not be written is kept, and comes with the next try. PostgreSQL's writers hold up none that insert.
    """
    if connection.vendor != "sqlite":
        yield
        return
    connection.ensure_connection()
    raw = connection.connection  # asked itself: it answers in a transaction that failed, too
    (patience_ms,) = raw.execute("PRAGMA busy_timeout").fetchone()
    raw.execute(f"PRAGMA busy_timeout = {MAX_WAIT_MS}")
    try:
        yield
    finally:
        raw.execute(f"PRAGMA busy_timeout = {int(patience_ms)}")


def forget_denials() -> None:
    """Drops what this process remembers, for another test's database."""
    global _minute, _written_at
    with _lock:
        _minute, _written_at = -1, float("-inf")
        _folds.clear()
        _of_address.clear()
        _pending.clear()


def _turn_to(now: float) -> int:
    """The minute that this is; a new one begins with nothing counted."""
    global _minute
    minute = int(now // FOLD_S)
    if minute != _minute:
        _minute = minute
        _folds.clear()
        _of_address.clear()
    return minute


def _fold(*parts: object) -> str:
    text = "\0".join(str(part) for part in parts)
    return hashlib.blake2b(text.encode(errors="backslashreplace"), digest_size=16).hexdigest()
