"""copy, rename and commits over the API."""

import json
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from buckets.models import Bucket, Object, Outbox, Upload
from buckets.services.buckets import create_bucket
from keys.permissions import Permission
from keys.rights import GrantRow
from tests.unit.buckets.api.conftest import client_of
from tests.unit.buckets.lab import Lab, Put, make_key, needle_of, require_sound

BASE = "/api/v1/buckets/photos"
VERSION = {"size", "etag", "content_type", "metadata", "created_at", "updated_at"}


def held(api: APIClient, lab: Lab, key: str) -> str:
    """The id of an upload of one chunk that is ready."""
    body = api.post(f"{BASE}/uploads", {"key": key, "size": 7, "held": True}).json()
    [chunk] = body["chunks"]
    [verdict] = lab.confirm(Put(chunk["url"], needle_of(chunk["url"]), 7))
    assert verdict.as_json()["state"] == "stored"
    assert api.get(f"/api/v1/uploads/{body['id']}").json()["state"] == "ready"
    return str(body["id"])


def keys() -> list[str]:
    return sorted(Object.objects.values_list("key", flat=True))


def test_copy(api: APIClient, filled: Lab) -> None:
    create_bucket(name="other")
    etag = Object.objects.get(key="a").etag
    answer = api.post(
        f"{BASE}/copy",
        {
            "copies": [
                {"from": "a", "to": "a2", "from_if_match": f'"{etag}"', "metadata": {"x": "ü"}},
                {"from": "a2", "to": "ü/✓", "bucket": "other", "if_none_match": "*", "content_type": "text/plain"},
            ]
        },
    )
    assert answer.status_code == 200
    one, two = answer.json()["copied"]
    assert one.keys() == VERSION | {"from", "to", "bucket"}
    assert (one["from"], one["to"], one["bucket"], one["metadata"]) == ("a", "a2", "photos", {"x": "ü"})
    assert (two["bucket"], two["content_type"], two["metadata"]) == ("other", "text/plain", {"x": "ü"})
    stat = api.post("/api/v1/buckets/other/stat", {"keys": ["ü/✓"]}).json()["objects"][0]
    assert stat == {"key": "ü/✓"} | {name: two[name] for name in VERSION}
    assert len({etag, one["etag"], two["etag"]}) == 3
    [download] = api.post("/api/v1/buckets/other/downloads", {"keys": ["ü/✓"]}).json()["objects"]
    assert f"/{etag}?" in download["chunks"][0]["urls"][0]
    require_sound()


def test_rename(api: APIClient, filled: Lab) -> None:
    answer = api.post(
        f"{BASE}/rename", {"renames": [{"from": "a", "to": "b"}, {"from": "e", "to": "b", "overwrite": True}]}
    )
    assert answer.status_code == 200
    body = answer.json()
    assert (body["count"], body["overwritten"]) == (2, 1)
    assert body["renamed"][1].keys() == VERSION | {"from", "to"}
    assert keys() == ["b", "dir/b", "dir/c"]
    answer = api.post(f"{BASE}/rename", {"prefix": "dir/", "to_prefix": "dir/in/"})
    assert (answer.status_code, answer.json()) == (200, {"count": 2, "overwritten": 0})
    assert keys() == ["b", "dir/in/b", "dir/in/c"]
    refused = api.post(f"{BASE}/rename", {"prefix": "dir/in/", "to_prefix": ""})
    assert (refused.status_code, refused.json()["code"]) == (409, "object_exists")
    assert refused.json()["keys"] == ["b"]
    done = api.post(f"{BASE}/rename", {"prefix": "dir/in/", "to_prefix": "", "overwrite": True})
    assert done.json() == {"count": 2, "overwritten": 1}
    assert keys() == ["b", "c"]
    require_sound()


