"""Make an API key."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from keys.errors import Invalid
from keys.permissions import ALL_PERMISSIONS, Permission, names
from keys.services.keys import create_key


class Command(BaseCommand):
    help = "Make an API key and print it: the only time that it is shown."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--name", default="command line", help="what the key is for (default: command line)")
        parser.add_argument(
            "--permissions",
            default="0",
            help="bits that hold in every bucket: a number, or names such as OBJECTS_READ,OBJECTS_WRITE",
        )
        parser.add_argument("--admin", action="store_true", help="a key that may do everything")
        parser.add_argument("--json", action="store_true", help='print {"id", "key"} as the last line')

    def handle(self, *args: Any, **options: Any) -> None:
        permissions = _parse(options["permissions"])
        if options["admin"]:
            permissions |= Permission.ADMIN
        try:
            new = create_key(actor=None, name=options["name"], permissions=permissions)
        except Invalid as error:
            raise CommandError(error.detail) from error
        if options["json"]:
            self.stdout.write(json.dumps({"id": new.key.pk, "key": new.text}, separators=(",", ":")))
            return
        held = ", ".join(names(permissions)) or "no rights of its own"
        self.stdout.write(f"Key {new.key.pk} ({new.key.name}) has {held}. It is shown once:")
        self.stdout.write(new.text)


def _parse(text: str) -> int:
    if text.isascii() and text.isdigit():
        return int(text)
    bits = 0
    for name in text.split(","):
        try:
            bits |= Permission[name.strip().upper()]
        except KeyError:
            known = ", ".join(names(ALL_PERMISSIONS))
            raise CommandError(f"{name!r} is no permission. There are: {known}.") from None
    return bits
