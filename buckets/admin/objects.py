"""Objects, the chunks that they are made of, and the uploads that they come by."""

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import filesizeformat
from django.utils.safestring import SafeString

from buckets.admin.parts import BucketFilter, NeedleRows, chunk_table, needle_of
from buckets.models import Bucket, Chunk, Object, Upload
from buckets.names import successor
from buckets.services.objects import delete_objects, delete_objects_of, update_object
from buckets.services.uploads import abort_upload, expire_uploads
from keys.admin_pages import ServiceForm, ServicesAdmin, ShownOnly, link_to, link_to_list, when
from keys.printable import printable

OBJECTS_SEARCHED = 1000
"""Objects whose chunks a search by key finds."""


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
        return chunk_table(chunks, more, count)


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


class ChunkAdmin(NeedleRows):
    help_text = "Which needle of which volume holds which piece of an object or of an upload."
    list_display = ("needle_hex", "in_volume", "owner", "index", "human_size", "crc32_hex", "judged")
    list_filter = (ChunksOfFilter,)
    list_select_related = ("object__bucket", "upload", "volume")
    search_help_text = "A needle's 16 hex digits, or the beginning of BUCKET/KEY."
    fields = ("needle_hex", "in_volume", "owner", "index", "human_size", "crc32_hex", "judged", "first_verdict")

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        if request.GET.get("of") == "uploads" or "upload__id__exact" in request.GET:
            return ("upload_id", "index")
        return ("object_id", "index") if "object__id__exact" in request.GET else ("-pk",)

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        if not search_term:
            return queryset, False
        if (needle := needle_of(search_term)) is not None:
            return queryset.filter(needle=needle), False
        objects = Object.objects.filter(_of_path(search_term)).order_by("bucket_id", "key")
        return queryset.filter(object__in=objects.values("pk")[:OBJECTS_SEARCHED]), False

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
        return chunk_table(stored, more, count)

    @admin.action(description="Abort: their chunks are gone", permissions=["operate"])
    def abort(self, request: HttpRequest, queryset: QuerySet[Upload]) -> HttpResponse | None:
        warning = "These uploads end, and what was stored of them is gone. Their clients have to begin anew."
        if (page := self.ask_first(request, queryset, title="Abort uploads", warning=warning)) is not None:
            return page
        self.do_each(
            request,
            queryset,
            lambda upload: abort_upload(upload_id=upload.pk),
            "it is aborted.",
            named=lambda upload: f"Upload {upload.pk}",
        )
        return None

    @admin.action(description="End all that are overdue now, as the worker does", permissions=["operate"])
    def expire(self, request: HttpRequest, queryset: QuerySet[Upload]) -> None:
        self.message_user(request, f"{expire_uploads()} overdue uploads were ended.")
