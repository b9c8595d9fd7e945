"""System checks: what is wrong with the settings, said before it hurts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Tags, register
from django.db import connections

from keys.secrets import missing_secrets, unusable_secrets


@register()
def environment_is_understood(**_: Any) -> list[CheckMessage]:
    return [
        checks.Error(
            f"{finding.name}={finding.value!r} cannot be used: {finding.reason}.",
            hint="Every variable is explained in warehouse_site/settings.py.",
            id="warehouse.E001",
        )
        for finding in settings.ENVIRONMENT.findings
    ]


@register()
def data_folder_can_be(**_: Any) -> list[CheckMessage]:
    """WAREHOUSE_DATA is a folder, or can become one."""
    data: Path = settings.WAREHOUSE_DATA
    try:
        nearest = next(path for path in (data, *data.parents) if path.exists())
        reason = "" if nearest.is_dir() else f"{nearest} is not a folder"
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
    if not reason:
        return []
    return [checks.Error(f"WAREHOUSE_DATA={str(data)!r} cannot be used: {reason}.", id="warehouse.E002")]


@register()
def secrets_can_be_used(**_: Any) -> list[CheckMessage]:
    """Those that are there: without a value in the message, for it may be nearly right."""
    return [checks.Error(sentence, id="warehouse.E003") for sentence in unusable_secrets()]


@register(Tags.security, deploy=True)
def secrets_are_there(**_: Any) -> list[CheckMessage]:
    return [
        checks.Warning(
            f"The secret {name} is missing.",
            hint="Run `manage.py up --init`, which makes all secrets, or set its variable (see keys/secrets.py).",
            id="warehouse.W001",
        )
        for name in missing_secrets()
    ]


@register(Tags.database)
def sqlite_journal_is_safe(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Says which journal SQLite really uses (`manage.py check --database default`)."""
    messages: list[CheckMessage] = []
    for alias in databases or ():
        connection = connections[alias]
        if connection.vendor != "sqlite":
            continue
        with connection.cursor() as cursor:
            cursor.execute("SELECT sqlite_version()")
            version = cursor.fetchone()[0]
            cursor.execute("PRAGMA journal_mode")
            mode = str(cursor.fetchone()[0]).upper()
        wanted = settings.SQLITE_JOURNAL_MODE
        if mode in (wanted, "MEMORY"):
            why = (
                "it has the fix of the WAL-reset bug"
                if wanted == "WAL"
                else "it lacks the fix of the WAL-reset bug (3.51.3, 3.50.7 or 3.44.6), so WAL is not used"
            )
            messages.append(checks.Info(f"SQLite {version} keeps a {mode} journal: {why}.", id="warehouse.I001"))
        else:
            messages.append(
                checks.Warning(
                    f"SQLite {version} keeps a {mode} journal, {wanted} was asked for.",
                    hint="Another process may hold the database open in its own mode, or its file system cannot do it.",
                    id="warehouse.W002",
                )
            )
    return messages
