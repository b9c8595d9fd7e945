"""Reading keys and what they may do."""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db import connection
from django.db.models import Count, Q, QuerySet
from django.db.models.functions import Left
from django.utils import timezone

from keys import secret_text
from keys.actions import Action, Outcome
from keys.models import ApiKey, AuditEntry, Grant, RevokedKey
from keys.permissions import Permission
from keys.rights import GrantRow, KeyRights
from volume_server.signing import REVOKED_FOR_EVER

CACHE_SECONDS = 0.5
"""How old cached rights can be: a key that is weakened or deleted loses its rights within one second."""
CACHE_ENTRIES = 10_000
MAX_ID_DIGITS = 18
"""Of an id that somebody types: as many as every number of which fits a column."""


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
            "SELECT k.id, k.name, k.generation, k.permissions, k.expires_at, g.bucket, g.prefix, g.permissions "  # noqa: S608
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
    for key_id, name, generation, permissions, expires_at, *_ in rows:
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
            name=name,
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
        name=key.name,
    )


def edition_of(key: ApiKey) -> str:
    """A short text of what can be changed about a key: the same as long as nobody changes any of it."""
    grants = [(row.bucket, row.prefix, row.permissions) for row in rights_of_row(key).grants]
    expires_at = None if key.expires_at is None else key.expires_at.isoformat()
    shown = json.dumps([key.name, key.description, key.permissions, expires_at, grants])
    return hashlib.sha256(shown.encode()).hexdigest()[:16]


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


@dataclass(frozen=True, slots=True)
class KeyLine:
    """A key and how many grants it has."""

    key: ApiKey
    grant_count: int


def find_keys(*, text: str = "", state: str = "", before: int | None = None, limit: int) -> list[KeyLine]:
    """Up to `limit` keys with an id below `before`, newest first.

    ``text``: a part of the name or of the description, or the id; ``state``: `live` or `expired`; empty: any.
    """
    keys = ApiKey.objects.select_related("created_by").order_by("-pk")
    if "\0" in text:  # which no text in a database has
        return []
    if text:
        wanted = Q(name__icontains=text) | Q(description__icontains=text)
        if text.isdecimal() and len(text) <= MAX_ID_DIGITS:
            wanted |= Q(pk=int(text))
        keys = keys.filter(wanted)
    if state == "live":
        keys = keys.live()
    elif state == "expired":
        keys = keys.filter(expires_at__lte=timezone.now())
    if before is not None:
        keys = keys.filter(pk__lt=before)
    found = list(keys[:limit])
    counts = Grant.objects.filter(key__in=found).values_list("key").annotate(count=Count("pk")).order_by()
    grant_counts = dict(counts)
    return [KeyLine(key, grant_counts.get(key.pk, 0)) for key in found]


def get_key(key_id: int) -> ApiKey | None:
    return ApiKey.objects.select_related("created_by").prefetch_related("grants").filter(pk=key_id).first()


def live_admin_exists(*, without: int = 0) -> bool:
    """Whether somebody can still administer the store."""
    return ApiKey.objects.live().admins().exclude(pk=without).exists()


def lasting_admin_exists(*, without: int = 0) -> bool:
    """Whether somebody will be able to administer the store however long it lasts."""
    return ApiKey.objects.filter(expires_at__isnull=True).admins().exclude(pk=without).exists()


def is_last_admin(key: ApiKey) -> bool:
    """Whether without this key nobody could administer the store, now or one day."""
    if not key.permissions & Permission.ADMIN or not key.is_active:
        return False
    if key.expires_at is None and not lasting_admin_exists(without=key.pk):
        return True
    return not live_admin_exists(without=key.pk)


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


AUDIT_WINDOW = 10_000
"""Entries that one page of several filters looks through at the most."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DIGITS = re.compile(r"[0-9]{1,19}")
_MAX_NUMBER = (1 << 63) - 1
"""What a column of the database can hold."""


@dataclass(frozen=True, slots=True)
class AuditPlace:
    """Where a page ends: behind the entry of this time and id. As text `<Unix microseconds>-<id>`."""

    at: datetime
    id: int

    def __str__(self) -> str:
        return f"{(self.at - _EPOCH) // _MICROSECOND}-{self.id}"

    @classmethod
    def parse(cls, text: str) -> "AuditPlace":
        """The place that was written so. Raises ValueError for anything else."""
        micros, _, number = text.partition("-")
        if not all(_DIGITS.fullmatch(part) and int(part) <= _MAX_NUMBER for part in (micros, number)):
            raise ValueError("This is no place in the audit trail.")
        try:
            return cls(_EPOCH + int(micros) * _MICROSECOND, int(number))
        except OverflowError:
            raise ValueError("No year is so late.") from None


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Entries, newest first. ``next_after``: where the next page begins; None: there is no more."""

    entries: list[AuditEntry]
    next_after: AuditPlace | None


def list_audit(
    *,
    limit: int,
    after: AuditPlace | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    target: str = "",
    **filters: object,
) -> AuditPage:
    """A page of the audit trail. ``filters``: `key_id`, `bucket`, `action`, `outcome`, `through`, each for exactly this
    value.

    ``since`` (inclusive) and ``until`` (exclusive) bound the time, ``target`` is what targets begin with.
    One filter is a stretch of an index, and costs what it gives. Of several, the first leads: within the next
    `AUDIT_WINDOW` of its entries the others are looked for, so a page may be short, even empty, and yet not the last.
    What most entries have in common, that they are puts and done, leads nowhere, and ``target`` doesn't either.
    """
    entries = AuditEntry.objects.all()
    if since is not None:
        entries = entries.filter(at__gte=since)
    if until is not None:
        entries = entries.filter(at__lt=until)
    if after is not None:
        entries = entries.filter(Q(at__lt=after.at) | Q(at=after.at, id__lt=after.id), at__lte=after.at)
    lead = _lead(filters)
    entries = entries.filter(lead or Q())
    window_end = None
    if target or len(filters) > (lead is not None):
        window_end = next(iter(entries[AUDIT_WINDOW - 1 : AUDIT_WINDOW]), None)
        entries = entries.filter(**filters)
        if window_end is not None:
            behind = Q(at__gt=window_end.at) | Q(at=window_end.at, id__gte=window_end.pk)
            entries = entries.filter(behind, at__gte=window_end.at)
        if target:
            entries = entries.annotate(head=Left("target", len(target))).filter(head=target)
    found = list(entries[: limit + 1])
    shown = found[:limit]
    last = shown[-1] if len(found) > limit else window_end
    return AuditPage(shown, None if last is None else AuditPlace(last.at, last.pk))


def _lead(filters: Mapping[str, object]) -> Q | None:
    """The filter whose entries stand together in an index; a partial one has to be asked for in its own words."""
    for name in ("key_id", "bucket"):
        if name in filters:
            return Q(**{name: filters[name]})
    for name, common in (("action", Action.OBJECT_PUT), ("outcome", Outcome.DONE)):
        if name in filters and filters[name] != common:
            return Q(**{name: filters[name]}) & ~Q(**{name: common})
    return None
