"""Signing in and out, several keys in one session, and what a page says of the key that it was made for."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from django.conf import settings
from django.contrib.messages import get_messages
from django.db import OperationalError
from django.test import Client

from keys.models import ApiKey
from keys.permissions import Permission
from keys.ring import KEY_FIELD, KEY_HEADER
from keys.services.keys import NewKey, create_key
from keys.web import pages

pytestmark = pytest.mark.django_db
HOSTILE = '<img src=x onerror="alert(1)">\u202e'


@pytest.fixture
def new_key() -> Callable[..., NewKey]:
    def make(permissions: int = 0, name: str = "a key") -> NewKey:
        return create_key(actor=None, name=name, permissions=int(permissions))

    return make


@pytest.fixture
def two(new_key: Callable[..., NewKey]) -> tuple[NewKey, NewKey]:
    return new_key(Permission.ADMIN, name="first"), new_key(Permission.BUCKETS_READ, name=HOSTILE)


def sign_in(client: Client, new: NewKey, to: str = "") -> str:
    answer = client.post("/sign-in", {"key": new.text, "next": to})
    assert answer.status_code == 303
    return answer.headers["Location"]


def acting(client: Client) -> int:
    return int(client.session["_auth_user_id"])


def told(client: Client, path: str, data: dict[str, object], **headers: str) -> tuple[str, str]:
    """Where a POST leads, and what is said there."""
    answer = client.post(path, data, headers=headers)
    assert answer.status_code == 303
    said = [str(message) for message in get_messages(answer.wsgi_request)]
    client.cookies.pop("messages", None)
    return answer.headers["Location"], " ".join(said)


@pytest.mark.parametrize(
    ("wanted", "got"),
    [
        ("/buckets?q=a%26b", "/buckets?q=a%26b"),
        ("", "/"),
        ("https://evil.example/", "/"),
        ("//evil.example/", "/"),
        ("javascript:alert(1)", "/"),
        ("/\\evil.example", "/"),
    ],
)
def test_a_sign_in_leads_nowhere_else(client: Client, two: tuple[NewKey, NewKey], wanted: str, got: str) -> None:
    assert sign_in(client, two[0], wanted) == got


def test_the_sign_in_page_teaches_where_the_first_key_is(client: Client) -> None:
    page = client.get("/sign-in?next=/keys").content.decode()
    assert "data/secrets/admin.key" in page
    assert '<input type="hidden" name="next" value="/keys">' in page
    wrong = client.post("/sign-in", {"key": "whk_1_x"})
    assert wrong.status_code == 200
    assert 'role="alert">This key is not valid' in wrong.content.decode()
    assert "whk_1_x" not in wrong.content.decode()


def test_keys_are_added_switched_and_left(client: Client, two: tuple[NewKey, NewKey]) -> None:
    first, second = two
    sign_in(client, first)
    sign_in(client, second)
    page = client.get("/").content.decode()
    assert "<img src=x" not in page
    assert "Sign out of all" in page
    assert told(client, "/session/switch", {"key": first.key.pk}) == ("/", "You act with the key “first” now.")
    assert acting(client) == first.key.pk
    for nonsense in ("", "x", "99999", "²", "9" * 5_000):
        assert "not signed in with that key" in told(client, "/session/switch", {"key": nonsense})[1]
    where, said = told(client, "/session/leave", {"key": first.key.pk})
    assert where == "/"
    assert said.startswith("The key “first” is signed out. You act with the key “<img")
    assert told(client, "/session/leave", {"key": second.key.pk}) == ("/sign-in", "You are signed out.")
    assert client.get("/").status_code == 303


def test_signing_out_ends_the_session(client: Client, two: tuple[NewKey, NewKey]) -> None:
    for new in two:
        sign_in(client, new)
    client.get("/")
    assert client.get("/sign-out").status_code == 405
    assert told(client, "/sign-out", {}) == ("/sign-in", "You are signed out.")
    assert "_auth_user_id" not in client.session
    assert "You are signed out." not in client.get("/sign-in").content.decode()


def test_a_page_of_another_key_does_nothing(client: Client, two: tuple[NewKey, NewKey]) -> None:
    first, second = two
    sign_in(client, first)
    page = client.get("/").content.decode()
    assert f'data-key="{first.key.pk}"' in page
    assert f'<input type="hidden" name="{KEY_FIELD}" value="{first.key.pk}">' in page
    sign_in(client, second)
    of_first = {KEY_HEADER: str(first.key.pk)}
    part = client.get("/", headers=of_first | {"HX-Request": "true"})
    assert part.status_code == 409
    assert "You switched to the key" in part.content.decode()
    assert client.get("/api/v1/buckets", headers=of_first).json()["code"] == "other_key_acts"
    _, said = told(client, f"/keys/{first.key.pk}/end-sessions", {KEY_FIELD: first.key.pk})
    assert "You switched to the key" in said
    own = {KEY_HEADER: str(second.key.pk)}
    assert client.get("/", headers=own | {"HX-Request": "true"}).status_code == 200
    assert client.get("/api/v1/buckets", headers=own).status_code == 200
    assert client.get("/").status_code == 200


def test_what_was_typed_for_another_key_is_shown_again(client: Client, new_key: Callable[..., NewKey]) -> None:
    first, second = new_key(Permission.ADMIN, name="first"), new_key(Permission.ADMIN, name="second")
    sign_in(client, first)
    sign_in(client, second)
    form = {KEY_FIELD: first.key.pk, "name": "typed long and well", "lasts": "never"}
    for sent in (form, form | {"more": "1"}):
        again = client.post("/new-key", sent)
        assert again.status_code == 409
        page = again.content.decode()
        assert "You switched to the key “second” in another tab. Nothing was done: send the form again" in page
        assert 'value="typed long and well"' in page
        assert f'<input type="hidden" name="{KEY_FIELD}" value="{second.key.pk}">' in page
    assert not ApiKey.objects.filter(name="typed long and well").exists()
    assert client.post("/new-key", form | {KEY_FIELD: second.key.pk}).status_code == 200
    assert ApiKey.objects.filter(name="typed long and well").exists()


@pytest.mark.parametrize(("theme", "attribute"), [("dark", 'data-theme="dark"'), ("light", 'data-theme="light"')])
def test_a_theme_is_chosen_without_scripts(
    client: Client, two: tuple[NewKey, NewKey], theme: str, attribute: str
) -> None:
    sign_in(client, two[0])
    assert "data-theme=" not in client.get("/").content.decode()
    assert told(client, "/session/theme", {"theme": theme, "back": "/?a=1"}) == ("/?a=1", "")
    assert attribute in client.get("/").content.decode()
    assert told(client, "/session/theme", {"theme": "", "back": "//evil.example"})[0] == "/"
    assert "data-theme=" not in client.get("/").content.decode()
    client.cookies["theme"] = '"><script>'
    assert "data-theme=" not in client.get("/").content.decode()


@pytest.mark.parametrize("signed_in", [True, False])
def test_errors_are_pages_of_the_frame(client: Client, two: tuple[NewKey, NewKey], signed_in: bool) -> None:
    if signed_in:
        sign_in(client, two[0])
    answer = client.get("/nowhere")
    page = answer.content.decode()
    assert answer.status_code == 404
    assert ("Sign out" in page, 'href="/sign-in"' in page) == (signed_in, not signed_in)
    assert page.count("<h1>") == 1
    assert answer.headers["X-Request-Id"] in page


@pytest.mark.parametrize(("error", "status"), [(OperationalError("locked"), 503), (RuntimeError("secret"), 500)])
def test_a_failure_is_told_without_the_database(
    client: Client,
    two: tuple[NewKey, NewKey],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    status: int,
) -> None:
    sign_in(client, two[0])
    client.raise_request_exception = False

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pages, "rights_of", fail)
    monkeypatch.setattr(ApiKey.objects, "in_bulk", fail)
    with caplog.at_level(logging.ERROR):
        answer = client.get("/", headers={"X-Request-Id": "this-one"})
    [line] = [record for record in caplog.records if record.exc_info]
    assert line.exc_info[1] is error, "what happened is in the log alone"
    page = answer.content.decode()
    assert "this-one" in page
    assert answer.status_code == status
    assert "secret" not in page
    assert "Try again" in page
    assert ("Retry-After" in answer.headers) == (status == 503)


@pytest.mark.parametrize("method", ["get", "put", "delete"])
def test_what_only_buttons_do_says_so(client: Client, two: tuple[NewKey, NewKey], method: str) -> None:
    sign_in(client, two[0])
    for path in ("/sign-out", "/session/switch", "/check-store", f"/keys/{two[1].key.pk}/end-sessions"):
        answer = getattr(client, method)(path)
        page = answer.content.decode()
        assert answer.status_code == 405, path
        assert "POST" in answer.headers["Allow"]
        assert page.count("<h1>") == 1
        assert "Go back to where you came from" in page
    assert acting(client) == two[0].key.pk


def test_a_form_is_come_back_to_after_signing_in_again(client: Client, two: tuple[NewKey, NewKey]) -> None:
    for path, leads_to in (("/new-bucket", "/new-bucket"), ("/check-store", "/")):
        answer = client.post(path, {"name": "x"})
        assert (answer.status_code, answer.headers["Location"]) == (303, f"/sign-in?next={quote(leads_to, safe='')}")
        assert "nothing was done" in client.get(answer.headers["Location"]).content.decode()
    assert client.get("/new-bucket", follow=True).content.decode().count("nothing was done") == 0


def test_every_form_of_the_pages_names_its_key() -> None:
    """By the tag of ``{% load ui %}``, which stands for Django's own."""
    folder = Path(settings.BASE_DIR) / "templates"
    others = ("admin/", "rest_framework/", "share_password.html")
    lacking = [
        name
        for path in folder.rglob("*.html")
        if not (name := str(path.relative_to(folder))).startswith(others)
        and "{% csrf_token %}" in (text := path.read_text())
        and not re.search(r"{% load [^%]*\bui\b", text)
    ]
    assert lacking == []
