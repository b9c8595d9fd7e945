"""A text column that sorts and compares by bytes, on every database."""

from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

BYTE_ORDER = {"sqlite": "BINARY", "postgresql": "C"}
"""The collation of each vendor that compares UTF-8 by its bytes (which is by code points)."""


class ByteOrderedField(models.CharField[str, str]):
    """A CharField in byte order: listings page by it, so it must be one order on both databases."""

    def db_parameters(self, connection: BaseDatabaseWrapper) -> Any:
        return {**super().db_parameters(connection), "collation": BYTE_ORDER.get(connection.vendor)}


class OctetLength(models.Func):
    """Bytes of a text in UTF-8, where `Length` counts characters."""

    function = "OCTET_LENGTH"
    output_field = models.IntegerField()

    def as_sqlite(self, compiler: Any, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        # octet_length() is only in SQLite 3.43 and later.
        return self.as_sql(compiler, connection, template="LENGTH(CAST(%(expressions)s AS BLOB))", **context)


class MetadataText(models.Func):
    """The value of one name of an object's metadata; NULL where it has none. Django's own key transform takes a name
    of digits for a place in a list."""

    output_field = models.TextField()

    def __init__(self, name: str) -> None:
        super().__init__("metadata")
        self.metadata_name = name

    def as_sqlite(self, compiler: Any, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        column, _ = compiler.compile(self.source_expressions[0])
        return f"JSON_EXTRACT({column}, %s)", (f'$."{self.metadata_name}"',)

    def as_postgresql(self, compiler: Any, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        column, _ = compiler.compile(self.source_expressions[0])
        return f"({column} ->> %s::text)", (self.metadata_name,)
