"""Background work on keys and the audit trail. Wrappers: what they do may be done twice, or late.

They return figures, to be kept.
"""

from celery import shared_task

from keys.services import audit


@shared_task(name="keys.tasks.prune_audit", soft_time_limit=1800, time_limit=1860, ignore_result=True)
def prune_audit() -> dict[str, int]:
    """Deletes what the audit trail need not keep any longer."""
    return {"pruned": audit.prune_audit()}
