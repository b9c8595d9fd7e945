"""Buckets and what they hold, for operators.

Whatever changes something here calls the service that the API calls; rows that services alone write are read-only.
Objects, chunks and the outbox may have millions of rows: their lists are ordered by an index, and searched by one.
"""

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst

from buckets.models import (
    Bucket,
    Chunk,
    Journal,
    JournalNeedle,
    Object,
    Orphan,
    Outbox,
    Proof,
    Removed,
    Share,
    Survey,
    SurveyedVolume,
    Sweep,
    Upload,
    UsageSample,
)
from buckets.names import successor
from buckets.selectors import STATES_BY_TERMS, Counts, ask_makers, journal_status, shares_in, wrong_counts
from buckets.services.buckets import BucketSettings, create_bucket, delete_bucket, delete_buckets, update_bucket
from buckets.services.deletion import close_bucket
from buckets.services.fsck import verdict
from buckets.services.objects import delete_objects, delete_objects_of, empty_bucket, update_object
from buckets.services.outbox import collect_outbox
from buckets.services.proofs import ask_for_proof
from buckets.services.shares import revoke_share
from buckets.services.uploads import abort_upload, expire_uploads
from buckets.tasks import wake_deletion, wake_proofs
from keys.admin_pages import ServiceForm, ServicesAdmin, ShownOnly, link_to, link_to_list, table, when, with_dot
from keys.errors import WarehouseError
from keys.models import ApiKey, Grant
from keys.printable import printable

_SETTINGS = ("visibility", "replication", "chunk_size", "quota_bytes", "quota_objects", "cors_origins")
CHUNKS_SHOWN = 50
"""Chunks on the page of an object or an upload; the list of chunks has the others."""
FINDINGS_SHOWN = 200
"""On the page of a check."""
BUCKETS_SHOWN = 30
"""Buckets offered by the filter of a list; a search for `bucket/…` leads to any of them."""
OBJECTS_SEARCHED = 1000
"""Objects whose chunks a search by key finds."""
EMPTIED_AT_ONCE = 10_000
"""Objects that one click deletes: a few seconds."""
MAX_BIGINT = (1 << 63) - 1


class BucketForm(ServiceForm):
    cors_origins = forms.JSONField(
        required=False,
        initial=list,
        help_text='A list such as ["https://app.example"], or ["*"]. What one bucket allows holds for the whole store.',
    )

    class Meta:
        model = Bucket
        fields = ("name", *_SETTINGS)

    def clean_cors_origins(self) -> list[str]:
        origins = self.cleaned_data["cors_origins"] or []
        if not isinstance(origins, list) or not all(isinstance(origin, str) for origin in origins):
            raise forms.ValidationError("A list of texts.")
        return origins

    def settings(self) -> BucketSettings:
        return BucketSettings(**{name: self.cleaned_data[name] for name in _SETTINGS})


class BucketStateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "In use"), ("deleting", "Being deleted")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Bucket]) -> QuerySet[Bucket]:
        match self.value():
            case "open":
                return queryset.filter(deleting_at__isnull=True)
            case "deleting":
                return queryset.filter(deleting_at__isnull=False)
            case _:
                return queryset


