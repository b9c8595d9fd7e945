"""Servers, volumes and usage as clients see them."""

from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from keys.models import ApiKey, Grant
from keys.permissions import Permission
from tests.unit.volumes.factories import figures, job, make_server, make_volume
from tests.unit.volumes.fake_server import FakeVolumeServer
from volumes.models import Replica, Server, Volume

pytestmark = pytest.mark.django_db

ROUTES = ["servers", "servers/{server}", "volumes", "volumes/{volume}", "usage"]


def client_of(permissions: int) -> APIClient:
    key = ApiKey.objects.create(name="k", secret_hash="0" * 64, permissions=permissions)
    client = APIClient()
    client.force_authenticate(key)
    return client


@pytest.fixture
def reader() -> APIClient:
    return client_of(Permission.VOLUMES_READ)


@pytest.fixture
def route() -> Callable[[str], str]:
    server = make_server()
    volume = make_volume(server)
    return lambda path: "/api/v1/" + path.format(server=server.pk, volume=volume.pk)


@pytest.mark.parametrize("path", ROUTES)
def test_rights(path: str, route: Callable[[str], str]) -> None:
    url = route(path)
    anonymous = APIClient().get(url)
    assert (anonymous.status_code, anonymous.json()["code"]) == (401, "not_authenticated")
    without = client_of(~Permission.VOLUMES_READ & ~Permission.ADMIN & 4095).get(url)
    assert (without.status_code, without.json()["code"]) == (403, "permission_denied")
    for permission in (Permission.VOLUMES_READ, Permission.ADMIN):
        assert client_of(permission).get(url).status_code == 200


def test_a_grant_on_a_bucket_shows_no_servers(route: Callable[[str], str]) -> None:
    key = ApiKey.objects.create(name="k", secret_hash="0" * 64)
    Grant.objects.create(key=key, bucket="b", permissions=Permission.OBJECTS_READ)
    client = APIClient()
    client.force_authenticate(key)
    assert client.get(route("servers")).status_code == 403


@pytest.mark.parametrize("path", ROUTES)
def test_reading_only(path: str, route: Callable[[str], str]) -> None:
    for method in {"post", "put", "patch", "delete"} - ({"patch", "delete"} if path == "servers/{server}" else set()):
        response = getattr(client_of(Permission.ADMIN), method)(route(path), {})
        assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")


def test_servers(reader: APIClient) -> None:
    long_ago = timezone.now() - timedelta(hours=1)
    first = make_server(node="a", used_bytes=5)
    make_volume(first)
    make_volume(first)
    make_server(node="b", last_seen_at=long_ago)
    make_server(node="c", admin_state="draining")
    make_server(node="d", admin_state="maintenance")
    results = reader.get("/api/v1/servers").json()["results"]
    assert [one["status"] for one in results] == ["online", "offline", "draining", "maintenance"]
    shown = {name: results[0][name] for name in ("id", "node", "url", "status", "volumes", "used_bytes", "free_bytes")}
    assert shown == {
        "id": str(first.pk),
        "node": "a",
        "url": first.public_url,
        "status": "online",
        "volumes": 2,
        "used_bytes": 5,
        "free_bytes": first.free_bytes,
    }
    assert results[0]["last_seen_at"].endswith("Z")
    assert reader.get(f"/api/v1/servers/{first.pk}").json() == results[0]


def test_nothing_secret_is_shown(reader: APIClient) -> None:
    server = make_server()
    volume = make_volume(server, salt=b"0123456789abcdef")
    for path in ("servers", "volumes", f"volumes/{volume.pk}"):
        text = reader.get(f"/api/v1/{path}").content
        assert b"salt" not in text
        assert volume.salt.hex().encode() not in text
        assert server.instance.encode() not in text
        assert b"internal_url" not in text


@pytest.mark.parametrize(
    "path", [f"servers/{uuid4()}", "servers/1", "volumes/7", "volumes/0", "volumes/4294967296", "volumes/x", "servers/"]
)
def test_what_is_not_there(reader: APIClient, path: str) -> None:
    response = reader.get(f"/api/v1/{path}")
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"


