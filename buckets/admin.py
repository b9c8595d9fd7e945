"""Buckets and what they hold, for operators.

Whatever changes something here calls the service that the API calls; rows that services alone write are read-only.
"""

from collections import defaultdict
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from buckets.models import Bucket, Chunk, Object, Outbox, Upload
from buckets.names import bucket_name_error, content_type_error, metadata_error
from buckets.services.buckets import BucketSettings, apply_settings, create_bucket, delete_bucket, update_bucket
from buckets.services.objects import delete_objects, update_object
from buckets.services.outbox import collect_outbox
from buckets.services.uploads import abort_upload
from keys.errors import Invalid, WarehouseError

_SETTINGS = ("visibility", "replication", "chunk_size", "quota_bytes", "quota_objects", "cors_origins")


def _link(view: str, text: object, *args: object, query: str = "") -> SafeString:
    return format_html('<a href="{}{}">{}</a>', reverse(f"admin:buckets_{view}", args=args), query, text)


class ServicesAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """What a service refuses becomes a message, and nothing is changed."""

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._told(request, super().changeform_view, *args, **kwargs)

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._told(request, super().delete_view, *args, **kwargs)

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._told(request, super().changelist_view, *args, **kwargs)

    def _told(self, request: HttpRequest, view: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            response: HttpResponse = view(request, *args, **kwargs)
        except WarehouseError as error:
            self.message_user(request, error.detail, messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        return response


class ReadOnlyAdmin(ServicesAdmin):
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class BucketForm(forms.ModelForm[Bucket]):
    cors_origins = forms.JSONField(
        required=False,
        initial=list,
        help_text='A list such as ["https://app.example"], or ["*"]. What one bucket allows holds for the whole store.',
    )

    class Meta:
        model = Bucket
        fields = ("name", *_SETTINGS)

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if (problem := bucket_name_error(name)) is not None:
            raise forms.ValidationError(problem)
        return name

    def clean_cors_origins(self) -> list[str]:
        origins = self.cleaned_data["cors_origins"] or []
        if not isinstance(origins, list) or not all(isinstance(origin, str) for origin in origins):
            raise forms.ValidationError("A list of texts.")
        return origins

    def clean(self) -> None:
        super().clean()
        if not self.errors:
            try:
                apply_settings(Bucket(), self.settings())
            except Invalid as error:
                for name, texts in error.extra["errors"].items():  # type: ignore[attr-defined]
                    self.add_error(name, texts)

    def settings(self) -> BucketSettings:
        return BucketSettings(**{name: self.cleaned_data[name] for name in _SETTINGS})


@admin.register(Bucket)
class BucketAdmin(ServicesAdmin):
    form = BucketForm
    list_display = (
        "name",
        "objects",
        "size",
        "visibility",
        "replication",
        "byte_quota",
        "object_quota",
        "uploads",
        "created_at",
    )
    list_filter = ("visibility", "replication")
    search_fields = ("name",)
    computed = ("objects", "size", "reserved", "created_at")
    fields = ("name", *_SETTINGS, *computed)

    def get_readonly_fields(self, request: HttpRequest, obj: Bucket | None = None) -> tuple[str, ...]:
        return (*self.computed, "name") if obj else self.computed

    def get_queryset(self, request: HttpRequest) -> QuerySet[Bucket]:
        buckets: QuerySet[Bucket] = super().get_queryset(request).annotate(upload_count=Count("uploads"))
        return buckets

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
        full = [f"{bucket} holds {bucket.object_count} objects" for bucket in objs if bucket.object_count]
        return [str(bucket) for bucket in objs], {"buckets": len(objs)}, set(), full

    def delete_model(self, request: HttpRequest, obj: Bucket) -> None:
        delete_bucket(name=obj.name)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Bucket]) -> None:
        for bucket in queryset:
            delete_bucket(name=bucket.name)

    @admin.display(description="objects", ordering="object_count")
    def objects(self, bucket: Bucket) -> SafeString:
        return _link("object_changelist", f"{bucket.object_count:,}", query=f"?bucket__id__exact={bucket.pk}")

    @admin.display(description="size", ordering="total_bytes")
    def size(self, bucket: Bucket) -> str:
        return filesizeformat(bucket.total_bytes)

    @admin.display(description="reserved by uploads", ordering="reserved_bytes")
    def reserved(self, bucket: Bucket) -> str:
        return f"{filesizeformat(bucket.reserved_bytes)} in {bucket.reserved_objects:,} new objects"

    @admin.display(description="quota", ordering="quota_bytes")
    def byte_quota(self, bucket: Bucket) -> str:
        return "-" if bucket.quota_bytes is None else filesizeformat(bucket.quota_bytes)

    @admin.display(description="object quota", ordering="quota_objects")
    def object_quota(self, bucket: Bucket) -> str:
        return "-" if bucket.quota_objects is None else f"{bucket.quota_objects:,}"

    @admin.display(description="uploads", ordering="upload_count")
    def uploads(self, bucket: Any) -> SafeString:
        return _link("upload_changelist", bucket.upload_count, query=f"?bucket__id__exact={bucket.pk}")


