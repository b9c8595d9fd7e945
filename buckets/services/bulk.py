"""One statement for many rows, in the SQL that SQLite and PostgreSQL share.

The ORM's own bulk calls cost a model instance a row, which is most of a commit's time when it is counted in
microseconds an object (see bench/confirm.py). Statements stay the same in number whatever the rows, until the
database's limit of parameters is met. PostgreSQL is given an array a column instead of a parameter a value: to find
thousands of placeholders in a statement took half the time of a commit of two hundred objects there.
"""

import functools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.apps import apps
from django.db import connection

MAX_PARAMETERS = 30_000
"""In one statement: SQLite takes 32,766, PostgreSQL 65,535."""

Row = tuple[Any, ...]


def insert_rows(*, into: str, columns: tuple[str, ...], rows: Sequence[Sequence[Any]], then: str = "") -> list[Row]:
    """``INSERT INTO into (columns) VALUES ... then``; what a RETURNING in ``then`` gave, in no certain order."""
    returned: list[Row] = []
    at_once = MAX_PARAMETERS // len(columns)
    with connection.cursor() as cursor:
        for at in range(0, len(rows), at_once):
            part = rows[at : at + at_once]
            if connection.vendor == "postgresql":
                source = f"SELECT * FROM {_unnest(into, columns)}"  # noqa: S608 - names alone are put in
                parameters = [list(values) for values in zip(*part, strict=True)]
            else:
                source = f"VALUES {_values(len(part), len(columns))}"
                parameters = [value for row in part for value in row]
            cursor.execute(f"INSERT INTO {into} ({', '.join(columns)}) {source} {then}", parameters)
            if "RETURNING" in then:
                returned += cursor.fetchall()
    return returned


def run_in(statement: str, values: Iterable[Any]) -> list[Row]:
    """Runs a statement each of whose ``IN {in}`` asks for one of the values; the rows it gave."""
    values = list(values)
    rows: list[Row] = []
    lists = statement.count("IN {in}")
    at_once = MAX_PARAMETERS // lists
    with connection.cursor() as cursor:
        for at in range(0, len(values), at_once):
            part = values[at : at + at_once]
            if connection.vendor == "postgresql":
                cursor.execute(statement.replace("IN {in}", "= ANY(%s)"), [part] * lists)
            else:
                cursor.execute(statement.replace("{in}", placeholders(len(part))), part * lists)
            if cursor.description is not None:
                rows += cursor.fetchall()
    return rows


def run_values(
    statement: str, *, columns: tuple[str, ...], rows: Sequence[Sequence[Any]], parameters: Sequence[Any] = ()
) -> None:
    """Runs a statement to which ``v`` is a table of ``columns`` and ``rows``; ``parameters`` are its own."""
    at_once = (MAX_PARAMETERS - len(parameters)) // len(columns)
    with connection.cursor() as cursor:
        for at in range(0, len(rows), at_once):
            part = rows[at : at + at_once]
            table = f"WITH v ({', '.join(columns)}) AS (VALUES {_values(len(part), len(columns))})"
            cursor.execute(f"{table} {statement}", [*(value for row in part for value in row), *parameters])


@functools.lru_cache(maxsize=512)
def _unnest(table: str, columns: tuple[str, ...]) -> str:
    """``unnest(%s::bigint[], ...)`` with the types of the table's columns; PostgreSQL's."""
    [model] = [model for model in apps.get_models() if model._meta.db_table == table]
    types = {field.column: str(field.db_type(connection)) for field in model._meta.concrete_fields}
    # Lengths are the columns' to judge: a cast would cut off what is too long.
    arrays = [f"%s::{types[column.strip(chr(34))].partition('(')[0]}[]" for column in columns]
    return f"unnest({', '.join(arrays)})"


@functools.lru_cache(maxsize=512)
def placeholders(count: int) -> str:
    """``(%s, %s, ...)``"""
    return "(" + ", ".join(["%s"] * count) + ")"


@functools.lru_cache(maxsize=512)
def _values(rows: int, columns: int) -> str:
    return ", ".join([placeholders(columns)] * rows)


def as_datetime(value: Any) -> datetime:
    """A moment as a raw statement gives it: SQLite's are in UTC and don't say so, out of RETURNING they are text."""
    moment: datetime = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def database_uuid(value: UUID) -> UUID | str:
    """A UUID as a raw statement wants it: hex text for SQLite, itself for PostgreSQL."""
    return value if connection.features.has_native_uuid_field else value.hex
