"""Where new needles go.

The choice is made from a table in memory that is at most a second old, so a lease costs no query while it is
fresh. One needle: two servers are drawn and the less loaded one is taken (Mitzenmacher, "The Power of Two Choices
in Randomized Load Balancing"), load being what was handed out lately per byte of free space. Several needles
(chunks of one object): the least loaded of twice as many servers, round the nodes, then round the servers of each, so
that they are spread as widely as can be. What is looked at does not grow with the number of servers.

A volume has as many copies as the buckets ask for that it serves; it counts where its primary is, and is chosen only
while all of its copies are on servers that are there and have room. A table that takes long to read is read beside
the requests, which go on with the one before: so no lease costs more for there being more servers.

A pick reserves nothing; space is judged when the needle is appended. It is best called outside of a transaction:
other threads wait for the one that reads the table.
"""

import logging
import random
import threading
import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple, NoReturn
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, connection
from django.utils import timezone

from keys.errors import WarehouseError
from volume_server.superblock import RECORDS_START
from volumes.derived_secrets import server_secret
from volumes.errors import NoRoom, NoServers
from volumes.models import OFFLINE_AFTER, Replica, Server, Volume
from volumes.services.store import current_store, refuse_if_behind

log = logging.getLogger(__name__)

TABLE_LIVES_S = 1.0
TABLE_LASTS_S = 3.0
"""No request goes by a table that is older."""
LARGE_ROWS = 500
"""A table of fewer rows is read by the request that finds it too old, in a few milliseconds."""
RECORD_OVERHEAD_BYTES = 8192
"""More than a needle's header, intent, key and attributes take in the volume."""
_DRAWS = 8
"""So many random draws are tried before all servers are looked at."""
_SPREAD_OVER = 32
"""Chunks of one object go to the least loaded of so many servers, drawn at random, or of twice as many as there are
chunks: what a pick costs does not grow with the cluster."""
_LOAD = attrgetter("load")


@dataclass(frozen=True, slots=True)
class Target:
    """A volume to write to, and what is needed to sign for it. ``public_url`` has no path; ``secret`` is 32 bytes."""

    volume_id: int
    epoch: int
    server_id: str
    public_url: str
    kid: int
    secret: bytes = field(repr=False)


@dataclass(slots=True)
class _Spot:
    """A volume that takes records."""

    target: Target
    room: int
    """What it may still grow by, bytes."""
    usable_bytes: int
    """Of the fullest of its servers."""
    good_until: float
    """Unix seconds; one of its servers is offline then unless it was heard again."""

    def fits(self, needed_bytes: int, now: float) -> bool:
        return (
            self.usable_bytes >= needed_bytes
            and self.room >= needed_bytes + RECORD_OVERHEAD_BYTES
            and now < self.good_until
        )


@dataclass(slots=True)
class _Standing:
    """A server that is online and active."""

    node: str
    usable_bytes: int
    good_until: float
    public_url: str
    kid: int
    secret: bytes = field(repr=False)


@dataclass(slots=True)
class _Candidate:
    """A server with volumes of one number of copies, of which it has the primary's."""

    server_id: str
    node: str
    usable_bytes: int
    spots: list[_Spot]
    handed_out: float = 0.0
    """Picks since lately; halved with each new table."""
    load: float = field(init=False)
    """What was handed out, and one more, for each byte that is free."""
    turn: int = field(default_factory=lambda: random.randrange(1 << 16))  # noqa: S311 - balance, not secrecy
    """Which of its volumes is next; begins anywhere, so that several processes do not march in step."""

    def __post_init__(self) -> None:
        self.load = (self.handed_out + 1) / (self.usable_bytes + 1)

    def take(self, needed_bytes: int, now: float) -> Target | None:
        """The next of its volumes with room, one after the other, so that their fsyncs run side by side."""
        for _ in self.spots:
            spot = self.spots[self.turn % len(self.spots)]
            self.turn += 1
            if spot.fits(needed_bytes, now):
                self.handed_out += 1
                self.load += 1 / (self.usable_bytes + 1)
                return spot.target
        return None