class ChunkInline(admin.TabularInline):  # type: ignore[type-arg]
    model = Chunk
    extra = 0
    can_delete = False
    fields = ("index", "volume", "needle_hex", "size", "crc32_hex", "committed_at")
    readonly_fields = fields
    ordering = ("index",)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description="needle")
    def needle_hex(self, chunk: Chunk) -> str:
        return f"{chunk.needle:016x}"

    @admin.display(description="CRC-32")
    def crc32_hex(self, chunk: Chunk) -> str:
        return f"{chunk.crc32:08x}"


class ObjectForm(forms.ModelForm[Object]):
    metadata = forms.JSONField(required=False, help_text='Such as {"colour": "blue"}.')

    class Meta:
        model = Object
        fields = ("content_type", "metadata")

    def clean_content_type(self) -> str:
        content_type: str = self.cleaned_data["content_type"]
        if (problem := content_type_error(content_type)) is not None:
            raise forms.ValidationError(problem)
        return content_type

    def clean_metadata(self) -> dict[str, str]:
        metadata = self.cleaned_data["metadata"] or {}
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise forms.ValidationError("An object whose values are texts.")
        if (problem := metadata_error(metadata)) is not None:
            raise forms.ValidationError(problem)
        return metadata


@admin.register(Object)
class ObjectAdmin(ServicesAdmin):
    form = ObjectForm
    list_display = ("key", "bucket", "human_size", "content_type", "updated_at", "sequence")
    list_filter = ("bucket", "updated_at")
    list_select_related = ("bucket",)
    search_fields = ("^key", "=etag")
    show_full_result_count = False
    readonly_fields = ("bucket", "key", "human_size", "etag", "created_at", "updated_at", "sequence")
    fields = ("bucket", "key", "content_type", "metadata", *readonly_fields[2:])
    inlines = (ChunkInline,)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

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
        return [f"{row.bucket}/{row.key}" for row in objs], {"objects": len(objs)}, set(), []

    def delete_model(self, request: HttpRequest, obj: Object) -> None:
        delete_objects(bucket=obj.bucket.name, keys=[obj.key])

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Object]) -> None:
        keys: dict[str, list[str]] = defaultdict(list)
        for bucket, key in queryset.values_list("bucket__name", "key"):
            keys[bucket].append(key)
        for bucket, bucket_keys in keys.items():
            delete_objects(bucket=bucket, keys=bucket_keys)

    @admin.display(description="size", ordering="size")
    def human_size(self, row: Object) -> str:
        return filesizeformat(row.size)


