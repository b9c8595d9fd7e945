"""Groups: finished uploads, deletes, copies and renames that become visible in one transaction, or not at all.

    lock buckets ─ read what there is ─ judge operation by operation ─ write what came of it ─ commit

Each operation is judged against the state that those before it left. Only what the last one left is written, by a
constant number of statements (but for the database's limit of parameters).
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from buckets.errors import (
    KeyInvalid,
    MetadataInvalid,
    ObjectExists,
    ObjectUnknown,
    UploadIncomplete,
    UploadOver,
    UploadUnknown,
)
from buckets.models import Outbox, Upload
from buckets.names import content_type_error, etag_of_change, etag_of_upload, if_match_error, key_error, metadata_error
from buckets.services.bulk import as_datetime, database_uuid, insert_rows, run_in
from buckets.services.chunks import Owner, take_chunks_of_objects, take_chunks_of_uploads
from buckets.services.conditions import require_conditions
from buckets.services.confirm import OBJECT_COLUMNS
from buckets.services.counts import Counts
from buckets.services.locks import LockedBucket, add_to_counts, lock_those_named, require_open
from buckets.services.moves import (
    Move,
    copy_chunks_of_objects,
    copy_chunks_of_uploads,
    count_chunks,
    keep_verdicts,
    move_objects,
    require_few,
)
from buckets.services.outbox import DeadNeedle, bury
from buckets.services.removals import note_removed
from buckets.services.replication import ask_survey
from keys.actions import Action
from keys.errors import Invalid, WarehouseError
from keys.services.audit import common_target, record
from volumes.services.store import next_sequence

MAX_OPERATIONS = 1000


@dataclass(frozen=True, slots=True)
class CommitUpload:
    """A held upload whose chunks are all there becomes an object. Its own preconditions hold as well."""

    upload: UUID
    if_match: str = ""
    if_none_match: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """A key that holds nothing is no error, unless ``if_match`` asks for something."""

    key: str
    if_match: str = ""


@dataclass(frozen=True, slots=True)
class Copy:
    """``from_if_match`` is judged on the source, the others on the target. ``target_bucket`` None: the same."""

    source: str
    target: str
    target_bucket: str | None = None
    from_if_match: str = ""
    if_match: str = ""
    if_none_match: bool = False
    content_type: str | None = None
    metadata: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Rename:
    """Inside one bucket. An object of the target's key is an error, unless ``overwrite`` or ``if_match`` say so."""

    source: str
    target: str
    from_if_match: str = ""
    if_match: str = ""
    if_none_match: bool = False
    overwrite: bool = False


Operation = CommitUpload | Delete | Copy | Rename

_ACTIONS: dict[type[Operation], Action] = {
    CommitUpload: Action.OBJECT_COMMIT,
    Delete: Action.OBJECT_DELETE,
    Copy: Action.OBJECT_COPY,
    Rename: Action.OBJECT_RENAME,
}
_COUNTED = {
    Action.OBJECT_COMMIT: "uploads",
    Action.OBJECT_DELETE: "deleted",
    Action.OBJECT_COPY: "copied",
    Action.OBJECT_RENAME: "renamed",
}


class Version(NamedTuple):
    """What a key holds after an operation."""

    size: int
    etag: str
    content_type: str
    metadata: dict[str, str]
    created_at: datetime
    updated_at: datetime
    row_id: int | None
    """The object row that it is, perhaps of another key until now. None: it gets one of its own."""
    bytes_of: int | UUID
    """Whose chunks it has: an object row's, or an upload's."""
    is_copy: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an operation. ``version`` None: the key holds nothing; ``key`` is the target's."""

    operation: Operation
    bucket: str
    key: str
    version: Version | None
    existed: bool


class Committed(NamedTuple):
    """The store's sequence after the commit, and the outcomes in the order of the operations."""

    sequence: int
    outcomes: list[Outcome]


Place = tuple[int, str]
"""Bucket id and key."""