@dataclass(slots=True)
class _Table:
    built_at: float
    """Monotonic seconds."""
    rows: int
    """Servers and copies that it was made from."""
    servers: list[_Standing]
    nodes: int
    """How many nodes have servers that are meant to be used, online or not."""
    set_aside: tuple[str, ...]
    """Servers that are drained or in maintenance, in words."""
    usable_bytes: int
    """Of all servers."""
    good_until: float
    """When the first of the servers is offline unless it was heard again; Unix seconds."""
    ready: dict[int, list[_Candidate]]
    """By number of copies: the servers with volumes to write to, in an order drawn at random."""
    is_stale: bool = False


_NAMED = 5
"""Servers that a refusal names as left out."""
_lock = threading.Lock()
_table: _Table | None = None
_reader: threading.Thread | None = None


def pick(*, needed_bytes: int, count: int = 1, replication: int = 1) -> list[Target]:
    """``count`` targets, each for a needle of ``needed_bytes`` that is kept ``replication`` times; several share a
    volume only when they must.

    Raises NoRoom when servers are there but full, or on too few nodes, NoServers when none can take a write at this
    moment, LeasesHalted when the database is older than what servers have seen.
    """
    needed_bytes = max(1, needed_bytes)  # an empty needle has a header
    with _lock:
        table = _fresh_table()
        now = time.time()
        ready = table.ready.get(replication, [])
        if count == 1:
            target = _pick_one(ready, needed_bytes, now)
            if target is None:
                _refuse(table, needed_bytes, replication, now)
            return [target]
        targets = _pick_spread(ready, needed_bytes, count, now)
        if len(targets) < count:
            _refuse(table, needed_bytes * (count if targets else 1), replication, now)
        return targets


def require_room(*, needed_bytes: int) -> None:
    """Raises NoRoom when the servers that are online have less room together; that none is online, `pick` tells."""
    with _lock:
        table = _fresh_table()
        now = time.time()
        online, usable_bytes = len(table.servers), table.usable_bytes
        if now >= table.good_until:
            usable = [one.usable_bytes for one in table.servers if now < one.good_until]
            online, usable_bytes = len(usable), sum(usable)
    if online and usable_bytes < needed_bytes:
        raise NoRoom(
            f"The {online} servers online have room for {usable_bytes} bytes together; with what "
            f"uploads in progress have still to send, this needs {needed_bytes}."
        )


def forget_table() -> None:
    """Lets the next pick look at the database: a server came or went, a volume changed its state."""
    with _lock:
        if _table is not None:
            _table.is_stale = True


def _pick_one(ready: Sequence[_Candidate], needed_bytes: int, now: float) -> Target | None:
    for _ in range(_DRAWS if ready else 0):
        one, other = random.choice(ready), random.choice(ready)  # noqa: S311 - balance, not secrecy
        target = (one if one.load <= other.load else other).take(needed_bytes, now)
        if target is not None:
            return target
    by_load = sorted(ready, key=_LOAD)
    return next(filter(None, (candidate.take(needed_bytes, now) for candidate in by_load)), None)


def _pick_spread(ready: Sequence[_Candidate], needed_bytes: int, count: int, now: float) -> list[Target]:
    """As many targets as there is room for, up to ``count``."""
    few = max(_SPREAD_OVER, 2 * count)
    start = random.randrange(len(ready)) if ready else 0  # noqa: S311 - balance, not secrecy
    # Their order is drawn anew with each table: those from anywhere on are drawn at random, for the price of a slice.
    drawn = [*ready[start : start + few], *ready[: min(start, max(0, start + few - len(ready)))]]
    targets = _round(drawn, needed_bytes, count, now)
    if len(targets) < count and len(drawn) < len(ready):
        return _round(ready, needed_bytes, count, now)
    return targets