@admin.register(Chunk)
class ChunkAdmin(ReadOnlyAdmin):
    list_display = ("needle_hex", "volume", "owner", "index", "human_size", "crc32_hex", "committed_at")
    list_filter = (("upload", admin.EmptyFieldListFilter),)
    list_select_related = ("object__bucket", "upload", "volume")
    search_fields = ("=object__key", "=volume__id", "=needle")
    search_help_text = "A whole key, a volume, or a needle's 16 hex digits."
    show_full_result_count = False
    ordering = ("-id",)

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        return super().get_search_results(request, queryset, _decimal_needle(search_term))

    @admin.display(description="needle", ordering="needle")
    def needle_hex(self, chunk: Chunk) -> str:
        return f"{chunk.needle:016x}"

    @admin.display(description="object or upload")
    def owner(self, chunk: Chunk) -> SafeString:
        if chunk.object is not None:
            return _link("object_change", f"{chunk.object.bucket}/{chunk.object.key}", chunk.object.pk)
        return _link("upload_change", f"upload {chunk.upload_id}", chunk.upload_id)

    @admin.display(description="size", ordering="size")
    def human_size(self, chunk: Chunk) -> str:
        return filesizeformat(chunk.size)

    @admin.display(description="CRC-32")
    def crc32_hex(self, chunk: Chunk) -> str:
        return f"{chunk.crc32:08x}"


@admin.register(Upload)
class UploadAdmin(ReadOnlyAdmin):
    list_display = ("id", "bucket", "key", "human_size", "state", "held", "progress", "created_at", "expires_at")
    list_filter = ("state", "held", "bucket")
    list_select_related = ("bucket",)
    search_fields = ("=id", "^key")
    inlines = (ChunkInline,)
    actions = ("abort",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Upload]:
        uploads: QuerySet[Upload] = super().get_queryset(request).annotate(stored_count=Count("chunks"))
        return uploads

    @admin.display(description="size", ordering="size")
    def human_size(self, upload: Upload) -> str:
        return filesizeformat(upload.size)

    @admin.display(description="chunks stored")
    def progress(self, upload: Any) -> str:
        if upload.state == Upload.State.COMPLETED:
            return f"{upload.chunk_count} of {upload.chunk_count}"
        return f"{upload.stored_count} of {upload.chunk_count}"

    @admin.action(description="Abort: their chunks are gone", permissions=["view"])
    def abort(self, request: HttpRequest, queryset: QuerySet[Upload]) -> None:
        _require_admin(request)
        for upload in queryset:
            try:
                abort_upload(upload_id=upload.pk)
            except WarehouseError as error:
                self.message_user(request, error.detail, messages.ERROR)
            else:
                self.message_user(request, f"Upload {upload.pk} is aborted.")


@admin.register(Outbox)
class OutboxAdmin(ReadOnlyAdmin):
    list_display = (
        "needle_hex",
        "volume",
        "reason",
        "outcome",
        "created_at",
        "not_before",
        "tombstoned_at",
        "keep_until",
    )
    list_filter = ("reason", ("tombstoned_at", admin.EmptyFieldListFilter), "created_at")
    list_select_related = ("volume",)
    search_fields = ("=volume__id", "=needle")
    search_help_text = "A volume, or a needle's 16 hex digits."
    show_full_result_count = False
    ordering = ("-id",)
    actions = ("collect",)

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        return super().get_search_results(request, queryset, _decimal_needle(search_term))

    @admin.display(description="needle", ordering="needle")
    def needle_hex(self, row: Outbox) -> str:
        return f"{row.needle:016x}"

    @admin.display(description="first verdict")
    def outcome(self, row: Outbox) -> str:
        return str(row.verdict.get("code") or row.verdict["state"])

    @admin.action(description="Write all tombstones that are due, selected or not", permissions=["view"])
    def collect(self, request: HttpRequest, queryset: QuerySet[Outbox]) -> None:
        _require_admin(request)
        collected = collect_outbox()
        self.message_user(request, f"{collected.tombstoned} needles tombstoned, {collected.dropped} rows forgotten.")


def _require_admin(request: HttpRequest) -> None:
    if not getattr(request.user, "is_superuser", False):
        raise PermissionDenied


def _decimal_needle(search_term: str) -> str:
    """A needle's 16 hex digits as the number that the column holds; other words as they are."""
    words = search_term.split()
    return " ".join(str(int(word, 16)) if len(word) == 16 and _is_hex(word) else word for word in words)


def _is_hex(word: str) -> bool:
    return not set(word) - set("0123456789abcdef")
