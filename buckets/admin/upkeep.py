"""Figures of the background work: the survey after a bucket's copies changed, and samples of the usage."""

from django.contrib import admin
from django.template.defaultfilters import filesizeformat
from django.utils.safestring import SafeString

from buckets.models import Survey, SurveyedVolume, UsageSample
from keys.admin_pages import ShownOnly, link_to, when


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


class SurveyedVolumeAdmin(ShownOnly):
    help_text = "The most copies that any bucket with chunks in a volume asks for, as the latest survey found."
    list_display = ("in_volume", "replication", "generation")
    list_select_related = ("volume",)
    ordering = ("pk",)
    sortable_by = ()

    @admin.display(description="volume")
    def in_volume(self, row: SurveyedVolume) -> SafeString:
        return link_to(row.volume)


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
