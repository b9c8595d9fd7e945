"""Changing objects without new bytes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from buckets.errors import MetadataInvalid, ObjectUnknown
from buckets.models import Object, Outbox
from buckets.names import content_type_error, etag_of_change, if_match_error, metadata_error
from buckets.selectors.buckets import get_bucket
from buckets.selectors.objects import objects_below
from buckets.services.bulk import run_in
from buckets.services.chunks import Owner, take_chunks_of_objects
from buckets.services.conditions import require_conditions
from buckets.services.confirm import select_versions
from buckets.services.locks import CountChange, add_to_counts, lock_bucket, lock_buckets_named
from buckets.services.moves import count_chunks, require_few
from buckets.services.outbox import bury
from buckets.services.removals import note_removed
from keys.actions import Action
from keys.errors import Invalid
from keys.services.audit import common_target, record
from volumes.services.store import next_sequence

KEYS_AT_ONCE = 1000
"""Objects of a bucket that is emptied that go in one commit: others wait for its lock that long."""

Found = tuple[int, int, str, int, str]
"""An object as `select_versions` gives it: its id, its bucket's, key, size in bytes, ETag."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """The keys that were asked for, each once and in their order, by what became of them."""

    deleted: list[str]
    missing: list[str]


@transaction.atomic
def delete_objects(*, bucket: str, keys: Iterable[str], if_match: str = "") -> Deleted:
    """Deletes objects, all in one commit. ``if_match`` is judged for each that there is.

    Raises BucketUnknown, Invalid, ObjectChanged, and TooManyRows where the objects have more chunks than one commit
    takes (one object never has); then nothing is deleted.
    """
    _require_if_match(if_match)
    wanted = list(dict.fromkeys(keys))
    row = lock_bucket(bucket)
    found = select_versions({row.pk: set(wanted)}) if wanted else []
    if not found:
        return Deleted(deleted=[], missing=wanted)
    for _, _, _, _, etag in found:
        require_conditions(etag=etag, if_match=if_match)
    _require_few_chunks(found)
    remove_objects(bucket=bucket, found=found, sequence=next_sequence())
    gone = {key for _, _, key, _, _ in found}
    return Deleted(deleted=[key for key in wanted if key in gone], missing=[key for key in wanted if key not in gone])


@transaction.atomic
def delete_objects_of(*, keys: Mapping[str, Iterable[str]]) -> None:
    """Deletes objects of several buckets, all in one commit: ``keys`` by the names of their buckets.

    Raises BucketUnknown, BucketDeleting, TooManyRows; then nothing is deleted.
    """
    wanted = {bucket: list(some) for bucket, some in keys.items()}
    # All of them before the first takes the store's sequence: whoever else has one of these buckets waits for that.
    locked = lock_buckets_named(wanted)
    found = select_versions({locked[bucket].id: set(some) for bucket, some in wanted.items()})
    _require_few_chunks(found)
    for bucket, some in wanted.items():
        delete_objects(bucket=bucket, keys=some)


def _require_few_chunks(found: list[Found]) -> None:
    """Raises TooManyRows."""
    require_few(sum(count_chunks([object_id for object_id, *_ in found]).values()), "chunks to be deleted")


def remove_first_objects(*, bucket: str, bucket_id: int, limit: int, prefix: str = "") -> int:
    """Deletes up to ``limit`` objects of a bucket that its caller has locked, in the order of their keys; how many.

    With ``prefix``: of those whose keys start with it.

    Fewer, but one at least, where they have more chunks than one commit takes. That is found out before
    `next_sequence`, from which on the writers of all buckets wait.
    """
    rows = objects_below(bucket_id, prefix).values_list("pk", "bucket_id", "key", "size", "etag")
    found: list[Found] = list(rows[:limit])
    if not found:
        return 0
    chunks = count_chunks([object_id for object_id, *_ in found])
    sums = accumulate(chunks[object_id] for object_id, *_ in found)
    fitting = sum(1 for chunks_up_to_here in sums if chunks_up_to_here <= settings.WAREHOUSE_COMMIT_ROWS)
    found = found[: max(fitting, 1)]
    remove_objects(bucket=bucket, found=found, sequence=next_sequence())
    return len(found)


