from datetime import timedelta

import pytest
from django.db import DatabaseError
from django.test import Client
from django.utils import timezone

from buckets import health
from buckets.models import Proof
from tests.unit.volumes.factories import make_server, make_volume
from volumes.models import Replica, Server, Store


def test_the_start_is_for_who_is_signed_in(client: Client, db: None) -> None:
    answer = client.get("/")
    assert answer.status_code == 303
    assert answer["Location"] == "/sign-in?next=%2F"
    page = client.get("/sign-in")
    assert page.status_code == 200
    assert b"API key" in page.content


@pytest.mark.parametrize("page", ["/sign-in", "/admin/login/", "/api/auth/sign-in", "/api/docs", "/nowhere"])
def test_pages_load_nothing_from_elsewhere(client: Client, db: None, page: str) -> None:
    html = client.get(page).content.decode()
    assert "//cdn" not in html
    assert 'src="http' not in html
    assert "<html lang" in html or page == "/api/docs"


NO_VOLUMES = {"degraded_volumes": 0, "copying_volumes": 0, "waiting_volumes": 0, "unreachable_volumes": 0}


def test_health(client: Client, db: None) -> None:
    response = client.get("/api/v1/health")
    assert response.status_code == 200  # a store works without a worker
    assert response.json() == {
        "status": "ok",
        "database": "ok",
        "behind": False,
        "servers": 0,
        "servers_online": 0,
        "damaged": 0,
        "missing": None,
        "worker": "none",
        "beat": "none",
        "tasks_failed": [],
        "scrubs_overdue": None,
        "journal": {"state": "off", "commits_behind": 0, "lag_seconds": None},
        "survey": None,
        **NO_VOLUMES,
    }


def test_health_is_failing_or_degraded_for_what_somebody_must_see_to(client: Client, db: None) -> None:
    def told() -> tuple[str, int, int]:
        health = client.get("/api/v1/health").json()
        return health["status"], health["servers"], health["servers_online"]

    one, other = make_server(), make_server()
    volume = make_volume(one)
    assert told() == ("ok", 2, 2)
    Server.objects.filter(pk=other.pk).update(last_seen_at=timezone.now() - timedelta(minutes=1))
    assert told() == ("degraded", 2, 1)
    Server.objects.filter(pk=other.pk).update(admin_state="maintenance")
    assert told() == ("ok", 2, 1)
    Server.objects.filter(pk=one.pk).update(stopped_at=timezone.now())
    assert told() == ("failing", 2, 0)
    Server.objects.filter(pk=one.pk).update(stopped_at=None)
    Replica.objects.filter(volume=volume).update(damaged_count=3)
    assert (told()[0], client.get("/api/v1/health").json()["damaged"]) == ("failing", 3)
    Replica.objects.filter(volume=volume).update(damaged_count=0)
    now = timezone.now()
    lost = Proof.objects.create(state="done", started_at=now, ended_at=now, missing=2)
    assert (told()[0], client.get("/api/v1/health").json()["missing"]) == ("failing", 2)
    lost.delete()
    Store.objects.update_or_create(pk=Store.ONLY_ID, defaults={"behind_of": 7})
    assert (told()[0], client.get("/api/v1/health").json()["behind"]) == ("failing", True)


def test_health_without_a_database(client: Client, db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise DatabaseError("gone")

    monkeypatch.setattr(health, "server_standing", fail)
    response = client.get("/api/v1/health")
    assert (response.status_code, response.json()["database"]) == (503, "unavailable")


def test_the_openapi_document(client: Client, db: None, capsys: pytest.CaptureFixture[str]) -> None:
    document = client.get("/api/schema", headers={"Accept": "application/json"}).json()
    assert {"/api/v1/tokens", "/api/v1/keys", "/api/v1/keys/{key_id}", "/api/v1/health"} <= document["paths"].keys()
    assert not any("internal" in path for path in document["paths"])
    names = [call["operationId"] for path in document["paths"].values() for call in path.values()]
    assert len(names) == len(set(names))
    assert "accessToken" in document["components"]["securitySchemes"]


def test_the_api_root_names_its_collections(client: Client, db: None) -> None:
    assert client.get("/api/v1").json()["keys"] == "http://testserver/api/v1/keys"
    assert client.get("/api/v1/").json() == client.get("/api/v1").json()
    page = client.get("/api/v1/", headers={"Accept": "text/html"}).content.decode()
    assert "<!DOCTYPE html>" in page
    for path in ("/api/v1/health/", "/api/v1//", "/api/"):
        assert client.get(path).status_code == 404, "no other trailing slash"
