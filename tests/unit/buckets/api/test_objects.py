import json
import re
from typing import Any
from urllib.parse import quote

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries
from rest_framework.test import APIClient

import keys.selectors
from buckets.models import Bucket, Object, Outbox, Upload
from keys.permissions import Permission
from keys.rights import GrantRow
from tests.unit.buckets.api.conftest import client_of
from tests.unit.buckets.lab import Lab, Put, chunk_put, make_key, needle_of, require_sound
from volumes.services import presign

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
ODD_KEYS = [
    "a/b/c",
    "/a",
    "a/",
    "a//b",
    "//",
    "100%",
    "%2F",
    "a b+c",
    "ü/✓/😀",
    "a?b=c",
    "a#b",
    "a&b;c",
    "a\nb",
    "\x01",
    "objects/x",
    "content",
    'q"uo\\te',
    "x" * 1024,
]


def test_the_list(api: APIClient, filled: Lab) -> None:
    answer = api.get("/api/v1/buckets/photos/objects?delimiter=/&limit=2")
    assert answer.status_code == 200
    body = answer.json()
    assert body.keys() == {"results", "prefixes", "next_after"}
    [row] = body["results"]
    assert row.keys() == {"key", "size", "etag", "content_type", "updated_at"}
    assert (row["key"], row["size"], row["content_type"]) == ("a", 10, "application/octet-stream")
    assert RFC3339.fullmatch(row["updated_at"])
    assert (body["prefixes"], body["next_after"]) == (["dir/"], "dir/")
    rest = api.get("/api/v1/buckets/photos/objects?delimiter=/&limit=2&after=dir/").json()
    assert ([row["key"] for row in rest["results"]], rest["prefixes"], rest["next_after"]) == (["e"], [], None)
    newest = api.get("/api/v1/buckets/photos/objects?order=newest&limit=3").json()
    assert len(newest["results"]) == 3
    assert newest["next_after"]


def test_a_search(api: APIClient, lab: Lab) -> None:
    lab.put("Notes/100%.txt", size=5, content_type="text/plain", metadata={"a": "b:c", "d": "e"})
    lab.put("notes/1000.txt", size=7, content_type="text/plain", metadata={"a": "b:c"})
    lab.put("cat.png", size=9, content_type="image/png")
    moment = Object.objects.get(key="notes/1000.txt").updated_at

    def keys(query: str) -> list[str]:
        found = []
        for order in ("key", "newest"):
            answer = api.get(f"/api/v1/buckets/photos/objects?order={order}&{query}")
            assert answer.status_code == 200, answer.json()
            body = answer.json()
            assert (body["prefixes"], body["next_after"]) == ([], None)
            found.append(sorted(row["key"] for row in body["results"]))
        assert found[0] == found[1]
        return found[0]

    everything = ["Notes/100%.txt", "cat.png", "notes/1000.txt"]
    assert keys("search=") == everything
    assert keys("search=NOTES") == ["Notes/100%.txt", "notes/1000.txt"]
    assert keys("search=0%25") == ["Notes/100%.txt"]
    assert keys("search=notes&prefix=n") == ["notes/1000.txt"]
    assert keys("min_size=6&max_size=7") == ["notes/1000.txt"]
    assert keys("content_type=image/*") == ["cat.png"]
    assert keys("content_type=text/plain&min_size=7") == ["notes/1000.txt"]
    assert keys("metadata=a:b:c") == ["Notes/100%.txt", "notes/1000.txt"]
    assert keys("metadata=a:b:c&metadata=d:e") == ["Notes/100%.txt"]
    assert keys(f"updated_before={moment:%Y-%m-%dT%H:%M:%S.%fZ}") == ["Notes/100%.txt"]
    assert keys(f"updated_after={moment:%Y-%m-%dT%H:%M:%S.%fZ}") == ["cat.png"]
    assert keys("updated_after=2020-01-01") == everything


