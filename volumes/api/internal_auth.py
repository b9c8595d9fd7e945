"""Who speaks: the signed requests of volume servers (see `volume_server.signing`)."""

import time
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


def is_signed(request: HttpRequest) -> bool:
    """Whether the request claims to be signed; `authenticate_server` judges the claim."""
    return HEADER_SIGNATURE in request.headers


def authenticate_server(request: HttpRequest) -> Server:
    """The server that has signed this request.

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
    server = Server.objects.filter(pk=server_id).first()
    if server is None:
        raise ServerUnknown(f"Server {server_id} has not registered here.")
    if server.kid != kid:
        raise SignatureInvalid(f"Secret {kid} of server {server_id} is not in force.")
    return server


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
