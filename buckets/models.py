"""Rows of buckets, objects, chunks, uploads and the outbox. Fields and constraints only.

Who writes: `buckets.services`. All of its writers lock the bucket's row first (see `buckets.services.locks`).
"""

import uuid
from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from buckets.fields import ByteOrderedField, OctetLength
from buckets.names import MAX_CONTENT_TYPE_CHARS, MAX_IF_MATCH_CHARS, MAX_KEY_BYTES
from buckets.sizes import MAX_CHUNK_BYTES, MIN_CHUNK_BYTES
from keys.models import HASH_HEX_CHARS, MAX_NAME_CHARS
from keys.printable import printable

MAX_CRC32 = (1 << 32) - 1
MAX_DESCRIPTION_CHARS = 500
SYSTEM_BUCKET_ID = 0
"""What intents of the journal's needles name. No row has this id, so no name and no right leads there."""


class Bucket(models.Model):
    class Visibility(models.TextChoices):
        PRIVATE = "private", "private"
        PUBLIC_READ = "public-read", "public read"

    name = ByteOrderedField(max_length=63, unique=True)
    visibility = models.CharField(max_length=16, choices=Visibility, default=Visibility.PRIVATE)
    replication = models.PositiveSmallIntegerField(default=1, help_text="Copies of each needle, on different nodes.")
    chunk_size = models.BigIntegerField(
        null=True, blank=True, help_text="Bytes of each chunk of a large object but the last. Empty: the store's."
    )
    quota_bytes = models.PositiveBigIntegerField(null=True, blank=True, help_text="Empty: no limit.")
    quota_objects = models.PositiveBigIntegerField(null=True, blank=True, help_text="Empty: no limit.")
    cors_origins = models.JSONField(
        default=list, blank=True, help_text="Origins whose pages may read and write; in effect in the whole store."
    )
    # Kept by every commit, so that nobody has to count.
    object_count = models.BigIntegerField(default=0, editable=False)
    total_bytes = models.BigIntegerField(default=0, editable=False)
    reserved_objects = models.BigIntegerField(
        default=0, editable=False, help_text="What uploads that are in progress will add."
    )
    reserved_bytes = models.BigIntegerField(default=0, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    deleting_at = models.DateTimeField(
        null=True, editable=False, help_text="When its deletion with all objects was asked for; closed since."
    )

    class Meta:
        ordering = ("name",)
        constraints = [
            models.CheckConstraint(condition=~Q(name=""), name="bucket_named"),
            models.CheckConstraint(condition=Q(visibility__in=["private", "public-read"]), name="bucket_visibility"),
            models.CheckConstraint(condition=Q(replication__gte=1), name="bucket_replicated"),
            models.CheckConstraint(
                condition=Q(chunk_size__isnull=True)
                | Q(chunk_size__gte=MIN_CHUNK_BYTES, chunk_size__lte=MAX_CHUNK_BYTES),
                name="bucket_chunk_size_in_bounds",
            ),
            models.CheckConstraint(
                condition=Q(object_count__gte=0, total_bytes__gte=0), name="bucket_counts_not_negative"
            ),
            models.CheckConstraint(
                condition=Q(reserved_objects__gte=0, reserved_bytes__gte=0), name="bucket_reserves_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_deleting(self) -> bool:
        return self.deleting_at is not None


class Object(models.Model):
    """The current version of a key."""

    # The unique constraint's index serves look-ups by bucket as well.
    bucket = models.ForeignKey(Bucket, on_delete=models.PROTECT, related_name="+", db_index=False)
    key = ByteOrderedField(max_length=MAX_KEY_BYTES)
    size = models.BigIntegerField(help_text="Bytes.")
    etag = models.CharField(max_length=64, help_text="Opaque, and this version's alone.")
    content_type = models.CharField(max_length=MAX_CONTENT_TYPE_CHARS)
    metadata = models.JSONField(default=dict)
    created_at = models.DateTimeField(help_text="When the key came to be.")
    updated_at = models.DateTimeField(help_text="When this version was committed.")
    sequence = models.BigIntegerField(help_text="The master's commit that made this version.")

    class Meta:
        ordering = ("bucket_id", "key")
        constraints = [
            models.UniqueConstraint(fields=["bucket", "key"], name="object_key_unique"),
            models.CheckConstraint(condition=~Q(key=""), name="object_key_not_empty"),
            models.CheckConstraint(
                condition=models.lookups.LessThanOrEqual(OctetLength("key"), MAX_KEY_BYTES), name="object_key_bytes"
            ),
            models.CheckConstraint(condition=Q(size__gte=0), name="object_size_not_negative"),
            models.CheckConstraint(condition=~Q(etag=""), name="object_has_etag"),
            models.CheckConstraint(condition=Q(sequence__gt=0), name="object_committed"),
        ]
        indexes = [models.Index(fields=["bucket", "-sequence", "-id"], name="object_newest_first")]

    def __str__(self) -> str:
        return printable(self.key)


class Upload(models.Model):
    """An object on its way in, by chunks that are confirmed one by one.

    open ──last chunk──> completed          held: open ──last chunk──> ready ──commit──> completed
    open, ready ──abort or expiry──> aborted
    """

    class State(models.TextChoices):
        OPEN = "open", "open"
        READY = "ready", "ready"
        COMPLETED = "completed", "completed"
        ABORTED = "aborted", "aborted"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    bucket = models.ForeignKey(Bucket, on_delete=models.PROTECT, related_name="uploads")
    key = ByteOrderedField(max_length=MAX_KEY_BYTES)
    size = models.BigIntegerField(help_text="Bytes of the whole object.")
    chunk_size = models.BigIntegerField(help_text="Bytes of each chunk but the last.")
    chunk_count = models.PositiveIntegerField()
    content_type = models.CharField(max_length=MAX_CONTENT_TYPE_CHARS)
    metadata = models.JSONField(default=dict)
    if_match = models.CharField(max_length=MAX_IF_MATCH_CHARS, blank=True, default="")
    if_none_match = models.BooleanField(default=False)
    held = models.BooleanField(default=False, help_text="Only a commit of a group makes it an object.")
    # Counted on the bucket while the upload is in progress: what it would add to what was there when it began.
    reserved_objects = models.PositiveSmallIntegerField(default=0, editable=False)
    reserved_bytes = models.BigIntegerField(default=0, editable=False)
    # The key that asked for it may be deleted, so no foreign key.
    api_key = models.BigIntegerField()
    generation = models.BigIntegerField()
    state = models.CharField(max_length=16, choices=State, default=State.OPEN)
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ("-created_at",)
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=["open", "ready", "completed", "aborted"]), name="upload_state"
            ),
            models.CheckConstraint(condition=~Q(state="ready") | Q(held=True), name="upload_ready_is_held"),
            models.CheckConstraint(
                condition=Q(reserved_objects__gte=0, reserved_objects__lte=1)
                & Q(reserved_bytes__gte=0, reserved_bytes__lte=models.F("size")),
                name="upload_reserves_no_more_than_itself",
            ),
            models.CheckConstraint(
                condition=Q(size__gte=0, chunk_size__gt=0, chunk_count__gte=1), name="upload_sizes_sound"
            ),
            # ceil(size / chunk_size), and one chunk of nothing for an empty object.
            models.CheckConstraint(
                condition=Q(size__lte=models.F("chunk_count") * models.F("chunk_size"))
                & (Q(chunk_count=1) | Q(size__gt=(models.F("chunk_count") - 1) * models.F("chunk_size"))),
                name="upload_chunks_cover_size",
            ),
        ]
        indexes = [
            models.Index(fields=["bucket", "size"], condition=Q(state__in=["open", "ready"]), name="upload_in_progress")
        ]

    def __str__(self) -> str:
        return str(self.id)

    @property
    def is_in_progress(self) -> bool:
        return self.state in IN_PROGRESS

    def chunk_bytes(self, index: int) -> int:
        """The length of chunk ``index``."""
        return min(self.chunk_size, self.size - index * self.chunk_size)