@admin.register(Bucket)
class BucketAdmin(ServicesAdmin):
    help_text = "What objects lie in, with its quota and its settings."
    form = BucketForm
    list_display = ("name", "state", "objects", "size", "quota", "copies", "uploads", "made")
    list_filter = (BucketStateFilter, "visibility")
    search_fields = ("name",)
    search_help_text = "A part of the name."
    computed = ("state", "objects", "size", "reserved", "uploads", "grants", "made")
    fieldsets = (
        (None, {"fields": ("name", "visibility", "replication", "chunk_size")}),
        ("Quota", {"fields": ("quota_bytes", "quota_objects")}),
        ("Web pages", {"fields": ("cors_origins",)}),
        ("State", {"fields": computed}),
    )
    actions = ("empty", "delete_all", "verify_counts")

    def get_readonly_fields(self, request: HttpRequest, obj: Bucket | None = None) -> tuple[str, ...]:
        return (*self.computed, "name") if obj else self.computed

    def get_fieldsets(self, request: HttpRequest, obj: Bucket | None = None) -> Any:
        return super().get_fieldsets(request, obj) if obj is not None else self.fieldsets[:-1]

    def fill_in(self, rows: list[Any]) -> None:
        opened = Upload.objects.filter(bucket__in=rows, state=Upload.State.OPEN).order_by()
        counts = dict(opened.values_list("bucket").annotate(count=Count("pk")))
        for bucket in rows:
            bucket.open_uploads = counts.get(bucket.pk, 0)

    def save_model(self, request: HttpRequest, obj: Bucket, form: BucketForm, change: bool) -> None:
        saved = (
            update_bucket(name=obj.name, settings=form.settings())
            if change
            else create_bucket(name=form.cleaned_data["name"], settings=form.settings())
        )
        obj.pk = saved.pk

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        full = [f"{bucket} holds {bucket.object_count:,} objects" for bucket in objs if bucket.object_count]
        return [str(bucket) for bucket in objs], {"buckets": len(objs)}, set(), full

    def delete_model(self, request: HttpRequest, obj: Bucket) -> None:
        delete_bucket(name=obj.name)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Bucket]) -> None:
        delete_buckets(names=queryset.values_list("name", flat=True))

    @admin.display(description="state")
    def state(self, bucket: Bucket) -> SafeString:
        if bucket.deleting_at is not None:
            return with_dot("draining", f"being deleted since {when(bucket.deleting_at)}")
        return with_dot("online", bucket.get_visibility_display())

    @admin.display(description="copies", ordering="replication")
    def copies(self, bucket: Bucket) -> int:
        return bucket.replication

    @admin.display(description="objects", ordering="object_count")
    def objects(self, bucket: Bucket) -> SafeString:
        return link_to_list(Object, f"{bucket.object_count:,}", bucket=bucket.pk)

    @admin.display(description="size", ordering="total_bytes")
    def size(self, bucket: Bucket) -> str:
        return filesizeformat(bucket.total_bytes)

    @admin.display(description="reserved by uploads")
    def reserved(self, bucket: Bucket) -> str:
        return f"{filesizeformat(bucket.reserved_bytes)} in {bucket.reserved_objects:,} new objects"

    @admin.display(description="quota used")
    def quota(self, bucket: Bucket) -> str:
        told = []
        for used, quota, text in (
            (bucket.total_bytes + bucket.reserved_bytes, bucket.quota_bytes, filesizeformat(bucket.quota_bytes or 0)),
            (
                bucket.object_count + bucket.reserved_objects,
                bucket.quota_objects,
                f"{bucket.quota_objects or 0:,} objects",
            ),
        ):
            if quota is not None:
                told.append(f"{100 * used / quota:.0f} % of {text}" if quota else f"all of {text}")
        return ", ".join(told) or "no limit"

    @admin.display(description="open uploads")
    def uploads(self, bucket: Any) -> SafeString:
        count = getattr(bucket, "open_uploads", "all open uploads")
        return link_to_list(Upload, count, bucket__id__exact=bucket.pk, state__exact=Upload.State.OPEN.value)

    @admin.display(description="grants")
    def grants(self, bucket: Bucket) -> SafeString:
        return link_to_list(Grant, "keys with rights on this bucket alone", bucket__exact=bucket.name)

    @admin.display(description="made", ordering="created_at")
    def made(self, bucket: Bucket) -> str:
        return when(bucket.created_at)

    @admin.action(description="Empty: delete all objects", permissions=["delete"])
    def empty(self, request: HttpRequest, queryset: QuerySet[Bucket]) -> HttpResponse | None:
        warning = "All objects of these buckets are deleted, for good. Grants, settings and open uploads stay."
        if (page := self.ask_first(request, queryset, title="Empty buckets", warning=warning)) is not None:
            return page
        left = EMPTIED_AT_ONCE
        for bucket in queryset.order_by("pk"):
            try:
                emptied = empty_bucket(bucket=bucket.name, limit=left)
            except WarehouseError as error:
                self.message_user(request, f"Bucket {bucket}: {error.detail}", messages.ERROR)
                continue
            left -= emptied.deleted
            told = f"Bucket {bucket}: {emptied.deleted:,} objects are deleted"
            if emptied.is_empty:
                self.message_user(request, f"{told}, it is empty.")
            else:
                self.message_user(request, f"{told}; there are more: do it again.", messages.WARNING)
        return None

    @admin.action(description="Delete with all that is in them", permissions=["delete"])
    def delete_all(self, request: HttpRequest, queryset: QuerySet[Bucket]) -> HttpResponse | None:
        warning = (
            "These buckets are closed at once. The worker deletes their objects, for good, and then the buckets, with "
            "their uploads, shares and grants. This can't be stopped any more."
        )
        if (
            page := self.ask_first(request, queryset, title="Delete buckets with all objects", warning=warning)
        ) is not None:
            return page
        for bucket in queryset.order_by("pk"):
            try:
                closed = close_bucket(name=bucket.name)
            except WarehouseError as error:
                self.message_user(request, f"Bucket {bucket}: {error.detail}", messages.ERROR)
                continue
            if closed is None:
                self.message_user(request, f"Bucket {bucket} was empty and is deleted.")
            else:
                self.message_user(
                    request, f"Bucket {bucket} is closed; {closed.object_count:,} objects are being deleted."
                )
        wake_deletion()
        return None

    @admin.action(description="Verify counts and sizes", permissions=["view"])
    def verify_counts(self, request: HttpRequest, queryset: QuerySet[Bucket]) -> None:
        bucket_ids = list(queryset.values_list("pk", flat=True))
        wrong = wrong_counts(bucket_ids)
        for one in wrong:
            told = "; ".join(
                f"{name.replace('_', ' ')}: {kept:,} kept, {found:,} found"
                for name, kept, found in zip(Counts._fields, one.kept, one.found, strict=True)
                if kept != found
            )
            self.message_user(request, f"Bucket {one.bucket}: {told}", messages.ERROR)
        if not wrong:
            self.message_user(request, f"{len(bucket_ids)} verified: all counts are those of what is there.")