def test_a_bucket_that_there_is_not_is_that_of_an_operation(api: APIClient, filled: Lab) -> None:
    copies = [
        {"from": "a", "to": "x"},
        {"from": "a", "to": "x", "bucket": "z"},
        {"from": "a", "to": "x", "bucket": "b"},
    ]
    refused = api.post(f"{BASE}/copy", {"copies": copies})
    assert (refused.json()["code"], refused.json()["index"]) == ("bucket_unknown", 1)
    whole = api.post("/api/v1/buckets/none/copy", {"copies": copies}).json()
    assert (whole["code"], "index" in whole) == ("bucket_unknown", False)


def test_too_many_are_counted(api: APIClient, filled: Lab, settings: Any) -> None:
    settings.WAREHOUSE_COMMIT_ROWS = 1
    refused = api.post(f"{BASE}/rename", {"prefix": "dir/", "to_prefix": "x/"})
    assert (refused.status_code, refused.json()["code"]) == (413, "too_many_rows")
    assert (refused.json().get("count"), refused.json()["limit"]) == (None, 1)
    refused = api.post(f"{BASE}/delete", {"keys": ["a", "none", "dir/b"]})
    assert (refused.status_code, refused.json()["code"]) == (413, "too_many_rows")
    assert (refused.json()["count"], refused.json()["limit"]) == (2, 1)
    assert keys() == ["a", "dir/b", "dir/c", "e"]
    assert api.post(f"{BASE}/delete", {"keys": ["a", "none"]}).json() == {"deleted": ["a"], "missing": ["none"]}


def test_commits(api: APIClient, filled: Lab) -> None:
    upload = held(api, filled, "new")
    body = {
        "operations": [
            {"op": "upload", "upload": upload, "if_none_match": True},
            {"op": "delete", "key": "a", "if_match": "*"},
            {"op": "delete", "key": "none"},
            {"op": "copy", "from": "new", "to": "a"},
            {"op": "rename", "from": "e", "to": "f"},
        ]
    }
    answer = api.post(f"{BASE}/commits", body)
    assert answer.status_code == 200
    assert answer.json()["sequence"] == Object.objects.get(key="new").sequence
    up, gone, none, copied, renamed = answer.json()["results"]
    assert up.keys() == VERSION | {"op", "upload", "key"}
    assert (up["op"], up["upload"], up["key"], up["etag"]) == ("upload", upload, "new", upload.replace("-", ""))
    assert gone == {"op": "delete", "key": "a", "deleted": True}
    assert none == {"op": "delete", "key": "none", "deleted": False}
    assert copied.keys() == VERSION | {"op", "from", "to", "bucket"}
    assert (renamed["op"], renamed["from"], renamed["to"]) == ("rename", "e", "f")
    assert keys() == ["a", "dir/b", "dir/c", "f", "new"]
    again = api.post(f"{BASE}/commits", body)
    assert (again.status_code, again.json()["code"], again.json()["index"]) == (409, "upload_over", 0)
    assert api.get(f"/api/v1/uploads/{upload}").json()["state"] == "completed"
    require_sound()


