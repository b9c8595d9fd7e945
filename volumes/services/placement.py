"""Where new needles go.

The choice is made from a table in memory that is at most a second old, so a lease costs no query while it is
fresh. One needle: two servers are drawn and the less loaded one is taken (Mitzenmacher, "The Power of Two Choices
in Randomized Load Balancing"), load being what was handed out lately per byte of free space. Several needles
(chunks of one object): round the nodes, then round the servers of each, so that they are spread as widely as can be.

A pick reserves nothing; space is judged when the needle is appended. It is best called outside of a transaction:
other threads wait for the one that reads the table.
"""

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from django.conf import settings
from django.utils import timezone

from volume_server.superblock import RECORDS_START
from volumes.derived_secrets import server_secret
from volumes.errors import NoRoom, NoServers
from volumes.models import OFFLINE_AFTER, Replica, Server, Volume
from volumes.services.store import current_store, refuse_if_behind

TABLE_LIVES_S = 1.0
RECORD_OVERHEAD_BYTES = 8192
"""More than a needle's header, intent, key and attributes take in the volume."""
_DRAWS = 8
"""So many random draws are tried before all servers are looked at."""


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
class _Candidate:
    """A server that is online and active, with its writable volumes (none: they are being made)."""

    node: str
    usable_bytes: int
    good_until: float
    """Unix seconds; it is offline then unless it was heard again."""
    targets: list[Target]
    rooms: list[int]
    """What each target's volume may still grow by, bytes."""
    handed_out: float = 0.0
    """Picks since lately; halved with each new table."""
    turn: int = field(default_factory=lambda: random.randrange(1 << 16))  # noqa: S311 - balance, not secrecy
    """Which of its volumes is next; begins anywhere, so that several processes do not march in step."""

    def has_room(self, needed_bytes: int, now: float) -> bool:
        return (
            self.usable_bytes >= needed_bytes
            and now < self.good_until
            and any(room >= needed_bytes + RECORD_OVERHEAD_BYTES for room in self.rooms)
        )

    @property
    def load(self) -> float:
        return (self.handed_out + 1) / (self.usable_bytes + 1)

    def take(self, needed_bytes: int) -> Target:
        """The next of its volumes with room, one after the other, so that their fsyncs run side by side."""
        while self.rooms[self.turn % len(self.rooms)] < needed_bytes + RECORD_OVERHEAD_BYTES:
            self.turn += 1
        target = self.targets[self.turn % len(self.targets)]
        self.turn += 1
        self.handed_out += 1
        return target


@dataclass(slots=True)
class _Table:
    built_at: float
    """Monotonic seconds."""
    candidates: dict[str, _Candidate]
    ready: list[_Candidate]
    """Those with a volume to write to."""


_lock = threading.Lock()
_table: _Table | None = None


def pick(*, needed_bytes: int, count: int = 1) -> list[Target]:
    """``count`` targets, each for a needle of ``needed_bytes``; several share a volume only when they must.

    Raises NoRoom when servers are there but full, NoServers when none can take a write at this moment,
    LeasesHalted when the database is older than what servers have seen.
    """
    needed_bytes = max(1, needed_bytes)  # an empty needle has a header
    with _lock:
        table = _fresh_table()
        now = time.time()
        if count == 1:
            return [_pick_one(table, needed_bytes, now).take(needed_bytes)]
        return _pick_spread(table, needed_bytes, count, now)


def require_room(*, needed_bytes: int) -> None:
    """Raises NoRoom when the servers that are online have less room together; that none is online, `pick` tells."""
    with _lock:
        candidates = _fresh_table().candidates.values()
        now = time.time()
        usable = [candidate.usable_bytes for candidate in candidates if now < candidate.good_until]
    if usable and sum(usable) < needed_bytes:
        raise NoRoom(
            f"The {len(usable)} servers online have room for {sum(usable)} bytes together; with what "
            f"uploads in progress have still to send, this needs {needed_bytes}."
        )


def forget_table() -> None:
    """Lets the next pick look at the database: a server came or went, a volume changed its state."""
    with _lock:
        if _table is not None:
            _table.built_at = float("-inf")


