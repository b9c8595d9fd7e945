"""Reading what the background work does: tasks with their last and next runs, and whether worker and beat are alive."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Literal

from celery import current_app
from django.conf import settings
from django.db.models import Max
from django.utils import timezone

from volumes.models import LOST_WORKER_AFTER, BackgroundTask, Worker

Liveness = Literal["alive", "silent", "none", "unknown"]
"""``none``: there never was one, or it was stopped in good order."""

BEAT_SILENT_AFTER = timedelta(seconds=60)
"""Of the tasks in the schedule the most frequent ones come every few seconds."""


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """A task as it stands; what is None is not known, or there was none."""

    name: str
    status: str
    """``waiting`` (it never ran), ``running``, ``done``, ``failed`` or ``lost``."""
    schedule: str
    """In words; empty: it runs when something asks for it."""
    started_at: datetime | None
    ended_at: datetime | None
    duration_ms: int | None
    next_run_at: datetime | None
    """In the past: nobody has had it run when it was due."""
    result: Any
    error: str
    runs: int
    failures: int
    losses: int


@dataclass(frozen=True, slots=True)
class BackgroundHealth:
    """Whether somebody does the work, and which tasks went wrong the last time."""

    worker: Liveness
    beat: Liveness
    failed: tuple[str, ...]
    """Names of tasks whose last run failed or was lost."""
    scrubs_overdue: int | None
    """Copies of volumes that were not scrubbed in time; None: nobody has looked yet."""

    @property
    def is_in_trouble(self) -> bool:
        """Whether somebody should look. A store without a worker is none that lost one."""
        return "silent" in {self.worker, self.beat} or bool(self.failed)


UNKNOWN = BackgroundHealth(worker="unknown", beat="unknown", failed=(), scrubs_overdue=None)
"""What is told while nobody can be asked."""


def known_names() -> frozenset[str]:
    """Tasks that may be asked for by name: all of this code's."""
    return _own_names() | {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()}


def list_tasks(*, now: datetime | None = None) -> list[TaskStatus]:
    """All tasks by name, those that have not run yet too. One query."""
    rows = {row.name: row for row in BackgroundTask.objects.all()}
    now = now or timezone.now()
    return [_status(rows.get(name) or BackgroundTask(name=name), now) for name in sorted(known_names() | rows.keys())]


def find_task(name: str, *, now: datetime | None = None) -> TaskStatus | None:
    row = BackgroundTask.objects.filter(pk=name).first()
    if row is None and name not in known_names():
        return None
    return _status(row or BackgroundTask(name=name), now or timezone.now())


def background_health(*, now: datetime | None = None) -> BackgroundHealth:
    """Two queries over a handful of rows: it is asked for by every probe."""
    now = now or timezone.now()
    rows = list(BackgroundTask.objects.all())
    # A task that has begun shows that its worker was there, too.
    seen = [row.started_at for row in rows if row.started_at is not None]
    worker_seen: datetime | None = Worker.objects.aggregate(at=Max("seen_at"))["at"]
    watch = next((row.result for row in rows if row.name == "volumes.tasks.watch_scrubs"), None)
    return BackgroundHealth(
        worker=_liveness(max([*seen, worker_seen]) if worker_seen else None, now, LOST_WORKER_AFTER),
        beat=_liveness(
            max((row.scheduled_at for row in rows if row.scheduled_at), default=None), now, BEAT_SILENT_AFTER
        ),
        failed=tuple(row.name for row in rows if row.status_at(now) in {BackgroundTask.State.FAILED, row.LOST}),
        scrubs_overdue=watch.get("overdue") if isinstance(watch, Mapping) else None,
    )


def schedule_text(name: str) -> str:
    """When beat has the task run, in words; empty: it does not."""
    return " and ".join(_words(entry["schedule"]) for entry in _entries(name))


def figures_text(result: Any) -> str:
    """A task's figures in one line, in the order of their names; `-` where there are none."""
    told = result if isinstance(result, Mapping) else {}
    return ", ".join(f"{name} {told[name]}" for name in sorted(told)) or "-"


def next_run_at(task: BackgroundTask) -> datetime | None:
    """When beat has the task run next, as far as its last start tells; None: never, or it is not known yet."""
    if task.scheduled_at is None:
        return None
    since = task.scheduled_at
    return min((_after(since, entry["schedule"]) for entry in _entries(task.name)), default=None)


def _after(last: datetime, schedule: Any) -> datetime:
    """When something that was due at ``last`` is due again: after so many seconds, or by one of Celery's schedules."""
    if isinstance(schedule, int | float):
        schedule = timedelta(seconds=schedule)
    if isinstance(schedule, timedelta):
        return last + schedule
    remaining: timedelta = schedule.remaining_estimate(last)
    return timezone.now() + remaining


def _status(task: BackgroundTask, now: datetime) -> TaskStatus:
    return TaskStatus(
        name=task.name,
        status=task.status_at(now),
        schedule=schedule_text(task.name),
        started_at=task.started_at,
        ended_at=task.ended_at,
        duration_ms=task.duration_ms,
        next_run_at=next_run_at(task),
        result=task.result,
        error=task.error,
        runs=task.runs,
        failures=task.failures,
        losses=task.losses,
    )


@cache
def _own_names() -> frozenset[str]:
    current_app.loader.import_default_modules()
    return frozenset(name for name in current_app.tasks if not name.startswith("celery."))


def _entries(name: str) -> list[dict[str, Any]]:
    return [entry for entry in settings.CELERY_BEAT_SCHEDULE.values() if entry["task"] == name]


def _words(schedule: object) -> str:
    if isinstance(schedule, timedelta):
        schedule = schedule.total_seconds()
    return f"every {schedule:g} s" if isinstance(schedule, int | float) else str(schedule)


def _liveness(seen_at: datetime | None, now: datetime, patience: timedelta) -> Liveness:
    if seen_at is None:
        return "none"
    return "alive" if seen_at > now - patience else "silent"
