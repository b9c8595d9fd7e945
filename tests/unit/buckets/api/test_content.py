"""Bytes through `content`: redirects, and streams of several chunks from a server that holds them."""

import threading
import zlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.http import http_date
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.test import APIClient

from buckets.api.ranges import Unsatisfiable, parse_range
from buckets.models import Chunk, Object
from buckets.selectors.objects import find_objects
from buckets.services import content
from buckets.services.buckets import BucketSettings, create_bucket, update_bucket
from buckets.services.uploads import create_upload
from keys.models import ApiKey
from keys.permissions import Permission
from keys.rights import GrantRow
from tests.unit.buckets.api.conftest import client_of
from tests.unit.buckets.lab import Lab, chunk_put, forget_caches, make_key
from tests.unit.volumes.fake_server import FakeVolumeServer
from volumes.models import Server

PATH = "/api/v1/buckets/photos/content/dir/big%20one.html"
BODY = bytes(range(250))


class AnyQuery(dict[str, bytes]):
    """The fake's bodies, found by path alone: that signatures are good is tested where they are made."""

    def __contains__(self, target: object) -> bool:
        return super().__contains__(urlsplit(str(target)).path)

    def __getitem__(self, target: str) -> bytes:
        return super().__getitem__(urlsplit(target).path)


@pytest.fixture
def big(lab: Lab, fake_server: FakeVolumeServer, settings: Any) -> Iterator[Object]:
    """An object of three chunks."""
    settings.WAREHOUSE_CHUNK_SIZE = 100
    Server.objects.filter(pk=lab.server.pk).update(public_url=fake_server.url)
    forget_caches()
    slots = create_upload(
        bucket="photos", holder=lab.rights, key="dir/big one.html", size=250, content_type="text/html"
    )
    lab.confirm(*[chunk_put(chunk) for chunk in slots.chunks])
    fake_server.bodies = AnyQuery()
    for chunk in Chunk.objects.all():
        body = BODY[chunk.index * 100 :][:100]
        Chunk.objects.filter(pk=chunk.pk).update(crc32=zlib.crc32(body))
        fake_server.bodies[f"/{chunk.volume_id}/{chunk.needle:016x}"] = body
    yield Object.objects.get()
    # Whatever happened, every stream was closed.
    free = content._streams._value
    assert free == content._streams._initial_value  # type: ignore[attr-defined]


def body_of(answer: Any) -> bytes:
    """All of it; the test client closes the answer at its end, as a server does."""
    return b"".join(answer.streaming_content)


def test_one_chunk_is_a_redirect(api: APIClient, lab: Lab) -> None:
    lab.put("k", content_type="text/html")
    for method in (api.get, api.head):
        answer = method("/api/v1/buckets/photos/content/k", headers={"Accept": "image/png"})
        assert answer.status_code == 307
        url = answer.headers["Location"]
        assert url.startswith(f"{lab.server.public_url}/{lab.volume.pk}/")
        assert "ct=text%2Fhtml" in url
        assert "cd=inline" not in url
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Last-Modified"] == http_date(Object.objects.get().updated_at.timestamp())
    missing = api.get("/api/v1/buckets/photos/content/none", headers={"Accept": "text/html"})
    assert (missing.status_code, missing.json()["code"]) == (404, "object_unknown")
    assert api.get("/api/v1/buckets/none/content/k").json()["code"] == "bucket_unknown"


def test_several_chunks_are_one_stream(api: APIClient, big: Object) -> None:
    answer = api.get(PATH)
    assert answer.status_code == 200
    assert body_of(answer) == BODY
    headers = answer.headers
    assert headers["Content-Length"] == "250"
    assert headers["Content-Type"] == "text/html"
    assert headers["Content-Disposition"] == 'attachment; filename="big one.html"'
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"].startswith("sandbox")
    assert headers["ETag"] == f'"{big.etag}"'
    assert headers["Accept-Ranges"] == "bytes"


