"""System checks: what is wrong with the settings and with the machine, said before it hurts.

What they can find stands in `warehouse_site.check_ids`. E004 and E005 are raised where the settings are read.
"""

import difflib
import fcntl
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Tags, register
from django.db import connections

from keys.secrets import missing_secrets, secrets_folder, unusable_secrets
from volumes.services.placement import RECORD_OVERHEAD_BYTES
from warehouse_site import sqlite
from warehouse_site.check_ids import found

CLIENT_VARIABLES: Final = ("WAREHOUSE_URL", "WAREHOUSE_KEY")
"""What the SDK reads; it may well be set in the same shell."""
WRITTEN_AT_S: Final = 1_735_689_600
"""2025-01-01: this code is younger than that, so no clock that is right says less."""
SLOW_BODY_S: Final = 120
"""So long may a small put take from its first byte to its last; a lease may end meanwhile."""
OLDEST_SQLITE: Final = (3, 35, 0)
"""The first one with RETURNING."""


@register()
def environment_is_understood(**_: Any) -> list[CheckMessage]:
    return [
        found("warehouse.E001", f"{one.name}={one.value!r} cannot be used: {one.reason}.")
        for one in settings.ENVIRONMENT.findings
    ]


@register()
def no_setting_is_misspelt(**_: Any) -> list[CheckMessage]:
    known = {variable.name for variable in settings.ENVIRONMENT.variables} | set(CLIENT_VARIABLES)
    messages = []
    for name in sorted(set(os.environ) - known):
        if name.startswith("WAREHOUSE_"):
            near = difflib.get_close_matches(name, known, n=1)
            meant = f" Is {near[0]} meant?" if near else ""
            messages.append(found("warehouse.W004", f"{name} is no setting of the store.{meant}"))
    return messages


@register()
def data_folder_can_be(**_: Any) -> list[CheckMessage]:
    """WAREHOUSE_DATA is a folder, or can become one, and can be written."""
    data: Path = settings.WAREHOUSE_DATA
    try:
        nearest = next(path for path in (data, *data.parents) if path.exists())
        reason = "" if nearest.is_dir() else f"{nearest} is not a folder"
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
    else:
        if not reason and not os.access(nearest, os.W_OK | os.X_OK):
            reason = f"this user may not write to {nearest}"
    return [found("warehouse.E002", f"WAREHOUSE_DATA={str(data)!r} cannot be used: {reason}.")] if reason else []


@register()
def data_folder_locks(**_: Any) -> list[CheckMessage]:
    """Both kinds of locks: flock keeps a second process out, SQLite locks ranges of bytes."""
    data: Path = settings.WAREHOUSE_DATA
    if not data.is_dir() or not os.access(data, os.W_OK | os.X_OK):
        return []
    try:
        reason = _why_no_locks(data)
    except OSError as error:
        reason = str(error.strerror)
    return [found("warehouse.E006", f"Files in {data} cannot be locked: {reason}.")] if reason else []


def _why_no_locks(folder: Path) -> str:
    """Empty when a lock keeps others out. Raises OSError where there are none."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".lock-") as file, open(file.name, "rb+") as other:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(file, fcntl.LOCK_UN)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ""
        return "two at once get the same lock"


@register()
def secrets_can_be_used(**_: Any) -> list[CheckMessage]:
    """Those that are there: without a value in the message, for it may be nearly right."""
    return [found("warehouse.E003", sentence) for sentence in unusable_secrets()]


@register()
def secrets_are_for_us_alone(**_: Any) -> list[CheckMessage]:
    messages = []
    for path, mode in _modes(secrets_folder()):
        if mode & 0o077:
            messages.append(found("warehouse.W003", f"{path} has mode {mode:04o}."))
    return messages


def _modes(folder: Path) -> Iterator[tuple[Path, int]]:
    """The folder and the files in it, each with its mode; nothing where it cannot be looked into."""
    try:
        paths = [folder, *sorted(path for path in folder.iterdir() if path.is_file())]
        modes = [(path, stat.S_IMODE(path.stat().st_mode)) for path in paths]
    except OSError:  # not there yet; else it is E003 that tells
        return
    yield from modes


@register(Tags.security, deploy=True)
def secrets_are_there(**_: Any) -> list[CheckMessage]:
    return [found("warehouse.W001", f"The secret {name} is missing.") for name in missing_secrets()]


@register(Tags.security, deploy=True)
def workers_share_a_cache(**_: Any) -> list[CheckMessage]:
    """What the environment says of workers. `up` runs one whatever it says; gunicorn's start looks again."""
    workers = workers_asked_for(os.environ.get("WEB_CONCURRENCY", ""), os.environ.get("GUNICORN_CMD_ARGS", ""))
    return [found("warehouse.E007", alone(workers))] if workers > 1 and not settings.REDIS_URL else []


