"""Making, changing and deleting buckets."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final
from urllib.parse import urlsplit

from django.db import IntegrityError, transaction
from django.utils import timezone

from buckets.errors import BucketNotEmpty, BucketTaken
from buckets.models import IN_PROGRESS, Bucket, Object, Outbox, Upload
from buckets.names import bucket_name_error
from buckets.selectors.buckets import forget_open_buckets, require_bucket
from buckets.services.bulk import database_uuid
from buckets.services.chunks import take_chunks_of_uploads
from buckets.services.outbox import bury
from buckets.services.replication import ask_survey
from buckets.sizes import MAX_CHUNK_BYTES, MIN_CHUNK_BYTES
from keys.actions import Action
from keys.errors import Invalid
from keys.services.audit import record
from keys.services.keys import delete_bucket_grants
from volumes.models import MAX_REPLICATION
from volumes.services.store import next_sequence, set_cors_origins, set_replications

MAX_CORS_ORIGINS = 100
MAX_QUOTA = (1 << 63) - 1


class Unset:
    """The type of `UNSET`: a setting that was not given, where None is a value."""


UNSET: Final = Unset()


@dataclass(frozen=True, slots=True)
class BucketSettings:
    """What can be set on a bucket. Quotas: None for no limit; chunk size, in bytes: None for the store's."""

    visibility: str | Unset = UNSET
    replication: int | Unset = UNSET
    chunk_size: int | Unset | None = UNSET
    quota_bytes: int | Unset | None = UNSET
    quota_objects: int | Unset | None = UNSET
    cors_origins: Iterable[str] | Unset = UNSET


def create_bucket(*, name: str, settings: BucketSettings | None = None) -> Bucket:
    """Raises Invalid, BucketTaken."""
    if (problem := bucket_name_error(name)) is not None:
        raise Invalid(errors={"name": [problem]})
    bucket = Bucket(name=name)
    apply_settings(bucket, settings or BucketSettings())
    try:
        with transaction.atomic():
            bucket.save(force_insert=True)
            _tell_volume_servers(changed=bool(bucket.cors_origins))
            _have_volumes_made(changed=bucket.replication != 1)
            record(Action.BUCKET_CREATE, bucket=name, settings=_given(settings))
            next_sequence()
    except IntegrityError:
        if (taken := Bucket.objects.filter(name=name).first()) is not None:
            how = ", which is being deleted" if taken.is_deleting else ""
            raise BucketTaken(f"There is a bucket {name!r}{how}.") from None
        raise
    bucket.refresh_from_db()
    return bucket


@transaction.atomic
def update_bucket(*, name: str, settings: BucketSettings) -> Bucket:
    """Changes what is given and leaves the rest. Raises BucketUnknown, BucketDeleting, Invalid."""
    bucket = lock_bucket_row(name)
    origins, replication = bucket.cors_origins, bucket.replication
    apply_settings(bucket, settings)
    bucket.save(update_fields=[setting.name for setting in fields(BucketSettings)])
    forget_cached()
    _tell_volume_servers(changed=bucket.cors_origins != origins)
    if bucket.replication != replication:
        _have_volumes_made(changed=True)
        ask_survey()
    record(Action.BUCKET_UPDATE, bucket=name, settings=_given(settings))
    next_sequence()
    return bucket


@transaction.atomic
def delete_bucket(*, name: str) -> None:
    """Deletes a bucket without objects, the uploads in progress in it, and all grants on it.

    Raises BucketUnknown, BucketDeleting, BucketNotEmpty.
    """
    bucket = lock_bucket_row(name)
    _require_empty(bucket)
    remove_bucket(bucket, sequence=next_sequence())


@transaction.atomic
def delete_buckets(*, names: Iterable[str]) -> None:
    """Deletes buckets as `delete_bucket` does, all of them in one commit, or none.

    Raises BucketUnknown, BucketDeleting, BucketNotEmpty.
    """
    wanted = sorted(set(names))
    locked = {row.name: row for row in Bucket.objects.select_for_update().filter(name__in=wanted).order_by("pk")}
    buckets = [require_bucket(locked.get(name), name) for name in wanted]
    for bucket in buckets:
        _require_empty(bucket)
    # Only now that all are locked: the store's row comes last.
    sequence = next_sequence()
    for bucket in buckets:
        remove_bucket(bucket, sequence=sequence)


def _require_empty(bucket: Bucket) -> None:
    """Raises BucketNotEmpty."""
    if Object.objects.filter(bucket=bucket).exists():
        raise BucketNotEmpty(f"Bucket {bucket.name!r} holds {bucket.object_count} objects.")