def test_volumes_are_paged(reader: APIClient) -> None:
    server = make_server()
    numbers = sorted(make_volume(server).pk for _ in range(5))
    seen, after = [], 0
    while after is not None:
        page = reader.get("/api/v1/volumes", {"after": after, "limit": 2}).json()
        assert 1 <= len(page["results"]) <= 2
        seen += [one["id"] for one in page["results"]]
        after = page["next_after"]
    assert seen == numbers


def test_volumes_by_state_and_server(reader: APIClient) -> None:
    one, other = make_server(), make_server()
    sealed = make_volume(one, state="sealed")
    make_volume(one)
    elsewhere = make_volume(other, state="sealed")

    def ids(**query: object) -> list[int]:
        return [volume["id"] for volume in reader.get("/api/v1/volumes", query).json()["results"]]

    assert ids(state="sealed") == [sealed.pk, elsewhere.pk]
    assert ids(state="sealed", server=one.pk) == [sealed.pk]
    assert ids(state="creating") == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"after": "x"}, "after"),
        ({"after": "-1"}, "after"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"state": "odd"}, "state"),
        ({"server": "1"}, "server"),
    ],
)
def test_a_bad_query_names_the_field(reader: APIClient, query: dict[str, str], field: str) -> None:
    response = reader.get("/api/v1/volumes", query)
    assert (response.status_code, response.json()["code"]) == (400, "invalid")
    assert list(response.json()["errors"]) == [field]


def test_a_volume_with_its_replicas(reader: APIClient) -> None:
    server, other = make_server(node="a"), make_server(node="b", last_seen_at=None)
    volume = make_volume(server, replica={"size_bytes": 100, "garbage_bytes": 10, "live_count": 3})
    Replica.objects.create(volume=volume, server=other, role="secondary")
    body = reader.get(f"/api/v1/volumes/{volume.pk}").json()
    assert (body["id"], body["state"], body["epoch"]) == (volume.pk, "writable", 1)
    primary, secondary = body["replicas"]
    assert (primary["server"], primary["role"], primary["size_bytes"]) == (str(server.pk), "primary", 100)
    assert (secondary["node"], secondary["server_status"], secondary["state"]) == ("b", "offline", "expected")


def test_volumes_that_are_not_whole_are_counted_and_listed(reader: APIClient) -> None:
    server = make_server()
    make_volume(server)
    states = {"degraded": 2, "making": 1, "opening": 1, "closed": 1}
    found = {name: [make_volume(server, redundancy=name).pk for _ in range(count)] for name, count in states.items()}
    make_volume(server, unsettled=True, redundancy_note="There is no other node.")
    usage = reader.get("/api/v1/usage").json()
    assert (usage["degraded_volumes"], usage["copying_volumes"], usage["waiting_volumes"]) == (2, 3, 1)
    health = reader.get("/api/v1/health").json()
    assert (health["degraded_volumes"], health["copying_volumes"], health["waiting_volumes"]) == (2, 3, 1)
    listed = reader.get("/api/v1/volumes?redundancy=degraded").json()["results"]
    assert [one["id"] for one in listed] == found["degraded"]


def test_a_server_is_drained_and_kept() -> None:
    manager = client_of(Permission.VOLUMES_MANAGE | Permission.VOLUMES_READ)
    server = make_server()
    make_volume(server, replica={"size_bytes": 100}, redundancy_note="There is no other node.")
    path = f"/api/v1/servers/{server.pk}"
    assert manager.get(path).json()["drain"] is None
    answer = manager.patch(path, {"admin_state": "draining"}, format="json")
    assert (answer.status_code, answer.json()["status"]) == (200, "draining")
    assert answer.json()["drain"] == {"volumes": 1, "bytes": 100, "waiting": 1, "is_empty": False}
    Server.objects.filter(pk=server.pk).update(used_bytes=100)
    Replica.objects.all().delete()
    assert manager.get(path).json()["drain"]["is_empty"] is False, "it has not dropped the file yet"
    Server.objects.filter(pk=server.pk).update(used_bytes=0)
    assert manager.get(path).json()["drain"]["is_empty"] is True
    Server.objects.filter(pk=server.pk).update(stray_volumes=[7])
    assert manager.get(path).json()["drain"]["is_empty"] is False
    refused = manager.patch(path, {"admin_state": "maintenance"}, format="json")
    assert (refused.status_code, refused.json()["code"]) == (409, "admin_state_conflict")
    assert manager.patch(path, {"admin_state": "active"}, format="json").json()["drain"] is None
    for wrong in ({"admin_state": "off"}, {}, {"admin_state": "active", "node": "x"}):
        assert manager.patch(path, wrong, format="json").status_code == 400
    assert client_of(Permission.VOLUMES_READ).patch(path, {"admin_state": "active"}, format="json").status_code == 403
    assert manager.patch(f"/api/v1/servers/{uuid4()}", {"admin_state": "active"}, format="json").status_code == 404


