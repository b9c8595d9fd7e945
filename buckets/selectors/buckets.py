"""Reading buckets, and whether what they keep count of is there."""

import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

from django.db import connection
from django.db.models import QuerySet, Value
from django.db.models.functions import StrIndex
from django.db.models.lookups import GreaterThan

from buckets.errors import BucketDeleting, BucketUnknown
from buckets.models import IN_PROGRESS, Bucket
from buckets.selectors.pages import MAX_PAGE
from buckets.services.bulk import run_in

OPEN_BUCKETS_LIVE_S = 1.0
OPEN_BUCKETS_KEPT = 10_000


def get_bucket(name: str, *, deleting_too: bool = False) -> Bucket:
    """Raises BucketUnknown, BucketDeleting."""
    # Nearly every call begins with this one, and to have the ORM build it takes three times as long.
    found = next(iter(Bucket.objects.raw("SELECT * FROM buckets_bucket WHERE name = %s", [name])), None)
    return require_bucket(found, name, deleting_too=deleting_too)


class OpenBucket(NamedTuple):
    """What the calls that are made most want to know of a bucket. ``chunk_size`` None: the store's own."""

    id: int
    name: str
    chunk_size: int | None
    replication: int


_open_buckets: dict[str, tuple[float, OpenBucket]] = {}
"""By name: when it was read (monotonic seconds), and what was there."""
_open_buckets_lock = threading.Lock()


def open_bucket(name: str) -> OpenBucket:
    """A fifth of the time of `get_bucket`. Raises BucketUnknown, BucketDeleting."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, name, chunk_size, replication FROM buckets_bucket WHERE name = %s AND deleting_at IS NULL",
            [name],
        )
        row = cursor.fetchone()
    if row is not None:
        return OpenBucket(*row)
    other = get_bucket(name)  # says why not
    return OpenBucket(other.pk, other.name, other.chunk_size, other.replication)


def lately_open_bucket(name: str) -> OpenBucket:
    """As `open_bucket`, and up to `OPEN_BUCKETS_LIVE_S` old, for what is judged again when it is used.

    What this process does to buckets is seen at once. Raises BucketUnknown, BucketDeleting.
    """
    now = time.monotonic()
    kept = _open_buckets.get(name)
    if kept is not None and now - kept[0] <= OPEN_BUCKETS_LIVE_S:
        return kept[1]
    bucket = open_bucket(name)
    with _open_buckets_lock:
        if len(_open_buckets) >= OPEN_BUCKETS_KEPT:
            _open_buckets.clear()
        _open_buckets[name] = now, bucket
    return bucket


def forget_open_buckets() -> None:
    """Lets the next `lately_open_bucket` look at the database."""
    with _open_buckets_lock:
        _open_buckets.clear()


def require_bucket(bucket: Bucket | None, name: str, *, deleting_too: bool = False) -> Bucket:
    """The bucket that was found by ``name``. Raises BucketUnknown, and BucketDeleting unless that is wanted too."""
    if bucket is None:
        raise BucketUnknown(f"There is no bucket {name!r}.")
    if bucket.is_deleting and not deleting_too:
        raise BucketDeleting(f"Bucket {name!r} is being deleted, with {bucket.object_count} objects left.")
    return bucket


def is_public(name: str) -> bool:
    """Whether anybody may read the objects of a bucket; False as well where there is no such bucket."""
    visibility = Bucket.Visibility.PUBLIC_READ
    return Bucket.objects.filter(name=name, visibility=visibility, deleting_at=None).exists()


def list_buckets(
    *, names: Iterable[str] | None = None, search: str = "", after: str = "", limit: int = MAX_PAGE
) -> QuerySet[Bucket]:
    """Up to ``limit`` buckets behind the name ``after``, by name; ``names`` None: any of them.

    ``search``: only those in whose names it stands.
    """
    buckets = Bucket.objects.filter(name__gt=after).order_by("name")
    if names is not None:
        buckets = buckets.filter(name__in=list(names))
    if search:
        buckets = buckets.filter(GreaterThan(StrIndex("name", Value(search)), 0))
    return buckets[:limit]


class Counts(NamedTuple):
    """What a bucket keeps count of."""

    objects: int
    size_bytes: int
    reserved_objects: int
    reserved_bytes: int


class WrongCounts(NamedTuple):
    """A bucket whose kept counts are not those of what is there."""

    bucket: str
    kept: Counts
    found: Counts


def wrong_counts(bucket_ids: Iterable[int] | None = None) -> list[WrongCounts]:
    """The buckets, of these or of all, that keep wrong counts; none, if all that writes does as it should.

    Everything is counted, in one statement (but for the database's parameter limit), so that what is committed
    meanwhile makes no difference; of a million objects that takes about a second.
    """
    if bucket_ids is None:
        bucket_ids = Bucket.objects.order_by("pk").values_list("pk", flat=True)
    wrong = []
    for name, *numbers in run_in(_COUNTED, bucket_ids):
        kept, found = Counts(*numbers[:4]), Counts(*map(int, numbers[4:]))
        if kept != found:
            wrong.append(WrongCounts(bucket=name, kept=kept, found=found))
    return wrong


_WAITING = ", ".join(f"'{state.value}'" for state in IN_PROGRESS)
_COUNTED = f"""
SELECT b.name, b.object_count, b.total_bytes, b.reserved_objects, b.reserved_bytes,
    COALESCE(o.number, 0), COALESCE(o.bytes, 0), COALESCE(u.number, 0), COALESCE(u.bytes, 0)
FROM buckets_bucket b
LEFT JOIN (
    SELECT bucket_id, COUNT(*) AS number, SUM(size) AS bytes
    FROM buckets_object WHERE bucket_id IN {{in}} GROUP BY bucket_id
) o ON o.bucket_id = b.id
LEFT JOIN (
    SELECT bucket_id, SUM(reserved_objects) AS number, SUM(reserved_bytes) AS bytes
    FROM buckets_upload WHERE bucket_id IN {{in}} AND state IN ({_WAITING})
    GROUP BY bucket_id
) u ON u.bucket_id = b.id
WHERE b.id IN {{in}} ORDER BY b.name
"""  # noqa: S608 - the states above alone are put in
