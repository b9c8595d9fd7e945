from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from keys.errors import Invalid, KeyChanged, KeyTooStrong, KeyUnknown, LastAdmin, TokenRefused
from keys.models import ApiKey, Grant, RefreshFamily, RevokedKey
from keys.permissions import Permission
from keys.rights import GrantRow, KeyRights
from keys.selectors import edition_of, rights_now
from keys.services.keys import (
    NewKey,
    create_key,
    delete_bucket_grants,
    delete_key,
    end_sessions,
    rotate_keys,
    update_key,
)
from keys.services.sign_in import issue_tokens, refresh_tokens, sign_in
from keys.tokens import read_access

pytestmark = pytest.mark.django_db

READ, WRITE, MANAGE = Permission.OBJECTS_READ, Permission.OBJECTS_WRITE, Permission.KEYS_MANAGE


def rights_of(new: NewKey) -> KeyRights:
    return rights_now([new.key.pk])[new.key.pk]


def test_a_new_key_signs_in_and_keeps_no_secret(new_key: Callable[..., NewKey]) -> None:
    new = new_key(READ, description="for tests")
    assert sign_in(key_text=new.text, address="a") == new.key
    row = ApiKey.objects.values().get(pk=new.key.pk)
    secret = new.text.rsplit("_", 1)[1]
    assert not any(secret in str(value) for value in row.values())


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "  "}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"permissions": 4096}, "permissions"),
        ({"permissions": -1}, "permissions"),
        ({"grants": [GrantRow("", "", 1)]}, "grants.0.bucket"),
        ({"grants": [GrantRow("b", "é" * 513, 1)]}, "grants.0.prefix"),
        ({"grants": [GrantRow("b", "\0", 1)]}, "grants.0.prefix"),
        ({"grants": [GrantRow("b", "\ud800", 1)]}, "grants.0.prefix"),
        ({"grants": [GrantRow("\ud800", "", 1)]}, "grants.0.bucket"),
        ({"name": "\ud800"}, "name"),
        ({"grants": [GrantRow("b", "", 0)]}, "grants.0.permissions"),
        ({"grants": [GrantRow("b", "", int(Permission.ADMIN))]}, "grants.0.permissions"),
        ({"grants": [GrantRow("b", "", int(MANAGE))]}, "grants.0.permissions"),
        ({"expires_at": timezone.now() - timedelta(days=1)}, "expires_at"),
    ],
)
def test_values_that_no_key_can_have(values: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        create_key(actor=None, **{"name": "k", **values})
    assert list(caught.value.extra["errors"]) == [field]  # type: ignore[call-overload]
    assert not ApiKey.objects.exists()


def test_grants_of_one_place_are_merged(new_key: Callable[..., NewKey]) -> None:
    new = new_key(grants=[GrantRow("b", "", 1), GrantRow("a", "", 4), GrantRow("b", "", 2)])
    assert rights_of(new).grants == (GrantRow("a", "", 4), GrantRow("b", "", 3))


def test_a_key_makes_only_keys_it_covers(new_key: Callable[..., NewKey]) -> None:
    actor = rights_of(new_key(MANAGE | READ, grants=[GrantRow("b", "x/", int(WRITE))]))
    made = create_key(actor=actor, name="k", permissions=int(READ), grants=[GrantRow("b", "x/y", int(WRITE))])
    assert made.key.created_by_id == actor.id
    for stronger in (
        {"permissions": int(WRITE)},
        {"permissions": int(Permission.ADMIN)},
        {"grants": [GrantRow("b", "", int(WRITE))]},
        {"grants": [GrantRow("c", "x/", int(WRITE))]},
    ):
        with pytest.raises(KeyTooStrong):
            create_key(actor=actor, name="k", **stronger)  # type: ignore[arg-type]


def test_a_key_cannot_outlive_its_maker(new_key: Callable[..., NewKey]) -> None:
    end = timezone.now() + timedelta(days=1)
    actor = rights_of(new_key(Permission.ADMIN, expires_at=end))
    made = create_key(actor=actor, name="k", expires_at=end)
    with pytest.raises(KeyTooStrong):
        create_key(actor=actor, name="k")
    with pytest.raises(KeyTooStrong):
        update_key(actor=actor, key_id=made.key.pk, expires_at=None)
    with pytest.raises(KeyTooStrong):
        update_key(actor=actor, key_id=actor.id, expires_at=end + timedelta(days=1))


def test_a_key_strengthens_none_that_outlives_it(new_key: Callable[..., NewKey]) -> None:
    end = timezone.now() + timedelta(days=1)
    actor = rights_of(new_key(MANAGE | READ | WRITE, expires_at=end))
    for_ever = new_key(READ)
    for change in ({"permissions": int(READ | WRITE)}, {"grants": [GrantRow("b", "", int(WRITE))]}):
        with pytest.raises(KeyTooStrong):
            update_key(actor=actor, key_id=for_ever.key.pk, **change)  # type: ignore[arg-type]
        update_key(actor=actor, key_id=new_key(READ, expires_at=end).key.pk, **change)  # type: ignore[arg-type]
    update_key(actor=actor, key_id=for_ever.key.pk, name="other", grants=[GrantRow("b", "", int(READ))])
    update_key(actor=actor, key_id=for_ever.key.pk, permissions=0)  # READ on b is left
    update_key(actor=actor, key_id=for_ever.key.pk, expires_at=end, permissions=int(READ | WRITE))


def test_the_last_admin_cannot_take_itself_away(new_key: Callable[..., NewKey], admin: NewKey) -> None:
    actor = rights_of(admin)
    gone = timezone.now() - timedelta(seconds=1)
    expired = new_key(Permission.ADMIN)
    ApiKey.objects.filter(pk=expired.key.pk).update(expires_at=gone)
    new_key(Permission.ADMIN, expires_at=timezone.now() + timedelta(days=2))
    for change in ({"permissions": 2047}, {"expires_at": gone}, {"expires_at": timezone.now() + timedelta(days=1)}):
        with pytest.raises(LastAdmin):
            update_key(actor=actor, key_id=actor.id, **change)  # type: ignore[arg-type]
    with pytest.raises(LastAdmin):
        delete_key(actor=actor, key_id=actor.id)
    assert rights_of(admin) == actor
    assert not RevokedKey.objects.exists()
    update_key(actor=actor, key_id=actor.id, name="still here")
    new_key(Permission.ADMIN)
    delete_key(actor=actor, key_id=actor.id)


def test_stronger_keys_are_out_of_reach(new_key: Callable[..., NewKey], admin: NewKey) -> None:
    actor = rights_of(new_key(MANAGE))
    with pytest.raises(KeyTooStrong):
        update_key(actor=actor, key_id=admin.key.pk, permissions=0)
    with pytest.raises(KeyTooStrong):
        delete_key(actor=actor, key_id=admin.key.pk)
    weak = new_key()
    with pytest.raises(KeyTooStrong):
        update_key(actor=actor, key_id=weak.key.pk, permissions=int(READ))
    assert rights_of(admin).permissions == Permission.ADMIN
    assert rights_of(weak).permissions == 0


@pytest.mark.parametrize(
    ("change", "weaker"),
    [
        ({"name": "other", "description": "d"}, False),
        ({"permissions": int(READ | WRITE | MANAGE)}, False),
        ({"permissions": int(READ)}, True),
        ({"grants": [GrantRow("b", "x/", int(WRITE)), GrantRow("c", "", 1)]}, False),
        ({"grants": [GrantRow("b", "", int(WRITE))]}, False),
        ({"grants": [GrantRow("b", "x/y/", int(WRITE))]}, False),  # WRITE is held everywhere anyway
        ({"permissions": int(READ), "grants": [GrantRow("b", "", int(WRITE))]}, True),
        ({"expires_at": timezone.now() + timedelta(days=1)}, True),
        ({"expires_at": timezone.now() + timedelta(days=900)}, False),
        ({"expires_at": None}, False),
    ],
)
def test_only_weakening_raises_the_generation(
    new_key: Callable[..., NewKey], change: dict[str, Any], weaker: bool
) -> None:
    new = new_key(
        READ | WRITE, grants=[GrantRow("b", "x/", int(WRITE))], expires_at=timezone.now() + timedelta(days=500)
    )
    assert update_key(actor=None, key_id=new.key.pk, **change).generation == (2 if weaker else 1)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "another"},
        {"description": "what for"},
        {"permissions": int(WRITE)},
        {"grants": []},
        {"grants": [GrantRow("b", "x/", int(WRITE))]},
        {"expires_at": timezone.now() + timedelta(days=9)},
    ],
)
def test_of_two_editors_the_second_is_told(new_key: Callable[..., NewKey], change: dict[str, Any]) -> None:
    key = new_key(READ, grants=[GrantRow("b", "x/", 1)]).key
    seen = edition_of(key)
    update_key(actor=None, key_id=key.pk, edition=seen, **change)
    with pytest.raises(KeyChanged):
        update_key(actor=None, key_id=key.pk, edition=seen, name="mine")
    now = ApiKey.objects.get(pk=key.pk)
    assert now.name != "mine"
    assert update_key(actor=None, key_id=key.pk, edition=edition_of(now), name="mine").name == "mine"