def remove_bucket(bucket: Bucket, *, sequence: int) -> None:
    """Deletes a bucket that its caller has locked by `lock_bucket_row` and found empty, with all that hangs on it.

    ``sequence``: that of the commit, from `next_sequence`.
    """
    uploads = Upload.objects.filter(bucket=bucket)
    ids = uploads.filter(state__in=IN_PROGRESS).values_list("pk", flat=True)
    dead = take_chunks_of_uploads([database_uuid(upload_id) for upload_id in ids], reason=Outbox.Reason.UPLOAD_ABORTED)
    gone, _ = uploads.delete()
    bury(dead, now=timezone.now(), sequence=sequence)
    bucket.delete()
    forget_cached()
    grants = delete_bucket_grants(bucket=bucket.name)
    record(Action.BUCKET_DELETE, bucket=bucket.name, grants=grants, uploads=gone)
    _tell_volume_servers(changed=bool(bucket.cors_origins))
    _have_volumes_made(changed=bucket.replication != 1)


def forget_cached() -> None:
    """What this process remembers of buckets is no longer so, at the latest when the caller's transaction commits."""
    forget_open_buckets()
    transaction.on_commit(forget_open_buckets)  # another thread may have read the old row meanwhile


def _given(settings: BucketSettings | None) -> dict[str, object]:
    """The settings that a call gave, as the audit trail tells them."""
    values = () if settings is None else ((each.name, getattr(settings, each.name)) for each in fields(settings))
    return {name: list(value) if name == "cors_origins" else value for name, value in values if value is not UNSET}


def lock_bucket_row(name: str, *, deleting_too: bool = False) -> Bucket:
    """As `lock_bucket`, and nothing may come to point to the row meanwhile either."""
    bucket = Bucket.objects.select_for_update().filter(name=name).first()
    return require_bucket(bucket, name, deleting_too=deleting_too)


def apply_settings(bucket: Bucket, settings: BucketSettings) -> None:
    """Sets what is given. Raises Invalid, which names every field that is wrong."""
    errors: dict[str, list[str]] = {}
    if not isinstance(settings.visibility, Unset):
        bucket.visibility = settings.visibility
        if bucket.visibility not in Bucket.Visibility:
            errors["visibility"] = [f"One of {', '.join(Bucket.Visibility.values)}."]
    if not isinstance(settings.replication, Unset):
        bucket.replication = settings.replication
        if not 1 <= bucket.replication <= MAX_REPLICATION:
            errors["replication"] = [f"A number from 1 to {MAX_REPLICATION}."]
    if not isinstance(settings.chunk_size, Unset):
        bucket.chunk_size = settings.chunk_size
        if bucket.chunk_size is not None and not MIN_CHUNK_BYTES <= bucket.chunk_size <= MAX_CHUNK_BYTES:
            errors["chunk_size"] = [
                f"A number of bytes from {MIN_CHUNK_BYTES} to {MAX_CHUNK_BYTES}, or null for the store's."
            ]
    for name, quota in (("quota_bytes", settings.quota_bytes), ("quota_objects", settings.quota_objects)):
        if not isinstance(quota, Unset):
            setattr(bucket, name, quota)
            if quota is not None and not 0 <= quota <= MAX_QUOTA:
                errors[name] = [f"A number from 0 to {MAX_QUOTA}, or null for no limit."]
    if not isinstance(settings.cors_origins, Unset):
        bucket.cors_origins = sorted(set(settings.cors_origins))
        if len(bucket.cors_origins) > MAX_CORS_ORIGINS:
            errors["cors_origins"] = [f"At most {MAX_CORS_ORIGINS} origins."]
        elif wrong := [origin for origin in bucket.cors_origins if not _is_origin(origin)]:
            errors["cors_origins"] = [f"{wrong[0][:100]!r} is no origin: * or scheme://host[:port], in lower case."]
    if errors:
        raise Invalid(errors=errors)


def _is_origin(text: str) -> bool:
    """``*``, or an origin as browsers send it (RFC 6454 section 6.2)."""
    if text == "*":
        return True
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return False
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return text.isascii() and text == f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")


def _tell_volume_servers(*, changed: bool) -> None:
    """Volume servers know no buckets: they answer the origins of all of them."""
    if changed:
        lists = Bucket.objects.exclude(cors_origins=[]).values_list("cors_origins", flat=True)
        set_cors_origins(origins={origin for origins in lists for origin in origins})


def _have_volumes_made(*, changed: bool) -> None:
    """Volumes are made ahead of need for each number of copies that some bucket asks for."""
    if changed:
        set_replications(replications=Bucket.objects.values_list("replication", flat=True).distinct())
