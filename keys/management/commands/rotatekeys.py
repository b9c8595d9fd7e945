"""Invalidate every token at once."""

from typing import Any

from django.core.management.base import BaseCommand

from keys.errors import Unavailable
from keys.services.keys import require_lasting, rotate_keys


class Command(BaseCommand):
    help = (
        "Invalidate every token, session, lease and signed URL at once. The keys themselves stay good: "
        "clients sign in again with them. Links of shares go on."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        replaced = rotate_keys()
        self.stdout.write(
            "Every token, session, lease and signed URL is invalid now, for volume servers within two heartbeats. "
            "Keys stay good: sign in with them again."
        )
        try:
            require_lasting()
        except Unavailable as error:
            self.stderr.write(f"Note: do it again when another database has taken this one's place. {error.detail}")
        if not replaced:
            self.stdout.write("The key that signs tokens comes from WAREHOUSE_JWT_KEY: change it there.")
