"""The master's side of the wire to volume servers: the only code in the master that speaks HTTP to them.

Requests are signed with the server's own secret (`volume_server.signing`). Every call either gives a checked
answer or raises one of

    VolumeServerError
    ├── ServerUnreachable      no answer; whether it took effect is not known
    ├── ServerRefused          an answer that refuses
    └── ServerAnswerInvalid    an answer that the protocol does not know

and none is repeated here: that is for the caller to judge.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import requests

from keys.errors import Invalid
from volume_server.signing import TO_SERVER, signed_headers
from volumes.derived_secrets import server_secret
from volumes.errors import ServerAnswerInvalid, ServerRefused, ServerUnreachable
from volumes.models import Server
from volumes.needles import NeedlePage, NeedleState, parse_page, parse_states
from volumes.reports import DamageReport, Figures, Usage, parse_damage, parse_figures, parse_usage

CONNECT_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 10.0
DELETE_TIMEOUT_S = 60.0
"""Tombstones are synced before they are answered."""
LIST_TIMEOUT_S = 300.0
"""The first page of a large volume waits until its index is copied and sorted."""
PUT_TIMEOUT_S = 30.0
"""Longer than a volume server waits for its confirm."""
READ_BYTES = 256 << 10

T = TypeVar("T")

_local = threading.local()


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """What became of needles that were to be deleted: every one of them is in exactly one of the two."""

    deleted: frozenset[int]
    """Their tombstones are durable, written now or earlier."""
    absent: frozenset[int]
    """Never stored in that volume."""


@dataclass(frozen=True, slots=True)
class Health:
    server: UUID
    instance: str


def usage(server: Server, *, timeout_s: float = ANSWER_TIMEOUT_S) -> Usage:
    """The server's own figures. ``timeout_s`` is how long it may be silent."""
    return _checked(parse_usage, _call(server, "GET", "/usage", timeout_s=timeout_s))


def delete_needles(server: Server, volume_id: int, needles: Sequence[int]) -> DeleteResult:
    """Has tombstones written for needles of one volume, durable when this returns."""
    if not needles:
        return DeleteResult(frozenset(), frozenset())
    body = {"volume": volume_id, "needles": [f"{needle:016x}" for needle in needles]}
    answer = _call(server, "POST", "/admin/delete", body, timeout_s=DELETE_TIMEOUT_S)
    if not isinstance(answer, Mapping):
        raise ServerAnswerInvalid("POST /admin/delete was answered with something else than an object.")
    result = DeleteResult(deleted=_needles(answer.get("deleted")), absent=_needles(answer.get("absent")))
    if result.deleted & result.absent or result.deleted | result.absent != set(needles):
        raise ServerAnswerInvalid("POST /admin/delete was answered with other needles than were asked for.")
    return result


def seal(server: Server, volume_id: int) -> Figures:
    """Closes a volume to writes; gives its last figures."""
    figures = _checked(parse_figures, _call(server, "POST", "/admin/seal", {"volume": volume_id}))
    if figures.volume != volume_id or not figures.is_sealed:
        raise ServerAnswerInvalid(f"POST /admin/seal of volume {volume_id} was answered with {figures}.")
    return figures


def compact(
    server: Server,
    volume_id: int,
    *,
    rate_bytes: int = 0,
    drop_before_ms: int | None = None,
    drop_damage: bool = False,
) -> Figures:
    """Has a compaction of the volume started, or finds it running; gives the figures with its ``compaction``.

    ``rate_bytes``: bytes/s, 0 for as fast as it goes. ``drop_before_ms``: tombstones written before that go too;
    None keeps them all. ``drop_damage``: so does damage that holds no needle which the index knows.
    """
    body: dict[str, object] = {"volume": volume_id, "rate_bytes": rate_bytes}
    if drop_before_ms is not None:
        body["drop_before_ms"] = drop_before_ms
    if drop_damage:
        body["drop_damage"] = True
    figures = _checked(parse_figures, _call(server, "POST", "/admin/compact", body))
    if figures.volume != volume_id or figures.compaction is None:
        raise ServerAnswerInvalid(f"POST /admin/compact of volume {volume_id} was answered with {figures}.")
    return figures


