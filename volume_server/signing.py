"""Signatures on the wire: presigned URLs and signed requests.

Pure functions over text and bytes; the master imports this module too, so that both sides
sign one and the same text. HMAC-SHA256 (RFC 2104), hex, compared in constant time.

What is signed in a URL is its own text, label first. Nothing is parsed before it is known to be
genuine, and there is no canonical form to disagree on: another spelling is another text.
"""

import hashlib
import hmac
from urllib.parse import quote

GET_LABEL = b"warehouse get 1\n"
PUT_LABEL = b"warehouse put 1\n"
REQUEST_LABEL = "warehouse request 1"
REPLICA_LABEL = "warehouse replica 1"
TO_MASTER = "to-master"
TO_SERVER = "to-server"

SIGNATURE_PARAM = "&sig="
SIGNATURE_CHARS = 64
NEEDLE_PLACEHOLDER = "{needle}"
REQUEST_WINDOW_MS = 60_000
"""A signed request is taken within this distance of the master's clock."""
MAX_GET_SECONDS = 15 * 60
"""No presigned GET lives longer, so that a tombstone knows when its last reader is gone."""
REVOKED_FOR_EVER = (1 << 53) - 1
"""The generation that a deleted key is revoked up to (the largest integer that every JSON reader keeps exact)."""

HEADER_SERVER = "Warehouse-Server"
HEADER_KID = "Warehouse-Kid"
HEADER_TIME = "Warehouse-Time"
HEADER_SIGNATURE = "Warehouse-Signature"


class Signer:
    """One secret, keyed once for many signatures: HMAC-SHA256 by its definition in RFC 2104 section 2.

    `hmac.digest` hashes the padded key anew for each text, which for a URL is more than half of its cost.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, secret: bytes) -> None:
        padded = secret.ljust(64, b"\0") if len(secret) <= 64 else hashlib.sha256(secret).digest().ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def signature(self, label: bytes, text: bytes) -> bytes:
        """What `text_signature` gives, as ASCII bytes."""
        inner = self._inner.copy()
        inner.update(label + text)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.hexdigest().encode()


def text_signature(secret: bytes, label: bytes, text: bytes) -> str:
    """The 64 hex digits that sign ``text`` for the purpose ``label``."""
    return hmac.digest(secret, label + text, "sha256").hex()


def presign_get(
    secret: bytes,
    *,
    kid: int,
    volume: int,
    needle: int,
    expires_at: int,
    etag: str,
    api_key: int = 0,
    generation: int = 0,
    content_type: str | None = None,
    inline: bool = False,
    filename: str | None = None,
) -> str:
    """Path and query of a presigned GET (and HEAD) of one needle; ``expires_at`` in Unix seconds."""
    params = []
    if content_type is not None:
        params.append("ct=" + quote(content_type, safe=""))
    if inline:
        params.append("cd=inline")
    if filename is not None:
        params.append("fn=" + quote(filename, safe=""))
    params.append("etag=" + quote(etag, safe=""))
    params.append(f"exp={expires_at}&key={api_key}.{generation}&kid={kid}")
    text = f"/{volume}/{needle:016x}?" + "&".join(params)
    return text + SIGNATURE_PARAM + text_signature(secret, GET_LABEL, text.encode())


def presign_put(secret: bytes, *, kid: int, volume: int, expires_at: int, intent: str) -> str:
    """Path and query of a lease, with the literal ``{needle}`` in it; ``intent`` as base64url text."""
    text = f"/{volume}/{NEEDLE_PLACEHOLDER}?exp={expires_at}&intent={intent}&kid={kid}"
    return text + SIGNATURE_PARAM + text_signature(secret, PUT_LABEL, text.encode())


def replica_ticket(secret: bytes, *, volume: int, epoch: int, primary: str) -> str:
    """The 64 hex digits by which a volume's primary and one of its peers sign to each other under one epoch.

    ``secret`` is the peer's, ``primary`` the other one's server id: the master gives the ticket to the primary, the
    peer finds it by itself, and it is good for nothing else.
    """
    return hmac.digest(secret, f"replica\n{volume}\n{epoch}\n{primary}".encode(), "sha256").hex()


def request_signature(
    secret: bytes, *, direction: str, method: str, target: str, body: bytes | bytearray, server: str, time_ms: int
) -> str:
    digest = hashlib.sha256(body).hexdigest()
    text = "\n".join((REQUEST_LABEL, direction, method, target, digest, server, str(time_ms)))
    return hmac.digest(secret, text.encode(), "sha256").hex()


def signed_headers(
    secret: bytes, *, kid: int, direction: str, method: str, target: str, body: bytes, server: str, time_ms: int
) -> dict[str, str]:
    """The four headers that make a request between master and volume server genuine."""
    signature = request_signature(
        secret, direction=direction, method=method, target=target, body=body, server=server, time_ms=time_ms
    )
    return {
        HEADER_SERVER: server,
        HEADER_KID: str(kid),
        HEADER_TIME: str(time_ms),
        HEADER_SIGNATURE: signature,
    }


def request_is_signed(
    secret: bytes,
    signature: str,
    *,
    direction: str,
    method: str,
    target: str,
    body: bytes | bytearray,
    server: str,
    time_ms: int,
) -> bool:
    """Whether the signature is good; whether ``time_ms`` is near enough is the caller's to judge."""
    expected = request_signature(
        secret, direction=direction, method=method, target=target, body=body, server=server, time_ms=time_ms
    )
    return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))


def replica_signature(
    ticket: str, *, target: str, body: bytes | bytearray | memoryview, primary: str, time_ms: int
) -> str:
    """Of a POST from a volume's primary to a peer."""
    text = "\n".join((REPLICA_LABEL, target, hashlib.sha256(body).hexdigest(), primary, str(time_ms)))
    return hmac.digest(bytes.fromhex(ticket), text.encode(), "sha256").hex()
