"""Which SQLite Django gets: the interpreter's, or a newer one where that is not fit for WAL (docs/adr/0003).

To be imported before Django's backend is, which takes `sqlite3` as it then finds it.
"""

import sys
from importlib import import_module


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """Whether this SQLite has the fix of the WAL-reset bug (a checkpoint could lose a commit)."""
    if version >= (3, 51, 3):
        return True
    return any(line <= version < (line[0], line[1] + 1) for line in ((3, 50, 7), (3, 44, 6)))


def choose() -> tuple[int, ...]:
    """Puts `pysqlite3` into the place of `sqlite3` where that helps; the version of SQLite that is used then."""
    own: tuple[int, ...] = import_module("sqlite3").sqlite_version_info
    if wal_is_safe(own):
        return own
    try:
        newer = import_module("pysqlite3")
    except ImportError:  # there is no wheel of it for this machine
        return own
    sys.modules["sqlite3"] = newer
    sys.modules["sqlite3.dbapi2"] = import_module("pysqlite3.dbapi2")
    version: tuple[int, ...] = newer.sqlite_version_info
    return version
