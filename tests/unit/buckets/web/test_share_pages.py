"""The pages on which links are made, changed and ended."""

import re
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client
from django.utils import timezone
from django.utils.html import escape

from buckets.models import Bucket, Share
from buckets.services.share_access import check_share_password, open_share
from buckets.services.shares import revoke_share, update_share
from keys.models import ApiKey, AuditEntry
from keys.permissions import Permission
from keys.rights import GrantRow
from tests.unit.buckets.lab import Lab, make_key
from tests.unit.buckets.sharing import SHARING, make_maker, share_of

HOSTILE = "a b/<img src=x onerror=alert(1)>#?%.txt"
SHOWN = escape(HOSTILE)


@pytest.fixture
def maker(db: None) -> ApiKey:
    return make_maker()


@pytest.fixture
def site(client: Client, lab: Lab, maker: ApiKey) -> Client:
    """Signed in with the maker's key; one object with a hostile name, one with a newline in it."""
    lab.put_many(HOSTILE, "two\nlines", "dir/k.txt")
    client.force_login(maker)
    return client


def new_url(key: str = HOSTILE) -> str:
    return f"/new-share?{urlencode({'bucket': 'photos', 'key': key})}"


def terms(**changes: Any) -> dict[str, Any]:
    return {"ends": "week", "downloads": "any", **changes}


def link_in(page: str) -> str:
    """The token of the link that a page shows."""
    return page.split("/s/", 1)[1].split('"', 1)[0]


def test_a_link_is_made_and_shown_once(site: Client, maker: ApiKey) -> None:
    form = site.get(new_url()).content.decode()
    assert SHOWN in form
    assert HOSTILE not in form
    exact = (timezone.now() + timedelta(days=2)).replace(second=0, microsecond=0)
    made = site.post(
        new_url(),
        terms(
            ends="at", expires_at=f"{exact:%Y-%m-%dT%H:%M}", downloads="some", max_downloads="3", password=" open ",
            inline="on", description="for aunt May",
        ),
    )  # fmt: skip
    assert made.status_code == 200
    assert made.headers["Cache-Control"] == "no-store"
    page = made.content.decode()
    share = open_share(token=link_in(page)).share
    assert (share.key, share.api_key, share.expires_at, share.max_downloads) == (HOSTILE, maker.pk, exact, 3)
    assert (share.inline, share.description) == (True, "for aunt May")
    check_share_password(share=share, password=" open ", address="here")
    assert SHOWN in page
    assert HOSTILE not in page
    assert " open " not in page
    for again in ("/shares", f"/shares/{share.pk}"):
        assert link_in(page) not in site.get(again).content.decode()


def test_what_is_chosen_most(site: Client) -> None:
    for name, lives in (("hour", timedelta(hours=1)), ("month", timedelta(days=30)), ("never", None)):
        page = site.post(new_url("two\nlines"), terms(ends=name, downloads="one", max_downloads="junk"))
        share = open_share(token=link_in(page.content.decode())).share
        assert (share.key, share.max_downloads, share.has_password) == ("two\nlines", 1, False)
        if lives is None:
            assert share.expires_at is None
        else:
            assert share.expires_at is not None
            assert abs(share.expires_at - timezone.now() - lives) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ends": "at"}, "Fill this in"),
        ({"ends": "at", "expires_at": "2001-01-01T00:00"}, "This time has passed."),
        ({"downloads": "some", "max_downloads": "0"}, "greater than or equal to 1"),
        ({"downloads": "some"}, "Fill this in"),
        ({"password": "p" * 257}, "at most 256"),
    ],
)
def test_what_is_wrong_stands_beside_its_field(site: Client, given: dict[str, str], said: str) -> None:
    answer = site.post(new_url(), terms(description="typed before", **given))
    assert answer.status_code == 422
    assert said in answer.content.decode()
    assert "typed before" in answer.content.decode()
    assert not Share.objects.exists()


def test_a_form_that_is_sent_again_makes_no_second_link(site: Client) -> None:
    [once] = re.findall(r'name="once" value="([^"]*)"', site.get(new_url()).content.decode())
    assert site.post(new_url(), terms(once=once, ends="at", expires_at="2001-01-01T00:00")).status_code == 422
    assert site.post(new_url(), terms(once=once)).status_code == 200, "what was refused has made nothing"
    assert site.post(new_url(), terms(once=once)).status_code == 303
    assert Share.objects.count() == 1


