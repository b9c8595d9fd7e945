"""Listing the objects of a bucket, page by page."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Any, NamedTuple

from django.db import connection
from django.db.models import Count, Max, Q, QuerySet

from buckets.filters import NO_FILTERS, Filters, starts_with
from buckets.models import Object
from buckets.names import successor
from buckets.selectors.objects import key_range
from buckets.selectors.pages import MAX_LOOKED_AT, MAX_PAGE
from buckets.services.bulk import Row, as_datetime, run_in
from keys.errors import Invalid

MAX_RANGES = 100
"""Key ranges that one statement asks for; SQLite takes an expression of a thousand parts."""
_MAX_ID = (1 << 63) - 1
_DECIMAL = re.compile(r"[0-9]{1,19}")
_AFTER_KEY = "\x01"
"""A key and this is the very next text in byte order, since no key holds a NUL."""


class Listed(NamedTuple):
    """An object as a page shows it."""

    id: int
    key: str
    size: int
    etag: str
    content_type: str
    updated_at: datetime
    sequence: int


_LISTED = f"SELECT {', '.join(Listed._fields)} FROM buckets_object"  # noqa: S608 - names alone are put in


@dataclass(frozen=True, slots=True)
class Page:
    """Objects, and what common prefixes stand for; ``next_after`` None: there is no more.

    Nothing else tells that: a page with filters may be short, or empty.
    """

    objects: list[Listed]
    prefixes: list[str]
    next_after: str | None


def list_newest(
    *,
    bucket_id: int,
    within: Sequence[str] | None,
    prefix: str = "",
    after: str = "",
    limit: int = MAX_PAGE,
    filters: Filters = NO_FILTERS,
) -> Page:
    """Objects by the commit that made them, newest first. ``within``: only keys that start with one of these.

    ``after`` is an earlier page's ``next_after`` and means nothing else. Where ``prefix`` and ``within`` leave up to
    `MAX_LOOKED_AT` keys in no more than `MAX_RANGES` ranges, pages are full; else a page looks at so many rows.
    Raises Invalid.
    """
    rows = Object.objects.filter(bucket=bucket_id).order_by("-sequence", "-pk")
    if after:
        sequence, pk = _newest_cursor(after)
        rows = rows.filter(Q(sequence__lt=sequence) | Q(sequence=sequence, pk__lt=pk), sequence__lte=sequence)
    ranges = _ranges(prefix, within)
    edge: tuple[int, int] | None = None
    if not filters and ranges == [("", None)]:
        page = _as_listed(rows, limit + 1)
    elif len(ranges) <= MAX_RANGES and (few := _few_rows(bucket_id, ranges)) is not None:
        page = []
        for keys in few:
            page += _as_listed(rows.filter(*filters.conditions(), pk__in=keys), limit + 1)
        page.sort(key=lambda row: (row.sequence, row.id), reverse=True)
    else:
        if ends := list(rows.values_list("sequence", "pk")[MAX_LOOKED_AT - 1 : MAX_LOOKED_AT]):
            [edge] = ends
            rows = rows.filter(Q(sequence__gt=edge[0]) | Q(sequence=edge[0], pk__gte=edge[1]), sequence__gte=edge[0])
        rows = rows.filter(*filters.conditions())
        if len(ranges) <= MAX_RANGES:
            allowed = reduce(or_, (Q(starts_with("key", low)) for low, _ in ranges))
            page = _as_listed(rows.filter(allowed), limit + 1)
        else:  # more alternatives than SQLite takes in one expression
            starts = tuple(low for low, _ in ranges)
            page = [row for row in _as_listed(rows, MAX_LOOKED_AT) if row.key.startswith(starts)][: limit + 1]
    shown = page[:limit]
    if len(page) > limit:
        edge = (shown[-1].sequence, shown[-1].id)
    return Page(objects=shown, prefixes=[], next_after=f"{edge[0]}.{edge[1]}" if edge else None)


def _few_rows(bucket_id: int, ranges: Iterable[tuple[str, str | None]]) -> list[QuerySet[Object, Any]] | None:
    """Ids of the objects in each key range, as subqueries; None where they are more than a page may look at.

    Subqueries with a limit of their own: so the range's index is used to find them, whatever the order asked for.
    """
    found, left = [], MAX_LOOKED_AT
    for low, high in ranges:
        rows = key_range(bucket_id, low, high).order_by()
        count = rows[: left + 1].count()
        if count > left:
            return None
        left -= count
        found.append(rows.values("pk")[:MAX_LOOKED_AT])
    return found


def _as_listed(rows: QuerySet[Object], limit: int) -> list[Listed]:
    return [Listed(*row) for row in rows.values_list(*Listed._fields)[:limit]]


def _newest_cursor(after: str) -> tuple[int, int]:
    sequence, dot, pk = after.partition(".")
    parts = (sequence, pk)
    if not (dot and all(_DECIMAL.fullmatch(part) and int(part) <= _MAX_ID for part in parts)):
        raise Invalid(errors={"after": ["This is not the next_after of an earlier page of this order."]})
    return int(sequence), int(pk)


def list_objects(
    *,
    bucket_id: int,
    within: Sequence[str] | None,
    prefix: str = "",
    delimiter: str = "",
    after: str = "",
    limit: int = MAX_PAGE,
) -> Page:
    """Objects by key in byte order. ``within``: only keys that start with one of these (None: all).

    With a delimiter, keys that have it behind ``prefix`` are shown as their common prefix, up to and with the
    delimiter, which counts as one entry of the page. ``after`` is a key or a common prefix.

    A page costs what it returns: from a common prefix the listing steps right behind the last key that starts with
    it (a skip scan), and reads none of those between. Two queries, and one more for each entry of ``within``.
    """
    bound = _first_bound(prefix=prefix, delimiter=delimiter, after=after)
    entries: list[tuple[str, int | None]] = []  # key and object id, or common prefix and None
    for low, high in _ranges(prefix, within):
        if len(entries) > limit:
            break
        start = max(low, bound)
        if high is not None and start >= high:
            continue
        entries += _walk(
            bucket_id, start=start, end=high, prefix=prefix, delimiter=delimiter, limit=limit + 1 - len(entries)
        )
        if entries:
            bound = _bound_behind(entries[-1], delimiter)
    shown = entries[:limit]
    rows = {
        row[0]: _listed(row)
        for row in run_in(f"{_LISTED} WHERE id IN {{in}}", [pk for _, pk in shown if pk is not None])
    }
    return Page(
        # Rows that were deleted since the walk are no longer there.
        objects=[rows[pk] for _, pk in shown if pk is not None and pk in rows],
        prefixes=[text for text, pk in shown if pk is None],
        next_after=shown[-1][0] if len(entries) > limit else None,
    )


def search_objects(
    *,
    bucket_id: int,
    within: Sequence[str] | None,
    filters: Filters,
    prefix: str = "",
    after: str = "",
    limit: int = MAX_PAGE,
) -> Page:
    """Objects that the filters let through, by key in byte order. ``within``: as in `list_objects`.

    A page looks at `MAX_LOOKED_AT` rows. Two queries for each entry of ``within`` that it comes to.
    """
    bound = after + _AFTER_KEY if after else ""
    found: list[Listed] = []
    left = MAX_LOOKED_AT
    for low, high in _ranges(prefix, within):
        start = max(low, bound)
        if high is not None and start >= high:
            continue
        rows = key_range(bucket_id, start, high)
        # How far to look is known before anything is looked at, so that nothing that comes in meanwhile is passed over.
        seen = rows.values("key")[:left].aggregate(count=Count("key"), last=Max("key"))
        if not seen["count"]:
            continue
        wanted = rows.filter(*filters.conditions(), key__lte=seen["last"])
        found += _as_listed(wanted, limit + 1 - len(found))
        if len(found) > limit:
            return Page(objects=found[:limit], prefixes=[], next_after=found[limit - 1].key)
        left -= seen["count"]
        if left <= 0:
            return Page(objects=found, prefixes=[], next_after=seen["last"])
    return Page(objects=found, prefixes=[], next_after=None)


def _listed(row: Row) -> Listed:
    """A row of `_LISTED`."""
    object_id, key, size, etag, content_type, updated_at, sequence = row
    return Listed(object_id, key, size, etag, content_type, as_datetime(updated_at), sequence)


def _ranges(prefix: str, within: Sequence[str] | None) -> list[tuple[str, str | None]]:
    """The key ranges, from low to below high, where ``prefix`` and one of ``within`` meet; sorted, disjoint."""
    if within is None or any(prefix.startswith(outer) for outer in within):
        return [(prefix, successor(prefix))]
    return [(inner, successor(inner)) for inner in sorted(within) if inner.startswith(prefix)]


def _first_bound(*, prefix: str, delimiter: str, after: str) -> str:
    """The first text that may be listed."""
    if not after:
        return ""
    if delimiter and after.startswith(prefix):
        at = after.find(delimiter, len(prefix))
        if at >= 0 and at + len(delimiter) == len(after):
            return _bound_behind((after, None), delimiter)
    return after + _AFTER_KEY


def _bound_behind(entry: tuple[str, int | None], delimiter: str) -> str:
    """The first text behind a key, or behind all keys with a common prefix."""
    text, pk = entry
    if pk is not None:
        return text + _AFTER_KEY
    return text[: -len(delimiter)] + _delimiter_successor(delimiter)


def _delimiter_successor(delimiter: str) -> str:
    behind = successor(delimiter)
    # The last code point has nothing behind it; it is no character, and as a delimiter it is refused.
    if behind is None or len(behind) != len(delimiter):
        raise Invalid(errors={"delimiter": ["This can't be a delimiter."]})
    return behind


def _walk(
    bucket_id: int, *, start: str, end: str | None, prefix: str, delimiter: str, limit: int
) -> list[tuple[str, int | None]]:
    """Up to ``limit`` entries from ``start`` to below ``end``, in one statement."""
    if not delimiter:
        return list(key_range(bucket_id, start, end).values_list("key", "pk")[:limit])
    # Each step of the recursion is one seek in the index of (bucket, key): the first key at or behind the bound that
    # the entry before has left. `at` is where the delimiter is in what follows the prefix, 0 for a plain key.
    position = "instr" if connection.vendor == "sqlite" else "strpos"
    find = f"{position}(substr(o.key, %s), %s)"
    below = "AND o.key < %s" if end is not None else ""
    seek = f"FROM buckets_object o WHERE o.bucket_id = %s AND o.key >= {{bound}} {below} ORDER BY o.key LIMIT 1"
    next_bound = "CASE walk.at WHEN 0 THEN walk.key || %s ELSE substr(walk.key, 1, walk.at + %s) || %s END"
    statement = f"""
        WITH RECURSIVE walk (id, key, at, n) AS (
            SELECT o.id, o.key, {find}, 1 FROM buckets_object o
            WHERE o.id = (SELECT o.id {seek.format(bound="%s")})
          UNION ALL
            SELECT o.id, o.key, {find}, walk.n + 1 FROM walk, buckets_object o
            WHERE walk.n < %s AND o.id = (SELECT o.id {seek.format(bound=next_bound)})
        )
        SELECT id, key, at FROM walk ORDER BY n
    """  # noqa: S608 - only the names and pieces above are put in
    find_values: list[int | str] = [len(prefix) + 1, delimiter]
    end_values = [end] if end is not None else []
    # Character `at` of the rest is character `len(prefix) + at` of the key; the bound is cut right before it.
    bound_values: list[int | str] = [_AFTER_KEY, len(prefix) - 1, _delimiter_successor(delimiter)]
    parameters: list[int | str] = [
        *[*find_values, bucket_id, start, *end_values],
        *[*find_values, limit, bucket_id, *bound_values, *end_values],
    ]
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return [
            (key, pk) if not at else (key[: len(prefix) + at - 1 + len(delimiter)], None)
            for pk, key, at in cursor.fetchall()
        ]