@transaction.atomic
def commit_group(*, bucket: str, operations: Sequence[Operation]) -> Committed:
    """Carries out all operations in ``bucket``, in their order and in one commit, or none of them.

    Whether the caller may is judged before. Raises BucketUnknown, Invalid, KeyInvalid, MetadataInvalid, ObjectUnknown,
    ObjectExists, ObjectChanged, QuotaExceeded, UploadUnknown, UploadIncomplete, UploadOver, each with the ``index`` of
    the operation that it is about, and TooManyRows.
    """
    if len(operations) > MAX_OPERATIONS:
        raise Invalid(f"At most {MAX_OPERATIONS} operations are one commit.")
    for at, operation in enumerate(operations):
        with numbered(at):
            _require_valid(operation)
    elsewhere = {
        at: operation.target_bucket
        for at, operation in enumerate(operations)
        if isinstance(operation, Copy) and operation.target_bucket is not None
    }
    locked = lock_those_named({bucket, *elsewhere.values()})
    require_open(locked, bucket)
    for at, name in elsewhere.items():
        with numbered(at):
            require_open(locked, name)
    judge = _Judge(home=locked[bucket], buckets=locked, operations=operations)
    outcomes = []
    for at, operation in enumerate(operations):
        with numbered(at):
            outcomes.append(judge.apply(at, operation))
    judge.write()
    _record(bucket, outcomes)
    return Committed(sequence=judge.sequence, outcomes=outcomes)


def _record(bucket: str, outcomes: Sequence[Outcome]) -> None:
    """One entry in the trail, and one for every other bucket that was copied to."""
    counts = Counter(_ACTIONS[type(outcome.operation)] for outcome in outcomes)
    action = next(iter(counts)) if len(counts) == 1 else Action.OBJECT_COMMIT
    sources = [outcome.operation.source for outcome in outcomes if isinstance(outcome.operation, Copy | Rename)]
    detail: dict[str, Any] = {_COUNTED[counted]: count for counted, count in counts.items()}
    if sources:
        detail["from"] = common_target(min(sources), max(sources))
    for name in sorted({bucket, *(outcome.bucket for outcome in outcomes)}):
        keys = [outcome.key for outcome in outcomes if outcome.bucket == name]
        target = common_target(min(keys), max(keys)) if keys else ""
        if name == bucket:
            record(action, bucket=name, target=target, **detail)
        else:
            record(Action.OBJECT_COPY, bucket=name, target=target, copied=len(keys), from_bucket=bucket)


@contextmanager
def numbered(at: int) -> Iterator[None]:
    """What is refused inside tells the number of its operation, as ``index``."""
    try:
        yield
    except WarehouseError as error:
        error.extra["index"] = at
        raise


