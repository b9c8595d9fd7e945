"""The outbox: dead needles, and what becomes of them."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from buckets.admin.parts import NeedleRows
from buckets.models import Outbox
from buckets.services.outbox import collect_outbox
from keys.admin_pages import when


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


class OutboxAdmin(NeedleRows):
    help_text = "Dead needles: those whose tombstone is still to be written, and verdicts still to be remembered."
    list_display = ("needle_hex", "in_volume", "reason", "outcome", "state", "entered")
    list_filter = (WaitingFilter, "reason")
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
