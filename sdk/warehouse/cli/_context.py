"""What every command is given: the store, the progress bar, and the count of what failed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from warehouse.cli._words import printable, words
from warehouse.client import Client
from warehouse.transfer import TransferConfig


@dataclass(slots=True)
class Context:
    """What the group's options say, and what the commands do with it."""

    url: str | None
    key: str | None
    quiet: bool
    failures: int = field(default=0)

    def client(self, transfer: TransferConfig | None = None) -> Client:
        if not self.url or not self.key:
            lacking = " and ".join(
                name for name, value in (("WAREHOUSE_URL", self.url), ("WAREHOUSE_KEY", self.key)) if not value
            )
            raise click.UsageError(
                f"which store? Set {lacking} in the environment, or give --url and --key before the command."
            )
        try:
            return Client(self.url, self.key, transfer=transfer)
        except ValueError as error:
            raise click.UsageError(str(error)) from error

    def fail(self, what: str, error: Exception | str) -> None:
        """Say that one of several things failed, and go on with the others."""
        self.failures += 1
        click.echo(f"warehouse: {printable(what)}: {words(error, about=what)}", err=True)

    def finish(self) -> None:
        if self.failures:
            sys.exit(1)

    @contextmanager
    def bar(self, title: str, total: int | None) -> Iterator["Bar"]:
        """A progress bar on stderr, where that is a terminal."""
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, disable=self.quiet or not console.is_terminal) as progress:
            yield Bar(progress, title, total)


class Bar:
    def __init__(self, progress: Progress, title: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total)

    def advance(self, size: int) -> None:
        self._progress.advance(self._task, size)

    def grow(self, size: int) -> None:
        """There is more to do than was known."""
        total = self._progress.tasks[0].total or 0
        self._progress.update(self._task, total=total + size)
