from urllib.parse import urljoin

import pytest
from django.db import DatabaseError
from django.test import Client

from warehouse_site import views


def test_the_landing_page_leads_somewhere(client: Client, db: None) -> None:
    page = client.get("/").content.decode()
    links = {part.split('"')[0] for part in page.split('href="')[1:]} | {
        part.split('"')[0] for part in page.split('src="')[1:]
    }
    assert {"/admin/", "/api/v1", "/api/docs"} <= links
    for link in links - {"#main"}:
        assert not urljoin("http://here/", link).replace("http://here/", "").startswith("http"), (
            "nothing from elsewhere"
        )
        assert client.get(link, follow=True).status_code == 200, link


@pytest.mark.parametrize("page", ["/", "/admin/login/", "/api/auth/sign-in", "/api/docs", "/nowhere"])
def test_pages_load_nothing_from_elsewhere(client: Client, db: None, page: str) -> None:
    html = client.get(page).content.decode()
    assert "//cdn" not in html
    assert 'src="http' not in html
    assert "<html lang" in html or page == "/api/docs"


NO_VOLUMES = {"degraded_volumes": 0, "copying_volumes": 0, "waiting_volumes": 0}


def test_health(client: Client, db: None) -> None:
    response = client.get("/api/v1/health")
    assert response.status_code == 200  # a store works without a worker
    assert response.json() == {
        "status": "ok",
        "database": "ok",
        "servers_online": 0,
        "worker": "none",
        "beat": "none",
        "tasks_failed": [],
        "scrubs_overdue": None,
        "journal": {"state": "off", "commits_behind": 0, "lag_seconds": None},
        "survey": None,
        **NO_VOLUMES,
    }


def test_health_without_a_database(client: Client, db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise DatabaseError("gone")

    monkeypatch.setattr(views, "count_online_servers", fail)
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
