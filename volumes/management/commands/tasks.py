"""What the background work does."""

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.core.serializers.json import DjangoJSONEncoder

from volumes.background import TaskStatus, background_health, figures_text, list_tasks

_HEADS = ("task", "status", "last start", "took", "next run", "runs", "failed", "lost", "figures")


class Command(BaseCommand):
    help = "List the background tasks: how the last run of each went, and when the next one is due (UTC)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="one line of JSON for each task")

    def handle(self, *args: Any, **options: Any) -> None:
        tasks = list_tasks()
        if options["json"]:
            for task in tasks:
                self.stdout.write(json.dumps(asdict(task), cls=DjangoJSONEncoder))
            return
        rows = [_HEADS, *map(_row, tasks)]
        widths = [max(len(row[at]) for row in rows) for at in range(len(_HEADS))]
        for row in rows:
            self.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        for task in tasks:
            if task.error:
                self.stdout.write(f"{task.name} failed: {task.error}")
        health = background_health()
        self.stdout.write(f"worker: {health.worker}, beat: {health.beat}")


def _row(task: TaskStatus) -> tuple[str, ...]:
    return (
        task.name,
        task.status,
        _moment(task.started_at),
        "-" if task.duration_ms is None else f"{task.duration_ms / 1000:.1f} s",
        _moment(task.next_run_at),
        str(task.runs),
        str(task.failures),
        str(task.losses),
        figures_text(task.result),
    )


def _moment(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"
