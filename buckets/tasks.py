"""Background work on buckets. Wrappers: what they do may be done twice, or late."""

from celery import shared_task

from buckets.services import outbox, uploads


@shared_task(name="buckets.tasks.collect_outbox", soft_time_limit=300, time_limit=330, ignore_result=True)
def collect_outbox() -> None:
    """Ends uploads whose time is over, and has tombstones written for dead needles."""
    uploads.expire_uploads()
    outbox.collect_outbox()
