"""Volumes are made ahead of need: so many open ones on each server, for each number of copies that buckets ask for."""

import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings

from volumes.models import SALT_BYTES, Replica, Server, Volume
from volumes.services.store import raise_number

log = logging.getLogger(__name__)

MAKING_TAKES = timedelta(seconds=30)
"""Volumes that are not made after so long are no longer counted on."""
RESTART_TAKES = timedelta(seconds=10)
"""A server that has no other volumes gets one more when those that it has are degraded for so long."""
MENDING_TAKES = timedelta(seconds=60)
"""Nor are volumes that have been degraded for so long: a server that is started anew is no need for more volumes."""


def make_volumes(*, server: Server, replicas: Iterable[Replica], replications: Sequence[int], now: datetime) -> int:
    """Keeps ``WAREHOUSE_WRITABLE_VOLUMES`` volumes open on a server that has room, for 1 and each of ``replications``.

    Inside the caller's transaction, which holds the server's row locked, so that two reports at once do not both make
    volumes. ``replicas`` are the server's own, with their volumes. Gives how many are to be made now.
    """
    if server.admin_state != Server.AdminState.ACTIVE or server.usable_bytes <= 0:
        return 0
    own = [one for one in replicas if one.role == Replica.Role.PRIMARY]
    made = 0
    others: list[Server] | None = None
    for replication in sorted({1, *replications}):
        count = _wanted([one for one in own if one.volume.replication == replication], now)
        if count <= 0:
            continue
        if replication == 1:
            made += _make(server, [()] * count, replication)
            continue
        if others is None:
            others = _possible_partners(server, now)
        partners = _partners(server, others, replication=replication, count=count)
        made += _make(server, partners, replication)
    return made


def _wanted(own: Sequence[Replica], now: datetime) -> int:
    """How many are still to be made; ``own``: the server's primary replicas of one number of copies."""
    usable = pending = mending = 0
    is_stuck = False
    for one in own:
        volume = one.volume
        age = now - volume.redundancy_changed_at
        if volume.state == Volume.State.CREATING or volume.redundancy == Volume.Redundancy.MAKING:
            pending += volume.replication == 1 or age < MAKING_TAKES
        elif (
            volume.state == Volume.State.WRITABLE
            and one.state == Replica.State.OPEN
            and settings.WAREHOUSE_VOLUME_SIZE - one.size_bytes >= _comfortable_bytes()
        ):
            if volume.redundancy == Volume.Redundancy.WHOLE:
                usable += 1
            elif age < MENDING_TAKES:
                mending += 1
                is_stuck |= age >= RESTART_TAKES
    missing: int = settings.WAREHOUSE_WRITABLE_VOLUMES - usable - pending - mending
    return max(missing, 1) if is_stuck and not usable and not pending else missing


def _comfortable_bytes() -> int:
    """A volume with less room than this still takes small needles, but another one is made beside it."""
    return min(2 * settings.WAREHOUSE_CHUNK_SIZE, settings.WAREHOUSE_VOLUME_SIZE // 2)


def _possible_partners(server: Server, now: datetime) -> list[Server]:
    active = Server.objects.filter(admin_state=Server.AdminState.ACTIVE, stopped_at=None).exclude(node=server.node)
    return [one for one in active if one.is_alive(now=now) and one.usable_bytes > 0]


def _partners(server: Server, others: Sequence[Server], *, replication: int, count: int) -> list[tuple[UUID, ...]]:
    """For each of ``count`` volumes the servers of its further copies, each on a node of its own; none where there are
    too few nodes. They take turns, so that the loss of one leaves volumes that it has no part in."""
    if len({one.node for one in others}) < replication - 1:
        return []
    shared = Counter(
        Replica.objects.filter(
            volume__replicas__server=server,
            volume__replicas__role=Replica.Role.PRIMARY,
            volume__state=Volume.State.WRITABLE,
            volume__replication=replication,
            role=Replica.Role.SECONDARY,
        ).values_list("server_id", flat=True)
    )
    chosen: list[tuple[UUID, ...]] = []
    for _ in range(count):
        nodes: set[str] = set()
        partners: list[UUID] = []
        for one in sorted(others, key=lambda one: (shared[one.pk], -one.usable_bytes)):
            if one.node not in nodes and len(partners) < replication - 1:
                nodes.add(one.node)
                partners.append(one.pk)
        shared.update(partners)
        chosen.append(tuple(partners))
    return chosen


def _make(server: Server, partners: Sequence[tuple[UUID, ...]], replication: int) -> int:
    if not partners:
        return 0
    high = raise_number("volume_high", by=len(partners))
    now_ms = int(time.time() * 1000)
    redundancy = Volume.Redundancy.WHOLE if replication == 1 else Volume.Redundancy.MAKING
    volumes = [
        Volume(
            pk=number,
            salt=os.urandom(SALT_BYTES),
            created_ms=now_ms,
            replication=replication,
            redundancy=redundancy,
        )
        for number in range(high - len(partners) + 1, high + 1)
    ]
    Volume.objects.bulk_create(volumes)
    rows = []
    for volume, others in zip(volumes, partners, strict=True):
        rows.append(Replica(volume=volume, server=server, whole_epoch=volume.epoch))
        rows += [
            Replica(volume=volume, server_id=one, role=Replica.Role.SECONDARY, whole_epoch=volume.epoch)
            for one in others
        ]
    Replica.objects.bulk_create(rows)
    log.info("volumes %s (%d copies) are to be made on server %s", [one.pk for one in volumes], replication, server.pk)
    return len(volumes)
