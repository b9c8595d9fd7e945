"""Which parts of the journal there are, and which of them tell the newest state.

An entry tells what changed after one commit and up to another. A snapshot was read while commits went on, so it needs
all entries from its beginning (`after`) to its end (`to`); those behind that bring it up to date. Two entries may
overlap, where a writer ended before its entry counted: whoever tells more comes later, and nothing is told wrongly.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from buckets.journal_format import ENTRY, Header


@dataclass(frozen=True, slots=True)
class PartAt:
    """A genuine part, and where it lies."""

    header: Header
    volume: int = 0
    needle: int = 0
    """0: it lies in no needle, but in a file beside the volumes."""
    size_bytes: int = 0
    crc32: int = 0
    data: bytes | None = None
    """Of one that lies in no needle."""


@dataclass(slots=True)
class History:
    """What is to be applied, in this order. Without a snapshot all is to be found in the needles themselves."""

    snapshot: list[PartAt] = field(default_factory=list)
    entries: list[list[PartAt]] = field(default_factory=list)
    commit: int = 0
    read_us: int = 0
    """When the last of it was read from the database."""
    problems: list[str] = field(default_factory=list)


def choose(parts: Iterable[PartAt]) -> History:
    """The snapshot, and the entries from there, that lead furthest."""
    grouped: dict[tuple[str, str], list[PartAt]] = {}
    for part in parts:
        grouped.setdefault((part.header.kind, part.header.entry), []).append(part)
    entries = [whole for (kind, _), some in grouped.items() if kind == ENTRY and (whole := _whole_entry(some))]
    entries.sort(key=lambda entry: (entry[0].header.to, entry[0].header.read_us))
    snapshots = [whole for (kind, _), some in grouped.items() if kind != ENTRY and (whole := _whole_snapshot(some))]
    snapshots.sort(key=lambda snapshot: snapshot[-1].header.after, reverse=True)
    found = [_history(snapshot, entries) for snapshot in snapshots]
    best = max(found, key=lambda history: (not history.problems, history.commit), default=None)
    if best is None:
        return History(problems=["there is no whole snapshot of the database in these volumes"] if grouped else [])
    unused = [entry for entry in entries if entry[0].header.to > best.commit]
    if unused:
        first = min(entry[0].header.after for entry in unused)
        best.problems.append(
            f"the journal has a gap after commit {best.commit}: {len(unused)} entries that begin after commit {first} "
            "cannot be used"
        )
    return best


def _history(snapshot: Sequence[PartAt], entries: Sequence[list[PartAt]]) -> History:
    last = snapshot[-1].header
    history = History(
        snapshot=sorted(snapshot, key=lambda part: part.header.read_us),
        commit=last.after,
        read_us=min(part.header.read_us for part in snapshot),
    )
    for entry in entries:
        header = entry[0].header
        if header.after <= history.commit <= header.to:
            history.entries.append(entry)
            history.commit = header.to
            history.read_us = max(history.read_us, header.read_us)
    if history.commit < last.to:
        history.problems.append(
            f"the snapshot wants the journal up to commit {last.to}, and it leads to {history.commit} only: objects "
            "that changed in between may be missing, or be there twice"
        )
    return history


def _whole_entry(parts: list[PartAt]) -> list[PartAt]:
    """One of each part, in order; nothing where one is missing."""
    by_number = {part.header.part: part for part in parts}
    last = [part.header.part for part in parts if part.header.is_last]
    if not last or len(by_number) != last[0] + 1:
        return []
    return [by_number[number] for number in sorted(by_number)]


def _whole_snapshot(parts: list[PartAt]) -> list[PartAt]:
    """All parts of a snapshot, once each, the last one last; nothing where a stretch of it is missing.

    A part may have been written twice, over stretches of different length. Each is true for its own.
    """
    unique = {(part.header.part, part.header.cursor, part.header.next_cursor): part for part in parts}
    by_number: dict[int, list[PartAt]] = {}
    for part in unique.values():
        by_number.setdefault(part.header.part, []).append(part)
    reached: set[str] | None = None
    used: list[PartAt] = []
    for number in range(len(by_number)):
        joined = [
            part
            for part in by_number.get(number, ())
            if (number == 0 if reached is None else part.header.cursor in reached)
        ]
        if not joined:
            return []
        used += sorted(joined, key=lambda part: part.header.is_last)
        reached = {part.header.next_cursor for part in joined}
        if used[-1].header.is_last:
            return used
    return []
