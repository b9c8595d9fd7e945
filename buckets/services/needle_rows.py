"""What the rows say of needles: read a stretch of one volume at a time, or needle by needle.

No cursor is held open between two calls: on SQLite that would keep writers from committing, or its journal growing.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from django.db import connection

from buckets.models import JournalNeedle
from buckets.services.bulk import run_in

ROWS_AT_ONCE = 60_000
"""More than the needles of a page, which is so compared in one piece, if all is well."""


class Named(NamedTuple):
    """What a chunk row says of its needle."""

    volume_id: int
    size: int
    crc32: int


class Rows(NamedTuple):
    """What there is of some needles, at one moment."""

    chunks: dict[int, set[Named]]
    """Several of one needle where objects share it by a copy; they all say the same, if all is well."""
    tombstoned: dict[int, bool]
    """Needles of the outbox: whether their tombstone was written."""

    def names(self, needle: int) -> bool:
        return needle in self.chunks or needle in self.tombstoned


def named_in(volume_id: int, *, after: int, through: int) -> tuple[list[tuple[int, int, int]], int]:
    """(needle, size, crc32) of the chunk rows of a volume whose needles are behind ``after``, up to ``through``, by
    needle, and how far they reach: to ``through``, or less far where there are too many for one call.

    The journal's own needles are among them.
    """
    rows, reach = _chunks_in(volume_id, after=after, through=through)
    journal = JournalNeedle.objects.filter(volume=volume_id, needle__gt=after, needle__lte=reach, is_durable=True)
    own = list(journal.values_list("needle", "size", "crc32"))
    return (sorted([*rows, *own]) if own else rows), reach


def _chunks_in(volume_id: int, *, after: int, through: int) -> tuple[list[tuple[int, int, int]], int]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT needle, size, crc32 FROM buckets_chunk WHERE volume_id = %s AND needle > %s AND needle <= %s "
            "ORDER BY needle LIMIT %s",
            [volume_id, after, through, ROWS_AT_ONCE],
        )
        rows: list[tuple[int, int, int]] = cursor.fetchall()
    if len(rows) < ROWS_AT_ONCE:
        return rows, through
    last = rows[-1][0]
    if last == rows[0][0]:  # more copies of one needle than are read at once: one row tells as much
        return rows, last
    # Of the last needle there may be more rows; all of them come with the next call.
    return [row for row in rows if row[0] != last], last - 1


def rows_of(needles: Collection[int]) -> Rows:
    """All that names these needles now, wherever; one statement (but for the database's limit of parameters)."""
    found = run_in(
        "SELECT needle, volume_id, size, crc32 FROM buckets_chunk WHERE needle IN {in} "
        "UNION ALL SELECT needle, volume_id, -1, CASE WHEN tombstoned_at IS NULL THEN 0 ELSE 1 END "
        "FROM buckets_outbox WHERE needle IN {in} "
        # Of a part of the journal that is on its way nothing is known yet, as of a needle that is not tombstoned yet.
        "UNION ALL SELECT needle, volume_id, CASE WHEN is_durable THEN size ELSE -1 END, "
        "CASE WHEN is_durable THEN crc32 ELSE 0 END FROM buckets_journalneedle WHERE needle IN {in}",
        needles,
    )
    chunks: dict[int, set[Named]] = {}
    tombstoned: dict[int, bool] = {}
    for needle, volume_id, size, crc32 in found:
        if size < 0:
            tombstoned[needle] = bool(crc32)
        else:
            chunks.setdefault(needle, set()).add(Named(volume_id, size, crc32))
    return Rows(chunks, tombstoned)


def unnamed(needles: Iterable[int]) -> set[int]:
    """Those of the needles that no chunk row, no outbox row and no part of the journal names, in whatever volume."""
    needles = set(needles)
    rows = run_in(
        "SELECT needle FROM buckets_chunk WHERE needle IN {in} "
        "UNION ALL SELECT needle FROM buckets_outbox WHERE needle IN {in} "
        "UNION ALL SELECT needle FROM buckets_journalneedle WHERE needle IN {in}",
        needles,
    )
    return needles - {needle for (needle,) in rows}


def count_rows(volume_id: int) -> int:
    """How many chunk rows lie in a volume."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM buckets_chunk WHERE volume_id = %s", [volume_id])
        (count,) = cursor.fetchone()
    return int(count)
