"""What the master has a server do, in answer to its report: derived from the rows, so repeated until it is done."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Q

from volume_server.signing import replica_ticket
from volumes.derived_secrets import server_secret
from volumes.models import Replica, Server, Volume
from volumes.reports import Figures
from volumes.services.store import current_store


@dataclass(frozen=True, slots=True)
class CreateVolume:
    """Make a volume file."""

    volume: int
    salt: bytes
    created_ms: int
    epoch: int

    def as_json(self) -> dict[str, Any]:
        return {
            "do": "create",
            "volume": self.volume,
            "salt": self.salt.hex(),
            "created_ms": self.created_ms,
            "epoch": self.epoch,
        }


@dataclass(frozen=True, slots=True)
class Peer:
    """Another copy, and what the primary signs with when it speaks to it."""

    server: str
    url: str
    kid: int
    ticket: str


@dataclass(frozen=True, slots=True)
class OpenVolume:
    """As its primary under this epoch, bring the other copies into line, then take records."""

    volume: int
    epoch: int
    peers: tuple[Peer, ...]

    def as_json(self) -> dict[str, Any]:
        peers = [{"server": one.server, "url": one.url, "kid": one.kid, "ticket": one.ticket} for one in self.peers]
        return {"do": "open", "volume": self.volume, "epoch": self.epoch, "peers": peers}


@dataclass(frozen=True, slots=True)
class CloseVolume:
    """Take no record under this epoch."""

    volume: int
    epoch: int

    def as_json(self) -> dict[str, Any]:
        return {"do": "close", "volume": self.volume, "epoch": self.epoch}


@dataclass(frozen=True, slots=True)
class DropVolume:
    """Remove this copy for good: it is not assigned to the server, and the volume is whole elsewhere.

    ``epoch``: in which that is so. A copy that is to be part of a later one stays, however late this comes.
    """

    volume: int
    epoch: int

    def as_json(self) -> dict[str, Any]:
        return {"do": "drop", "volume": self.volume, "epoch": self.epoch}


_STRAYS_A_REPORT = 500

Instruction = CreateVolume | OpenVolume | CloseVolume | DropVolume


def is_unfinished(replica: Replica) -> bool:
    """Whether something may be to be done about a copy, by rows that were read a moment ago."""
    volume = replica.volume
    return volume.redundancy != Volume.Redundancy.WHOLE or volume.state == Volume.State.CREATING


def instructions_for(
    *, server: Server, has_work: bool = True, strays: Sequence[Figures] = ()
) -> tuple[Instruction, ...]:
    """All that the server has still to do, by what it has reported. ``strays``: what it holds without being meant to.

    ``has_work``: `is_unfinished` of any of its copies, else none is looked at. One query for them, one more when a
    volume is to be opened, two when the server holds strays.
    """
    return (*(_own(server) if has_work else ()), *_drops(server, strays))


def _own(server: Server) -> list[Instruction]:
    rows = (
        Replica.objects.filter(server=server)
        .filter(~Q(volume__redundancy=Volume.Redundancy.WHOLE) | Q(volume__state=Volume.State.CREATING))
        .select_related("volume")
        .order_by("volume")
    )
    creates: list[Instruction] = []
    closes: list[Instruction] = []
    to_open: list[Volume] = []
    for replica in rows:
        volume = replica.volume
        if replica.state == Replica.State.EXPECTED and _is_new(volume):
            creates.append(CreateVolume(volume.pk, bytes(volume.salt), volume.created_ms, volume.epoch))
        elif volume.redundancy == Volume.Redundancy.OPENING:
            if replica.role == Replica.Role.PRIMARY and replica.epoch < volume.epoch:
                to_open.append(volume)
        elif volume.redundancy == Volume.Redundancy.CLOSED and replica.epoch < volume.epoch:
            closes.append(CloseVolume(volume.pk, volume.epoch))
    return [*creates, *closes, *_opens(server, to_open)]


def peers_of(volume: Volume, *, primary: Server, replicas: Sequence[Replica]) -> tuple[Peer, ...]:
    """The other copies that are part of the volume's latest opening; ``replicas`` with their servers."""
    return tuple(
        Peer(
            server=str(one.server_id),
            url=one.server.internal_url,
            kid=one.server.kid,
            ticket=replica_ticket(
                server_secret(one.server_id, one.server.kid),
                volume=volume.pk,
                epoch=volume.epoch,
                primary=str(primary.pk),
            ),
        )
        for one in replicas
        if one.server_id != primary.pk and one.member_epoch == volume.epoch
    )


def _is_new(volume: Volume) -> bool:
    """Whether nothing was ever written to it. A copy of any other is made by its primary, never empty."""
    if volume.redundancy == Volume.Redundancy.MAKING:
        return True
    return volume.state == Volume.State.CREATING and volume.redundancy == Volume.Redundancy.WHOLE


def _opens(server: Server, volumes: Sequence[Volume]) -> list[OpenVolume]:
    if not volumes:
        return []
    peers: dict[int, list[Replica]] = {volume.pk: [] for volume in volumes}
    for replica in Replica.objects.filter(volume__in=peers).select_related("server").order_by("volume", "server"):
        peers[replica.volume_id].append(replica)
    return [
        OpenVolume(volume.pk, volume.epoch, peers_of(volume, primary=server, replicas=peers[volume.pk]))
        for volume in volumes
    ]


def _drops(server: Server, strays: Sequence[Figures]) -> list[DropVolume]:
    """Copies that nobody needs: every copy that is assigned is whole under a later epoch and its server is there.

    A volume that this database does not know, or knows from an earlier time than the copy is from, stays.
    """
    if not strays or current_store().behind_of is not None:
        return []
    held = {one.volume: one for one in strays[:_STRAYS_A_REPORT]}
    copies: dict[int, list[Replica]] = {}
    assigned = Replica.objects.filter(
        volume__in=held, volume__redundancy=Volume.Redundancy.WHOLE, volume__unsettled=False
    )
    for replica in assigned.select_related("volume", "server"):
        copies.setdefault(replica.volume_id, []).append(replica)
    return [
        DropVolume(volume_id, replicas[0].volume.opened_epoch)
        for volume_id, replicas in sorted(copies.items())
        if _is_needless(held[volume_id], replicas, server)
    ]


def _is_needless(stray: Figures, replicas: Sequence[Replica], holder: Server) -> bool:
    volume = replicas[0].volume
    return (
        len(replicas) >= volume.replication
        and stray.epoch < volume.opened_epoch
        and (stray.replication is None or stray.replication.epoch <= volume.opened_epoch)
        and all(
            one.server_id != holder.pk
            and one.server.is_alive()
            and one.has_all_of(volume)
            and one.revision >= stray.revision
            for one in replicas
        )
    )
