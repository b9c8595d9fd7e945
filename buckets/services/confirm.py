"""Confirm: durable needles become objects. The transaction here is the moment at which an object exists.

    lock buckets ─ deadline ─ read what there is ─ judge needle by needle ─ write what came of it ─ commit

Reading and writing are bulk statements, a constant number whatever the batch (but for the database's limit of
parameters); judging is plain Python over what was read. A needle is judged once: after that a chunk row or an outbox
row names it, and it gets its first verdict again, whoever repeats the question and whatever has happened since.
"""

import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

from buckets.batch import Batch, Needle
from buckets.errors import (
    REFUSALS,
    BucketDeleting,
    BucketUnknown,
    DeadlinePassed,
    EpochStale,
    IntentForged,
    KeyInvalid,
    KeyOutsideLease,
    KeyRevoked,
    LeaseExpired,
    MetadataInvalid,
    NeedleOutsideLease,
    NotPrimary,
    PayloadTooLarge,
    SizeMismatch,
    UploadOver,
    UploadUnknown,
)
from buckets.models import SYSTEM_BUCKET_ID, Chunk, JournalNeedle, Outbox, Upload
from buckets.names import (
    DEFAULT_CONTENT_TYPE,
    content_type_error,
    etag_of_needle,
    etag_of_upload,
    if_match_error,
    key_error,
    metadata_error,
)
from buckets.services.bulk import database_uuid, insert_rows, run_in
from buckets.services.chunks import Owner, first_verdict, take_chunks_of_objects, take_chunks_of_uploads
from buckets.services.conditions import require_conditions
from buckets.services.counts import Counts
from buckets.services.intents import genuine_intent
from buckets.services.locks import LockedBucket, add_to_counts, lock_buckets
from buckets.services.outbox import DeadNeedle, bury
from buckets.verdicts import Committed, Refused, Stored, Verdict, from_json, rfc3339
from keys.actions import Outcome
from keys.errors import PermissionDenied, WarehouseError
from keys.permissions import Permission
from keys.rights import KeyRights
from keys.selectors import rights_now
from keys.services import audit
from volume_server.intent import Intent
from volumes.selectors import VolumeState, volumes_for_confirm
from volumes.services.store import current_store, next_sequence

Place = tuple[int, str]
"""Bucket id and key."""

_DENIALS = frozenset(error.code for error in REFUSALS if issubclass(error, PermissionDenied))
"""Refusals for want of a right, not for the needle's or the bucket's sake."""


class Confirmed(NamedTuple):
    """The verdicts in the order of the needles, and the store's sequence after the commit."""

    sequence: int
    verdicts: list[Verdict]


@transaction.atomic
def confirm_needles(*, server: UUID, batch: Batch) -> Confirmed:
    """Judges a batch that ``server`` says is durable, and commits all that is good of it, in one transaction.

    Of two needles of one key the later wins. Raises DeadlinePassed: then nothing was committed.
    """
    intents = [genuine_intent(text) for text in batch.intents]
    buckets = lock_buckets({intent.bucket_id for intent in intents if intent is not None})
    # Only now: whoever waited for the locks longer than the server waits for the answer must change nothing.
    now_ms = int(time.time() * 1000)
    if now_ms > batch.deadline_ms:
        raise DeadlinePassed(f"The deadline was {now_ms - batch.deadline_ms} ms ago when the buckets could be locked.")
    judge = _Judge(server=server, batch=batch, intents=intents, buckets=buckets, now_ms=now_ms)
    verdicts = [judge.verdict_of(needle) for needle in batch.needles]
    return Confirmed(sequence=judge.commit(), verdicts=verdicts)


@dataclass(slots=True)
class _Upload:
    """An upload of the batch as it stands after the needles judged so far."""

    row: Upload
    stored: dict[int, "_Stored"]
    """The chunks whose index a needle of the batch has, by index."""
    count: int
    """All chunks that have a needle."""


class _Stored(NamedTuple):
    """A chunk of an upload: of a row (``row_id``), or of the batch."""

    row_id: int | None
    dead: DeadNeedle
    """What becomes of its needle if another one takes its place."""
    needle: Needle | None


