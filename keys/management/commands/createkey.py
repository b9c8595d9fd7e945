"""Make an API key."""

import argparse
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from keys.errors import Invalid, Unavailable
from keys.permissions import Permission, bits_of, names
from keys.rights import GrantRow
from keys.services.keys import create_key, require_lasting

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


class Command(BaseCommand):
    help = "Make an API key and print it: the only time that it is shown."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--name", default="command line", help="what the key is for (default: command line)")
        parser.add_argument(
            "--permissions",
            type=permission_bits,
            default=0,
            help="bits that hold in every bucket: a number, or names such as OBJECTS_READ,OBJECTS_WRITE. There are: "
            + ", ".join(f"{name} ({int(bit)})" for name, bit in Permission.__members__.items()),
        )
        parser.add_argument(
            "--grant",
            action="append",
            default=[],
            dest="grants",
            type=grant,
            metavar="BUCKET[/PREFIX]=PERMISSIONS",
            help="bits that hold in one bucket, for keys that begin with the prefix alone; may be given several times",
        )
        parser.add_argument(
            "--expires",
            type=moment,
            metavar="TIME",
            help="when it ends: 2027-01-31, 2027-01-31T12:00Z, or how long it lives: 30m, 12h, 7d",
        )
        parser.add_argument("--description", default="", help="more about what it is for")
        parser.add_argument("--admin", action="store_true", help="a key that may do everything")
        parser.add_argument("--json", action="store_true", help='print {"id", "key"} as the last line')

    def handle(self, *args: Any, **options: Any) -> None:
        permissions = options["permissions"]
        if options["admin"]:
            permissions |= Permission.ADMIN
        try:
            new = create_key(
                actor=None,
                name=options["name"],
                description=options["description"],
                permissions=permissions,
                grants=options["grants"],
                expires_at=options["expires"],
            )
        except Invalid as error:
            raise CommandError(error.detail) from error
        if not permissions and not options["grants"]:
            self.stderr.write(
                "Hint: this key may do nothing yet. Give it rights in the admin site, or make one with --permissions, "
                "--grant or --admin."
            )
        try:
            require_lasting()
        except Unavailable as error:
            self.stderr.write(f"Note: this key goes when another database takes this one's place. {error.detail}")
        if options["json"]:
            self.stdout.write(json.dumps({"id": new.key.pk, "key": new.text}, separators=(",", ":")))
            return
        held = f"{', '.join(names(permissions)) or 'no rights everywhere'} ({permissions})"
        self.stdout.write(f"Key {new.key.pk} ({new.key.name}) has {held}.")
        for one in new.key.grants.all():
            self.stdout.write(f"In {one.bucket}/{one.prefix}: {', '.join(one.permission_names)} ({one.permissions})")
        self.stdout.write("It is shown once:")
        self.stdout.write(new.text)


def permission_bits(text: str) -> int:
    """``3``, or ``OBJECTS_READ,OBJECTS_WRITE``."""
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return bits_of(text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def grant(text: str) -> GrantRow:
    """``photos=1`` or ``photos/2026/=OBJECTS_READ``: a prefix may have a ``=`` in it, too."""
    place, equals, permissions = text.rpartition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no grant; write BUCKET=PERMISSIONS or BUCKET/PREFIX=PERMISSIONS")
    bucket, _, prefix = place.partition("/")
    return GrantRow(bucket, prefix, permission_bits(permissions))


def moment(text: str) -> datetime:
    """A date, a time (of UTC, where it names no zone), or so many minutes, hours or days from now."""
    if re.fullmatch(r"[0-9]{1,5}[mhd]", text, re.ASCII):
        return timezone.now() + int(text[:-1]) * _UNITS[text[-1]]
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 2027-01-31, 2027-01-31T12:00Z, or 12h") from None
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)
