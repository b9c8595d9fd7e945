"""Kept counts that are wrong are set right: what no commit should ever make needful."""

from django.db import transaction

from buckets.models import Bucket
from buckets.selectors.buckets import wrong_counts
from buckets.services.locks import lock_buckets
from keys.actions import Action
from keys.services.audit import record


def mend_counts() -> list[str]:
    """Counts all buckets anew that keep wrong counts; their names."""
    mended = []
    for wrong in wrong_counts():
        bucket_id = Bucket.objects.filter(name=wrong.bucket).values_list("pk", flat=True).first()
        if bucket_id is not None and _mend(bucket_id):
            mended.append(wrong.bucket)
    return mended


@transaction.atomic
def _mend(bucket_id: int) -> bool:
    """Whether they were wrong under the lock, too: with it nothing of the bucket changes."""
    lock_buckets([bucket_id])
    wrong = wrong_counts([bucket_id])
    for one in wrong:
        Bucket.objects.filter(pk=bucket_id).update(
            object_count=one.found.objects,
            total_bytes=one.found.size_bytes,
            reserved_objects=one.found.reserved_objects,
            reserved_bytes=one.found.reserved_bytes,
        )
        record(Action.BUCKET_RECOUNT, bucket=one.bucket, kept=list(one.kept), found=list(one.found))
    return bool(wrong)