def _round(candidates: Sequence[_Candidate], needed_bytes: int, count: int, now: float) -> list[Target]:
    """One to each, neighbours of different nodes as far as there are, the least loaded first; then again."""
    targets: list[Target] = []
    held_bytes = needed_bytes
    while candidates:
        taken = []
        queues = _by_node([candidate for candidate in candidates if candidate.usable_bytes >= held_bytes])
        while queues:
            going = []
            for queue in queues:
                for candidate in queue:
                    target = candidate.take(needed_bytes, now)
                    if target is None:
                        continue  # another of the same node may have room
                    targets.append(target)
                    if len(targets) == count:
                        return targets
                    taken.append(candidate)
                    going.append(queue)
                    break
            queues = going
        candidates, held_bytes = taken, held_bytes + needed_bytes
    return targets


def _by_node(candidates: Sequence[_Candidate]) -> list[Iterator[_Candidate]]:
    """The servers of each node, the least loaded first."""
    nodes: dict[str, list[_Candidate]] = {}
    for candidate in sorted(candidates, key=_LOAD):
        nodes.setdefault(candidate.node, []).append(candidate)
    return [iter(servers) for servers in nodes.values()]


def _refuse(table: _Table, needed_bytes: int, replication: int, now: float) -> NoReturn:
    """Raises what fits the reason why nothing could be picked."""
    online = [one for one in table.servers if now < one.good_until]
    left_out = f" Left out: {', '.join(table.set_aside[:_NAMED])}." if table.set_aside else ""
    if not online:
        raise NoServers(f"No volume server is online.{left_out}")
    roomy = {one.node for one in online if one.usable_bytes >= needed_bytes}
    fits_a_volume = needed_bytes + RECORD_OVERHEAD_BYTES + RECORDS_START <= settings.WAREHOUSE_VOLUME_SIZE
    if fits_a_volume and len(roomy) >= replication:
        raise NoServers("Volumes are being made; try again in a few seconds.")
    if replication == 1 or not fits_a_volume:
        raise NoRoom(f"None of the {len(online)} servers online has room for {needed_bytes} bytes.{left_out}")
    nodes = {one.node for one in online}
    if len(nodes) < replication <= table.nodes:
        raise NoServers(
            f"Replication {replication} wants servers on {replication} different nodes; of {table.nodes}, "
            f"{len(nodes)} are online.{left_out}"
        )
    raise NoRoom(
        f"Replication {replication} wants servers on {replication} different nodes with room for {needed_bytes} bytes "
        f"each; there are {len(roomy)}. Add a server on another node, or lower the bucket's replication.{left_out}"
    )


def _fresh_table() -> _Table:
    """The table, read anew when it is too old; the lock is held, so one thread reads for all."""
    global _table, _reader
    if _table is None:
        _table = _read_table({})
    age_s = time.monotonic() - _table.built_at
    if age_s > TABLE_LASTS_S or (_table.rows < LARGE_ROWS and (_table.is_stale or age_s > TABLE_LIVES_S)):
        _table = _read_table(_table.ready)
    elif (_table.is_stale or age_s > TABLE_LIVES_S) and (_reader is None or not _reader.is_alive()):
        _reader = threading.Thread(target=_read_beside, args=(_table.ready,), name="placement", daemon=True)
        _reader.start()
    return _table


def _read_beside(before: dict[int, list[_Candidate]]) -> None:
    """Reads the table while requests go by the old one."""
    global _table
    try:
        table = _read_table(before)
    except (WarehouseError, DatabaseError) as error:
        # The request that finds the old one older than TABLE_LASTS_S meets it itself, and is told.
        log.warning("the table of volumes could not be read: %s", error)
        return
    finally:
        connection.close()
    with _lock:
        _table = table


