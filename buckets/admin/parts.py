"""What several pages share: columns of rows that name a needle, the filter by bucket, the table of chunks."""

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html
from django.utils.safestring import SafeString

from buckets.models import Bucket, Chunk
from keys.admin_pages import ShownOnly, link_to, table, when

CHUNKS_SHOWN = 50
"""Chunks on the page of an object or an upload; the list of chunks has the others."""
BUCKETS_SHOWN = 30
"""Buckets offered by the filter of a list; a search for `bucket/…` leads to any of them."""
MAX_BIGINT = (1 << 63) - 1


class NeedleRows(ShownOnly):
    """Rows of which each names a needle of a volume, found by its 16 hex digits."""

    list_select_related: ClassVar[tuple[str, ...]] = ("volume",)
    sortable_by = ()
    search_fields = ("needle",)
    search_help_text = "A needle's 16 hex digits."

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        if not search_term:
            return queryset, False
        return queryset.filter(needle=needle_of(search_term) or 0), False

    @admin.display(description="needle")
    def needle_hex(self, row: Any) -> str:
        return f"{row.needle:016x}"

    @admin.display(description="volume")
    def in_volume(self, row: Any) -> SafeString:
        return link_to(row.volume)


class BucketFilter(admin.SimpleListFilter):
    """The first buckets by name, and the one that is chosen: there may be thousands."""

    title = "bucket"
    parameter_name = "bucket"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        buckets = Bucket.objects.values_list("pk", "name").order_by("name")
        offered = dict(buckets[:BUCKETS_SHOWN])
        chosen = request.GET.get(self.parameter_name, "")
        if is_number(chosen) and int(chosen) not in offered:
            offered.update(buckets.filter(pk=int(chosen)))
        return [(str(pk), name) for pk, name in offered.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if value is None:
            return queryset
        return queryset.filter(bucket=int(value)) if is_number(value) else queryset.none()


def is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) <= MAX_BIGINT


def needle_of(text: str) -> int | None:
    """The number that 16 hex digits are; None for any other text, and for numbers that are no needle's."""
    if len(text) != 16 or set(text) - set("0123456789abcdef"):
        return None
    needle = int(text, 16)
    return needle if needle <= MAX_BIGINT else None


def chunk_table(chunks: QuerySet[Chunk], more: SafeString, count: int) -> SafeString:
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
