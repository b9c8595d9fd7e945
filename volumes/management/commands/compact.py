"""Give back the space of dead needles."""

import argparse
import re
from typing import Any

from django.core.management.base import CommandParser

from volumes.management.progress import size_text
from volumes.management.upkeep import UpkeepCommand, Work
from volumes.models import JobState
from volumes.reports import MAX_BYTES, Figures, Job
from volumes.services.upkeep import start_compaction

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?)(?:i?B)?(?:/s)?", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


class Command(UpkeepCommand):
    help = (
        "Compact volumes: their live needles move to a new file that takes the old one's place, while reads, writes "
        "and deletes go on. One volume of each server at a time. Ctrl-C leaves what runs running."
    )
    noun = "compaction"
    reclaimed_bytes = 0

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--rate", type=rate, default=0, metavar="BYTES/S", help="at most so fast, such as 50M (default: no limit)"
        )
        parser.add_argument(
            "--min-garbage",
            type=share,
            metavar="PERCENT",
            help="leave volumes alone of which less is garbage (default with --all: those without any)",
        )

        parser.add_argument(
            "--drop-damage",
            action="store_true",
            help="leave damaged gaps and records behind that hold no needle which the index knows; without this they "
            "are copied as they are. `python -m volume_server.fsck FILE` shows them before",
        )

    def start(self, work: Work, options: dict[str, Any]) -> Figures:
        return start_compaction(volume_id=work.volume, rate_bytes=options["rate"], drop_damage=options["drop_damage"])

    def job(self, figures: Figures) -> Job | None:
        return figures.compaction

    def reason_to_skip(self, figures: Figures, options: dict[str, Any]) -> str:
        if figures.compaction is not None and figures.compaction.state == JobState.RUNNING:
            return ""  # to be watched
        if figures.is_sealed and options["all_volumes"]:
            return "it is sealed"
        if options["drop_damage"] and figures.damaged_count:
            return ""
        percent = 100 * figures.garbage_bytes / figures.size_bytes if figures.size_bytes else 0.0
        least = options["min_garbage"]
        if least is not None and percent < least:
            return f"{percent:.0f} % of it is garbage"
        if options["all_volumes"] and not figures.garbage_bytes:
            return "it has no garbage"
        return ""

    def succeeded(self, work: Work, job: Job) -> str:
        given_back = job.reclaimed_bytes or 0
        self.reclaimed_bytes += given_back
        return f"compacted, {size_text(given_back)} given back, {size_text(work.figures.size_bytes)} left"

    def summary(self) -> str:
        return f", {size_text(self.reclaimed_bytes)} given back"


def rate(text: str) -> int:
    """Bytes a second of ``50M``, ``1.5 GiB/s`` or ``4096``; units are powers of 1024."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no rate; write bytes a second, such as 50M")
    power = _POWERS[found[2].upper()]
    bytes_a_second = float(found[1]) * (1 << 10 * power)
    if 0 < bytes_a_second < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is less than a byte a second; 0 is no limit")
    if bytes_a_second > MAX_BYTES:
        raise argparse.ArgumentTypeError(f"{text!r} is more than can be counted")
    return int(bytes_a_second)


def share(text: str) -> float:
    """``25`` or ``25%``."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; write percent, from 0 to 100")
    return value