def workers_asked_for(web_concurrency: str, arguments: str) -> int:
    """The number of workers that gunicorn would start by these two variables."""
    given = re.findall(r"(?:^|\s)(?:-w|--workers)[ =]?(\d+)", arguments)
    text = given[-1] if given else web_concurrency
    return int(text) if text.isascii() and text.isdecimal() else 1


def alone(workers: int) -> str:
    """Why several workers need Redis."""
    return f"{workers} gunicorn workers, each with a cache of its own: failed log-ins would be counted by each alone."


@register(Tags.security)
def debug_is_for_the_desk(**_: Any) -> list[CheckMessage]:
    if not (settings.DEBUG and settings.WAREHOUSE_PUBLIC_URL.startswith("https:")):
        return []
    return [found("warehouse.E009", f"WAREHOUSE_DEBUG=1 at {settings.WAREHOUSE_PUBLIC_URL}.")]


@register()
def clock_is_right(**_: Any) -> list[CheckMessage]:
    now = time.time()
    if now >= WRITTEN_AT_S:
        return []
    return [found("warehouse.E010", f"The clock says {time.strftime('%Y-%m-%d', time.gmtime(now))}.")]


@register()
def chunks_fit_into_volumes(**_: Any) -> list[CheckMessage]:
    chunk, volume = settings.WAREHOUSE_CHUNK_SIZE, settings.WAREHOUSE_VOLUME_SIZE
    if chunk + 2 * RECORD_OVERHEAD_BYTES <= volume:  # the superblock, and the needle's own
        return []
    return [found("warehouse.E011", f"A chunk of {chunk} bytes has no room in a volume of {volume}.")]


@register()
def lifetimes_fit_together(**_: Any) -> list[CheckMessage]:
    grace, upload = settings.WAREHOUSE_CONFIRM_GRACE_SECONDS, settings.WAREHOUSE_UPLOAD_SECONDS
    chunk_url, access = settings.WAREHOUSE_CHUNK_URL_SECONDS, settings.WAREHOUSE_ACCESS_SECONDS
    refresh = settings.WAREHOUSE_REFRESH_SECONDS
    texts = []
    if grace < SLOW_BODY_S:
        texts.append(
            f"WAREHOUSE_CONFIRM_GRACE_SECONDS={grace}: a put may take {SLOW_BODY_S} s, so one that began in time, "
            "before the end of WAREHOUSE_LEASE_SECONDS or WAREHOUSE_CHUNK_URL_SECONDS, would be refused at its end."
        )
    if chunk_url > upload:
        texts.append(
            f"WAREHOUSE_CHUNK_URL_SECONDS={chunk_url} is more than WAREHOUSE_UPLOAD_SECONDS={upload}: "
            "no URL of a chunk outlives its upload."
        )
    if access >= refresh:
        texts.append(
            f"WAREHOUSE_ACCESS_SECONDS={access} is no less than WAREHOUSE_REFRESH_SECONDS={refresh}: "
            "no refresh token would be good when it is needed."
        )
    return [found("warehouse.W005", text) for text in texts]


@register()
def sqlite_is_new_enough(**_: Any) -> list[CheckMessage]:
    if "sqlite" not in settings.DATABASES["default"]["ENGINE"]:
        return []
    version = sqlite.choose()
    if version >= OLDEST_SQLITE:
        return []
    return [found("warehouse.E008", f"This Python has SQLite {'.'.join(map(str, version))}.")]


@register(Tags.database)
def database_is_fit(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Asks the database itself (`manage.py check --database default`, and each start of `up`)."""
    from warehouse_site import database_checks  # it needs models

    messages: list[CheckMessage] = []
    for alias in databases or ():
        messages += database_checks.of(connections[alias])
    return messages
