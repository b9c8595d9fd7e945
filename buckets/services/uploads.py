"""Uploads: large objects, chunk by chunk. What completes them is `buckets.services.confirm`."""

import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from buckets.errors import BucketUnknown, KeyInvalid, MetadataInvalid, ObjectTooLarge, UploadOver, UploadUnknown
from buckets.models import IN_PROGRESS, Bucket, Outbox, Upload
from buckets.names import DEFAULT_CONTENT_TYPE, content_type_error, if_match_error, key_error, metadata_error
from buckets.selectors.buckets import get_bucket, require_bucket
from buckets.selectors.objects import stat_objects
from buckets.selectors.uploads import awaited_bytes, missing_chunks
from buckets.services.bulk import database_uuid
from buckets.services.chunks import take_chunks_of_uploads
from buckets.services.conditions import require_conditions, require_quota
from buckets.services.leases import SLOT_BITS
from buckets.services.locks import CountChange, add_to_counts, lock_bucket
from buckets.services.outbox import bury
from keys.actions import Action
from keys.errors import Invalid
from keys.rights import KeyRights
from keys.services.audit import record
from volume_server.intent import Intent
from volume_server.record import MAX_DATA_BYTES
from volumes.services.leases import reserve_lease_number
from volumes.services.placement import pick, require_room
from volumes.services.presign import put_url
from volumes.services.store import current_store, next_sequence

MAX_CHUNKS = 10_000
"""Objects that would have more get larger chunks instead, up to what a needle holds: 2.4 TiB in all."""
UPLOADS_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class ChunkSlot:
    """A chunk that is still to be sent: ``size`` bytes from ``offset`` of the object, to ``url``."""

    index: int
    offset: int
    size: int
    url: str


@dataclass(frozen=True, slots=True)
class Slots:
    """An upload and those of its chunks that are missing."""

    upload: Upload
    chunks: list[ChunkSlot]


