"""A bucket full of small objects, written straight into a store's database.

    python -m bench.crowd BUCKET COUNT

The store is the one that the environment names, as for `manage.py`; it may run. The rows are those that confirms would
have made, in batches and with the counts kept, but for the bytes: no volume holds them. The keys lie under
`GROUPS` prefixes and came in one after the other under all of them, as from so many writers.
"""

import os
import sys
from collections.abc import Iterator

GROUPS = 100
OBJECT_BYTES = 1024
ROWS_A_COMMIT = 50_000
BATCH = 200
"""Objects that one commit of the master would have made."""


def key_of(number: int) -> str:
    """The key of object ``number``: `GROUPS` prefixes in turn, and in each of them one after the other."""
    return f"camera-{number % GROUPS:02}/2026-11/IMG_{number // GROUPS:07}.jpg"


def main(bucket_name: str, count: int) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "warehouse_site.settings")
    import django

    django.setup()
    from django.db import connection, transaction
    from django.utils import timezone

    from buckets.models import Chunk, Object
    from buckets.names import DEFAULT_CONTENT_TYPE, etag_of_needle
    from buckets.services.bulk import insert_rows
    from buckets.services.locks import CountChange, add_to_counts, lock_bucket
    from volume_server.intent import MAX_COUNT
    from volumes.models import Volume
    from volumes.services.store import raise_number

    volume = Volume.objects.order_by("pk")[0].pk
    leases = -(-count // MAX_COUNT)
    first_lease = raise_number("lease_high", by=leases) - leases + 1

    def needle_of(number: int) -> int:
        return (first_lease + number // MAX_COUNT) << 16 | number % MAX_COUNT

    def objects(first: int, last: int, bucket_id: int, first_sequence: int) -> Iterator[tuple[object, ...]]:
        for number in range(first, last):
            etag = etag_of_needle(needle_of(number))
            sequence = first_sequence + (number - first) // BATCH
            yield bucket_id, key_of(number), OBJECT_BYTES, etag, DEFAULT_CONTENT_TYPE, "{}", now, now, sequence

    for first in range(0, count, ROWS_A_COMMIT):
        last = min(first + ROWS_A_COMMIT, count)
        commits = -(-(last - first) // BATCH)
        with transaction.atomic():
            bucket_id = lock_bucket(bucket_name).pk
            now = connection.ops.adapt_datetimefield_value(timezone.now())
            sequence = raise_number("sequence", by=commits) - commits + 1
            made = insert_rows(
                into=Object._meta.db_table,
                columns=(
                    *("bucket_id", "key", "size", "etag", "content_type", "metadata"),
                    *("created_at", "updated_at", "sequence"),
                ),
                rows=list(objects(first, last, bucket_id, sequence)),
                then="RETURNING id, key",
            )
            ids: dict[str, int] = {key: object_id for object_id, key in made}
            insert_rows(
                into=Chunk._meta.db_table,
                columns=("object_id", '"index"', "volume_id", "needle", "size", "crc32", "committed_at"),
                rows=[
                    (ids[key_of(number)], 0, volume, needle_of(number), OBJECT_BYTES, number, now)
                    for number in range(first, last)
                ],
            )
            add_to_counts([CountChange(bucket_id, last - first, (last - first) * OBJECT_BYTES)])
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")  # as autovacuum would have done some time later


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
