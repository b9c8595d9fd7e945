"""Several keys in one session."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from django.test import Client
from django.utils import timezone

from keys.errors import KeyUnknown
from keys.models import ApiKey, AuditEntry
from keys.permissions import Permission
from keys.ring import MAX_KEYS, acting_key, held_keys, leave, switch_to
from keys.services.keys import NewKey, delete_key, update_key

pytestmark = pytest.mark.django_db
NewKeys = Callable[..., NewKey]


def sign_in(client: Client, new: NewKey) -> None:
    assert client.post("/api/auth/sign-in", {"key": new.text}).status_code in {302, 303}


def request_of(client: Client) -> HttpRequest:
    """What a view is given; its session is the client's, to be saved by the caller."""
    request = HttpRequest()
    request.session = client.session
    request.user = acting_key(request)
    return request


def held(client: Client) -> list[str]:
    return [key.name for key in held_keys(request_of(client))]


def signs(action: str) -> list[int]:
    targets = AuditEntry.objects.filter(action=action).order_by("id").values_list("target", flat=True)
    return [int(target) for target in targets]


@pytest.fixture
def abc(new_key: NewKeys) -> tuple[NewKey, NewKey, NewKey]:
    return (
        new_key(Permission.ADMIN, name="a"),
        new_key(Permission.BUCKETS_READ | Permission.KEYS_READ, name="b"),
        new_key(name="c"),
    )


@pytest.mark.parametrize("door", ["/admin/login/?next=/admin/", "/api/auth/sign-in"])
def test_signing_in_elsewhere_loses_no_key(door: str, abc: tuple[NewKey, ...]) -> None:
    client = Client()
    a, b, _ = abc
    sign_in(client, b)
    before = client.session.session_key
    assert client.post(door, {"key": a.text}).status_code in {302, 303}
    assert held(client) == ["b", "a"]
    assert acting_key(request_of(client)) == a.key
    assert client.session.session_key != before
    sign_in(client, a)
    assert held(client) == ["b", "a"]
    assert signs("key.sign_in") == [b.key.pk, a.key.pk, a.key.pk]


def test_a_switch_gives_the_session_a_new_id(abc: tuple[NewKey, ...]) -> None:
    client = Client()
    a, b, c = abc
    for new in (a, b):
        sign_in(client, new)
    request = request_of(client)
    before = request.session.session_key
    assert switch_to(request, key_id=a.key.pk) == a.key
    assert request.session.session_key != before
    assert request.user == a.key
    request.session.save()
    client.cookies["sessionid"] = str(request.session.session_key)
    assert acting_key(request_of(client)) == a.key
    with pytest.raises(KeyUnknown):
        switch_to(request, key_id=c.key.pk)
    assert request.user == a.key


@pytest.mark.parametrize("end", ["deleted", "weakened", "expired"])
@pytest.mark.parametrize("acts", [True, False])
def test_a_dead_key_takes_no_other_with_it(end: str, acts: bool, abc: tuple[NewKey, ...]) -> None:
    client = Client()
    a, b, _ = abc
    for new in (a, b) if acts else (b, a):
        sign_in(client, new)
    if end == "deleted":
        delete_key(actor=None, key_id=b.key.pk)
    elif end == "weakened":
        update_key(actor=None, key_id=b.key.pk, permissions=int(Permission.BUCKETS_READ))
    else:
        ApiKey.objects.filter(pk=b.key.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert client.get("/api/v1/keys", headers={"Accept": "application/json"}).status_code == (401 if acts else 200)
    request = request_of(client)
    assert held_keys(request) == [a.key]
    assert request.user == (AnonymousUser() if acts else a.key)
    with pytest.raises(KeyUnknown):
        switch_to(request, key_id=b.key.pk)
    assert switch_to(request, key_id=a.key.pk) == a.key


def test_a_key_that_leaves_hands_over_to_another(abc: tuple[NewKey, ...]) -> None:
    client = Client()
    a, b, c = abc
    for new in abc:
        sign_in(client, new)
    request = request_of(client)
    assert leave(request, key_id=b.key.pk) == c.key
    with pytest.raises(KeyUnknown):
        leave(request, key_id=b.key.pk)
    assert leave(request, key_id=c.key.pk) == a.key
    assert request.user == a.key
    assert leave(request, key_id=a.key.pk) is None
    assert request.session.is_empty()
    assert signs("key.sign_out") == [b.key.pk, c.key.pk, a.key.pk]


def test_signing_out_ends_all_of_them(abc: tuple[NewKey, ...]) -> None:
    client = Client()
    for new in abc:
        sign_in(client, new)
    old = client.cookies["sessionid"].value
    client.post("/api/auth/sign-out")
    assert held(client) == []
    client.cookies["sessionid"] = old
    assert held(client) == []
    assert signs("key.sign_out") == [new.key.pk for new in abc]


def test_the_eleventh_key_takes_the_place_of_the_first(new_key: NewKeys) -> None:
    client = Client()
    for number in range(MAX_KEYS + 1):
        sign_in(client, new_key(name=str(number)))
    assert held(client) == [str(number) for number in range(1, MAX_KEYS + 1)]
    assert len(signs("key.sign_out")) == 1


def test_a_session_from_before_there_were_rings_holds_its_key(admin: NewKey) -> None:
    client = Client()
    client.force_login(admin.key)
    session = client.session
    del session["ring"]
    session.save()
    assert held(client) == ["admin"]
