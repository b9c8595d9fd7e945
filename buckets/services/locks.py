"""The one lock that every writer takes.

    buckets, in the order of their ids ── store (the commit's sequence), last

Whoever changes objects, chunks, uploads or counts of a bucket holds that bucket's row first. Since the counts and
the quota have to be exact, a commit must have the row anyway; held from the start it also keeps two creators of an
absent key apart and the objects and uploads inside still, so these need no locks (and absent keys no placeholder
rows) of their own. Ids in order: no deadlock. On SQLite the transaction itself is the lock (BEGIN IMMEDIATE).
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from django.db import connection

from buckets.errors import BucketDeleting, BucketUnknown
from buckets.models import Bucket
from buckets.selectors.buckets import require_bucket
from buckets.services.bulk import run_in


def lock_bucket(name: str) -> Bucket:
    """The bucket, locked until the caller's transaction ends. Raises BucketUnknown, BucketDeleting."""
    # NO KEY UPDATE: rows that merely point to the bucket (a new upload) may come in meanwhile.
    return require_bucket(Bucket.objects.select_for_update(no_key=True).filter(name=name).first(), name)


class LockedBucket(NamedTuple):
    """What a commit needs of a bucket's row."""

    id: int
    name: str
    quota_bytes: int | None
    quota_objects: int | None
    object_count: int
    total_bytes: int
    reserved_objects: int
    reserved_bytes: int
    deleting_at: object
    """None while it is open."""
    replication: int


def lock_buckets(bucket_ids: Iterable[int]) -> list[LockedBucket]:
    """Those of the buckets that exist, closed ones too, locked in the order of their ids."""
    return _lock("id", bucket_ids)


def lock_buckets_named(names: Iterable[str]) -> dict[str, LockedBucket]:
    """The buckets of these names, locked in the order of their ids. Raises BucketUnknown, BucketDeleting."""
    names = set(names)
    found = lock_those_named(names)
    for name in sorted(names):
        require_open(found, name)
    return found


def lock_those_named(names: Iterable[str]) -> dict[str, LockedBucket]:
    """Those of the buckets that exist, closed ones too, locked in the order of their ids."""
    return {bucket.name: bucket for bucket in _lock("name", names)}


def require_open(locked: Mapping[str, LockedBucket], name: str) -> None:
    """Raises BucketUnknown, BucketDeleting, unless the bucket is among those that were locked, and open."""
    if name not in locked:
        raise BucketUnknown(f"There is no bucket {name!r}.")
    if locked[name].deleting_at is not None:
        raise BucketDeleting(f"Bucket {name!r} is being deleted.")


def _lock(column: str, values: Iterable[int] | Iterable[str]) -> list[LockedBucket]:
    lock = "FOR NO KEY UPDATE" if connection.features.has_select_for_no_key_update else ""
    rows = run_in(
        f"SELECT {', '.join(LockedBucket._fields)} FROM buckets_bucket "  # noqa: S608 - only the names above are put in
        f"WHERE {column} IN {{in}} ORDER BY id {lock}",
        sorted(set(values)),
    )
    return [LockedBucket(*row) for row in rows]


class CountChange(NamedTuple):
    """What a commit adds to a bucket's kept counts."""

    bucket_id: int
    objects: int = 0
    size_bytes: int = 0
    reserved_objects: int = 0
    reserved_bytes: int = 0


def add_to_counts(changes: Iterable[CountChange]) -> None:
    """Adds to the kept counts of locked buckets. One statement for a few buckets."""
    rows = [(*change[1:], change.bucket_id) for change in changes if any(change[1:])]
    if not rows:
        return
    with connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE buckets_bucket SET object_count = object_count + %s, total_bytes = total_bytes + %s, "
            "reserved_objects = reserved_objects + %s, reserved_bytes = reserved_bytes + %s WHERE id = %s",
            rows,
        )
