"""Which servers may take a new copy of a volume."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from volumes.models import Replica, Server, Volume

COPIES_AT_ONCE = 2
"""So many volumes are copied to one server, and from one server, at a time: more would only share their disks."""


class Homes:
    """The servers as they are at ``now``, read when first asked for, and what is being copied to them."""

    def __init__(self, *, now: datetime) -> None:
        self._now = now
        self._servers: list[Server] | None = None
        self._copying_to: Counter[UUID] = Counter()
        self._copying_from: Counter[UUID] = Counter()
        self._promised_bytes: Counter[UUID] = Counter()
        self.why_none = ""
        """Why the last search found fewer than were asked for; empty when it is only a matter of turns."""

    def find(
        self, volume: Volume, *, size_bytes: int, keep: Sequence[Replica], holders: Sequence[Replica], count: int
    ) -> list[UUID]:
        """Up to ``count`` servers for further copies of ``size_bytes`` beside those to ``keep``, each on a node of its
        own; none that has a copy already (``holders``). Those on nodes without any copy come first, then the roomiest.
        """
        servers = self._read()
        self.why_none = ""
        if size_bytes and self._source_is_busy(holders):
            return []
        taken = {one.server.node for one in keep}
        nodes = {one.server.node for one in holders}
        held_by = {one.server_id for one in holders}
        fit = [
            one
            for one in servers
            if one.pk not in held_by
            and one.node not in taken
            and volume.pk not in one.stray_volumes
            and one.usable_bytes - self._promised_bytes[one.pk] > size_bytes
        ]
        idle = [one for one in fit if not size_bytes or self._copying_to[one.pk] < COPIES_AT_ONCE]
        found: list[UUID] = []
        for one in sorted(idle, key=lambda one: (one.node in nodes, self._promised_bytes[one.pk] - one.usable_bytes)):
            if len(found) < count and one.node not in taken:
                taken.add(one.node)
                found.append(one.pk)
        if len(found) < count and len(fit) == len(idle):
            nodes_text = ", ".join(sorted({one.server.node for one in keep})) or "none"
            self.why_none = (
                f"It is to have {volume.replication} copies on different nodes (now on {nodes_text}), and no server "
                f"on another node has room for its {size_bytes} bytes."
            )
        return found

    def promise(self, server_ids: Sequence[UUID], *, holders: Sequence[Replica]) -> None:
        """Notes that servers are to get copies of the volume that ``holders`` are the copies of."""
        size_bytes = max((one.size_bytes for one in holders), default=0)
        for server_id in server_ids:
            self._copying_to[server_id] += 1
            self._promised_bytes[server_id] += size_bytes
        if server_ids:
            self._copying_from.update(one.server_id for one in holders if one.role == Replica.Role.PRIMARY)

    def _source_is_busy(self, holders: Sequence[Replica]) -> bool:
        primaries = [one.server_id for one in holders if one.role == Replica.Role.PRIMARY]
        return any(self._copying_from[one] >= COPIES_AT_ONCE for one in primaries)

    def _read(self) -> list[Server]:
        if self._servers is None:
            active = Server.objects.filter(admin_state=Server.AdminState.ACTIVE, stopped_at=None)
            self._servers = [one for one in active if one.is_alive(now=self._now)]
            # What is on its way already: new copies, with the sizes that their primaries tell.
            coming = Replica.objects.filter(
                state=Replica.State.EXPECTED, volume__redundancy=Volume.Redundancy.OPENING
            ).values_list("server_id", "volume_id")
            sources = {
                volume_id: (server_id, size_bytes)
                for volume_id, server_id, size_bytes in Replica.objects.filter(
                    volume__in=[volume_id for _, volume_id in coming], role=Replica.Role.PRIMARY
                ).values_list("volume_id", "server_id", "size_bytes")
            }
            for server_id, volume_id in coming:
                source_id, size_bytes = sources[volume_id]
                self._copying_to[server_id] += 1
                self._copying_from[source_id] += 1
                self._promised_bytes[server_id] += size_bytes
        return self._servers
