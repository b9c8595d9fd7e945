"""Look for damage."""

from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError

from volumes.management.progress import size_text
from volumes.management.upkeep import UpkeepCommand, Work
from volumes.owners import Owner, owner_text, owners_of
from volumes.reports import Damage, Figures, Job
from volumes.services.upkeep import list_damage, start_scrub


class Command(UpkeepCommand):
    help = (
        "Scrub volumes: every record is read and checked, and damage is listed. One volume of each server at a time. "
        "Ctrl-C leaves what runs running. Exit code 1 when there is damage."
    )
    noun = "scrub"
    damaged_count = 0

    def handle(self, *args: Any, **options: Any) -> None:
        super().handle(*args, **options)
        if self.damaged_count:
            raise CommandError(
                "There is damage. Put the objects named above again; `python -m volume_server.fsck FILE` explains "
                "it, and docs/operations.md says what else to do about it."
            )

    def start(self, volume: int, options: dict[str, Any]) -> Figures:
        return start_scrub(volume_id=volume)

    def job(self, figures: Figures) -> Job | None:
        return figures.scrub

    def succeeded(self, work: Work, job: Job) -> str:
        checked = f"{size_text(job.total_bytes)} checked"
        if not work.figures.damaged_count:
            return f"{checked}, sound"
        report = list_damage(volume_id=work.volume)
        self.damaged_count += report.count
        owners = owners_of({one.needle for one in report.records if one.needle is not None})
        lines = [f"{checked}, {report.count} DAMAGED"]
        lines += [_line(one, [] if one.needle is None else owners[one.needle]) for one in report.records]
        if report.count > len(report.records):
            lines.append(f"  and {report.count - len(report.records)} more")
        return "\n".join(lines)

    def summary(self) -> str:
        return f", {self.damaged_count} damaged records"


def _line(damage: Damage, owners: Sequence[Owner]) -> str:
    whose = "unknown needle"
    if damage.needle is not None:
        whose = f"needle {damage.needle:016x} ({owner_text(owners)})"
    return f"  {whose}, {damage.size_bytes} bytes at {damage.offset}: {damage.reason}"