IN_PROGRESS = (Upload.State.OPEN, Upload.State.READY)
"""The states of uploads that may still become objects, and that reserve room for it."""


class Chunk(models.Model):
    """One piece of an object, and the needle that holds it; of an open upload until it is complete."""

    object = models.ForeignKey(
        Object, on_delete=models.CASCADE, related_name="chunks", null=True, blank=True, db_index=False
    )
    upload = models.ForeignKey(
        Upload, on_delete=models.CASCADE, related_name="chunks", null=True, blank=True, db_index=False
    )
    index = models.PositiveIntegerField()
    volume = models.ForeignKey("volumes.Volume", on_delete=models.PROTECT, related_name="+", db_index=False)
    needle = models.BigIntegerField(db_index=True, help_text="Chunks of two objects may name one needle.")
    size = models.BigIntegerField(help_text="Bytes.")
    crc32 = models.BigIntegerField(help_text="Of the bytes, as clients check them.")
    committed_at = models.DateTimeField(help_text="When its needle was first judged.")
    verdict = models.JSONField(
        null=True,
        blank=True,
        help_text="The needle's first verdict. Empty: committed, as all of this row's object, under its key.",
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["object", "index"], name="chunk_of_object_unique"),
            models.UniqueConstraint(
                fields=["upload", "index"], condition=Q(upload__isnull=False), name="chunk_of_upload_unique"
            ),
            models.CheckConstraint(
                condition=Q(object__isnull=False, upload__isnull=True) | Q(object__isnull=True, upload__isnull=False),
                name="chunk_has_one_owner",
            ),
            models.CheckConstraint(
                condition=Q(upload__isnull=True) | Q(verdict__isnull=False), name="chunk_of_upload_has_verdict"
            ),
            models.CheckConstraint(condition=Q(needle__gt=0), name="chunk_needle_not_zero"),
            models.CheckConstraint(condition=Q(size__gte=0), name="chunk_size_not_negative"),
            models.CheckConstraint(condition=Q(crc32__gte=0, crc32__lte=MAX_CRC32), name="chunk_crc32_in_32_bits"),
        ]
        # Each volume is compared with what its servers have (`services.fsck`), without reading the others' rows.
        indexes = [models.Index(fields=["volume", "needle"], name="chunk_in_volume")]

    def __str__(self) -> str:
        return f"{self.needle:016x}"