def test_head_opens_nothing(api: APIClient, big: Object, fake_server: FakeVolumeServer) -> None:
    answer = api.head(PATH)
    assert (answer.status_code, answer.headers["Content-Length"], answer.content) == (200, "250", b"")
    assert fake_server.requests == []


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-99", 0, 99),
        ("bytes=99-100", 99, 100),
        ("bytes=150-", 150, 249),
        ("bytes=-1", 249, 249),
        ("bytes=-1000", 0, 249),
        ("bytes=10-9999", 10, 249),
    ],
)
def test_ranges(api: APIClient, big: Object, asked: str, first: int, last: int) -> None:
    answer = api.get(PATH, headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/250"
    assert body_of(answer) == BODY[first : last + 1]


def test_conditions(api: APIClient, big: Object) -> None:
    etag = f'"{big.etag}"'
    for name in (etag, f"W/{etag}", "*"):
        fresh = api.get(PATH, headers={"If-None-Match": name})
        assert (fresh.status_code, fresh.headers["ETag"]) == (304, etag)
        assert fresh.content == b""
        whole = api.head(PATH).headers
        for header in ("Content-Length", "Content-Type", "Cache-Control", "Content-Security-Policy", "Last-Modified"):
            assert fresh.headers[header] == whole[header], header
    assert body_of(api.get(PATH, headers={"If-None-Match": '"x"'})) == BODY
    for other in ('"x"', ""):
        assert api.get(PATH, headers={"If-Match": other}).status_code == 412
    assert body_of(api.get(PATH, headers={"Range": "bytes=0-0", "If-Range": etag})) == BODY[:1]
    assert body_of(api.get(PATH, headers={"Range": "bytes=0-0", "If-Range": '"x"'})) == BODY
    behind = api.get(PATH, headers={"Range": "bytes=250-"})
    assert (behind.status_code, behind.headers["Content-Range"]) == (416, "bytes */250")
    assert behind.json()["code"] == "range_unsatisfiable"


def test_a_wrong_byte_is_never_given_out(api: APIClient, big: Object, fake_server: FakeVolumeServer) -> None:
    for target, body in list(fake_server.bodies.items()):
        if body == BODY[100:200]:
            fake_server.bodies[target] = body[:-1] + b"X"
    answer = api.get(PATH)
    assert answer.status_code == 200
    given: list[bytes] = []
    with pytest.raises(content.NeedleUnreadable, match="chunk 1 "):
        given.extend(answer.streaming_content)
    assert b"".join(given) == BODY[:100]


def test_what_cannot_be_read_at_all_is_an_error(api: APIClient, big: Object, fake_server: FakeVolumeServer) -> None:
    fake_server.bodies.clear()
    answer = api.get(PATH)
    assert (answer.status_code, answer.json()["code"]) == (503, "chunk_unreadable")
    assert "chunk 0 " in answer.json()["detail"]


def test_a_server_that_is_known_to_be_silent_is_not_waited_for(
    api: APIClient, big: Object, fake_server: FakeVolumeServer
) -> None:
    Server.objects.update(last_seen_at=timezone.now() - timedelta(minutes=1))
    forget_caches()
    answer = api.get(PATH)
    assert (answer.status_code, answer.json()["code"]) == (503, "chunk_unreadable")
    assert "offline" in answer.json()["detail"]
    assert answer.headers["Retry-After"]
    assert fake_server.requests == []


def test_a_quarter_of_the_threads_may_stream(api: APIClient, big: Object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "_streams", threading.BoundedSemaphore(1))
    first = api.get(PATH)
    assert first.status_code == 200
    busy = api.get(PATH)
    assert (busy.status_code, busy.json()["code"]) == (503, "busy")
    assert busy.headers["Retry-After"]
    assert body_of(first) == BODY
    assert body_of(api.get(PATH)) == BODY


def test_a_client_that_leaves_frees_its_place(big: Object, lab: Lab) -> None:
    found = find_objects(bucket_id=big.bucket_id, keys=[big.key])[big.key]
    for _ in range(100):
        stream = content.ObjectStream(found, reader=lab.rights, first=0, last=249)
        assert next(stream) == BODY[:100]
        stream.close()
        stream.close()


class TestPublicBuckets:
    """What those may who say not who they are."""

    @pytest.fixture
    def public(self, lab: Lab) -> Lab:
        lab.put_many("k", "k2")
        create_bucket(name="closed")
        lab.put("k", bucket="closed")
        update_bucket(name="photos", settings=BucketSettings(visibility="public-read"))
        return lab

    @pytest.fixture
    def anybody(self) -> APIClient:
        return APIClient()

    def test_objects_are_read_on_nobodys_behalf(self, public: Lab, anybody: APIClient) -> None:
        for method in (anybody.get, anybody.head):
            answer = method("/api/v1/buckets/photos/content/k")
            assert answer.status_code == 307
            assert "&key=0.0&" in answer.headers["Location"]
        missing = anybody.get("/api/v1/buckets/photos/content/none")
        assert (missing.status_code, missing.json()["code"]) == (404, "object_unknown")

    def test_no_key_is_nobody(self, public: Lab) -> None:
        with pytest.raises(IntegrityError), transaction.atomic():
            ApiKey.objects.create(pk=0, name="x", secret_hash="x")

    def test_large_objects_are_streamed_within_the_same_limit(
        self, big: Object, anybody: APIClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        update_bucket(name="photos", settings=BucketSettings(visibility="public-read"))
        monkeypatch.setattr(content, "_streams", threading.BoundedSemaphore(1))
        first = anybody.get(PATH)
        assert anybody.get(PATH).json()["code"] == "busy"
        assert body_of(first) == BODY

    @pytest.mark.parametrize(
        "path", ["closed/content/k", "closed/content/none", "none/content/k", "closed/content/%00"]
    )
    def test_of_others_nothing_is_told(self, public: Lab, anybody: APIClient, path: str) -> None:
        answer, other = (anybody.get(f"/api/v1/buckets/{one}") for one in (path, "never-made"))
        assert answer.status_code == 401
        told = ("type", "title", "status", "code", "detail")
        assert [answer.json()[name] for name in told] == [other.json()[name] for name in told]
        assert answer.headers["WWW-Authenticate"] == other.headers["WWW-Authenticate"]

    def test_all_else_stays_closed(self, public: Lab, anybody: APIClient) -> None:
        for method, path in (
            ("get", ""),
            ("patch", ""),
            ("delete", ""),
            ("get", "/objects"),
            ("get", "/objects/k"),
            ("delete", "/objects/k"),
            ("post", "/content/k"),
            ("options", "/content/k"),
            ("post", "/downloads"),
            ("post", "/leases"),
        ):
            answer = getattr(anybody, method)(f"/api/v1/buckets/photos{path}", {"keys": ["k"]})
            assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated"), (method, path)

    def test_private_again_is_closed_at_once(self, public: Lab, anybody: APIClient) -> None:
        update_bucket(name="photos", settings=BucketSettings(visibility="private"))
        assert anybody.get("/api/v1/buckets/photos/content/k").status_code == 401

    def test_a_key_may_no_less_than_anybody(self, public: Lab) -> None:
        other = client_of(make_key(grants=(GrantRow("photos", "k2", int(Permission.OBJECTS_READ)),)))
        assert "&key=0.0&" in other.get("/api/v1/buckets/photos/content/k").headers["Location"]
        assert "&key=0.0&" not in other.get("/api/v1/buckets/photos/content/k2").headers["Location"]
        assert other.get("/api/v1/buckets/closed/content/k").status_code == 403
        assert other.get("/api/v1/buckets/photos/objects/k").status_code == 403


@pytest.mark.parametrize(
    "header", ["", "bytes", "bytes=", "bytes=-", "items=0-1", "bytes=0-1,3-4", "bytes=5-4", "bytes=a-b", "bytes=٣-"]
)
def test_headers_that_ask_for_no_range(header: str) -> None:
    assert parse_range(header, 10) is None


@pytest.mark.parametrize(("header", "size"), [("bytes=10-", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-5", 0)])
def test_ranges_behind_the_end(header: str, size: int) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(header, size)


@given(st.text(alphabet="bytes=-0123456789, ", max_size=30), st.integers(0, 50))
def test_a_range_is_inside(header: str, size: int) -> None:
    try:
        found = parse_range(header, size)
    except Unsatisfiable:
        return
    if found is not None:
        assert 0 <= found[0] <= found[1] < size
