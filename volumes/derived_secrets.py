"""Secrets that servers and intents are signed with, all derived from the store's one signing key.

None of them is kept in the database, so a stolen backup signs nothing. Derivation is HMAC-SHA256 over a
one-line label (RFC 5869 speaks of it as "expand" with info), so that no secret can stand in for another.
"""

import hmac
from uuid import UUID

from keys.secrets import secret


def server_secret(server_id: UUID | str, kid: int) -> bytes:
    """The 32 bytes that a volume server with this id and this ``kid`` shares with the master."""
    return _derive(f"server secret 1\n{server_id}\n{kid}")


def intent_secret(secret_id: int) -> bytes:
    """The 32 bytes that make an intent's MAC; only the master has them."""
    return _derive(f"intent secret 1\n{secret_id}")


def journal_secret() -> bytes:
    """The 32 bytes that make the MAC of each part of the journal; only the master has them."""
    return _derive("journal secret 1")


def _derive(label: str) -> bytes:
    return hmac.digest(secret("signing.key"), label.encode(), "sha256")
