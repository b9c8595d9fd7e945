"""Checks that are kept: asked for, worked on volume by volume, whoever dies meanwhile."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from buckets.models import Proof
from buckets.services import proofs
from buckets.services.fsck import Checked, Finding
from buckets.services.proofs import ask_for_proof, keep_proof, work_on_proofs
from keys.models import AuditEntry
from tests.unit.buckets.house import House, running_house
from tests.unit.volumes.factories import make_server, make_volume

pytestmark = pytest.mark.django_db


@pytest.fixture
def house(tmp_path: Path, db: None) -> Iterator[House]:
    with running_house(tmp_path) as built:
        yield built


def last() -> Proof:
    found = Proof.objects.first()
    assert found is not None
    return found


def test_a_check_begins_by_itself_and_again_after_a_week(house: House) -> None:
    lost = house.put("lost", stored=False)
    house.heard()
    step = work_on_proofs(seconds=60)
    assert step.is_done
    proof = last()
    assert (proof.state, proof.counts["missing"], proof.volume_count, proof.row_count) == ("done", 1, 1, 1)
    assert proof.findings[0]["needle"] == f"{lost:016x}"
    assert proof.findings[0]["owners"] == [{"bucket": "photos", "key": "lost", "chunk": 0, "is_upload": False}]
    assert not proof.is_sound
    assert work_on_proofs(seconds=60).proof is None
    assert work_on_proofs(seconds=60, now=timezone.now() + timedelta(days=6.9)).proof is None
    assert work_on_proofs(seconds=60, now=timezone.now() + timedelta(days=7.1)).is_done
    assert Proof.objects.count() == 2


def test_a_check_that_is_asked_for_comes_next_and_once(house: House) -> None:
    house.heard()
    work_on_proofs(seconds=60)
    asked = ask_for_proof()
    assert ask_for_proof().pk == asked.pk
    assert ask_for_proof(deep=True).pk != asked.pk
    assert AuditEntry.objects.filter(action="store.check").count() == 2
    assert work_on_proofs(seconds=60).proof == asked.pk
    assert last().deep
    assert work_on_proofs(seconds=60).is_done
    assert (last().deep, last().state) == (True, "done")


def test_one_volume_alone(house: House) -> None:
    make_volume(make_server())
    house.heard()
    ask_for_proof(volume_id=house.volume.pk)
    assert work_on_proofs(seconds=60).is_done
    assert (last().volume_count, last().is_sound) == (1, True)


@pytest.fixture
def volumes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Three volumes, each with one needle missing; what was checked, in order."""
    numbers = [make_volume(make_server()).pk for _ in range(3)]
    checked: list[int] = []

    def check(*, volume_id: int, **_: Any) -> Checked:
        checked.append(volume_id)
        found = Checked(volume_id, row_count=1, needle_count=2)
        found.add(Finding(Proof.Kind.MISSING, "x", volume_id, needle=volume_id))
        return found

    monkeypatch.setattr(proofs, "check_volume", check)
    monkeypatch.setattr(proofs, "volumes_to_check", lambda after=0: [one for one in numbers if one > after])
    return checked


def test_a_step_ends_with_its_time_and_the_next_goes_on(volumes: list[int]) -> None:
    for done in (1, 2):
        step = work_on_proofs(seconds=-1)
        assert (step.volumes, step.is_done, len(volumes)) == (1, False, done)
    assert work_on_proofs(seconds=60).is_done
    assert len(volumes) == len(set(volumes)) == 3
    assert (last().missing, last().volume_count, len(last().findings)) == (3, 3, 3)


def test_a_worker_that_died_loses_no_more_than_its_volume(volumes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    work_on_proofs(seconds=-1)
    Proof.objects.update(busy_until=timezone.now() + timedelta(minutes=5))
    assert work_on_proofs(seconds=60).proof is None, "somebody is at it"
    Proof.objects.update(busy_until=timezone.now() - timedelta(seconds=1))
    assert work_on_proofs(seconds=60).is_done
    assert (last().missing, last().volume_count) == (3, 3)


def test_two_at_once_count_each_volume_once(volumes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    check = proofs.check_volume
    nested: list[int] = []

    def meanwhile(**options: Any) -> Checked:
        if not nested:
            nested.append(1)
            Proof.objects.update(busy_until=None)  # its worker was silent for too long
            assert work_on_proofs(seconds=60).is_done
        return check(**options)

    monkeypatch.setattr(proofs, "check_volume", meanwhile)
    assert not work_on_proofs(seconds=60).is_done
    assert (last().state, last().missing, last().volume_count) == ("done", 3, 3)


def test_an_error_leaves_the_check_to_the_next_worker(volumes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(**_: Any) -> Checked:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(proofs, "check_volume", failing)
        with pytest.raises(RuntimeError):
            work_on_proofs(seconds=60)
    assert work_on_proofs(seconds=60).is_done


def test_old_checks_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "KEPT", 3)
    for _ in range(5):
        keep_proof(checked=Checked(), started_at=timezone.now(), deep=False, volume_id=None, volume_count=0)
    assert Proof.objects.count() == 3
