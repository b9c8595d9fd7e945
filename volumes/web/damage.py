"""The damaged records of a volume, asked of its servers while the page is made, for whoever looks at it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from keys.errors import WarehouseError
from keys.permissions import Permission
from keys.rights import KeyRights
from volumes.models import JobState, Replica, Server
from volumes.owners import Owner, owners_of
from volumes.reports import Damage
from volumes.services.upkeep import list_damage
from volumes.web.progress import VolumeRow

DAMAGE_SHOWN: Final = 50
"""Damaged records of a copy that a page lists; `manage.py scrub` lists all that its server tells."""


@dataclass(frozen=True, slots=True)
class DamagedRecord:
    """``owners``: what names its needle, as far as the key may know it."""

    record: Damage
    owners: list[Owner]
    hidden: int
    """So many owners the key may not read."""


@dataclass(frozen=True, slots=True)
class CopyDamage:
    """What is known of the damage of one copy; ``trouble``: why its server could not be asked."""

    server: Server
    count: int
    records: list[DamagedRecord]
    is_looked_for: bool
    trouble: str


def damage_of(row: VolumeRow, *, rights: KeyRights) -> list[CopyDamage]:
    """Of the copies alone that are known to be damaged: the others' servers are not asked."""
    return [_of_copy(one.replica, rights) for one in row.copies if one.replica.damaged_count]


def _of_copy(replica: Replica, rights: KeyRights) -> CopyDamage:
    is_looked_for = replica.scrub is not None and replica.scrub["state"] == JobState.RUNNING
    try:
        report = list_damage(volume_id=replica.volume_id, server_id=replica.server_id)
    except WarehouseError as error:
        return CopyDamage(replica.server, replica.damaged_count, [], is_looked_for, error.detail)
    records = report.records[:DAMAGE_SHOWN]
    owners = owners_of({one.needle for one in records if one.needle is not None})
    named = [_named(one, [] if one.needle is None else owners[one.needle], rights) for one in records]
    return CopyDamage(replica.server, report.count, named, is_looked_for, "")


def _named(record: Damage, owners: Sequence[Owner], rights: KeyRights) -> DamagedRecord:
    known = [
        one
        for one in owners
        if one.is_journal or rights.allows(Permission.OBJECTS_READ, bucket=one.bucket, key=one.key)
    ]
    return DamagedRecord(record, known, len(owners) - len(known))
