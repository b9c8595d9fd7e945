"""Orphans: needles that are durable and that no row names, most often since their confirm never came. They are garbage.

Nothing is deleted by one look alone. An orphan is deleted only when all of this holds:

- it was written so long ago that no lease and no grace, as they are or ever may have been, can bring it a row any more:
  WAREHOUSE_SWEEP_SECONDS beyond the end of the longest of both;
- two whole, error-free listings of its volume, that long apart, saw it alive and found no row that names it;
- no row names it right before, its volume is open and whole, and the database is not behind what servers have seen.

A listing that breaks off, meets damage or another revision counts for nothing. What is deleted is told to the audit
trail before it is, so that a crash leaves nothing untold; deleting twice changes nothing.
"""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import F, Sum
from django.db.models.functions import Greatest
from django.utils import timezone

from buckets.models import Orphan, Sweep
from buckets.services.fsck import lease_end_ms
from buckets.services.needle_rows import named_in, unnamed
from keys.actions import Action
from keys.services.audit import record
from volumes import client
from volumes.errors import LeasesHalted, ServerAnswerInvalid, VolumeServerError
from volumes.models import Replica, Server, Volume
from volumes.needles import MAX_NEEDLE
from volumes.services.listing import Listing
from volumes.services.store import require_not_behind

log = logging.getLogger(__name__)

MAX_REMEMBERED = 100_000
"""Orphans of one volume that one listing remembers; the next one those that are left."""
NEEDLES_A_CALL = 500
MAX_TOLD = 50
"""Needles that an audit entry names."""
FEW = 100
"""So many orphans of a volume, or a tenth of what lives there, are deleted without being asked for; more than both look
like rows that were lost."""


class NotSwept(Exception):
    """Why a volume's listing counts for nothing."""


@dataclass(frozen=True, slots=True)
class Found:
    needle: int
    size: int
    appended_ms: int


@dataclass(slots=True)
class Swept:
    """What came of one volume."""

    volume: int
    live_count: int = 0
    orphans: list[Found] = field(default_factory=list)
    """The first `MAX_REMEMBERED`."""
    orphan_count: int = 0
    orphan_bytes: int = 0
    ripe_count: int = 0
    """Of them, those that may be deleted: seen long enough ago."""
    ripe_bytes: int = 0
    deleted_count: int = 0
    deleted_bytes: int = 0
    held_back: bool = False
    problem: str = ""
    """Why nothing is known of the volume; all figures are 0 then."""


def volumes_to_sweep(*, before: datetime | None = None) -> list[int]:
    """Volumes that could be swept, those first that were never, or longest ago; ``before``: not since then."""
    listed = dict(Sweep.objects.values_list("volume_id", "listed_at"))
    volumes = Volume.objects.filter(state__in=[Volume.State.WRITABLE, Volume.State.FULL]).order_by("pk")
    known = list(volumes.values_list("pk", flat=True))
    due = [one for one in known if before is None or one not in listed or listed[one] < before]
    return sorted(due, key=lambda one: (listed[one].timestamp() if one in listed else 0.0, one))