def _pick_one(table: _Table, needed_bytes: int, now: float) -> _Candidate:
    ready = table.ready
    for _ in range(_DRAWS if ready else 0):
        one, other = random.choice(ready), random.choice(ready)  # noqa: S311 - balance, not secrecy
        better = one if one.load <= other.load else other
        if better.has_room(needed_bytes, now):
            return better
    fitting = [candidate for candidate in ready if candidate.has_room(needed_bytes, now)]
    if not fitting:
        _refuse(table, needed_bytes, now)
    return min(fitting, key=lambda candidate: candidate.load)


def _pick_spread(table: _Table, needed_bytes: int, count: int, now: float) -> list[Target]:
    ring = _ring([candidate for candidate in table.ready if candidate.has_room(needed_bytes, now)])
    room = [candidate.usable_bytes // needed_bytes for candidate in ring]
    targets: list[Target] = []
    while len(targets) < count:
        if not ring:
            _refuse(table, needed_bytes * (count if targets else 1), now)
        for at, candidate in enumerate(ring):
            if len(targets) == count:
                break
            targets.append(candidate.take(needed_bytes))
            room[at] -= 1
        ring = [candidate for candidate, left in zip(ring, room, strict=True) if left > 0]
        room = [left for left in room if left > 0]
    return targets


def _ring(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Servers in an order in which neighbours are of different nodes as far as there are; least loaded first."""
    nodes: dict[str, list[_Candidate]] = {}
    for candidate in sorted(candidates, key=lambda candidate: (candidate.load, random.random())):  # noqa: S311
        nodes.setdefault(candidate.node, []).append(candidate)
    return [
        servers[turn]
        for turn in range(max(map(len, nodes.values()), default=0))
        for servers in nodes.values()
        if turn < len(servers)
    ]


def _refuse(table: _Table, needed_bytes: int, now: float) -> NoReturn:
    """Raises what fits the reason why nothing could be picked."""
    online = [candidate for candidate in table.candidates.values() if now < candidate.good_until]
    if not online:
        raise NoServers("No volume server is online.")
    fits_a_volume = needed_bytes + RECORD_OVERHEAD_BYTES + RECORDS_START <= settings.WAREHOUSE_VOLUME_SIZE
    if fits_a_volume and any(candidate.usable_bytes >= needed_bytes for candidate in online):
        raise NoServers("Volumes are being made; try again in a few seconds.")
    raise NoRoom(f"None of the {len(online)} servers online has room for {needed_bytes} bytes.")


def _fresh_table() -> _Table:
    """The table, read anew when it is too old; the lock is held, so one thread reads for all."""
    global _table
    if _table is None or time.monotonic() - _table.built_at > TABLE_LIVES_S:
        _table = _read_table(_table.candidates if _table else {})
    return _table


def _read_table(before: dict[str, _Candidate]) -> _Table:
    """Three queries, whose cost grows with servers and open volumes, not with all volumes."""
    built_at = time.monotonic()
    refuse_if_behind(current_store())
    candidates: dict[str, _Candidate] = {}
    servers = {
        server.pk: server
        for server in Server.objects.filter(
            admin_state=Server.AdminState.ACTIVE, stopped_at=None, last_seen_at__gt=timezone.now() - OFFLINE_AFTER
        )
    }
    for server_id, server in servers.items():
        assert server.last_seen_at is not None  # the query says so
        known = before.get(str(server_id))
        candidates[str(server_id)] = _Candidate(
            node=server.node,
            usable_bytes=server.usable_bytes,
            good_until=(server.last_seen_at + OFFLINE_AFTER).timestamp(),
            targets=[],
            rooms=[],
            handed_out=known.handed_out / 2 if known else 0.0,
        )
    open_replicas = Replica.objects.filter(
        volume__state=Volume.State.WRITABLE,
        role=Replica.Role.PRIMARY,
        state=Replica.State.OPEN,
    ).values_list("server_id", "volume_id", "volume__epoch", "epoch", "size_bytes")
    for server_id, volume_id, epoch, replica_epoch, size_bytes in open_replicas:
        holder = servers.get(server_id)
        if holder is None or epoch != replica_epoch:
            continue
        candidates[str(server_id)].rooms.append(settings.WAREHOUSE_VOLUME_SIZE - size_bytes)
        candidates[str(server_id)].targets.append(
            Target(
                volume_id=volume_id,
                epoch=epoch,
                server_id=str(server_id),
                public_url=holder.public_url,
                kid=holder.kid,
                secret=server_secret(server_id, holder.kid),
            )
        )
    return _Table(
        built_at=built_at,
        candidates=candidates,
        ready=[candidate for candidate in candidates.values() if candidate.targets],
    )