class Outbox(models.Model):
    """A dead needle: its tombstone is still to be written, or its verdict is still to be remembered."""

    class Reason(models.TextChoices):
        OVERWRITTEN = "overwritten", "overwritten"
        DELETED = "deleted", "deleted"
        REFUSED = "refused", "refused"
        UPLOAD_ABORTED = "upload_aborted", "upload aborted"

    needle = models.BigIntegerField(unique=True)
    volume = models.ForeignKey("volumes.Volume", on_delete=models.PROTECT, related_name="+", db_index=False)
    reason = models.CharField(max_length=16, choices=Reason)
    verdict = models.JSONField(help_text="What was first answered for the needle, and is answered again.")
    created_at = models.DateTimeField()
    not_before = models.DateTimeField(help_text="When the last URL that can read the needle has expired.")
    keep_until = models.DateTimeField(help_text="When no confirm of the needle can come any more.")
    sequence = models.BigIntegerField(
        default=0, help_text="The master's commit that killed it; its tombstone waits until that is journalled."
    )
    tombstoned_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "outbox"
        constraints = [
            models.CheckConstraint(
                condition=Q(reason__in=["overwritten", "deleted", "refused", "upload_aborted"]), name="outbox_reason"
            ),
            models.CheckConstraint(condition=Q(needle__gt=0), name="outbox_needle_not_zero"),
        ]
        indexes = [
            models.Index(fields=["volume", "not_before"], condition=Q(tombstoned_at__isnull=True), name="outbox_due"),
            models.Index(fields=["keep_until"], condition=Q(tombstoned_at__isnull=False), name="outbox_done"),
        ]

    def __str__(self) -> str:
        return f"{self.needle:016x}"


