"""Announce that a server will be silent for a while."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from keys.errors import WarehouseError
from volumes.management.server_argument import find_server
from volumes.models import Server
from volumes.services.servers import set_admin_state


class Command(BaseCommand):
    help = (
        "Announce that a server will be silent for a while, or that this is over. Meanwhile it is not shown as "
        "offline, nothing new goes there, and its volumes are not copied elsewhere, however long it takes."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("server", help="its id, the beginning of it, its node, or its address")
        parser.add_argument("state", choices=["on", "off"])

    def handle(self, *args: Any, **options: Any) -> None:
        server = find_server(options["server"])
        is_on = options["state"] == "on"
        maintenance = Server.AdminState.MAINTENANCE
        state = maintenance if is_on else Server.AdminState.ACTIVE
        try:
            set_admin_state(server_id=server.pk, admin_state=state, ends=maintenance)
        except WarehouseError as error:
            raise CommandError(error.detail) from error
        told = "is in maintenance: it may be stopped and started" if is_on else "is in use again"
        self.stdout.write(f"{server} {told}.")
