"""What the system checks of the store can find: an id, what it means, and what to do about it.

The table of docs/operations.md is this one; a test compares them. E are errors, W warnings, I is good to know.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from django.core import checks
from django.core.checks import CheckMessage


@dataclass(frozen=True, slots=True)
class Known:
    """One thing that can be found."""

    id: str
    meaning: str
    hint: str


_KNOWN: Final = (
    Known(
        "warehouse.E001",
        "A setting has a value that cannot be used.",
        "Correct or remove the variable; the table of settings says what it takes.",
    ),
    Known(
        "warehouse.E002",
        "`WAREHOUSE_DATA` cannot be a folder, or cannot be written.",
        "Name another folder, or give this one to the user that runs the store.",
    ),
    Known(
        "warehouse.E003",
        "A secret cannot be read, or is none.",
        "Put the right file back, or correct the variable. A new secret ends what the old one signed.",
    ),
    Known(
        "warehouse.E004",
        "`DATABASE_URL` names no database that the store can use.",
        "Write postgres://user:password@host/name, or remove it for SQLite in the data folder.",
    ),
    Known(
        "warehouse.E005",
        "`REDIS_URL` is no address of a Redis.",
        "Write redis://host/0, or remove it.",
    ),
    Known(
        "warehouse.E006",
        "The file system of `WAREHOUSE_DATA` cannot lock files.",
        "Use a local file system, or mount it with locks: SQLite and the volumes are not safe without.",
    ),
    Known(
        "warehouse.E007",
        "Several gunicorn workers without Redis.",
        "Set `REDIS_URL`, or run one worker (`WEB_CONCURRENCY`, `--workers`) with more `WAREHOUSE_THREADS`.",
    ),
    Known(
        "warehouse.E008",
        "SQLite is older than 3.35.",
        "Run `make setup`, which brings a newer one where there is a wheel of it, or use PostgreSQL.",
    ),
    Known(
        "warehouse.E009",
        "`WAREHOUSE_DEBUG` is on under an https address.",
        "Remove it: its error pages show settings and data to everybody.",
    ),
    Known(
        "warehouse.E010",
        "The machine's clock is years behind.",
        "Set the clock (NTP) before the store starts: what expires, and when, goes by it.",
    ),
    Known(
        "warehouse.E011",
        "A chunk does not fit into a volume.",
        "Make `WAREHOUSE_VOLUME_SIZE` larger, by far, or `WAREHOUSE_CHUNK_SIZE` smaller.",
    ),
    Known(
        "warehouse.E012",
        "The PostgreSQL database is not in UTF-8.",
        "Make a new one: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0.",
    ),
    Known(
        "warehouse.W001",
        "A secret is missing.",
        "Run `manage.py up --init`, which makes all secrets, or set its variable.",
    ),
    Known(
        "warehouse.W002",
        "SQLite keeps another journal than was asked for.",
        "See whether another process holds the database open in its own mode, or its file system cannot do it.",
    ),
    Known(
        "warehouse.W003",
        "Others than the store's user can read a secret.",
        "chmod 600 the file (700 the folder), and think of what may have been read: `manage.py rotatekeys`.",
    ),
    Known(
        "warehouse.W004",
        "A variable begins with `WAREHOUSE_` and is no setting.",
        "Correct its name: as it stands, it does nothing.",
    ),
    Known(
        "warehouse.W005",
        "Lifetimes do not fit together.",
        "Change one of the two, or leave both at their defaults.",
    ),
    Known(
        "warehouse.W006",
        "PostgreSQL takes fewer connections than the store may open.",
        "Raise its `max_connections`, or lower `WAREHOUSE_THREADS`.",
    ),
    Known(
        "warehouse.W007",
        "The clock disagrees with the database.",
        "Set the clocks of both machines (NTP). After a clock was set back, wait or look for what caused it.",
    ),
    Known(
        "warehouse.I001",
        "Which journal SQLite keeps, and why.",
        "Nothing.",
    ),
)

KNOWN: Final = {one.id: one for one in _KNOWN}

_KINDS: Final[dict[str, Callable[..., CheckMessage]]] = {
    "E": checks.Error,
    "W": checks.Warning,
    "I": checks.Info,
}


def found(identifier: str, text: str) -> CheckMessage:
    """What a check gives back for one thing that it found; `text` is the case at hand."""
    kind = _KINDS[identifier.rpartition(".")[2][0]]
    hint = None if kind is checks.Info else KNOWN[identifier].hint
    return kind(text, hint=hint, id=identifier)