def _read_table(before: dict[int, list[_Candidate]]) -> _Table:
    """Three queries, whose cost grows with servers and open volumes, not with all volumes."""
    built_at = time.monotonic()
    refuse_if_behind(current_store())
    standing: dict[UUID, _Standing] = {}
    nodes: set[str] = set()
    alive_since = timezone.now() - OFFLINE_AFTER
    set_aside: list[str] = []
    for server in Server.objects.all():
        if server.admin_state != Server.AdminState.ACTIVE:
            set_aside.append(f"{server} ({server.admin_state})")
            continue
        nodes.add(server.node)
        if server.last_seen_at is None or server.stopped_at is not None or server.last_seen_at <= alive_since:
            continue
        standing[server.pk] = _Standing(
            node=server.node,
            usable_bytes=server.usable_bytes,
            good_until=(server.last_seen_at + OFFLINE_AFTER).timestamp(),
            public_url=server.public_url,
            kid=server.kid,
            secret=server_secret(server.pk, server.kid),
        )
    ready, copies = _read_ready(standing, before)
    return _Table(
        built_at=built_at,
        rows=len(standing) + copies,
        servers=list(standing.values()),
        nodes=len(nodes),
        set_aside=tuple(set_aside),
        usable_bytes=sum(one.usable_bytes for one in standing.values()),
        good_until=min((one.good_until for one in standing.values()), default=0.0),
        ready=ready,
    )


def _read_ready(
    standing: dict[UUID, _Standing], before: dict[int, list[_Candidate]]
) -> tuple[dict[int, list[_Candidate]], int]:
    """By number of copies the servers with volumes to write to; and how many copies were looked at."""
    handed_out = {(copies, one.server_id): one.handed_out for copies, known in before.items() for one in known}
    rows = Replica.objects.filter(
        volume__state=Volume.State.WRITABLE, volume__redundancy=Volume.Redundancy.WHOLE
    ).values_list(
        "volume_id", "server_id", "role", "state", "epoch", "size_bytes", "volume__epoch", "volume__replication"
    )
    volumes: dict[int, list[_Row]] = {}
    for row in rows:
        volumes.setdefault(row[0], []).append(_Row(*row))
    ready: dict[int, dict[UUID, _Candidate]] = {}
    for copies in volumes.values():
        primary = _writable_primary(copies, standing)
        if primary is None:
            continue
        holder = standing[primary.server]
        spot = _Spot(
            target=Target(
                volume_id=primary.volume,
                epoch=primary.volume_epoch,
                server_id=str(primary.server),
                public_url=holder.public_url,
                kid=holder.kid,
                secret=holder.secret,
            ),
            room=settings.WAREHOUSE_VOLUME_SIZE - primary.size_bytes,
            usable_bytes=min(standing[one.server].usable_bytes for one in copies),
            good_until=min(standing[one.server].good_until for one in copies),
        )
        of_copies = ready.setdefault(primary.replication, {})
        if primary.server not in of_copies:
            server_id = str(primary.server)
            of_copies[primary.server] = _Candidate(
                server_id=server_id,
                node=holder.node,
                usable_bytes=holder.usable_bytes,
                spots=[],
                handed_out=handed_out.get((primary.replication, server_id), 0.0) / 2,
            )
        of_copies[primary.server].spots.append(spot)
    by_copies = {
        replication: random.sample(list(candidates.values()), len(candidates))
        for replication, candidates in ready.items()
    }
    return by_copies, sum(map(len, volumes.values()))


class _Row(NamedTuple):
    """A copy of a volume that takes records by its row."""

    volume: int
    server: UUID
    role: str
    state: str
    epoch: int
    size_bytes: int
    volume_epoch: int
    replication: int


def _writable_primary(copies: Sequence[_Row], standing: Container[UUID]) -> _Row | None:
    """The copy that leases are for; None unless all of the copies that there should be are there and can be written."""
    if any(one.server not in standing or one.state != Replica.State.OPEN for one in copies):
        return None
    primary = next((one for one in copies if one.role == Replica.Role.PRIMARY), None)
    if primary is None or primary.epoch != primary.volume_epoch or len(copies) < primary.replication:
        return None
    return primary
