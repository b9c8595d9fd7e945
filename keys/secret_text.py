"""The text of a key: `whk_<id>_<secret>`. Pure functions.

The secret has 256 bits of chance in it, so one fast hash of it is as good as a slow one: there is nothing to guess.
"""

import hashlib
import hmac
import secrets
import string

PREFIX = "whk"
SECRET_CHARS = 43
MAX_ID = (1 << 63) - 1
_ALPHABET = string.ascii_letters + string.digits
_NOBODYS_HASH = "0" * 64


def new_secret() -> str:
    """43 letters and digits: 256 bits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(SECRET_CHARS))


def key_text(key_id: int, secret: str) -> str:
    return f"{PREFIX}_{key_id}_{secret}"


def parse(text: str) -> tuple[int, str] | None:
    """Id and secret of a key's text; None where it is no such text."""
    prefix, _, rest = text.strip().partition("_")
    number, _, secret = rest.partition("_")
    if prefix != PREFIX or not secret or not (number.isascii() and number.isdigit()) or len(number) > len(str(MAX_ID)):
        return None
    key_id = int(number)
    return (key_id, secret) if 0 < key_id <= MAX_ID and number == str(key_id) else None


def secret_hash(secret: str) -> str:
    """64 hex digits, the only thing that is kept of a secret."""
    return hashlib.blake2b(secret.encode(), digest_size=32, person=b"warehouse key 1").hexdigest()


def secret_matches(secret: str, stored_hash: str | None) -> bool:
    """Whether this is the secret, in constant time; without a stored hash (no such key) it costs the same."""
    same = hmac.compare_digest(secret_hash(secret), stored_hash or _NOBODYS_HASH)
    return same and stored_hash is not None