def remove_objects(*, bucket: str, found: list[Found], sequence: int) -> None:
    """Deletes objects of a bucket that its caller has locked; they are given as by `select_versions`, one at least.

    ``sequence`` from `next_sequence`, as `take_chunks_of_objects` wants it.
    """
    owners = {object_id: Owner(bucket, key, size) for object_id, _, key, size, _ in found}
    dead = take_chunks_of_objects(owners, reason=Outbox.Reason.DELETED)
    run_in("DELETE FROM buckets_object WHERE id IN {in}", owners)
    now = timezone.now()
    bury(dead, now=now, sequence=sequence)
    bucket_id = found[0][1]
    note_removed([(bucket_id, owner.key) for owner in owners.values()], sequence=sequence, now=now)
    size_bytes = sum(owner.size for owner in owners.values())
    add_to_counts([CountChange(bucket_id, -len(owners), -size_bytes)])
    keys = [owner.key for owner in owners.values()]
    target = common_target(min(keys), max(keys))
    record(Action.OBJECT_DELETE, bucket=bucket, target=target, objects=len(keys), bytes=size_bytes)


@dataclass(frozen=True, slots=True)
class Emptied:
    """How many objects were deleted, and whether none was left when the last of them went."""

    deleted: int
    is_empty: bool


def empty_bucket(*, bucket: str, limit: int, prefix: str = "") -> Emptied:
    """Deletes up to ``limit`` objects of a bucket, in the order of their keys, up to `KEYS_AT_ONCE` a commit.

    With ``prefix``: of those whose keys start with it, and whether it is empty is told of these. Raises BucketUnknown.
    """
    row = get_bucket(bucket)
    deleted = 0
    while batch := _empty_batch(bucket=bucket, limit=min(KEYS_AT_ONCE, limit - deleted), prefix=prefix):
        deleted += batch
    return Emptied(deleted=deleted, is_empty=not objects_below(row.pk, prefix).exists())


@transaction.atomic
def _empty_batch(*, bucket: str, limit: int, prefix: str) -> int:
    """Raises BucketUnknown."""
    return remove_first_objects(bucket=bucket, bucket_id=lock_bucket(bucket).pk, limit=limit, prefix=prefix)


@transaction.atomic
def update_object(
    *,
    bucket: str,
    key: str,
    content_type: str | None = None,
    metadata: dict[str, str] | None = None,
    if_match: str = "",
) -> Object:
    """Gives an object other attributes (None: as they are), and by that a new version of the same bytes.

    Where nothing changes by that, it stays the version that it is.
    Raises BucketUnknown, ObjectUnknown, MetadataInvalid, Invalid, ObjectChanged.
    """
    _require_if_match(if_match)
    errors = {}
    if content_type is not None and (problem := content_type_error(content_type)) is not None:
        errors["content_type"] = [problem]
    if metadata is not None and (problem := metadata_error(metadata)) is not None:
        errors["metadata"] = [problem]
    if errors:
        raise MetadataInvalid(errors=errors)
    row = lock_bucket(bucket)
    found = Object.objects.filter(bucket=row, key=key).first()
    if found is None:
        raise ObjectUnknown(f"There is no object {key!r} in bucket {bucket!r}.")
    require_conditions(etag=found.etag, if_match=if_match)
    content_type = found.content_type if content_type is None else content_type
    metadata = found.metadata if metadata is None else metadata
    if (content_type, metadata) == (found.content_type, found.metadata):
        return found
    found.content_type, found.metadata = content_type, metadata
    found.updated_at = timezone.now()
    record(Action.OBJECT_UPDATE, bucket=bucket, target=key, content_type=found.content_type)
    found.sequence = next_sequence()
    found.etag = etag_of_change(found.etag, found.sequence)
    found.save(update_fields=("content_type", "metadata", "updated_at", "sequence", "etag"))
    return found


def _require_if_match(if_match: str) -> None:
    if (problem := if_match_error(if_match)) is not None:
        raise Invalid(errors={"if_match": [problem]})
