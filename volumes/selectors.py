"""Reading servers and volumes."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from django.db import connection
from django.db.models import CharField, Count, Exists, Max, Min, OuterRef, Prefetch, Q, QuerySet, Sum, Value
from django.db.models.functions import Cast, Coalesce, NullIf
from django.utils import timezone

from volumes.models import OFFLINE_AFTER, Replica, Server, Store, Volume

_PARAMETERS = 500

UNREACHABLE: Final = "unreachable"
MISSING: Final = "copy missing"
UNSETTLED: Final = "to be moved"
HEALTH: Final = (*Volume.Redundancy.values, UNSETTLED, MISSING, UNREACHABLE)
"""How a volume is, in a word, the worst last."""


@dataclass(frozen=True, slots=True)
class VolumeState:
    """What a confirm needs to know of a volume; ``primary`` is the one server that may confirm its needles."""

    epoch: int
    primary: UUID
    state: str


@dataclass(frozen=True, slots=True)
class Totals:
    """All servers and volumes in one row.

    Space is that of the servers that are online; what several of them share, being on one disk, counts once.
    """

    servers: int
    servers_online: int
    capacity_bytes: int
    free_bytes: int
    volumes: int
    used_bytes: int
    garbage_bytes: int
    live_count: int
    damaged_count: int


def volumes_for_confirm(volume_ids: Iterable[int]) -> dict[int, VolumeState]:
    """States by volume number; volumes that do not exist are left out. One query per 500 volumes.

    Asked by every commit while it holds its locks, so in plain SQL: the ORM would take ten times as long to build it.
    """
    wanted = sorted(set(volume_ids))
    states: dict[int, VolumeState] = {}
    with connection.cursor() as cursor:
        for start in range(0, len(wanted), _PARAMETERS):
            part = wanted[start : start + _PARAMETERS]
            cursor.execute(
                "SELECT v.id, v.epoch, v.state, r.server_id FROM volumes_replica r JOIN volumes_volume v "  # noqa: S608
                f"ON v.id = r.volume_id WHERE r.role = 'primary' AND v.id IN ({', '.join(['%s'] * len(part))})",
                part,
            )
            for volume_id, epoch, state, server_id in cursor.fetchall():
                primary = server_id if isinstance(server_id, UUID) else UUID(server_id)
                states[volume_id] = VolumeState(epoch=epoch, primary=primary, state=state)
    return states


def primaries_of(volume_ids: Iterable[int]) -> dict[int, Server]:
    """The server that holds each volume's primary replica; volumes that do not exist are left out."""
    wanted = sorted(set(volume_ids))
    servers: dict[int, Server] = {}
    for start in range(0, len(wanted), _PARAMETERS):
        replicas = Replica.objects.filter(
            volume__in=wanted[start : start + _PARAMETERS], role=Replica.Role.PRIMARY
        ).select_related("server")
        servers.update((replica.volume_id, replica.server) for replica in replicas)
    return servers


def open_primaries_of(volume_ids: Iterable[int]) -> dict[int, Server]:
    """As `primaries_of`, of those volumes alone whose copies are all there and equal: only these take tombstones."""
    found = primaries_of(volume_ids)
    wanted = sorted(found)
    whole: set[int] = set()
    for start in range(0, len(wanted), _PARAMETERS):
        part = wanted[start : start + _PARAMETERS]
        whole.update(
            Volume.objects.filter(pk__in=part, redundancy=Volume.Redundancy.WHOLE).values_list("pk", flat=True)
        )
    return {volume_id: server for volume_id, server in found.items() if volume_id in whole}


def list_servers() -> QuerySet[Server]:
    """All servers by node, each with ``volume_count``, and over all of its volumes ``damaged_count``, ``held_bytes``,
    ``garbage_bytes`` and ``waiting_count``: of how many it is known why nothing can be done about their copies now."""
    # A grouped query does not take the order of the model over.
    return Server.objects.annotate(
        volume_count=Count("replicas"),
        damaged_count=Sum("replicas__damaged_count", default=0),
        held_bytes=Sum("replicas__size_bytes", default=0),
        garbage_bytes=Sum("replicas__garbage_bytes", default=0),
        waiting_count=Count("replicas", filter=~Q(replicas__volume__redundancy_note="")),
    ).order_by("node", "registered_at", "pk")


def list_server_names(*, limit: int) -> QuerySet[Server]:
    """The first servers by node, with what names them alone."""
    return Server.objects.only("pk", "node")[:limit]


def servers_at_a_glance() -> list[Server]:
    """All servers by node, with what tells how they are and no more: it is asked for every few seconds."""
    return list(Server.objects.defer("traffic", "stray_volumes").order_by("node", "registered_at", "pk"))


