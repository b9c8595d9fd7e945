"""The preview's view: who may, what is read for it, and under which headers it comes."""

import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from django.template.loader import render_to_string
from django.test import Client, RequestFactory

from buckets.models import Object
from buckets.services.content import read_object
from buckets.web import preview
from keys.permissions import Permission
from keys.rights import GrantRow
from tests.unit.buckets.api.test_content import AnyQuery
from tests.unit.buckets.lab import Lab, forget_caches, make_key
from tests.unit.volumes.fake_server import FakeVolumeServer
from volumes.models import Server

HOSTILE = "dir//../a b<img src=x onerror=alert(1)>\u202e&#?%00\n.txt"
MARKUP = b"<script>alert(1)</script><img src=x onerror=alert(1)>"

Put = Callable[..., Object]


@pytest.fixture
def put(lab: Lab, fake_server: FakeVolumeServer) -> Put:
    """Puts an object whose bytes a volume server has."""
    Server.objects.filter(pk=lab.server.pk).update(public_url=fake_server.url)
    forget_caches()
    fake_server.bodies = AnyQuery()

    def make(key: str, body: bytes, **fields: Any) -> Object:
        lab.put(key, size=len(body), **fields)
        made = Object.objects.get(key=key)
        made.chunks.update(crc32=zlib.crc32(body))
        for chunk in made.chunks.all():
            fake_server.bodies[f"/{chunk.volume_id}/{chunk.needle:016x}"] = body
        return made

    return make


@pytest.fixture
def reader(db: None) -> Client:
    return signed_in(GrantRow("photos", "", int(Permission.OBJECTS_READ)))


def signed_in(*grants: GrantRow) -> Client:
    client = Client()
    client.force_login(make_key(grants=grants))
    return client


def at(key: str, **query: object) -> str:
    return f"/buckets/photos/preview?{urlencode({'key': key, **query})}"


def test_who_may(put: Put, client: Client, reader: Client) -> None:
    put("dir/k.txt", b"hello")
    anybody = client.get(at("dir/k.txt"))
    assert anybody.status_code == 303
    assert anybody.headers["Location"].startswith("/sign-in?")
    for other in (GrantRow("photos", "else/", 1), GrantRow("photos", "", int(Permission.OBJECTS_WRITE))):
        for way in ("formatted", "raw", "file"):
            refused = signed_in(other).get(at("dir/k.txt", **{"as": way}))
            assert refused.status_code == 403
            assert b"hello" not in refused.content
    assert reader.get(at("dir/none.txt")).status_code == 404
    assert reader.get("/buckets/nowhere/preview?key=k").status_code in (403, 404)
    for key in ("", "a\0b", "a" * 2000):
        assert reader.get(at(key)).status_code == 400
    assert b"hello" in reader.get(at("dir/k.txt")).content


def test_nothing_runs_in_the_frame(put: Put, reader: Client) -> None:
    put(HOSTILE, MARKUP, content_type="text/html")
    for way in ("formatted", "raw", "file", "<b>"):
        page = reader.get(at(HOSTILE, **{"as": way}))
        assert page.status_code == 200
        policy = page.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; img-src 'self'; style-src 'self'; ")
        assert "; sandbox allow-popups allow-popups-to-escape-sandbox" in policy
        assert "script" not in policy
        assert "frame-ancestors 'self'" in policy
        assert page.headers["X-Frame-Options"] == "SAMEORIGIN"
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert page.headers["Cache-Control"] == "no-store"
        text = page.content.decode()
        assert "<script" not in text
        assert "<img" not in text
        assert "\u202e" not in text
        assert "&lt;script&gt;alert(1)" in text


@pytest.mark.parametrize(
    ("key", "body", "shown"),
    [
        ("a.md", b"# Hi\n[x](javascript:alert(1)) <b>", "<h2>Hi</h2>"),
        ("a.csv", b"n,m\n=1+1,<b>\n", "<bdi>=1+1</bdi>"),
        ("a.json", b'{"a": ["<b>"]}', '<span class="name">a</span>'),
        ("a.py", b"import os  # <b>", '<span class="k">import</span>'),
        ("a.bin", b"\0\1<b>", "00 01 3c 62 3e"),
        ("a.zip", b"PK\3\4 nothing <b>", "This is no ZIP archive"),
        ("a.tar.gz", b"\x1f\x8b <b>", "This is no archive"),
        ("a.pdf", b"<html><b>no PDF at all", "&lt;html&gt;"),
    ],
)
def test_each_kind_in_its_form(put: Put, reader: Client, key: str, body: bytes, shown: str) -> None:
    put(key, body)
    text = reader.get(at(key)).content.decode()
    assert shown in text
    assert "<b>no" not in text
    assert "javascript:alert(1)&quot;" not in text
    assert 'href="javascript' not in text


