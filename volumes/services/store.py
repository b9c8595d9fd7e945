"""The store's own numbers: identity, the sequence of commits, and the fail-safe against an old database."""

import logging
from collections.abc import Iterable
from typing import Literal

from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Greatest

from keys.actions import Action
from keys.services.audit import record
from volumes.errors import LeasesHalted
from volumes.models import Store

log = logging.getLogger(__name__)

LEASE_JUMP = 1 << 30
"""How far lease numbers jump when an older database is taken as the truth: above any that it may have given
after it was copied, and small enough for a hundred thousand such jumps."""
VOLUME_JUMP = 1 << 16


_intent_secret_id: int | None = None
"""As last seen in the row. Every heartbeat looks at that, so a process is two seconds behind at most."""


def current_store() -> Store:
    """The store's row, made at the first call on a new database."""
    global _intent_secret_id
    store = Store.objects.filter(pk=Store.ONLY_ID).first()
    store = store or Store.objects.get_or_create(pk=Store.ONLY_ID)[0]
    _intent_secret_id = store.intent_secret_id
    return store


def intent_secret_id() -> int:
    """Which secret signs intents, and which alone is taken back. A query for the first time in a process only."""
    return _intent_secret_id or current_store().intent_secret_id


def store_id() -> str:
    return str(current_store().uuid)


def next_sequence() -> int:
    """The number of the commit that the caller's transaction is.

    The row stays locked until that transaction ends, so commits become visible in the order of their numbers;
    therefore it is called as late as possible. Every change of what buckets hold passes here, so this is where a
    database that is behind refuses them: they would be undone without a word when the right one is put back.
    Raises LeasesHalted.
    """
    return raise_number("sequence", by=1, only_if="behind_of IS NULL")


def raise_number(
    column: Literal["sequence", "lease_high", "volume_high"],
    *,
    by: int,
    only_if: Literal["TRUE", "behind_of IS NULL"] = "TRUE",
) -> int:
    """Adds to one of the row's numbers in one statement and gives the new value.

    Raises LeasesHalted where the database is behind and ``only_if`` minds that.
    """
    statement = f"UPDATE volumes_store SET {column} = {column} + %s WHERE id = %s AND {only_if} RETURNING {column}"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(statement, [by, Store.ONLY_ID])
        row = cursor.fetchone()
        if row is None:
            require_not_behind()  # which makes the row, too, on a new database
            cursor.execute(statement, [by, Store.ONLY_ID])
            row = cursor.fetchone()
    return int(row[0])


def note_behind(*, seen_sequence: int) -> None:
    """Halts leases and all changes, because a server has seen a commit that this database does not have.

    It stays so, even if new commits bring the own number above the seen one: they would be other commits.
    """
    store = current_store()
    if store.behind_of is not None and store.behind_of >= seen_sequence:
        return
    Store.objects.filter(pk=Store.ONLY_ID).update(behind_of=seen_sequence)
    log.error(
        "this database is behind its volume servers (commit %d here, %d seen there): leases and changes are halted",
        store.sequence,
        seen_sequence,
    )


def require_not_behind() -> None:
    """Raises LeasesHalted while the database is known to be older than what a server has seen."""
    refuse_if_behind(current_store())


def refuse_if_behind(store: Store) -> None:
    if store.behind_of is not None:
        raise LeasesHalted(
            f"A volume server has seen commit {store.behind_of}, this database has {store.sequence}. "
            "Nothing is changed until the newer database is put back, or its commits are got out of the volumes "
            "(`manage.py rebuild`), or an operator accepts this one in the admin site."
        )


@transaction.atomic
def accept_store() -> None:
    """An operator's word that this database is the truth although a server has seen later commits.

    Numbers jump above all that the lost time may have given out, so that no needle id is used twice.
    """
    changed = Store.objects.filter(pk=Store.ONLY_ID, behind_of__isnull=False).update(
        # One more, so that what the journal tells of the lost time ends before what it tells from here on.
        sequence=Greatest(F("sequence"), F("behind_of")) + 1,
        lease_high=F("lease_high") + LEASE_JUMP,
        volume_high=F("volume_high") + VOLUME_JUMP,
        # Leases of the lost time are void: what was judged under them is not known here, and must not be judged anew.
        intent_secret_id=F("intent_secret_id") + 1,
        behind_of=None,
    )
    if changed:
        current_store()
        record(Action.STORE_ACCEPT)
        log.warning("an operator has accepted this database as the truth")


def set_cors_origins(*, origins: Iterable[str]) -> None:
    """The origins, besides the master's own, that volume servers allow from their next heartbeat on."""
    current_store()
    Store.objects.filter(pk=Store.ONLY_ID).update(cors_origins=sorted(set(origins)))


def set_replications(*, replications: Iterable[int]) -> None:
    """The numbers of copies, besides 1, that buckets ask for: volumes are made for each from the next heartbeats on."""
    current_store()
    Store.objects.filter(pk=Store.ONLY_ID).update(replications=sorted(set(replications) - {1}))
