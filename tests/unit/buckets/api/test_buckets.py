from typing import Any

import pytest
from django.conf import settings
from rest_framework.test import APIClient

from buckets import tasks
from buckets.models import Bucket
from keys.models import Grant
from keys.permissions import Permission
from keys.rights import GrantRow
from tests.unit.buckets.api.conftest import client_of
from tests.unit.buckets.lab import Lab, make_key
from volumes.models import Store

FIELDS = {
    "name",
    "created_at",
    "object_count",
    "total_bytes",
    "reserved_objects",
    "reserved_bytes",
    "deleting",
    "visibility",
    "replication",
    "chunk_size",
    "quota_bytes",
    "quota_objects",
    "cors_origins",
}


def test_a_bucket_is_made_read_changed_and_deleted(api: APIClient) -> None:
    made = api.post("/api/v1/buckets", {"name": "photos", "quota_bytes": 5})
    assert made.status_code == 201
    body = made.json()
    assert body.keys() == FIELDS
    assert (body["name"], body["object_count"], body["total_bytes"]) == ("photos", 0, 0)
    assert (body["visibility"], body["replication"], body["quota_bytes"]) == ("private", 1, 5)
    assert body["created_at"].endswith("Z")
    assert api.get("/api/v1/buckets/photos").json() == body
    assert api.get("/api/v1/buckets").json() == {"results": [body], "next_after": None}
    changed = api.patch(
        "/api/v1/buckets/photos",
        {
            "quota_bytes": None,
            "visibility": "public-read",
            "chunk_size": 1 << 20,
            "cors_origins": ["https://b.example", "http://a.example:81"],
        },
    )
    assert changed.status_code == 200
    assert changed.json() == body | {
        "quota_bytes": None,
        "visibility": "public-read",
        "chunk_size": 1 << 20,
        "cors_origins": ["http://a.example:81", "https://b.example"],
    }
    assert Store.objects.get().cors_origins == ["http://a.example:81", "https://b.example"]
    for field in ("name", "created_at", "deleting", "colour"):
        refused = api.patch("/api/v1/buckets/photos", {"quota_bytes": 7, field: "x"})
        assert (refused.status_code, list(refused.json()["errors"])) == (400, [field])
    assert api.get("/api/v1/buckets/photos").json() == changed.json()
    assert api.delete("/api/v1/buckets/photos").status_code == 204
    assert api.get("/api/v1/buckets/photos").status_code == 404
    assert Store.objects.get().cors_origins == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "No"}, "name"),
        ({"name": ".."}, "name"),
        ({"name": " a"}, "name"),
        ({"name": 5}, "name"),
        ({"name": None}, "name"),
        ({"name": "a", "visibility": "open"}, "visibility"),
        ({"name": "a", "visibility": None}, "visibility"),
        ({"name": "a", "chunk_size": 1023}, "chunk_size"),
        ({"name": "a", "chunk_size": (255 << 20) + 1}, "chunk_size"),
        ({"name": "a", "chunk_size": "x"}, "chunk_size"),
        ({"name": "a", "replication": 9}, "replication"),
        ({"name": "a", "replication": 0}, "replication"),
        ({"name": "a", "replication": "x"}, "replication"),
        ({"name": "a", "quota_bytes": -1}, "quota_bytes"),
        ({"name": "a", "quota_objects": 1 << 63}, "quota_objects"),
        ({"name": "a", "cors_origins": "https://a.example"}, "cors_origins"),
        ({"name": "a", "cors_origins": ["https://a.example/"]}, "cors_origins"),
        ({"name": "a", "cors_origins": ["HTTPS://a.example"]}, "cors_origins"),
        ({"name": "a", "cors_origins": ["null"]}, "cors_origins"),
        ({"name": "a", "cors_origins": ["https://a.example:x"]}, "cors_origins"),
        ([], "request"),
    ],
)
def test_what_is_wrong_is_named(api: APIClient, body: Any, field: str) -> None:
    answer = api.post("/api/v1/buckets", body)
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "invalid"
    assert list(answer.json()["errors"]) == [field]
    assert not Bucket.objects.exists()


def test_more_copies_than_are_kept_are_refused_for_buckets_that_are_there(api: APIClient) -> None:
    made = api.post("/api/v1/buckets", {"name": "photos"}).json()
    answer = api.patch("/api/v1/buckets/photos", {"replication": 9})
    assert answer.status_code == 400
    assert answer.json()["errors"] == {"replication": ["A number from 1 to 8."]}
    assert api.get("/api/v1/buckets/photos").json() == made


