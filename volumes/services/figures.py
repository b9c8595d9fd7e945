"""What servers report becomes rows: replicas' figures, volumes' states, and the volumes made ahead of need."""

import logging
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings

from volumes.models import SALT_BYTES, Replica, Server, Volume
from volumes.reports import Figures
from volumes.services.states import move_volume
from volumes.services.store import raise_number

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
_BATCH = 100
FULL_PER_MILLE = 999
"""Of WAREHOUSE_VOLUME_SIZE; what is left would be tried in vain for most needles."""


@dataclass(frozen=True, slots=True)
class CreateVolume:
    """The instruction to make a volume file; repeated until the server lists the volume."""

    volume: int
    salt: bytes
    created_ms: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """The replicas that are a server's own, and the numbers of volumes that it holds without being meant to."""

    replicas: tuple[Replica, ...]
    strays: tuple[int, ...]


def record_figures(*, server: Server, volumes: Sequence[Figures], now: datetime) -> Recorded:
    """Takes over what a server says of its volumes; inside the caller's transaction.

    Only replicas that are assigned to the server count. One that it had and no longer lists is marked missing,
    never made anew: unknown is not absent. Rows whose figures stay the same are not written.
    """
    told = {figures.volume: figures for figures in volumes}
    replicas = tuple(Replica.objects.filter(server=server).select_related("volume"))
    changed = [replica for replica in replicas if _take_over(replica, told.get(replica.volume_id), now)]
    if changed:
        Replica.objects.bulk_update(changed, ["state", "reported_at", *_FIGURES], batch_size=_BATCH)
    for replica in replicas:
        if replica.role == Replica.Role.PRIMARY:
            _move_by_figures(replica)
    own = {replica.volume_id for replica in replicas}
    return Recorded(replicas=replicas, strays=tuple(sorted(told.keys() - own)))


def _take_over(replica: Replica, figures: Figures | None, now: datetime) -> bool:
    """Whether the row has changed."""
    if figures is None:
        if replica.state in {Replica.State.EXPECTED, Replica.State.MISSING}:
            return False
        log.error("server %s no longer lists volume %d", replica.server_id, replica.volume_id)
        replica.state = Replica.State.MISSING
        return True
    state = Replica.State.SEALED if figures.is_sealed else Replica.State.OPEN
    if state == replica.state and all(getattr(replica, name) == getattr(figures, name) for name in _FIGURES):
        return False
    if figures.damaged_count > replica.damaged_count:
        log.error(
            "server %s reports %d damaged records in volume %d",
            replica.server_id,
            figures.damaged_count,
            replica.volume_id,
        )
    replica.state = state
    for name in _FIGURES:
        setattr(replica, name, getattr(figures, name))
    replica.reported_at = now
    return True


def _move_by_figures(replica: Replica) -> None:
    """Brings a volume into the state that its primary replica shows."""
    if replica.state not in {Replica.State.OPEN, Replica.State.SEALED}:
        return
    volume = replica.volume
    if replica.state == Replica.State.SEALED:
        wanted = Volume.State.SEALED
    elif replica.size_bytes >= settings.WAREHOUSE_VOLUME_SIZE * FULL_PER_MILLE // 1000:
        wanted = Volume.State.FULL
    else:
        wanted = Volume.State.WRITABLE
    if wanted in Volume.TRANSITIONS[volume.state]:
        move_volume(volume_id=volume.pk, to=wanted)
        volume.state = wanted


def volumes_to_make(*, server: Server, replicas: Iterable[Replica]) -> tuple[CreateVolume, ...]:
    """Keeps ``WAREHOUSE_WRITABLE_VOLUMES`` volumes open on a server that has room; inside the caller's transaction.

    The caller holds the server's row locked, so that two reports at once do not both make volumes. Gives the
    instructions for all that the server has not listed yet, made now or earlier.
    """
    expected = [replica.volume for replica in replicas if replica.volume.state == Volume.State.CREATING]
    usable = sum(
        1
        for replica in replicas
        if replica.role == Replica.Role.PRIMARY
        and replica.state == Replica.State.OPEN
        and replica.volume.state == Volume.State.WRITABLE
        and settings.WAREHOUSE_VOLUME_SIZE - replica.size_bytes >= _comfortable_bytes()
    )
    wanted = settings.WAREHOUSE_WRITABLE_VOLUMES - usable - len(expected)
    if wanted > 0 and server.admin_state == Server.AdminState.ACTIVE and server.usable_bytes > 0:
        expected += _make_volumes(server=server, count=wanted)
    return tuple(
        CreateVolume(volume=volume.pk, salt=bytes(volume.salt), created_ms=volume.created_ms, epoch=volume.epoch)
        for volume in expected
    )


def _comfortable_bytes() -> int:
    """A volume with less room than this still takes small needles, but another one is made beside it."""
    return min(2 * settings.WAREHOUSE_CHUNK_SIZE, settings.WAREHOUSE_VOLUME_SIZE // 2)


def _make_volumes(*, server: Server, count: int) -> list[Volume]:
    high = raise_number("volume_high", by=count)
    now_ms = int(time.time() * 1000)
    volumes = [
        Volume(pk=number, salt=os.urandom(SALT_BYTES), created_ms=now_ms)
        for number in range(high - count + 1, high + 1)
    ]
    Volume.objects.bulk_create(volumes)
    Replica.objects.bulk_create([Replica(volume=volume, server=server) for volume in volumes])
    log.info("volumes %s are to be made on server %s", [volume.pk for volume in volumes], server.pk)
    return volumes