@dataclass(slots=True)
class _Version:
    """What a key holds: its row as it was read (``object_id``), or what this batch made of it."""

    size: int
    etag: str
    object_id: int | None = None
    needle: Needle | None = None
    upload: _Upload | None = None
    content_type: str = ""
    metadata: dict[str, str] | None = None
    verdict: Verdict | None = None
    volume_id: int = 0


@dataclass(slots=True)
class _Lease:
    """An intent of the batch, with what holds for all of its needles."""

    intent: Intent
    bucket: LockedBucket | None
    rights: KeyRights | None
    refusal: WarehouseError | None
    speaks_for_volume: bool
    """The caller is the volume's primary: what it hears is a needle's verdict for ever."""
    covers_prefix: bool = False
    """The rights cover all keys that the lease allows."""
    judged: list[Verdict] = field(default_factory=list)
    """What this batch's needles of the lease got, those that were judged before left out."""


class _Judge:
    """One batch, from what the database says to what it shall say."""

    def __init__(
        self, *, server: UUID, batch: Batch, intents: list[Intent | None], buckets: list[LockedBucket], now_ms: int
    ) -> None:
        self.batch = batch
        self.now_ms = now_ms
        self.now = datetime.fromtimestamp(now_ms / 1000, UTC)
        self.now_text = rfc3339(self.now)
        self.now_value = connection.ops.adapt_datetimefield_value(self.now)
        self.server = server
        self.counts = {bucket.id: Counts(bucket) for bucket in buckets}
        self.dead: list[DeadNeedle] = []
        self.lost_uploads: list[_Upload] = []
        self.completed_uploads: list[_Upload] = []
        self.ready_uploads: list[UUID] = []

        self.verdicts = _Verdicts.read(needle.id for needle in batch.needles)
        genuine = [intent for intent in intents if intent is not None]
        self.volumes = volumes_for_confirm({intent.volume for intent in genuine} | self.verdicts.volumes())
        self.rights = rights_now({intent.api_key for intent in genuine})
        self.leases = [None if intent is None else self._lease(intent) for intent in intents]
        self.uploads = self._read_uploads(intents)
        self.before = self._read_versions()
        self.versions = dict(self.before)

    # --- what there is ---

    def _lease(self, intent: Intent) -> _Lease:
        counts = self.counts.get(intent.bucket_id)
        bucket = counts.bucket if counts else None
        rights = self.rights.get(intent.api_key)
        volume = self.volumes.get(intent.volume)
        lease = _Lease(
            intent=intent,
            bucket=bucket,
            rights=rights,
            refusal=self._lease_refusal(intent, bucket=bucket, rights=rights, volume=volume),
            speaks_for_volume=volume is not None and volume.primary == self.server,
        )
        if rights is not None and bucket is not None:
            lease.covers_prefix = rights.allows(
                Permission.OBJECTS_WRITE, bucket=bucket.name, key=intent.key, prefix=not intent.key_fixed
            )
        return lease

    def _lease_refusal(
        self, intent: Intent, *, bucket: LockedBucket | None, rights: KeyRights | None, volume: VolumeState | None
    ) -> WarehouseError | None:
        """Why none of the lease's needles can be taken now; None when they may."""
        if self.now_ms > (intent.expires_at + settings.WAREHOUSE_CONFIRM_GRACE_SECONDS) * 1000:
            return LeaseExpired("The lease and its time of grace are over.")
        if volume is None or volume.primary != self.server:
            return NotPrimary(f"Server {self.server} does not speak for volume {intent.volume}.")
        if volume.epoch != intent.epoch:
            return EpochStale(f"Volume {intent.volume} has epoch {volume.epoch}, the lease is of {intent.epoch}.")
        if intent.bucket_id == SYSTEM_BUCKET_ID:
            return None
        if rights is None or not rights.is_active:
            return KeyRevoked("The API key that the lease was made for was deleted or has expired.")
        if bucket is None:
            return BucketUnknown(f"The bucket {intent.bucket!r} that the lease was made for is gone.")
        if bucket.deleting_at is not None:
            return BucketDeleting(f"The bucket {intent.bucket!r} is being deleted.")
        return None

    def _read_uploads(self, intents: Iterable[Intent | None]) -> dict[UUID, _Upload]:
        """Three queries when the batch has chunks of uploads, else none."""
        wanted = {intent.upload for intent in intents if intent is not None and intent.upload is not None}
        if not wanted:
            return {}
        rows = Upload.objects.select_related("bucket").in_bulk(wanted)
        ids = [database_uuid(upload_id) for upload_id in rows]
        counts: dict[object, int] = dict(
            run_in("SELECT upload_id, COUNT(*) FROM buckets_chunk WHERE upload_id IN {in} GROUP BY 1", ids)
        )
        uploads = {
            upload_id: _Upload(row=row, stored={}, count=counts.get(database_uuid(upload_id), 0))
            for upload_id, row in rows.items()
        }
        indexes = {intent.chunk_index for intent in intents if intent is not None and intent.upload is not None}
        for chunk in Chunk.objects.filter(upload__in=rows, index__in=indexes):
            assert chunk.upload_id is not None  # the query says so
            assert chunk.verdict is not None  # a constraint says so
            uploads[chunk.upload_id].stored[chunk.index] = _Stored(
                row_id=chunk.pk,
                dead=DeadNeedle(
                    needle=chunk.needle,
                    volume_id=chunk.volume_id,
                    reason=Outbox.Reason.OVERWRITTEN,
                    verdict=from_json(chunk.verdict),
                    judged_at=chunk.committed_at,
                    was_readable=False,
                ),
                needle=None,
            )
        return uploads

    def _read_versions(self) -> dict[Place, _Version]:
        """The objects that the batch's keys name now; one query."""
        wanted: dict[int, set[str]] = {}
        for needle in self.batch.needles:
            lease = self.leases[needle.intent]
            if lease is not None and lease.bucket is not None:
                key = lease.intent.key if lease.intent.key_fixed else needle.key
                # What is no key is no text that every database takes either.
                if key is not None and key_error(key) is None:
                    wanted.setdefault(lease.bucket.id, set()).add(key)
        return {
            (bucket_id, key): _Version(size=size, etag=etag, object_id=object_id)
            for object_id, bucket_id, key, size, etag in select_versions(wanted)
        }

    # --- judging ---

    def verdict_of(self, needle: Needle) -> Verdict:
        known = self.verdicts.of(needle.id)
        if known is not None:
            return self._repeat(known)
        lease = self.leases[needle.intent]
        if lease is not None and lease.intent.bucket_id == SYSTEM_BUCKET_ID:
            return self._system_verdict(needle, lease)
        try:
            if lease is None:
                raise IntentForged("The intent is not signed by this master.")
            verdict: Verdict = self._take(needle, lease)
        except WarehouseError as error:
            verdict = Refused.of(error)
            # Who may not speak for the volume must not be able to kill a needle there, so that no is not remembered;
            # it would be no again anyway.
            if lease is None or not lease.speaks_for_volume:
                return verdict
            self.dead.append(self._dead(needle, lease, Outbox.Reason.REFUSED, verdict))
        assert lease is not None
        lease.judged.append(verdict)
        self.verdicts.add(needle.id, lease.intent.volume, verdict)
        return verdict

    def _repeat(self, known: "_Known") -> Verdict:
        volume = self.volumes.get(known.volume_id)
        if volume is None or volume.primary != self.server:
            return Refused.of(NotPrimary(f"Server {self.server} does not speak for volume {known.volume_id}."))
        return known.verdict

    def _system_verdict(self, needle: Needle, lease: _Lease) -> Verdict:
        """The journal's own needles have rows before they are sent, and are no commits: nothing is written."""
        if lease.refusal is not None:
            return Refused.of(lease.refusal)
        if not JournalNeedle.objects.filter(needle=needle.id, volume=lease.intent.volume).exists():
            return Refused.of(NeedleOutsideLease(f"Needle {needle.id:016x} is none of the journal's."))
        return Committed("", lease.intent.key, needle.size, etag_of_needle(needle.id), self.now_text)

    def _take(self, needle: Needle, lease: _Lease) -> Committed | Stored:
        """The verdict of a needle that nobody has judged. Raises the domain error that refuses it."""
        intent, bucket = lease.intent, lease.bucket
        if lease.refusal is not None:
            raise lease.refusal
        assert bucket is not None
        assert lease.rights is not None
        if not intent.allows(needle.id):
            raise NeedleOutsideLease(f"Needle {needle.id:016x} is none of the lease's.")
        if needle.size > intent.max_bytes:
            raise PayloadTooLarge(f"The lease allows {intent.max_bytes} bytes, the needle has {needle.size}.")
        if intent.exact and needle.size != intent.max_bytes:
            raise SizeMismatch(f"The lease is for exactly {intent.max_bytes} bytes, the needle has {needle.size}.")
        key = _key(needle, intent)
        if not lease.covers_prefix:
            lease.rights.require(Permission.OBJECTS_WRITE, bucket=bucket.name, key=key)
        if intent.upload is not None:
            return self._take_chunk(needle, lease, bucket, intent.upload)

        content_type, metadata = _attributes(needle, intent)
        place = (bucket.id, key)
        current = self.versions.get(place)
        if_match = intent.if_match or needle.if_match
        if if_match or intent.if_none_match or needle.if_none_match:
            if needle.if_match and (problem := if_match_error(needle.if_match)):
                raise MetadataInvalid(problem)
            require_conditions(
                etag=current.etag if current else None,
                if_match=if_match or "",
                if_none_match=intent.if_none_match or needle.if_none_match,
            )
        self.counts[bucket.id].replace(current.size if current else None, needle.size)
        verdict = Committed(bucket.name, key, needle.size, etag_of_needle(needle.id), self.now_text)
        self._replace(
            place,
            current,
            _Version(
                size=needle.size,
                etag=verdict.etag,
                needle=needle,
                content_type=content_type,
                metadata=metadata,
                verdict=verdict,
                volume_id=intent.volume,
            ),
        )
        return verdict

    def _take_chunk(self, needle: Needle, lease: _Lease, bucket: LockedBucket, upload_id: UUID) -> Committed | Stored:
        index = lease.intent.chunk_index
        upload = self.uploads.get(upload_id)
        if upload is None or upload.row.bucket_id != bucket.id:
            raise UploadUnknown(f"There is no upload {upload_id}.")
        row = upload.row
        if row.state != Upload.State.OPEN:
            raise UploadOver(f"Upload {upload_id} is {row.state}.")
        if index >= row.chunk_count or row.chunk_bytes(index) != needle.size:
            raise SizeMismatch(f"Upload {upload_id} has no chunk {index} of {needle.size} bytes.")
        replaced = upload.stored.get(index)
        is_last = upload.count + (replaced is None) == row.chunk_count
        if is_last and not row.held:
            return self._complete(needle, lease, upload, replaced)
        verdict = Stored(bucket.name, row.key, needle.size, str(upload_id), index)
        self._store_chunk(needle, lease, upload, replaced, verdict)
        if is_last:
            row.state = Upload.State.READY
            self.ready_uploads.append(row.pk)
        return verdict

    def _store_chunk(
        self, needle: Needle, lease: _Lease, upload: _Upload, replaced: _Stored | None, verdict: Verdict
    ) -> None:
        """Of two needles for one chunk the later wins, as it does for objects."""
        if replaced is None:
            upload.count += 1
        else:
            self.dead.append(replaced.dead)
        upload.stored[lease.intent.chunk_index] = _Stored(
            row_id=replaced.row_id if replaced else None,
            dead=self._dead(needle, lease, Outbox.Reason.OVERWRITTEN, verdict),
            needle=needle,
        )

    def _complete(self, needle: Needle, lease: _Lease, upload: _Upload, replaced: _Stored | None) -> Committed:
        """The last missing chunk makes the object. Where that is refused the upload stays as it was, and open."""
        row = upload.row
        place = (row.bucket_id, row.key)
        current = self.versions.get(place)
        require_conditions(
            etag=current.etag if current else None, if_match=row.if_match, if_none_match=row.if_none_match
        )
        self.counts[row.bucket_id].replace(current.size if current else None, row.size, completes=row)
        verdict = Committed(row.bucket.name, row.key, row.size, etag_of_upload(row.pk), self.now_text)
        self._store_chunk(needle, lease, upload, replaced, verdict)
        row.state = Upload.State.COMPLETED
        self.completed_uploads.append(upload)
        self._replace(
            place,
            current,
            _Version(
                size=row.size,
                etag=verdict.etag,
                upload=upload,
                content_type=row.content_type,
                metadata=row.metadata,
            ),
        )
        return verdict

    def _replace(self, place: Place, current: _Version | None, version: _Version) -> None:
        self.versions[place] = version
        if current is None:
            return
        if current.needle is not None:
            assert current.verdict is not None
            self.dead.append(
                DeadNeedle(
                    needle=current.needle.id,
                    volume_id=current.volume_id,
                    reason=Outbox.Reason.OVERWRITTEN,
                    verdict=current.verdict,
                    judged_at=self.now,
                    was_readable=False,
                )
            )
        elif current.upload is not None:
            self.lost_uploads.append(current.upload)

    def _dead(self, needle: Needle, lease: _Lease, reason: Outbox.Reason, verdict: Verdict) -> DeadNeedle:
        return DeadNeedle(
            needle=needle.id,
            volume_id=lease.intent.volume,
            reason=reason,
            verdict=verdict,
            judged_at=self.now,
            was_readable=False,
        )

    # --- writing ---

    def commit(self) -> int:
        """Writes what was judged; the store's sequence. Without a new needle nothing is written."""
        if not self.verdicts.has_new:
            return current_store().sequence
        sequence = next_sequence()
        changed = {place: version for place, version in self.versions.items() if version is not self.before.get(place)}
        object_ids = self._write_objects(changed, sequence)
        self._delete_replaced_chunks(changed)
        self._write_chunks(changed, object_ids)
        self._write_uploads(changed, object_ids)
        bury(self.dead, now=self.now, sequence=sequence)
        self._write_audit()
        add_to_counts(counts.change() for counts in self.counts.values())
        return sequence

    def _write_audit(self) -> None:
        """An entry for each key, bucket and outcome of the batch, all in one statement.

        A chunk of an upload that has others missing has changed nothing yet, so it is not told.
        """
        used: dict[tuple[int, str], list[_Lease]] = {}
        for lease in self.leases:
            if lease is not None and lease.judged:
                used.setdefault((lease.intent.api_key, lease.intent.bucket), []).append(lease)
        rows = []
        for (api_key, bucket), leases in used.items():
            verdicts = [verdict for lease in leases for verdict in lease.judged]
            key = (api_key, self.rights[api_key].name if api_key in self.rights else "")
            done = [verdict for verdict in verdicts if isinstance(verdict, Committed)]
            if done:
                keys = [verdict.key for verdict in done]
                size_bytes = sum([verdict.size for verdict in done])
                rows.append(
                    audit.put_row(
                        at=self.now_value,
                        key=key,
                        bucket=bucket,
                        target=audit.common_target(min(keys), max(keys)),
                        outcome=Outcome.DONE.value,
                        detail=f'{{"objects": {len(done)}, "bytes": {size_bytes}}}',
                    )
                )
            if len(done) < len(verdicts):
                allowed = [lease.intent.key for lease in leases]  # a key, or a prefix of keys
                codes = Counter(verdict.code for verdict in verdicts if isinstance(verdict, Refused))
                denied = {code: count for code, count in codes.items() if code in _DENIALS}
                failed = {code: count for code, count in codes.items() if code not in _DENIALS}
                rows += [
                    audit.put_row(
                        at=self.now_value,
                        key=key,
                        bucket=bucket,
                        target=audit.common_target(min(allowed), max(allowed)),
                        outcome=outcome.value,
                        detail=json.dumps({"refused": refused}),
                    )
                    for outcome, refused in ((Outcome.DENIED, denied), (Outcome.FAILED, failed))
                    if refused
                ]
        if rows:
            insert_rows(into=audit.TABLE, columns=audit.COLUMNS, rows=rows)

    def _write_objects(self, changed: dict[Place, _Version], sequence: int) -> dict[Place, int]:
        if not changed:
            return {}
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
                    json.dumps(version.metadata, ensure_ascii=False) if version.metadata else "{}",
                    self.now_value,
                    self.now_value,
                    sequence,
                )
                for (bucket_id, key), version in changed.items()
            ],
            then=_OBJECT_UPSERT,
        )
        return {(bucket_id, key): object_id for object_id, bucket_id, key in rows}

    def _delete_replaced_chunks(self, changed: dict[Place, _Version]) -> None:
        owners = {
            before.object_id: Owner(self.counts[place[0]].bucket.name, place[1], before.size)
            for place in changed
            if (before := self.before.get(place)) is not None and before.object_id is not None
        }
        if owners:
            self.dead += take_chunks_of_objects(owners, reason=Outbox.Reason.OVERWRITTEN)
        replaced = [
            stored.row_id
            for upload in self.uploads.values()
            for stored in upload.stored.values()
            if stored.needle is not None and stored.row_id is not None
        ]
        if replaced:
            run_in("DELETE FROM buckets_chunk WHERE id IN {in}", replaced)

    def _write_chunks(self, changed: dict[Place, _Version], object_ids: dict[Place, int]) -> None:
        rows: list[tuple[object, ...]] = [
            (
                object_ids[place],
                None,
                0,
                version.volume_id,
                version.needle.id,
                version.size,
                version.needle.crc32,
                self.now_value,
                None,
            )
            for place, version in changed.items()
            if version.needle is not None
        ]
        rows += [
            (
                None,
                database_uuid(upload.row.pk),
                index,
                stored.dead.volume_id,
                stored.needle.id,
                stored.needle.size,
                stored.needle.crc32,
                self.now_value,
                json.dumps(stored.dead.verdict.as_json(), ensure_ascii=False),
            )
            for upload in self.uploads.values()
            for index, stored in upload.stored.items()
            if stored.needle is not None
        ]
        if rows:
            insert_rows(into="buckets_chunk", columns=_CHUNK_COLUMNS, rows=rows)

    def _write_uploads(self, changed: dict[Place, _Version], object_ids: dict[Place, int]) -> None:
        """Chunks of completed uploads become their objects'; those of objects that the batch replaced again die."""
        if self.ready_uploads:
            Upload.objects.filter(pk__in=self.ready_uploads).update(state=Upload.State.READY)
        if not self.completed_uploads:
            return
        Upload.objects.filter(pk__in=[upload.row.pk for upload in self.completed_uploads]).update(
            state=Upload.State.COMPLETED
        )
        with connection.cursor() as cursor:
            cursor.executemany(
                "UPDATE buckets_chunk SET object_id = %s, upload_id = NULL WHERE upload_id = %s",
                [
                    (object_ids[place], database_uuid(version.upload.row.pk))
                    for place, version in changed.items()
                    if version.upload is not None
                ],
            )
        if self.lost_uploads:
            lost = [database_uuid(upload.row.pk) for upload in self.lost_uploads]
            self.dead += take_chunks_of_uploads(lost, reason=Outbox.Reason.OVERWRITTEN)