def close(server: Server, volume_id: int, *, epoch: int) -> Figures:
    """Has a copy of a volume take no record any more, under an epoch of its own; gives its figures."""
    figures = _checked(parse_figures, _call(server, "POST", "/admin/close", {"volume": volume_id, "epoch": epoch}))
    if figures.volume != volume_id or figures.epoch < epoch:
        raise ServerAnswerInvalid(f"POST /admin/close of volume {volume_id} was answered with {figures}.")
    return figures


def scrub(server: Server, volume_id: int) -> Figures:
    """Has a scrub of the volume started or put in line, or finds it so; gives the figures with its ``scrub``."""
    figures = _checked(parse_figures, _call(server, "POST", "/admin/scrub", {"volume": volume_id}))
    if figures.volume != volume_id or figures.scrub is None:
        raise ServerAnswerInvalid(f"POST /admin/scrub of volume {volume_id} was answered with {figures}.")
    return figures


def damaged(server: Server, volume_id: int) -> DamageReport:
    """The damaged records that the server knows of, at most a thousand of them one by one."""
    report = _checked(parse_damage, _call(server, "POST", "/admin/damaged", {"volume": volume_id}))
    if report.volume != volume_id:
        raise ServerAnswerInvalid(f"POST /admin/damaged of volume {volume_id} was answered for {report.volume}.")
    return report


def list_needles(server: Server, volume_id: int, *, after: str = "", limit: int = 0, deep: bool = False) -> NeedlePage:
    """A page of all needles of a volume on a server, by id; ``after``: the ``next`` of the page before.

    ``limit`` 0: as many as the server gives at once. ``deep``: the server reads all data and checks it. Refused with
    409 ``listing_ended`` where the volume was changed as a whole since the first page.
    """
    body = {"volume": volume_id, "after": after, "limit": limit, "deep": deep}
    response = _send(server, "POST", "/admin/needles", body, timeout_s=LIST_TIMEOUT_S)
    page = _checked(parse_page, response.content)
    if page.volume != volume_id:
        raise ServerAnswerInvalid(f"POST /admin/needles of volume {volume_id} was answered for {page.volume}.")
    return page


def ask_needles(
    server: Server, volume_id: int, needles: Sequence[int], *, deep: bool = False
) -> dict[int, NeedleState]:
    """What a server knows of these needles (a thousand at the most) of a volume now. ``deep`` as in `list_needles`."""
    body = {"volume": volume_id, "needles": [f"{needle:016x}" for needle in needles], "deep": deep}
    answer = _call(server, "POST", "/admin/needles", body, timeout_s=LIST_TIMEOUT_S)
    states = _checked(parse_states, answer)
    if states.keys() != set(needles):
        raise ServerAnswerInvalid("POST /admin/needles was answered for other needles than were asked for.")
    return states


