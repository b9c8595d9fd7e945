"""The link of a share: a page for browsers, the bytes for programs, and nothing for those who may not."""

import base64
import logging
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client
from django.utils import timezone

from buckets.models import Object, Share
from buckets.services.objects import delete_objects, update_object
from buckets.services.shares import NewShare, revoke_share, update_share
from keys.models import ApiKey
from tests.unit.buckets.api.test_content import BODY, big, body_of  # noqa: F401 - a fixture
from tests.unit.buckets.lab import Lab
from tests.unit.buckets.sharing import ENDINGS, end, make_maker, share_of
from volumes.models import Server
from warehouse_site import logs

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
CURL = {"Accept": "*/*"}
HOSTILE = "dir/a b <img src=x onerror=alert(1)>&#?%00%\u202egnp.txt"


@pytest.fixture
def maker(db: None) -> ApiKey:
    return make_maker()


@pytest.fixture
def link(lab: Lab, maker: ApiKey) -> NewShare:
    lab.put("dir/k.txt", size=1234, content_type="text/html")
    return share_of(maker, "dir/k.txt")


def path_of(new: NewShare, rest: str = "") -> str:
    return f"/s/{new.token}{rest}"


def basic(password: str, user: str = "anybody") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def count(new: NewShare) -> int:
    return Share.objects.get(pk=new.share.pk).download_count


def test_a_browser_gets_a_page(client: Client, link: NewShare) -> None:
    update_share(share_id=link.share.pk, max_downloads=3, description="a secret of ours")
    page = client.get(path_of(link), headers=BROWSER)
    assert page.status_code == 200
    text = page.content.decode()
    for shown in ("k.txt", "1.2", "text/html", "3 of 3", path_of(link, "/download")):
        assert shown in text
    for hidden in ("photos", "dir/", "a secret of ours", "<script", "test (1)"):
        assert hidden not in text, hidden
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["X-Robots-Tag"] == "noindex, nofollow"
    assert "Accept" in page.headers["Vary"]
    assert count(link) == 0


@pytest.mark.parametrize(
    "accept", [{"Accept": "*/*"}, {}, {"Accept": "image/png"}, {"Accept": "nonsense"}, {"Accept": "text/html;a*=b''c"}]
)
@pytest.mark.parametrize("rest", ["", "/download"])
def test_a_program_gets_the_bytes(
    client: Client, link: NewShare, lab: Lab, accept: dict[str, str], rest: str, settings: Any
) -> None:
    answer = client.get(path_of(link, rest), headers=accept)
    assert answer.status_code == 307
    url = answer.headers["Location"]
    assert url.startswith(f"{lab.server.public_url}/{lab.volume.pk}/")
    query = parse_qs(urlsplit(url).query)
    assert query["key"] == [f"{link.share.api_key}.1"]
    assert query["fn"] == ["k.txt"]
    assert "cd" not in query
    assert 0 < int(query["exp"][0]) - timezone.now().timestamp() <= 60
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert count(link) == 1
    settings.WAREHOUSE_GET_SECONDS = 5
    again = client.get(path_of(link, rest), headers=accept).headers["Location"]
    assert int(parse_qs(urlsplit(again).query)["exp"][0]) - timezone.now().timestamp() <= 5


def test_inline_is_what_its_maker_says(client: Client, lab: Lab, maker: ApiKey) -> None:
    lab.put("k")
    new = share_of(maker, "k", inline=True)
    assert "cd=inline&" in client.get(path_of(new)).headers["Location"]
    assert client.head(path_of(new)).headers["Content-Disposition"].startswith("inline")
    assert "Open" in client.get(path_of(new), headers=BROWSER).content.decode()


def test_head_tells_and_counts_nothing(client: Client, link: NewShare) -> None:
    update_share(share_id=link.share.pk, max_downloads=1)
    for rest in ("", "/download"):
        answer = client.head(path_of(link, rest), headers=CURL)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["Content-Length"] == "1234"
        assert answer.headers["Content-Type"] == "text/html"
        assert answer.headers["Content-Disposition"] == 'attachment; filename="k.txt"'
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        assert "Location" not in answer.headers
    assert client.head(path_of(link), headers=BROWSER).status_code == 200
    assert count(link) == 0