@pytest.mark.parametrize(
    ("operation", "status", "code"),
    [
        ({"op": "upload", "upload": "00000000-0000-0000-0000-000000000000"}, 404, "upload_unknown"),
        ({"op": "delete", "key": "none", "if_match": "*"}, 412, "precondition_failed"),
        ({"op": "copy", "from": "none", "to": "x"}, 404, "object_unknown"),
        ({"op": "copy", "from": "e", "to": "x", "bucket": "none"}, 404, "bucket_unknown"),
        ({"op": "copy", "from": "e", "to": "x", "bucket": "closed"}, 404, "bucket_deleting"),
        ({"op": "rename", "from": "e", "to": "dir/b"}, 409, "object_exists"),
    ],
)
def test_a_refusal_tells_its_operation(
    api: APIClient, filled: Lab, operation: dict[str, Any], status: int, code: str
) -> None:
    create_bucket(name="closed")
    Bucket.objects.filter(name="closed").update(deleting_at=timezone.now())
    answer = api.post(f"{BASE}/commits", {"operations": [{"op": "delete", "key": "a"}, operation]})
    assert (answer.status_code, answer.json()["code"], answer.json()["index"]) == (status, code, 1)
    assert keys() == ["a", "dir/b", "dir/c", "e"]
    assert not Outbox.objects.exists()


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("copy", {}, "copies"),
        ("copy", {"copies": []}, "copies"),
        ("copy", {"copies": {"from": "a", "to": "b"}}, "copies"),
        ("copy", {"copies": [{"from": "a", "to": "b"}] * 1001}, "copies"),
        ("copy", {"copies": ["a"]}, "copies.0.request"),
        ("copy", {"copies": [{"from": "a"}]}, "copies.0.to"),
        ("copy", {"copies": [{"from": "a", "to": "b"}, {"from": "a", "to": 1}]}, "copies.1.to"),
        ("copy", {"copies": [{"from": "a", "to": "b", "if_macth": "x"}]}, "copies.0.if_macth"),
        ("copy", {"copies": [{"from": "a", "to": "b", "bucket": "No"}]}, "copies.0.bucket"),
        ("copy", {"copies": [{"from": "a", "to": "\0"}]}, "copies.0.to"),
        ("copy", {"copies": [{"from": "a", "to": "b", "content_type": "x"}]}, "copies.0.content_type"),
        ("copy", {"copies": [{"from": "a", "to": "b", "metadata": {"A": "x"}}]}, "copies.0.metadata"),
        ("copy", {"copies": [{"op": "copy", "from": "a", "to": "b"}]}, "copies.0.op"),
        ("rename", {}, "prefix"),
        ("rename", {"renames": []}, "renames"),
        ("rename", {"renames": [{"from": "a", "to": "a"}]}, "renames.0.to"),
        ("rename", {"renames": [{"from": "a", "to": "b"}], "overwrite": True}, "overwrite"),
        ("rename", {"renames": [{"from": "a", "to": "b"}], "prefix": "a"}, "prefix"),
        ("rename", {"prefix": "a"}, "to_prefix"),
        ("rename", {"prefix": "a", "to_prefix": "a"}, "to_prefix"),
        ("rename", {"prefix": "a", "to_prefix": "x" * 1025}, "to_prefix"),
        ("commits", {"operations": []}, "operations"),
        ("commits", {"operations": [1]}, "operations.0.request"),
        ("commits", {"operations": [{}]}, "operations.0.op"),
        ("commits", {"operations": [{"op": "put"}]}, "operations.0.op"),
        ("commits", {"operations": [{"op": ["copy"]}]}, "operations.0.op"),
        ("commits", {"operations": [{"op": "upload", "upload": "x"}]}, "operations.0.upload"),
        ("commits", {"operations": [{"op": "delete", "key": "a", "to": "b"}]}, "operations.0.to"),
        ("commits", {"operations": [{"op": "delete", "key": "a"}, {"op": "delete", "key": ""}]}, "operations.1.key"),
        ("commits", {"operations": [{"op": "copy", "from": "\ud800", "to": "b"}]}, "operations.0.from"),
    ],
)
def test_what_is_wrong_is_named(api: APIClient, filled: Lab, path: str, body: dict[str, Any], field: str) -> None:
    answer = api.post(f"{BASE}/{path}", json.dumps(body), content_type="application/json")
    assert answer.status_code == 400
    assert field in answer.json()["errors"], answer.json()
    assert keys() == ["a", "dir/b", "dir/c", "e"]


