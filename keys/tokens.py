"""Access and refresh tokens: simplejwt's token classes with our key, `kid`, issuer and audience.

access:  sub = key id, gen = the key's generation
refresh: the same, and fam = refresh family, ser = serial within it
"""

import base64
import hashlib
import json
from functools import lru_cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from rest_framework_simplejwt.backends import TokenBackend
from rest_framework_simplejwt.exceptions import TokenBackendError, TokenError
from rest_framework_simplejwt.tokens import AccessToken as BaseAccessToken
from rest_framework_simplejwt.tokens import RefreshToken as BaseRefreshToken
from rest_framework_simplejwt.tokens import Token

from keys.errors import TokenRefused
from keys.secrets import secret

ALGORITHM = "RS256"
AUDIENCE = "warehouse"


class KeyedBackend(TokenBackend):
    """A backend that names its key in every token it makes and takes no token that names another."""

    def __init__(self, private_key: RSAPrivateKey, issuer: str) -> None:
        super().__init__(ALGORITHM, audience=AUDIENCE, issuer=issuer)
        self.private_key = private_key
        self.public_key = private_key.public_key()
        self.public_jwk = _public_jwk(self.public_key)
        self.kid = self.public_jwk["kid"]

    def encode(self, payload: dict[str, Any]) -> str:
        claims = {**payload, "aud": self.audience, "iss": self.issuer}
        return jwt.encode(claims, self.private_key, algorithm=ALGORITHM, headers={"kid": self.kid})

    def decode(self, token: Any, verify: bool = True) -> dict[str, Any]:
        try:
            kid = jwt.get_unverified_header(token).get("kid")
        except jwt.InvalidTokenError as error:
            raise TokenBackendError("Token is invalid") from error
        if kid != self.kid:
            raise TokenBackendError("Token is signed with another key")
        return super().decode(token, verify=True)

    def get_verifying_key(self, token: Token) -> RSAPublicKey:
        return self.public_key


def token_backend() -> KeyedBackend:
    """The backend of the current signing key; a replaced key is seen at once."""
    return _backend_of(secret("jwt.pem"), settings.WAREHOUSE_PUBLIC_URL)


@lru_cache(maxsize=2)
def _backend_of(pem: bytes, issuer: str) -> KeyedBackend:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise ImproperlyConfigured(f"The key that signs tokens cannot be read: {error}") from error
    if not isinstance(key, RSAPrivateKey):
        raise ImproperlyConfigured("The key that signs tokens is not an RSA key.")
    return KeyedBackend(key, issuer)


class AccessToken(BaseAccessToken):
    def get_token_backend(self) -> TokenBackend:
        return token_backend()


class RefreshToken(BaseRefreshToken):
    def get_token_backend(self) -> TokenBackend:
        return token_backend()


def read_access(text: str) -> tuple[int, int]:
    """Key id and generation of a genuine, unexpired access token. Raises TokenRefused."""
    try:
        token = AccessToken(text)  # type: ignore[arg-type]
        return int(token["sub"]), int(token["gen"])
    except (TokenError, KeyError, ValueError, TypeError) as error:
        raise TokenRefused("The access token is invalid or has expired.") from error


def read_refresh(text: str) -> RefreshToken:
    """A genuine, unexpired refresh token; whether it was spent is not known here. Raises TokenRefused."""
    try:
        token = RefreshToken(text)  # type: ignore[arg-type]
    except TokenError as error:
        raise TokenRefused("The refresh token is invalid or has expired.") from error
    if not all(name in token for name in ("sub", "gen", "fam", "ser")):
        raise TokenRefused("This is no refresh token of this store.")
    return token


def jwks() -> dict[str, list[dict[str, str]]]:
    """The public keys that tokens are verified with (RFC 7517)."""
    return {"keys": [token_backend().public_jwk]}


def _public_jwk(key: RSAPublicKey) -> dict[str, str]:
    numbers = key.public_numbers()
    core = {"e": _base64url(numbers.e), "kty": "RSA", "n": _base64url(numbers.n)}
    # RFC 7638: the digest of the members a key must have, sorted, without spaces.
    thumbprint = hashlib.sha256(json.dumps(core, separators=(",", ":"), sort_keys=True).encode()).digest()
    kid = base64.urlsafe_b64encode(thumbprint).rstrip(b"=").decode()
    return {**core, "use": "sig", "alg": ALGORITHM, "kid": kid}


def _base64url(number: int) -> str:
    raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
