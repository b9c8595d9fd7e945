"""Django's own `migrate`; it alone makes a SQLite database where there is none."""

from typing import Any

from django.core.management.commands import migrate
from django.db import connections

from warehouse_site.sqlite.file import file_of


class Command(migrate.Command):
    def execute(self, *args: Any, **options: Any) -> str | None:
        # Before the system checks, which ask the database.
        connection = connections[options["database"]]
        if connection.vendor == "sqlite" and not options["plan"] and not options["check_unapplied"]:
            file = file_of(str(connection.settings_dict["NAME"]))
            if file is not None:
                file.make()
        return super().execute(*args, **options)