def test_what_does_not_count_may_be_nonsense(site: Client) -> None:
    never = site.post(new_url(), terms(ends="never", expires_at="garbage", max_downloads="0"))
    share = open_share(token=link_in(never.content.decode())).share
    assert (share.expires_at, share.max_downloads) == (None, None)


def test_nonsense_is_refused(site: Client) -> None:
    for url in ("/new-share?bucket=photos&key=%00", "/new-share?bucket=a%00&key=k"):
        assert site.get(url).status_code == 400, url
        assert site.post(url, terms()).headers["Location"] == url
    for url in ("/buckets/photos/download?key=%00", "/buckets/photos/archive?prefix=%00"):
        assert site.get(url).status_code == 400, url


def test_buckets_are_named_to_those_who_may_know_them(client: Client, lab: Lab) -> None:
    Bucket.objects.create(name="secret-plans")
    named: dict[int, set[str]] = {}
    for permissions in (Permission.SHARE, Permission.SHARE | Permission.BUCKETS_READ):
        client.force_login(make_key(permissions=int(permissions), grants=(GrantRow("photos", "", SHARING),)))
        page = client.get("/new-share").content.decode()
        named[int(permissions)] = set(re.findall(r'<option value="([^"]*)">', page))
    assert list(named.values()) == [{"photos"}, {"photos", "secret-plans"}]


def test_who_may_not_share_is_refused(client: Client, lab: Lab) -> None:
    lab.put_many("dir/k.txt", "other.txt")
    grant = GrantRow("photos", "dir/", SHARING)
    client.force_login(make_key(grants=(grant,)))
    assert client.get(new_url("dir/k.txt")).status_code == 200
    assert client.get(new_url("other.txt")).status_code == 403
    assert client.post(new_url("other.txt"), terms()).status_code == 303
    assert not Share.objects.exists()
    assert AuditEntry.objects.filter(outcome="denied", bucket="").exists()
    client.force_login(make_key(permissions=int(Permission.SHARE)))  # and no OBJECTS_READ
    assert client.get(new_url("dir/k.txt")).status_code == 403
    client.force_login(make_key(permissions=int(Permission.OBJECTS_READ)))
    for url in ("/shares", "/new-share", "/shares/1", "/buckets/photos/object-shares?key=dir/k.txt"):
        assert client.get(url).status_code == 403, url
    assert 'href="/shares"' not in client.get("/").content.decode(), "nor is it in the menu"


def test_shares_are_ones_own_and_all_for_admins(site: Client, maker: ApiKey) -> None:
    mine, theirs = share_of(maker, HOSTILE).share, share_of(make_maker(), "dir/k.txt").share
    revoked = share_of(maker, "two\nlines").share
    revoke_share(share_id=revoked.pk)
    listed = site.get("/shares").content.decode()
    assert SHOWN in listed
    assert HOSTILE not in listed
    assert "dir/k.txt" not in listed
    for url in (f"/shares/{theirs.pk}", f"/shares/{theirs.pk}/revoke", "/shares/999"):
        assert site.get(url).status_code == 403
    site.post(f"/shares/{theirs.pk}/revoke")
    site.post(f"/shares/{theirs.pk}", terms(ends="never"))
    theirs.refresh_from_db()
    assert theirs.revoked_at is None
    assert theirs.expires_at is None

    def ids(query: str) -> set[int]:
        page = site.get(f"/shares?{query}").content.decode()
        return {share.pk for share in (mine, theirs, revoked) if f'"/shares/{share.pk}"' in page}

    assert ids("state=live") == {mine.pk}
    assert ids("state=revoked") == {revoked.pk}
    assert ids(urlencode({"bucket": "photos", "key": HOSTILE})) == {mine.pk}
    assert ids(f"before={revoked.pk}") == {mine.pk}
    assert ids("bucket=no%00where") == set()
    assert site.get("/shares?before=x").status_code == 400
    site.force_login(make_key(permissions=int(Permission.ADMIN)))
    assert ids("") == {mine.pk, theirs.pk, revoked.pk}
    assert site.get(f"/shares/{theirs.pk}").status_code == 200
    assert site.get("/shares/999").status_code == 404


