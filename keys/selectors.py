"""Reading keys and what they may do."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db import connection
from django.db.models import QuerySet
from django.utils import timezone

from keys import secret_text
from keys.models import ApiKey, RevokedKey
from keys.rights import GrantRow, KeyRights
from volume_server.signing import REVOKED_FOR_EVER

CACHE_SECONDS = 0.5
"""How old cached rights can be: a key that is weakened or deleted loses its rights within one second."""
CACHE_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class LiveKey:
    """A key and its rights as they were read together. The model instance is shared: do not change it."""

    key: ApiKey
    rights: KeyRights


@dataclass(frozen=True, slots=True)
class _Entry:
    read_at: float
    value: LiveKey | None


_cache: dict[int, _Entry] = {}
_cache_lock = threading.Lock()


def live_key(key_id: int) -> LiveKey | None:
    """The key and its rights, at most half a second old. None when there is no such key."""
    now = time.monotonic()
    entry = _cache.get(key_id)
    if entry is None or now - entry.read_at > CACHE_SECONDS:
        key = ApiKey.objects.prefetch_related("grants").filter(pk=key_id).first()
        entry = _Entry(now, None if key is None else LiveKey(key, rights_of_row(key)))
        with _cache_lock:
            if len(_cache) >= CACHE_ENTRIES:
                _cache.clear()
            _cache[key_id] = entry
    return entry.value


def rights_of(key_id: int) -> KeyRights | None:
    """A key's rights, at most half a second old. None when there is no such key."""
    found = live_key(key_id)
    if found is None:
        return None
    rights = found.rights
    if rights.is_active and rights.expires_at is not None and rights.expires_at <= timezone.now():
        return rights_of_row(found.key)
    return rights


def rights_now(key_ids: Iterable[int]) -> dict[int, KeyRights]:
    """The rights of these keys as this transaction sees them, by key id; deleted keys are absent. One query.

    Asked by every commit while it holds its locks, so in plain SQL: the ORM would take ten times as long to build it.
    """
    wanted = sorted(set(key_ids))
    if not wanted:
        return {}
    places = ", ".join(["%s"] * len(wanted))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT k.id, k.generation, k.permissions, k.expires_at, g.bucket, g.prefix, g.permissions "  # noqa: S608
            f"FROM keys_apikey k LEFT JOIN keys_grant g ON g.key_id = k.id WHERE k.id IN ({places})",
            wanted,
        )
        rows = cursor.fetchall()
    now = timezone.now()
    grants: dict[int, list[tuple[str, str, int]]] = {}
    for key_id, *_, bucket, prefix, permissions in rows:
        if bucket is not None:
            grants.setdefault(key_id, []).append((bucket, prefix, permissions))
    rights = {}
    for key_id, generation, permissions, expires_at, *_ in rows:
        if key_id in rights:
            continue
        if expires_at is not None and expires_at.tzinfo is None:  # SQLite's are in UTC and don't say so
            expires_at = expires_at.replace(tzinfo=UTC)
        rights[key_id] = KeyRights(
            id=key_id,
            generation=generation,
            permissions=permissions,
            # Sorted here: the database's own order of texts differs from one to the other.
            grants=tuple(GrantRow(*grant) for grant in sorted(grants.get(key_id, ()))),
            expires_at=expires_at,
            is_active=expires_at is None or expires_at > now,
        )
    return rights


def rights_of_row(key: ApiKey) -> KeyRights:
    """The rights that a key's row and its grants give."""
    return KeyRights(
        id=key.pk,
        generation=key.generation,
        permissions=key.permissions,
        grants=tuple(
            GrantRow(*row)
            for row in sorted((grant.bucket, grant.prefix, grant.permissions) for grant in key.grants.all())
        ),
        expires_at=key.expires_at,
        is_active=key.is_active,
    )


def forget_rights() -> None:
    """Drop what is cached in this process; the next question is answered from the database."""
    with _cache_lock:
        _cache.clear()


def revoked_generations(since: datetime) -> dict[int, int]:
    """For each key weakened, expired or deleted at or after `since`: the first generation that is still good."""
    weakened = ApiKey.objects.filter(generation__gt=1, generation_at__gte=since)
    revoked = dict(weakened.values_list("pk", "generation"))
    expired = ApiKey.objects.filter(expires_at__gte=since, expires_at__lte=timezone.now())
    revoked.update({key_id: generation + 1 for key_id, generation in expired.values_list("pk", "generation")})
    deleted = RevokedKey.objects.filter(revoked_at__gte=since).values_list("key_id", flat=True)
    revoked.update(dict.fromkeys(deleted, REVOKED_FOR_EVER))
    return revoked


def list_keys(*, after: int = 0, limit: int) -> QuerySet[ApiKey]:
    """Up to `limit` keys with an id above `after`, by id, grants included."""
    return ApiKey.objects.select_related("created_by").prefetch_related("grants").filter(pk__gt=after)[:limit]


def get_key(key_id: int) -> ApiKey | None:
    return ApiKey.objects.select_related("created_by").prefetch_related("grants").filter(pk=key_id).first()


def live_admin_exists() -> bool:
    """Whether somebody can still administer the store."""
    return ApiKey.objects.live().admins().exists()


def key_works(*, key_text: str) -> bool:
    """Whether one could sign in with this text; nothing is counted and nothing noted."""
    parsed = secret_text.parse(key_text)
    key = ApiKey.objects.filter(pk=parsed[0]).first() if parsed else None
    return (
        parsed is not None
        and key is not None
        and secret_text.secret_matches(parsed[1], key.secret_hash)
        and key.is_active
    )