def sweep_volume(*, volume_id: int, delete: bool, max_share: bool = False, now: datetime | None = None) -> Swept:
    """Lists a volume, remembers its orphans, and deletes those that an earlier listing saw, where ``delete`` says so.

    ``max_share``: so many of them that it looks like lost rows are left alone. Raises LeasesHalted: nothing is looked
    for by the word of an old database either.
    """
    require_not_behind()
    now = now or timezone.now()
    swept = Swept(volume_id)
    try:
        server, epoch = _place(volume_id)
        _list(swept, server, epoch, now)
        ripe = _remember(swept, now)
        swept.held_back = max_share and len(ripe) > max(FEW, swept.live_count // 10)
        _keep(swept, now)
        if delete and not swept.held_back:
            for at in range(0, len(ripe), NEEDLES_A_CALL):
                _delete(swept, ripe[at : at + NEEDLES_A_CALL], now)
    except NotSwept as error:
        swept.problem = str(error)
    except VolumeServerError as error:
        swept.problem = error.detail
    if swept.problem:
        log.warning("volume %d is not swept: %s", volume_id, swept.problem)
    return swept


def sweep_due(*, seconds: float) -> dict[str, int]:
    """Sweeps the volumes whose last listing is long enough ago, for so long; figures of what came of it."""
    ends_s = time.monotonic() + seconds
    figures = dict.fromkeys(("volumes", "orphans", "deleted", "held_back", "problems"), 0)
    before = timezone.now() - timedelta(seconds=settings.WAREHOUSE_SWEEP_SECONDS)
    for volume_id in volumes_to_sweep(before=before):
        if time.monotonic() > ends_s:
            break
        try:
            swept = sweep_volume(volume_id=volume_id, delete=settings.WAREHOUSE_SWEEP == "delete", max_share=True)
        except LeasesHalted as error:
            log.warning("nothing is swept: %s", error.detail)
            break
        figures["volumes"] += 1
        figures["orphans"] += swept.orphan_count
        figures["deleted"] += swept.deleted_count
        figures["held_back"] += swept.held_back
        figures["problems"] += bool(swept.problem)
    return figures


def sweep_figures() -> dict[str, int]:
    """Orphans as the last listings saw them, what was deleted, and in how many volumes deletion waits for a word."""
    sums = Sweep.objects.aggregate(
        orphans=Sum("orphan_count", default=0),
        orphan_bytes=Sum("orphan_bytes", default=0),
        deleted=Sum("deleted_count", default=0),
        deleted_bytes=Sum("deleted_bytes", default=0),
    )
    figures = {name: int(value) for name, value in sums.items()}
    return {"volumes": Sweep.objects.count(), **figures, "held_back": Sweep.objects.filter(held_back=True).count()}


def old_enough_ms(now: datetime) -> int:
    """A needle that was written before can be named by no row any more, however long leases were when it was."""
    return lease_end_ms(now_ms=int(now.timestamp() * 1000)) - settings.WAREHOUSE_SWEEP_SECONDS * 1000


def _place(volume_id: int) -> tuple[Server, int]:
    """The server of the primary copy, and the volume's epoch. Raises NotSwept."""
    replica = (
        Replica.objects.select_related("server", "volume").filter(volume=volume_id, role=Replica.Role.PRIMARY).first()
    )
    if replica is None:
        raise NotSwept("no server is known to hold it")
    volume = replica.volume
    if volume.state not in {Volume.State.WRITABLE, Volume.State.FULL} or replica.state != Replica.State.OPEN:
        raise NotSwept(f"it takes no tombstones now (it is {volume.state})")
    if volume.redundancy != Volume.Redundancy.WHOLE:
        raise NotSwept(f"its copies are not all there and equal (it is {volume.redundancy})")
    if not replica.server.is_alive():
        raise NotSwept(f"its server {replica.server} is offline")
    return replica.server, volume.epoch


def _list(swept: Swept, server: Server, epoch: int, now: datetime) -> None:
    """Raises NotSwept, VolumeServerError."""
    old_ms = old_enough_ms(now)
    with ThreadPoolExecutor(1, thread_name_prefix="list-needles") as threads:
        listing = Listing(server, swept.volume, threads)
        try:
            if listing.epoch != epoch:
                raise NotSwept(f"its server has epoch {listing.epoch}, {epoch} is in force")
            done_to = 0
            while done_to < MAX_NEEDLE:
                rows, through = named_in(swept.volume, after=done_to, through=listing.through)
                one = listing.take(through)
                if one.damaged:
                    raise NotSwept(f"needle {one.damaged[0]:016x} is damaged; scrub the volume first")
                swept.live_count += len(one.live)
                names = {needle for needle, _, _ in rows}
                suspects = {
                    needle: Found(needle, size, ms)
                    for (needle, size, _), ms in zip(one.live, one.appended_ms, strict=True)
                    if ms < old_ms and needle not in names
                }
                for needle in sorted(unnamed(suspects)) if suspects else ():
                    swept.orphan_count += 1
                    swept.orphan_bytes += suspects[needle].size
                    if len(swept.orphans) < MAX_REMEMBERED:
                        swept.orphans.append(suspects[needle])
                done_to = through
        finally:
            listing.close()


@transaction.atomic
def _remember(swept: Swept, now: datetime) -> list[Orphan]:
    """Makes the rows say what was seen; gives those that were seen long enough ago for the first time."""
    known = {one.needle: one for one in Orphan.objects.filter(volume=swept.volume)}
    seen = {one.needle: one for one in swept.orphans}
    gone = [one.pk for needle, one in known.items() if needle not in seen]
    for at in range(0, len(gone), NEEDLES_A_CALL):
        Orphan.objects.filter(pk__in=gone[at : at + NEEDLES_A_CALL]).delete()
    Orphan.objects.filter(volume=swept.volume, last_seen_at__lt=now).update(last_seen_at=now)
    Orphan.objects.bulk_create(
        [
            Orphan(
                needle=one.needle,
                volume_id=swept.volume,
                size=one.size,
                appended_at=datetime.fromtimestamp(one.appended_ms / 1000, UTC),
                first_seen_at=now,
                last_seen_at=now,
            )
            for needle, one in seen.items()
            if needle not in known
        ],
        batch_size=NEEDLES_A_CALL,
        ignore_conflicts=True,  # another sweep of the volume, at the same time, has written it
    )
    seen_before = now - timedelta(seconds=settings.WAREHOUSE_SWEEP_SECONDS)
    ripe = [one for needle, one in sorted(known.items()) if needle in seen and one.first_seen_at <= seen_before]
    swept.ripe_count, swept.ripe_bytes = len(ripe), sum(one.size for one in ripe)
    return ripe


def _delete(swept: Swept, orphans: Sequence[Orphan], now: datetime) -> None:
    """Raises NotSwept, VolumeServerError, LeasesHalted."""
    require_not_behind()  # asked each time: nothing dies by an old database's word
    server, _ = _place(swept.volume)
    # Of what is that old no row can come up any more, so that nobody needs to be locked out between this and the call.
    free = unnamed(one.needle for one in orphans)
    dying = [one for one in orphans if one.needle in free and one.appended_at.timestamp() * 1000 < old_enough_ms(now)]
    if not dying:
        return
    needles = [one.needle for one in dying]
    size = sum(one.size for one in dying)
    record(
        Action.VOLUME_SWEEP,
        target=str(swept.volume),
        count=len(needles),
        bytes=size,
        needles=[f"{needle:016x}" for needle in needles[:MAX_TOLD]],
    )
    result = client.delete_needles(server, swept.volume, needles)
    if result.absent:
        raise ServerAnswerInvalid(f"Volume {swept.volume} does not know {len(result.absent)} needles that it listed.")
    with transaction.atomic():
        Orphan.objects.filter(needle__in=needles).delete()
        Sweep.objects.filter(volume=swept.volume).update(
            deleted_count=F("deleted_count") + len(needles),
            deleted_bytes=F("deleted_bytes") + size,
            orphan_count=Greatest(F("orphan_count") - len(needles), 0),
            orphan_bytes=Greatest(F("orphan_bytes") - size, 0),
        )
    swept.deleted_count += len(needles)
    swept.deleted_bytes += size
    log.info("volume %d: %d orphans of %d bytes are deleted", swept.volume, len(needles), size)


def _keep(swept: Swept, now: datetime) -> None:
    Sweep.objects.update_or_create(
        volume_id=swept.volume,
        defaults={
            "listed_at": now,
            "live_count": swept.live_count,
            "orphan_count": swept.orphan_count,
            "orphan_bytes": swept.orphan_bytes,
            "held_back": swept.held_back,
        },
    )
