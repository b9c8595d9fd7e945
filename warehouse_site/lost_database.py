"""What to say where a SQLite database is missing, and what lies beside it shows that there was one."""

from pathlib import Path

from django.conf import settings
from django.db import connection

from warehouse_site.sqlite.file import file_of


def is_lost() -> bool:
    """Whether the database is missing, or is an empty file, beside volumes that hold something."""
    return _is_missing() and _holds_volumes(settings.WAREHOUSE_DATA)


def hint() -> str | None:
    """How to get a missing database back; None where it is there, or nothing shows that there ever was one."""
    data: Path = settings.WAREHOUSE_DATA
    if not _is_missing():
        return None
    if _holds_volumes(data):
        return (
            f"There are volumes in {data / 'volumes'}, so the database was lost. Put it back from where it is, or have "
            f"it made anew: stop everything, then `manage.py rebuild --from {data / 'volumes'}`."
        )
    if (data / "secrets").is_dir():
        return (
            f"There are secrets in {data / 'secrets'}: if a store was there, put its database back, or have it made "
            "anew by `manage.py rebuild --from` the data directories of all its volume servers. If there was none, "
            "`manage.py up --init` makes one."
        )
    return None


def _is_missing() -> bool:
    if connection.vendor != "sqlite":
        return False
    file = file_of(str(connection.settings_dict["NAME"]))
    if file is None:
        return False
    return not file.path.exists() or file.path.stat().st_size == 0


def _holds_volumes(data: Path) -> bool:
    return next((data / "volumes").glob("*/*.vol"), None) is not None
