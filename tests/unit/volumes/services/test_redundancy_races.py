"""Reports and openings of a volume's copies that meet."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections
from django.utils import timezone
from pytest_django import Settings

from tests.unit.volumes.factories import figures, make_server, make_volume
from tests.unit.volumes.joining import Joiner
from volumes.models import Replica, Server, Volume
from volumes.services import servers
from volumes.services.redundancy import mend_volume


@pytest.mark.django_db(transaction=True)
def test_nobody_waits_for_a_server_whose_report_is_being_taken(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for one that waits for him is ended by PostgreSQL, and a report or an opening fails."""
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has one writer at a time")
    joiner = Joiner()
    joiner.join(node="a")
    server, other = Server.objects.get(pk=joiner.id), make_server()
    volume = make_volume(server, id=1000, epoch=5, replication=2, redundancy="degraded")
    Replica.objects.create(
        volume=volume, server=other, role="secondary", state="open", epoch=5, whole_epoch=5, reported_at=timezone.now()
    )
    Volume.objects.filter(pk=1000).update(redundancy_changed_at=timezone.now() - timedelta(minutes=1))
    failures: list[Exception] = []
    take_report = servers._take_report

    def meanwhile() -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SET lock_timeout = '5s'")
            assert mend_volume(volume_id=volume.pk)
            make_volume(server, id=1001)
        except Exception as error:  # noqa: BLE001 - it is told where the test can fail
            failures.append(error)
        finally:
            connections.close_all()

    def taken(**values: Any) -> Any:
        """With the server's row locked."""
        thread = threading.Thread(target=meanwhile)
        thread.start()
        thread.join()
        return take_report(**values)

    monkeypatch.setattr(servers, "_take_report", taken)
    joiner.beat(volumes=[figures(volume.pk, epoch=5)])
    assert failures == []
    volume.refresh_from_db()
    assert (volume.redundancy, volume.epoch) == ("opening", 6)


@pytest.mark.django_db(transaction=True)
def test_two_at_once_open_a_volume_once(settings: Settings) -> None:
    settings.WAREHOUSE_REREPLICATE_SECONDS = 9
    one, other = make_server(), make_server()
    volume = Volume.objects.create(
        pk=1, salt=bytes(16), created_ms=1, state="writable", replication=2, redundancy="degraded", epoch=5,
        opened_epoch=5, redundancy_changed_at=timezone.now() - timedelta(minutes=1),
    )  # fmt: skip
    for server, role in ((one, "primary"), (other, "secondary")):
        Replica.objects.create(
            volume=volume, server=server, role=role, state="open", epoch=5, whole_epoch=5, reported_at=timezone.now()
        )

    def mend() -> None:
        try:
            mend_volume(volume_id=1)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=mend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    volume.refresh_from_db()
    assert (volume.redundancy, volume.epoch) == ("opening", 6)
