"""Making, changing and deleting keys."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from keys import secret_text, secrets
from keys.actions import Action
from keys.errors import Invalid, KeyChanged, KeyTooStrong, KeyUnknown, LastAdmin
from keys.models import MAX_BUCKET_CHARS, MAX_NAME_CHARS, MAX_PREFIX_BYTES, ApiKey, Grant, RefreshFamily, RevokedKey
from keys.permissions import ALL_PERMISSIONS, GRANTABLE, Permission
from keys.printable import is_storable
from keys.rights import GrantRow, KeyRights
from keys.selectors import edition_of, forget_rights, lasting_admin_exists, live_admin_exists, rights_of_row
from keys.services.audit import record

logger = logging.getLogger("warehouse.keys")

MAX_GRANTS = 1000


class Unset:
    """The type of `UNSET`: a value that was not given, where None is a value."""


UNSET: Final = Unset()


_guards: list[Callable[[], None]] = []


def add_guard(guard: Callable[[], None]) -> None:
    """Has a function asked before keys change: it raises where a change would not last. Apps above this one add it."""
    _guards.append(guard)


def require_lasting() -> None:
    """Raises WarehouseError (Unavailable) where what is changed now would be undone later, as in an old database."""
    for guard in _guards:
        guard()


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made; `text` is the only copy of its secret."""

    key: ApiKey
    text: str


@transaction.atomic
def create_key(
    *,
    actor: KeyRights | None,
    name: str,
    description: str = "",
    permissions: int = 0,
    grants: Iterable[GrantRow] = (),
    expires_at: datetime | None = None,
) -> NewKey:
    """Make a key. `actor` is who asks; None is the system itself, which may do everything.

    Raises Invalid for values that no key can have, KeyTooStrong for a key that `actor` does not cover, and what
    `require_lasting` raises; the system is not asked for that, whose first key lets an operator in to mend things.
    """
    _require_lasting(actor)
    rows = _merged(grants)
    _require_valid(name=name, permissions=permissions, grants=rows)
    if expires_at is not None and expires_at <= timezone.now():
        raise Invalid(errors={"expires_at": ["This time has passed."]})
    _require_covered(actor, permissions=permissions, grants=rows)
    _require_no_longer_life(actor, expires_at)
    secret = secret_text.new_secret()
    key = ApiKey.objects.create(
        name=name,
        description=description,
        permissions=permissions,
        expires_at=expires_at,
        secret_hash=secret_text.secret_hash(secret),
        created_by_id=None if actor is None else actor.id,
    )
    _write_grants(key, rows)
    _forget()
    record(Action.KEY_CREATE, by=_by(actor), target=str(key.pk), name=name, permissions=permissions, grants=len(rows))
    logger.info("key %s was made", key.pk, extra={"actor": _name_of(actor)})
    return NewKey(key, secret_text.key_text(key.pk, secret))


@transaction.atomic
def update_key(
    *,
    actor: KeyRights | None,
    key_id: int,
    name: str | Unset = UNSET,
    description: str | Unset = UNSET,
    permissions: int | Unset = UNSET,
    grants: Iterable[GrantRow] | Unset = UNSET,
    expires_at: datetime | Unset | None = UNSET,
    edition: str | Unset = UNSET,
) -> ApiKey:
    """Change what is given and leave the rest; with an `edition` (`selectors.edition_of`), only a key that is still it.

    A change that takes anything away raises the key's generation: its tokens, leases and URLs are dead.
    Raises KeyUnknown, Invalid, KeyChanged, KeyTooStrong when the key as it was or as it would be is stronger than
    `actor` or would get rights that outlast `actor`, LastAdmin when no live ADMIN key would be left, and as
    `require_lasting`.
    """
    _require_lasting(actor)
    _lock_admins(actor)
    key = _locked(key_id)
    before = rights_of_row(key)
    _require_covered(actor, permissions=before.permissions, grants=before.grants)
    if not isinstance(edition, Unset) and edition != edition_of(key):
        raise KeyChanged("Somebody else changed this key since you opened it.")
    if not isinstance(name, Unset):
        key.name = name
    if not isinstance(description, Unset):
        key.description = description
    if not isinstance(permissions, Unset):
        key.permissions = permissions
    rows = before.grants if isinstance(grants, Unset) else _merged(grants)
    if not isinstance(expires_at, Unset) and expires_at != key.expires_at:
        _require_no_longer_life(actor, expires_at)
        key.expires_at = expires_at
    _require_valid(name=key.name, permissions=key.permissions, grants=rows)
    _require_covered(actor, permissions=key.permissions, grants=rows)
    if not replace(before, is_active=True).covers(permissions=key.permissions, grants=rows):
        _require_no_longer_life(actor, key.expires_at)
    if rows != before.grants:
        key.grants.all().delete()
        _write_grants(key, rows)
    if _is_weaker(before, permissions=key.permissions, grants=rows, expires_at=key.expires_at):
        key.generation += 1
        key.generation_at = timezone.now()
    key.save(
        update_fields=("name", "description", "permissions", "expires_at", "generation", "generation_at"),
    )
    _require_an_admin(actor, before)
    _forget()
    record(
        Action.KEY_UPDATE,
        by=_by(actor),
        target=str(key.pk),
        name=key.name,
        permissions=key.permissions,
        permissions_before=before.permissions,
        grants=len(rows),
        grants_before=len(before.grants),
        weakened=key.generation != before.generation,
    )
    logger.info("key %s was changed", key.pk, extra={"actor": _name_of(actor), "generation": key.generation})
    return key


