"""Keys that hold nothing any more are written down: the rows that are left cannot tell the journal of them."""

from collections.abc import Sequence
from datetime import datetime

from django.db import connection

from buckets.services.bulk import insert_rows


def note_removed(places: Sequence[tuple[int, str]], *, sequence: int, now: datetime) -> None:
    """Bucket id and key of each; inside the transaction that removes them, after `next_sequence`. One statement."""
    at = connection.ops.adapt_datetimefield_value(now)
    rows = [(bucket_id, key, sequence, at) for bucket_id, key in places]
    if rows:
        insert_rows(into="buckets_removed", columns=("bucket", "key", "sequence", "removed_at"), rows=rows)