class Proof(models.Model):
    """One check of the store, or of one volume: every chunk row against every copy, every needle against the rows.

    asked ──> running ──> done
    """

    class State(models.TextChoices):
        ASKED = "asked", "asked for"
        RUNNING = "running", "running"
        DONE = "done", "done"

    class Kind(models.TextChoices):
        MISSING = "missing", "missing"
        ORPHANED = "orphaned", "orphaned"
        DIVERGENT = "divergent", "divergent"
        UNKNOWN = "unknown", "unknown"
        MISCOUNTED = "miscounted", "miscounted"

    state = models.CharField(max_length=16, choices=State, default=State.ASKED)
    deep = models.BooleanField(default=False, help_text="The servers read all data, not headers alone.")
    volume = models.BigIntegerField(null=True, blank=True, help_text="This volume alone. Empty: all of them.")
    asked_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    busy_until = models.DateTimeField(
        null=True, blank=True, help_text="A worker is at it until then, or until it says that it is at it still."
    )
    done_to = models.BigIntegerField(default=0, help_text="Volumes up to this number are done with.")
    volume_count = models.IntegerField(default=0, help_text="Volumes that are done with.")
    needle_count = models.BigIntegerField(default=0, help_text="Needles of all copies, dead ones too.")
    row_count = models.BigIntegerField(default=0, help_text="Chunk rows.")
    missing = models.BigIntegerField(default=0)
    orphaned = models.BigIntegerField(default=0)
    divergent = models.BigIntegerField(default=0)
    unknown = models.BigIntegerField(default=0)
    miscounted = models.BigIntegerField(default=0)
    findings = models.JSONField(default=list, blank=True, help_text="The first thousand.")

    class Meta:
        ordering = ("-pk",)
        constraints = [
            models.CheckConstraint(condition=Q(state__in=["asked", "running", "done"]), name="proof_state"),
            models.CheckConstraint(
                condition=Q(state="asked") | Q(started_at__isnull=False), name="proof_under_way_has_start"
            ),
            models.CheckConstraint(condition=~Q(state="done") | Q(ended_at__isnull=False), name="proof_done_has_end"),
            models.CheckConstraint(
                condition=Q(missing__gte=0, orphaned__gte=0, divergent__gte=0, unknown__gte=0, miscounted__gte=0),
                name="proof_counts_not_negative",
            ),
        ]

    def __str__(self) -> str:
        return f"check {self.pk}"

    @property
    def counts(self) -> dict[str, int]:
        """How much of each kind was found."""
        return {kind.value: getattr(self, kind.value) for kind in self.Kind}

    @property
    def is_sound(self) -> bool:
        return not any(self.counts.values())


class Sweep(models.Model):
    """How the last whole listing of a volume ended, by which the sweep looks for orphans."""

    volume = models.OneToOneField("volumes.Volume", on_delete=models.CASCADE, related_name="+", primary_key=True)
    listed_at = models.DateTimeField(help_text="When that listing began.")
    live_count = models.BigIntegerField(default=0, help_text="Needles that live.")
    orphan_count = models.BigIntegerField(default=0, help_text="Of them, those that no row names.")
    orphan_bytes = models.BigIntegerField(default=0)
    deleted_count = models.BigIntegerField(default=0, help_text="Orphans that were deleted here, ever.")
    deleted_bytes = models.BigIntegerField(default=0)
    held_back = models.BooleanField(
        default=False, help_text="So many that it looks like lost rows: nothing is deleted without an operator."
    )

    class Meta:
        ordering = ("volume",)
        constraints = [
            models.CheckConstraint(
                condition=Q(live_count__gte=0, orphan_count__gte=0, orphan_bytes__gte=0, deleted_count__gte=0),
                name="sweep_counts_not_negative",
            ),
        ]

    def __str__(self) -> str:
        return f"sweep of volume {self.volume_id}"


