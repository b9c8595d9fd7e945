"""The journal, from which the volumes alone can rebuild the database."""

from django.contrib import admin
from django.template.defaultfilters import filesizeformat

from buckets.admin.parts import NeedleRows
from buckets.models import Journal, JournalNeedle, Removed
from buckets.selectors.upkeep import journal_status
from keys.admin_pages import ShownOnly, when
from keys.printable import printable


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
            "full": "STOPPED: no server has room for it",
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


class JournalNeedleAdmin(NeedleRows):
    help_text = "The needles in which the journal lies: snapshots of the database, and entries with every commit since."
    list_display = ("needle_hex", "in_volume", "kind", "part", "to_sequence", "human_size", "written", "is_durable")
    list_filter = ("kind", "is_durable")
    ordering = ("-pk",)

    @admin.display(description="size")
    def human_size(self, row: JournalNeedle) -> str:
        return filesizeformat(row.size)

    @admin.display(description="written")
    def written(self, row: JournalNeedle) -> str:
        return when(row.created_at)


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
