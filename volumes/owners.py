"""Whose needles these are: asked here of what is built on volumes, which alone knows.

Volumes know needles, not objects. The app that keeps objects says at its start how their names are found, so that
operators are told what is damaged by the name that they know it by.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from volumes.models import Volume


@dataclass(frozen=True, slots=True)
class Owner:
    """An object, or an upload that is not complete, of whose chunk ``chunk`` a needle holds the bytes."""

    bucket: str
    key: str
    chunk: int
    is_upload: bool = False
    is_journal: bool = False
    """It is the store's own: part ``chunk`` of the ``key`` of the journal."""

    def __str__(self) -> str:
        if self.is_journal:
            return f"the journal of the database, part {self.chunk} of {self.key}"
        what = "open upload of" if self.is_upload else "object"
        return f"{what} {self.key!r} in bucket {self.bucket!r}, chunk {self.chunk}"


FindOwners = Callable[[Collection[int]], Mapping[int, Sequence[Owner]]]
"""Needles in, their owners out; a needle that nothing names is left out."""

_finders: list[FindOwners] = []


def add_finder(find: FindOwners) -> None:
    """To be called once for each app that keeps needles, when it is ready."""
    _finders.append(find)


def owners_of(needles: Collection[int]) -> dict[int, list[Owner]]:
    """All that name each of these needles; empty for one that nothing names any more, or not yet."""
    found: dict[int, list[Owner]] = {needle: [] for needle in needles}
    for find in _finders:
        for needle, owners in find(found).items():
            found[needle].extend(owners)
    return found


def owner_text(owners: Sequence[Owner]) -> str:
    """What an operator is told of one needle."""
    return "; ".join(map(str, owners)) or "no object names it"


@dataclass(frozen=True, slots=True)
class Holdings:
    """What has at least one chunk in some volumes, in numbers by the names of buckets."""

    objects: Counter[str] = field(default_factory=Counter)
    uploads: Counter[str] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        return bool(self.objects.total() or self.uploads.total())


class Keeper(Protocol):
    """What an app that keeps needles knows of volumes that may be lost."""

    def holdings(self, volumes: "QuerySet[Volume]") -> Holdings: ...

    def owners_in(self, volumes: "QuerySet[Volume]") -> Iterator[Owner]:
        """Each object and open upload once, with the first of its chunks that lies there."""

    def release(self, volume_id: int) -> None:
        """Gives up what it alone needs of a volume that is lost; in the transaction that removes the volume."""


_keepers: list[Keeper] = []


def add_keeper(keeper: Keeper) -> None:
    """To be called once for each app that keeps needles, when it is ready."""
    _keepers.append(keeper)


def holdings_in(volumes: "QuerySet[Volume]") -> Holdings:
    """What would be lost with these volumes."""
    held = Holdings()
    for keeper in _keepers:
        told = keeper.holdings(volumes)
        held.objects.update(told.objects)
        held.uploads.update(told.uploads)
    return held


def owners_in(volumes: "QuerySet[Volume]") -> Iterator[Owner]:
    """As `holdings_in`, by name."""
    for keeper in _keepers:
        yield from keeper.owners_in(volumes)


def release_volume(volume_id: int) -> None:
    """Has a volume that is lost given up by all that is the store's own; inside the transaction that removes it."""
    for keeper in _keepers:
        keeper.release(volume_id)
