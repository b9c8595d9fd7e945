"""Background work on buckets. Wrappers: what they do may be done twice, or late."""

from celery import shared_task
from django.db import transaction

from buckets.services import deletion, outbox, uploads


@shared_task(name="buckets.tasks.collect_outbox", soft_time_limit=300, time_limit=330, ignore_result=True)
def collect_outbox() -> None:
    """Ends uploads whose time is over, and has tombstones written for dead needles."""
    uploads.expire_uploads()
    outbox.collect_outbox()


@shared_task(name="buckets.tasks.delete_buckets", soft_time_limit=300, time_limit=330, ignore_result=True)
def delete_buckets() -> None:
    """Goes on deleting buckets that were closed for it; beat comes back to what is left when no one else does."""
    if deletion.delete_closed_buckets():
        wake_deletion()


def wake_deletion() -> None:
    """Has closed buckets deleted soon, once the caller's transaction is there to be seen.

    A broker that can't be reached is logged and no more: beat asks again.
    """
    transaction.on_commit(delete_buckets.delay, robust=True)