def test_a_search_finds_only_what_the_key_may_see(lab: Lab) -> None:
    lab.put_many("mine/cat", "mine/dog", "other/cat")
    reader = client_of(make_key(grants=(GrantRow("photos", "mine/", int(Permission.OBJECTS_READ)),)))
    for order in ("key", "newest"):
        page = reader.get(f"/api/v1/buckets/photos/objects?search=cat&order={order}").json()
        assert [row["key"] for row in page["results"]] == ["mine/cat"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("order=size", "order"),
        ("order=newest&delimiter=/", "delimiter"),
        ("order=newest&after=x", "after"),
        ("delimiter=%F4%8F%BF%BF", "delimiter"),
        ("prefix=%00", "prefix"),
        ("search=%00", "search"),
        ("search=" + "x" * 1025, "search"),
        ("sarch=x", "sarch"),
        ("min_size=-1", "min_size"),
        ("min_size=x", "min_size"),
        ("max_size=9223372036854775808", "max_size"),
        ("min_size=2&max_size=1", "max_size"),
        ("content_type=x", "content_type"),
        ("content_type=*/*", "content_type"),
        ("updated_after=yesterday", "updated_after"),
        ("updated_before=2026-13-01", "updated_before"),
        ("updated_after=0001-01-01T00:00:00%2B14:00", "updated_after"),
        ("updated_after=2026-01-02&updated_before=2026-01-01", "updated_before"),
        ("metadata=colour", "metadata.0"),
        ("metadata=Colour:blue", "metadata.0"),
        ("metadata=a:%00", "metadata.0"),
        ("&".join(["metadata=a:b"] * 17), "metadata"),
        ("search=x&delimiter=/", "delimiter"),
        ("search=x&order=newest&after=x", "after"),
    ],
)
def test_what_is_wrong_with_a_query_is_named(api: APIClient, filled: Lab, query: str, field: str) -> None:
    answer = api.get(f"/api/v1/buckets/photos/objects?{query}")
    assert answer.status_code == 400
    assert list(answer.json()["errors"]) == [field]


@pytest.mark.parametrize("key", ODD_KEYS)
def test_any_key_stands_in_a_path(api: APIClient, lab: Lab, key: str) -> None:
    lab.put(key)
    for safe in ("", "/"):
        path = f"/api/v1/buckets/photos/objects/{quote(key, safe=safe)}"
        assert api.get(path).json()["key"] == key
        head = api.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["ETag"] == f'"{Object.objects.get().etag}"'
        content = api.get(f"/api/v1/buckets/photos/content/{quote(key, safe=safe)}")
        assert content.status_code == 307
    assert api.delete(f"/api/v1/buckets/photos/objects/{quote(key)}").status_code == 204
    assert not Object.objects.exists()


def test_a_path_that_is_no_utf8(api: APIClient, lab: Lab) -> None:
    lab.put("%FF")
    answer = api.get("/api/v1/buckets/photos/objects/%FF", RAW_URI="/api/v1/buckets/photos/objects/%FF")
    assert (answer.status_code, answer.json()["code"]) == (400, "key_invalid")
    assert api.get("/api/v1/buckets/photos/objects/%25FF").status_code == 200


def test_meta_changes_make_a_new_version(api: APIClient, filled: Lab) -> None:
    path = "/api/v1/buckets/photos/objects/dir/b"
    before = api.get(path).json()
    assert before.keys() == {"key", "size", "etag", "content_type", "updated_at", "metadata", "created_at"}
    changed = api.patch(
        path, {"content_type": "text/plain", "metadata": {"a": "ü"}}, headers={"If-Match": before["etag"]}
    )
    assert changed.status_code == 200
    after = changed.json()
    assert (after["content_type"], after["metadata"], after["size"]) == ("text/plain", {"a": "ü"}, 10)
    assert after["etag"] != before["etag"]
    assert api.get(path).json() == after
    refused = api.patch(path, {"metadata": {}}, headers={"If-Match": f'"{before["etag"]}"'})
    assert (refused.status_code, refused.json()["code"]) == (412, "precondition_failed")
    for body, field in (({"content_type": "x"}, "content_type"), ({"metadata": {"A": "x"}}, "metadata")):
        wrong = api.patch(path, body)
        assert (wrong.status_code, list(wrong.json()["errors"])) == (400, [field])
    assert api.patch("/api/v1/buckets/photos/objects/none", {}).status_code == 404


