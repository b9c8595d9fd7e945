"""The master asks its servers how they are, besides hearing their heartbeats.

A heartbeat shows that a server reaches the master; this shows that the master reaches the server.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from django.db import transaction
from django.utils import timezone

from volumes import client
from volumes.errors import VolumeServerError
from volumes.models import Server
from volumes.reports import Usage
from volumes.services.figures import record_figures

log = logging.getLogger(__name__)

_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How many servers answered, and how many did not."""

    answered: int
    failed: int


def check_servers() -> CheckResult:
    """Asks every server that has not said good-bye for its figures, and records them or the error.

    May run twice at once: each row is written on its own, with what was seen last. Whether a server counts as
    online is decided by its heartbeats alone.
    """
    servers = list(Server.objects.filter(stopped_at=None).exclude(admin_state=Server.AdminState.MAINTENANCE))
    with ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="check-server") as pool:
        outcomes = list(pool.map(_ask, servers))
    failed = 0
    for server, outcome in zip(servers, outcomes, strict=True):
        if isinstance(outcome, Usage):
            _record_answer(server, outcome)
        else:
            failed += 1
            _record_failure(server, outcome)
    return CheckResult(answered=len(servers) - failed, failed=failed)


def _ask(server: Server) -> Usage | str:
    """The server's figures, or what went wrong. Runs in a thread and leaves the database alone."""
    try:
        usage = client.usage(server)
    except VolumeServerError as error:
        return error.detail
    if usage.server != server.pk or usage.instance != server.instance:
        return f"Another process answers there: server {usage.server}, instance {usage.instance}."
    return usage


@transaction.atomic
def _record_answer(server: Server, usage: Usage) -> None:
    # Conditional on the instance that was asked: a process that has started since knows better.
    now = timezone.now()
    current = Server.objects.select_for_update(no_key=True).filter(pk=server.pk, instance=server.instance).first()
    if current is None:
        return
    if current.check_error:
        log.info("server %s (%s) answers again", server.pk, server.internal_url)
    record_figures(server=current, volumes=usage.volumes, now=now, tells_all=False)
    current.capacity_bytes = usage.capacity_bytes
    current.free_bytes = usage.free_bytes
    current.used_bytes = sum(figures.size_bytes for figures in usage.volumes)
    current.last_checked_at = now
    current.check_error = ""
    current.save(update_fields=["capacity_bytes", "free_bytes", "used_bytes", "last_checked_at", "check_error"])


def _record_failure(server: Server, reason: str) -> None:
    if not server.check_error:
        log.warning("health check of server %s: %s", server.pk, reason)
    longest = Server._meta.get_field("check_error").max_length
    Server.objects.filter(pk=server.pk, instance=server.instance).update(
        last_checked_at=timezone.now(), check_error=reason[:longest]
    )