@transaction.atomic
def end_sessions(*, actor: KeyRights | None, key_id: int) -> None:
    """Make all that was signed for a key worthless: tokens, sessions, leases, URLs. The key itself stays good.

    Raises KeyUnknown, KeyTooStrong, and as `require_lasting`.
    """
    _require_lasting(actor)
    key = _locked(key_id)
    rights = rights_of_row(key)
    _require_covered(actor, permissions=rights.permissions, grants=rights.grants)
    ApiKey.objects.filter(pk=key_id).update(generation=F("generation") + 1, generation_at=timezone.now())
    RefreshFamily.objects.filter(key=key).delete()
    _forget()
    record(Action.KEY_END_SESSIONS, by=_by(actor), target=str(key_id), name=key.name)
    logger.info("all that was signed for key %s was ended", key_id, extra={"actor": _name_of(actor)})


@transaction.atomic
def delete_key(*, actor: KeyRights | None, key_id: int) -> None:
    """Delete a key; all that was signed for it is refused from now on.

    Raises KeyUnknown, KeyTooStrong, LastAdmin when no live ADMIN key would be left, and as `require_lasting`.
    """
    _require_lasting(actor)
    _lock_admins(actor)
    key = _locked(key_id)
    rights = rights_of_row(key)
    _require_covered(actor, permissions=rights.permissions, grants=rights.grants)
    RevokedKey.objects.create(key_id=key.pk)
    key.delete()
    _require_an_admin(actor, rights)
    _forget()
    record(Action.KEY_DELETE, by=_by(actor), target=str(key_id), name=key.name)
    logger.info("key %s was deleted", key_id, extra={"actor": _name_of(actor)})


@transaction.atomic
def delete_bucket_grants(*, bucket: str) -> int:
    """Remove all grants on a bucket that is being deleted, so that a later one of its name inherits none."""
    deleted, _ = Grant.objects.filter(bucket=bucket).delete()
    _forget()
    return deleted


def rotate_keys() -> bool:
    """Invalidate every token, session, lease and signed URL at once; keys themselves stay good.

    Returns whether the key that signs tokens was replaced too (not where the environment gives it).
    """
    with transaction.atomic():
        ApiKey.objects.update(generation=F("generation") + 1, generation_at=timezone.now())
        RefreshFamily.objects.all().delete()
        _forget()
        record(Action.KEY_ROTATE)
    replaced = secrets.replace_token_key()
    logger.warning("all tokens were invalidated", extra={"signing_key_replaced": replaced})
    return replaced


def _require_lasting(actor: KeyRights | None) -> None:
    if actor is not None:
        require_lasting()


def _locked(key_id: int) -> ApiKey:
    key = ApiKey.objects.select_for_update().filter(pk=key_id).first()
    if key is None:
        raise KeyUnknown(f"There is no key {key_id}.")
    return key


def _merged(grants: Iterable[GrantRow]) -> tuple[GrantRow, ...]:
    """One grant for each bucket and prefix, in the order they are read back in."""
    bits: dict[tuple[str, str], int] = {}
    for grant in grants:
        place = (grant.bucket, grant.prefix)
        bits[place] = bits.get(place, 0) | grant.permissions
    return tuple(GrantRow(bucket, prefix, bits[bucket, prefix]) for bucket, prefix in sorted(bits))


