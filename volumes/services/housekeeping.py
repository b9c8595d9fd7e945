"""Upkeep that nobody has to ask for: volumes are compacted when enough of them is garbage, scrubs are not forgotten.

Both only begin what `volumes.services.upkeep` begins when an operator asks, and may run twice, late or be cut off: what
is under way is known from the servers' figures, and who may begin something on a server is decided by its row.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from django.conf import settings
from django.db.models import F, Q, QuerySet, Value
from django.db.models.functions import Greatest
from django.utils import timezone

from keys.errors import WarehouseError
from volumes.models import JobState, Replica, Server, Volume
from volumes.services.upkeep import start_compaction, start_scrub, tombstones_kept_for

log = logging.getLogger(__name__)

MIN_RECLAIMED_BYTES: Final = 1 << 20
"""What a compaction must give back to be worth the while, whatever the share of garbage is."""
ASKED_AGAIN_AFTER: Final = timedelta(seconds=30)
"""So long one call may take, until the server's figures show what it has begun."""
TRIED_AGAIN_AFTER: Final = timedelta(hours=1)
"""A compaction that failed, or was refused, would most likely fail again a minute later."""
SCRUB_GRACE: Final = timedelta(days=1)
"""Servers scrub one volume at a time, slowly, so some are a little late; no reason to ask."""


@dataclass(frozen=True, slots=True)
class Compactions:
    """``due``: volumes with enough garbage, on servers that can be asked, of which as many as may run were started."""

    due: int
    started: int
    refused: int
    running: int


@dataclass(frozen=True, slots=True)
class Scrubs:
    """``overdue``: copies whose last full scrub is too old; ``asked``: those that were put in line now."""

    copies: int
    overdue: int
    asked: int


def compact_garbage(*, now: datetime | None = None) -> Compactions:
    """Has the volumes compacted of which WAREHOUSE_COMPACT_GARBAGE percent or more can be given back, the worst first.

    One on each server at a time, within WAREHOUSE_COMPACT_HOURS, and only where the new file has room.
    """
    now = now or timezone.now()
    busy = _busy_servers()
    if not settings.WAREHOUSE_COMPACT_GARBAGE or not _is_quiet(now):
        return Compactions(due=0, started=0, refused=0, running=len(busy))
    due = sorted(_worth_compacting(now), key=lambda replica: -_reclaimable_bytes(replica, now))
    started = refused = 0
    for replica in due:
        if replica.server_id in busy or not _claim(replica.server_id, now):
            continue
        busy.add(replica.server_id)
        if _busy_servers(replica.server_id):
            continue  # another worker was quicker, and its figures are newer than ours
        try:
            start_compaction(volume_id=replica.volume_id, rate_bytes=settings.WAREHOUSE_COMPACT_RATE)
        except WarehouseError as error:
            refused += 1
            log.warning("volume %d is not compacted: %s", replica.volume_id, error.detail)
            Replica.objects.filter(pk=replica.pk).update(compact_refused_at=now)
        else:
            started += 1
            log.info(
                "volume %d is compacted: %d of %d bytes are garbage",
                *(replica.volume_id, replica.garbage_bytes, replica.size_bytes),
            )
    return Compactions(due=len(due), started=started, refused=refused, running=len(_busy_servers()))


def watch_scrubs(*, now: datetime | None = None) -> Scrubs:
    """Counts the copies that were not scrubbed within WAREHOUSE_SCRUB_DAYS (and a day), and asks for the oldest.

    Servers see to it themselves; this finds the ones that do not. One on each server, unless one runs or waits there.
    """
    now = now or timezone.now()
    held = Replica.objects.filter(state__in=[Replica.State.OPEN, Replica.State.SEALED])
    copies = held.count()
    if not settings.WAREHOUSE_SCRUB_DAYS:
        return Scrubs(copies=copies, overdue=0, asked=0)
    oldest = now - timedelta(days=settings.WAREHOUSE_SCRUB_DAYS) - SCRUB_GRACE
    overdue = held.filter(
        Q(scrubbed_at__lt=oldest) | Q(scrubbed_at=None, volume__created_ms__lt=int(oldest.timestamp() * 1000))
    )
    late = overdue.count()
    asked = 0
    if late:
        busy = set(held.filter(scrub__state=JobState.RUNNING).values_list("server", flat=True))
        for replica in overdue.select_related("server").order_by(
            F("scrubbed_at").asc(nulls_first=True), "volume__created_ms", "pk"
        ):
            if replica.server_id in busy or replica.server.status not in {"online", "draining"}:
                continue
            busy.add(replica.server_id)
            try:
                start_scrub(volume_id=replica.volume_id, server_id=replica.server_id)
            except WarehouseError as error:
                log.warning("volume %d cannot be scrubbed: %s", replica.volume_id, error.detail)
            else:
                asked += 1
        log.warning("%d of %d copies of volumes were not scrubbed in time", late, copies)
    return Scrubs(copies=copies, overdue=late, asked=asked)