class BucketFilter(admin.SimpleListFilter):
    """The first buckets by name, and the one that is chosen: there may be thousands."""

    title = "bucket"
    parameter_name = "bucket"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        buckets = Bucket.objects.values_list("pk", "name").order_by("name")
        offered = dict(buckets[:BUCKETS_SHOWN])
        chosen = request.GET.get(self.parameter_name, "")
        if _is_number(chosen) and int(chosen) not in offered:
            offered.update(buckets.filter(pk=int(chosen)))
        return [(str(pk), name) for pk, name in offered.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if value is None:
            return queryset
        return queryset.filter(bucket=int(value)) if _is_number(value) else queryset.none()


class NewestFilter(admin.SimpleListFilter):
    """Each order is an index: keys of all buckets, and the newest of one."""

    title = "order"
    parameter_name = "order"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("newest", "Newest first")] if request.GET.get(BucketFilter.parameter_name) else []

    def has_output(self) -> bool:
        return bool(self.lookup_choices)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) <= MAX_BIGINT


def _chunk_table(chunks: QuerySet[Chunk], more: SafeString, count: int) -> SafeString:
    """The first chunks of an object or an upload, and a link to all of them."""
    heads = ("chunk", "volume", "needle", "size", "CRC-32", "judged")
    shown = chunks.select_related("volume").order_by("index")[:CHUNKS_SHOWN]
    rows = [
        (
            one.index,
            link_to(one.volume),
            link_to(one),
            filesizeformat(one.size),
            f"{one.crc32:08x}",
            when(one.committed_at),
        )
        for one in shown
    ]
    return format_html("{}{}", table(heads, rows), format_html("<p>{}</p>", more) if count > len(rows) else "")


class ObjectForm(ServiceForm):
    metadata = forms.JSONField(required=False, help_text='Such as {"colour": "blue"}.')

    class Meta:
        model = Object
        fields = ("content_type", "metadata")

    def clean_metadata(self) -> dict[str, str]:
        metadata = self.cleaned_data["metadata"] or {}
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise forms.ValidationError("An object whose values are texts.")
        return metadata


@admin.register(Object)
class ObjectAdmin(ServicesAdmin):
    help_text = "The current version of every key, what it is made of, and its attributes."
    form = ObjectForm
    list_display = ("shown_key", "in_bucket", "human_size", "content_type", "changed", "sequence")
    list_filter = (BucketFilter, NewestFilter)
    list_select_related = ("bucket",)
    sortable_by = ()
    search_fields = ("key",)
    search_help_text = "The beginning of a key. With a bucket's name and a slash before it: in that bucket alone."
    readonly_fields = ("in_bucket", "shown_key", "human_size", "etag", "made", "changed", "sequence", "chunks")
    fieldsets = (
        (None, {"fields": ("in_bucket", "shown_key", "content_type", "metadata")}),
        ("State", {"fields": readonly_fields[2:-1]}),
        ("Chunks", {"fields": ("chunks",)}),
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        if request.GET.get("order") == "newest" and request.GET.get(BucketFilter.parameter_name):
            return ("-sequence", "-pk")
        return ("bucket_id", "key")

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        if not search_term:
            return queryset, False
        if request.GET.get(BucketFilter.parameter_name):
            return queryset.filter(_begins_with(search_term)), False
        return queryset.filter(_of_path(search_term)), False

    def save_model(self, request: HttpRequest, obj: Object, form: ObjectForm, change: bool) -> None:
        update_object(
            bucket=obj.bucket.name,
            key=obj.key,
            content_type=form.cleaned_data["content_type"],
            metadata=form.cleaned_data["metadata"],
        )

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        return [f"{row.bucket}/{row}" for row in objs], {"objects": len(objs)}, set(), []

    def delete_model(self, request: HttpRequest, obj: Object) -> None:
        delete_objects(bucket=obj.bucket.name, keys=[obj.key])

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Object]) -> None:
        keys: dict[str, list[str]] = {}
        for bucket, key in queryset.order_by("bucket_id", "key").values_list("bucket__name", "key"):
            keys.setdefault(bucket, []).append(key)
        delete_objects_of(keys=keys)

    @admin.display(description="key")
    def shown_key(self, row: Object) -> str:
        return printable(row.key)

    @admin.display(description="made")
    def made(self, row: Object) -> str:
        return when(row.created_at)

    @admin.display(description="bucket")
    def in_bucket(self, row: Object) -> SafeString:
        return link_to(row.bucket)

    @admin.display(description="size")
    def human_size(self, row: Object) -> str:
        return filesizeformat(row.size)

    @admin.display(description="changed")
    def changed(self, row: Object) -> str:
        return when(row.updated_at)

    @admin.display(description="chunks")
    def chunks(self, row: Object) -> SafeString:
        chunks = Chunk.objects.filter(object=row)
        count = chunks.count()
        more = link_to_list(Chunk, f"all {count:,} chunks", object__id__exact=row.pk)
        return _chunk_table(chunks, more, count)


def _begins_with(prefix: str, *, of: str = "") -> Q:
    """Keys that begin with a text, as the range of the index that they are; ``of`` a relation to objects."""
    end = successor(prefix)
    beyond = Q() if end is None else Q(**{f"{of}key__lt": end})
    return Q(**{f"{of}key__gte": prefix}) & beyond


