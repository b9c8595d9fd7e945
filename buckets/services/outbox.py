"""Dead needles: how they enter the outbox, and how they leave it."""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from django.conf import settings
from django.db import connection
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils import timezone

from buckets.models import Chunk, Journal, Outbox, Removed
from buckets.services.bulk import insert_rows, run_in
from buckets.verdicts import Verdict
from volumes import client
from volumes.errors import LeasesHalted, VolumeServerError
from volumes.models import Server
from volumes.selectors import open_primaries_of
from volumes.services.store import require_not_behind

log = logging.getLogger(__name__)

READ_MARGIN = timedelta(seconds=60)
"""A reader may sign a URL while the commit that kills the needle is under way; none takes as long as this."""
NEEDLES_A_CALL = 1000

_COLUMNS = ("needle", "volume_id", "reason", "verdict", "created_at", "not_before", "keep_until", "sequence")


class DeadNeedle(NamedTuple):
    """A needle that no row names any more, or never will. ``judged_at``: when it got its first verdict."""

    needle: int
    volume_id: int
    reason: str
    verdict: Verdict
    judged_at: datetime
    was_readable: bool


def bury(dead: Sequence[DeadNeedle], *, now: datetime, sequence: int) -> None:
    """Puts needles into the outbox; inside the transaction that kills them, after their chunk rows are gone.

    ``sequence``: the number of that commit. Taken before this is called, so that the rows' ids come in the order of
    commits.
    """
    if not dead:
        return
    adapt = connection.ops.adapt_datetimefield_value
    read_until = now + timedelta(seconds=settings.WAREHOUSE_GET_SECONDS) + READ_MARGIN
    rows = [
        (
            one.needle,
            one.volume_id,
            str(one.reason),
            json.dumps(one.verdict.as_json(), ensure_ascii=False),
            adapt(now),
            adapt(read_until if one.was_readable else now),
            adapt(one.judged_at + confirms_last()),
            sequence,
        )
        for one in dead
    ]
    insert_rows(into="buckets_outbox", columns=_COLUMNS, rows=rows)


def confirms_last() -> timedelta:
    """How long after its first verdict a needle can be confirmed again: its lease was good then or in its grace."""
    lease_s = max(settings.WAREHOUSE_LEASE_SECONDS, settings.WAREHOUSE_CHUNK_URL_SECONDS)
    return timedelta(seconds=lease_s + settings.WAREHOUSE_CONFIRM_GRACE_SECONDS)


def still_named(needles: Iterable[int]) -> set[int]:
    """Those of the needles that some chunk row names: a copy keeps its source's needles alive."""
    rows = run_in("SELECT DISTINCT needle FROM buckets_chunk WHERE needle IN {in}", needles)
    return {needle for (needle,) in rows}


@dataclass(frozen=True, slots=True)
class Collected:
    """How many needles got their tombstones, and how many rows had nothing left to tell."""

    tombstoned: int
    dropped: int


def collect_outbox() -> Collected:
    """Has tombstones written for dead needles that nobody can be reading any more.

    Unknown is not absent: only a volume server's own answer that a needle is tombstoned, or was never stored, settles
    its row; after any error the row stays and is tried again. A settled row is kept until no confirm of its needle can
    come any more. May run twice at a time: a second tombstone for a needle changes nothing.

    A needle waits until the journal tells of its death: else a database that is rebuilt from the volumes would know
    an object whose bytes are gone.
    A volume that lost a copy gets none until all of its copies are equal again: else the needle could rise from the
    copy that was away, which has no tombstone to say that it is dead.
    """
    now = timezone.now()
    tombstoned = 0
    waiting = Outbox.objects.filter(tombstoned_at=None, not_before__lte=now)
    journalled = tombstones_up_to()
    if journalled is not None:
        waiting = waiting.filter(sequence__lte=journalled)
    volume_ids = list(waiting.order_by("volume_id").values_list("volume_id", flat=True).distinct())
    for volume_id, server in sorted(open_primaries_of(volume_ids).items()):
        if not server.is_alive():
            continue  # asked again when it is back
        try:
            tombstoned += _collect_volume(server, volume_id, waiting)
        except LeasesHalted as error:
            log.warning("nothing is deleted: %s", error.detail)
            break
        except VolumeServerError as error:
            log.warning("needles of volume %d wait for their tombstones: %s", volume_id, error.detail)
    dropped, _ = Outbox.objects.filter(tombstoned_at__isnull=False, keep_until__lt=now).delete()
    if journalled is None and not is_journalled():
        forget_journal()
    return Collected(tombstoned=tombstoned, dropped=dropped)


def _collect_volume(server: Server, volume_id: int, waiting: QuerySet[Outbox]) -> int:
    due = waiting.filter(
        # Named after all: a bug somewhere, and no reason to delete what an object still has.
        ~Exists(Chunk.objects.filter(needle=OuterRef("needle"))),
        volume=volume_id,
    ).order_by("not_before")
    tombstoned = 0
    while needles := list(due.values_list("needle", flat=True)[:NEEDLES_A_CALL]):
        require_not_behind()  # asked each time: nothing dies by an old database's word
        client.delete_needles(server, volume_id, needles)
        tombstoned += Outbox.objects.filter(needle__in=needles).update(tombstoned_at=timezone.now())
    return tombstoned


def is_journalled() -> bool:
    """Whether the store keeps a journal at all."""
    return bool(settings.WAREHOUSE_JOURNAL_SECONDS)


def tombstones_up_to() -> int | None:
    """Needles that died by a later commit than this get no tombstone yet; None: all may get theirs.

    A store that is full is let off: deletions must be able to make room, the journal's own included.
    """
    if not is_journalled():
        return None
    journal = Journal.objects.filter(pk=Journal.ONLY_ID).first()
    if journal is None:
        return 0
    return None if journal.is_full else journal.safe_sequence


def forget_journal() -> None:
    """While it is off nothing is told, so it must begin anew when it is on again; and removals need not be kept."""
    Removed.objects.filter(removed_at__lt=timezone.now() - confirms_last()).delete()
    begin_journal_anew()


def begin_journal_anew() -> None:
    """What it told is worth nothing any more: the next step begins a snapshot, and tombstones wait for that."""
    Journal.objects.filter(Q(whole_at__isnull=False) | ~Q(snapshot="")).update(
        number=F("number") + 1, whole_at=None, snapshot="", snapshot_cursor=None, covers_until=None, safe_sequence=0
    )
