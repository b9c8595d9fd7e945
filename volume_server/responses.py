"""What goes back over the wire: heads, problem documents (RFC 9457), security headers. Values in, bytes out."""

import json
import json.encoder
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus

REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
SECURITY = (
    b"X-Content-Type-Options: nosniff\r\n"
    b"Content-Security-Policy: sandbox; default-src 'none'; frame-ancestors 'none'\r\n"
    b"Cross-Origin-Resource-Policy: cross-origin\r\n"
    b"Referrer-Policy: no-referrer\r\n"
)
"""On everything that is served: a client's bytes never run as a page of this origin."""
JSON = b"application/json"
PROBLEM = b"application/problem+json"

TITLES = {
    "bad_request": "Bad request",
    "crc_mismatch": "The bytes that arrived are not the bytes that were sent",
    "disk_full": "The disk is full",
    "expired": "The signature has expired",
    "key_invalid": "Not a key",
    "key_outside_lease": "The lease does not allow this key",
    "key_revoked": "The API key was revoked or changed",
    "lease_exhausted": "The lease is used up",
    "length_required": "Content-Length is required",
    "listing_ended": "The listing cannot go on",
    "listing_failed": "The needles could not be listed",
    "master_unavailable": "The master cannot be reached",
    "metadata_invalid": "Not metadata",
    "needle_damaged": "The needle is damaged",
    "needle_outside_lease": "The lease does not allow this needle",
    "needle_taken": "This needle id is taken",
    "needle_unknown": "No such needle",
    "outcome_unknown": "Whether it was committed is not known; repeat the same request",
    "payload_too_large": "The body is larger than the lease allows",
    "signature_invalid": "The signature is not good",
    "size_mismatch": "The body has another length than the lease demands",
    "timeout": "The request came too slowly",
    "volume_full": "The volume is full",
    "volume_sealed": "The volume takes no writes",
    "volume_unknown": "No such volume",
}


_HEAD = b"HTTP/1.1 %d %b\r\nDate: %b\r\n" + SECURITY + b"%b%b%bX-Request-Id: %b\r\n%b\r\n"
_DOCUMENT = (
    b"HTTP/1.1 %d %b\r\nDate: %b\r\n"
    + SECURITY
    + b"Content-Type: %b\r\nContent-Length: %d\r\n%bX-Request-Id: %b\r\n%b\r\n%b"
)
_NEEDLE_HEAD = (
    b"HTTP/1.1 %d %b\r\nDate: %b\r\n"
    + SECURITY
    + b"Content-Type: %b\r\nContent-Length: %d\r\nETag: %b\r\nAccept-Ranges: bytes\r\n"
    + b"Content-Disposition: %b\r\n%bX-Request-Id: %b\r\n%b\r\n"
)


def _json_encoder() -> Callable[[object], str]:
    """What `json.dumps` does, compactly and in UTF-8.

    `JSONEncoder` makes CPython's own encoder anew for each text, which is two thirds of a short one's cost.
    """
    plain = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return plain.encode
    encode = make(None, plain.default, json.encoder.encode_basestring, None, ":", ",", False, False, True)  # noqa: FBT003
    return lambda value: "".join(encode(value, 0))


_as_json = _json_encoder()


class HttpDate:
    """The Date header's value, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._value = b""

    def __call__(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._value = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(second)).encode()
        return self._value


http_date = HttpDate()


def head(
    status: int,
    *,
    content_length: int | None,
    content_type: bytes | None = None,
    headers: Iterable[bytes] = (),
    request_id: bytes,
    close: bool = False,
) -> bytes:
    """Status line and headers, with the blank line. ``headers`` are whole lines without their CRLF."""
    return _HEAD % (
        status,
        REASONS[status],
        http_date(),
        b"Content-Type: %b\r\n" % content_type if content_type is not None else b"",
        b"Content-Length: %d\r\n" % content_length if content_length is not None else b"",
        b"".join([line + b"\r\n" for line in headers]),
        request_id,
        b"Connection: close\r\n" if close else b"",
    )


def needle_head(
    status: int,
    *,
    content_length: int,
    content_type: bytes,
    etag: bytes,
    disposition: bytes,
    extra: bytes,
    request_id: bytes,
    close: bool,
) -> bytes:
    """The head of a needle's bytes, made in one go. ``extra``: header lines, each with its CRLF."""
    return _NEEDLE_HEAD % (
        status,
        REASONS[status],
        http_date(),
        content_type,
        content_length,
        etag,
        disposition,
        extra,
        request_id,
        b"Connection: close\r\n" if close else b"",
    )


def document(
    status: int,
    body: object,
    *,
    request_id: bytes,
    headers: tuple[bytes, ...] = (),
    content_type: bytes = JSON,
    close: bool = False,
    head_only: bool = False,
) -> bytes:
    """A whole response with a JSON body (left out, but counted, for HEAD)."""
    raw = _as_json(body).encode()
    return _DOCUMENT % (
        status,
        REASONS[status],
        http_date(),
        content_type,
        len(raw),
        b"".join([line + b"\r\n" for line in headers]) if headers else b"",
        request_id,
        b"Connection: close\r\n" if close else b"",
        b"" if head_only else raw,
    )


def problem(status: int, code: str, detail: str, *, title: str | None = None) -> dict[str, object]:
    """The body of a refusal."""
    return {
        "type": "about:blank",
        "title": title or TITLES.get(code) or HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