def test_what_was_got_of_an_object_can_be_sent_back(api: APIClient, filled: Lab) -> None:
    path = "/api/v1/buckets/photos/objects/dir/b"
    before = api.get(path).json()
    same = api.patch(path, before)
    assert (same.status_code, same.json()) == (200, before)
    changed = api.patch(path, before | {"content_type": "text/plain"}).json()
    assert changed["content_type"] == "text/plain"
    for wrong in ({"key": "other"}, {"size": 11}, {"size": "10"}, {"etag": before["etag"]}, {"created_at": None}):
        refused = api.patch(path, {"metadata": {"a": "b"}, **wrong})
        assert (refused.status_code, list(refused.json()["errors"])) == (400, list(wrong)), wrong
    assert api.get(path).json() == changed


def test_a_change_of_nothing_changes_nothing(api: APIClient, filled: Lab) -> None:
    path = "/api/v1/buckets/photos/objects/dir/b"
    before = api.get(path).json()
    sequence = Object.objects.get(key="dir/b").sequence
    same = api.patch(path, {}, headers={"If-Match": before["etag"]})
    assert (same.status_code, same.json()) == (200, before)
    assert api.patch(path, {}, headers={"If-Match": '"other"'}).status_code == 412
    assert Object.objects.get(key="dir/b").sequence == sequence
    wrong = api.patch(path, {"contenttype": "text/plain", "metadata": {"a": "b"}})
    assert (wrong.status_code, list(wrong.json()["errors"])) == (400, ["contenttype"])
    assert api.get(path).json() == before


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("post", "", {"name": "new"}),
        ("patch", "/photos", {}),
        ("patch", "/photos/objects/a", {}),
        ("post", "/photos/leases", {"count": 1, "max_bytes": 1}),
        ("post", "/photos/uploads", {"key": "k", "size": 1}),
        ("post", "/photos/downloads", {"keys": ["a"]}),
        ("post", "/photos/stat", {"keys": ["a"]}),
        ("post", "/photos/delete", {"keys": ["a"]}),
    ],
)
@pytest.mark.parametrize("field", ["if_non_match", "\ud800"])
def test_fields_that_there_are_not_are_named(
    api: APIClient, filled: Lab, method: str, path: str, body: dict[str, Any], field: str
) -> None:
    buckets, objects = Bucket.objects.count(), list(Object.objects.values())
    text = json.dumps({**body, field: True})
    answer = getattr(api, method)(f"/api/v1/buckets{path}", text, content_type="application/json")
    named = field.encode(errors="backslashreplace").decode()
    assert (answer.status_code, answer.json().get("errors")) == (400, {named: ["There is no such field."]})
    assert (Bucket.objects.count(), list(Object.objects.values())) == (buckets, objects)
    assert not Upload.objects.exists()


def test_what_was_got_of_a_bucket_can_be_sent_back(api: APIClient, lab: Lab) -> None:
    bucket = api.get("/api/v1/buckets/photos").json()
    answer = api.patch("/api/v1/buckets/photos", bucket)
    assert (answer.status_code, answer.json()) == (200, bucket)
    lab.put("k")  # a count that was got before is no wish
    assert api.patch("/api/v1/buckets/photos", {**bucket, "quota_objects": 9}).json()["object_count"] == 1
    bucket = api.patch("/api/v1/buckets/photos", {"quota_objects": None}).json()
    for wrong in ({"name": "other"}, {"deleting": True}, {"deleting": 0}, {"created_at": "now"}):
        refused = api.patch("/api/v1/buckets/photos", {"quota_objects": 5, **wrong})
        assert (refused.status_code, list(refused.json()["errors"])) == (400, list(wrong)), wrong
    assert api.get("/api/v1/buckets/photos").json() == bucket
    made = api.post("/api/v1/buckets", {"name": "other", "object_count": 0})
    assert (made.status_code, list(made.json()["errors"])) == (400, ["object_count"])


