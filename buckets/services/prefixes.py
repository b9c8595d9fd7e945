"""All objects below a key prefix, renamed in one commit."""

from typing import NamedTuple

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from buckets.errors import KeyInvalid, ObjectExists, ObjectUnknown, TooManyRows
from buckets.models import Object, Outbox
from buckets.names import etag_of_change, key_error, successor
from buckets.selectors.buckets import get_bucket
from buckets.services.bulk import run_in
from buckets.services.chunks import Owner, take_chunks_of_objects
from buckets.services.confirm import select_versions
from buckets.services.locks import CountChange, add_to_counts, lock_bucket
from buckets.services.moves import Move, count_chunks, keep_verdicts, move_objects, require_few
from buckets.services.outbox import bury
from buckets.services.removals import note_removed
from keys.actions import Action
from keys.errors import Invalid
from keys.services.audit import record
from volumes.services.store import next_sequence

_SHOWN = 10
"""Keys that an error tells of."""


class RenamedPrefix(NamedTuple):
    """How many objects got other keys, and how many were overwritten by that."""

    renamed: int
    overwritten: int


def rename_prefix(*, bucket: str, prefix: str, to_prefix: str, overwrite: bool = False) -> RenamedPrefix:
    """Gives every object whose key starts with ``prefix`` one that starts with ``to_prefix`` instead, or none of them.

    One may be the start of the other: each object is renamed once. Raises BucketUnknown, Invalid, ObjectUnknown (there
    is none), KeyInvalid (a key would be too long or empty), ObjectExists, and TooManyRows (more objects than one commit
    takes, or more chunks of those that are overwritten).
    """
    for name, text in (("prefix", prefix), ("to_prefix", to_prefix)):
        if text and (problem := key_error(text)) is not None:
            raise KeyInvalid(errors={name: [problem]})
    if prefix == to_prefix:
        raise Invalid(errors={"to_prefix": ["This is the prefix that they have."]})
    # Before anything is locked, so that nobody waits for a call that is refused.
    _require_few(_count(get_bucket(bucket).pk, prefix), prefix)
    return _rename(bucket=bucket, prefix=prefix, to_prefix=to_prefix, overwrite=overwrite)


@transaction.atomic
def _rename(*, bucket: str, prefix: str, to_prefix: str, overwrite: bool) -> RenamedPrefix:
    row = lock_bucket(bucket)
    found = _select(row.pk, prefix)
    _require_few(len(found), prefix)
    if not found:
        raise ObjectUnknown(f"No key in bucket {bucket!r} starts with {prefix!r}.")
    keys = {key: to_prefix + key[len(prefix) :] for _, key, _, _ in found}
    for key, target in keys.items():
        if (problem := key_error(target)) is not None:
            raise KeyInvalid(f"{key[:100]!r} can't be renamed. {problem}", key=key)
    replaced = {
        object_id: Owner(bucket, key, size)
        for object_id, _, key, size, _ in select_versions({row.pk: set(keys.values()) - keys.keys()})
    }
    if replaced and not overwrite:
        taken = sorted(owner.key for owner in replaced.values())
        raise ObjectExists(
            f"{len(taken)} of the new keys are taken, and nothing said to overwrite them.", keys=taken[:_SHOWN]
        )
    if replaced:
        require_few(sum(count_chunks(list(replaced)).values()), "chunks to be overwritten")
    sequence = next_sequence()
    now = timezone.now()
    if replaced:
        dead = take_chunks_of_objects(replaced, reason=Outbox.Reason.OVERWRITTEN)
        run_in("DELETE FROM buckets_object WHERE id IN {in}", replaced)
        bury(dead, now=now, sequence=sequence)
        size_bytes = sum(owner.size for owner in replaced.values())
        add_to_counts([CountChange(row.pk, objects=-len(replaced), size_bytes=-size_bytes)])
    keep_verdicts({object_id: Owner(bucket, key, size) for object_id, key, size, _ in found})
    move_objects(
        [
            Move(object_id, key, keys[key], etag_of_change(etag, sequence, nth))
            for nth, (object_id, key, _, etag) in enumerate(found)
        ],
        sequence=sequence,
        now=now,
    )
    left = keys.keys() - set(keys.values())
    note_removed([(row.pk, key) for key in left], sequence=sequence, now=now)
    record(
        Action.OBJECT_RENAME,
        bucket=bucket,
        target=to_prefix,
        renamed=len(found),
        overwritten=len(replaced),
        prefix=prefix,
    )
    return RenamedPrefix(renamed=len(found), overwritten=len(replaced))


def _require_few(count: int, prefix: str) -> None:
    """Raises TooManyRows. ``count`` is no more than one too many: nobody counts a million objects for a refusal."""
    limit = settings.WAREHOUSE_COMMIT_ROWS
    if count > limit:
        raise TooManyRows(f"There are more than {limit} objects below {prefix!r}, which one commit takes.", limit=limit)


def _count(bucket_id: int, prefix: str) -> int:
    """How many objects there are below the prefix, as far as one too many."""
    rows = Object.objects.filter(bucket=bucket_id, key__gte=prefix)
    if (end := successor(prefix)) is not None:
        rows = rows.filter(key__lt=end)
    return rows[: settings.WAREHOUSE_COMMIT_ROWS + 1].count()


def _select(bucket_id: int, prefix: str) -> list[tuple[int, str, int, str]]:
    """(object id, key, size, ETag) of the objects below the prefix, and of no more than one too many."""
    end = successor(prefix)
    below = "AND key < %s" if end is not None else ""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, key, size, etag FROM buckets_object "  # noqa: S608 - names alone are put in
            f"WHERE bucket_id = %s AND key >= %s {below} ORDER BY key LIMIT %s",
            [bucket_id, prefix, *([end] if end is not None else []), settings.WAREHOUSE_COMMIT_ROWS + 1],
        )
        return list(cursor.fetchall())
