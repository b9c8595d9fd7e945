"""Who speaks: the signed requests of volume servers (see `volume_server.signing`)."""

import threading
import time
from typing import NamedTuple
from uuid import UUID

from django.http import HttpRequest

from volume_server.signing import (
    HEADER_KID,
    HEADER_SERVER,
    HEADER_SIGNATURE,
    HEADER_TIME,
    REQUEST_WINDOW_MS,
    TO_MASTER,
    request_is_signed,
)
from volumes.derived_secrets import server_secret
from volumes.errors import ClockSkew, ServerUnknown, SignatureInvalid
from volumes.models import Server
from volumes.services.forgetting import refuse_forgotten

_MAX_DIGITS = 15
CACHE_SECONDS = 0.5
"""How long a secret that was in force still opens the door: a server sends confirms by the hundred each second."""


class Claim(NamedTuple):
    """What a request says of itself, as text; nothing of it is believed yet."""

    method: str
    target: str
    server: str
    kid: str
    time_ms: str
    signature: str

    @classmethod
    def of(cls, request: HttpRequest) -> "Claim":
        names = (HEADER_SERVER, HEADER_KID, HEADER_TIME, HEADER_SIGNATURE)
        return cls(request.method or "", request.get_full_path(), *(request.headers.get(name, "") for name in names))


class _InForce(NamedTuple):
    """The secret of a server that the database had in force at ``read_at`` (monotonic)."""

    read_at: float
    kid: int
    secret: bytes


_in_force: dict[UUID, _InForce] = {}
_in_force_lock = threading.Lock()


def is_signed(request: HttpRequest) -> bool:
    """Whether the request claims to be signed; `authenticate_server` judges the claim."""
    return HEADER_SIGNATURE in request.headers


def authenticate_server(request: HttpRequest) -> UUID:
    """The id of the server that has signed this request with the secret in force.

    Raises SignatureInvalid, ServerUnknown, ServerForgotten, and ClockSkew, which tells the master's time, to those
    alone whose signature is good.
    """
    return authenticate(Claim.of(request), request.body)


def authenticate(claim: Claim, body: bytes, *, lately: bool = False) -> UUID:
    """As `authenticate_server`. ``lately``: a secret that was in force half a second ago will do."""
    server_id = _server_id(claim.server)
    kid = _decimal(claim.kid)
    time_ms = _decimal(claim.time_ms)
    known = _known_lately(server_id, kid) if lately else None
    signed = request_is_signed(
        known.secret if known is not None else server_secret(server_id, kid),
        claim.signature,
        direction=TO_MASTER,
        method=claim.method,
        target=claim.target,
        body=body,
        server=claim.server,
        time_ms=time_ms,
    )
    if not signed:
        raise SignatureInvalid("The signature is not that server's.")
    now_ms = int(time.time() * 1000)
    if abs(now_ms - time_ms) > REQUEST_WINDOW_MS:
        raise ClockSkew(f"The request is timed {time_ms - now_ms} ms off the master's clock.", now_ms=now_ms)
    if known is None:
        _require_in_force(server_id, kid)
    return server_id


def forget_servers() -> None:
    """Drop what is cached in this process; the next request is judged by the database."""
    with _in_force_lock:
        _in_force.clear()


def _known_lately(server_id: UUID, kid: int) -> _InForce | None:
    cached = _in_force.get(server_id)
    if cached is not None and cached.kid == kid and time.monotonic() - cached.read_at <= CACHE_SECONDS:
        return cached
    return None


def _require_in_force(server_id: UUID, kid: int) -> None:
    """Asks the database. Only a yes is remembered, so a new server or a new secret is let in at once."""
    now = time.monotonic()
    in_force = Server.objects.filter(pk=server_id).values_list("kid", flat=True).first()
    with _in_force_lock:
        _in_force.pop(server_id, None)
        if in_force is not None:
            _in_force[server_id] = _InForce(now, in_force, server_secret(server_id, in_force))
    if in_force is None:
        refuse_forgotten(server_id)
        raise ServerUnknown(f"Server {server_id} has not registered here.")
    if in_force != kid:
        raise SignatureInvalid(f"Secret {kid} of server {server_id} is not in force.")


def _server_id(text: str) -> UUID:
    try:
        server_id = UUID(text)
    except ValueError:
        raise SignatureInvalid(f"{HEADER_SERVER} is missing or is no UUID.") from None
    if str(server_id) != text:
        raise SignatureInvalid(f"{HEADER_SERVER} is not spelled as a UUID in lower case.")
    return server_id


def _decimal(text: str) -> int:
    """A decimal without leading zeros."""
    if not text.isascii() or not text.isdecimal() or len(text) > _MAX_DIGITS or str(int(text)) != text:
        raise SignatureInvalid(f"{HEADER_KID} or {HEADER_TIME} is missing or is no decimal.")
    return int(text)
