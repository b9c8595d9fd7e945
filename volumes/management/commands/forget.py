"""Take a server that died for good off the books."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from keys.errors import WarehouseError
from volumes.management.server_argument import find_server
from volumes.models import Server
from volumes.owners import owners_in
from volumes.selectors import volumes_only_on
from volumes.services.forgetting import Losses, forget_server, losses_of, refuse_losses


class Command(BaseCommand):
    help = (
        "Take a server off the books that died for good, and never let it in again under its id. Its copies are made "
        "anew from others; volumes that it alone had go, if no object names anything in them. Without --yes it says "
        "what would happen, and changes nothing."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("server", help="its id, the beginning of it, its node, or its address")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--yes", action="store_true", help="do it")
        what.add_argument(
            "--list",
            action="store_true",
            help="name what it alone has a part of, a line of JSON each: objects, and uploads that are not complete",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        server = find_server(options["server"])
        if options["list"]:
            self._list(server)
            return
        try:
            losses = losses_of(server_id=server.pk)
            self._tell(server, losses)
            refuse_losses(losses.holdings)
            if not options["yes"]:
                self.stdout.write("Nothing was changed; with --yes it is forgotten.")
                return
            done = forget_server(server_id=server.pk)
        except WarehouseError as error:
            raise CommandError(error.detail) from error
        self.stdout.write(
            f"{server} is forgotten: {done.copies:,} copies are made anew, {done.volumes:,} volumes are gone."
        )

    def _tell(self, server: Server, losses: Losses) -> None:
        self.stdout.write(
            f"{server}: {losses.copies:,} copies are made anew from others; of {losses.volumes:,} volumes no other "
            "copy has everything."
        )
        held = losses.holdings
        for bucket in sorted(held.objects.keys() | held.uploads.keys()):
            self.stdout.write(
                f"  bucket {bucket}: {held.objects[bucket]:,} objects, {held.uploads[bucket]:,} open uploads"
            )

    def _list(self, server: Server) -> None:
        for owner in owners_in(volumes_only_on(server.pk)):
            line = {"bucket": owner.bucket, "key": owner.key, "is_upload": owner.is_upload}
            self.stdout.write(json.dumps(line, ensure_ascii=False))
