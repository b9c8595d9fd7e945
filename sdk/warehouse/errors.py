"""What can go wrong, as a tree: catch as much of it as you mean.

WarehouseError
├── ApiError                the store answered, and the answer is a refusal
│   ├── Invalid             400: a field or a request that cannot be
│   ├── Unauthorized        401: the key is wrong, expired or deleted
│   ├── PermissionDenied    403: the key lacks the right
│   ├── NotFound            404
│   ├── Conflict            409
│   ├── PreconditionFailed  412: `if_match` or `if_none_match` did not hold
│   ├── TooLarge            413
│   ├── Throttled           429: too many failed log-ins
│   ├── Unavailable         503: not now
│   └── NoSpace             507: a quota is used up, or no volume has room
└── TransferError           no usable answer
    ├── ConnectionFailed    nobody answered
    ├── OutcomeUnknown      the bytes were sent; whether the object exists is not known
    ├── ProtocolError       an answer that is none
    ├── ChecksumMismatch    the bytes that came are not the bytes that were stored
    ├── ObjectDamaged       the bytes are damaged on every volume server that holds them
    │   └── ObjectLost      they are not even there, though the store has the object on record
    ├── ObjectChanged       the object was overwritten while parts of it had already been handed on
    └── SourceChanged       the file or stream that is being put changed or ended early
"""

from collections.abc import Mapping
from typing import Any

__all__ = [
    "ApiError",
    "ChecksumMismatch",
    "Conflict",
    "ConnectionFailed",
    "Invalid",
    "NoSpace",
    "NotFound",
    "ObjectChanged",
    "ObjectDamaged",
    "ObjectLost",
    "OutcomeUnknown",
    "PermissionDenied",
    "PreconditionFailed",
    "ProtocolError",
    "SourceChanged",
    "Throttled",
    "TooLarge",
    "TransferError",
    "Unauthorized",
    "Unavailable",
    "WarehouseError",
]


class WarehouseError(Exception):
    """The base of everything that this package raises on purpose."""


class ApiError(WarehouseError):
    """A refusal by the master or a volume server.

    ``status`` is the HTTP status, ``code`` the stable machine-readable reason, ``title`` and ``detail`` its text,
    ``problem`` the whole problem document, ``request_id`` what an operator finds in the logs.
    """

    def __init__(
        self,
        *,
        status: int,
        code: str,
        title: str = "",
        detail: str = "",
        request_id: str = "",
        problem: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail or title or code)
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.request_id = request_id
        self.problem: Mapping[str, Any] = problem or {}

    def __str__(self) -> str:
        return f"{self.detail or self.title or 'refused'} ({self.status} {self.code})"


class Invalid(ApiError):
    """400. ``errors`` names the fields: ``{"size": ["…"]}``."""

    @property
    def errors(self) -> Mapping[str, list[str]]:
        errors = self.problem.get("errors")
        return errors if isinstance(errors, Mapping) else {}

    def __str__(self) -> str:
        fields = "; ".join(f"{name}: {' '.join(map(str, texts))}" for name, texts in self.errors.items())
        return f"{fields} ({self.status} {self.code})" if fields else super().__str__()


class Unauthorized(ApiError):
    """401."""


class PermissionDenied(ApiError):
    """403."""


class NotFound(ApiError):
    """404."""


class Conflict(ApiError):
    """409."""


class PreconditionFailed(ApiError):
    """412."""


class TooLarge(ApiError):
    """413."""


class Throttled(ApiError):
    """429."""


class Unavailable(ApiError):
    """503."""


class NoSpace(ApiError):
    """507."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: Invalid,
    401: Unauthorized,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
    412: PreconditionFailed,
    413: TooLarge,
    429: Throttled,
    503: Unavailable,
    507: NoSpace,
}


def api_error(status: int, problem: object, *, request_id: str = "", default: str = "") -> ApiError:
    """The exception for an answer: ``problem`` is its decoded body, whatever that turned out to be."""
    fields = problem if isinstance(problem, Mapping) else {}
    return _BY_STATUS.get(status, ApiError)(
        status=status,
        code=str(fields.get("code") or "unknown"),
        title=str(fields.get("title") or ""),
        detail=str(fields.get("detail") or default),
        request_id=request_id,
        problem=fields,
    )


class TransferError(WarehouseError):
    """There is no usable answer."""


class ConnectionFailed(TransferError):
    """Nobody answered, and nothing was changed."""


class OutcomeUnknown(TransferError):
    """All bytes were sent, but no answer came in time: the object may exist, or come to exist a moment later.

    Ask with ``stat`` before putting again where that matters.
    """


class ProtocolError(TransferError):
    """What answered does not speak the store's protocol."""


class ChecksumMismatch(TransferError):
    """No replica gave bytes with the CRC-32 that the master has on record."""


class ObjectDamaged(TransferError):
    """The bytes of an object, or of a part of it, are damaged on every volume server that holds them.

    Asking again does not help. Put the object again, and tell who runs the store: its disk is to be looked at.
    ``bucket`` and ``key`` name the object, ``server`` the volume server (host and port) that said so.
    """

    _WORDS = "are damaged on the volume server {server}: put the object again, and have that server's disk looked at"

    def __init__(self, *, bucket: str, key: str, server: str, chunk: int) -> None:
        super().__init__(f"the bytes of {key!r} in {bucket!r} (chunk {chunk}) {self._WORDS.format(server=server)}")
        self.bucket = bucket
        self.key = key
        self.server = server
        self.chunk = chunk


class ObjectLost(ObjectDamaged):
    """The store has the object on record, but no volume server that should hold its bytes, or a part of them, does.

    It is no NotFound: nobody deleted it. Its bytes may come back, as with a disk that was not mounted; who runs the
    store finds out with ``manage.py fsck``.
    """

    _WORDS = (
        "are lost: the store has the object, but the volume server {server} does not have what it should; have "
        "`manage.py fsck` run, which says what can be done, or put the object again"
    )


class ObjectChanged(TransferError):
    """The object was overwritten or deleted while it was being streamed; what came so far is of the old version."""


class SourceChanged(TransferError):
    """The source of a put changed, or ended too early or too late, so what was sent would be no one version of it."""