def test_once_is_once(client: Client, link: NewShare) -> None:
    update_share(share_id=link.share.pk, max_downloads=1)
    assert "fetched once" in client.get(path_of(link), headers=BROWSER).content.decode()
    assert client.get(path_of(link), headers={"Range": "bytes=5-"}).status_code == 307, "a range is a download too"
    for headers in (CURL, BROWSER, {"Range": "bytes=5-"}):
        for rest in ("", "/download"):
            assert client.get(path_of(link, rest), headers=headers).status_code == 410
    assert count(link) == 1


def test_several_chunks_come_through_the_master(client: Client, big: Object, maker: ApiKey) -> None:  # noqa: F811
    new = share_of(maker, big.key, max_downloads=1)
    answer = client.get(path_of(new))
    assert answer.status_code == 307
    place = answer.headers["Location"]
    assert place.startswith(path_of(new, "/content/"))
    for headers in (CURL, BROWSER):
        stream = client.get(place, headers=headers)
        assert stream.status_code == 200
        assert body_of(stream) == BODY
    assert stream.headers["X-Content-Type-Options"] == "nosniff"
    assert stream.headers["Content-Security-Policy"].startswith("sandbox")
    assert stream.headers["Content-Disposition"] == 'attachment; filename="big one.html"'
    assert stream.headers["X-Robots-Tag"] == "noindex, nofollow"
    part = client.get(place, headers={"Range": "bytes=99-100"})
    assert (part.status_code, part.headers["Content-Range"]) == (206, "bytes 99-100/250")
    assert body_of(part) == BODY[99:101]
    assert client.head(place).headers["Content-Length"] == "250"
    assert client.get(place, headers={"Range": "bytes=250-"}).status_code == 416
    assert client.get(path_of(new)).status_code == 410
    assert count(new) == 1
    for wrong in (place + "x", place[:-1], path_of(new, "/content/1")):
        assert client.get(wrong).status_code == 410
    revoke_share(share_id=new.share.pk)
    assert client.get(place).status_code == 410


@pytest.mark.parametrize("change", ["overwritten", "of one chunk", "of other attributes", "deleted", "put again"])
def test_a_counted_download_is_of_one_version(
    client: Client,
    big: Object,  # noqa: F811
    maker: ApiKey,
    lab: Lab,
    change: str,
) -> None:
    """Neither is what the key holds later had uncounted, nor is it taken for the rest of what was cut off."""
    new = share_of(maker, big.key, max_downloads=1)
    place = client.get(path_of(new)).headers["Location"]
    assert body_of(client.get(place, headers={"Range": "bytes=0-149"})) == BODY[:150]
    if change == "of other attributes":
        update_object(bucket="photos", key=big.key, content_type="text/plain")
    if change in ("deleted", "put again"):
        delete_objects(bucket="photos", keys=[big.key])
    if change in ("overwritten", "put again"):
        lab.put_chunks(big.key, size=250)
    if change == "of one chunk":
        lab.put(big.key)
    for headers in (CURL, {"Range": "bytes=150-"}, {"If-None-Match": "*"}, BROWSER):
        answer = client.get(place, headers=headers)
        assert answer.status_code == 410
        if headers is not BROWSER:
            assert answer.json()["code"] == "version_gone"
        assert answer.headers["Cache-Control"] == "no-store"
    assert client.head(place).status_code == 410


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_has_ended_tells_nothing(client: Client, link: NewShare, ending: str) -> None:
    end(link.share, ending, at=timezone.now())
    for rest in ("", "/download"):
        problem = client.get(path_of(link, rest))
        assert problem.status_code == 410
        assert problem.headers["Content-Type"] == "application/problem+json"
        told = problem.json()
        told.pop("request_id")
        assert told == {
            "type": "about:blank",
            "title": "This link has ended",
            "status": 410,
            "code": "share_over",
            "detail": "This link has ended.",
        }
        page = client.get(path_of(link, rest), headers=BROWSER)
        assert page.status_code == 410
        assert "This link has ended" in page.content.decode()
        for answer in (problem, page):
            assert "k.txt" not in answer.content.decode()
            assert answer.headers["Cache-Control"] == "no-store"
    assert client.post(path_of(link), {"password": "x"}).status_code == 410


