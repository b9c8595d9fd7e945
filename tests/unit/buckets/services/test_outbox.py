from datetime import timedelta

import pytest
from django.utils import timezone

from buckets.models import Chunk, Object, Outbox
from buckets.services.objects import delete_objects
from buckets.services.outbox import Collected, collect_outbox
from buckets.tasks import collect_outbox as task
from tests.unit.buckets.lab import Lab
from tests.unit.volumes.factories import figures
from tests.unit.volumes.fake_server import FakeVolumeServer
from volumes.models import Server
from volumes.services.store import note_behind

LONG_AGO = timedelta(days=30)


@pytest.fixture
def dead(lab: Lab, fake_server: FakeVolumeServer) -> list[int]:
    """Three needles that are due, on a server that holds two of them."""
    Server.objects.filter(pk=lab.server.pk).update(internal_url=fake_server.url)
    fake_server.id = lab.server.pk
    lab.put_many("a", "b", "c")
    needles = sorted(Chunk.objects.values_list("needle", flat=True))
    fake_server.volumes[lab.volume.pk] = figures(lab.volume.pk)
    fake_server.needles[lab.volume.pk] = set(needles[:2])
    delete_objects(bucket="photos", keys=["a", "b", "c"])
    Outbox.objects.update(not_before=timezone.now() - timedelta(seconds=1))
    return needles


def test_a_needle_waits_for_its_readers(lab: Lab, dead: list[int], fake_server: FakeVolumeServer) -> None:
    Outbox.objects.update(not_before=timezone.now() + timedelta(seconds=60))
    assert collect_outbox() == Collected(tombstoned=0, dropped=0)
    assert fake_server.requests == []


def test_tombstones_and_absences_settle_the_rows(dead: list[int], fake_server: FakeVolumeServer) -> None:
    assert collect_outbox() == Collected(tombstoned=3, dropped=0)
    assert not Outbox.objects.filter(tombstoned_at=None).exists()
    assert fake_server.requests == ["POST /admin/delete"]
    assert collect_outbox() == Collected(tombstoned=0, dropped=0)
    assert fake_server.requests == ["POST /admin/delete"]


def test_a_settled_row_is_kept_until_no_confirm_can_come(dead: list[int]) -> None:
    collect_outbox()
    assert Outbox.objects.count() == 3
    Outbox.objects.filter(needle=dead[0]).update(keep_until=timezone.now() - timedelta(seconds=1))
    assert collect_outbox() == Collected(tombstoned=0, dropped=1)
    assert Outbox.objects.count() == 2


def test_an_unsettled_row_stays_however_old(dead: list[int], fake_server: FakeVolumeServer) -> None:
    Outbox.objects.update(keep_until=timezone.now() - LONG_AGO, not_before=timezone.now() - LONG_AGO)
    fake_server.answer = (500, b"{}")
    assert collect_outbox() == Collected(tombstoned=0, dropped=0)
    assert Outbox.objects.count() == 3


@pytest.mark.parametrize(
    "answer", [(500, b""), (404, b'{"code": "volume_unknown"}'), (200, b"[]"), (200, b'{"deleted": [], "absent": []}')]
)
def test_unknown_is_not_absent(dead: list[int], fake_server: FakeVolumeServer, answer: tuple[int, bytes]) -> None:
    fake_server.answer = answer
    assert collect_outbox().tombstoned == 0
    assert Outbox.objects.filter(tombstoned_at=None).count() == 3
    fake_server.answer = None
    assert collect_outbox().tombstoned == 3


def test_a_server_that_is_gone_holds_nothing_else_up(lab: Lab, dead: list[int]) -> None:
    Server.objects.update(internal_url="http://127.0.0.1:9")
    assert collect_outbox().tombstoned == 0
    Server.objects.update(stopped_at=timezone.now())
    assert collect_outbox().tombstoned == 0


def test_a_needle_that_a_row_names_is_never_deleted(lab: Lab, dead: list[int], fake_server: FakeVolumeServer) -> None:
    lab.put("kept")
    row = Object.objects.get()
    Chunk.objects.create(
        object=row, index=1, volume=lab.volume, needle=dead[0], size=1, crc32=0, committed_at=timezone.now()
    )
    assert collect_outbox().tombstoned == 2
    assert list(Outbox.objects.filter(tombstoned_at=None).values_list("needle", flat=True)) == [dead[0]]


def test_an_old_database_deletes_nothing(dead: list[int], fake_server: FakeVolumeServer) -> None:
    note_behind(seen_sequence=1_000_000)
    assert collect_outbox() == Collected(tombstoned=0, dropped=0)
    assert fake_server.requests == []


def test_the_task_does_it(dead: list[int]) -> None:
    task()
    assert Outbox.objects.filter(tombstoned_at=None).count() == 0
