"""Background work on buckets. Wrappers: what they do may be done twice, or late. They return figures, to be kept."""

from dataclasses import asdict
from typing import Any

from celery import shared_task
from django.db import transaction

from buckets.services import deletion, journal, outbox, proofs, replication, shares, uploads, usage
from buckets.services import sweep as sweeps
from keys.errors import WarehouseError

SLICE_S = 240.0
"""After which a long piece of work makes room for others; beat comes back to it."""
SNAPSHOT_SECONDS = 20
"""So long a call writes on a snapshot of the journal; the next one goes on where it ended."""


@shared_task(name="buckets.tasks.collect_outbox", soft_time_limit=300, time_limit=330, ignore_result=True)
def collect_outbox() -> dict[str, Any]:
    """Ends uploads whose time is over, and has tombstones written for dead needles."""
    ended = uploads.expire_uploads()
    return {"uploads_ended": ended, **asdict(outbox.collect_outbox())}


@shared_task(name="buckets.tasks.delete_buckets", soft_time_limit=300, time_limit=330, ignore_result=True)
def delete_buckets() -> dict[str, Any]:
    """Goes on deleting buckets that were closed for it; beat comes back to what is left when no one else does."""
    there_is_more = deletion.delete_closed_buckets()
    if there_is_more:
        wake_deletion()
    return {"there_is_more": there_is_more}


@shared_task(name="buckets.tasks.forget_shares", soft_time_limit=300, time_limit=330, ignore_result=True)
def forget_shares() -> dict[str, Any]:
    """Deletes shares that have been over for long."""
    return {"forgotten": shares.forget_ended_shares()}


@shared_task(name="buckets.tasks.sample_usage", soft_time_limit=60, time_limit=90, ignore_result=True)
def sample_usage() -> dict[str, Any]:
    """Keeps how much of everything there is."""
    return {"taken": usage.take_sample()}


@shared_task(name="buckets.tasks.thin_usage", soft_time_limit=300, time_limit=330, ignore_result=True)
def thin_usage() -> dict[str, Any]:
    """Keeps the history of usage from growing."""
    return asdict(usage.thin_samples())


@shared_task(name="buckets.tasks.prove", soft_time_limit=6 * 3600, time_limit=6 * 3600 + 60, ignore_result=True)
def prove() -> dict[str, Any]:
    """Goes on with the check of the store that is asked for or due; a few minutes at a time, a volume at the least."""
    step = proofs.work_on_proofs(seconds=SLICE_S)
    return {"proof": step.proof, "volumes": step.volumes, "is_done": step.is_done}


@shared_task(name="buckets.tasks.sweep", soft_time_limit=6 * 3600, time_limit=6 * 3600 + 60, ignore_result=True)
def sweep() -> dict[str, Any]:
    """Looks for orphans in the volumes where that is due, and deletes those that may be, where the settings say so."""
    return sweeps.sweep_due(seconds=SLICE_S)


def wake_proofs() -> None:
    """Has what was asked for begun soon, once the caller's transaction is there to be seen."""
    transaction.on_commit(prove.delay, robust=True)


@shared_task(
    name="buckets.tasks.write_journal",
    soft_time_limit=120,
    time_limit=150,
    ignore_result=True,
    throws=(WarehouseError,),  # told in a line where it is raised; the next run may do better
)
def write_journal() -> dict[str, Any]:
    """Tells the volumes what was committed, and goes on with a snapshot that is due; what it wrote."""
    return asdict(journal.write_journal(seconds=SNAPSHOT_SECONDS))


def wake_deletion() -> None:
    """Has closed buckets deleted soon, once the caller's transaction is there to be seen.

    A broker that can't be reached is logged and no more: beat asks again.
    """
    transaction.on_commit(delete_buckets.delay, robust=True)


@shared_task(name="buckets.tasks.apply_replication", soft_time_limit=120, time_limit=150, ignore_result=True)
def apply_replication() -> dict[str, object]:
    """Gives volumes as many copies as the buckets want whose chunks they hold."""
    return asdict(replication.apply_replication())