def test_a_bucket_may_have_chunks_of_its_own_size(api: APIClient, lab: Lab) -> None:
    lease, upload = {"count": 1, "max_bytes": 1}, {"key": "k", "size": 5000}
    before = api.post("/api/v1/buckets/photos/leases", lease).json()["chunk_size"]
    assert before == settings.WAREHOUSE_CHUNK_SIZE
    assert api.patch("/api/v1/buckets/photos", {"chunk_size": 2000}).status_code == 200
    assert api.post("/api/v1/buckets/photos/leases", lease).json()["chunk_size"] == 2000
    made = api.post("/api/v1/buckets/photos/uploads", upload).json()
    assert (made["chunk_size"], [chunk["size"] for chunk in made["chunks"]]) == (2000, [2000, 2000, 1000])
    assert api.patch("/api/v1/buckets/photos", {"chunk_size": None}).status_code == 200
    assert api.post("/api/v1/buckets/photos/uploads", upload).json()["chunk_size"] == before
    # What was begun goes on as it was cut.
    assert [chunk["size"] for chunk in api.get(f"/api/v1/uploads/{made['id']}").json()["missing"]] == [2000, 2000, 1000]


def test_who_makes_a_bucket_public_may_read_and_share_it(lab: Lab) -> None:
    writer = client_of(make_key(grants=(GrantRow("photos", "", int(Permission.BUCKETS_WRITE)),)))
    sharer_bits = Permission.BUCKETS_WRITE | Permission.OBJECTS_READ | Permission.SHARE
    sharer = client_of(make_key(grants=(GrantRow("photos", "", int(sharer_bits)),)))
    public = {"visibility": "public-read"}
    assert writer.patch("/api/v1/buckets/photos", public).status_code == 403
    assert writer.patch("/api/v1/buckets/photos", {"visibility": "private", "quota_objects": 9}).status_code == 200
    assert sharer.patch("/api/v1/buckets/photos", public).status_code == 200
    # What was got can be sent back, and to close it needs no more than to change it.
    assert writer.patch("/api/v1/buckets/photos", public | {"quota_objects": 8}).status_code == 200
    assert writer.patch("/api/v1/buckets/photos", {"visibility": "private"}).status_code == 200
    maker = client_of(make_key(permissions=int(Permission.BUCKETS_WRITE)))
    assert maker.post("/api/v1/buckets", {"name": "open", **public}).status_code == 403
    assert maker.post("/api/v1/buckets", {"name": "shut"}).status_code == 201


def test_a_name_is_taken_once(api: APIClient) -> None:
    api.post("/api/v1/buckets", {"name": "photos"})
    again = api.post("/api/v1/buckets", {"name": "photos"})
    assert (again.status_code, again.json()["code"]) == (409, "bucket_taken")


def test_a_bucket_with_objects_stays(api: APIClient, filled: Lab) -> None:
    answer = api.delete("/api/v1/buckets/photos")
    assert (answer.status_code, answer.json()["code"]) == (409, "bucket_not_empty")
    assert api.get("/api/v1/buckets/photos").json()["object_count"] == 4


