"""Look for damage."""

from collections.abc import Iterable, Sequence
from typing import Any

from django.core.management.base import CommandError

from volumes import selectors
from volumes.management.progress import size_text
from volumes.management.upkeep import UpkeepCommand, Work, volumes_text
from volumes.models import Replica
from volumes.owners import Owner, owner_text, owners_of
from volumes.reports import Damage, Figures, Job
from volumes.services.upkeep import list_damage, start_scrub


class Command(UpkeepCommand):
    help = (
        "Scrub volumes: every record of all copies is read and checked, and damage is listed. One volume of each "
        "server at a time. "
        "Ctrl-C leaves what runs running. Exit code 1 when there is damage."
    )
    noun = "scrub"
    damaged_count = 0

    def handle(self, *args: Any, **options: Any) -> None:
        self._copied: set[int] = set()
        """Volumes that have several copies."""
        self._damaged: set[int] = set()
        super().handle(*args, **options)
        if self._damaged:
            raise CommandError(self._what_to_do())

    def _what_to_do(self) -> str:
        told = "There is damage."
        if copied := self._damaged & self._copied:
            told += (
                f" The copies of {volumes_text(copied)} are brought into line within seconds: what is damaged in one "
                "is taken from another that has it sound. `manage.py fsck --deep --volume N` says what is left "
                "then; remove no file before."
            )
        if self._damaged - self._copied:
            whose = "the objects named above"
            if copied:
                whose = f"the objects named above for {volumes_text(self._damaged - copied)}"
            told += (
                f" Put {whose} again; `python -m volume_server.fsck FILE` explains it, and docs/operations.md says "
                "what else to do about it."
            )
        return told

    def copies(self, volumes: Iterable[int] | None) -> list[Replica]:
        found = selectors.list_copies(volumes)
        self._copied = {one.volume_id for one in found if one.role == Replica.Role.SECONDARY}
        return found

    def start(self, work: Work, options: dict[str, Any]) -> Figures:
        return start_scrub(volume_id=work.volume, server_id=work.server.pk)

    def job(self, figures: Figures) -> Job | None:
        return figures.scrub

    def succeeded(self, work: Work, job: Job) -> str:
        checked = f"{size_text(job.total_bytes)} checked"
        if not work.figures.damaged_count:
            return f"{checked}, sound"
        report = list_damage(volume_id=work.volume, server_id=work.server.pk)
        self._damaged.add(work.volume)
        self.damaged_count += report.count or work.figures.damaged_count
        if not report.count:
            return f"{checked}, {work.figures.damaged_count} DAMAGED, mended meanwhile"
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
