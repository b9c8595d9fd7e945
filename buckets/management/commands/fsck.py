"""Prove that every chunk has its bytes and every needle its owner."""

import json
from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from buckets.models import Proof
from buckets.services.fsck import MAX_FINDINGS, Checked, check_counts, check_volume, volumes_to_check
from buckets.services.proofs import keep_proof
from buckets.services.recount import mend_counts
from volumes.management.progress import Board, bar
from volumes.management.upkeep import INTERRUPTED, USAGE, volume_number

HOW_TO_MEND = {
    Proof.Kind.MISSING: "a volume of several copies first as with divergent; else put the objects named above again, "
    "or bring the volume back from a backup (docs/operations.md, Damage); then `manage.py fsck --volume N`",
    Proof.Kind.ORPHANED: "`manage.py sweep` shows them; the worker deletes them when they have been seen twice, "
    "`manage.py sweep --delete` does so now",
    Proof.Kind.DIVERGENT: "`manage.py scrub N` reads all copies of the volume; within seconds its copies are brought "
    "into line, and each record that is damaged in one is taken from another that has it sound. Then `manage.py fsck "
    "--deep --volume N`, and only if that names exactly one of several copies: stop its server, remove the volume's "
    "files (N.*) there, start it, and it is made anew from the others. Remove nothing where it names several, since "
    "each may have what the others lack: put the objects named again (docs/operations.md, Damage)",
    Proof.Kind.UNKNOWN: "start the servers named above, or look at their logs; then run this again; "
    "`manage.py forget` those that died for good",
    Proof.Kind.MISCOUNTED: "`manage.py fsck --mend-counts` counts these buckets anew",
}


class Command(BaseCommand):
    help = (
        "Check every chunk row against every copy of its volume (there, as long, the same CRC), every needle of every "
        "copy against the rows, the copies against each other, and the kept counts of buckets. Nothing is changed; "
        "puts and deletes may go on. The last line is the verdict; exit code 1 unless all of it is sound."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON document instead of lines")
        parser.add_argument("--deep", action="store_true", help="have all data read and checked, not headers alone")
        parser.add_argument("--volume", type=volume_number, metavar="N", help="this volume alone")
        parser.add_argument("--dry-run", action="store_true", help="do not keep the result for API and admin site")
        parser.add_argument(
            "--mend-counts", action="store_true", help="only count buckets anew that keep wrong counts, and set them"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        self.board = Board(self.stdout)
        self.is_json: bool = options["json"]
        try:
            if options["mend_counts"]:
                self._mend_counts()
            else:
                self._check(deep=options["deep"], volume=options["volume"], keep=not options["dry_run"])
        except KeyboardInterrupt:
            self.board.clear()
            raise CommandError(
                "Interrupted: nothing is known of what was not looked at.", returncode=INTERRUPTED
            ) from None

    def _check(self, *, deep: bool, volume: int | None, keep: bool) -> None:
        started_at = timezone.now()
        volumes = volumes_to_check()
        if volume is not None:
            if volume not in volumes:
                raise CommandError(f"There is no volume {volume} in this store.", returncode=USAGE)
            volumes = [volume]
        total = Checked(volume)
        self._needles = 0
        for done, volume_id in enumerate(volumes):
            self._draw(done, len(volumes), volume_id, 0)

            def progress(number: int, count: int, done: int = done) -> None:
                self._draw(done, len(volumes), number, count)

            self._take(total, check_volume(volume_id=volume_id, deep=deep, progress=progress))
        if volume is None:
            self._take(total, check_counts())
        self.board.clear()
        if keep:
            keep_proof(
                checked=total, started_at=started_at, deep=deep, volume_id=volume, volume_count=len(volumes)
            )  # fmt: skip
        if self.is_json:
            self.stdout.write(json.dumps(_document(total, len(volumes))))
        else:
            self._mends(total.counts)
            told = f"{len(volumes):,} volumes, {total.needle_count:,} needles, {total.row_count:,} chunks"
            self.stdout.write(f"{told}{', all data read' if deep else ''}")
            self.stdout.write(total.verdict)
        if not total.is_sound:
            raise SystemExit(1)

    def _take(self, total: Checked, checked: Checked) -> None:
        total.take(checked)
        self._needles += checked.needle_count
        if self.is_json:
            return
        for finding in checked.findings:
            self.board.say(str(finding))
        if (more := checked.counts.total() - len(checked.findings)) > 0:
            self.board.say(f"volume {checked.volume}: and {more:,} more")

    def _mends(self, counts: Counter[str]) -> None:
        for kind, how in HOW_TO_MEND.items():
            if counts[kind]:
                self.stdout.write(f"{kind}: {how}")

    def _draw(self, done: int, volumes: int, volume_id: int, count: int) -> None:
        if not self.is_json:
            self.board.draw([f"volume {volume_id:<7} {bar(done, volumes)}  {self._needles + count:,} needles"])

    def _mend_counts(self) -> None:
        mended = mend_counts()
        for name in mended:
            self.stdout.write(f"bucket {name!r} is counted anew")
        self.stdout.write(f"{len(mended)} buckets kept wrong counts")


def _document(total: Checked, volumes: int) -> dict[str, Any]:
    return {
        **{kind.value: total.counts[kind] for kind in Proof.Kind},
        "verdict": total.verdict,
        "volumes": volumes,
        "needles": total.needle_count,
        "chunks": total.row_count,
        "findings": [one.as_json() for one in total.findings[:MAX_FINDINGS]],
    }
