"""Deleting a bucket with all that is in it: closed at once, emptied in the background.

    close_bucket ── deleting_at is set: nothing comes in, nothing is read, the name stays taken
    delete_closed_buckets ── batch ── batch ── ... ── the row goes

All that is known of the work is in the rows, so it may be done by two at a time, late, or by another one after a kill:
each batch is a commit of its own, made under the bucket's lock of what is there.
"""

from django.db import transaction
from django.utils import timezone

from buckets.models import Bucket, Object
from buckets.services.buckets import forget_cached, lock_bucket_row, remove_bucket
from buckets.services.objects import remove_first_objects
from keys.actions import Action
from keys.services.audit import record
from volumes.services.store import current_store, next_sequence

OBJECTS_A_BATCH = 1000
BATCHES_A_CALL = 50
"""So that no large bucket holds a worker up that is to stop."""


@transaction.atomic
def close_bucket(*, name: str) -> Bucket | None:
    """Closes a bucket for good, so that `delete_closed_buckets` deletes it; an empty one is deleted now (None).

    From the commit on nothing is written to it, by leases that were given out before neither. Closed already is closed.
    Raises BucketUnknown.
    """
    bucket = lock_bucket_row(name, deleting_too=True)
    if not Object.objects.filter(bucket=bucket).exists():
        remove_bucket(bucket, sequence=next_sequence())
        return None
    if bucket.deleting_at is None:
        bucket.deleting_at = timezone.now()
        bucket.save(update_fields=["deleting_at"])
        forget_cached()
        record(Action.BUCKET_CLOSE, bucket=name, objects=bucket.object_count, bytes=bucket.total_bytes)
        next_sequence()
    return bucket


def delete_closed_buckets() -> bool:
    """Goes on with the deletion of closed buckets, the first closed first; whether there may be more to do.

    Not while the database is behind.
    """
    if current_store().behind_of is not None:
        return False
    closed = Bucket.objects.filter(deleting_at__isnull=False).order_by("deleting_at", "pk")
    batches = 0
    for bucket_id in list(closed.values_list("pk", flat=True)):
        while _delete_batch(bucket_id):
            batches += 1
            if batches >= BATCHES_A_CALL:
                return True
    return False


@transaction.atomic
def _delete_batch(bucket_id: int) -> bool:
    """Deletes some objects of a closed bucket, and the bucket with the last of them; whether it is still there."""
    bucket = Bucket.objects.select_for_update().filter(pk=bucket_id).first()
    if bucket is None:
        return False  # somebody else was quicker
    remove_first_objects(bucket=bucket.name, bucket_id=bucket.pk, limit=OBJECTS_A_BATCH)
    if Object.objects.filter(bucket=bucket).exists():
        return True
    remove_bucket(bucket, sequence=next_sequence())
    return False
