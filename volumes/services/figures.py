"""What servers report becomes rows: replicas' figures and volumes' states."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction

from volumes.models import JobState, Replica, Server, Volume
from volumes.reports import Figures, Job
from volumes.services import placement
from volumes.services.states import move_volume

log = logging.getLogger(__name__)

_FIGURES = (
    "epoch",
    "revision",
    "size_bytes",
    "garbage_bytes",
    "live_count",
    "tombstone_count",
    "damaged_count",
)
"""What is called alike in a report and in a row."""
_KEPT = (*_FIGURES, "compaction", "scrub", "scrubbed_at", "compacted_at", "kept_garbage_bytes", "replication", "detail")
_BATCH = 100
FULL_PER_MILLE = 999
"""Of WAREHOUSE_VOLUME_SIZE; what is left would be tried in vain for most needles."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """The replicas that are a server's own, and the volumes that it holds without being meant to.

    ``to_mend``: numbers of volumes about whose copies the report says something new.
    """

    replicas: tuple[Replica, ...]
    strays: tuple[Figures, ...]
    to_mend: tuple[int, ...]


def record_figures(
    *, server: Server, volumes: Sequence[Figures], now: datetime, tells_all: bool = True
) -> Recorded:  # fmt: skip
    """Takes over what a server says of its volumes; inside the caller's transaction.

    Only replicas that are assigned to the server count. One that it had and no longer lists is marked missing,
    never made anew: unknown is not absent. Rows whose figures stay the same are not written. ``tells_all``: reports
    come in order, so what this one does not list is gone; an answer may be older than the last report.
    """
    told = {figures.volume: figures for figures in volumes}
    replicas = tuple(Replica.objects.filter(server=server).select_related("volume").order_by("volume"))
    changed = [
        replica
        for replica in replicas
        if (tells_all or replica.volume_id in told) and _take_over(replica, told.get(replica.volume_id), now)
    ]
    if changed:
        Replica.objects.bulk_update(changed, ["state", "reported_at", *_KEPT], batch_size=_BATCH)
    for replica in replicas:
        if replica.role == Replica.Role.PRIMARY:
            _move_by_figures(replica)
    _degrade([replica.volume for replica in changed if _is_out_of_line(replica)], now)
    own = {replica.volume_id for replica in replicas}
    return Recorded(
        replicas=replicas,
        strays=tuple(told[volume_id] for volume_id in sorted(told.keys() - own)),
        to_mend=tuple(one.volume_id for one in changed if one.volume.redundancy != Volume.Redundancy.WHOLE),
    )


@transaction.atomic
def record_volume(*, server_id: UUID, figures: Figures, now: datetime) -> None:
    """Takes over what a server has answered of one volume; of its others nothing is concluded.

    A heartbeat that was sent before and comes after may show the row as it was for another two seconds.
    """
    # The lock under which reports are taken.
    server = Server.objects.select_for_update(no_key=True).filter(pk=server_id).first()
    replica = Replica.objects.filter(server=server, volume=figures.volume).select_related("volume").first()
    if replica is None:
        return
    if _take_over(replica, figures, now):
        replica.save(update_fields=["state", "reported_at", *_KEPT])
    if replica.role == Replica.Role.PRIMARY:
        _move_by_figures(replica)
    if _is_out_of_line(replica):
        _degrade([replica.volume], now)


def _is_out_of_line(replica: Replica) -> bool:
    """Whether a copy of a volume that is whole by its row says that it is not."""
    volume = replica.volume
    if volume.redundancy != Volume.Redundancy.WHOLE or (volume.replication == 1 and replica.replication is None):
        return False
    if replica.state != Replica.State.OPEN:
        return True
    told = replica.replication
    if told is None or told["state"] == "open" or told["epoch"] < volume.epoch:
        return False
    # What is still being opened in the very epoch that has been found open was so when this report was written.
    return bool(told["epoch"] > volume.epoch or told["state"] != "opening")


def _degrade(volumes: Sequence[Volume], now: datetime) -> None:
    """No lease and no tombstone for these from here on; `volumes.services.redundancy` sees to the rest."""
    wanted = [volume.pk for volume in volumes]
    if not wanted:
        return
    whole = Volume.objects.filter(pk__in=wanted, redundancy=Volume.Redundancy.WHOLE)
    locked = list(whole.select_for_update(no_key=True).order_by("pk").values_list("pk", flat=True))
    Volume.objects.filter(pk__in=locked).update(redundancy=Volume.Redundancy.DEGRADED, redundancy_changed_at=now)
    log.warning("volumes %s take no record: a copy is out of line", locked)
    for volume in volumes:
        volume.redundancy = Volume.Redundancy.DEGRADED
    transaction.on_commit(placement.forget_table)


def _take_over(replica: Replica, figures: Figures | None, now: datetime) -> bool:
    """Whether the row has changed."""
    if figures is None:
        if replica.state in {Replica.State.EXPECTED, Replica.State.MISSING}:
            return False
        if replica.has_all_of(replica.volume):
            log.error("server %s no longer lists volume %d", replica.server_id, replica.volume_id)
        else:  # one that was never brought into line, or was given up: nothing is lost with it
            log.info("server %s no longer lists its copy of volume %d", replica.server_id, replica.volume_id)
        replica.state = Replica.State.MISSING
        Volume.objects.filter(pk=replica.volume_id, unsettled=False).update(unsettled=True)  # to have it told there
        replica.compaction = replica.scrub = None  # nothing is known of them
        return True
    told: dict[str, Any] = {
        "state": Replica.State.SEALED if figures.is_sealed else Replica.State.OPEN,
        "compaction": figures.compaction and figures.compaction.as_json(),
        "scrub": figures.scrub and figures.scrub.as_json(),
        "replication": figures.replication and figures.replication.as_json(),
        "detail": figures.detail,
        "scrubbed_at": None if figures.scrubbed_ms is None else datetime.fromtimestamp(figures.scrubbed_ms / 1000, UTC),
    }
    told |= {name: getattr(figures, name) for name in _FIGURES}
    if all(getattr(replica, name) == value for name, value in told.items()):
        return False
    _tell(replica, figures)
    if figures.revision > replica.revision and replica.state != Replica.State.EXPECTED:
        # What is garbage now is what a compaction keeps.
        replica.compacted_at, replica.kept_garbage_bytes = now, figures.garbage_bytes
    scrubbed_at, count = told["scrubbed_at"], figures.damaged_count
    if count < replica.tried_damage_count and scrubbed_at not in {None, replica.scrubbed_at}:
        # A full pass counts exactly: what is not there any more was mended. Other reports may only not have it yet.
        Replica.objects.filter(pk=replica.pk, tried_damage_count__gt=count).update(tried_damage_count=count)
    for name, value in told.items():
        setattr(replica, name, value)
    replica.reported_at = now
    return True


def _tell(replica: Replica, figures: Figures) -> None:
    """Logs what an operator wants to hear of; the row still has the figures of before."""
    needles, before = figures.live_count + figures.tombstone_count, replica.live_count + replica.tombstone_count
    is_shorter = figures.revision == replica.revision and figures.size_bytes < replica.size_bytes
    if is_shorter and needles < before and replica.volume.replication == 1:  # others are brought into line
        log.error(
            "server %s reports %d needles in volume %d, there were %d: was its data put back from an earlier time? "
            "`manage.py fsck --volume %d` tells what is missing",
            replica.server_id,
            needles,
            replica.volume_id,
            before,
            replica.volume_id,
        )
    if figures.detail and figures.detail != replica.detail:
        log.error("server %s: volume %d is sealed: %s", replica.server_id, replica.volume_id, figures.detail)
    if figures.damaged_count > replica.damaged_count:
        log.error(
            "server %s reports %d damaged records in volume %d, %d more than before",
            replica.server_id,
            figures.damaged_count,
            replica.volume_id,
            figures.damaged_count - replica.damaged_count,
        )
    elif figures.damaged_count < replica.damaged_count:
        log.warning(
            "server %s reports %d damaged records in volume %d, there were %d",
            replica.server_id,
            figures.damaged_count,
            replica.volume_id,
            replica.damaged_count,
        )
    _tell_end("compaction", replica, figures.compaction, replica.compaction)
    _tell_end("scrub", replica, figures.scrub, replica.scrub)


def _tell_end(what: str, replica: Replica, job: Job | None, before: dict[str, Any] | None) -> None:
    if job is None or job.state == JobState.RUNNING or job.as_json() == before:
        return
    level = logging.ERROR if job.state == JobState.FAILED else logging.INFO
    log.log(
        level,
        "%s of volume %d on server %s: %s %s",
        what,
        replica.volume_id,
        replica.server_id,
        job.state,
        job.detail,
    )


def _move_by_figures(replica: Replica) -> None:
    """Brings a volume into the state that its primary replica shows."""
    if replica.state not in {Replica.State.OPEN, Replica.State.SEALED}:
        return
    volume = replica.volume
    if replica.state == Replica.State.SEALED:
        if volume.replication > 1 or replica.replication is not None:
            return  # this copy's disk has failed; the volume goes on with others
        wanted = Volume.State.SEALED
    elif replica.size_bytes >= settings.WAREHOUSE_VOLUME_SIZE * FULL_PER_MILLE // 1000:
        wanted = Volume.State.FULL
    else:
        wanted = Volume.State.WRITABLE
    if wanted in Volume.TRANSITIONS[volume.state]:
        move_volume(volume_id=volume.pk, to=wanted)
        volume.state = wanted