def online_servers() -> QuerySet[Server]:
    """Servers heard within the last 10 s that have not said good-bye, whatever the operator wants of them."""
    return Server.objects.filter(last_seen_at__gt=timezone.now() - OFFLINE_AFTER, stopped_at=None)


def public_urls() -> list[str]:
    """Where clients reach the servers, those that are away included."""
    return list(Server.objects.order_by().values_list("public_url", flat=True).distinct())


def count_online_servers() -> int:
    return online_servers().count()


def count_nodes() -> int:
    """Nodes with servers that are meant to be used, online or not: no volume has more copies than these."""
    return Server.objects.filter(admin_state=Server.AdminState.ACTIVE).order_by().values("node").distinct().count()


def list_volumes() -> QuerySet[Volume]:
    """All volumes by number, replicas and their servers along, the primary first."""
    replicas = Replica.objects.select_related("server").order_by("volume", "role", "server")
    return Volume.objects.prefetch_related(Prefetch("replicas", queryset=replicas))


def find_volumes(
    *,
    after: int = 0,
    state: str = "",
    redundancy: str = "",
    health: str = "",
    server: UUID | None = None,
    is_damaged: bool = False,
) -> QuerySet[Volume]:
    """As `list_volumes`, those with a higher number than ``after`` that have all that is asked for.

    ``health``: one of `HEALTH`, the worst that is true of it.
    ``server``: with a copy there. ``is_damaged``: with damage known of now in one of the copies.
    """
    volumes = list_volumes().filter(pk__gt=after)
    if state:
        volumes = volumes.filter(state=state)
    if redundancy:
        volumes = volumes.filter(redundancy=redundancy)
    if health:
        volumes = volumes.filter(_is_in(health))
    if server is not None:
        volumes = volumes.filter(replicas__server=server)
    if is_damaged:
        volumes = volumes.filter(Exists(Replica.objects.filter(volume=OuterRef("pk"), damaged_count__gt=0)))
    return volumes


def count_unreachable() -> int:
    """Of all volumes, empty ones as well: whoever writes needs these, too."""
    return Volume.objects.filter(_is_in(UNREACHABLE)).count()


def _is_in(health: str) -> Q:
    copies = Replica.objects.filter(volume=OuterRef("pk"))
    unreachable = Exists(copies.filter(server__in=_silent_servers())) & ~Exists(_read_from(OuterRef("pk")))
    if health == UNREACHABLE:
        return Q(unreachable)
    missing = Exists(copies.filter(state=Replica.State.MISSING))
    if health == MISSING:
        return Q(missing) & ~Q(unreachable)
    whole = Volume.Redundancy.WHOLE
    is_left = Q(redundancy=whole, unsettled=True)
    own = is_left if health == UNSETTLED else Q(redundancy=health) & ~is_left
    return own & ~Q(missing) & ~Q(unreachable)


def volumes_only_on(server_id: UUID) -> QuerySet[Volume]:
    """Volumes with a copy on a server, and no other copy that is known to have all that was ever acknowledged.

    As `Replica.has_all_of` says it. One that is still being made elsewhere, too, was never written to: it is left out.
    """
    elsewhere = Replica.objects.filter(volume=OuterRef("pk")).exclude(server=server_id)
    complete = elsewhere.filter(
        whole_epoch=OuterRef("opened_epoch"),
        epoch__gte=OuterRef("opened_epoch"),
        state__in=[Replica.State.OPEN, Replica.State.SEALED],
    )
    is_made_elsewhere = Q(redundancy=Volume.Redundancy.MAKING) & Q(Exists(elsewhere))
    return Volume.objects.filter(~Exists(complete), ~is_made_elsewhere, replicas__server=server_id)


def list_primaries(volume_ids: Iterable[int] | None = None) -> list[Replica]:
    """The primary replicas of these volumes, of all without a list, by number, each with its server."""
    return _of_volumes(Replica.objects.filter(role=Replica.Role.PRIMARY).order_by("volume"), volume_ids)


def list_copies(volume_ids: Iterable[int] | None = None) -> list[Replica]:
    """All replicas of these volumes, of all without a list, by number, the primary first, each with its server."""
    return _of_volumes(Replica.objects.order_by("volume", "role", "server_id"), volume_ids)


def _of_volumes(replicas: QuerySet[Replica], volume_ids: Iterable[int] | None) -> list[Replica]:
    replicas = replicas.select_related("server")
    if volume_ids is None:
        return list(replicas)
    wanted = sorted(set(volume_ids))
    return [
        replica
        for start in range(0, len(wanted), _PARAMETERS)
        for replica in replicas.filter(volume__in=wanted[start : start + _PARAMETERS])
    ]


