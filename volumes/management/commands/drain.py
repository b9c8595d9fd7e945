"""Empty a server, so that it can be switched off."""

import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from keys.errors import WarehouseError
from volumes import selectors
from volumes.management.progress import Board, bar, percent, size_text
from volumes.management.server_argument import find_server
from volumes.models import Replica, Server
from volumes.services.servers import set_admin_state

POLL_S = 0.5
PLAIN_STEP = 10
"""Percent between two lines where there is no terminal."""
INTERRUPTED = 130


class Command(BaseCommand):
    help = (
        "Empty a server: its volumes move to other servers while they are read and written, then it may be switched "
        "off. Waits until it is empty; Ctrl-C leaves the moving going on. The worker does it, so it must run."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("server", help="its id, the beginning of it, its node, or its address")
        parser.add_argument("--cancel", action="store_true", help="keep the server: what has moved stays where it is")
        parser.add_argument("--no-wait", action="store_true", help="have it begun, and return")

    def handle(self, *args: Any, **options: Any) -> None:
        server = find_server(options["server"])
        draining = Server.AdminState.DRAINING
        state = Server.AdminState.ACTIVE if options["cancel"] else draining
        try:
            set_admin_state(server_id=server.pk, admin_state=state, ends=draining)
        except WarehouseError as error:
            raise CommandError(error.detail) from error
        if options["cancel"]:
            self.stdout.write(f"{server} is kept.")
            return
        if options["no_wait"]:
            self.stdout.write(f"{server} is being emptied; this command without --no-wait shows how far it is.")
            return
        board = Board(self.stdout)
        try:
            self._watch(server, board)
        except KeyboardInterrupt:
            board.clear()
            raise CommandError(
                "Interrupted. The server is emptied further; run the command again to watch it, or with --cancel.",
                returncode=INTERRUPTED,
            ) from None

    def _watch(self, server: Server, board: Board) -> None:
        first: int | None = None
        told_percent, told_waiting = -1, ""
        while True:
            now: Any = selectors.list_servers().get(pk=server.pk)
            left, held_bytes = now.volume_count, now.held_bytes
            if now.admin_state != Server.AdminState.DRAINING:
                board.clear()
                raise CommandError(f"{now} is to be {now.admin_state} again; its emptying has ended.")
            if not left and not now.holds_files:
                board.say(f"{now} is empty and may be switched off.")
                return
            first = max(left, first or 0)
            waiting = self._waiting(now)
            if waiting and waiting != told_waiting:
                board.say(f"waiting: {waiting}")
            told_waiting = waiting
            done = percent(first - left, first)
            told = f"{left} volume{'' if left == 1 else 's'} left, {size_text(held_bytes)}"
            board.draw([f"{now} {bar(first - left, first)}  {told}"])
            if not board.is_live and done // PLAIN_STEP > told_percent:
                told_percent = done // PLAIN_STEP
                board.say(f"{done} %, {told}")
            time.sleep(POLL_S)

    def _waiting(self, server: Server) -> str:
        """The first of the reasons why volumes stay."""
        stuck = Replica.objects.filter(server=server).exclude(volume__redundancy_note="").select_related("volume")
        first = stuck.order_by("volume").first()
        return f"volume {first.volume_id}: {first.volume.redundancy_note}" if first else ""