def test_what_is_gone_and_what_never_was_are_the_same(client: Client, link: NewShare) -> None:
    delete_objects(bucket="photos", keys=["dir/k.txt"])
    for headers in (CURL, BROWSER):
        answers = []
        for path in (path_of(link), path_of(link, "/download"), "/s/" + "x" * 43, "/s/x", "/s/%FF%00ü"):
            answer = client.get(path, headers={**headers, "X-Request-Id": "same"})
            assert answer.status_code == 404, path
            answers.append(answer.content)
        assert len(set(answers)) == 1, headers
    assert count(link) == 0


def test_where_it_is_held_is_not_known_nothing_is_counted(client: Client, link: NewShare, lab: Lab) -> None:
    update_share(share_id=link.share.pk, max_downloads=1)
    from tests.unit.buckets.lab import forget_caches

    lab.volume.replicas.update(state="expected")
    forget_caches()
    assert client.get(path_of(link)).status_code == 503
    assert count(link) == 0


class TestPassword:
    @pytest.fixture
    def locked(self, link: NewShare) -> NewShare:
        update_share(share_id=link.share.pk, password="open: sésame")
        return link

    def test_without_it_nothing_is_told(self, client: Client, locked: NewShare) -> None:
        refused = [client.get(path_of(locked)), client.get(path_of(locked, "/download")), client.head(path_of(locked))]
        for answer in refused:
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        page = client.get(path_of(locked), headers=BROWSER)
        assert page.status_code == 200
        assert 'type="password"' in page.content.decode()
        for answer in [*refused, page]:
            assert "k.txt" not in answer.content.decode()
            assert "1234" not in answer.content.decode()
        back = client.get(path_of(locked, "/download"), headers=BROWSER)
        assert (back.status_code, back.headers["Location"]) == (302, path_of(locked))
        assert count(locked) == 0

    def test_that_the_object_is_gone_is_not_told_either(self, client: Client, locked: NewShare) -> None:
        before = client.get(path_of(locked), headers={"X-Request-Id": "same"})
        delete_objects(bucket="photos", keys=["dir/k.txt"])
        after = client.get(path_of(locked), headers={"X-Request-Id": "same"})
        assert (before.status_code, before.content) == (after.status_code, after.content)
        assert client.get(path_of(locked), headers=basic("open: sésame")).status_code == 404

    def test_by_basic_authentication(self, client: Client, locked: NewShare) -> None:
        for user in ("", "anybody", "ü"):
            assert client.get(path_of(locked), headers=basic("open: sésame", user)).status_code == 307
        assert client.head(path_of(locked), headers=basic("open: sésame")).status_code == 200
        for wrong in (
            basic("wrong"),
            basic(""),
            {"Authorization": "Basic"},
            {"Authorization": "Basic !"},
            {"Authorization": "Basic " + base64.b64encode(b"\xff:\xff").decode()},
            {"Authorization": "Basic " + base64.b64encode(b"open: s").decode()},
            {"Authorization": "Bearer x"},
            basic("x" * 10_000),
        ):
            answer = client.get(path_of(locked), headers=wrong)
            assert (answer.status_code, answer.json()["code"]) == (401, "password_refused"), wrong
        assert count(locked) == 3

    def test_by_its_form(self, locked: NewShare) -> None:
        browser = Client(enforce_csrf_checks=True, headers=BROWSER)
        page = browser.get(path_of(locked))
        assert page.headers["Referrer-Policy"] == "same-origin"
        form = {"csrfmiddlewaretoken": browser.cookies["csrftoken"].value}
        assert browser.post(path_of(locked), {"password": "open: sésame"}).status_code == 403, "no CSRF token"
        wrong = browser.post(path_of(locked), form | {"password": "wrong"})
        assert wrong.status_code == 200
        assert "The password is wrong." in wrong.content.decode()
        assert "share" not in browser.cookies
        assert "k.txt" not in wrong.content.decode()
        right = browser.post(path_of(locked), form | {"password": "open: sésame"})
        assert (right.status_code, right.headers["Location"]) == (303, path_of(locked))
        cookie = browser.cookies["share"]
        assert (cookie["path"], cookie["httponly"], cookie["samesite"]) == (path_of(locked), True, "Lax")
        assert "k.txt" in browser.get(path_of(locked)).content.decode()
        assert browser.get(path_of(locked, "/download")).status_code == 307
        assert count(locked) == 1
        update_share(share_id=locked.share.pk, password="another")
        assert "k.txt" not in browser.get(path_of(locked)).content.decode()

    def test_too_many_wrong_ones(
        self, client: Client, locked: NewShare, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings.WAREHOUSE_FAILED_LOGINS = 2
        monkeypatch.setattr("keys.services.failures._now", lambda: 1e9)
        for _ in range(2):
            assert client.get(path_of(locked), headers=basic("wrong")).status_code == 401
        held_up = client.get(path_of(locked), headers=basic("open: sésame"))
        assert (held_up.status_code, held_up.json()["code"]) == (429, "too_many_failures")
        assert 0 < int(held_up.headers["Retry-After"]) <= 70
        page = client.post(path_of(locked), {"password": "open: sésame"}, headers=BROWSER)
        assert page.status_code == 429
        assert page.headers["Retry-After"]
        elsewhere = client.get(path_of(locked), headers=basic("open: sésame"), REMOTE_ADDR="192.0.2.7")
        assert elsewhere.status_code == 307


def test_hostile_names_are_only_names(client: Client, lab: Lab, maker: ApiKey) -> None:
    lab.put(HOSTILE, content_type="text/html")
    new = share_of(maker, HOSTILE)
    page = client.get(path_of(new), headers=BROWSER).content.decode()
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "<img src=x" not in page
    assert "\u202e" not in page
    [name] = parse_qs(urlsplit(client.get(path_of(new)).headers["Location"]).query)["fn"]
    assert name == HOSTILE.removeprefix("dir/")
    disposition = client.head(path_of(new)).headers["Content-Disposition"]
    assert disposition.startswith("attachment; filename*=utf-8''a%20b%20%3Cimg")
    lab.put("folder/")
    assert "A file without a name" in client.get(path_of(share_of(maker, "folder/")), headers=BROWSER).content.decode()


@pytest.mark.parametrize(
    "key", ["a\n", "a\r\nSet-Cookie: x", 'a"b\\c', "a\x01\x7fb", "\u2028", "x" * 1024, "\U0001f600" * 256, "a/\n"]
)
def test_any_key_fits_the_headers(client: Client, lab: Lab, maker: ApiKey, key: str) -> None:
    lab.put(key)
    new = share_of(maker, key)
    assert client.head(path_of(new)).status_code == 200
    assert client.get(path_of(new)).status_code == 307
    assert client.get(path_of(new), headers=BROWSER).status_code == 200


def test_statements_of_a_use_are_few_and_fixed(
    client: Client, link: NewShare, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    monkeypatch.setattr("keys.selectors.CACHE_SECONDS", 3600)
    monkeypatch.setattr("volumes.services.presign._PLACES_LIVE_S", 3600)
    client.get(path_of(link))  # the maker's rights and the volumes are known from here on
    with django_assert_num_queries(3):
        client.get(path_of(link))
    with django_assert_num_queries(2):
        client.get(path_of(link), headers=BROWSER)


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
def test_nothing_else_is_done_with_a_link(client: Client, link: NewShare, method: str) -> None:
    for rest in ("", "/download", "/content/x"):
        assert getattr(client, method)(path_of(link, rest)).status_code == 405
    assert client.post(path_of(link, "/download")).status_code == 405
    assert client.post(path_of(link)).headers["Location"] == path_of(link), "it has no password"


def test_no_log_tells_a_link(
    client: Client, link: NewShare, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caplog.handler, "formatter", logs.TextFormatter("%(message)s"))
    caplog.set_level(logging.DEBUG)
    revoke_share(share_id=link.share.pk)
    client.get(path_of(link))
    client.get(path_of(link, "/content/1:abc:def-_"))
    Client(enforce_csrf_checks=True).post(path_of(link))
    logging.getLogger("x").warning("GET http://h%s?q %s", path_of(link, "/content/1:abc:def-_"), "more")
    text = caplog.text
    assert "/s/***" in text
    assert "more" in text
    assert link.token not in text
    assert "abc:def" not in text


def test_a_server_in_the_way_is_not_asked(client: Client, link: NewShare) -> None:
    """Only the rows are needed to hand out a URL, so a page and a redirect come while servers are away."""
    Server.objects.update(last_seen_at=None)
    assert client.get(path_of(link), headers=BROWSER).status_code == 200
    assert client.get(path_of(link)).status_code == 307