class Orphan(models.Model):
    """A needle that lived, older than every lease, and that no row named, in a whole listing of its volume."""

    needle = models.BigIntegerField(unique=True)
    volume = models.ForeignKey("volumes.Volume", on_delete=models.CASCADE, related_name="+")
    size = models.BigIntegerField(help_text="Bytes.")
    appended_at = models.DateTimeField(help_text="When it was written.")
    first_seen_at = models.DateTimeField(help_text="When the listing that saw it first began.")
    last_seen_at = models.DateTimeField()

    class Meta:
        ordering = ("volume", "needle")
        constraints = [
            models.CheckConstraint(condition=Q(needle__gt=0), name="orphan_needle_not_zero"),
            models.CheckConstraint(condition=Q(size__gte=0), name="orphan_size_not_negative"),
            models.CheckConstraint(
                condition=Q(last_seen_at__gte=models.F("first_seen_at")), name="orphan_seen_first_before_last"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.needle:016x}"


class Removed(models.Model):
    """A key that holds nothing any more: what the rows alone would not tell the journal.

    Kept until it is journalled and no needle that was on its way then can come any more.
    """

    # A bucket may go before the row is read, so no foreign key.
    bucket = models.BigIntegerField()
    key = ByteOrderedField(max_length=MAX_KEY_BYTES)
    sequence = models.BigIntegerField(help_text="The master's commit that removed it.")
    removed_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "removed keys"

    def __str__(self) -> str:
        return self.key


class Journal(models.Model):
    """The one row that says how far the journal in the volumes has come (`buckets.services.journal`)."""

    ONLY_ID: ClassVar[int] = 1

    id = models.PositiveSmallIntegerField(primary_key=True, default=ONLY_ID, editable=False)
    number = models.BigIntegerField(default=0, help_text="Goes up with each step; a step on another one's back fails.")
    generation = models.PositiveSmallIntegerField(
        default=0, help_text="The store's intent secret then: another one says that this is another database."
    )
    sequence = models.BigIntegerField(default=0, help_text="What the next entry starts after.")
    safe_sequence = models.BigIntegerField(
        default=0, help_text="Up to this commit the volumes alone can tell all; tombstones wait for that."
    )
    # The ids of rows come in the order of commits (`next_sequence` is held meanwhile), so these are bounds as well.
    outbox_id = models.BigIntegerField(default=0)
    removed_id = models.BigIntegerField(default=0)
    chunk_id = models.BigIntegerField(default=0)
    bucket_high = models.BigIntegerField(default=0, help_text="The highest bucket id that was ever seen.")
    key_high = models.BigIntegerField(default=0, help_text="The highest id of an API key that was ever seen.")
    pages = models.JSONField(default=dict, help_text="Digests of the pages of small tables as last written.")
    covers_until = models.DateTimeField(null=True, help_text="All that was committed before then is written.")
    entry_bytes = models.BigIntegerField(default=0, help_text="Of the entries since the last whole snapshot.")
    snapshot = models.CharField(max_length=32, blank=True, default="", help_text="The one that is being written.")
    snapshot_from = models.BigIntegerField(default=0, help_text="The commit at which it was begun.")
    snapshot_part = models.PositiveIntegerField(default=0)
    snapshot_cursor = models.JSONField(null=True)
    snapshot_bytes = models.BigIntegerField(default=0)
    is_begun_anew = models.BooleanField(
        default=False, help_text="What lies between the last whole snapshot and the position is not all told."
    )
    whole_at = models.DateTimeField(null=True, help_text="When the last whole snapshot was done.")
    whole_bytes = models.BigIntegerField(default=0)
    busy_until = models.DateTimeField(null=True, help_text="Somebody is writing; a courtesy, not a lock.")
    error = models.CharField(max_length=300, blank=True, default="", help_text="Why the last try failed.")
    is_full = models.BooleanField(
        default=False, help_text="There was no room for it. Then tombstones wait no longer: they make room."
    )

    class Meta:
        verbose_name_plural = "journal"
        constraints = [
            models.CheckConstraint(condition=Q(id=1), name="journal_is_single"),
            models.CheckConstraint(
                condition=Q(safe_sequence__gte=0, sequence__gte=models.F("safe_sequence")),
                name="journal_is_safe_up_to_its_end",
            ),
        ]

    def __str__(self) -> str:
        return f"journal up to {self.safe_sequence}"


class JournalNeedle(models.Model):
    """A needle that holds a part of the journal: the system's own, in no bucket."""

    class Kind(models.TextChoices):
        ENTRY = "entry", "entry"
        SNAPSHOT = "snapshot", "snapshot"

    needle = models.BigIntegerField(unique=True)
    volume = models.ForeignKey("volumes.Volume", on_delete=models.PROTECT, related_name="+", db_index=False)
    kind = models.CharField(max_length=16, choices=Kind)
    entry = models.CharField(max_length=32, help_text="Of what it is a part.")
    part = models.PositiveIntegerField()
    to_sequence = models.BigIntegerField(help_text="The last commit that it tells of.")
    size = models.BigIntegerField(help_text="Bytes.")
    crc32 = models.BigIntegerField(help_text="Of the bytes.")
    created_at = models.DateTimeField()
    is_durable = models.BooleanField(
        default=False, help_text="Written. Else it is on its way, or was left by a writer that ended."
    )

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(needle__gt=0), name="journal_needle_not_zero"),
            models.CheckConstraint(condition=Q(kind__in=["entry", "snapshot"]), name="journal_needle_kind"),
        ]

    def __str__(self) -> str:
        return f"{self.needle:016x}"


