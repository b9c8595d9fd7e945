"""Make the database anew from the volumes alone."""

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from buckets.services.rebuild.report import Late, Report
from buckets.services.rebuild.run import opened, rebuild
from keys.errors import WarehouseError
from keys.secrets import ensure_secrets, missing_secrets, own_folder
from warehouse_site.up_lock import AlreadyUp, UpLock

SHOWN = 20
"""Lines of each list; `--json` tells all."""


class Command(BaseCommand):
    help = (
        "Make the database anew from the data directories of the volume servers, which must be stopped: by the journal "
        "that the worker writes into the volumes, and by what came after it. The database must not exist, or be "
        "empty; this command never changes one that holds anything. Exit code 0: all is known; 1: the database is "
        "made, and what is uncertain or missing is listed; 2: nothing was made."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--from",
            dest="directories",
            metavar="DIR",
            nargs="+",
            type=Path,
            required=True,
            help="Data directories of volume servers, or folders of such. Name all there are.",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="Do all of it, say what came of it, and keep nothing."
        )
        parser.add_argument("--json", action="store_true", help="The report as one JSON document on stdout.")
        parser.add_argument(
            "--without-secrets",
            action="store_true",
            help="secrets/signing.key is lost: believe what lies in the directories without the signatures.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        os.umask(0o077)
        own_folder(settings.WAREHOUSE_DATA)
        if "signing.key" in missing_secrets() and not options["without_secrets"]:
            raise CommandError(
                f"{settings.WAREHOUSE_DATA / 'secrets' / 'signing.key'} is missing, and with it what proves the "
                "journal and the needles to be this store's. Put the secrets folder back from its backup; where there "
                "is none, --without-secrets believes the directories as they are.",
                returncode=2,
            )
        _allow_many_files()
        try:
            with (
                UpLock.held(settings.WAREHOUSE_DATA),
                opened(options["directories"]) as directories,
                _database(keep=not options["dry_run"]),
            ):
                report = rebuild(
                    directories,
                    check_macs=not options["without_secrets"],
                    keep=not options["dry_run"],
                    progress=self.stderr.write,
                )
        except (WarehouseError, AlreadyUp) as error:
            raise CommandError(getattr(error, "detail", str(error)), returncode=2) from error
        if not options["dry_run"]:
            ensure_secrets()
        if options["json"]:
            self.stdout.write(json.dumps(report.as_json()))
        else:
            self.stdout.write("\n".join(_lines(report, kept=not options["dry_run"])))
        if not report.is_certain:
            raise CommandError("Something is uncertain or missing: see the report.", returncode=1)


@contextmanager
def _database(*, keep: bool) -> Iterator[None]:
    """An empty, migrated database for what happens inside.

    A database file comes into its place whole or not at all. One that is there already is used only if it is empty,
    and in one transaction, as PostgreSQL's.
    """
    name = str(connection.settings_dict["NAME"])
    if connection.vendor != "sqlite" or Path(name).exists():
        call_command("migrate", interactive=False, verbosity=0)
        yield
        return
    final = Path(name)
    temporary = final.with_name(f".{final.name}.rebuilding")
    _remove(temporary)
    connection.close()
    connection.settings_dict["NAME"] = str(temporary)
    try:
        call_command("migrate", interactive=False, verbosity=0)
        yield
        connection.close()
        if keep:
            _sync(temporary)
            temporary.rename(final)
            _sync(final.parent)
    finally:
        connection.close()
        connection.settings_dict["NAME"] = name
        _remove(temporary)


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _allow_many_files() -> None:
    """Each volume is an open file."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _lines(report: Report, *, kept: bool) -> Iterator[str]:
    made = ", ".join(f"{count:,} {name}" for name, count in report.counts.items())
    yield f"The database of store {report.store} {'is made' if kept else 'would be made'}: {made}."
    if report.journal_read_at is None:
        yield (
            "There was no journal to use. Everything comes from the needles themselves: keys, grants, shares and "
            "settings are lost, renamed objects have the names they were put under, deleted ones may be back."
        )
    else:
        yield f"All up to commit {report.journal_commit} is exact; that was at {report.journal_read_at}."
    if report.commits_unknown:
        yield (
            f"Servers have seen commit {report.seen_commit}: of up to {report.commits_unknown} commits after the "
            "journal's end only the puts are known. What was deleted, renamed, copied or changed by them is as before."
        )
    elif report.journal_read_at is not None:
        yield "No server has seen a later commit: nothing that was committed is missing."
    lists: tuple[tuple[str, list[str]], ...] = (
        ("puts from after the journal's end, taken over", [_late(one) for one in report.late]),
        ("UNCERTAIN", [_late(one) for one in report.uncertain]),
        ("uploads LOST", report.uploads_lost),
        ("objects left out, whose needles are dead by now", report.dropped),
        ("objects that CANNOT BE READ", report.unreadable),
        ("problems", report.problems),
    )
    for title, entries in lists:
        if entries:
            yield f"{len(entries):,} {title}:"
            yield from (f"    {entry}" for entry in entries[:SHOWN])
            if len(entries) > SHOWN:
                yield f"    and {len(entries) - SHOWN:,} more (--json tells all)"
    if report.orphans:
        yield f"{report.orphans:,} needles are nobody's; the orphan sweep deletes them in time."


def _late(one: Late) -> str:
    text = f"{one.bucket}/{one.key} (needle {', '.join(one.needles[:3])}{' …' if len(one.needles) > 3 else ''})"
    return f"{text}: {one.what}" if one.what else text
