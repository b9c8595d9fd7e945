"""Downloads: an object, and archives of what was chosen, for those who may read it."""

import io
import threading
import zipfile
import zlib
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from django.test import Client

from buckets.errors import NeedleUnreadable
from buckets.models import Chunk, Object
from buckets.services import archives, content
from buckets.web import objects
from keys.models import ApiKey
from keys.permissions import Permission
from keys.rights import GrantRow
from tests.unit.buckets.api.test_content import BODY, AnyQuery, big, body_of  # noqa: F401 - a fixture
from tests.unit.buckets.lab import Lab, forget_caches, make_key
from tests.unit.volumes.fake_server import FakeVolumeServer
from volumes.models import Server

READ = int(Permission.OBJECTS_READ)
HOSTILE = "a b/<img onerror=…>#?%.txt"
ARCHIVE = "/buckets/photos/archive"


def signed_in(key: ApiKey) -> Client:
    client = Client()
    client.force_login(key)
    return client


@pytest.fixture
def reader(db: None) -> Client:
    return signed_in(make_key(permissions=READ))


@pytest.fixture
def visitor(db: None) -> Client:
    """Somebody who may read one folder."""
    return signed_in(make_key(grants=(GrantRow("photos", "a b/", READ),)))


@pytest.fixture
def filled(lab: Lab, fake_server: FakeVolumeServer) -> dict[str, bytes]:
    """A few objects whose bytes can be had."""
    Server.objects.filter(pk=lab.server.pk).update(public_url=fake_server.url)
    forget_caches()
    fake_server.bodies = AnyQuery()
    bodies = {HOSTILE: b"hostile", "a b/c/deep.txt": b"deep", "a b/empty": b"", "e.txt": b"e" * 9, "../out": b"out"}
    for key, body in bodies.items():
        lab.put(key, size=len(body))
        chunk = Chunk.objects.get(object__key=key)
        Chunk.objects.filter(pk=chunk.pk).update(crc32=zlib.crc32(body))
        fake_server.bodies[f"/{chunk.volume_id}/{chunk.needle:016x}"] = body
    return bodies


def unpacked(answer: Any) -> dict[str, bytes]:
    assert answer.status_code == 200, answer.content
    with zipfile.ZipFile(io.BytesIO(body_of(answer))) as opened:
        assert opened.testzip() is None
        return {name: opened.read(name) for name in opened.namelist()}


def test_an_object_of_one_chunk_is_its_volume_server_s(reader: Client, lab: Lab) -> None:
    lab.put(HOSTILE, size=9)
    answer = reader.get(f"/buckets/photos/download?key={quote(HOSTILE)}")
    assert answer.status_code == 307
    url = answer.headers["Location"]
    assert url.startswith(f"{lab.server.public_url}/{lab.volume.pk}/")
    assert parse_qs(urlsplit(url).query)["fn"] == [HOSTILE.rpartition("/")[2]]
    assert "cd=inline" not in url
    assert reader.get("/buckets/photos/download?key=none").status_code == 404
    assert reader.get("/buckets/none/download?key=none").status_code == 404


def test_nobody_is_sent_to_a_server_that_is_known_to_be_silent(
    reader: Client, filled: dict[str, bytes], fake_server: FakeVolumeServer
) -> None:
    Server.objects.update(last_seen_at=None)
    forget_caches()
    for path in ("download?key=e.txt", "preview?key=e.txt", "archive"):
        answer = reader.get(f"/buckets/photos/{path}")
        assert answer.status_code == 503, path
        assert "The server that holds this object is offline." in answer.content.decode(), path
    assert fake_server.requests == []


def test_an_object_of_several_chunks_is_a_stream(reader: Client, big: Object) -> None:  # noqa: F811
    path = "/buckets/photos/download?key=dir/big%20one.html"
    whole = reader.get(path)
    assert body_of(whole) == BODY
    assert whole.headers["Content-Length"] == "250"
    assert whole.headers["Content-Disposition"] == 'attachment; filename="big one.html"'
    assert "sandbox" in whole.headers["Content-Security-Policy"]
    rest = reader.get(path, headers={"Range": "bytes=240-", "If-Range": whole.headers["ETag"]})
    assert (rest.status_code, rest.headers["Content-Range"]) == (206, "bytes 240-249/250")
    assert body_of(rest) == BODY[240:]