def test_a_bucket_is_deleted_by_force(
    api: APIClient, filled: Lab, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    woken: list[str] = []
    monkeypatch.setattr(tasks.delete_buckets, "delay", lambda: woken.append("deletion"))
    before = api.get("/api/v1/buckets/photos").json()
    for wrong in ("force=x", "Force=true", "force=true&purge=1"):
        assert api.delete(f"/api/v1/buckets/photos?{wrong}").status_code == 400
    assert api.delete("/api/v1/buckets/photos?force=false").status_code == 409
    for _ in range(2):  # whoever lost the first answer asks again
        with django_capture_on_commit_callbacks(execute=True):
            answer = api.delete("/api/v1/buckets/photos?force=true")
        assert answer.status_code == 202
        assert answer.json() == {**before, "deleting": True, "detail": answer.json()["detail"]}
        assert "4 objects (40 bytes)" in answer.json()["detail"]
    assert woken == ["deletion"] * 2
    seen = api.get("/api/v1/buckets/photos").json()
    assert seen == {**before, "deleting": True}
    assert api.get("/api/v1/buckets").json()["results"] == [seen]
    for method, path, body in (
        ("get", "objects", None),
        ("get", "objects/a", None),
        ("get", "content/a", None),
        ("post", "leases", {"count": 1, "max_bytes": 1}),
        ("post", "uploads", {"key": "k", "size": 1}),
        ("post", "downloads", {"keys": ["a"]}),
        ("post", "delete", {"keys": ["a"]}),
    ):
        refused = getattr(api, method)(f"/api/v1/buckets/photos/{path}", body)
        assert (refused.status_code, refused.json()["code"]) == (404, "bucket_deleting"), path
    assert APIClient().get("/api/v1/buckets/photos/content/a").status_code == 401
    assert api.post("/api/v1/buckets", {"name": "photos"}).json()["code"] == "bucket_taken"
    tasks.delete_buckets()
    assert api.get("/api/v1/buckets/photos").json()["code"] == "bucket_unknown"
    assert api.delete("/api/v1/buckets/photos?force=true").status_code == 404
    api.post("/api/v1/buckets", {"name": "photos"})
    assert api.delete("/api/v1/buckets/photos?force=true").status_code == 204


@pytest.mark.parametrize(
    ("permissions", "grants"),
    [
        (Permission.BUCKETS_DELETE, ()),
        (Permission.OBJECTS_DELETE, ()),
        (Permission.BUCKETS_DELETE, (GrantRow("photos", "dir/", int(Permission.OBJECTS_DELETE)),)),
        (Permission.OBJECTS_DELETE, (GrantRow("photos", "dir/", int(Permission.BUCKETS_DELETE)),)),
    ],
)
def test_force_takes_both_rights_on_the_whole_bucket(
    filled: Lab, permissions: Permission, grants: tuple[GrantRow, ...]
) -> None:
    client = client_of(make_key(permissions=int(permissions), grants=grants))
    answer = client.delete("/api/v1/buckets/photos?force=true")
    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
    assert not Bucket.objects.get().is_deleting


def test_a_broker_that_is_away_stops_no_deletion(
    api: APIClient, filled: Lab, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    def away() -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setattr(tasks.delete_buckets, "delay", away)
    with django_capture_on_commit_callbacks(execute=True):
        assert api.delete("/api/v1/buckets/photos?force=true").status_code == 202
    assert Bucket.objects.get().is_deleting


def test_grants_go_with_the_bucket(api: APIClient) -> None:
    api.post("/api/v1/buckets", {"name": "photos"})
    make_key(grants=(GrantRow("photos", "", 1), GrantRow("other", "", 1)))
    api.delete("/api/v1/buckets/photos")
    assert list(Grant.objects.values_list("bucket", flat=True)) == ["other"]


def test_buckets_are_paged_by_name(api: APIClient) -> None:
    for name in ("b", "a", "_", "a.b"):
        api.post("/api/v1/buckets", {"name": name})
    first = api.get("/api/v1/buckets?limit=3").json()
    assert [bucket["name"] for bucket in first["results"]] == ["_", "a", "a.b"]
    assert first["next_after"] == "a.b"
    rest = api.get("/api/v1/buckets?limit=3&after=a.b").json()
    assert ([bucket["name"] for bucket in rest["results"]], rest["next_after"]) == (["b"], None)


def test_rights(api: APIClient, db: None) -> None:
    api.post("/api/v1/buckets", {"name": "mine"})
    api.post("/api/v1/buckets", {"name": "other"})
    nobody = client_of(make_key(permissions=int(Permission.OBJECTS_READ)))
    for method, path in (("get", ""), ("post", ""), ("get", "/mine"), ("patch", "/mine"), ("delete", "/mine")):
        answer = getattr(nobody, method)(f"/api/v1/buckets{path}", {"name": "new"} if method == "post" else None)
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied"), (method, path)
    # Whether a bucket exists is not told to those who may not see it.
    assert nobody.get("/api/v1/buckets/none").status_code == 403
    granted = client_of(
        make_key(grants=(GrantRow("mine", "", int(Permission.BUCKETS_READ | Permission.BUCKETS_WRITE)),))
    )
    assert [bucket["name"] for bucket in granted.get("/api/v1/buckets").json()["results"]] == ["mine"]
    assert granted.patch("/api/v1/buckets/mine", {"quota_objects": 1}).status_code == 200
    assert granted.patch("/api/v1/buckets/other", {"quota_objects": 1}).status_code == 403
    assert granted.delete("/api/v1/buckets/mine").status_code == 403
    assert APIClient().get("/api/v1/buckets").status_code == 401


def test_odd_names_are_just_not_there(api: APIClient) -> None:
    for name in ("%2E%2E", "a%20b", "%C3%BC", "A", "%00", "a%0A"):
        assert api.get(f"/api/v1/buckets/{name}").status_code == 404, name


def test_a_full_bucket_is_no_error_of_the_store(api: APIClient, filled: Lab, caplog: pytest.LogCaptureFixture) -> None:
    api.patch("/api/v1/buckets/photos", {"quota_objects": 1})
    answer = api.post("/api/v1/buckets/photos/uploads", {"key": "k", "size": 6})
    assert (answer.status_code, answer.json()["code"]) == (507, "quota_exceeded")
    assert [record.levelname for record in caplog.records if "photos" in record.getMessage()] == ["WARNING"]
