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

_MAX_DIGITS = 15
CACHE_SECONDS = 0.5
"""How long a secret that was in force still opens the door: a server sends confirms by the hundred each second."""


class _InForce(NamedTuple):
    """The secret of a server that the database had in force at ``read_at`` (monotonic)."""

    read_at: float
    kid: int


_in_force: dict[UUID, _InForce] = {}
_in_force_lock = threading.Lock()


def is_signed(request: HttpRequest) -> bool:
    """Whether the request claims to be signed; `authenticate_server` judges the claim."""
    return HEADER_SIGNATURE in request.headers


def authenticate_server(request: HttpRequest, *, lately: bool = False) -> UUID:
    """The id of the server that has signed this request with the secret in force.

    ``lately``: a secret that was in force half a second ago will do.

    Raises SignatureInvalid, ServerUnknown, and ClockSkew, which tells the master's time, to those alone whose
    signature is good.
    """
    server_id = _server_id(request.headers.get(HEADER_SERVER, ""))
    kid = _decimal(request.headers.get(HEADER_KID, ""))
    time_ms = _decimal(request.headers.get(HEADER_TIME, ""))
    signed = request_is_signed(
        server_secret(server_id, kid),
        request.headers.get(HEADER_SIGNATURE, ""),
        direction=TO_MASTER,
        method=request.method or "",
        target=request.get_full_path(),
        body=request.body,
        server=str(server_id),
        time_ms=time_ms,
    )
    if not signed:
        raise SignatureInvalid("The signature is not that server's.")
    now_ms = int(time.time() * 1000)
    if abs(now_ms - time_ms) > REQUEST_WINDOW_MS:
        raise ClockSkew(f"The request is timed {time_ms - now_ms} ms off the master's clock.", now_ms=now_ms)
    if not (lately and _was_in_force(server_id, kid)):
        _require_in_force(server_id, kid)
    return server_id


def forget_servers() -> None:
    """Drop what is cached in this process; the next request is judged by the database."""
    with _in_force_lock:
        _in_force.clear()


def _was_in_force(server_id: UUID, kid: int) -> bool:
    cached = _in_force.get(server_id)
    return cached is not None and cached.kid == kid and time.monotonic() - cached.read_at <= CACHE_SECONDS


def _require_in_force(server_id: UUID, kid: int) -> None:
    """Asks the database. Only a yes is remembered, so a new server or a new secret is let in at once."""
    now = time.monotonic()
    in_force = Server.objects.filter(pk=server_id).values_list("kid", flat=True).first()
    with _in_force_lock:
        _in_force.pop(server_id, None)
        if in_force is not None:
            _in_force[server_id] = _InForce(now, in_force)
    if in_force is None:
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