def test_using_a_key_or_signing_it_out_is_no_change_of_it(new_key: Callable[..., NewKey]) -> None:
    new = new_key(READ)
    seen = edition_of(new.key)
    sign_in(key_text=new.text, address="a")
    end_sessions(actor=None, key_id=new.key.pk)
    assert update_key(actor=None, key_id=new.key.pk, edition=seen, name="mine").name == "mine"


def test_losing_a_grant_weakens(new_key: Callable[..., NewKey]) -> None:
    new = new_key(grants=[GrantRow("b", "x/", int(WRITE))])
    assert update_key(actor=None, key_id=new.key.pk, grants=[GrantRow("b", "x/y", int(WRITE))]).generation == 2


def test_a_key_that_comes_back_to_life_is_a_new_one_to_old_tokens(new_key: Callable[..., NewKey]) -> None:
    new = new_key(READ)
    ApiKey.objects.filter(pk=new.key.pk).update(expires_at=timezone.now() - timedelta(days=1))
    assert update_key(actor=None, key_id=new.key.pk, expires_at=None).generation == 2


def test_a_deleted_key_leaves_its_number_behind(new_key: Callable[..., NewKey]) -> None:
    new = new_key(READ, grants=[GrantRow("b", "", 1)])
    issue_tokens(key=new.key)
    delete_key(actor=None, key_id=new.key.pk)
    assert RevokedKey.objects.filter(key_id=new.key.pk).exists()
    assert not Grant.objects.exists()
    assert not RefreshFamily.objects.exists()
    with pytest.raises(KeyUnknown):
        delete_key(actor=None, key_id=new.key.pk)
    with pytest.raises(KeyUnknown):
        update_key(actor=None, key_id=new.key.pk, name="x")


def test_ids_are_never_used_twice(new_key: Callable[..., NewKey]) -> None:
    first = new_key()
    delete_key(actor=None, key_id=first.key.pk)
    assert new_key().key.pk > first.key.pk


def test_a_deleted_bucket_takes_its_grants_along(new_key: Callable[..., NewKey]) -> None:
    new = new_key(grants=[GrantRow("b", "", 1), GrantRow("b", "x", 2), GrantRow("c", "", 1)])
    assert delete_bucket_grants(bucket="b") == 2
    assert rights_of(new).grants == (GrantRow("c", "", 1),)


def test_rotating_invalidates_every_token_but_no_key(new_key: Callable[..., NewKey]) -> None:
    new = new_key(READ)
    pair = issue_tokens(key=new.key)
    assert rotate_keys()
    with pytest.raises(TokenRefused):
        read_access(pair.access)
    with pytest.raises(TokenRefused):
        refresh_tokens(refresh=pair.refresh)
    key = sign_in(key_text=new.text, address="a")
    assert key.generation == 2
    assert read_access(issue_tokens(key=key).access) == (key.pk, 2)