def test_rights(filled: Lab) -> None:
    create_bucket(name="other")
    read, write, delete = Permission.OBJECTS_READ, Permission.OBJECTS_WRITE, Permission.OBJECTS_DELETE
    admin = client_of(make_key(permissions=int(Permission.ADMIN)))
    upload = held(admin, filled, "out")
    inside = client_of(make_key(grants=(GrantRow("photos", "dir/", int(read | write | delete)),)))
    for path, body in (
        ("copy", {"copies": [{"from": "dir/b", "to": "dir/x"}, {"from": "a", "to": "dir/y"}]}),
        ("copy", {"copies": [{"from": "dir/b", "to": "x"}]}),
        ("copy", {"copies": [{"from": "dir/b", "to": "dir/b", "bucket": "other"}]}),
        ("copy", {"copies": [{"from": "dir/b", "to": "dir/b", "bucket": "none"}]}),
        ("rename", {"renames": [{"from": "dir/b", "to": "b"}]}),
        ("rename", {"renames": [{"from": "a", "to": "dir/a"}]}),
        ("rename", {"prefix": "dir", "to_prefix": "dir/in"}),
        ("rename", {"prefix": "dir/", "to_prefix": "out/"}),
        ("commits", {"operations": [{"op": "delete", "key": "dir/b"}, {"op": "delete", "key": "none"}]}),
        ("commits", {"operations": [{"op": "upload", "upload": upload}]}),
    ):
        answer = inside.post(f"{BASE}/{path}", body)
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied"), body
        operations = body.get("copies") or body.get("renames") or body.get("operations")
        if isinstance(operations, list):
            assert answer.json()["index"] == len(operations) - 1
    assert keys() == ["a", "dir/b", "dir/c", "e"]
    assert Upload.objects.get().state == "ready"
    assert inside.post(f"{BASE}/rename", {"prefix": "dir/", "to_prefix": "dir/in/"}).json()["count"] == 2
    for lacking in (read, write, delete):
        grant = GrantRow("photos", "", int((read | write | delete) & ~lacking))
        weaker = client_of(make_key(grants=(grant,)))
        for body in ({"renames": [{"from": "a", "to": "b"}]}, {"prefix": "dir/", "to_prefix": "x/"}):
            assert weaker.post(f"{BASE}/rename", body).status_code == 403
        copied = weaker.post(f"{BASE}/copy", {"copies": [{"from": "a", "to": f"no {lacking.name}"}]})
        assert copied.status_code == (200 if lacking is delete else 403)
    # A body that is wrong tells nothing to whom nothing is allowed.
    nobody = client_of(make_key(permissions=int(Permission.BUCKETS_READ)))
    assert nobody.post(f"{BASE}/copy", {"copies": [1]}).status_code == 403
    assert nobody.post(f"{BASE}/rename", {"prefix": 1}).status_code == 403
    # Nor is it read: it may be large.
    for path in ("copy", "rename", "commits", "uploads", "leases", "stat", "downloads", "delete"):
        assert nobody.post(f"{BASE}/{path}", b"{", content_type="application/json").status_code == 403, path


@pytest.mark.parametrize(
    ("path", "field", "item"),
    [
        ("commits", "operations", {"op": "delete"}),
        ("copy", "copies", {"from": "a"}),
        ("rename", "renames", {"from": "a"}),
        ("stat", "keys", ""),
        ("downloads", "keys", ""),
        ("delete", "keys", ""),
    ],
)
def test_a_list_that_is_too_long_is_refused_for_its_length_alone(
    api: APIClient, filled: Lab, path: str, field: str, item: object
) -> None:
    """However wrong its items are: they are not looked at."""
    refused = api.post(f"{BASE}/{path}", {field: [item] * 1001})
    assert refused.status_code == 400
    assert refused.json()["errors"] == {field: ["Ensure this field has no more than 1000 elements."]}
    # Of one that is not, the first mistakes are told.
    refused = api.post(f"{BASE}/{path}", {field: [item] * 1000})
    assert refused.status_code == 400
    assert len(refused.json()["errors"]) == 20
    assert len(refused.content) < 10_000


def test_a_flood_of_names_is_answered_shortly(api: APIClient, filled: Lab) -> None:
    flood = {f"name{at}": at for at in range(5000)}
    for body in ({"keys": [], **flood}, {"copies": [{"from": "a", "to": "b", "metadata": flood}]}):
        refused = api.post(f"{BASE}/{'stat' if 'keys' in body else 'copy'}", body)
        assert refused.status_code == 400
        assert len(refused.content) < 10_000
    assert refused.json()["errors"] == {"copies.0.metadata": ["Metadata takes at most 2048 bytes."]}