def test_only_what_is_shown_is_read(put: Put, reader: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def watch(found: Any, *, first: int, last: int, **more: Any) -> Any:
        read.append(last - first + 1)
        return read_object(found, first=first, last=last, **more)

    monkeypatch.setattr(preview, "read_object", watch)
    put("a.log", b"0123456789abcde\n" * (1 << 16))
    put("a.bin", bytes(1 << 20))
    for key, window, most in (("a.log", "", 128 << 10), ("a.log", 512 << 10, 512 << 10), ("a.bin", "", 16 << 10)):
        read.clear()
        page = reader.get(at(key, bytes=window))
        assert page.status_code == 200
        assert sum(read) == most
    put("empty.log", b"")
    read.clear()
    assert b"it has no bytes" in reader.get(at("empty.log")).content
    assert read == []


def test_pictures_come_from_their_volume_server(put: Put, reader: Client, fake_server: FakeVolumeServer) -> None:
    put("a.svg", b"<svg/>", content_type="text/html")
    answer = reader.get(at("a.svg", **{"as": "file"}))
    assert answer.status_code == 307
    assert answer.headers["Location"].startswith(fake_server.url)
    query = parse_qs(urlsplit(answer.headers["Location"]).query)
    assert query["ct"] == ["image/svg+xml"], "whatever it was uploaded as"
    assert query["cd"] == ["inline"]
    put("a.html", MARKUP, content_type="image/evil")
    assert reader.get(at("a.html", **{"as": "file"})).status_code == 200, "only what is a picture, a sound or a film"


def test_pdf_goes_to_the_viewer_of_the_browser(put: Put, reader: Client) -> None:
    put("a.pdf", b"%PDF-1.7 and so on", content_type="text/html")
    answer = reader.get(at("a.pdf"))
    assert answer.headers["Content-Type"] == "application/pdf"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "script" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
    assert b"".join(answer.streaming_content) == b"%PDF-1.7 and so on"  # type: ignore[attr-defined]
    part = reader.get(at("a.pdf"), headers={"Range": "bytes=1-3"})
    assert (part.status_code, b"".join(part.streaming_content)) == (206, b"PDF")  # type: ignore[attr-defined]
    raw = reader.get(at("a.pdf", **{"as": "raw"}))
    assert raw.headers["Content-Type"].startswith("text/html")


def test_what_cannot_be_read_is_said_in_the_frame(put: Put, reader: Client, fake_server: FakeVolumeServer) -> None:
    put("a.txt", b"hello")
    fake_server.bodies.clear()
    page = reader.get(at("a.txt"))
    assert page.status_code == 503
    assert page.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert b"No replica of chunk 0 can be read" in page.content


def test_the_place_on_the_page(put: Put, rf: RequestFactory) -> None:
    context = {"bucket": {"name": "photos"}, "object": put(HOSTILE.replace("\n.txt", ".md"), b"x" * 200_000)}

    def slot(**query: str) -> str:
        return render_to_string("preview/slot.html", context, rf.get("/buckets/photos/object", query))

    text = slot()
    assert 'sandbox="allow-popups allow-popups-to-escape-sandbox"' in text
    assert "<img" not in text
    assert urlencode({"key": context["object"].key}) in text  # type: ignore[attr-defined]
    assert "Show more" in text
    assert "bytes=65536" in text
    last = slot(bytes="65536")
    assert "Show more" not in last
    assert 'aria-current="page">Raw' in " ".join(slot(**{"as": "raw"}).split())
    context["object"] = put("film.mp4", b"12345")
    film = slot()
    assert "<video" in film
    assert "as=file" in film
    context["object"] = put("a.pdf", b"%PDF-")
    assert "sandbox" not in slot()
