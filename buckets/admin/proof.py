"""Checks of the whole store, and the sweep of needles that no row names."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst

from buckets.admin.parts import NeedleRows
from buckets.models import Orphan, Proof, Sweep
from buckets.services.fsck import verdict
from buckets.services.proofs import ask_for_proof
from buckets.tasks import wake_proofs
from keys.admin_pages import ShownOnly, link_to, link_to_list, table, when, with_dot

FINDINGS_SHOWN = 200
"""On the page of a check."""


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
        return verdict(proof.counts) if proof.state == Proof.State.DONE else "-"

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


class OrphanAdmin(NeedleRows):
    help_text = "Needles that no row names, each since when; deleted when two listings far apart have seen them."
    list_display = ("needle_hex", "in_volume", "human_size", "written", "first_seen", "last_seen")

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        return lookup == "volume__id__exact" or super().lookup_allowed(lookup, value, request)

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
