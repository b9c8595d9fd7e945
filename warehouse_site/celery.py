"""The worker's application: `celery -A warehouse_site.celery worker`.

The broker is Redis where REDIS_URL is set, else kombu's filesystem transport in the data folder. That one has no
acknowledgements, so a message is never more than a wake-up call: tasks find their work in the database.
"""

import logging.config
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from celery import Celery, Task, states
from celery.signals import (
    beat_init,
    before_task_publish,
    setup_logging,
    task_postrun,
    task_prerun,
    worker_ready,
    worker_shutdown,
)
from django.conf import settings
from django.db import DatabaseError, close_old_connections, connection
from django.utils import timezone

from keys.actions import Through
from keys.services import acting

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "warehouse_site.settings")


class OneAtATime(Task):  # type: ignore[type-arg]  # generic in its stubs alone
    """A task of which one run at a time goes on in each worker.

    A run takes a thread. Without this, one that takes longer than its period would have them all soon, and nothing else
    would get on. A run that finds another one is over at once and leaves no trace: what it would have done, the
    other does, or the next. A run that hangs is waited for no longer than its time limit.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.request.called_directly:
            return super().__call__(*args, **kwargs)
        return self.run(*args, **kwargs) if _runs.is_of(self.name, self.request.id) else None


class Runs:
    """Which run of each task goes on in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._going: dict[str, tuple[str, float]] = {}
        """By the task's name: the run's id, and until when (monotonic seconds) it keeps others away."""

    def begin(self, name: str, run_id: str, limit_s: float) -> bool:
        """Whether this run may go on."""
        now_s = time.monotonic()
        with self._lock:
            if name in self._going and self._going[name][1] > now_s:
                return False
            self._going[name] = run_id, now_s + limit_s
            return True

    def is_of(self, name: str, run_id: str | None) -> bool:
        """Whether it is this run that goes on."""
        with self._lock:
            return name in self._going and self._going[name][0] == run_id

    def end(self, name: str, run_id: str) -> bool:
        """Whether it was this run that went on."""
        with self._lock:
            if name not in self._going or self._going[name][0] != run_id:
                return False
            del self._going[name]
            return True


_runs = Runs()

app = Celery("warehouse", task_cls=OneAtATime)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

logger = logging.getLogger("warehouse.worker")

SCHEDULED = "scheduled"
"""The header by which a run that beat asked for is known from others."""
PULSE_S = 20.0


@setup_logging.connect
def use_the_house_logging(**_: Any) -> None:
    """Celery would set its own handlers up: ours are there already, and it leaves them alone once this is connected."""
    logging.config.dictConfig(settings.LOGGING)
    logging.captureWarnings(capture=True)


@task_prerun.connect
def begin_acting(task_id: str, **_: Any) -> None:
    """The audit trail tells what a task did by the id that its log lines have."""
    acting.begin(acting.Acting(through=Through.TASK, request_id=task_id[:64]))


@task_postrun.connect
def end_acting(**_: Any) -> None:
    acting.end()


# --- what is kept of each run: `volumes.services.background` ---
# It is imported where it is needed: this module is imported while Django still loads the models.


def _bookkeeping(handler: Callable[..., None]) -> Callable[..., None]:
    """A database that does not answer keeps no task from its work."""

    @wraps(handler)
    def keep(**arguments: Any) -> None:
        try:
            handler(**arguments)
        except DatabaseError as error:
            logger.warning("what becomes of the background work could not be kept: %s", error)

    return keep


@task_prerun.connect(weak=False)
@_bookkeeping
def keep_begin(task_id: str, task: Any, **_: Any) -> None:
    from volumes.services.background import begin_run

    limit_s = task.time_limit or settings.CELERY_TASK_TIME_LIMIT
    if _runs.begin(task.name, task_id, limit_s):
        begin_run(name=task.name, run_id=task_id, limit_s=limit_s, is_scheduled=bool(task.request.get(SCHEDULED)))


@task_postrun.connect(weak=False)
@_bookkeeping
def keep_end(task_id: str, task: Any, retval: Any, state: str, **_: Any) -> None:
    from volumes.services.background import end_run

    if not _runs.end(task.name, task_id):
        return
    if state == states.FAILURE and isinstance(retval, BaseException):
        end_run(name=task.name, run_id=task_id, error=retval)
    else:
        end_run(name=task.name, run_id=task_id, result=retval)


@beat_init.connect
def mark_what_beat_sends(**_: Any) -> None:
    """This process is beat: all that it publishes is by the schedule."""
    before_task_publish.connect(_mark, weak=False)


@beat_init.connect
def end_beat_when_told(sender: Any, **_: Any) -> None:
    """Celery closes the schedule within the signal's handler, then raises. Where the code that was interrupted takes
    that for a failure of its own, as clients of brokers do, beat goes on with a closed schedule and ends as a failure.
    Told like this it ends there or at its next step, and closes the schedule itself.
    """

    def end(*_: object) -> None:
        sender.stop()
        raise SystemExit

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def _mark(headers: dict[str, Any], **_: Any) -> None:
    headers[SCHEDULED] = True


class Pulse(threading.Thread):
    """Says again and again that this worker is alive, whether there is work or not; at a clean stop, that it is gone.

    A thread of its own: neither a long task nor a broker that is away makes a worker look dead.
    """

    def __init__(self, hostname: str) -> None:
        super().__init__(name="pulse", daemon=True)
        self.worker = f"{hostname}/{os.getpid()}"
        self.stopping = threading.Event()

    def run(self) -> None:
        from volumes.background import known_names
        from volumes.services.background import expect_tasks, forget_worker, pulse_worker

        began = timezone.now()
        _bookkeeping(expect_tasks)(names=known_names())
        while True:
            close_old_connections()
            _bookkeeping(pulse_worker)(name=self.worker, started_at=began)
            if self.stopping.wait(PULSE_S):
                break
        _bookkeeping(forget_worker)(name=self.worker)
        connection.close()


@worker_ready.connect
def begin_pulse(sender: Any, **_: Any) -> None:
    pulse = Pulse(sender.hostname)
    pulse.start()

    def end_pulse(**_: Any) -> None:
        pulse.stopping.set()
        pulse.join()

    worker_shutdown.connect(end_pulse, weak=False)
