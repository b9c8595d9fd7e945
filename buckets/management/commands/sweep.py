"""Delete needles that no row names."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from buckets.services.sweep import Swept, sweep_volume, volumes_to_sweep
from keys.errors import WarehouseError
from volumes.management.progress import Board, size_text
from volumes.management.upkeep import INTERRUPTED, USAGE, volume_number


class Command(BaseCommand):
    help = (
        "List all volumes and show the needles that no row names (orphans). Without --delete nothing is deleted, only "
        "remembered: an orphan may be deleted when two listings, WAREHOUSE_SWEEP_SECONDS apart, have seen it. "
        "Exit code 1 when a volume could not be listed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--delete", action="store_true", help="delete those that an earlier listing has seen")
        parser.add_argument("--dry-run", action="store_true", help="delete nothing, which is the default")
        parser.add_argument("--volume", type=volume_number, metavar="N", help="this volume alone")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["delete"] and options["dry_run"]:
            raise CommandError("--delete or --dry-run, not both.", returncode=USAGE)
        board = Board(self.stdout)
        volumes = sorted(volumes_to_sweep())
        if options["volume"] is not None:
            if options["volume"] not in volumes:
                raise CommandError(f"There is no volume {options['volume']} that could be swept.", returncode=USAGE)
            volumes = [options["volume"]]
        done: list[Swept] = []
        try:
            for number, volume_id in enumerate(volumes):
                board.draw([f"volume {volume_id}: {number} of {len(volumes)}"])
                swept = sweep_volume(volume_id=volume_id, delete=options["delete"])
                done.append(swept)
                if swept.problem or swept.orphan_count:
                    board.say(_line(swept))
        except KeyboardInterrupt:
            board.clear()
            raise CommandError("Interrupted; what was deleted is told above.", returncode=INTERRUPTED) from None
        except WarehouseError as error:
            raise CommandError(error.detail) from None
        board.clear()
        orphans, deleted = sum(one.orphan_count for one in done), sum(one.deleted_count for one in done)
        ripe = sum(one.ripe_count for one in done)
        may = f"{deleted:,} deleted" if options["delete"] else f"{ripe:,} may be deleted now (--delete)"
        self.stdout.write(f"{len(done):,} volumes, {orphans:,} orphans, {may}")
        if failed := sum(bool(one.problem) for one in done):
            raise CommandError(f"Nothing is known of {failed} volumes; see above.")


def _line(swept: Swept) -> str:
    if swept.problem:
        return f"volume {swept.volume}: not swept, {swept.problem}"
    told = f"volume {swept.volume}: {swept.orphan_count:,} orphans, {size_text(swept.orphan_bytes)}"
    if swept.deleted_count:
        return f"{told}; {swept.deleted_count:,} deleted, {size_text(swept.deleted_bytes)}"
    return f"{told}; {swept.ripe_count:,} of them, {size_text(swept.ripe_bytes)}, seen long enough ago"
