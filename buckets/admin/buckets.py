"""Buckets: their settings, quotas and counts."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import filesizeformat
from django.utils.safestring import SafeString

from buckets.models import Bucket, Object, Upload
from buckets.selectors.buckets import Counts, wrong_counts
from buckets.services.buckets import BucketSettings, create_bucket, delete_bucket, delete_buckets, update_bucket
from buckets.services.deletion import close_bucket
from buckets.services.objects import empty_bucket
from buckets.tasks import wake_deletion
from keys.admin_pages import ServiceForm, ServicesAdmin, link_to_list, when, with_dot
from keys.errors import WarehouseError
from keys.models import Grant

_SETTINGS = ("visibility", "replication", "chunk_size", "quota_bytes", "quota_objects", "cors_origins")
EMPTIED_AT_ONCE = 10_000
"""Objects that one click deletes: a few seconds."""


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