def _write_grants(key: ApiKey, rows: Iterable[GrantRow]) -> None:
    Grant.objects.bulk_create(
        Grant(key=key, bucket=row.bucket, prefix=row.prefix, permissions=row.permissions) for row in rows
    )


def _require_valid(*, name: str, permissions: int, grants: tuple[GrantRow, ...]) -> None:
    errors: dict[str, list[str]] = {}
    if not name.strip() or len(name) > MAX_NAME_CHARS or not is_storable(name):
        errors["name"] = [f"A name has 1 to {MAX_NAME_CHARS} characters."]
    if not 0 <= permissions <= ALL_PERMISSIONS:
        errors["permissions"] = [f"Permissions are bits from 0 to {ALL_PERMISSIONS}."]
    if len(grants) > MAX_GRANTS:
        errors["grants"] = [f"A key has at most {MAX_GRANTS} grants."]
    for index, grant in enumerate(grants):
        if not 1 <= len(grant.bucket) <= MAX_BUCKET_CHARS or not is_storable(grant.bucket):
            errors[f"grants.{index}.bucket"] = ["This is no name of a bucket."]
        if not is_storable(grant.prefix) or len(grant.prefix.encode()) > MAX_PREFIX_BYTES:
            errors[f"grants.{index}.prefix"] = [f"A prefix has at most {MAX_PREFIX_BYTES} bytes of UTF-8 and no NUL."]
        if grant.permissions <= 0 or grant.permissions & ~int(GRANTABLE):
            errors[f"grants.{index}.permissions"] = [
                f"A grant holds bits of {int(GRANTABLE)} (objects, buckets, shares), at least one."
            ]
    if errors:
        raise Invalid(errors=errors)


def _require_covered(actor: KeyRights | None, *, permissions: int, grants: tuple[GrantRow, ...]) -> None:
    if actor is not None and not actor.covers(permissions=permissions, grants=grants):
        raise KeyTooStrong("A key makes, changes and deletes only keys whose rights it has itself.")


def _require_no_longer_life(actor: KeyRights | None, expires_at: datetime | None) -> None:
    """A key that expires cannot live on in one that it made, prolonged or strengthened."""
    if actor is None or actor.expires_at is None:
        return
    if expires_at is None or expires_at > actor.expires_at:
        raise KeyTooStrong("A key cannot give a longer life than its own, nor rights that outlast it.")


def _lock_admins(actor: KeyRights | None) -> None:
    """Before any other row, and in one order: two ADMIN keys that end each other at once queue here."""
    if actor is not None:
        list(ApiKey.objects.admins().order_by("pk").select_for_update().values_list("pk"))


def _require_an_admin(actor: KeyRights | None, before: KeyRights) -> None:
    """After a change: a key cannot take the last ADMIN away, nor let it run out later.

    The system may, and makes another at its next start.
    """
    if actor is None or not before.permissions & Permission.ADMIN:
        return
    if not live_admin_exists():
        raise LastAdmin("Make another ADMIN key first: without one, nobody could administer the store.")
    if before.expires_at is None and not lasting_admin_exists():
        raise LastAdmin("Make another ADMIN key that never expires first: one day, nobody could administer the store.")


def _is_weaker(
    before: KeyRights, *, permissions: int, grants: tuple[GrantRow, ...], expires_at: datetime | None
) -> bool:
    """Whether anything that `before` had is gone. A dead key that comes to life is a new one to its old tokens."""
    if not before.is_active:
        return True
    after = KeyRights(before.id, before.generation, permissions, grants, expires_at, is_active=True)
    shorter = expires_at is not None and (before.expires_at is None or expires_at < before.expires_at)
    return shorter or not after.covers(permissions=before.permissions, grants=before.grants)


def _forget() -> None:
    """Now, for what this transaction reads next; after the commit, for what others cached meanwhile."""
    forget_rights()
    transaction.on_commit(forget_rights)


def _by(actor: KeyRights | None) -> tuple[int, str] | None:
    return None if actor is None else (actor.id, actor.name)


def _name_of(actor: KeyRights | None) -> str:
    return "system" if actor is None else f"key {actor.id}"