class _Known(NamedTuple):
    volume_id: int
    verdict: Verdict


class _Verdicts:
    """The first verdicts of needles that have been judged, those of this batch included."""

    def __init__(self, known: dict[int, _Known]) -> None:
        self._known = known
        self.has_new = False

    @classmethod
    def read(cls, needles: Iterable[int]) -> "_Verdicts":
        """One query when none of them was judged before, else three."""
        needles = list(needles)
        rows = run_in(
            "SELECT needle FROM buckets_chunk WHERE needle IN {in} "
            "UNION ALL SELECT needle FROM buckets_outbox WHERE needle IN {in}",
            needles,
        )
        return cls(first_verdicts(needle for (needle,) in rows) if rows else {})

    def of(self, needle: int) -> _Known | None:
        return self._known.get(needle)

    def add(self, needle: int, volume_id: int, verdict: Verdict) -> None:
        self._known[needle] = _Known(volume_id, verdict)
        self.has_new = True

    def volumes(self) -> set[int]:
        return {known.volume_id for known in self._known.values()}


def first_verdicts(needles: Iterable[int]) -> dict[int, _Known]:
    """Where judged needles are, and what was said of them; two queries."""
    needles = set(needles)
    known: dict[int, _Known] = {}
    # Chunks before the outbox: a needle that copies share may go from the one to the other meanwhile, by a commit in
    # another bucket, and never comes back.
    chunks = Chunk.objects.filter(needle__in=needles).select_related("object__bucket")
    for chunk in chunks:
        if chunk.verdict is not None:
            verdict = from_json(chunk.verdict)
        else:
            assert chunk.object is not None  # a constraint says so
            owner = Owner(chunk.object.bucket.name, chunk.object.key, chunk.size)
            verdict = first_verdict(chunk.needle, owner, rfc3339(chunk.committed_at))
        known[chunk.needle] = _Known(chunk.volume_id, verdict)
    for needle, volume_id, verdict_json in Outbox.objects.filter(needle__in=needles).values_list(
        "needle", "volume_id", "verdict"
    ):
        known[needle] = _Known(volume_id, from_json(verdict_json))
    return known