def test_what_a_key_may_not_read_it_does_not_get(visitor: Client, filled: dict[str, bytes]) -> None:
    assert visitor.get("/buckets/photos/download?key=e.txt").status_code == 403
    assert visitor.post(ARCHIVE, {"key": [HOSTILE, "e.txt"]}).status_code == 303, "told beside the list"
    assert set(unpacked(visitor.get(f"{ARCHIVE}?prefix="))) == {key for key in filled if key.startswith("a b/")}
    nobody = signed_in(make_key(permissions=int(Permission.OBJECTS_WRITE)))
    assert nobody.get(ARCHIVE).status_code == 403
    assert nobody.get("/buckets/photos/download?key=e.txt").status_code == 403
    assert Client().get(f"{ARCHIVE}?prefix=a").headers["Location"].startswith("/sign-in?next=")


@pytest.mark.parametrize("key", ["", "a%00b", "x" * 1025])
def test_no_database_is_asked_for_what_is_no_key(
    reader: Client, lab: Lab, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL would take a NUL for an error of ours."""
    monkeypatch.setattr(objects, "find_objects", None)
    monkeypatch.setattr(archives, "list_objects", None)
    for page in ("download", "preview"):
        assert reader.get(f"/buckets/photos/{page}?key={key}").status_code == 400
    assert not key or reader.get(f"{ARCHIVE}?prefix={key}").status_code == 400


def test_a_folder_is_an_archive(reader: Client, filled: dict[str, bytes]) -> None:
    answer = reader.get(f"{ARCHIVE}?prefix={quote('a b/')}")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="a b.zip"'
    assert answer.headers["Content-Type"] == "application/zip"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert unpacked(answer) == {key: body for key, body in filled.items() if key.startswith("a b/")}
    inner = reader.get(f"{ARCHIVE}?prefix={quote('a b/c/')}")
    assert unpacked(inner) == {"c/deep.txt": b"deep"}


def test_what_is_chosen_is_an_archive(reader: Client, filled: dict[str, bytes]) -> None:
    chosen = {"key": ["a b/empty", "a b/c/deep.txt", "a b/gone"], "prefix": ["a b/c/"], "from": "a b/"}
    assert unpacked(reader.post(ARCHIVE, chosen)) == {"empty": b"", "c/deep.txt": b"deep"}
    [outside] = unpacked(reader.post(ARCHIVE, {"key": "../out", "from": ""}))
    assert outside.startswith("_~")
    assert reader.post(ARCHIVE, {"key": "gone"}).status_code == 303, "told beside the list"
    assert reader.post(ARCHIVE, {}).status_code == 303


def test_the_whole_bucket_page_after_page(
    reader: Client, filled: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "PAGE", 2)
    monkeypatch.setattr(archives, "BATCH_OBJECTS", 2)
    monkeypatch.setattr(archives, "PIECE_BYTES", 10)
    answer = reader.get(ARCHIVE)
    assert answer.headers["Content-Disposition"] == 'attachment; filename="photos.zip"'
    found = unpacked(answer)
    assert sorted(found.values()) == sorted(filled.values())


def test_large_objects_have_the_crc_of_all_their_chunks(reader: Client, big: Object) -> None:  # noqa: F811
    assert unpacked(reader.get(f"{ARCHIVE}?prefix=dir/")) == {"dir/big one.html": BODY}


def test_an_archive_that_breaks_off_is_none(
    reader: Client, filled: dict[str, bytes], fake_server: FakeVolumeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "PIECE_BYTES", 1)
    chunk = Chunk.objects.get(object__key="e.txt")
    fake_server.bodies[f"/{chunk.volume_id}/{chunk.needle:016x}"] = b"x" * 9
    answer = reader.get(ARCHIVE)
    given: list[bytes] = []
    with pytest.raises(NeedleUnreadable):
        given.extend(answer.streaming_content)
    assert not zipfile.is_zipfile(io.BytesIO(b"".join(given)))
    answer.close()


def test_archives_take_the_places_of_streams(
    reader: Client, filled: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "_streams", threading.BoundedSemaphore(1))
    first = reader.get(ARCHIVE)
    busy = reader.get(ARCHIVE)
    assert (busy.status_code, busy.headers["Retry-After"]) == (503, "1")
    assert unpacked(first)
    assert unpacked(reader.get(ARCHIVE))
