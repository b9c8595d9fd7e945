#!/usr/bin/env python
"""The command line of the store: `manage.py help` lists what it can do."""

import importlib.util
import os
import sys

REQUIRED_MODULES = (
    "django",
    "rest_framework",
    "rest_framework_simplejwt",
    "django_htmx",
    "django_stubs_ext",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "whitenoise",
    "celery",
    "gunicorn",
    "requests",
    "dj_database_url",
)

INTERRUPTED = 130
"""Exit code of a program that SIGINT ended, as shells count them."""


def main() -> None:
    missing = [name for name in REQUIRED_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"manage.py: this Python ({sys.executable}) lacks: {', '.join(missing)}.\n"
            "Run `make setup` once, then `make up`, or use .venv/bin/python manage.py."
        )
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "warehouse_site.settings")

    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line
    from django.db.utils import OperationalError, ProgrammingError

    from warehouse_site.up_options import export_options

    export_options(sys.argv)  # before the settings are read, which these options change
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"manage.py: {error}")
    except (OperationalError, ProgrammingError) as error:
        if "--traceback" in sys.argv:
            raise
        sys.exit(f"manage.py: {no_database(error)}")


def no_database(error: Exception) -> str:
    """What to say instead of a traceback where there is no store, or it is not up to date."""
    from django.conf import settings

    from warehouse_site import lost_database

    where = "that DATABASE_URL names" if settings.DATABASE_URL else f"in {settings.WAREHOUSE_DATA} (WAREHOUSE_DATA)"
    lost = lost_database.hint()
    return (
        f"the database {where} cannot be used: {str(error).strip().splitlines()[0]}.\n"
        f"{lost or 'Is that the store you mean? `manage.py up --init` makes one there, or brings it up to date.'}\n"
        "--traceback shows where it went wrong."
    )


if __name__ == "__main__":
    try:
        try:
            main()
        finally:
            sys.stdout.flush()  # here, where a reader that has seen enough is no error to be traced
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:  # also while the imports go on; what has more to say of it has said so
        sys.exit(INTERRUPTED)