def create_upload(
    *,
    bucket: str,
    holder: KeyRights,
    key: str,
    size: int,
    content_type: str | None = None,
    metadata: dict[str, str] | None = None,
    if_match: str = "",
    if_none_match: bool = False,
    held: bool = False,
) -> Slots:
    """An upload of ``size`` bytes, and a signed URL for each of its chunks, spread over volumes.

    What it would add to the bucket is reserved until it completes, is aborted or expires. Preconditions and quota are
    judged when it completes; what is hopeless already is refused here. ``held``: its last chunk makes it ready, and
    only a commit of a group makes it an object (see `buckets.services.groups`).

    Raises BucketUnknown, Invalid, ObjectTooLarge, ObjectChanged, QuotaExceeded, NoRoom, NoServers.
    """
    content_type = content_type or DEFAULT_CONTENT_TYPE
    _require_valid(key=key, size=size, content_type=content_type, metadata=metadata or {}, if_match=if_match)
    row = get_bucket(bucket)
    chunk_size = _chunk_size(size, row)
    require_room(needed_bytes=size * row.replication + awaited_bytes())
    upload = Upload(
        id=uuid.uuid4(),
        bucket=row,
        key=key,
        size=size,
        chunk_size=chunk_size,
        chunk_count=max(1, -(-size // chunk_size)),
        content_type=content_type,
        metadata=metadata or {},
        if_match=if_match,
        if_none_match=if_none_match,
        held=held,
        api_key=holder.id,
        generation=holder.generation,
        expires_at=timezone.now() + timedelta(seconds=settings.WAREHOUSE_UPLOAD_SECONDS),
    )
    # Signed before it is written: what can't be signed, or has no room, leaves no trace.
    chunks = _sign(upload, range(upload.chunk_count), holder)
    with transaction.atomic():
        _reserve(upload, lock_bucket(bucket))
        upload.save(force_insert=True)
    return Slots(upload=upload, chunks=chunks)


def _reserve(upload: Upload, bucket: Bucket) -> None:
    """Reserves what the upload would add to its locked bucket now.

    Raises BucketUnknown, ObjectChanged, QuotaExceeded.
    """
    if bucket.pk != upload.bucket_id:
        raise BucketUnknown(f"Bucket {bucket.name!r} was deleted meanwhile.")
    found = stat_objects(bucket_id=bucket.pk, keys=[upload.key]).get(upload.key)
    require_conditions(etag=found.etag if found else None, if_match=upload.if_match, if_none_match=upload.if_none_match)
    upload.reserved_objects = 0 if found else 1
    upload.reserved_bytes = max(0, upload.size - (found.size if found else 0))
    require_quota(
        bucket,
        objects=bucket.object_count + bucket.reserved_objects + upload.reserved_objects,
        size_bytes=bucket.total_bytes + bucket.reserved_bytes + upload.reserved_bytes,
        grows_objects=upload.reserved_objects > 0,
        grows_bytes=upload.reserved_bytes > 0,
    )
    add_to_counts(
        [CountChange(bucket.pk, reserved_objects=upload.reserved_objects, reserved_bytes=upload.reserved_bytes)]
    )


def resume_upload(*, upload: Upload, holder: KeyRights) -> Slots:
    """The chunks that are missing, with fresh URLs; none once the upload is over.

    Raises BucketDeleting, NoRoom, NoServers.
    """
    require_bucket(upload.bucket, upload.bucket.name)
    return Slots(upload=upload, chunks=_sign(upload, missing_chunks(upload), holder))


@transaction.atomic
def abort_upload(*, upload_id: uuid.UUID) -> None:
    """Ends an upload in progress; its chunks die. Raises UploadUnknown, UploadOver."""
    upload = Upload.objects.select_related("bucket").filter(pk=upload_id).first()
    if upload is None:
        raise UploadUnknown(f"There is no upload {upload_id}.")
    lock_bucket(upload.bucket.name)
    ended = Upload.objects.filter(pk=upload_id, state__in=IN_PROGRESS).update(state=Upload.State.ABORTED)
    if ended != 1:
        raise UploadOver(f"Upload {upload_id} is over already.")
    sequence = next_sequence()
    dead = take_chunks_of_uploads([database_uuid(upload_id)], reason=Outbox.Reason.UPLOAD_ABORTED)
    bury(dead, now=timezone.now(), sequence=sequence)
    add_to_counts(
        [
            CountChange(
                upload.bucket_id,
                reserved_objects=-upload.reserved_objects,
                reserved_bytes=-upload.reserved_bytes,
            )
        ]
    )
    record(Action.UPLOAD_ABORT, bucket=upload.bucket.name, target=upload.key, upload=str(upload_id))


def expire_uploads() -> int:
    """Ends uploads whose time and grace are over, and forgets those that have been over for as long; how many ended.

    None while the database is behind: other uploads are going on than it knows of.
    """
    if current_store().behind_of is not None:
        return 0
    cutoff = timezone.now() - timedelta(seconds=settings.WAREHOUSE_CONFIRM_GRACE_SECONDS)
    ended = 0
    expired = Upload.objects.filter(state__in=IN_PROGRESS, expires_at__lt=cutoff)
    # Those of closed buckets end with their buckets.
    for upload in expired.filter(bucket__deleting_at=None)[:UPLOADS_AT_ONCE]:
        try:
            abort_upload(upload_id=upload.pk)
        except (UploadOver, UploadUnknown, BucketUnknown):
            continue  # somebody else was quicker
        ended += 1
    Upload.objects.filter(expires_at__lt=cutoff).exclude(state__in=IN_PROGRESS).delete()
    return ended


def _sign(upload: Upload, indexes: Iterable[int], holder: KeyRights) -> list[ChunkSlot]:
    indexes = list(indexes)
    if not indexes:
        return []
    targets = pick(
        needed_bytes=min(upload.chunk_size, max(1, upload.size)),
        count=len(indexes),
        replication=upload.bucket.replication,
    )
    expires_at = min(int(time.time()) + settings.WAREHOUSE_CHUNK_URL_SECONDS, int(upload.expires_at.timestamp()))
    slots = []
    for index, target in zip(indexes, targets, strict=True):
        needle = reserve_lease_number() << SLOT_BITS
        size = upload.chunk_bytes(index)
        intent = Intent(
            volume=target.volume_id,
            first=needle,
            count=1,
            epoch=target.epoch,
            max_bytes=size,
            exact=True,
            bucket_id=upload.bucket_id,
            bucket=upload.bucket.name,
            api_key=holder.id,
            generation=holder.generation,
            expires_at=expires_at,
            key=upload.key,
            key_fixed=True,
            if_match=upload.if_match,
            if_none_match=upload.if_none_match,
            upload=upload.pk,
            held=upload.held,
            chunk_index=index,
            chunk_count=upload.chunk_count,
            total_bytes=upload.size,
            content_type=upload.content_type,
            metadata=upload.metadata,
        )
        url = put_url(target=target, intent=intent).replace("{needle}", f"{needle:016x}")
        slots.append(ChunkSlot(index=index, offset=index * upload.chunk_size, size=size, url=url))
    return slots


def _chunk_size(size: int, bucket: Bucket) -> int:
    """The bucket's size or the store's, or larger where there would be too many chunks. Raises ObjectTooLarge."""
    chunk_size: int = bucket.chunk_size or settings.WAREHOUSE_CHUNK_SIZE
    if size > MAX_CHUNKS * chunk_size:
        chunk_size = -(-size // MAX_CHUNKS)
    if chunk_size > MAX_DATA_BYTES:
        raise ObjectTooLarge(f"An object has at most {MAX_CHUNKS * MAX_DATA_BYTES} bytes.")
    return chunk_size


def _require_valid(*, key: str, size: int, content_type: str, metadata: dict[str, str], if_match: str) -> None:
    if (problem := key_error(key)) is not None:
        raise KeyInvalid(errors={"key": [problem]})
    if size < 0:
        raise Invalid(errors={"size": ["A number of bytes, 0 or more."]})
    if (problem := content_type_error(content_type)) is not None:
        raise MetadataInvalid(errors={"content_type": [problem]})
    if (problem := metadata_error(metadata)) is not None:
        raise MetadataInvalid(errors={"metadata": [problem]})
    if (problem := if_match_error(if_match)) is not None:
        raise Invalid(errors={"if_match": [problem]})
