"""Start the whole store on this machine."""

import json
import os
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from keys.secrets import own_folder
from warehouse_site import up, up_options
from warehouse_site.supervisor import Signals
from warehouse_site.up_lock import AlreadyUp, UpLock


class Command(BaseCommand):
    help = (
        "Start the whole store on this machine: database, first key, master, volume servers and worker. "
        "Ctrl-C or SIGTERM stops all of it; a second Ctrl-C kills what is left."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        up_options.add_options(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        os.umask(0o077)  # what the store writes, its parts included, is for its own user
        data = settings.WAREHOUSE_DATA
        if not data.exists() and not options["init"]:
            # Before anything is made: where the ports are taken, no folder is left behind.
            try:
                up.require_free_ports(_plan(options))
            except up.CannotStart as error:
                raise CommandError(str(error)) from error
        try:
            own_folder(data)
        except OSError as error:
            raise CommandError(f"The data folder cannot be used: {error}") from error
        try:
            with UpLock.held(data) as lock:
                self._run(lock, **options)
        except AlreadyUp as error:
            raise CommandError(f"{error} Another store takes another folder: --data.") from error
        except up.CannotStart as error:
            raise CommandError(str(error)) from error

    def _run(self, lock: UpLock, **options: Any) -> None:
        wanted = _plan(options)
        if options["init"]:
            up.prepare()
            self._say("initialised", as_json=options["json"])
            return
        up.require_free_ports(wanted)
        with Signals().caught() as signals:
            up.prepare()
            running = up.Running(wanted, signals, lock)
            try:
                if running.start():
                    self._say("ready", as_json=options["json"])
                    running.watch()
            finally:
                running.stop()
        if not options["json"]:
            self.stdout.write("The store has stopped.")

    def _say(self, event: str, *, as_json: bool) -> None:
        key, url = up.admin_key(), settings.WAREHOUSE_PUBLIC_URL
        if as_json:
            self.stdout.write(json.dumps({"event": event, "url": url, "key": key}, separators=(",", ":")))
        else:
            shown = key or "(the first one no longer works; `manage.py createkey --admin` makes another)"
            title = "The store is ready." if event == "ready" else "The store is prepared."
            self.stdout.write(
                f"\n  {self.style.SUCCESS(title)}\n\n"
                f"    Web and API   {url}\n"
                f"    Admin site    {url}/admin/\n"
                f"    Admin key     {shown}\n"
                f"    Data          {settings.WAREHOUSE_DATA}\n"
            )
            if event == "ready":
                self.stdout.write("  Ctrl-C stops it.\n")
        self.stdout.flush()


def _plan(options: dict[str, Any]) -> up.Plan:
    """Raises CannotStart."""
    return up.plan(
        volume_servers=options["volume_servers"],
        volume_port=options["volume_port"],
        worker=not options["no_worker"],
        json_logs=options["json"],
        restart=not options["no_restart"],
    )