def probe(internal_url: str) -> Health | None:
    """Who answers at an address, None when nobody does that is a volume server. Unsigned."""
    try:
        response = _session().get(f"{internal_url}/healthz", timeout=(CONNECT_TIMEOUT_S, CONNECT_TIMEOUT_S))
        answer = response.json()
    except (requests.RequestException, ValueError):
        return None
    try:
        return Health(server=UUID(answer["server"]), instance=str(answer["instance"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


@contextmanager
def open_needle(url: str, *, first: int | None = None, last: int | None = None) -> Iterator[Iterator[bytes]]:
    """The bytes of a needle, from ``first`` to ``last`` inclusive when given, as an iterator of pieces.

    ``url`` is a presigned one. Memory stays at one piece (256 KiB). An end that comes too early raises
    ServerUnreachable from the iterator; the CRC is the caller's to check.
    """
    headers = {"Accept-Encoding": "identity"}
    if first is not None or last is not None:
        headers["Range"] = f"bytes={first or 0}-{'' if last is None else last}"
    try:
        response = _session().get(url, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S))
    except requests.RequestException as error:
        raise ServerUnreachable(_reason(error)) from error
    try:
        wanted = 206 if "Range" in headers else 200
        if response.status_code != wanted:
            raise _refusal("GET", "a needle", response)
        yield _pieces(response)
    finally:
        response.close()


def put_needle(url: str, data: bytes) -> None:
    """Writes a needle of the master's own; committed when this returns. ``url`` is a presigned one."""
    try:
        response = _session().put(url, data=data, timeout=(CONNECT_TIMEOUT_S, PUT_TIMEOUT_S), allow_redirects=False)
    except requests.RequestException as error:
        raise ServerUnreachable(_reason(error)) from error
    if response.status_code != 201:
        raise _refusal("PUT", "a needle", response)


def _pieces(response: requests.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_content(READ_BYTES)
    except requests.RequestException as error:
        raise ServerUnreachable(_reason(error)) from error


def _call(
    server: Server, method: str, path: str, body: object = None, *, timeout_s: float = ANSWER_TIMEOUT_S
) -> object:
    response = _send(server, method, path, body, timeout_s=timeout_s)
    try:
        return response.json()
    except ValueError as error:
        raise ServerAnswerInvalid(f"{method} {path} was not answered with JSON.") from error


def _send(server: Server, method: str, path: str, body: object, *, timeout_s: float) -> requests.Response:
    raw = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
    headers = signed_headers(
        server_secret(server.pk, server.kid),
        kid=server.kid,
        direction=TO_SERVER,
        method=method,
        target=path,
        body=raw,
        server=str(server.pk),
        time_ms=int(time.time() * 1000),
    )
    if raw:
        headers["Content-Type"] = "application/json"
    try:
        response = _session().request(
            method,
            server.internal_url + path,
            data=raw or None,
            headers=headers,
            timeout=(CONNECT_TIMEOUT_S, timeout_s),
            allow_redirects=False,
        )
    except requests.RequestException as error:
        raise ServerUnreachable(
            f"server {server.node} ({server.internal_url}) does not answer: {_reason(error)}"
        ) from error
    if response.status_code != 200:
        raise _refusal(method, path, response)
    return response


def _refusal(method: str, what: str, response: requests.Response) -> ServerRefused:
    try:
        problem: Any = response.json()
    except (ValueError, requests.RequestException):
        problem = None
    if not isinstance(problem, Mapping):
        problem = {}
    refusal, detail = str(problem.get("code", "")), str(problem.get("detail", ""))
    return ServerRefused(
        f"{method} {what}: {response.status_code} {refusal} {detail}".rstrip()[:500],
        status=response.status_code,
        refusal=refusal,
        reason=detail[:500],
    )


def _checked(parse: Callable[[object], T], answer: object) -> T:
    try:
        return parse(answer)
    except Invalid as error:
        raise ServerAnswerInvalid(error.detail) from error


def _needles(value: object) -> frozenset[int]:
    if not isinstance(value, list):
        raise ServerAnswerInvalid("A list of needles was expected.")
    try:
        return frozenset(int(text, 16) for text in value)
    except (TypeError, ValueError) as error:
        raise ServerAnswerInvalid("A list of needles was expected.") from error


def _reason(error: requests.RequestException) -> str:
    """What happened, without the URL, which may carry a signature."""
    if isinstance(error, requests.Timeout):
        return "timeout"
    if isinstance(error, requests.ConnectionError):
        return "no connection, or it broke off"
    return type(error).__name__


def _session() -> requests.Session:
    """This thread's session: kept-alive connections, and no proxies from the environment."""
    session: requests.Session | None = getattr(_local, "session", None)
    if session is None:
        session = requests.Session()
        session.trust_env = False
        _local.session = session
    return session