def _worth_compacting(now: datetime) -> Iterator[Replica]:
    """Primary replicas of volumes whose copies are all there that can be compacted now, and are worth it."""
    candidates: QuerySet[Replica] = Replica.objects.filter(
        role=Replica.Role.PRIMARY,
        state=Replica.State.OPEN,
        volume__state__in=[Volume.State.WRITABLE, Volume.State.FULL],
        volume__redundancy=Volume.Redundancy.WHOLE,
        server__admin_state=Server.AdminState.ACTIVE,
        garbage_bytes__gte=Greatest(
            Value(MIN_RECLAIMED_BYTES), F("size_bytes") * settings.WAREHOUSE_COMPACT_GARBAGE / 100
        ),
    )
    for replica in candidates.select_related("server"):
        reclaimable = _reclaimable_bytes(replica, now)
        if (
            reclaimable >= MIN_RECLAIMED_BYTES
            and 100 * reclaimable >= settings.WAREHOUSE_COMPACT_GARBAGE * replica.size_bytes
            and replica.server.is_alive(now=now)
            and replica.server.usable_bytes >= replica.size_bytes - replica.garbage_bytes
            and not _failed_lately(replica, now)
        ):
            yield replica


def _failed_lately(replica: Replica, now: datetime) -> bool:
    since = now - TRIED_AGAIN_AFTER
    if replica.compact_refused_at is not None and replica.compact_refused_at > since:
        return True
    job = replica.compaction
    return job is not None and job["state"] == JobState.FAILED and (job["ended_ms"] or 0) > since.timestamp() * 1000


def _reclaimable_bytes(replica: Replica, now: datetime) -> int:
    """What a compaction would give back: garbage, less what the last one had to keep and a next one would keep as well.

    Tombstones are kept until no lease of their needles can be good any more.
    """
    kept_until = None if replica.compacted_at is None else replica.compacted_at + tombstones_kept_for()
    if kept_until is None or kept_until < now:
        return replica.garbage_bytes
    return max(0, replica.garbage_bytes - replica.kept_garbage_bytes)


def _busy_servers(server_id: UUID | None = None) -> set[UUID]:
    """Servers on which a compaction runs, whoever asked for it; of one server alone, if that is named."""
    running = Replica.objects.filter(compaction__state=JobState.RUNNING)
    if server_id is not None:
        running = running.filter(server=server_id)
    return set(running.values_list("server", flat=True))


def _claim(server_id: UUID, now: datetime) -> bool:
    """Whether this caller is the one that may begin a compaction on the server now.

    One conditional UPDATE, so of two workers at once one goes on. It is not given back: it ends by itself, as it must
    when its holder is killed.
    """
    free = Q(compaction_asked_at=None) | Q(compaction_asked_at__lt=now - ASKED_AGAIN_AFTER)
    return Server.objects.filter(free, pk=server_id).update(compaction_asked_at=now) == 1


def _is_quiet(now: datetime) -> bool:
    """Whether it is one of the hours of WAREHOUSE_COMPACT_HOURS; all are where none is named."""
    if settings.WAREHOUSE_COMPACT_HOURS is None:
        return True
    first, last = settings.WAREHOUSE_COMPACT_HOURS
    hour = now.astimezone(UTC).hour
    return first <= hour < last if first < last else hour >= first or hour < last