def select_versions(keys_by_bucket: dict[int, set[str]]) -> list[tuple[int, int, str, int, str]]:
    """(object id, bucket id, key, size, etag) of those of the keys that exist; a query a bucket."""
    rows: list[tuple[int, int, str, int, str]] = []
    for bucket_id, keys in keys_by_bucket.items():
        rows += run_in(
            "SELECT id, bucket_id, key, size, etag FROM buckets_object "  # noqa: S608
            f"WHERE bucket_id = {int(bucket_id)} AND key IN {{in}}",
            keys,
        )
    return rows


def _key(needle: Needle, intent: Intent) -> str:
    """The key that a needle is for. Raises KeyInvalid, KeyOutsideLease."""
    if intent.key_fixed:
        if needle.key is not None and needle.key != intent.key:
            raise KeyOutsideLease("The lease fixes the key.")
        return intent.key
    if needle.key is None:
        raise KeyInvalid("The needle names no key, and the lease fixes none.")
    if (problem := key_error(needle.key)) is not None:
        raise KeyInvalid(problem)
    if not needle.key.startswith(intent.key):
        raise KeyOutsideLease(f"The lease is for keys that start with {intent.key!r}.")
    return needle.key


def _attributes(needle: Needle, intent: Intent) -> tuple[str, dict[str, str]]:
    """Content type and metadata. Raises MetadataInvalid."""
    content_type = intent.content_type or needle.content_type or DEFAULT_CONTENT_TYPE
    metadata = intent.metadata or needle.metadata or {}
    problem = content_type_error(content_type)
    if problem is None and metadata:
        problem = metadata_error(metadata)
    if problem is not None:
        raise MetadataInvalid(problem)
    return content_type, metadata


OBJECT_COLUMNS = (
    "bucket_id",
    "key",
    "size",
    "etag",
    "content_type",
    "metadata",
    "created_at",
    "updated_at",
    "sequence",
)
_OBJECT_UPSERT = """
ON CONFLICT (bucket_id, key) DO UPDATE SET
    size = EXCLUDED.size, etag = EXCLUDED.etag, content_type = EXCLUDED.content_type, metadata = EXCLUDED.metadata,
    updated_at = EXCLUDED.updated_at, sequence = EXCLUDED.sequence
RETURNING id, bucket_id, key
"""
_CHUNK_COLUMNS = (
    "object_id",
    "upload_id",
    '"index"',
    "volume_id",
    "needle",
    "size",
    "crc32",
    "committed_at",
    "verdict",
)
