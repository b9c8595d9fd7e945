"""Signing in with a key, and the tokens that follow from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Q
from django.utils import timezone

from keys import secret_text
from keys.actions import Action, Outcome
from keys.errors import KeyRefused, TokenRefused
from keys.models import ApiKey, RefreshFamily
from keys.services.acting import identify
from keys.services.audit import record
from keys.services.denials import note_denied
from keys.services.failures import count_failure
from keys.tokens import AccessToken, RefreshToken, read_refresh

LAST_USED_STEP: Final = timedelta(minutes=1)
"""How exact `last_used_at` is; a key in use costs one write in this time."""


@dataclass(frozen=True, slots=True)
class TokenPair:
    access: str
    refresh: str
    expires_in_s: int


def sign_in(*, key_text: str, address: str) -> ApiKey:
    """The live key with this text; that it signed in is for the caller to record, who gives it tokens or a session.

    Raises KeyRefused for any wrong key, without telling an unknown id from a wrong secret, and TooManyFailures in
    its place once `address` (the client's) failed too often. A right key is never held up: its secret cannot be
    guessed, so all that is slowed down is noise.
    """
    parsed = secret_text.parse(key_text)
    key = ApiKey.objects.filter(pk=parsed[0]).first() if parsed else None
    matches = secret_text.secret_matches(parsed[1] if parsed else key_text, key.secret_hash if key else None)
    if key is None or not matches or not key.is_active:
        note_denied(Action.KEY_SIGN_IN, target=str(parsed[0]) if parsed else "")
        count_failure(f"keys.{address}", limit=settings.WAREHOUSE_FAILED_LOGINS)
        raise KeyRefused("The key is wrong, has expired, or was deleted.")
    mark_used(key=key)
    return key


def issue_tokens(*, key: ApiKey) -> TokenPair:
    """A new family of tokens for a key that has just signed in. Raises KeyRefused when it was deleted meanwhile."""
    now = timezone.now()
    try:
        with transaction.atomic():
            RefreshFamily.objects.filter(key=key, expires_at__lte=now).delete()
            family = RefreshFamily.objects.create(key=key, expires_at=now + _refresh_lifetime())
            record_sign_in(key=key)
    except IntegrityError:
        raise KeyRefused("The key is wrong, has expired, or was deleted.") from None
    return _pair(key, family)


def record_sign_in(*, key: ApiKey) -> None:
    """Has the audit trail say that a key signed in; it is the one that acts from here on."""
    identify(key_id=key.pk, key_name=key.name)
    record(Action.KEY_SIGN_IN, by=(key.pk, key.name), target=str(key.pk))


def record_sign_out(*, key: ApiKey) -> None:
    """Has the audit trail say that a key signed out."""
    record(Action.KEY_SIGN_OUT, by=(key.pk, key.name), target=str(key.pk))


def refresh_tokens(*, refresh: str) -> TokenPair:
    """Spend a refresh token for a new pair.

    Of several who spend the same one at once, one wins and the others are refused: a client that refreshes in two
    threads, or asks again because the answer was slow, is no thief. Whoever spends it later, or an older one, gives
    away that it was copied, and the whole family is revoked (RFC 9700, section 4.14.2). Raises TokenRefused.
    """
    token = read_refresh(refresh)
    now = timezone.now()
    spent = RefreshFamily.objects.filter(
        pk=token["fam"], serial=token["ser"], key_id=token["sub"], revoked_at__isnull=True, expires_at__gt=now
    ).update(serial=F("serial") + 1, spent_at=now, expires_at=now + _refresh_lifetime())
    if not spent:
        _revoke_if_copied(token)
        raise TokenRefused("The refresh token was spent or revoked before.")
    family = RefreshFamily.objects.select_related("key").filter(pk=token["fam"]).first()
    if family is None or family.key.generation != token["gen"] or not family.key.is_active:
        raise TokenRefused("The key changed, expired or was deleted: sign in with it again.")
    family.serial = int(token["ser"]) + 1
    mark_used(key=family.key)
    return _pair(family.key, family)


def revoke_tokens(*, refresh: str) -> None:
    """End the family of a refresh token; done already is done. Raises TokenRefused for what is no refresh token."""
    token = read_refresh(refresh)
    with transaction.atomic():
        if RefreshFamily.objects.filter(pk=token["fam"], revoked_at__isnull=True).update(revoked_at=timezone.now()):
            record(Action.KEY_SIGN_OUT, by=_holder(token), target=str(token["sub"]))


def revoke_families(*, family_ids: Iterable[UUID]) -> int:
    """End sign-ins: their refresh tokens get no new pair, access tokens end by themselves. How many were not over."""
    families = RefreshFamily.objects.filter(pk__in=list(family_ids), revoked_at__isnull=True)
    with transaction.atomic():
        if ended := families.update(revoked_at=timezone.now()):
            record(Action.KEY_SIGN_OUT, families=ended)
    return ended


def mark_used(*, key: ApiKey) -> None:
    """Note that the key is in use, at most once in a minute."""
    now = timezone.now()
    stale = now - LAST_USED_STEP
    if key.last_used_at is None or key.last_used_at <= stale:
        outdated = Q(last_used_at__isnull=True) | Q(last_used_at__lte=stale)
        ApiKey.objects.filter(outdated, pk=key.pk).update(last_used_at=now)
        key.last_used_at = now


def _pair(key: ApiKey, family: RefreshFamily) -> TokenPair:
    access = AccessToken()
    refresh = RefreshToken()
    for token in (access, refresh):
        token["sub"] = str(key.pk)
        token["gen"] = key.generation
    refresh["fam"] = str(family.pk)
    refresh["ser"] = family.serial
    return TokenPair(str(access), str(refresh), settings.WAREHOUSE_ACCESS_SECONDS)


def _revoke_if_copied(token: RefreshToken) -> None:
    """Revokes the family of a token that was spent before, unless it was the last and that was just now.

    One conditional UPDATE: whoever has won meanwhile is seen by it.
    """
    now = timezone.now()
    leeway = timedelta(seconds=settings.WAREHOUSE_REFRESH_LEEWAY_SECONDS)
    just_spent = Q(serial=int(token["ser"]) + 1, spent_at__isnull=False, spent_at__gt=now - leeway)
    with transaction.atomic():
        live = RefreshFamily.objects.filter(~just_spent, pk=token["fam"], revoked_at__isnull=True)
        if live.update(revoked_at=now):
            record(Action.TOKEN_REUSE, by=_holder(token), target=str(token["sub"]), outcome=Outcome.DENIED)


def _holder(token: RefreshToken) -> tuple[int, str]:
    """Id and name of the key that a token was given to; no name when the key is gone."""
    key_id = int(token["sub"])
    return key_id, ApiKey.objects.filter(pk=key_id).values_list("name", flat=True).first() or ""


def _refresh_lifetime() -> timedelta:
    return timedelta(seconds=settings.WAREHOUSE_REFRESH_SECONDS)