def _of_path(text: str) -> Q:
    """Objects that `BUCKET/KEY…` means where there is such a bucket, else those of any bucket whose keys begin so."""
    name, slash, rest = text.partition("/")
    if slash and (bucket := Bucket.objects.filter(name=name).first()) is not None:
        return Q(bucket=bucket) & (_begins_with(rest) if rest else Q())
    # The index begins with the bucket: so it can be entered once for each of them.
    return Q(bucket__in=Bucket.objects.values("pk")) & _begins_with(text)


class ChunksOfFilter(admin.SimpleListFilter):
    title = "owner"
    parameter_name = "of"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("uploads", "Uploads")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Chunk]) -> QuerySet[Chunk]:
        return queryset.filter(upload__isnull=False) if self.value() == "uploads" else queryset


@admin.register(Chunk)
class ChunkAdmin(ShownOnly):
    help_text = "Which needle of which volume holds which piece of an object or of an upload."
    list_display = ("needle_hex", "in_volume", "owner", "index", "human_size", "crc32_hex", "judged")
    list_filter = (ChunksOfFilter,)
    list_select_related = ("object__bucket", "upload", "volume")
    sortable_by = ()
    search_fields = ("needle",)
    search_help_text = "A needle's 16 hex digits, or the beginning of BUCKET/KEY."
    fields = ("needle_hex", "in_volume", "owner", "index", "human_size", "crc32_hex", "judged", "first_verdict")

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        if request.GET.get("of") == "uploads" or "upload__id__exact" in request.GET:
            return ("upload_id", "index")
        return ("object_id", "index") if "object__id__exact" in request.GET else ("-pk",)

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        if not search_term:
            return queryset, False
        if (needle := _needle(search_term)) is not None:
            return queryset.filter(needle=needle), False
        objects = Object.objects.filter(_of_path(search_term)).order_by("bucket_id", "key")
        return queryset.filter(object__in=objects.values("pk")[:OBJECTS_SEARCHED]), False

    @admin.display(description="needle")
    def needle_hex(self, chunk: Chunk) -> str:
        return f"{chunk.needle:016x}"

    @admin.display(description="volume")
    def in_volume(self, chunk: Chunk) -> SafeString:
        return link_to(chunk.volume)

    @admin.display(description="object or upload")
    def owner(self, chunk: Chunk) -> SafeString:
        if chunk.object is not None:
            return link_to(chunk.object, f"{chunk.object.bucket}/{chunk.object}")
        assert chunk.upload is not None
        return link_to(chunk.upload, f"upload {chunk.upload.pk}")

    @admin.display(description="size")
    def human_size(self, chunk: Chunk) -> str:
        return filesizeformat(chunk.size)

    @admin.display(description="CRC-32")
    def crc32_hex(self, chunk: Chunk) -> str:
        return f"{chunk.crc32:08x}"

    @admin.display(description="judged")
    def judged(self, chunk: Chunk) -> str:
        return when(chunk.committed_at)

    @admin.display(description="first verdict")
    def first_verdict(self, chunk: Chunk) -> str:
        return "committed, as all of its object" if chunk.verdict is None else str(chunk.verdict["state"])


@admin.register(Upload)
class UploadAdmin(ShownOnly):
    help_text = "Large objects on their way in, chunk by chunk, and those that were lately."
    list_display = ("shown_key", "in_bucket", "human_size", "state", "held", "progress", "begun", "ends")
    list_filter = ("state", "held", BucketFilter)
    list_select_related = ("bucket",)
    sortable_by = ()
    search_fields = ("key",)
    search_help_text = "An upload's whole id, or a part of its key."
    ordering = ("-expires_at",)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "id",
                    "in_bucket",
                    "shown_key",
                    "state",
                    "held",
                    "human_size",
                    "progress",
                    "content_type",
                    "metadata",
                )
            },
        ),
        ("Conditions", {"fields": ("if_match", "if_none_match")}),
        ("Whose", {"fields": ("api_key", "generation", "begun", "ends")}),
        ("Chunks", {"fields": ("chunks",)}),
    )
    actions = ("abort", "expire")
    unselected_actions = ("expire",)

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        if not search_term:
            return queryset, False
        try:
            return queryset.filter(pk=UUID(search_term)), False
        except ValueError:
            return queryset.filter(key__contains=search_term), False

    def fill_in(self, rows: list[Any]) -> None:
        stored = Chunk.objects.filter(upload__in=rows).order_by()
        counts = dict(stored.values_list("upload").annotate(count=Count("pk")))
        for upload in rows:
            upload.stored_count = counts.get(upload.pk, 0)

    @admin.display(description="key")
    def shown_key(self, upload: Upload) -> str:
        return printable(upload.key)

    @admin.display(description="bucket")
    def in_bucket(self, upload: Upload) -> SafeString:
        return link_to(upload.bucket)

    @admin.display(description="size")
    def human_size(self, upload: Upload) -> str:
        return filesizeformat(upload.size)

    @admin.display(description="chunks stored")
    def progress(self, upload: Any) -> str:
        if upload.state == Upload.State.COMPLETED:
            return f"{upload.chunk_count:,} of {upload.chunk_count:,}"
        stored = upload.stored_count if hasattr(upload, "stored_count") else upload.chunks.count()
        return f"{stored:,} of {upload.chunk_count:,}"

    @admin.display(description="begun")
    def begun(self, upload: Upload) -> str:
        return when(upload.created_at)

    @admin.display(description="ends")
    def ends(self, upload: Upload) -> str:
        return when(upload.expires_at)

    @admin.display(description="chunks")
    def chunks(self, upload: Upload) -> SafeString:
        stored = Chunk.objects.filter(upload=upload)
        count = stored.count()
        more = link_to_list(Chunk, f"all {count:,} stored chunks", upload__id__exact=upload.pk)
        return _chunk_table(stored, more, count)

    @admin.action(description="Abort: their chunks are gone", permissions=["operate"])
    def abort(self, request: HttpRequest, queryset: QuerySet[Upload]) -> HttpResponse | None:
        warning = "These uploads end, and what was stored of them is gone. Their clients have to begin anew."
        if (page := self.ask_first(request, queryset, title="Abort uploads", warning=warning)) is not None:
            return page
        for upload in queryset:
            try:
                abort_upload(upload_id=upload.pk)
            except WarehouseError as error:
                self.message_user(request, error.detail, messages.ERROR)
            else:
                self.message_user(request, f"Upload {upload.pk} is aborted.")
        return None

    @admin.action(description="End all that are overdue now, as the worker does", permissions=["operate"])
    def expire(self, request: HttpRequest, queryset: QuerySet[Upload]) -> None:
        self.message_user(request, f"{expire_uploads()} overdue uploads were ended.")


class WaitingFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("waiting", "Tombstone to be written"), ("written", "Tombstone written")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Outbox]) -> QuerySet[Outbox]:
        match self.value():
            case "waiting":
                return queryset.filter(tombstoned_at__isnull=True)
            case "written":
                return queryset.filter(tombstoned_at__isnull=False)
            case _:
                return queryset


class ShareStateFilter(admin.SimpleListFilter):
    title = "state by its terms"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(state), str(state.label)) for state in STATES_BY_TERMS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Share]) -> QuerySet[Share]:
        if self.value() not in STATES_BY_TERMS:
            return queryset
        return queryset.filter(shares_in(self.value() or "", now=timezone.now()))


class PasswordFilter(admin.SimpleListFilter):
    title = "password"
    parameter_name = "password"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "with one"), ("no", "without")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Share]) -> QuerySet[Share]:
        match self.value():
            case "yes":
                return queryset.exclude(password_hash="")
            case "no":
                return queryset.filter(password_hash="")
            case _:
                return queryset


@admin.register(Share)
class ShareAdmin(ShownOnly):
    help_text = "Links to single objects, for whoever has one."
    list_display = ("target", "standing", "downloads", "password", "maker", "ends", "used")
    list_filter = (ShareStateFilter, PasswordFilter, BucketFilter)
    list_select_related = ("bucket",)
    sortable_by = ()
    search_fields = ("=id", "key", "description", "api_key_name")
    search_help_text = "A share's number, or a part of its key, of its description, or of the name of who made it."
    ordering = ("-id",)
    fieldsets = (
        (None, {"fields": ("id", "target", "description", "inline")}),
        ("Terms", {"fields": ("ends", "max_downloads", "password")}),
        ("State", {"fields": ("standing", "download_count", "used", "revoked")}),
        ("Whose", {"fields": ("maker", "made")}),
    )
    actions = ("revoke",)

    def fill_in(self, rows: list[Any]) -> None:
        ask_makers(rows)
        living = ApiKey.objects.in_bulk({share.api_key for share in rows})
        for share in rows:
            share.maker_row = living.get(share.api_key)

    @admin.display(description="state")
    def standing(self, share: Share) -> str:
        if share.may_be_shared is None:
            ask_makers([share])
        return share.state.label

    @admin.display(description="leads to")
    def target(self, share: Share) -> str:
        return f"{share.bucket}/{printable(share.key)}"

    @admin.display(description="downloads")
    def downloads(self, share: Share) -> str:
        limit = "" if share.max_downloads is None else f" of {share.max_downloads:,}"
        return f"{share.download_count:,}{limit}"

    @admin.display(description="password", boolean=True)
    def password(self, share: Share) -> bool:
        return share.has_password

    @admin.display(description="made by")
    def maker(self, share: Any) -> str:
        """The API key's name then; a deleted one, whose shares have all ended, has no page."""
        row = share.maker_row if hasattr(share, "maker_row") else ApiKey.objects.filter(pk=share.api_key).first()
        text = f"{share.api_key_name} ({share.api_key})"
        return link_to(row, text) if row is not None else f"{text}, deleted"

    @admin.display(description="ends")
    def ends(self, share: Share) -> str:
        return when(share.expires_at)

    @admin.display(description="last used")
    def used(self, share: Share) -> str:
        return when(share.last_used_at)

    @admin.display(description="revoked")
    def revoked(self, share: Share) -> str:
        return when(share.revoked_at)

    @admin.display(description="made")
    def made(self, share: Share) -> str:
        return when(share.created_at)

    @admin.action(description="Revoke: their links end at once", permissions=["operate"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[Share]) -> HttpResponse | None:
        warning = "The links of these shares end for good. Their rows stay, with their counts."
        if (page := self.ask_first(request, queryset, title="Revoke shares", warning=warning)) is not None:
            return page
        for share in queryset:
            revoke_share(share_id=share.pk)
            self.message_user(request, f"{capfirst(str(share))} is revoked.")
        return None


@admin.register(Journal)
class JournalAdmin(ShownOnly):
    help_text = "How far the volumes alone could rebuild the database."
    list_display = ("state", "lag", "safe_sequence", "behind", "whole", "error")
    sortable_by = ()
    fieldsets = (
        (None, {"fields": ("state", "lag", "safe_sequence", "behind", "error")}),
        ("Snapshot", {"fields": ("whole", "whole_size", "entries_size")}),
    )

    @admin.display(description="state")
    def state(self, journal: Journal) -> str:
        return {
            "off": "off, by WAREHOUSE_JOURNAL_SECONDS=0",
            "never": "there is no whole snapshot yet",
            "late": "LATE: is the worker running?",
            "ok": "ok",
        }[journal_status().state]

    @admin.display(description="lag")
    def lag(self, journal: Journal) -> str:
        lag_s = journal_status().lag_seconds
        return "" if lag_s is None else f"{lag_s:.1f} s"

    @admin.display(description="commits behind")
    def behind(self, journal: Journal) -> int:
        return journal_status().commits_behind

    @admin.display(description="last whole snapshot")
    def whole(self, journal: Journal) -> str:
        return when(journal.whole_at) if journal.whole_at is not None else "none yet"

    @admin.display(description="its size")
    def whole_size(self, journal: Journal) -> str:
        return filesizeformat(journal.whole_bytes)

    @admin.display(description="entries since")
    def entries_size(self, journal: Journal) -> str:
        return filesizeformat(journal.entry_bytes)


@admin.register(JournalNeedle)
class JournalNeedleAdmin(ShownOnly):
    help_text = "The needles in which the journal lies: snapshots of the database, and entries with every commit since."
    list_display = ("needle_hex", "in_volume", "kind", "part", "to_sequence", "human_size", "written", "is_durable")
    list_filter = ("kind", "is_durable")
    list_select_related = ("volume",)
    ordering = ("-pk",)
    sortable_by = ()
    search_fields = ("needle",)
    search_help_text = "A needle's 16 hex digits."

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        if not search_term:
            return queryset, False
        return queryset.filter(needle=_needle(search_term) or 0), False

    @admin.display(description="needle")
    def needle_hex(self, row: JournalNeedle) -> str:
        return f"{row.needle:016x}"

    @admin.display(description="volume")
    def in_volume(self, row: JournalNeedle) -> SafeString:
        return link_to(row.volume)

    @admin.display(description="size")
    def human_size(self, row: JournalNeedle) -> str:
        return filesizeformat(row.size)

    @admin.display(description="written")
    def written(self, row: JournalNeedle) -> str:
        return when(row.created_at)


@admin.register(Removed)
class RemovedAdmin(ShownOnly):
    help_text = "Keys that were removed lately, as the journal tells it. They are forgotten by themselves."
    list_display = ("shown_key", "bucket", "sequence", "removed")
    ordering = ("-pk",)
    sortable_by = ()

    @admin.display(description="key")
    def shown_key(self, row: Removed) -> str:
        return printable(row.key)

    @admin.display(description="removed")
    def removed(self, row: Removed) -> str:
        return when(row.removed_at)


@admin.register(Survey)
class SurveyAdmin(ShownOnly):
    help_text = "How far it has been looked which volumes hold what of which bucket, after a bucket's copies changed."
    list_display = ("progress", "asked", "started", "ended", "raised_volumes", "lowered_volumes")
    sortable_by = ()
    fields = ("progress", "asked", "started", "ended", "raised_volumes", "lowered_volumes")

    @admin.display(description="progress")
    def progress(self, survey: Survey) -> str:
        if survey.started_at is None or survey.ended_at is not None:
            return "waits for its turn" if survey.asked_at is not None else "nothing to do"
        return f"chunk row {survey.cursor} of {survey.last_row}"

    @admin.display(description="asked for")
    def asked(self, survey: Survey) -> str:
        return when(survey.asked_at)

    @admin.display(description="begun")
    def started(self, survey: Survey) -> str:
        return when(survey.started_at)

    @admin.display(description="ended")
    def ended(self, survey: Survey) -> str:
        return when(survey.ended_at)


@admin.register(SurveyedVolume)
class SurveyedVolumeAdmin(ShownOnly):
    help_text = "The most copies that any bucket with chunks in a volume asks for, as the latest survey found."
    list_display = ("in_volume", "replication", "generation")
    list_select_related = ("volume",)
    ordering = ("pk",)
    sortable_by = ()

    @admin.display(description="volume")
    def in_volume(self, row: SurveyedVolume) -> SafeString:
        return link_to(row.volume)


@admin.register(Outbox)
class OutboxAdmin(ShownOnly):
    help_text = "Dead needles: those whose tombstone is still to be written, and verdicts still to be remembered."
    list_display = ("needle_hex", "in_volume", "reason", "outcome", "state", "entered")
    list_filter = (WaitingFilter, "reason")
    list_select_related = ("volume",)
    sortable_by = ()
    search_fields = ("needle",)
    search_help_text = "A needle's 16 hex digits."
    fieldsets = (
        (None, {"fields": ("needle_hex", "in_volume", "reason", "verdict")}),
        ("State", {"fields": ("state", "entered", "due", "written", "kept")}),
    )
    actions = ("collect",)
    unselected_actions = ("collect",)

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        return {"waiting": ("volume_id", "not_before"), "written": ("keep_until",)}.get(
            request.GET.get("state", ""), ("-pk",)
        )

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        if not search_term:
            return queryset, False
        return queryset.filter(needle=_needle(search_term) or 0), False

    @admin.display(description="needle")
    def needle_hex(self, row: Outbox) -> str:
        return f"{row.needle:016x}"

    @admin.display(description="volume")
    def in_volume(self, row: Outbox) -> SafeString:
        return link_to(row.volume)

    @admin.display(description="first verdict")
    def outcome(self, row: Outbox) -> str:
        return str(row.verdict.get("code") or row.verdict["state"])

    @admin.display(description="state")
    def state(self, row: Outbox) -> str:
        if row.tombstoned_at is not None:
            return f"tombstone written, verdict kept until {when(row.keep_until)}"
        if row.not_before > timezone.now():
            return f"may be read until {when(row.not_before)}"
        return "its tombstone is due"

    @admin.display(description="since")
    def entered(self, row: Outbox) -> str:
        return when(row.created_at)

    @admin.display(description="tombstone not before")
    def due(self, row: Outbox) -> str:
        return when(row.not_before)

    @admin.display(description="tombstone written")
    def written(self, row: Outbox) -> str:
        return when(row.tombstoned_at)

    @admin.display(description="verdict kept until")
    def kept(self, row: Outbox) -> str:
        return when(row.keep_until)

    @admin.action(description="Write all tombstones that are due now, as the worker does", permissions=["operate"])
    def collect(self, request: HttpRequest, queryset: QuerySet[Outbox]) -> None:
        collected = collect_outbox()
        self.message_user(request, f"{collected.tombstoned} needles tombstoned, {collected.dropped} rows forgotten.")


@admin.register(Proof)
class ProofAdmin(ShownOnly):
    help_text = (
        "Checks of the whole store: is every chunk where it should be, and does every needle belong to something?"
    )
    list_display = ("asked_at", "scope", "standing", "outcome", "volume_count", "needles", "ended")
    list_filter = ("state", "deep")
    sortable_by = ()
    fieldsets = (
        (None, {"fields": ("scope", "standing", "outcome")}),
        ("Figures", {"fields": ("volume_count", "needle_count", "row_count")}),
        ("When", {"fields": ("asked_at", "started_at", "ended_at")}),
        ("Findings", {"fields": ("found",)}),
    )
    actions = ("check_now", "check_all_data")
    unselected_actions = actions

    @admin.display(description="what")
    def scope(self, proof: Proof) -> str:
        what = "the store" if proof.volume is None else f"volume {proof.volume}"
        return f"{what}, all data" if proof.deep else what

    @admin.display(description="state")
    def standing(self, proof: Proof) -> SafeString:
        if proof.state != Proof.State.DONE:
            return with_dot("draining", proof.get_state_display())
        return with_dot("online" if proof.is_sound else "offline", "sound" if proof.is_sound else "not sound")

    @admin.display(description="verdict")
    def outcome(self, proof: Proof) -> str:
        return verdict(proof.counts)

    @admin.display(description="needles")
    def needles(self, proof: Proof) -> str:
        return f"{proof.needle_count:,}"

    @admin.display(description="ended")
    def ended(self, proof: Proof) -> str:
        return when(proof.ended_at)

    @admin.display(description="findings")
    def found(self, proof: Proof) -> SafeString | str:
        shown = proof.findings[:FINDINGS_SHOWN]
        rows = [
            (
                one["kind"],
                one["volume"] or "",
                one["server"],
                one["needle"] or "",
                "; ".join(f"{owner['bucket']}/{owner['key']} [{owner['chunk']}]" for owner in one["owners"]),
                one["detail"],
            )
            for one in shown
        ]
        if not rows:
            return "none"
        more = len(proof.findings) - len(rows)
        return format_html(
            "{}{}",
            table(("kind", "volume", "server", "needle", "of", "what is wrong"), rows),
            f"and {more:,} more; manage.py fsck tells them all" if more else "",
        )

    @admin.action(description="Check the store now", permissions=["operate"])
    def check_now(self, request: HttpRequest, queryset: QuerySet[Proof]) -> None:
        self._ask(request, deep=False)

    @admin.action(description="Check the store now, reading all data", permissions=["operate"])
    def check_all_data(self, request: HttpRequest, queryset: QuerySet[Proof]) -> None:
        self._ask(request, deep=True)

    def _ask(self, request: HttpRequest, *, deep: bool) -> None:
        proof = ask_for_proof(deep=deep)
        wake_proofs()
        self.message_user(request, f"{capfirst(str(proof))} is {proof.get_state_display()}; the worker does it.")


@admin.register(Sweep)
class SweepAdmin(ShownOnly):
    help_text = "How many needles of each volume no row names, and how many of these were deleted."
    list_display = ("in_volume", "listed", "live", "orphans", "deleted", "standing")
    list_filter = ("held_back",)
    list_select_related = ("volume",)
    sortable_by = ()

    @admin.display(description="volume")
    def in_volume(self, sweep: Sweep) -> SafeString:
        return link_to(sweep.volume)

    @admin.display(description="listed")
    def listed(self, sweep: Sweep) -> str:
        return when(sweep.listed_at)

    @admin.display(description="needles that live")
    def live(self, sweep: Sweep) -> str:
        return f"{sweep.live_count:,}"

    @admin.display(description="orphans")
    def orphans(self, sweep: Sweep) -> SafeString:
        text = f"{sweep.orphan_count:,} ({filesizeformat(sweep.orphan_bytes)})"
        return link_to_list(Orphan, text, volume__id__exact=sweep.volume_id)

    @admin.display(description="deleted, ever")
    def deleted(self, sweep: Sweep) -> str:
        return f"{sweep.deleted_count:,} ({filesizeformat(sweep.deleted_bytes)})"

    @admin.display(description="state")
    def standing(self, sweep: Sweep) -> SafeString:
        if sweep.held_back:
            return with_dot(
                "offline", "so many that they look like lost rows: manage.py sweep --delete, if they may go"
            )
        return with_dot("online", "swept")


@admin.register(Orphan)
class OrphanAdmin(ShownOnly):
    help_text = "Needles that no row names, each since when; deleted when two listings far apart have seen them."
    list_display = ("needle_hex", "in_volume", "human_size", "written", "first_seen", "last_seen")
    list_select_related = ("volume",)
    sortable_by = ()
    search_fields = ("needle",)
    search_help_text = "A needle's 16 hex digits."

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        return lookup == "volume__id__exact" or super().lookup_allowed(lookup, value, request)

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        if not search_term:
            return queryset, False
        return queryset.filter(needle=_needle(search_term) or 0), False

    @admin.display(description="needle")
    def needle_hex(self, orphan: Orphan) -> str:
        return f"{orphan.needle:016x}"

    @admin.display(description="volume")
    def in_volume(self, orphan: Orphan) -> SafeString:
        return link_to(orphan.volume)

    @admin.display(description="size")
    def human_size(self, orphan: Orphan) -> str:
        return filesizeformat(orphan.size)

    @admin.display(description="written")
    def written(self, orphan: Orphan) -> str:
        return when(orphan.appended_at)

    @admin.display(description="first seen")
    def first_seen(self, orphan: Orphan) -> str:
        return when(orphan.first_seen_at)

    @admin.display(description="last seen")
    def last_seen(self, orphan: Orphan) -> str:
        return when(orphan.last_seen_at)


def _needle(text: str) -> int | None:
    """The number that 16 hex digits are; None for any other text, and for numbers that are no needle's."""
    if len(text) != 16 or set(text) - set("0123456789abcdef"):
        return None
    needle = int(text, 16)
    return needle if needle <= MAX_BIGINT else None


@admin.register(UsageSample)
class UsageSampleAdmin(ShownOnly):
    help_text = "How much of everything there was: each minute of the last day, and fewer of the times before."
    list_display = ("moment", "online", "free", "used", "garbage", "damaged_count", "buckets", "object_count", "size")
    readonly_fields = (
        *("moment", "online", "free", "capacity", "used", "garbage", "volumes", "damaged_count"),
        *("buckets", "object_count", "size", "requests", "puts", "received", "sent"),
    )
    fields = readonly_fields

    @admin.display(description="at", ordering="at")
    def moment(self, sample: UsageSample) -> str:
        return when(sample.at)

    @admin.display(description="servers online")
    def online(self, sample: UsageSample) -> str:
        return f"{sample.servers_online} of {sample.servers}"

    @admin.display(description="free")
    def free(self, sample: UsageSample) -> str:
        return filesizeformat(sample.free_bytes)

    @admin.display(description="capacity")
    def capacity(self, sample: UsageSample) -> str:
        return filesizeformat(sample.capacity_bytes)

    @admin.display(description="used")
    def used(self, sample: UsageSample) -> str:
        return filesizeformat(sample.used_bytes)

    @admin.display(description="garbage")
    def garbage(self, sample: UsageSample) -> str:
        return filesizeformat(sample.garbage_bytes)

    @admin.display(description="size of all objects")
    def size(self, sample: UsageSample) -> str:
        return filesizeformat(sample.object_bytes)

    @admin.display(description="received, ever")
    def received(self, sample: UsageSample) -> str:
        return filesizeformat(sample.received_bytes)

    @admin.display(description="sent, ever")
    def sent(self, sample: UsageSample) -> str:
        return filesizeformat(sample.sent_bytes)
