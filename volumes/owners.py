"""Whose needles these are: asked here of what is built on volumes, which alone knows.

Volumes know needles, not objects. The app that keeps objects says at its start how their names are found, so that
operators are told what is damaged by the name that they know it by.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass


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