@dataclass(frozen=True, slots=True)
class RedundancyCounts:
    """Volumes that are not as they should be; all others are whole."""

    degraded: int
    """A copy is away; they are read, and take no record. Or the only one is missing on a server that is there."""
    copying: int
    """Their copies are being made, or brought into line."""
    waiting: int
    """They would have other copies, on other servers, if there were room."""
    unreachable: int
    """No server that has a copy of them is heard, so what they hold can't be read, however many copies there are."""


def redundancy_counts() -> RedundancyCounts:
    """Two queries, whose cost grows with the volumes that are not as they should be, not with all."""
    kind = Volume.Redundancy
    missing = Exists(Replica.objects.filter(volume=OuterRef("pk"), state=Replica.State.MISSING))
    looked_at = Volume.objects.filter(~Q(redundancy=kind.WHOLE) | Q(unsettled=True)).annotate(is_missing=missing)
    is_lost = Q(redundancy=kind.WHOLE, is_missing=True)
    counts = looked_at.aggregate(
        degraded=Count("pk", filter=Q(redundancy=kind.DEGRADED) | is_lost),
        copying=Count("pk", filter=Q(redundancy__in=[kind.MAKING, kind.OPENING, kind.CLOSED])),
        waiting=Count("pk", filter=Q(redundancy=kind.WHOLE, unsettled=True, is_missing=False)),
    )
    held = Replica.objects.filter(server__in=_silent_servers(), live_count__gt=0)
    unreachable = held.filter(~Exists(_read_from(OuterRef("volume")))).aggregate(count=Count("volume", distinct=True))
    return RedundancyCounts(**counts, unreachable=unreachable["count"])


def _silent_servers() -> QuerySet[Server]:
    """All but the online ones, announced or not."""
    return Server.objects.exclude(last_seen_at__gt=timezone.now() - OFFLINE_AFTER, stopped_at=None)


def _read_from(volume: OuterRef) -> QuerySet[Replica]:
    """Copies of a volume that can be read now."""
    kind = Replica.State
    return Replica.objects.filter(volume=volume, server__in=online_servers(), state__in=[kind.OPEN, kind.SEALED])


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether writing is possible at all, and whether damage is known; ``servers_offline`` are not in maintenance."""

    is_behind: bool
    servers: int
    servers_online: int
    servers_offline: int
    damaged_count: int


def server_standing(*, now: datetime | None = None) -> Standing:
    """Three queries, whose cost grows with the servers and with what is damaged."""
    online = Q(last_seen_at__gt=(now or timezone.now()) - OFFLINE_AFTER, stopped_at=None)
    is_away = Q(admin_state=Server.AdminState.MAINTENANCE)
    servers = Server.objects.aggregate(
        count=Count("pk"),
        online=Count("pk", filter=online),
        excused=Count("pk", filter=is_away | online),
    )
    damaged = Replica.objects.filter(damaged_count__gt=0).aggregate(count=Sum("damaged_count", default=0))
    return Standing(
        is_behind=Store.objects.filter(behind_of__isnull=False).exists(),
        servers=servers["count"],
        servers_online=servers["online"],
        servers_offline=servers["count"] - servers["excused"],
        damaged_count=int(damaged["count"]),
    )


def totals(*, now: datetime | None = None) -> Totals:
    """Figures of the whole store, garbage and bytes counted over all replicas. Two queries."""
    cutoff = (now or timezone.now()) - OFFLINE_AFTER
    online = Q(last_seen_at__gt=cutoff, stopped_at=None)
    disk = Coalesce(NullIf("disk", Value("")), Cast("pk", CharField()))
    disks = (
        Server.objects.order_by()
        .values(place=disk)
        .annotate(
            servers=Count("pk"),
            servers_online=Count("pk", filter=online),
            size=Max("capacity_bytes", filter=online, default=0),
            left=Min("free_bytes", filter=online, default=0),
        )
    )
    servers = disks.aggregate(
        count=Sum("servers", default=0),
        online=Sum("servers_online", default=0),
        capacity=Sum("size", default=0),
        free=Sum("left", default=0),
    )
    volumes = Replica.objects.aggregate(
        count=Count("volume", distinct=True),
        size=Sum("size_bytes", default=0),
        garbage=Sum("garbage_bytes", default=0),
        live=Sum("live_count", filter=Q(role=Replica.Role.PRIMARY), default=0),
        damaged=Sum("damaged_count", default=0),
    )
    return Totals(
        servers=servers["count"],
        servers_online=servers["online"],
        capacity_bytes=servers["capacity"],
        free_bytes=servers["free"],
        volumes=volumes["count"],
        used_bytes=int(volumes["size"]),
        garbage_bytes=int(volumes["garbage"]),
        live_count=int(volumes["live"]),
        damaged_count=int(volumes["damaged"]),
    )
