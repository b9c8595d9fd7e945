"""Needles that no row names: puts from after the journal's end, and what was never more than bytes.

A needle carries its lease's intent, under the master's MAC, and what the PUT said, so it tells which object it was to
be. It may have been confirmed after the journal's end, if its lease still allowed that then. Needles are taken in the
order in which they were written; one takes effect unless its key got a version, or was removed, after it was written:
then whoever acknowledged it, if anybody did, is unknown, and what is known wins.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from buckets.errors import ObjectChanged
from buckets.models import SYSTEM_BUCKET_ID, Bucket, Object, Outbox, Upload
from buckets.names import (
    DEFAULT_CONTENT_TYPE,
    bucket_name_error,
    content_type_error,
    etag_of_needle,
    etag_of_upload,
    key_error,
    metadata_error,
)
from buckets.services.chunks import Owner, take_chunks_of_objects
from buckets.services.conditions import require_conditions
from buckets.services.outbox import bury
from buckets.services.rebuild.loading import Loader, remove_objects
from buckets.services.rebuild.report import Late, Report
from buckets.verdicts import Stored
from keys.permissions import Permission
from keys.rights import KeyRights
from volume_server.intent import Intent, is_genuine
from volume_server.salvage import Found
from volumes.services.presign import intent_secret

CLOCK_SLACK = timedelta(milliseconds=20)
"""A volume server's clock is told to it by heartbeats, and its records have milliseconds."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An unnamed live needle."""

    volume: int
    found: Found

    @property
    def appended_at(self) -> datetime:
        return datetime.fromtimestamp(self.found.appended_ms / 1000, UTC)

    @property
    def order(self) -> tuple[int, int]:
        return self.found.appended_ms, self.found.needle


@dataclass(slots=True)
class World:
    """What the journal left, as the judging of late needles wants to know it."""

    buckets: dict[int, Bucket]
    highest_bucket: int
    """Ids up to here were given out when the journal was last written; one that has no row was deleted."""
    api_keys: set[int]
    highest_api_key: int
    uploads: dict[UUID, Upload]
    removed: Mapping[tuple[int, str], datetime]
    journal_read_at: datetime | None
    sequence: int
    """Of the commit that the rebuild is."""
    appended_ms: Callable[[int, int], int | None]
    """When a needle of a volume was written, Unix ms; None where that is not known."""
    rights: Mapping[int, KeyRights]
    """Of the API keys that the journal knows, by id."""
    check_macs: bool = True
    made_buckets: list[Bucket] = field(default_factory=list)


class _Skip(Exception):
    """This needle makes no object; the text says why."""


def take_late(candidates: Iterable[Candidate], *, world: World, loader: Loader, report: Report) -> None:
    """Makes objects of those needles that may have been acknowledged; into rows and report."""
    uploads: dict[UUID, dict[int, Candidate]] = {}
    for candidate in sorted(candidates, key=lambda one: one.order):
        intent = candidate.found.intent
        if intent.bucket_id == SYSTEM_BUCKET_ID:
            continue
        if world.check_macs and not is_genuine(candidate.found.meta.intent, intent_secret(intent.secret_id)):
            report.problems.append(
                f"needle {candidate.found.needle:016x} of volume {candidate.volume} has an intent that this store "
                "never signed; it is left alone"
            )
            continue
        if _was_over(intent, world):
            report.orphans += 1
            continue
        if intent.upload is not None:
            uploads.setdefault(intent.upload, {})[intent.chunk_index] = candidate
            continue
        _take_one(candidate, world=world, loader=loader, report=report)
    for upload_id, chunks in uploads.items():
        _take_upload(upload_id, chunks, world=world, loader=loader, report=report)


def _was_over(intent: Intent, world: World) -> bool:
    """Whether its lease could not be used any more when the journal was last written: nobody confirmed it since."""
    if world.journal_read_at is None:
        return False
    until = datetime.fromtimestamp(intent.expires_at, UTC) + timedelta(seconds=settings.WAREHOUSE_CONFIRM_GRACE_SECONDS)
    return until < world.journal_read_at