def test_a_server_is_forgotten() -> None:
    manager = client_of(Permission.VOLUMES_MANAGE | Permission.VOLUMES_READ)
    server = make_server(internal_url="http://127.0.0.1:1")
    path = f"/api/v1/servers/{server.pk}"
    answer = manager.delete(path)
    assert (answer.status_code, answer.json()["code"]) == (409, "server_alive")
    Server.objects.filter(pk=server.pk).update(last_seen_at=None)
    assert client_of(Permission.VOLUMES_READ).delete(path).status_code == 403
    assert manager.delete(path).status_code == 204
    assert manager.get(path).status_code == manager.delete(path).status_code == 404
    assert manager.get("/api/v1/servers").json() == {"results": []}


@pytest.fixture
def volume(fake_server: FakeVolumeServer) -> Volume:
    """A volume on a server that answers."""
    volume = make_volume(make_server(id=fake_server.id, internal_url=fake_server.url))
    fake_server.volumes[volume.pk] = figures(volume.pk, size_bytes=10_000, garbage_bytes=4_000)
    return volume


def test_a_replica_shows_its_upkeep(reader: APIClient) -> None:
    volume = make_volume(
        make_server(),
        replica={
            "size_bytes": 1000,
            "garbage_bytes": 250,
            "damaged_count": 2,
            "scrubbed_at": "2026-01-02T03:04:05Z",
            "compaction": job(state="done", done_bytes=100, ended_ms=1_700_000_001_500, reclaimed_bytes=7),
            "scrub": job(),
        },
    )
    [replica] = reader.get(f"/api/v1/volumes/{volume.pk}").json()["replicas"]
    assert (replica["garbage_ratio"], replica["damaged_count"]) == (0.25, 2)
    assert replica["scrubbed_at"] == "2026-01-02T03:04:05Z"
    assert replica["compaction"] == {
        "state": "done",
        "done_bytes": 100,
        "total_bytes": 100,
        "detail": "",
        "started_at": "2023-11-14T22:13:20Z",
        "ended_at": "2023-11-14T22:13:21.500000Z",
        "reclaimed_bytes": 7,
    }
    assert (replica["scrub"]["state"], replica["scrub"]["ended_at"]) == ("running", None)
    [server] = reader.get("/api/v1/servers").json()["results"]
    assert server["damaged_count"] == 2


def test_a_replica_without_upkeep(reader: APIClient) -> None:
    volume = make_volume(make_server())
    [replica] = reader.get(f"/api/v1/volumes/{volume.pk}").json()["replicas"]
    assert (replica["compaction"], replica["scrub"], replica["scrubbed_at"]) == (None, None, None)
    assert replica["garbage_ratio"] == 0


