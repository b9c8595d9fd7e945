"""Background work on servers. Wrappers: what they do may be done twice, or late. They return figures, to be kept."""

from dataclasses import asdict
from typing import Any

from celery import shared_task

from volumes.services import checks, housekeeping, redundancy


@shared_task(name="volumes.tasks.check_servers", soft_time_limit=60, time_limit=90, ignore_result=True)
def check_servers() -> dict[str, Any]:
    """Asks all servers how they are."""
    return asdict(checks.check_servers())


@shared_task(name="volumes.tasks.compact_garbage", soft_time_limit=300, time_limit=330, ignore_result=True)
def compact_garbage() -> dict[str, Any]:
    """Has volumes compacted that are garbage in large part."""
    return asdict(housekeeping.compact_garbage())


@shared_task(name="volumes.tasks.watch_scrubs", soft_time_limit=300, time_limit=330, ignore_result=True)
def watch_scrubs() -> dict[str, Any]:
    """Sees to it that no copy of a volume stays unchecked for longer than is promised."""
    return asdict(housekeeping.watch_scrubs())


@shared_task(name="volumes.tasks.mend_volumes", soft_time_limit=120, time_limit=150, ignore_result=True)
def mend_volumes() -> dict[str, int]:
    """Brings volumes whose copies are not all there, or not where they should be, a step further."""
    return asdict(redundancy.mend_volumes())
