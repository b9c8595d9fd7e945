"""What the dashboard tells. A figure is read when the template comes to it: a part that htmx asks for reads its own.

What the key may not know is None or empty, as the API would refuse it.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from django.db import connection

from buckets.health import Health, store_health
from buckets.models import Bucket, Proof
from buckets.selectors.buckets import list_buckets
from buckets.selectors.upkeep import check_in_hand, last_check
from buckets.usage import current_figures
from buckets.web import lights
from buckets.web.history import History
from keys.permissions import Permission
from keys.rights import KeyRights
from keys.selectors import list_audit
from keys.web.activity import Told, told
from volumes.models import Server
from volumes.selectors import servers_at_a_glance

MAX_BUCKETS: Final = 6
MAX_SERVERS: Final = 8
MAX_ENTRIES: Final = 6
_TROUBLE_FIRST: Final = ("offline", "draining", "maintenance", "online")


@dataclass(frozen=True, slots=True)
class ServerTile:
    server: Server
    taken_bytes: int
    """Of its disk, whoever took them."""


@dataclass(frozen=True, slots=True)
class BucketLine:
    """A bucket that the key may see or read in; ``is_told``: its figures, too."""

    bucket: Bucket
    is_told: bool


class Glance:
    """One look at the store, by one key."""

    def __init__(self, rights: KeyRights, *, span: str = "", as_table: bool = False) -> None:
        self.rights = rights
        self._span = span
        self._as_table = as_table

    @cached_property
    def may_see_volumes(self) -> bool:
        return self.rights.allows(Permission.VOLUMES_READ)

    @cached_property
    def may_see_activity(self) -> bool:
        return self.rights.allows(Permission.ADMIN)

    @cached_property
    def may_make_buckets(self) -> bool:
        return self.rights.allows(Permission.BUCKETS_WRITE)

    @cached_property
    def may_make_keys(self) -> bool:
        return self.rights.allows(Permission.KEYS_MANAGE)

    # --- how it is ---

    @cached_property
    def health(self) -> Health:
        """Anybody may know it, as by the API."""
        return store_health()

    @cached_property
    def headline(self) -> lights.Light:
        return lights.headline(self.health, self.lights)

    @cached_property
    def lights(self) -> list[lights.Light]:
        shown = lights.lights(self.health, database=connection.vendor)
        if self.may_see_volumes:
            shown.append(lights.proof_light(self.health, self.proof, in_hand=self.check_in_hand))
        return shown

    @cached_property
    def check_in_hand(self) -> str:
        return check_in_hand()

    @cached_property
    def may_check(self) -> bool:
        """Whether to offer a check of the whole store."""
        return self.may_see_volumes and self.rights.allows(Permission.VOLUMES_MANAGE) and not self.check_in_hand

    @cached_property
    def proof(self) -> Proof | None:
        return last_check() if self.may_see_volumes else None

    @cached_property
    def _all_servers(self) -> list[Server]:
        found = servers_at_a_glance() if self.may_see_volumes else []
        return sorted(found, key=lambda server: _TROUBLE_FIRST.index(server.status))

    @cached_property
    def servers(self) -> list[ServerTile]:
        """Those that need a look first."""
        shown = self._all_servers[:MAX_SERVERS]
        return [ServerTile(server, server.capacity_bytes - server.free_bytes) for server in shown]

    @cached_property
    def other_servers(self) -> int:
        return len(self._all_servers) - len(self.servers)

    # --- how much there is ---

    @cached_property
    def figures(self) -> dict[str, int] | None:
        if not self.may_see_volumes:
            return None
        figures = current_figures()
        return {**figures, "taken_bytes": figures["capacity_bytes"] - figures["free_bytes"]}

    @cached_property
    def _buckets(self) -> list[BucketLine]:
        seen, read = (self.rights.buckets(bit) for bit in (Permission.BUCKETS_READ, Permission.OBJECTS_READ))
        names = None if seen is None else seen | (read or frozenset())
        found = list_buckets(names=names, limit=MAX_BUCKETS + 1)
        return [BucketLine(bucket, is_told=seen is None or bucket.name in seen) for bucket in found]

    @cached_property
    def buckets(self) -> list[BucketLine]:
        return self._buckets[:MAX_BUCKETS]

    @cached_property
    def has_more_buckets(self) -> bool:
        return len(self._buckets) > MAX_BUCKETS

    @cached_property
    def is_new(self) -> bool:
        """Whether nothing is stored yet, as far as the key may know, and it may change that: time for first steps."""
        holds_nothing = all(line.is_told and not line.bucket.object_count for line in self.buckets)
        may_begin = self.may_make_buckets or bool(self.bucket_to_fill)
        return holds_nothing and may_begin and not self.has_more_buckets

    @cached_property
    def bucket_to_fill(self) -> str:
        """The name of a bucket that the key may write to; empty: there is none."""
        names = (line.bucket.name for line in self.buckets if not line.bucket.is_deleting)
        return next((name for name in names if self.rights.allows(Permission.OBJECTS_WRITE, bucket=name)), "")

    @cached_property
    def recent(self) -> list[Told]:
        """The newest entries of the audit trail."""
        return [told(entry) for entry in list_audit(limit=MAX_ENTRIES).entries] if self.may_see_activity else []

    @cached_property
    def history(self) -> History | None:
        return History(self._span, as_table=self._as_table) if self.may_see_volumes else None
