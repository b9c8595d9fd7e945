"""What background tasks leave behind: which run, how it went; and which workers there are.

The tasks themselves do nothing for it: `warehouse_site.celery` calls these functions by Celery's signals.

    waiting ── begin_run ──> running ── end_run ──> done | failed
                  ^                                     |
                  +-------------------------------------+

A worker that is killed ends nothing: its run is shown as lost once its time limit is over, and counted as lost by the
run that follows. Which run may end a row is told by the run's id, so a late end of an older one changes no newer one.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from celery import current_app
from django.conf import settings
from django.db import transaction
from django.db.models import BigIntegerField, Case, F, Value, When
from django.utils import timezone
from kombu.exceptions import OperationalError

from keys.actions import Action, Outcome
from keys.services.audit import clean, record
from volume_server.redaction import redacted
from volumes.background import known_names
from volumes.errors import TaskNotQueued, TaskUnknown
from volumes.models import BackgroundTask, Worker

log = logging.getLogger(__name__)

MAX_RESULT_CHARS: Final = 4_000
MAX_ERROR_CHARS: Final = 1_000
RUN_NOW_EXPIRES_S: Final = 3600
"""A run that was asked for by hand, and that no worker took for so long, is not wanted any more."""
WORKERS_KEPT_FOR: Final = timedelta(days=1)

_State = BackgroundTask.State


def expect_tasks(*, names: Iterable[str]) -> None:
    """Rows for tasks that have not run yet, so that they are seen, and can be asked for."""
    rows = [BackgroundTask(name=name) for name in names]
    BackgroundTask.objects.bulk_create(rows, ignore_conflicts=True)


def begin_run(*, name: str, run_id: str, limit_s: float, is_scheduled: bool, now: datetime | None = None) -> None:
    """A run of a task has begun, and has ``limit_s`` seconds. One that is told twice counts once."""
    now = now or timezone.now()
    changes: dict[str, Any] = {
        "state": _State.RUNNING,
        "run_id": run_id,
        "started_at": now,
        "deadline_at": now + timedelta(seconds=limit_s),
        "runs": F("runs") + 1,
        # The run before, where it is over and never said so.
        "losses": F("losses")
        + Case(
            When(state=_State.RUNNING, deadline_at__lt=now, then=Value(1)),
            default=Value(0),
            output_field=BigIntegerField(),
        ),
    }
    if is_scheduled:
        changes["scheduled_at"] = now
    if not BackgroundTask.objects.filter(pk=name).exclude(run_id=run_id).update(**changes):
        expect_tasks(names=[name])
        BackgroundTask.objects.filter(pk=name).exclude(run_id=run_id).update(**changes)


def end_run(
    *, name: str, run_id: str, result: object = None, error: BaseException | None = None, now: datetime | None = None
) -> None:
    """A run has ended: with figures, or with an error. Another run that was begun meanwhile stays as it is."""
    now = now or timezone.now()
    row = BackgroundTask.objects.filter(pk=name, run_id=run_id, state=_State.RUNNING).first()
    if row is None or row.started_at is None:
        if error is not None:
            BackgroundTask.objects.filter(pk=name, runs__gt=F("failures") + F("losses")).update(
                failures=F("failures") + 1
            )
        return
    changes: dict[str, Any] = {
        "ended_at": now,
        "duration_ms": max(0, round((now - row.started_at) / timedelta(milliseconds=1))),
    }
    if error is None:
        changes |= {"state": _State.DONE, "error": "", "result": _figures(result)}
    else:
        changes |= {"state": _State.FAILED, "error": _reason(error), "failures": F("failures") + 1}
    # Conditional: of two ends of one run, the first one counts.
    BackgroundTask.objects.filter(pk=name, run_id=run_id, state=_State.RUNNING).update(**changes)


def run_now(*, name: str) -> None:
    """Asks a worker to run a task as soon as one can. Raises TaskUnknown, TaskNotQueued."""
    if name not in known_names():
        raise TaskUnknown(f"There is no task {name!r}.")
    entry: Mapping[str, Any] = next((one for one in settings.CELERY_BEAT_SCHEDULE.values() if one["task"] == name), {})
    try:
        current_app.send_task(name, entry.get("args"), entry.get("kwargs"), expires=RUN_NOW_EXPIRES_S)
    except (OperationalError, OSError) as error:
        record(Action.TASK_RUN, target=name, outcome=Outcome.FAILED, code=TaskNotQueued.code)
        raise TaskNotQueued(f"The broker does not take the message: {type(error).__name__}.") from error
    with transaction.atomic():
        expect_tasks(names=[name])
        record(Action.TASK_RUN, target=name)
    log.info("task %s was asked for", name)


def pulse_worker(*, name: str, started_at: datetime, now: datetime | None = None) -> None:
    """A worker is alive. Rows of those that were killed long ago go."""
    now = now or timezone.now()
    if not Worker.objects.filter(pk=name).update(seen_at=now, started_at=started_at):
        Worker.objects.filter(seen_at__lt=now - WORKERS_KEPT_FOR).delete()
        Worker.objects.bulk_create([Worker(name=name, started_at=started_at, seen_at=now)], ignore_conflicts=True)


def forget_worker(*, name: str) -> None:
    """A worker has stopped: it is neither alive nor missed."""
    Worker.objects.filter(pk=name).delete()


def _figures(result: object) -> Any:
    """What a task returned, where it is JSON and short; a task is not to fail for what it tells."""
    try:
        text = json.dumps(result, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return {"note": "what the task returned cannot be kept"}
    if len(text) > MAX_RESULT_CHARS:
        return {"note": f"what the task returned is too long ({len(text)} characters)"}
    return json.loads(text.replace("\\u0000", ""))  # PostgreSQL takes no NUL


def _reason(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return clean(redacted(text), MAX_ERROR_CHARS)