class Survey(models.Model):
    """The one row that says how far it has been looked which volumes hold chunks of which buckets.

    Asked for when a bucket's replication changes: the volumes that hold its chunks are to have as many copies.
    """

    ONLY_ID = 1

    id = models.PositiveSmallIntegerField(primary_key=True, default=ONLY_ID, editable=False)
    asked_at = models.DateTimeField(null=True, blank=True, help_text="Since when volumes may have the wrong number.")
    again_at = models.DateTimeField(
        null=True, blank=True, help_text="When the last lease from before it was asked for has ended."
    )
    started_at = models.DateTimeField(null=True, blank=True, help_text="Empty: none is under way.")
    ended_at = models.DateTimeField(null=True, blank=True)
    generation = models.BigIntegerField(default=0)
    cursor = models.BigIntegerField(default=0, help_text="The last chunk row that was looked at.")
    last_row = models.BigIntegerField(default=0, help_text="The last chunk row there was when it began.")
    raised_volumes = models.BigIntegerField(default=0)
    lowered_volumes = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="survey_is_single")]

    def __str__(self) -> str:
        return f"survey {self.generation}"


class SurveyedVolume(models.Model):
    """The most copies that any bucket asks for of which a survey found chunks in a volume."""

    volume = models.OneToOneField("volumes.Volume", on_delete=models.CASCADE, primary_key=True, related_name="+")
    generation = models.BigIntegerField(db_index=True, help_text="Of the survey that found them.")
    replication = models.PositiveSmallIntegerField()

    def __str__(self) -> str:
        return f"volume {self.volume_id}"