class _Judge:
    """One group, from what the database says to what it shall say."""

    def __init__(
        self, *, home: LockedBucket, buckets: dict[str, LockedBucket], operations: Sequence[Operation]
    ) -> None:
        self.home = home
        self.buckets = buckets
        self.names = {bucket.id: bucket.name for bucket in buckets.values()}
        self.counts = {bucket.id: Counts(bucket) for bucket in buckets.values()}
        self.uploads = Upload.objects.filter(bucket=home.id).in_bulk(
            [operation.upload for operation in operations if isinstance(operation, CommitUpload)]
        )
        self.committed: list[Upload] = []
        self.before = self._read_versions(operations)
        self.versions: dict[Place, Version | None] = dict(self.before)
        self.chunks = count_chunks(list(self._rows())) if self.before else {}
        # The new versions are named by it. Its row is locked from here on: all that can wait is done after it.
        self.sequence = next_sequence()
        self.now = timezone.now()

    def _read_versions(self, operations: Sequence[Operation]) -> dict[Place, Version]:
        """What the keys that are named hold now; one query for each bucket."""
        keys: dict[int, set[str]] = {bucket_id: set() for bucket_id in self.counts}
        keys[self.home.id].update(upload.key for upload in self.uploads.values())
        for operation in operations:
            if isinstance(operation, Delete):
                keys[self.home.id].add(operation.key)
            elif isinstance(operation, Copy | Rename):
                keys[self.home.id].add(operation.source)
                keys[self._target(operation).id].add(operation.target)
        found: dict[Place, Version] = {}
        for bucket_id, wanted in keys.items():
            for object_id, key, size, etag, content_type, metadata, created_at, updated_at in run_in(
                "SELECT id, key, size, etag, content_type, metadata, created_at, updated_at FROM buckets_object "  # noqa: S608
                f"WHERE bucket_id = {int(bucket_id)} AND key IN {{in}}",
                wanted,
            ):
                found[bucket_id, key] = Version(
                    size=size,
                    etag=etag,
                    content_type=content_type,
                    metadata=json.loads(metadata),
                    created_at=as_datetime(created_at),
                    updated_at=as_datetime(updated_at),
                    row_id=object_id,
                    bytes_of=object_id,
                    is_copy=False,
                )
        return found

    def _target(self, operation: Copy | Rename) -> LockedBucket:
        if isinstance(operation, Copy) and operation.target_bucket is not None:
            return self.buckets[operation.target_bucket]
        return self.home

    # --- judging ---

    def apply(self, nth: int, operation: Operation) -> Outcome:
        """Carries out an operation in memory. Raises the domain error that refuses it."""
        if isinstance(operation, CommitUpload):
            return self._commit_upload(operation)
        if isinstance(operation, Delete):
            return self._delete(operation)
        if isinstance(operation, Copy):
            return self._copy(nth, operation)
        return self._rename(nth, operation)

    def _commit_upload(self, operation: CommitUpload) -> Outcome:
        row = self.uploads.get(operation.upload)
        if row is None:
            raise UploadUnknown(f"There is no upload {operation.upload} in bucket {self.home.name!r}.")
        if row.state == Upload.State.OPEN:
            held = "" if row.held else ", and was not held: its last chunk makes it an object"
            raise UploadIncomplete(f"Upload {row.pk} has chunks missing{held}.")
        if row.state != Upload.State.READY:
            raise UploadOver(f"Upload {row.pk} is {row.state}.")
        if row.expires_at <= self.now:
            raise UploadOver(f"Upload {row.pk} has expired.")
        place = (self.home.id, row.key)
        current = self.versions.get(place)
        for conditions in (row, operation):
            self._require(current, if_match=conditions.if_match, if_none_match=conditions.if_none_match)
        self.counts[self.home.id].replace(current.size if current else None, row.size, completes=row)
        row.state = Upload.State.COMPLETED
        self.committed.append(row)
        version = Version(
            size=row.size,
            etag=etag_of_upload(row.pk),
            content_type=row.content_type,
            metadata=row.metadata,
            created_at=current.created_at if current else self.now,
            updated_at=self.now,
            row_id=None,
            bytes_of=row.pk,
            is_copy=False,
        )
        return self._put(operation, place, version)

    def _delete(self, operation: Delete) -> Outcome:
        place = (self.home.id, operation.key)
        current = self.versions.get(place)
        self._require(current, if_match=operation.if_match)
        if current is not None:
            self.counts[self.home.id].remove(current.size)
        return self._put(operation, place, None)

    def _copy(self, nth: int, operation: Copy) -> Outcome:
        source = self._source(operation)
        target = self._target(operation)
        place = (target.id, operation.target)
        current = self.versions.get(place)
        self._require(current, if_match=operation.if_match, if_none_match=operation.if_none_match)
        self.counts[target.id].replace(current.size if current else None, source.size)
        version = source._replace(
            etag=etag_of_change(source.etag, self.sequence, nth),
            content_type=source.content_type if operation.content_type is None else operation.content_type,
            metadata=source.metadata if operation.metadata is None else operation.metadata,
            created_at=current.created_at if current else self.now,
            updated_at=self.now,
            row_id=None,
            is_copy=True,
        )
        return self._put(operation, place, version)

    def _rename(self, nth: int, operation: Rename) -> Outcome:
        source = self._source(operation)
        place = (self.home.id, operation.target)
        current = self.versions.get(place)
        self._require(current, if_match=operation.if_match, if_none_match=operation.if_none_match)
        if current is not None:
            if not operation.overwrite and not operation.if_match:
                raise ObjectExists(f"There is an object {operation.target!r}, and nothing said to overwrite it.")
            self.counts[self.home.id].remove(current.size)
        self.versions[self.home.id, operation.source] = None
        version = source._replace(etag=etag_of_change(source.etag, self.sequence, nth), updated_at=self.now)
        return self._put(operation, place, version)

    def _source(self, operation: Copy | Rename) -> Version:
        source = self.versions.get((self.home.id, operation.source))
        if source is None:
            raise ObjectUnknown(f"There is no object {operation.source!r} in bucket {self.home.name!r}.")
        require_conditions(etag=source.etag, if_match=operation.from_if_match)
        return source

    def _require(self, current: Version | None, *, if_match: str, if_none_match: bool = False) -> None:
        require_conditions(etag=current.etag if current else None, if_match=if_match, if_none_match=if_none_match)

    def _put(self, operation: Operation, place: Place, version: Version | None) -> Outcome:
        existed = self.versions.get(place) is not None
        self.versions[place] = version
        return Outcome(operation, self.names[place[0]], place[1], version, existed)

    # --- writing ---

    def write(self) -> None:
        """Writes what the operations left. Raises TooManyRows.

        Copies are made while their sources' chunk rows are still there; then these go, and needles that no row names
        any more are buried.
        """
        left = {place: version for place, version in self.versions.items() if version is not None}
        changed = {place: version for place, version in left.items() if version != self.before.get(place)}
        made = {place: version for place, version in changed.items() if version.row_id is None}
        kept = {version.row_id for version in left.values()}
        gone = {object_id: owner for object_id, owner in self._rows().items() if object_id not in kept}
        overwritten = {version.row_id for place, version in self.before.items() if place in left}
        placed = {version.bytes_of for version in made.values() if not version.is_copy}
        lost = [upload for upload in self.committed if upload.pk not in placed]
        self._require_few(changed.values(), gone, lost)
        self._keep_verdicts(changed.values())
        if gone:
            run_in("DELETE FROM buckets_object WHERE id IN {in}", gone)
        self._move(changed)
        object_ids = self._insert(made)
        self._write_chunks({object_ids[place]: version for place, version in made.items()})
        dead = self._take_chunks(gone, overwritten)
        if lost:
            dead += take_chunks_of_uploads(
                [database_uuid(upload.pk) for upload in lost], reason=Outbox.Reason.OVERWRITTEN
            )
        if self.committed:
            Upload.objects.filter(pk__in=[upload.pk for upload in self.committed]).update(state=Upload.State.COMPLETED)
        bury(dead, now=self.now, sequence=self.sequence)
        removed = [place for place in self.before if place not in left]
        note_removed(removed, sequence=self.sequence, now=self.now)
        add_to_counts(counts.change() for counts in self.counts.values())

    def _take_chunks(self, gone: dict[int, Owner], overwritten: Set[int | None]) -> list[DeadNeedle]:
        dead: list[DeadNeedle] = []
        for reason, owners in (
            (Outbox.Reason.OVERWRITTEN, {pk: owner for pk, owner in gone.items() if pk in overwritten}),
            (Outbox.Reason.DELETED, {pk: owner for pk, owner in gone.items() if pk not in overwritten}),
        ):
            if owners:
                dead += take_chunks_of_objects(owners, reason=reason)
        return dead

    def _rows(self) -> dict[int, Owner]:
        """The object rows that were read, and what their needles' verdicts follow from."""
        return {
            version.row_id: Owner(self.names[bucket_id], key, version.size)
            for (bucket_id, key), version in self.before.items()
            if version.row_id is not None
        }

    def _require_few(self, changed: Iterable[Version], gone: Iterable[int], lost: Iterable[Upload]) -> None:
        """Raises TooManyRows. Nothing is asked of the database any more: who has the sequence holds everybody up."""
        copied = sum(
            self.chunks[source] if isinstance(source, int) else self.uploads[source].chunk_count
            for source in (version.bytes_of for version in changed if version.is_copy)
        )
        deleted = sum(self.chunks[object_id] for object_id in gone) + sum(upload.chunk_count for upload in lost)
        require_few(copied + deleted, "chunks to be copied, overwritten or deleted")

    def _keep_verdicts(self, changed: Iterable[Version]) -> None:
        changed = list(changed)
        object_ids = [version.bytes_of for version in changed if version.is_copy and isinstance(version.bytes_of, int)]
        moved = {version.row_id for version in changed if version.row_id is not None}
        rows = self._rows()
        owners = {object_id: rows[object_id] for object_id in moved.union(object_ids)}
        if owners:
            keep_verdicts(owners)

    def _move(self, changed: dict[Place, Version]) -> None:
        keys_before = {version.row_id: key for (_, key), version in self.before.items()}
        moves = [
            Move(version.row_id, keys_before[version.row_id], key, version.etag)
            for (_, key), version in changed.items()
            if version.row_id is not None
        ]
        if moves:
            move_objects(moves, sequence=self.sequence, now=self.now)

    def _insert(self, made: dict[Place, Version]) -> dict[Place, int]:
        """Makes the object rows that there were none of; their ids."""
        adapt = connection.ops.adapt_datetimefield_value
        rows = insert_rows(
            into="buckets_object",
            columns=OBJECT_COLUMNS,
            rows=[
                (
                    bucket_id,
                    key,
                    version.size,
                    version.etag,
                    version.content_type,
                    json.dumps(version.metadata, ensure_ascii=False),
                    adapt(version.created_at),
                    adapt(version.updated_at),
                    self.sequence,
                )
                for (bucket_id, key), version in made.items()
            ],
            then="RETURNING id, bucket_id, key",
        )
        return {(bucket_id, key): object_id for object_id, bucket_id, key in rows}

    def _write_chunks(self, made: dict[int, Version]) -> None:
        """``made``: by the ids of the new rows."""
        of_objects = [
            (object_id, version.bytes_of) for object_id, version in made.items() if isinstance(version.bytes_of, int)
        ]
        of_uploads = [
            (object_id, version.bytes_of)
            for object_id, version in made.items()
            if version.is_copy and isinstance(version.bytes_of, UUID)
        ]
        copy_chunks_of_objects(of_objects)
        copy_chunks_of_uploads(of_uploads)
        if made and len({bucket.replication for bucket in self.buckets.values()}) > 1:
            ask_survey()  # needles may now be named by a bucket that wants more copies of them
        completed = [
            (object_id, database_uuid(version.bytes_of))
            for object_id, version in made.items()
            if not version.is_copy and isinstance(version.bytes_of, UUID)
        ]
        if completed:
            with connection.cursor() as cursor:
                cursor.executemany(
                    "UPDATE buckets_chunk SET object_id = %s, upload_id = NULL WHERE upload_id = %s", completed
                )


def _require_valid(operation: Operation) -> None:
    """Raises KeyInvalid, MetadataInvalid, Invalid."""
    if isinstance(operation, Copy | Rename):
        keys = {"from": operation.source, "to": operation.target}
        conditions = {"from_if_match": operation.from_if_match, "if_match": operation.if_match}
    else:
        keys = {"key": operation.key} if isinstance(operation, Delete) else {}
        conditions = {"if_match": operation.if_match}
    for name, key in keys.items():
        if (problem := key_error(key)) is not None:
            raise KeyInvalid(errors={name: [problem]})
    for name, if_match in conditions.items():
        if (problem := if_match_error(if_match)) is not None:
            raise Invalid(errors={name: [problem]})
    if isinstance(operation, Rename) and operation.source == operation.target:
        raise Invalid(errors={"to": ["It has this key already."]})
    if isinstance(operation, Copy):
        if operation.content_type is not None and (problem := content_type_error(operation.content_type)) is not None:
            raise MetadataInvalid(errors={"content_type": [problem]})
        if operation.metadata is not None and (problem := metadata_error(operation.metadata)) is not None:
            raise MetadataInvalid(errors={"metadata": [problem]})
