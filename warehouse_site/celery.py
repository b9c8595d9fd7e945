"""The worker's application: `celery -A warehouse_site.celery worker`.

The broker is Redis where REDIS_URL is set, else kombu's filesystem transport in the data folder. That one has no
acknowledgements, so a message is never more than a wake-up call: tasks find their work in the database.
"""

import logging.config
import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging, task_postrun, task_prerun
from django.conf import settings

from keys.actions import Through
from keys.services import acting

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "warehouse_site.settings")

app = Celery("warehouse")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


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
