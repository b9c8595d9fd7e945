"""Rows of buckets, objects, chunks, uploads and the outbox. Fields and constraints only.

Who writes: `buckets.services`. All of its writers lock the bucket's row first (see `buckets.services.locks`).
"""

import uuid

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