class Share(models.Model):
    """A link by which whoever has it reads what a key holds at that time, by the rights of the API key that made it."""

    class State(models.TextChoices):
        LIVE = "live", "live"
        EXPIRED = "expired", "expired"
        USED_UP = "used_up", "used up"
        REVOKED = "revoked", "revoked"
        DENIED = "denied", "maker may not share"

    bucket = models.ForeignKey(Bucket, on_delete=models.CASCADE, related_name="shares")
    # By name, not by row: an object that is overwritten, or deleted and put again, is shared on.
    key = ByteOrderedField(max_length=MAX_KEY_BYTES)
    token_hash = models.CharField(max_length=HASH_HEX_CHARS, help_text="Of what stands in the link.")
    password_hash = models.CharField(max_length=256, blank=True, default="", help_text="Empty: none is asked for.")
    inline = models.BooleanField(default=False, help_text="Browsers show the object instead of saving it.")
    description = models.CharField(
        max_length=MAX_DESCRIPTION_CHARS, blank=True, default="", help_text="For whoever looks after the share."
    )
    # The API key that made it may be deleted, so no foreign key.
    api_key = models.BigIntegerField()
    api_key_name = models.CharField(max_length=MAX_NAME_CHARS, help_text="When the share was made.")
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Empty: never.")
    max_downloads = models.PositiveIntegerField(null=True, blank=True, help_text="Empty: no limit.")
    download_count = models.BigIntegerField(default=0)
    last_used_at = models.DateTimeField(null=True, blank=True, help_text="The last counted download.")
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("id",)
        constraints = [
            models.UniqueConstraint(fields=["token_hash"], name="share_token_unique"),
            models.CheckConstraint(condition=~Q(token_hash=""), name="share_has_token"),
            models.CheckConstraint(condition=~Q(key=""), name="share_key_not_empty"),
            models.CheckConstraint(
                condition=models.lookups.LessThanOrEqual(OctetLength("key"), MAX_KEY_BYTES), name="share_key_bytes"
            ),
            models.CheckConstraint(
                condition=Q(max_downloads__isnull=True) | Q(max_downloads__gte=1), name="share_limit_positive"
            ),
            models.CheckConstraint(
                condition=Q(download_count__gte=0)
                & (Q(max_downloads__isnull=True) | Q(download_count__lte=models.F("max_downloads"))),
                name="share_count_within_limit",
            ),
        ]
        indexes = [models.Index(fields=["api_key", "id"], name="share_of_maker")]

    def __str__(self) -> str:
        return f"share {self.pk}"

    may_be_shared: bool | None = None
    """Whether the API key that made it may still share the object; None: nobody asked (`selectors.ask_makers`)."""

    @property
    def state(self) -> State:
        """What its own terms say, and where that was asked, the rights of the key that made it."""
        if self.revoked_at is not None:
            return self.State.REVOKED
        if self.expires_at is not None and self.expires_at <= timezone.now():
            return self.State.EXPIRED
        if self.max_downloads is not None and self.download_count >= self.max_downloads:
            return self.State.USED_UP
        if self.may_be_shared is False:
            return self.State.DENIED
        return self.State.LIVE

    @property
    def has_password(self) -> bool:
        return bool(self.password_hash)

    @property
    def downloads_left(self) -> int | None:
        """None: no limit."""
        return None if self.max_downloads is None else self.max_downloads - self.download_count


class UsageSample(models.Model):
    """How much of everything there was in one minute. Older ones are thinned out, see `buckets.services.usage`.

    Traffic is added up over all servers and all time, so that what was served between any two samples is their
    difference, whichever are left.
    """

    at = models.DateTimeField(primary_key=True, editable=False, help_text="The beginning of the minute.")
    servers = models.BigIntegerField()
    servers_online = models.BigIntegerField()
    capacity_bytes = models.BigIntegerField(help_text="Disks of the servers that were online.")
    free_bytes = models.BigIntegerField(help_text="Free on the servers that were online.")
    volumes = models.BigIntegerField()
    used_bytes = models.BigIntegerField(help_text="Held by volume files, all replicas counted.")
    garbage_bytes = models.BigIntegerField(help_text="The part of it that compaction would give back.")
    damaged_count = models.BigIntegerField()
    buckets = models.BigIntegerField()
    object_count = models.BigIntegerField()
    object_bytes = models.BigIntegerField(help_text="Of all objects together, each counted once.")
    requests = models.BigIntegerField(help_text="Requests to volume servers, ever.")
    puts = models.BigIntegerField(help_text="Needles that volume servers acknowledged, ever.")
    received_bytes = models.BigIntegerField(help_text="Bytes that volume servers received, ever.")
    sent_bytes = models.BigIntegerField(help_text="Bytes that volume servers sent, ever.")

    class Meta:
        ordering = ("-at",)
        constraints = [
            models.CheckConstraint(
                condition=models.Q(
                    servers_online__gte=0,
                    free_bytes__gte=0,
                    garbage_bytes__gte=0,
                    object_count__gte=0,
                    object_bytes__gte=0,
                    requests__gte=0,
                    puts__gte=0,
                    received_bytes__gte=0,
                    sent_bytes__gte=0,
                    servers__gte=models.F("servers_online"),
                    capacity_bytes__gte=models.F("free_bytes"),
                    used_bytes__gte=models.F("garbage_bytes"),
                ),
                name="usage_figures_fit",
            )
        ]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M}"
