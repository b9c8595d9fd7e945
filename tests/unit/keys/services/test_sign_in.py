from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db.models import QuerySet
from django.utils import timezone
from pytest_django import Settings

from keys.errors import KeyRefused, TokenRefused, TooManyFailures, WarehouseError
from keys.models import ApiKey, RefreshFamily
from keys.permissions import Permission
from keys.services.keys import NewKey, create_key, delete_key, update_key
from keys.services.sign_in import (
    TokenPair,
    issue_tokens,
    mark_used,
    refresh_tokens,
    revoke_tokens,
    sign_in,
)
from keys.tokens import read_access
from tests.support.races import at_once

pytestmark = pytest.mark.django_db


def wrong_keys(text: str) -> list[str]:
    stem, secret = text.rsplit("_", 1)
    return ["", "x", text + "x", text[:-1], f"whk_999999_{secret}", stem, f"{stem}_", "whk_1_" + "é" * 43]


def test_every_wrong_key_gets_the_same_answer(new_key: Callable[..., NewKey]) -> None:
    new = new_key()
    details = set()
    for text in wrong_keys(new.text):
        with pytest.raises(KeyRefused) as caught:
            sign_in(key_text=text, address="a")
        details.add((caught.value.code, caught.value.detail))
    ApiKey.objects.filter(pk=new.key.pk).update(expires_at=timezone.now())
    with pytest.raises(KeyRefused) as caught:
        sign_in(key_text=new.text, address="a")
    details.add((caught.value.code, caught.value.detail))
    assert len(details) == 1


def test_only_failures_are_throttled(new_key: Callable[..., NewKey], settings: Settings) -> None:
    settings.WAREHOUSE_FAILED_LOGINS = 3
    new = new_key()
    for _ in range(10):
        sign_in(key_text=new.text, address="a")
    outcomes: list[type[WarehouseError]] = []
    for _ in range(8):
        try:
            sign_in(key_text="wrong", address="a")
        except WarehouseError as error:
            outcomes.append(type(error))
    assert TooManyFailures in outcomes
    assert outcomes[:3] == [KeyRefused] * 3
    assert sign_in(key_text=new.text, address="a") == new.key
    with pytest.raises(KeyRefused):
        sign_in(key_text="wrong", address="b")


def test_last_use_is_written_at_most_once_a_minute(new_key: Callable[..., NewKey]) -> None:
    key = new_key().key
    mark_used(key=key)
    first = key.last_used_at
    assert first is not None
    stale = ApiKey.objects.get(pk=key.pk)
    mark_used(key=stale)
    assert stale.last_used_at == first
    ApiKey.objects.filter(pk=key.pk).update(last_used_at=first - timedelta(minutes=2))
    stale.refresh_from_db()
    mark_used(key=stale)
    stale.refresh_from_db()
    assert stale.last_used_at is not None
    assert stale.last_used_at >= first


def test_refreshing_rotates(new_key: Callable[..., NewKey]) -> None:
    key = new_key(1).key
    pair = issue_tokens(key=key)
    for _ in range(3):
        pair = refresh_tokens(refresh=pair.refresh)
        assert read_access(pair.access) == (key.pk, 1)
    assert RefreshFamily.objects.get().serial == 4


def test_asking_again_at_once_is_refused_and_harms_nobody(new_key: Callable[..., NewKey]) -> None:
    first = issue_tokens(key=new_key(1).key)
    second = refresh_tokens(refresh=first.refresh)
    with pytest.raises(TokenRefused):
        refresh_tokens(refresh=first.refresh)
    assert refresh_tokens(refresh=second.refresh)


@pytest.mark.parametrize("copied", ["late", "older", "without leeway"])
def test_reuse_revokes_the_family_and_no_other(new_key: Callable[..., NewKey], settings: Settings, copied: str) -> None:
    key = new_key(1).key
    first, other = issue_tokens(key=key), issue_tokens(key=key)
    newest = refresh_tokens(refresh=first.refresh)
    if copied == "late":
        RefreshFamily.objects.update(spent_at=timezone.now() - timedelta(seconds=11))
    elif copied == "older":
        newest = refresh_tokens(refresh=newest.refresh)
    else:
        settings.WAREHOUSE_REFRESH_LEEWAY_SECONDS = 0
    for refresh in (first.refresh, newest.refresh):
        with pytest.raises(TokenRefused):
            refresh_tokens(refresh=refresh)
    assert refresh_tokens(refresh=other.refresh)