@pytest.mark.parametrize("method", ["patch", "delete"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("If-Match", ""),
        ("If-Match", "  "),
        ("If-None-Match", "*"),
        ("If-None-Match", '"other"'),
        ("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("If-Modified-Since", "Thu, 01 Jan 2970 00:00:00 GMT"),
    ],
)
def test_no_condition_is_passed_over(api: APIClient, filled: Lab, method: str, name: str, value: str) -> None:
    before = list(Object.objects.values())
    body = {"content_type": "text/plain"} if method == "patch" else None
    answer = getattr(api, method)("/api/v1/buckets/photos/objects/a", body, headers={name: value})
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [name])
    assert list(Object.objects.values()) == before


def test_delete_one(api: APIClient, filled: Lab) -> None:
    path = "/api/v1/buckets/photos/objects/a"
    assert api.delete(path, headers={"If-Match": '"other"'}).status_code == 412
    assert api.delete(path).status_code == 204
    assert (api.delete(path).status_code, api.delete(path).json()["code"]) == (404, "object_unknown")
    assert Outbox.objects.get().reason == "deleted"
    require_sound()


def test_delete_many(api: APIClient, filled: Lab, django_assert_max_num_queries: Any) -> None:
    lab = filled
    lab.put_many(*[f"n{at}" for at in range(200)])
    with django_assert_max_num_queries(15):
        answer = api.post(
            "/api/v1/buckets/photos/delete", {"keys": ["e", "no", "a", "e", *[f"n{at}" for at in range(200)]]}
        )
    assert answer.status_code == 200
    assert answer.json() == {"deleted": ["e", "a", *[f"n{at}" for at in range(200)]], "missing": ["no"]}
    assert list(Object.objects.values_list("key", flat=True)) == ["dir/b", "dir/c"]
    require_sound()
    assert api.post("/api/v1/buckets/photos/delete", {"keys": []}).json() == {"deleted": [], "missing": []}
    for wrong, field in (
        ({}, "keys"),
        ({"keys": "a"}, "keys"),
        ({"keys": ["a", ""]}, "keys.1"),
        ({"keys": [1]}, "keys.0"),
    ):
        refused = api.post("/api/v1/buckets/photos/delete", wrong)
        assert (refused.status_code, list(refused.json()["errors"])) == (400, [field])
    assert api.post("/api/v1/buckets/photos/delete", {"keys": ["k"] * 1001}).status_code == 400


