"""Django's SQLite backend, with statements translated once instead of at each call, and an eye on its file.

Django writes parameters as ``%s`` and rewrites them for SQLite with a regular expression whenever it runs a statement.
Those of a commit are long, since they take a batch at once, and the same ones come again and again: a seventh of the
time of a commit of thirty objects went there.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from django.db.backends.sqlite3 import base

from warehouse_site.sqlite.file import DatabaseFile, file_of

_MAX_TRANSLATED = 1024


class Cursor(base.SQLiteCursorWrapper):
    """What `connection.cursor()` wraps."""

    def convert_query(self, query: str, *, param_names: Iterable[str] | None = None) -> str:
        if param_names is None:
            return _translated(query)
        return super().convert_query(query, param_names=param_names)


@lru_cache(maxsize=_MAX_TRANSLATED)
def _translated(query: str) -> str:
    return base.FORMAT_QMARK_REGEX.sub("?", query).replace("%%", "%")


class DatabaseWrapper(base.DatabaseWrapper):
    """What `ENGINE` names. It opens a file that there is, and makes none (`warehouse_site.sqlite.file`)."""

    file: DatabaseFile | None = None
    """Of the connection that is open."""

    def get_connection_params(self) -> dict[str, Any]:
        params: dict[str, Any] = super().get_connection_params()
        self.file = file_of(str(params["database"]))
        if self.file is not None:
            params["database"] = self.file.uri
        return params

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Raises DatabaseLost."""
        if self.file is not None:
            self.file.require_same()
        opened = super().get_new_connection(conn_params)
        if self.file is not None:
            self.file.note_opened()
        return opened

    def create_cursor(self, name: Any = None) -> Any:
        """Raises DatabaseLost."""
        if self.file is not None:
            self.file.require_same_lately()
        return self.connection.cursor(factory=Cursor)
