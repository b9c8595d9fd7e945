"""The audit trail of changes. Denied tries are `keys.services.denials`'s; how it is read, `keys.selectors`'s."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection
from django.utils import timezone

from keys.actions import Action, Outcome
from keys.models import (
    MAX_ACTION_CHARS,
    MAX_ADDRESS_CHARS,
    MAX_BUCKET_CHARS,
    MAX_NAME_CHARS,
    MAX_TARGET_CHARS,
    AuditEntry,
)
from keys.services.acting import acting

TABLE = AuditEntry._meta.db_table
COLUMNS = (
    "at",
    "key_id",
    "key_name",
    "action",
    "bucket",
    "target",
    "address",
    "request_id",
    "through",
    "outcome",
    "detail",
    "count",
)
"""Of a row that `row` gives, for whoever writes with a statement of their own."""

_PUT = Action.OBJECT_PUT.value

MAX_TEXT_CHARS = 300
"""Of one text in an entry's detail."""
MAX_DENIED = 1_000_000
"""Entries of denied tries that are kept at the most: who is refused for months does not fill the disk with it."""
PRUNED_AT_ONCE = 5_000


def record(
    action: Action,
    *,
    by: tuple[int, str] | None = None,
    bucket: str = "",
    target: str = "",
    outcome: Outcome = Outcome.DONE,
    **detail: object,
) -> None:
    """Writes an entry, inside the transaction of the change that it tells of.

    Who and from where is known from `keys.services.acting`; ``by``: a key's id and name, where nobody is named there.
    ``detail``: a few numbers, short texts and lists of these; never a secret, a token or a signature.
    """
    columns = row(
        action,
        at=timezone.now(),
        key=by if acting().key_id is None else None,
        bucket=bucket,
        target=target,
        outcome=outcome,
        detail=detail,
    )
    places = ", ".join(["%s"] * len(COLUMNS))
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {TABLE} ({', '.join(COLUMNS)}) VALUES ({places})", columns)  # noqa: S608


def row(
    action: str,
    *,
    at: datetime,
    key: tuple[int | None, str] | None = None,
    bucket: str = "",
    target: str = "",
    outcome: Outcome = Outcome.DONE,
    detail: Mapping[str, object],
    address: str | None = None,
) -> tuple[Any, ...]:
    """The values of `COLUMNS`. ``key``: id and name of who did it, ``address`` from where; None: as acting says."""
    who = acting()
    key_id, key_name = key if key is not None else (who.key_id, who.key_name)
    return (
        connection.ops.adapt_datetimefield_value(at),
        key_id,
        clean(key_name, MAX_NAME_CHARS),
        clean(action, MAX_ACTION_CHARS),
        clean(bucket, MAX_BUCKET_CHARS),
        clean(target, MAX_TARGET_CHARS),
        clean(who.address if address is None else address, MAX_ADDRESS_CHARS),
        who.request_id,
        who.through.value,
        outcome.value,
        json.dumps({name: _plain(value) for name, value in detail.items()}),
        1,
    )


def put_row(
    *, at: object, key: tuple[int, str], bucket: str, target: str, outcome: str, detail: str
) -> tuple[Any, ...]:
    """As `row`, for the commits of puts, which are many: all values as the database takes them, ``detail`` as JSON.

    Plain texts, for a database driver takes its time with an enum's. No address: the master meets no client here.
    """
    who = acting()
    return (
        at,
        *key,
        _PUT,
        bucket,
        target,
        "",
        who.request_id,
        who.through.value,
        outcome,
        detail,
        1,
    )


def common_target(first: str, last: str) -> str:
    """What entries of many keys have as their target: with what all of them begin. Of sorted keys the first, the last.

    Of a single one, the key itself.
    """
    for at, (one, other) in enumerate(zip(first, last, strict=False)):
        if one != other:
            return first[:at]
    return min(first, last, key=len)


def clean(text: str, chars: int) -> str:
    """Text that every database takes, of at most so many characters."""
    if text.isascii() and "\0" not in text:
        return text[:chars]
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()[:chars]


def prune_audit() -> int:
    """Deletes entries that are older than WAREHOUSE_AUDIT_DAYS, and the oldest denied ones beyond a million.

    In small transactions, so that nobody waits for it; how many went.
    """
    oldest = timezone.now() - timedelta(days=settings.WAREHOUSE_AUDIT_DAYS)
    pruned = _prune(AuditEntry.objects.filter(at__lt=oldest))
    denied = AuditEntry.objects.filter(outcome=Outcome.DENIED).order_by("-at")
    beyond = list(denied.values_list("at", flat=True)[MAX_DENIED : MAX_DENIED + 1])
    if beyond:
        pruned += _prune(denied.filter(at__lte=beyond[0]))
    return pruned


def _prune(entries: Any) -> int:
    pruned = 0
    while ids := list(entries.order_by("at").values_list("pk", flat=True)[:PRUNED_AT_ONCE]):
        pruned += AuditEntry.objects.filter(pk__in=ids).delete()[0]
    return pruned


def _plain(value: object) -> object:
    if isinstance(value, str):
        return clean(value, MAX_TEXT_CHARS)
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {clean(str(name), MAX_TEXT_CHARS): _plain(one) for name, one in value.items()}
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return clean(str(value), MAX_TEXT_CHARS)
