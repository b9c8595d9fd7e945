"""The admin site and the browsable API, signed in to with a key."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from keys.models import ApiKey, RefreshFamily, RevokedKey
from keys.permissions import Permission
from keys.rights import GrantRow
from keys.selectors import key_works, rights_now
from keys.services.keys import NewKey, delete_key, update_key
from keys.services.sign_in import issue_tokens

pytestmark = pytest.mark.django_db

CHANGELIST = "/admin/keys/apikey/"


@pytest.fixture
def browser(admin: NewKey) -> Client:
    client = Client()
    assert client.post("/admin/login/?next=/admin/", {"key": admin.text, "next": "/admin/"}).status_code == 302
    return client


def form(grants: list[dict[str, Any]] = [], initial: int = 0, **values: Any) -> dict[str, Any]:  # noqa: B006
    data = {"name": "k", "description": "", "expires_at_0": "", "expires_at_1": "", **values}
    data |= {"grants-TOTAL_FORMS": len(grants), "grants-INITIAL_FORMS": initial}
    for index, grant in enumerate(grants):
        data |= {f"grants-{index}-{name}": value for name, value in grant.items()}
    return data


def test_signing_in_takes_a_key_and_nothing_else(admin: NewKey, new_key: Callable[..., NewKey]) -> None:
    client = Client()
    page = client.get("/admin/login/").content.decode()
    assert 'name="key"' in page
    assert "username" not in page
    assert 'type="password"' in page
    for text in ("", "x", admin.text + "x", new_key(2047).text):
        assert client.post("/admin/login/", {"key": text}).status_code == 200
        assert client.get("/admin/").status_code == 302
    assert client.post("/admin/login/", {"key": f" {admin.text}\n", "next": "/admin/"}).status_code == 302
    assert client.get("/admin/").status_code == 200


def test_any_live_key_signs_in_to_the_browsable_api(new_key: Callable[..., NewKey]) -> None:
    client = Client()
    response = client.post("/api/auth/sign-in", {"key": new_key(Permission.KEYS_READ).text, "next": "/api/v1/keys"})
    assert (response.status_code, response.headers["Location"]) == (303, "/api/v1/keys")
    page = client.get("/api/v1/keys", headers={"Accept": "text/html"})
    assert page.status_code == 200
    assert page.headers["Content-Type"].startswith("text/html")
    assert client.get("/admin/").status_code == 302  # not ADMIN
    assert client.post("/api/auth/sign-out").status_code == 302
    assert client.get("/api/v1/keys").status_code == 401


def test_a_session_needs_a_csrf_token_to_write(admin: NewKey) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin.key)
    assert client.post("/api/v1/keys", {"name": "k"}, content_type="application/json").status_code == 403
    assert ApiKey.objects.count() == 1


@pytest.mark.parametrize("end", ["deleted", "weakened", "expired"])
def test_a_session_ends_with_its_key(browser: Client, admin: NewKey, end: str) -> None:
    assert browser.get("/admin/").status_code == 200
    if end == "deleted":
        delete_key(actor=None, key_id=admin.key.pk)
    elif end == "weakened":
        update_key(actor=None, key_id=admin.key.pk, permissions=int(Permission.KEYS_READ))
    else:
        ApiKey.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert browser.get("/admin/").status_code == 302


def test_a_new_key_is_shown_once(browser: Client, admin: NewKey) -> None:
    grants = [{"bucket": "b", "prefix": " x/", "permissions": ["1", "2"]}]
    page = browser.post(f"{CHANGELIST}add/", form(grants, name="made", permissions=["1", "8"]))
    assert page.status_code == 200, page
    key = ApiKey.objects.get(name="made")
    assert (key.permissions, key.created_by_id, key.generation) == (9, admin.key.pk, 1)
    assert rights_now([key.pk])[key.pk].grants == (GrantRow("b", " x/", 3),)
    html = page.content.decode()
    text = html[html.index("whk_") :].split("<")[0].strip()
    assert key_works(key_text=text)
    assert "no-store" in page.headers["Cache-Control"]
    for url in (CHANGELIST, f"{CHANGELIST}{key.pk}/change/", f"{CHANGELIST}{key.pk}/history/"):
        shown = browser.get(url)
        assert shown.status_code == 200
        assert text not in shown.content.decode()
        assert key.secret_hash not in shown.content.decode()


def test_weakening_goes_through_the_service(browser: Client, new_key: Callable[..., NewKey]) -> None:
    key = new_key(3, name="k", grants=[GrantRow("b", "", 1), GrantRow("c", "", 1)]).key
    [first, second] = key.grants.all()
    grants = [
        {"id": first.pk, "key": key.pk, "bucket": "b", "prefix": "", "permissions": ["1"]},
        {"id": second.pk, "key": key.pk, "bucket": "c", "prefix": "", "permissions": ["1"], "DELETE": "on"},
        {"bucket": "d", "prefix": "p", "permissions": ["4"]},
    ]
    response = browser.post(f"{CHANGELIST}{key.pk}/change/", form(grants, initial=2, name="k", permissions=["1"]))
    assert response.status_code == 302, response.content.decode()
    key.refresh_from_db()
    assert key.permissions == 1
    assert key.generation > 1
    assert rights_now([key.pk])[key.pk].grants == (GrantRow("b", "", 1), GrantRow("d", "p", 4))


def test_saving_unchanged_changes_nothing(browser: Client, new_key: Callable[..., NewKey]) -> None:
    key = new_key(3, name="k", grants=[GrantRow("b", "", 1)]).key
    [grant] = key.grants.all()
    lines = [{"id": grant.pk, "key": key.pk, "bucket": "b", "prefix": "", "permissions": ["1"]}]
    data = form(lines, initial=1, name="k", permissions=["1", "2"])
    assert browser.post(f"{CHANGELIST}{key.pk}/change/", data).status_code == 302
    key.refresh_from_db()
    assert (key.generation, [row.pk for row in key.grants.all()]) == (1, [grant.pk])


def test_a_refused_change_is_a_message(browser: Client, admin: NewKey, new_key: Callable[..., NewKey]) -> None:
    ApiKey.objects.filter(pk=admin.key.pk).update(expires_at=timezone.now() + timedelta(days=1))
    key = new_key(name="k", expires_at=timezone.now() + timedelta(hours=1)).key
    response = browser.post(f"{CHANGELIST}{key.pk}/change/", form(name="k"), follow=True)  # would never expire
    assert "longer life than its own" in response.content.decode()
    key.refresh_from_db()
    assert key.expires_at is not None


def test_deleting_goes_through_the_service(browser: Client, new_key: Callable[..., NewKey]) -> None:
    one, two, three = (new_key(1).key for _ in range(3))
    assert browser.post(f"{CHANGELIST}{one.pk}/delete/", {"post": "yes"}).status_code == 302
    action = {"action": "delete_selected", "_selected_action": [two.pk, three.pk], "post": "yes"}
    assert browser.post(CHANGELIST, action).status_code == 302
    assert set(RevokedKey.objects.values_list("key_id", flat=True)) == {one.pk, two.pk, three.pk}
    assert ApiKey.objects.count() == 1


@pytest.mark.parametrize("query", ["", "?state=live", "?state=expired", "?q=admin"])
def test_lists_are_shown(browser: Client, admin: NewKey, query: str) -> None:
    issue_tokens(key=admin.key)
    assert browser.get(f"{CHANGELIST}{query}").status_code == 200
    assert browser.get("/admin/keys/refreshfamily/").status_code == 200
    family = RefreshFamily.objects.get()
    assert browser.get(reverse("admin:keys_refreshfamily_change", args=[family.pk])).status_code == 200
    assert browser.get("/admin/keys/refreshfamily/add/").status_code == 403


def test_the_last_admin_stays(browser: Client, admin: NewKey) -> None:
    url = f"{CHANGELIST}{admin.key.pk}/"
    chosen = {"action": "delete_selected", "_selected_action": admin.key.pk, "post": "yes"}
    for place, data in ((f"{url}change/", form(name="k")), (f"{url}delete/", {"post": "yes"}), (CHANGELIST, chosen)):
        page = browser.post(place, data, follow=True)
        assert page.status_code == 200
        assert "Make another ADMIN key first" in page.content.decode()
        assert not LogEntry.objects.exists()
    assert key_works(key_text=admin.text)