@pytest.mark.parametrize("job_name", ["compact", "scrub"])
class TestUpkeep:
    def test_the_answer_is_the_volume_with_the_job_running(self, volume: Volume, job_name: str) -> None:
        manager = client_of(Permission.VOLUMES_MANAGE | Permission.VOLUMES_READ)
        response = manager.post(f"/api/v1/volumes/{volume.pk}/{job_name}")
        assert response.status_code == 202
        assert response.json() == manager.get(f"/api/v1/volumes/{volume.pk}").json()
        [replica] = response.json()["replicas"]
        shown = replica["compaction" if job_name == "compact" else "scrub"]
        assert (shown["state"], shown["done_bytes"]) == ("running", 0)
        assert manager.post(f"/api/v1/volumes/{volume.pk}/{job_name}").json() == response.json()

    def test_rights(self, volume: Volume, fake_server: FakeVolumeServer, job_name: str) -> None:
        url = f"/api/v1/volumes/{volume.pk}/{job_name}"
        assert APIClient().post(url).status_code == 401
        for path in (url, f"/api/v1/volumes/4000000000/{job_name}"):
            without = client_of(~Permission.VOLUMES_MANAGE & ~Permission.ADMIN & 4095).post(path)
            assert (without.status_code, without.json()["code"]) == (403, "permission_denied")
        assert fake_server.requests == []
        for permission in (Permission.VOLUMES_MANAGE, Permission.ADMIN):
            assert client_of(permission).post(url).status_code == 202

    def test_other_methods(self, volume: Volume, job_name: str) -> None:
        for method in ("get", "put", "patch", "delete"):
            response = getattr(client_of(Permission.ADMIN), method)(f"/api/v1/volumes/{volume.pk}/{job_name}", {})
            assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")

    def test_problems(self, volume: Volume, fake_server: FakeVolumeServer, job_name: str) -> None:
        manager = client_of(Permission.VOLUMES_MANAGE)

        def problem_of(path: str) -> tuple[int, str, str]:
            response = manager.post(path)
            assert response.headers["Content-Type"] == "application/problem+json"
            body = response.json()
            return response.status_code, body["code"], body["detail"]

        url = f"/api/v1/volumes/{volume.pk}/{job_name}"
        assert problem_of(f"/api/v1/volumes/4000000000/{job_name}")[:2] == (404, "volume_unknown")
        for status, code in ((507, "disk_full"), (409, "volume_busy"), (409, "volume_sealed")):
            fake_server.refusals[f"/admin/{job_name}"] = (status, {"code": code, "detail": "for a reason"})
            assert problem_of(url) == (status, code, "for a reason")
        fake_server.refusals[f"/admin/{job_name}"] = (500, {"code": "internal", "detail": "x"})
        assert problem_of(url)[:2] == (503, "server_refused")
        Server.objects.update(last_seen_at=None)
        status, code, detail = problem_of(url)
        assert (status, code) == (503, "server_offline")
        assert "Start that server" in detail

    def test_the_browsable_api_has_a_form(self, volume: Volume, job_name: str) -> None:
        manager = client_of(Permission.VOLUMES_MANAGE)
        page = manager.get(f"/api/v1/volumes/{volume.pk}/{job_name}", headers={"accept": "text/html"}).content.decode()
        assert 'name="_content"' in page
        page = manager.post(f"/api/v1/volumes/{volume.pk}/{job_name}", headers={"accept": "text/html"})
        assert page.status_code == 202
        assert "&quot;running&quot;" in page.content.decode()


def test_a_field_that_there_is_not_starts_nothing(volume: Volume, fake_server: FakeVolumeServer) -> None:
    manager = client_of(Permission.VOLUMES_MANAGE)
    response = manager.post(f"/api/v1/volumes/{volume.pk}/compact", {"rate": "50M"}, format="json")
    assert (response.status_code, response.json()["errors"]) == (400, {"rate": ["There is no such field."]})
    assert fake_server.requests == []


def test_damage_is_dropped_only_where_it_is_asked_for(volume: Volume, fake_server: FakeVolumeServer) -> None:
    manager = client_of(Permission.VOLUMES_MANAGE)
    url = f"/api/v1/volumes/{volume.pk}/compact"
    for body in ({}, {"drop_damage": False}, {"drop_damage": True}):
        assert manager.post(url, body, format="json").status_code == 202
    assert [body.get("drop_damage") for _, body in fake_server.asked] == [None, None, True]
    response = manager.post(url, {"drop_damage": "perhaps"}, format="json")
    assert (response.status_code, list(response.json()["errors"])) == (400, ["drop_damage"])


def test_the_rate_of_a_compaction(volume: Volume, fake_server: FakeVolumeServer) -> None:
    manager = client_of(Permission.VOLUMES_MANAGE)
    url = f"/api/v1/volumes/{volume.pk}/compact"
    assert manager.post(url, {"rate_bytes": 5_000}, format="json").status_code == 202
    assert fake_server.asked[0][1]["rate_bytes"] == 5_000
    for rate in (-1, "fast", 1 << 53, None):
        response = manager.post(url, {"rate_bytes": rate}, format="json")
        assert (response.status_code, list(response.json()["errors"])) == (400, ["rate_bytes"])
    assert len(fake_server.asked) == 1
