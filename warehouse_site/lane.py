"""The short way of a confirm: from the bytes of a request to the bytes of its answer.

Every writer of a batch waits for its confirm, and with few writers nearly all of that is what each request costs: a
parser for whatever a browser may send, WSGI, a request object, the middlewares. A request that is spelled to the
byte as volume servers spell it needs none of that. Whatever else comes on a lane goes the whole way, through Django's
view (`buckets.api.internal_views.confirm`), to the same answer.
"""

import logging
import re
import time
from email.utils import formatdate
from functools import lru_cache
from typing import NamedTuple

from django.conf import settings
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse

from buckets.api.internal_views import confirmed
from keys.actions import Through
from keys.errors import WarehouseError
from keys.services import acting
from keys.services.acting import Acting
from volumes.api.internal_auth import Claim
from warehouse_site import logs
from warehouse_site.middleware import REQUEST_ID_HEADER
from warehouse_site.problems import problem_response, server_error

logger = logging.getLogger("warehouse.lane")

PATH = "/api/v1/internal/confirm"
_REQUEST = re.compile(
    (
        rf"POST {PATH} HTTP/1\.1\r\n"
        r"Host: [!-~]{1,255}\r\n"
        r"Warehouse-Server: ([0-9a-f-]{36})\r\n"
        r"Warehouse-Kid: ([0-9]{1,15})\r\n"
        r"Warehouse-Time: ([0-9]{1,15})\r\n"
        r"Warehouse-Signature: ([0-9a-f]{64})\r\n"
        r"Content-Type: application/json\r\n"
        r"X-Request-Id: ([A-Za-z0-9._-]{1,64})\r\n"
        r"Content-Length: ([0-9]{1,8})\r\n\r\n"
    ).encode()
)


class Head(NamedTuple):
    """The head of a confirm."""

    claim: Claim
    request_id: str
    body_at: int
    body_bytes: int


def head_of(raw: bytes) -> Head | None:
    """What ``raw`` begins with; None where it is anything but a whole head of just that form."""
    match = _REQUEST.match(raw)
    if match is None:
        return None
    server, kid, time_ms, signature, request_id, length = match.groups()
    if int(length) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
        return None
    claim = Claim("POST", PATH, server.decode(), kid.decode(), time_ms.decode(), signature.decode())
    return Head(claim, request_id.decode(), match.end(), int(length))


def answer(head: Head, body: bytes) -> bytes:
    """All that is sent for a confirm. Never raises: what fails is a 500, and in the log."""
    logs.request_id.set(head.request_id)
    acting.begin(Acting(through=Through.SERVER, request_id=head.request_id))
    close_old_connections()  # Django does it when a request starts
    try:
        return _answer("200 OK", head.request_id, "Content-Type: application/json\r\n", confirmed(head.claim, body))
    except WarehouseError as error:
        response = problem_response(error, _request())
    except Exception:
        logger.exception("a confirm failed")
        response = server_error(_request())
    finally:
        logs.request_id.set(logs.NO_REQUEST)
        acting.end()
    return _of_response(head.request_id, response)


def _of_response(request_id: str, response: HttpResponse) -> bytes:
    lines = "".join([f"{name}: {value}\r\n" for name, value in response.items()])
    return _answer(f"{response.status_code} {response.reason_phrase}", request_id, lines, response.content)


def _answer(status: str, request_id: str, lines: str, body: bytes) -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nDate: {_date(int(time.time()))}\r\n{lines}{REQUEST_ID_HEADER}: {request_id}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode("latin-1") + body


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


def _request() -> HttpRequest:
    """For those who want to know what was asked for."""
    request = HttpRequest()
    request.method, request.path, request.path_info = "POST", PATH, PATH
    return request