def test_a_key_that_is_deleted_during_a_refresh_is_a_refusal(
    new_key: Callable[..., NewKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh = issue_tokens(key=new_key().key).refresh
    spend = QuerySet.update

    def spend_then_delete(rows: Any, **values: Any) -> int:
        spent = spend(rows, **values)
        RefreshFamily.objects.all().delete()
        return spent

    monkeypatch.setattr(QuerySet, "update", spend_then_delete)
    with pytest.raises(TokenRefused):
        refresh_tokens(refresh=refresh)


def test_revoking_ends_the_family(new_key: Callable[..., NewKey]) -> None:
    pair = issue_tokens(key=new_key().key)
    revoke_tokens(refresh=pair.refresh)
    revoke_tokens(refresh=pair.refresh)
    with pytest.raises(TokenRefused):
        refresh_tokens(refresh=pair.refresh)


def test_an_access_token_is_no_refresh_token(new_key: Callable[..., NewKey]) -> None:
    pair = issue_tokens(key=new_key().key)
    with pytest.raises(TokenRefused):
        refresh_tokens(refresh=pair.access)
    with pytest.raises(TokenRefused):
        read_access(pair.refresh)


def test_a_changed_key_must_sign_in_again(new_key: Callable[..., NewKey]) -> None:
    new = new_key(Permission.OBJECTS_READ)
    pair = issue_tokens(key=new.key)
    update_key(actor=None, key_id=new.key.pk, permissions=0)
    with pytest.raises(TokenRefused):
        refresh_tokens(refresh=pair.refresh)


@pytest.mark.parametrize("end", ["expired", "deleted"])
def test_a_dead_key_refreshes_nothing(new_key: Callable[..., NewKey], end: str) -> None:
    key = new_key().key
    pair = issue_tokens(key=key)
    if end == "deleted":
        delete_key(actor=None, key_id=key.pk)
    else:
        ApiKey.objects.filter(pk=key.pk).update(expires_at=timezone.now())
    with pytest.raises(TokenRefused):
        refresh_tokens(refresh=pair.refresh)


def test_expired_families_are_cleared_at_the_next_sign_in(new_key: Callable[..., NewKey]) -> None:
    key = new_key().key
    issue_tokens(key=key)
    RefreshFamily.objects.update(expires_at=timezone.now())
    issue_tokens(key=key)
    assert RefreshFamily.objects.count() == 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.django_db(transaction=True)
def test_of_several_who_spend_one_token_at_once_exactly_one_wins_and_stays_signed_in() -> None:
    def spend(refresh: str) -> TokenPair | None:
        try:
            return refresh_tokens(refresh=refresh)
        except TokenRefused:
            return None

    key = create_key(actor=None, name="raced").key
    spent = refresh = issue_tokens(key=key).refresh
    for _ in range(5):
        pairs = at_once(*[partial(spend, refresh)] * 3)
        [won] = [pair for pair in pairs if pair is not None]
        spent, refresh = refresh, won.refresh  # good still: the next round spends it
    assert RefreshFamily.objects.get().revoked_at is None
    RefreshFamily.objects.update(spent_at=timezone.now() - timedelta(seconds=11))
    for token in (spent, refresh):
        with pytest.raises(TokenRefused):
            refresh_tokens(refresh=token)
    assert RefreshFamily.objects.get().revoked_at is not None


@pytest.mark.django_db(transaction=True)
def test_signing_in_while_the_key_is_deleted_is_a_refusal() -> None:
    key = create_key(actor=None, name="gone").key
    delete_key(actor=None, key_id=key.pk)
    with pytest.raises(KeyRefused):
        issue_tokens(key=key)
