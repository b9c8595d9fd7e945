"""The pages of keys."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from keys.errors import Invalid
from keys.models import ApiKey, AuditEntry
from keys.permissions import Permission
from keys.rights import GrantRow, KeyRights
from keys.selectors import edition_of, key_works, rights_now
from keys.services.keys import NewKey, create_key, update_key

pytestmark = pytest.mark.django_db

READ, WRITE, SEE, MANAGE = (
    Permission.OBJECTS_READ,
    Permission.OBJECTS_WRITE,
    Permission.KEYS_READ,
    Permission.KEYS_MANAGE,
)
HOSTILE = "a b/<img onerror=…>#?%.txt\u202e\n\\"
SECRET = re.compile(r"whk_[0-9]+_[\w-]{20,}")


def signed_in(new: NewKey) -> Client:
    client = Client()
    assert client.login(key=new.text)
    return client


@pytest.fixture
def browser(admin: NewKey) -> Client:
    return signed_in(admin)


def form(*grants: dict[str, Any], **values: Any) -> dict[str, Any]:
    data = {"name": "k", "description": "", "lasts": "never", "rows": len(grants), **values}
    for index, grant in enumerate(grants):
        data |= {f"grant-{index}-{name}": value for name, value in grant.items()}
    return data


def rights_of(key_id: int) -> KeyRights:
    return rights_now([key_id])[key_id]


def made_by(client: Client, data: dict[str, Any]) -> ApiKey:
    answer = client.post("/new-key", data)
    assert answer.status_code == 200, answer.content.decode()
    return ApiKey.objects.latest("pk")


def test_the_secret_is_shown_once_and_kept_nowhere(browser: Client) -> None:
    answer = browser.post("/new-key", form(name="backup", permissions=["1", "8"]))
    found = SECRET.findall(answer.content.decode())
    assert len(found) == 1
    assert key_works(key_text=found[0])
    assert answer.headers["Cache-Control"] == "no-store"
    assert found[0] not in str(dict(browser.session.items()))
    key = ApiKey.objects.latest("pk")
    assert (key.name, key.permissions) == ("backup", 9)
    assert not SECRET.search(browser.get(f"/keys/{key.pk}").content.decode())
    assert not SECRET.search(browser.get("/keys").content.decode())


def test_a_form_that_is_sent_again_makes_no_second_key(browser: Client) -> None:
    once = re.search(r'name="once" value="([^"]+)"', browser.get("/new-key").content.decode())
    assert once
    data = form(once=once[1])
    assert browser.post("/new-key", {**data, "name": ""}).status_code == 422  # has made none
    made_by(browser, data)
    assert browser.post("/new-key", data).headers["Location"] == "/keys"
    assert "has made its key already" in browser.get("/keys").content.decode()
    assert ApiKey.objects.count() == 2


def test_a_form_that_is_sent_twice_at_a_time_makes_one_key(browser: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    data = form(once="7c9a7c0e-7a3c-4b55-8f3c-1a2b3c4d5e6f")

    def create_meanwhile(**values: Any) -> NewKey:
        assert browser.post("/new-key", data).status_code == 303
        return create_key(**values)

    def create_none(**values: Any) -> NewKey:
        raise Invalid("Not today.")

    monkeypatch.setattr("keys.web.keys.create_key", create_none)
    assert browser.post("/new-key", data).status_code == 422
    monkeypatch.setattr("keys.web.keys.create_key", create_meanwhile)
    made_by(browser, data)
    assert ApiKey.objects.count() == 2


def test_grants_are_what_was_typed(browser: Client) -> None:
    rows = (
        {"bucket": " photos ", "start": " a<b>\\", "permissions": ["1", "2"]},
        {"bucket": "", "start": ""},
        {"bucket": "logs", "start": "", "permissions": ["8"]},
        {"bucket": "x", "exact": json.dumps("a\nb"), "permissions": ["4"]},
    )
    key = made_by(browser, form(*rows))
    assert rights_of(key.pk).grants == (
        GrantRow("logs", "", 8),
        GrantRow("photos", " a<b>\\", 3),
        GrantRow("x", "a\nb", 4),
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (form(name=" "), "This field is required"),
        (form({"bucket": "", "start": "x", "permissions": ["1"]}), "Name the bucket"),
        (form({"bucket": "b", "start": ""}), "at least one right"),
        (form({"bucket": "b", "start": "é" * 513, "permissions": ["1"]}), "1024 bytes"),
        (form({"bucket": "b", "start": "", "permissions": ["256"]}), "not one of the available choices"),
        (form({"bucket": "b", "exact": "[" * 50_000, "permissions": ["1"]}), "no prefix"),
        (form({"bucket": "b", "exact": '"\\ud800"', "permissions": ["1"]}), "no prefix"),
        (form(permissions=["4096"]), "not one of the available choices"),
        (form(lasts="until"), "Give a time to come"),
        (form(lasts="until", until="2020-01-01T00:00"), "Give a time to come"),
        (form(lasts="keep"), "not one of the available choices"),
    ],
)
def test_what_is_wrong_stands_beside_its_field(browser: Client, data: dict[str, Any], said: str) -> None:
    answer = browser.post("/new-key", data)
    assert answer.status_code == 422
    assert said in answer.content.decode()
    assert ApiKey.objects.count() == 1


def test_what_is_refused_leaves_the_page_that_is_open_as_it_is(browser: Client) -> None:
    """The page that a form without scripts is led back to does not have the part that is awaited."""
    htmx = {"HX-Request": "true", "HX-Target": "key-rights"}
    answer = browser.post("/keys/99999", form(), headers=htmx)
    assert (answer.status_code, answer.headers["HX-Reswap"]) == (404, "none")
    assert "There is no key 99999" in answer.content.decode()
    assert "<h1" not in answer.content.decode()
    assert browser.post("/keys/99999", form()).status_code == 303


def test_buttons_that_rearrange_the_form_save_nothing(browser: Client) -> None:
    """They are how rows come and go without scripts, and nothing that was typed is lost."""
    rows = ({"bucket": "one", "start": "x", "permissions": ["1"]}, {"bucket": "two", "start": "", "permissions": ["4"]})
    page = browser.post("/new-key", form(*rows, name="", more="1")).content.decode()
    assert 'name="rows" value="3"' in page
    assert "wrong" not in page
    page = browser.post("/new-key", form(*rows, name="half", remove="0")).content.decode()
    assert 'name="rows" value="1"' in page
    assert 'value="two"' in page
    assert 'value="one"' not in page
    assert 'value="half"' in page
    part = browser.post(
        "/new-key", form(*rows, preset="reader"), headers={"HX-Request": "true", "HX-Target": "key-rights"}
    ).content.decode()
    assert "<h1" not in part
    assert re.search(r"<output[^>]*>9</output>", part)
    assert "&quot;permissions&quot;: 9" in part
    assert ApiKey.objects.count() == 1


def test_only_ones_own_rights_are_offered_and_taken(new_key: Callable[..., NewKey]) -> None:
    ends = timezone.now() + timedelta(days=2)
    client = signed_in(new_key(MANAGE | READ, grants=[GrantRow("b", "x/", int(WRITE))], expires_at=ends))
    page = client.get("/new-key").content.decode()
    assert set(re.findall(r'name="permissions"\s+value="(\d+)"', page)) == {"1", "512"}
    assert set(re.findall(r'name="grant-0-permissions"\s+value="(\d+)"', page)) == {"1", "2"}
    assert set(re.findall(r'<option value="(\w+)"', page)) == {"mine", "day", "until"}
    assert 'value="admin"' not in page
    for refused in (
        form(permissions=["2048"], lasts="mine"),
        form({"bucket": "b", "start": "", "permissions": ["2"]}, lasts="mine"),
        form(lasts="never"),
        form(lasts="until", until="2999-01-01T00:00"),
    ):
        assert client.post("/new-key", refused).status_code == 422
    assert ApiKey.objects.count() == 1
    key = made_by(client, form({"bucket": "b", "start": "x/y", "permissions": ["2"]}, lasts="mine"))
    assert key.expires_at == ends
    assert client.get("/keys").status_code == 200  # may make keys, sees none
    assert f"/keys/{key.pk}" not in client.get("/keys").content.decode()
    assert client.get(f"/keys/{key.pk}").status_code == 403


def test_who_sees_keys_changes_none(new_key: Callable[..., NewKey], admin: NewKey) -> None:
    reader = new_key(SEE, description="one\r\n<b>two")
    client = signed_in(reader)
    assert "new-key" not in client.get("/keys").content.decode()
    page = client.get(f"/keys/{reader.key.pk}").content.decode()
    assert "one<br>&lt;b&gt;two" in page
    assert "key-form" not in page
    assert "delete" not in page
    key_id = reader.key.pk
    for address in (f"/keys/{key_id}", f"/keys/{key_id}/delete", f"/keys/{key_id}/end-sessions", "/new-key"):
        client.post(address, {"preset": "admin", "name": reader.key.name})
        client.post(address, form(name="mine", lasts="keep", edition=edition_of(reader.key)))
    assert client.get("/new-key").status_code == 403
    after = ApiKey.objects.get(pk=key_id)
    assert (after.name, after.generation) == ("a key", 1)
    assert ApiKey.objects.count() == 2
    assert signed_in(new_key(READ)).get("/keys").status_code == 403


def test_a_stronger_key_can_only_be_looked_at(new_key: Callable[..., NewKey], admin: NewKey) -> None:
    client = signed_in(new_key(SEE | MANAGE))
    page = client.get(f"/keys/{admin.key.pk}").content.decode()
    assert "key-form" not in page
    assert client.get(f"/keys/{admin.key.pk}/delete").status_code == 403
    client.post(f"/keys/{admin.key.pk}/delete", {"name": "admin"})
    client.post(f"/keys/{admin.key.pk}/end-sessions")
    edition = edition_of(ApiKey.objects.get(pk=admin.key.pk))
    client.post(f"/keys/{admin.key.pk}", form(edition=edition, lasts="keep"))
    after = ApiKey.objects.get(pk=admin.key.pk)
    assert (after.name, after.permissions, after.generation) == ("admin", 2048, 1)


def typed_again(page: str) -> dict[str, Any]:
    """What a browser sends of a form that nobody touched."""
    data: dict[str, Any] = {}
    for tag in re.findall(r"<input[^>]*>", page[page.index('id="key-form"') : page.index('class="card ending"')]):
        attributes = {name: unescape(value) for name, value in re.findall(r'([\w-]+)="([^"]*)"', tag)}
        if attributes.get("type") != "checkbox":
            data[attributes["name"]] = attributes.get("value", "").replace("\n", "").replace("\r", "")
        elif " checked" in tag:
            data.setdefault(attributes["name"], []).append(attributes["value"])
    del data["csrfmiddlewaretoken"]
    return {**data, "description": "", "lasts": "keep"}


def test_saving_an_untouched_form_changes_nothing(browser: Client, new_key: Callable[..., NewKey]) -> None:
    new = new_key(
        READ | MANAGE,
        name="a<b>",
        grants=[GrantRow("b", HOSTILE, 7), GrantRow("b", " x ", 1), GrantRow("c", "\r\n", 1032)],
        expires_at=timezone.now() + timedelta(days=3, microseconds=5),
    )
    before = rights_of(new.key.pk)
    page = browser.get(f"/keys/{new.key.pk}").content.decode()
    answer = browser.post(f"/keys/{new.key.pk}", typed_again(page))
    assert answer.status_code == 303, answer.content.decode()
    assert rights_of(new.key.pk) == before
    assert edition_of(ApiKey.objects.get(pk=new.key.pk)) == edition_of(new.key)


def test_of_two_editors_the_second_sees_what_the_first_did(browser: Client, new_key: Callable[..., NewKey]) -> None:
    new = new_key(READ | WRITE, name="shared")
    address = f"/keys/{new.key.pk}"
    data = typed_again(browser.get(address).content.decode())
    update_key(actor=None, key_id=new.key.pk, permissions=int(READ), name="narrowed")
    answer = browser.post(address, {**data, "name": "mine"})
    page = answer.content.decode()
    assert answer.status_code == 409
    assert "What this key is now" in page
    assert "narrowed" in page
    assert 'value="mine"' in page
    assert ApiKey.objects.get(pk=new.key.pk).name == "narrowed"
    assert browser.post(address, {**typed_again(page), "lasts": "keep"}).status_code == 303
    after = ApiKey.objects.get(pk=new.key.pk)
    assert (after.name, after.permissions) == ("mine", 3)


def test_the_last_admin_is_told_why_it_stays(browser: Client, admin: NewKey) -> None:
    address = f"/keys/{admin.key.pk}"
    data = typed_again(browser.get(address).content.decode())
    answer = browser.post(address, {**data, "permissions": ["1"]})
    assert answer.status_code == 422
    assert "Make another ADMIN key first" in answer.content.decode()
    assert browser.post(f"{address}/delete", {"name": "admin"}).status_code == 303
    assert "Make another ADMIN key first" in browser.get(address).content.decode()
    assert key_works(key_text=admin.text)


def test_a_key_is_deleted_by_its_name(browser: Client, new_key: Callable[..., NewKey]) -> None:
    new = new_key(READ, name=f"{HOSTILE} x")
    address = f"/keys/{new.key.pk}/delete"
    assert "<img onerror" not in browser.get(address).content.decode()
    assert browser.post(address, {"name": "another"}).status_code == 422
    assert (
        browser.post(
            address, {"name": "a b/<img onerror=…>#?%.txt\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\\ x"}
        ).status_code
        == 303
    )
    assert not ApiKey.objects.filter(pk=new.key.pk).exists()
    assert browser.get(address).status_code == 404
    assert AuditEntry.objects.filter(action="key.delete", target=str(new.key.pk)).count() == 1


def test_a_name_is_typed_without_what_blanks_are_shown_as(browser: Client, new_key: Callable[..., NewKey]) -> None:
    for typed in (" two  blanks ", "two blanks", "\u2423two \u2423blanks\u2423"):
        new = new_key(READ, name=" two  blanks ")
        assert browser.post(f"/keys/{new.key.pk}/delete", {"name": "twoblanks"}).status_code == 422
        assert browser.post(f"/keys/{new.key.pk}/delete", {"name": typed}).status_code == 303


def test_the_last_admin_is_told_before_it_is_tried(
    browser: Client, admin: NewKey, new_key: Callable[..., NewKey]
) -> None:
    words = "cannot be deleted yet"
    page = f"/keys/{admin.key.pk}/delete"
    assert words in browser.get(page).content.decode()
    new_key(Permission.ADMIN, expires_at=timezone.now() + timedelta(days=1))
    assert words in browser.get(page).content.decode(), "one day there would be none"
    other = new_key(READ)
    assert words not in browser.get(f"/keys/{other.key.pk}/delete").content.decode()
    new_key(Permission.ADMIN)
    assert words not in browser.get(page).content.decode()


def test_a_new_key_is_shown_what_it_can_do(browser: Client) -> None:
    for bits, calls in ((0, []), (SEE, ["ls"]), (READ, ["ls", "client.get"]), (READ | WRITE, ["ls", "client.put"])):
        given = [str(int(bit)) for bit in Permission if bit & bits]
        page = browser.post("/new-key", form(permissions=given)).content.decode()
        assert re.findall(r"warehouse (ls)|(client\.\w+)\(", page) == [
            (call if call == "ls" else "", "" if call == "ls" else call) for call in calls
        ]


def test_a_key_is_signed_out_everywhere(browser: Client, new_key: Callable[..., NewKey]) -> None:
    new = new_key(READ)
    other = signed_in(new)
    answer = browser.post(f"/keys/{new.key.pk}/end-sessions", {"back": f"/keys/{new.key.pk}"})
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/keys/{new.key.pk}")
    assert other.get("/keys").status_code == 303
    assert (
        browser.post(
            f"/keys/{new.key.pk}", {**typed_again(browser.get(f"/keys/{new.key.pk}").content.decode()), "lasts": "now"}
        ).status_code
        == 303
    )
    assert not key_works(key_text=new.text)


def test_the_list_is_searched_and_paged(browser: Client, new_key: Callable[..., NewKey]) -> None:
    for index in range(52):
        new_key(READ, name=f"robot {index:02}")
    gone = new_key(READ, name="<b>gone</b>", expires_at=timezone.now() + timedelta(days=1))
    ApiKey.objects.filter(pk=gone.key.pk).update(expires_at=timezone.now())
    page = browser.get("/keys").content.decode()
    assert "robot 51" in page
    assert "robot 02" not in page
    assert "<b>gone" not in page
    more = re.search(r'href="(\?before=\d+)"', page)
    assert more
    assert "robot 02" in browser.get(f"/keys{more[1]}").content.decode()
    part = browser.get("/keys", {"q": "ROBOT 07"}, headers={"HX-Request": "true", "HX-Target": "key-list"})
    assert part.content.decode().count("<tr") == 2
    assert "1 key found" in " ".join(part.content.decode().split())
    assert "robot" not in browser.get("/keys", {"state": "expired"}).content.decode()
    assert "No key is like that" in browser.get("/keys", {"q": "\0"}).content.decode()
