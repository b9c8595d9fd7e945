"""Background work on servers. Wrappers: what they do may be done twice, or late."""

from celery import shared_task

from volumes.services import checks


@shared_task(name="volumes.tasks.check_servers", soft_time_limit=60, time_limit=90, ignore_result=True)
def check_servers() -> None:
    """Asks all servers how they are."""
    checks.check_servers()
