"""Reading objects and their chunks."""

import json
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import NamedTuple

from django.db.models import QuerySet

from buckets.errors import ObjectUnknown
from buckets.models import Chunk, JournalNeedle, Object
from buckets.names import successor
from buckets.selectors.buckets import get_bucket, require_bucket
from buckets.services.bulk import MAX_PARAMETERS, as_datetime, run_in
from keys.permissions import Permission
from volumes.owners import Owner

TO_SHARE = Permission.SHARE | Permission.OBJECTS_READ
"""What a key needs on an object that it shares, for as long as the share is used."""
TO_ANYBODY = TO_SHARE
"""What a key needs on a whole bucket that it gives to everybody."""
TO_LEAVE = Permission.OBJECTS_READ | Permission.OBJECTS_DELETE
"""What a key needs on objects that get other keys."""
_PARAMETERS = 500
"""Values in one statement: all databases take so many."""
_MAX_NEEDLE = (1 << 63) - 1


class FoundChunk(NamedTuple):
    """Which bytes of an object lie in which needle."""

    position: int
    """0 for the first."""
    offset: int
    size: int
    crc32: int
    volume_id: int
    needle: int


class Found(NamedTuple):
    """An object and its chunks in order."""

    key: str
    size: int
    etag: str
    content_type: str
    metadata: dict[str, str]
    updated_at: datetime
    chunks: list[FoundChunk]


def get_object(*, bucket: str, key: str) -> Object:
    """One query where the object exists. Raises BucketUnknown, ObjectUnknown."""
    found = Object.objects.select_related("bucket").filter(bucket__name=bucket, key=key).first()
    if found is None:
        get_bucket(bucket)
        raise ObjectUnknown(f"There is no object {key!r} in bucket {bucket!r}.")
    require_bucket(found.bucket, bucket)
    return found


def stat_objects(*, bucket_id: int, keys: Iterable[str]) -> dict[str, Object]:
    """Those of the keys that exist, without their chunks; one query (but for the database's parameter limit)."""
    wanted = list(dict.fromkeys(keys))
    found: dict[str, Object] = {}
    for start in range(0, len(wanted), MAX_PARAMETERS):
        rows = Object.objects.filter(bucket=bucket_id, key__in=wanted[start : start + MAX_PARAMETERS])
        found.update((row.key, row) for row in rows)
    return found


def key_range(bucket_id: int, low: str, high: str | None) -> QuerySet[Object]:
    """The objects whose keys go from ``low`` to below ``high`` (None: to the end), by key."""
    rows = Object.objects.filter(bucket=bucket_id, key__gte=low).order_by("key")
    return rows if high is None else rows.filter(key__lt=high)


def objects_below(bucket_id: int, prefix: str) -> QuerySet[Object]:
    """The objects whose keys start with ``prefix``, by key."""
    return key_range(bucket_id, prefix, successor(prefix))


class Below(NamedTuple):
    """What lies below prefixes; as far as it was counted where ``is_all`` is False."""

    objects: int
    is_all: bool


def count_below(*, bucket_id: int, prefixes: Iterable[str], limit: int) -> Below:
    """Counts up to ``limit`` objects in all. One query for each prefix that it comes to."""
    counted = 0
    for prefix in prefixes:
        counted += objects_below(bucket_id, prefix)[: limit + 1 - counted].count()
        if counted > limit:
            return Below(limit, is_all=False)
    return Below(counted, is_all=True)


def chunks_of(object_id: int, *, limit: int) -> list[Chunk]:
    """The first chunks of an object. One query."""
    return list(Chunk.objects.filter(object=object_id).order_by("index")[:limit])


def find_objects(*, bucket_id: int, keys: Iterable[str]) -> dict[str, Found]:
    """Those of the keys that exist, chunks along; one statement, so that an object and its chunks are of one version.

    Plain values instead of model instances, which would be most of the time.
    """
    found: dict[str, Found] = {}
    offset = 0
    for key, size, etag, content_type, metadata, updated_at, position, *chunk in run_in(
        'SELECT o.key, o.size, o.etag, o.content_type, o.metadata, o.updated_at, c."index", c.size, c.crc32, '  # noqa: S608 - a number alone is put in
        f"c.volume_id, c.needle FROM buckets_object o LEFT JOIN buckets_chunk c ON c.object_id = o.id "
        f'WHERE o.bucket_id = {bucket_id:d} AND o.key IN {{in}} ORDER BY o.key, c."index"',
        set(keys),
    ):
        one = found.get(key)
        if one is None:
            held = json.loads(metadata) if metadata != "{}" else {}
            one = found[key] = Found(key, size, etag, content_type, held, as_datetime(updated_at), [])
            offset = 0
        if position is not None:
            one.chunks.append(FoundChunk(position, offset, *chunk))
            offset += chunk[0]
    return found


def find_owners(needles: Collection[int]) -> dict[int, list[Owner]]:
    """The objects and open uploads that each needle holds a chunk of, and parts of the journal; needles that no row
    names are left out.

    Two queries per 500 needles. What a damaged volume tells may be no needle that was ever given out, of any 64 bits.
    """
    wanted = sorted(needle for needle in needles if needle <= _MAX_NEEDLE)
    found: dict[int, list[Owner]] = {}
    for start in range(0, len(wanted), _PARAMETERS):
        rows = Chunk.objects.filter(needle__in=wanted[start : start + _PARAMETERS]).order_by("needle", "pk")
        for chunk in rows.select_related("object__bucket", "upload__bucket"):
            holder = chunk.object or chunk.upload
            assert holder is not None  # a constraint of the row
            owner = Owner(
                bucket=holder.bucket.name, key=holder.key, chunk=chunk.index, is_upload=chunk.object_id is None
            )
            found.setdefault(chunk.needle, []).append(owner)
        for part in JournalNeedle.objects.filter(needle__in=wanted[start : start + _PARAMETERS]):
            owner = Owner(bucket="", key=f"{part.kind} {part.entry}", chunk=part.part, is_journal=True)
            found.setdefault(part.needle, []).append(owner)
    return found