def _take_one(candidate: Candidate, *, world: World, loader: Loader, report: Report) -> None:
    found, intent = candidate.found, candidate.found.intent
    key = intent.key if intent.key_fixed else found.meta.key
    content_type = intent.content_type or found.meta.content_type or DEFAULT_CONTENT_TYPE
    metadata = intent.metadata or found.meta.metadata
    if_match = intent.if_match or found.meta.if_match
    if_none_match = intent.if_none_match or found.meta.if_none_match
    try:
        bucket = _bucket_of(intent, world)
        _require_valid(key, content_type, metadata)
        etag = _require_newest(bucket, key, candidate.appended_at, world)
        try:
            require_conditions(etag=etag, if_match=if_match, if_none_match=if_none_match)
        except ObjectChanged as error:
            raise _Skip(f"its precondition, judged again: {error.detail}") from error
    except _Skip as skip:
        report.uncertain.append(_told(intent, key, [candidate], f"not taken: {skip}"))
        return
    _write_object(
        bucket,
        key,
        size=found.size_bytes,
        etag=etag_of_needle(found.needle),
        content_type=content_type,
        metadata=metadata,
        at=candidate.appended_at,
        chunks=[
            [0, candidate.volume, found.needle, found.size_bytes, found.crc32, candidate.appended_at.isoformat(), None]
        ],
        world=world,
        loader=loader,
    )
    doubt = _doubt(intent, key, candidate.appended_at, world, has_conditions=bool(if_match) or if_none_match)
    (report.uncertain if doubt else report.late).append(_told(intent, key, [candidate], doubt))


def _take_upload(
    upload_id: UUID, chunks: dict[int, Candidate], *, world: World, loader: Loader, report: Report
) -> None:
    """Chunks of one upload, some of which the journal may know already."""
    intent = next(iter(chunks.values())).found.intent
    row = world.uploads.get(upload_id)
    known = {index: held for (upload, index), held in loader.upload_chunks.items() if upload == upload_id.hex and row}
    some = [chunks[index] for index in sorted(chunks)]
    at = max(candidate.appended_at for candidate in some)
    try:
        bucket = _bucket_of(intent, world)
        count = row.chunk_count if row is not None else intent.chunk_count
        size = row.size if row is not None else intent.total_bytes
        rows = [
            [index, *known[index][:4], known[index][4], known[index][5]]
            if index not in chunks
            else _upload_chunk(chunks[index], upload_id, bucket)
            for index in sorted(known.keys() | chunks.keys())
        ]
        if row is None and (intent.held or len(rows) < count):
            held = ", which a commit of several was to make an object" if intent.held else ""
            report.uploads_lost.append(
                f"upload {upload_id} of {intent.key!r} in bucket {intent.bucket!r}{held}: {len(rows)} of {count} "
                "chunks are there, and nothing is known of the upload itself; begin it again"
            )
            return
        if row is not None and (row.held or len(rows) < count):
            _keep_chunks(loader, upload_id, rows)
            row.state = Upload.State.OPEN if len(rows) < count else Upload.State.READY
            return
        _require_valid(intent.key, intent.content_type or DEFAULT_CONTENT_TYPE, intent.metadata)
        _require_whole(rows, size=size, count=count)
        if_match, if_none_match = intent.if_match, intent.if_none_match
        etag = _require_newest(bucket, intent.key, at, world)
        try:
            require_conditions(etag=etag, if_match=if_match, if_none_match=if_none_match)
        except ObjectChanged as error:
            raise _Skip(f"its precondition, judged again: {error.detail}") from error
    except _Skip as skip:
        report.uncertain.append(_told(intent, intent.key, some, f"not taken: {skip}"))
        return
    _write_object(
        bucket,
        intent.key,
        size=size,
        etag=etag_of_upload(upload_id),
        content_type=intent.content_type or DEFAULT_CONTENT_TYPE,
        metadata=intent.metadata,
        at=at,
        chunks=rows,
        world=world,
        loader=loader,
    )
    world.uploads.pop(upload_id, None)
    for index in range(count):
        loader.upload_chunks.pop((upload_id.hex, index), None)
    doubt = _doubt(intent, intent.key, at, world, has_conditions=bool(if_match) or if_none_match)
    (report.uncertain if doubt else report.late).append(_told(intent, intent.key, some, doubt))


def _require_valid(key: str, content_type: str, metadata: dict[str, str]) -> None:
    """Raises _Skip."""
    problem = key_error(key) or content_type_error(content_type) or (metadata_error(metadata) if metadata else None)
    if problem is not None:
        raise _Skip(problem)


def _require_whole(chunks: list[list[object]], *, size: int, count: int) -> None:
    """Raises _Skip."""
    if sum(int(str(chunk[3])) for chunk in chunks) != size or [chunk[0] for chunk in chunks] != list(range(count)):
        raise _Skip("its chunks do not make up its size")


def _upload_chunk(candidate: Candidate, upload_id: UUID, bucket: Bucket) -> list[object]:
    found = candidate.found
    verdict = Stored(bucket.name, found.intent.key, found.size_bytes, str(upload_id), found.intent.chunk_index)
    return [
        *(found.intent.chunk_index, candidate.volume, found.needle, found.size_bytes, found.crc32),
        *(candidate.appended_at.isoformat(), verdict.as_json()),
    ]


