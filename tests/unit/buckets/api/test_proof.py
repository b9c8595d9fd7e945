"""The proof in the API: how the last check ended, and asking for one."""

from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from buckets import tasks
from buckets.models import Orphan, Proof, Sweep
from buckets.services.fsck import Checked, Finding
from buckets.services.proofs import keep_proof
from keys.permissions import Permission
from tests.unit.buckets.api.conftest import client_of
from tests.unit.buckets.lab import Lab, make_key
from volumes.owners import Owner

URL = "/api/v1/proof"


@pytest.fixture
def woken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    monkeypatch.setattr(tasks.prove, "delay", lambda: calls.append("prove"))
    return calls


@pytest.fixture
def manager(db: None) -> APIClient:
    return client_of(make_key(permissions=int(Permission.VOLUMES_READ | Permission.VOLUMES_MANAGE)))


def test_nothing_is_known_at_first(manager: APIClient) -> None:
    none = {"volumes": 0, "orphans": 0, "orphan_bytes": 0, "deleted": 0, "deleted_bytes": 0, "held_back": 0}
    assert manager.get(URL).json() == {"last": None, "current": None, "sweep": none}


def test_the_last_check_and_the_sweep_s_figures_are_shown(manager: APIClient, lab: Lab) -> None:
    checked = Checked(row_count=3, needle_count=4)
    owner = Owner("photos", "k", 2)
    checked.add(Finding("missing", "it is not there", lab.volume.pk, "n1 abc", 10, (owner,)))
    keep_proof(checked=checked, started_at=timezone.now(), deep=True, volume_id=None, volume_count=1)
    Sweep.objects.create(volume=lab.volume, listed_at=timezone.now(), orphan_count=2, orphan_bytes=9, deleted_count=1)
    body = manager.get(URL).json()
    last = body["last"]
    assert (last["state"], last["deep"], last["missing"], last["orphaned"]) == ("done", True, 1, 0)
    assert (last["volume_count"], last["needle_count"], last["row_count"]) == (1, 4, 3)
    assert last["verdict"] == "1 missing, 0 orphaned, 0 divergent"
    assert last["findings"] == [
        {
            "kind": "missing",
            "volume": lab.volume.pk,
            "server": "n1 abc",
            "needle": "000000000000000a",
            "owners": [{"bucket": "photos", "key": "k", "chunk": 2, "is_upload": False}],
            "detail": "it is not there",
        }
    ]
    assert (body["sweep"]["orphans"], body["sweep"]["orphan_bytes"], body["sweep"]["deleted"]) == (2, 9, 1)
    assert not Orphan.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_check_is_asked_for(woken: list[str]) -> None:
    manager = client_of(make_key(permissions=int(Permission.VOLUMES_READ | Permission.VOLUMES_MANAGE)))
    made = manager.post(URL, {"deep": True})
    assert (made.status_code, made.json()["state"], made.json()["deep"]) == (202, "asked", True)
    assert made.json()["verdict"] is None, "nothing has been checked"
    assert woken == ["prove"]
    assert manager.post(URL, {"deep": True}).json()["id"] == made.json()["id"]
    assert manager.get(URL).json()["current"]["id"] == made.json()["id"]
    assert Proof.objects.count() == 1


@pytest.mark.parametrize(
    ("body", "status"), [({"volume": 77}, 404), ({"volume": 0}, 400), ({"deep": 1}, 400), ({"other": 1}, 400)]
)
def test_odd_questions_are_refused(manager: APIClient, woken: list[str], body: dict[str, Any], status: int) -> None:
    assert manager.post(URL, body).status_code == status
    assert not Proof.objects.exists()
