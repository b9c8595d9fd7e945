"""A journal that cannot be written: told in one line and in the health, and made good by the next run."""

from typing import Any

import pytest
from django.test import Client

from buckets.models import JournalNeedle
from buckets.services.journal import write_journal
from buckets.tasks import write_journal as task
from tests.unit.buckets.lab import Lab, forget_caches
from tests.unit.volumes.factories import make_server, make_volume
from volumes import client
from volumes.errors import NoRoom, ServerUnreachable
from volumes.models import Replica, Server

pytestmark = pytest.mark.django_db


@pytest.fixture
def away(lab: Lab, settings: Any, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Addresses at which nobody answers; the others take all that they are sent."""
    settings.WAREHOUSE_JOURNAL_SECONDS = 3
    silent: set[str] = set()

    def put_needle(url: str, data: bytes) -> None:
        if any(url.startswith(address) for address in silent):
            raise ServerUnreachable("Nobody answers.")

    monkeypatch.setattr(client, "put_needle", put_needle)
    return silent


def state(api: Client) -> str:
    told: str = api.get("/api/v1/health").json()["journal"]["state"]
    return told


def test_nobody_takes_it(lab: Lab, away: set[str], client: Client, caplog: pytest.LogCaptureFixture) -> None:
    away.add(lab.server.internal_url)
    with pytest.raises(ServerUnreachable):
        write_journal(seconds=60)
    assert [(one.levelname, one.exc_info) for one in caplog.records] == [("WARNING", None)]
    assert "Nobody answers." in caplog.text
    assert state(client) == "never"
    away.clear()
    write_journal(seconds=60)
    assert state(client) == "ok"


def test_one_of_two_takes_it(lab: Lab, away: set[str], client: Client, caplog: pytest.LogCaptureFixture) -> None:
    other = make_server()
    make_volume(other)
    forget_caches()
    away.add(other.internal_url)
    caplog.set_level("WARNING")
    write_journal(seconds=60)
    assert len(caplog.records) == JournalNeedle.objects.filter(is_durable=False).count() > 0
    assert state(client) == "ok"


def test_there_is_no_volume_for_it_and_no_room_for_one(lab: Lab, away: set[str], client: Client) -> None:
    Replica.objects.all().delete()
    Server.objects.update(free_bytes=0)
    forget_caches()
    with pytest.raises(NoRoom):
        write_journal(seconds=60)
    assert state(client) == "full"


def test_the_worker_says_no_more_of_it() -> None:
    """Celery logs a traceback of every error but of those that a task is said to raise."""
    assert issubclass(ServerUnreachable, task.throws)
    assert issubclass(NoRoom, task.throws)