def test_downloads(
    api: APIClient,
    filled: Lab,
    django_assert_num_queries: DjangoAssertNumQueries,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What is remembered for a second is remembered for the test, however slow the machine.
    monkeypatch.setattr(keys.selectors, "CACHE_SECONDS", 3600)
    monkeypatch.setattr(presign, "_PLACES_LIVE_S", 3600)
    answer = api.post("/api/v1/buckets/photos/downloads", {"keys": ["dir/b", "no", "a", "a"]})
    assert answer.status_code == 200
    body = answer.json()
    assert body["missing"] == ["no"]
    assert [row["key"] for row in body["objects"]] == ["dir/b", "a"]
    for row in body["objects"]:
        assert row.keys() == {"key", "size", "etag", "content_type", "metadata", "chunks"}
        [chunk] = row["chunks"]
        assert chunk.keys() == {"index", "offset", "size", "crc32", "urls"}
        assert (chunk["index"], chunk["offset"], chunk["size"]) == (0, 0, 10)
        assert isinstance(chunk["crc32"], int)
        [url] = chunk["urls"]
        assert url.startswith(f"{filled.server.public_url}/{filled.volume.pk}/{row['etag']}?")
    filled.put_many(*[f"n{at}" for at in range(900)])
    for wanted in (["a"], [f"n{at}" for at in range(900)]):
        with django_assert_num_queries(2):
            found = api.post("/api/v1/buckets/photos/downloads", {"keys": wanted}).json()["objects"]
        assert len(found) == len(wanted)


def test_stat(
    api: APIClient,
    filled: Lab,
    django_assert_num_queries: DjangoAssertNumQueries,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keys.selectors, "CACHE_SECONDS", 3600)
    api.patch("/api/v1/buckets/photos/objects/dir/b", {"metadata": {"a": "ü"}})
    one = api.get("/api/v1/buckets/photos/objects/dir/b").json()
    answer = api.post("/api/v1/buckets/photos/stat", {"keys": ["dir/b", "no", "a", "no", "dir/b"]})
    assert answer.status_code == 200
    assert answer.json().keys() == {"objects", "missing"}
    assert [row["key"] for row in answer.json()["objects"]] == ["dir/b", "a"]
    assert (answer.json()["objects"][0], answer.json()["missing"]) == (one, ["no"])
    inside = client_of(make_key(grants=(GrantRow("photos", "dir/", int(Permission.OBJECTS_READ)),)))
    seen = inside.post("/api/v1/buckets/photos/stat", {"keys": ["a", "dir/b"]}).json()
    assert (seen["objects"], seen["missing"]) == ([one], ["a"])
    names = [f"n{at}" for at in range(1000)]
    filled.put_many(*names)
    assert api.post("/api/v1/buckets/photos/stat", {"keys": []}).json() == {"objects": [], "missing": []}
    with django_assert_num_queries(2):
        many = api.post("/api/v1/buckets/photos/stat", {"keys": names}).json()
    assert ([row["key"] for row in many["objects"]], many["missing"]) == (names, [])
    assert api.post("/api/v1/buckets/photos/stat", {"keys": ["k"] * 1001}).json()["errors"].keys() == {"keys"}
    assert api.post("/api/v1/buckets/none/stat", {"keys": ["k"]}).json()["code"] == "bucket_unknown"


def test_head_tells_what_get_tells(api: APIClient, filled: Lab) -> None:
    path = "/api/v1/buckets/photos/objects/dir/b"
    got, head = api.get(path), api.head(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("ETag", "Last-Modified", "Content-Type", "Content-Length"):
        assert head.headers[name] == got.headers[name], name
    assert int(head.headers["Content-Length"]) == len(got.content)
    assert api.head("/api/v1/buckets/photos/objects/none").status_code == 404


def test_a_lease(api: APIClient, lab: Lab) -> None:
    answer = api.post("/api/v1/buckets/photos/leases", {"count": 10, "max_bytes": 100, "prefix": "in/"})
    assert answer.status_code == 201
    body = answer.json()
    assert body.keys() == {"volume", "first", "count", "max_bytes", "url", "expires_at", "chunk_size"}
    assert (body["volume"], body["count"], body["max_bytes"]) == (lab.volume.pk, 10, 100)
    assert re.fullmatch(r"[0-9a-f]{12}0000", body["first"])
    assert body["url"].count("{needle}") == 1
    [verdict] = lab.confirm(Put(body["url"], int(body["first"], 16), 5, "in/k"))
    assert verdict.as_json()["state"] == "committed"
    for wrong, field in (
        ({"max_bytes": 1}, "count"),
        ({"count": 0, "max_bytes": 1}, "count"),
        ({"count": 4097, "max_bytes": 1}, "count"),
        ({"count": 1, "max_bytes": 1 << 28}, "max_bytes"),
        ({"count": 1, "max_bytes": -1}, "max_bytes"),
        ({"count": 1, "max_bytes": 1, "prefix": "x" * 1025}, "prefix"),
    ):
        refused = api.post("/api/v1/buckets/photos/leases", wrong)
        assert (refused.status_code, list(refused.json()["errors"])) == (400, [field])
    assert api.post("/api/v1/buckets/none/leases", {"count": 1, "max_bytes": 1}).json()["code"] == "bucket_unknown"


def test_an_upload(api: APIClient, lab: Lab, settings: Any) -> None:
    settings.WAREHOUSE_CHUNK_SIZE = 100
    answer = api.post(
        "/api/v1/buckets/photos/uploads",
        {"key": "big", "size": 150, "content_type": "a/b", "metadata": {"x": "y"}, "if_none_match": "*"},
    )
    assert answer.status_code == 201
    body = answer.json()
    assert body.keys() == {"id", "chunk_size", "chunks", "expires_at"}
    assert body["chunk_size"] == 100
    assert [(chunk["index"], chunk["offset"], chunk["size"]) for chunk in body["chunks"]] == [(0, 0, 100), (1, 100, 50)]
    assert "{needle}" not in body["chunks"][0]["url"]
    path = f"/api/v1/uploads/{body['id']}"
    state = api.get(path).json()
    assert state.keys() >= {"id", "missing", "expires_at"}
    assert [chunk["index"] for chunk in state["missing"]] == [0, 1]
    assert state["missing"][0].keys() == {"index", "offset", "size", "url"}
    chunk = body["chunks"][0]
    lab.confirm(Put(chunk["url"], needle_of(chunk["url"]), 100))
    assert [chunk["index"] for chunk in api.get(path).json()["missing"]] == [1]
    assert api.delete(path).status_code == 204
    assert (api.delete(path).status_code, api.delete(path).json()["code"]) == (409, "upload_over")
    assert api.get(path).json()["missing"] == []
    assert api.get("/api/v1/uploads/00000000-0000-0000-0000-000000000000").json()["code"] == "upload_unknown"
    assert api.get("/api/v1/uploads/x").status_code == 404
    for wrong, field in (
        ({"size": 1}, "key"),
        ({"key": "k"}, "size"),
        ({"key": "k", "size": -1}, "size"),
        ({"key": "k", "size": "x"}, "size"),
        ({"key": "k", "size": 1, "metadata": {"a": 1}}, "metadata.a"),
        ({"key": "k", "size": 1, "metadata": []}, "metadata"),
        ({"key": "k", "size": 1, "if_none_match": "abc"}, "if_none_match"),
        ({"key": "k", "size": 1, "if_match": '"'}, "if_match"),
        ({"key": "k", "size": 1, "if_match": ""}, "if_match"),
        ({"key": "k", "size": 1, "if_match": " "}, "if_match"),
    ):
        refused = api.post("/api/v1/buckets/photos/uploads", wrong)
        assert (refused.status_code, list(refused.json()["errors"])) == (400, [field]), wrong


def test_text_that_is_none(api: APIClient, lab: Lab) -> None:
    for path, body, field in (
        ("uploads", r'{"key": "\ud800", "size": 1}', "key"),
        ("uploads", r'{"key": "k", "size": 1, "metadata": {"a": "\ud800"}}', "metadata.a"),
        ("uploads", r'{"key": "k", "size": 1, "if_match": "\u0000"}', "if_match"),
        ("downloads", r'{"keys": ["\udc00"]}', "keys.0"),
        ("leases", r'{"count": 1, "max_bytes": 1, "prefix": "\udc00"}', "prefix"),
    ):
        answer = api.post(f"/api/v1/buckets/photos/{path}", body, content_type="application/json")
        assert (answer.status_code, list(answer.json()["errors"])) == (400, [field]), body


def test_rights(filled: Lab) -> None:
    bits = int(Permission.OBJECTS_READ | Permission.OBJECTS_WRITE | Permission.OBJECTS_DELETE)
    inside = client_of(make_key(grants=(GrantRow("photos", "dir/", bits),)))
    base = "/api/v1/buckets/photos"
    assert [row["key"] for row in inside.get(f"{base}/objects").json()["results"]] == ["dir/b", "dir/c"]
    assert inside.get(f"{base}/objects/dir/b").status_code == 200
    found = inside.post(f"{base}/downloads", {"keys": ["a", "dir/b"]}).json()
    assert ([row["key"] for row in found["objects"]], found["missing"]) == (["dir/b"], ["a"])
    # 403 by name, whether it is there or not.
    for key in ("a", "none"):
        assert inside.get(f"{base}/objects/{key}").status_code == 403
        assert inside.get(f"{base}/content/{key}").status_code == 403
        assert inside.patch(f"{base}/objects/{key}", {}).status_code == 403
        assert inside.delete(f"{base}/objects/{key}").status_code == 403
        assert inside.post(f"{base}/uploads", {"key": key, "size": 1}).status_code == 403
        assert inside.post(f"{base}/delete", {"keys": ["dir/b", key]}).status_code == 403
    assert Object.objects.count() == 4
    lease = {"count": 1, "max_bytes": 1}
    assert inside.post(f"{base}/leases", lease).status_code == 403
    assert inside.post(f"{base}/leases", lease | {"prefix": "di"}).status_code == 403
    assert inside.post(f"{base}/leases", lease | {"prefix": "dir/b"}).status_code == 201
    upload = inside.post(f"{base}/uploads", {"key": "dir/new", "size": 1})
    assert upload.status_code == 201
    outside = client_of(make_key(grants=(GrantRow("photos", "other/", bits), GrantRow("none", "", bits))))
    assert outside.get(f"/api/v1/uploads/{upload.json()['id']}").status_code == 403
    assert outside.delete(f"/api/v1/uploads/{upload.json()['id']}").status_code == 403
    assert outside.get(f"{base}/objects").json()["results"] == []
    assert outside.get("/api/v1/buckets/none/objects").status_code == 404
    for method, path, body in (
        ("get", "objects", None),
        ("get", "objects/a", None),
        ("get", "content/a", None),
        ("post", "downloads", {"keys": []}),
        ("post", "stat", {"keys": []}),
        ("post", "delete", {"keys": []}),
        ("post", "leases", lease),
        ("post", "uploads", {"key": "k", "size": 1}),
    ):
        nobody = client_of(make_key(permissions=int(Permission.BUCKETS_READ)))
        answer = getattr(nobody, method)(f"{base}/{path}", body)
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied"), path
        assert getattr(APIClient(), method)(f"{base}/{path}", body).status_code == 401, path


def test_nothing_answers_behind_a_slash(api: APIClient, filled: Lab) -> None:
    for path in ("buckets/", "buckets/photos/", "buckets/photos/objects/", "buckets/photos/leases/"):
        assert api.get(f"/api/v1/{path}").status_code == 404, path


def test_confirm_takes_no_token(filled: Lab) -> None:
    answer = Client().post("/api/v1/internal/confirm", b"{}", content_type="application/json")
    assert (answer.status_code, answer.json()["code"]) == (401, "signature_invalid")
    assert Client().get("/api/v1/internal/confirm").status_code == 405


def test_the_chunks_of_an_upload_are_downloaded_in_order(api: APIClient, lab: Lab, settings: Any) -> None:
    from buckets.services.uploads import create_upload

    settings.WAREHOUSE_CHUNK_SIZE = 10
    slots = create_upload(bucket="photos", holder=lab.rights, key="big", size=25)
    lab.confirm(*[chunk_put(chunk) for chunk in reversed(slots.chunks)])
    [row] = api.post("/api/v1/buckets/photos/downloads", {"keys": ["big"]}).json()["objects"]
    assert [(chunk["index"], chunk["offset"], chunk["size"]) for chunk in row["chunks"]] == [
        (0, 0, 10),
        (1, 10, 10),
        (2, 20, 5),
    ]