def test_terms_are_changed_and_the_rest_is_left(site: Client, maker: ApiKey) -> None:
    end = timezone.now() + timedelta(days=3, seconds=17)
    share = share_of(maker, HOSTILE, expires_at=end, max_downloads=5, password="old", description="a note").share
    url = f"/shares/{share.pk}"
    page = site.get(url).content.decode()
    assert "a note" in page
    as_it_is = {"ends": "keep", "downloads": "some", "max_downloads": "5", "description": "a note"}
    assert site.post(url, as_it_is).status_code == 303
    assert not AuditEntry.objects.filter(action="share.update").exists()
    assert site.post(url, {**as_it_is, "downloads": "any", "password": "new"}).status_code == 303
    share.refresh_from_db()
    assert (share.expires_at, share.max_downloads, share.description) == (end, None, "a note")
    check_share_password(share=share, password="new", address="here")
    both = site.post(url, {**as_it_is, "password": "x", "remove_password": "on"})
    assert both.status_code == 422
    site.post(url, {**as_it_is, "ends": "never", "remove_password": "on"})
    share.refresh_from_db()
    assert (share.expires_at, share.has_password) == (None, False)
    Share.objects.filter(pk=share.pk).update(download_count=4)
    few = site.post(url, {**as_it_is, "max_downloads": "2"})
    assert few.status_code == 422
    assert "There were 4 downloads already." in few.content.decode()


def test_terms_that_others_changed_meanwhile_stay(site: Client, maker: ApiKey) -> None:
    share = share_of(maker, HOSTILE, max_downloads=5, description="a note").share
    url = f"/shares/{share.pk}"
    page = site.get(url).content.decode()
    shown = dict(re.findall(r'name="(initial-[^"]*)" value="([^"]*)"', page))
    sent = {name.removeprefix("initial-"): text for name, text in shown.items()}
    update_share(share_id=share.pk, max_downloads=2, description="another note")
    assert site.post(url, {**shown, **sent, "ends": "never"}).status_code == 303
    share.refresh_from_db()
    assert (share.expires_at, share.max_downloads, share.description) == (None, 2, "another note")
    site.post(url, {**shown, **sent, "ends": "keep", "description": "mine"})
    share.refresh_from_db()
    assert (share.max_downloads, share.description) == (2, "mine")


def test_a_link_is_revoked_after_a_question(site: Client, maker: ApiKey) -> None:
    share = share_of(maker, HOSTILE).share
    asked = site.get(f"/shares/{share.pk}/revoke?back=https://elsewhere.example/").content.decode()
    assert SHOWN in asked
    assert "elsewhere" not in asked.split("<main", 1)[1]
    share.refresh_from_db()
    assert share.revoked_at is None
    answer = site.post(f"/shares/{share.pk}/revoke", {"back": "/shares?state=live"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/shares?state=live")
    share.refresh_from_db()
    assert share.revoked_at is not None
    page = site.get(f"/shares/{share.pk}").content.decode()
    assert "<form" not in page.split("<main", 1)[1].split("</main>")[0], "nothing is left to be changed"
    assert f"/shares/{share.pk}/revoke" not in page


def test_the_links_of_one_object_are_a_part_of_its_page(site: Client, maker: ApiKey) -> None:
    share, other = share_of(maker, HOSTILE).share, share_of(maker, "dir/k.txt").share
    url = f"/buckets/photos/object-shares?{urlencode({'key': HOSTILE})}"
    page = "http://testserver/buckets/photos/object?key=x"
    part = site.get(
        url, headers={"HX-Request": "true", "HX-Target": "object-share-list", "HX-Current-URL": page}
    ).content.decode()
    assert part.lstrip().startswith('<div id="object-share-list"')
    assert f"/shares/{share.pk}/revoke?back=%2Fbuckets%2Fphotos%2Fobject%3Fkey%3Dx" in part
    assert f"/shares/{other.pk}" not in part
    assert "<html" in site.get(url).content.decode()
    assert site.get("/buckets/photos/object-shares?key=%00").status_code == 400