def _keep_chunks(loader: Loader, upload_id: UUID, rows: list[list[object]]) -> None:
    for index, volume_id, needle, size, crc32, committed_at, verdict in rows:
        loader.upload_chunks[upload_id.hex, int(str(index))] = (
            *(int(str(volume_id)), int(str(needle)), int(str(size)), int(str(crc32))),
            *(str(committed_at), verdict),
        )


def _bucket_of(intent: Intent, world: World) -> Bucket:
    """Raises _Skip. A bucket that came after the journal's end is made again; its settings are not known."""
    bucket = world.buckets.get(intent.bucket_id)
    if bucket is not None:
        if bucket.is_deleting:
            raise _Skip("its bucket is being deleted")
    elif intent.bucket_id <= world.highest_bucket:
        raise _Skip("its bucket was deleted")
    elif bucket_name_error(intent.bucket) is not None or any(
        other.name == intent.bucket for other in world.buckets.values()
    ):
        raise _Skip(f"its bucket {intent.bucket!r} is another one by now")
    if intent.api_key not in world.api_keys and 0 < intent.api_key <= world.highest_api_key:
        raise _Skip("the API key that its lease was made for was deleted")
    if bucket is None:
        bucket = Bucket(pk=intent.bucket_id, name=intent.bucket, created_at=timezone.now())
        bucket.save(force_insert=True)
        world.buckets[bucket.pk] = bucket
        world.made_buckets.append(bucket)
    return bucket


def _require_newest(bucket: Bucket, key: str, appended_at: datetime, world: World) -> str | None:
    """The ETag of what the key holds. Raises _Skip where it is younger, or where the key was removed since."""
    current = _current(bucket.pk, key)
    if current is not None and _is_younger(current, appended_at, world):
        raise _Skip("its key has a version that was committed after it was written")
    removed_at = world.removed.get((bucket.pk, key))
    if removed_at is not None and removed_at > appended_at + CLOCK_SLACK:
        raise _Skip("its key was removed after it was written")
    return None if current is None else current.etag


def _is_younger(current: Object, appended_at: datetime, world: World) -> bool:
    """Whether a version came after a needle was written. Where the two clocks may be off, its own needles tell."""
    if current.updated_at <= appended_at:
        return False
    if current.updated_at > appended_at + CLOCK_SLACK:
        return True
    times = [world.appended_ms(*place) for place in current.chunks.values_list("volume_id", "needle")]
    known = [at for at in times if at is not None]
    return not known or max(known) >= int(appended_at.timestamp() * 1000)


def _current(bucket_id: int, key: str) -> Object | None:
    return Object.objects.filter(bucket=bucket_id, key=key).first()


def _doubt(intent: Intent, key: str, at: datetime, world: World, *, has_conditions: bool) -> str:
    """Why it is not certain that a needle which was taken had been acknowledged; empty: it is."""
    reasons = []
    if world.journal_read_at is not None and at < world.journal_read_at:
        reasons.append("it was written before the journal's end, and perhaps never acknowledged")
    elif not _may_write(intent, key, at, world):
        reasons.append("its API key had no right to that when the journal ended, and may have got it since")
    if has_conditions:
        reasons.append("its precondition was judged again")
    return f"taken; {'; '.join(reasons)}" if reasons else ""


def _may_write(intent: Intent, key: str, at: datetime, world: World) -> bool:
    """By the rights that the journal tells of; a key that is newer than its end may have had any."""
    rights = world.rights.get(intent.api_key)
    if rights is None:
        return True
    was_active = replace(rights, is_active=rights.expires_at is None or rights.expires_at > at)
    return was_active.allows(Permission.OBJECTS_WRITE, bucket=intent.bucket, key=key)


def _told(intent: Intent, key: str, candidates: list[Candidate], what: str) -> Late:
    return Late(intent.bucket, key, tuple(f"{one.found.needle:016x}" for one in candidates), what)


def _write_object(
    bucket: Bucket,
    key: str,
    *,
    size: int,
    etag: str,
    content_type: str,
    metadata: dict[str, str],
    at: datetime,
    chunks: list[list[object]],
    world: World,
    loader: Loader,
) -> None:
    """In the place of what the key holds, whose needles die."""
    current = _current(bucket.pk, key)
    created_at = at
    if current is not None:
        created_at = current.created_at
        dead = take_chunks_of_objects(
            {current.pk: Owner(bucket.name, key, current.size)}, reason=Outbox.Reason.OVERWRITTEN
        )
        bury(dead, now=timezone.now(), sequence=world.sequence)
        remove_objects(bucket.pk, [key])
    line = [
        *("object", bucket.pk, key, size, etag, content_type, metadata),
        *(created_at.isoformat(), at.isoformat(), world.sequence, chunks),
    ]
    loader.put([line])
