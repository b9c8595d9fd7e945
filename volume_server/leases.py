"""Leases and presigned URLs as a volume server sees them: text in, what it allows out.

A lease's text is verified once and then remembered, with what was written under it: every reservation, aborted
ones too, is charged, never beyond count x max_bytes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hmac import compare_digest
from typing import NamedTuple
from urllib.parse import unquote

from volume_server import intent as intents
from volume_server import signing
from volume_server.clock import Clock
from volume_server.http1 import HttpError

MAX_REMEMBERED = 20_000
_NEEDLE_CHARS = 16
_SIGNATURE_BYTES = len(signing.SIGNATURE_PARAM) + signing.SIGNATURE_CHARS

_PUT = re.compile(
    rb"/([0-9]{1,10})/([0-9a-f]{16})(\?exp=([0-9]{1,10})&intent=([A-Za-z0-9_-]+)&kid=([0-9]{1,9})&sig=([0-9a-f]{64}))\Z"
)
_NEEDLE = re.compile(rb"[0-9a-f]{16}\Z")
_GET = re.compile(
    rb"/([0-9]{1,10})/([0-9a-f]{16})\?(?:ct=([!-%'-<>-~]*)&)?(?:(cd=inline)&)?(?:fn=([!-%'-<>-~]*)&)?etag=([!-%'-<>-~]*)"
    rb"&exp=([0-9]{1,10})&key=([0-9]{1,19})\.([0-9]{1,16})&kid=([0-9]{1,9})&sig=([0-9a-f]{64})\Z"
)
_HEADER_VALUE = re.compile(r"[\x20-\x7e]{1,255}\Z")


def _refuse(code: str, detail: str) -> HttpError:
    return HttpError(403, code, detail)


@dataclass(slots=True, eq=False)
class Lease:
    intent: intents.Intent
    raw: bytes
    """The packed intent, as it is kept in each needle."""
    text: str
    """The packed intent as base64url, as it goes to the master."""
    charged_bytes: int = 0

    def has_room(self, size_bytes: int) -> bool:
        return self.charged_bytes + size_bytes <= self.intent.count * self.intent.max_bytes

    def exhausted(self) -> HttpError:
        return _refuse("lease_exhausted", "what was begun under this lease adds up to all that it allows")

    def charge(self, size_bytes: int) -> None:
        """Raises HttpError 403 where the lease has no room for it."""
        if not self.has_room(size_bytes):
            raise self.exhausted()
        self.charged_bytes += size_bytes

    def refund(self, size_bytes: int) -> None:
        """Space that was given back to the volume counts as never taken."""
        self.charged_bytes -= size_bytes


class PresignedGet(NamedTuple):
    """What a presigned URL lets one read, and how it is to be served."""

    volume: int
    needle: int
    content_type: bytes
    disposition: bytes
    etag: bytes
    """With its quotes."""


class Gate:
    """Judges the signatures of clients. ``revoked``: API key id -> the first generation that is still good."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.signers: dict[bytes, signing.Signer] = {}
        """Secret id as it stands in URLs -> what signs with it."""
        self.revoked: dict[int, int] = {}
        self._leases: dict[tuple[bytes, bytes], Lease] = {}

    def set_secrets(self, secrets: Mapping[str, str]) -> None:
        self.signers = {kid.encode(): signing.Signer(bytes.fromhex(secret)) for kid, secret in secrets.items()}

    def admit_put(self, target: bytes) -> tuple[Lease, int]:
        """The lease behind a target and the needle it names. Raises HttpError 403."""
        query_at = target.find(b"?")
        needle_text = target[query_at - _NEEDLE_CHARS : query_at]
        # a lease is known by all of its text but the needle, so what is found here was verified letter by letter
        lease = self._leases.get((target[: query_at - _NEEDLE_CHARS], target[query_at:]))
        if lease is None or not _NEEDLE.match(needle_text):
            match = _PUT.match(target)
            if match is None:
                raise _refuse("signature_invalid", "this is not a URL that was signed for writing")
            lease = self._verify(match)
            self._remember((target[: match.start(2)], match[3]), lease)
            needle_text = match[2]
        intent = lease.intent
        if intent.expires_at < self.clock.now_s():
            raise _refuse("expired", "the lease has expired; take a new one")
        if self.revoked and intent.generation < self.revoked.get(intent.api_key, 0):
            raise _refuse("key_revoked", "the API key behind this lease was revoked or changed")
        needle = int(needle_text, 16)
        if not intent.allows(needle):
            raise _refuse("needle_outside_lease", f"the lease allows {intent.count} needles from {intent.first:016x}")
        return lease, needle

    def admit_get(self, target: bytes) -> PresignedGet:
        """What a presigned URL lets one read. Raises HttpError 403."""
        match = _GET.match(target)
        if match is None:
            raise _refuse("signature_invalid", "this is not a URL that was signed for reading")
        volume, needle, content_type, inline, filename, etag, expires, api_key, generation, kid, signature = (
            match.groups()
        )
        signer = self.signers.get(kid)
        if signer is None or not compare_digest(
            signer.signature(signing.GET_LABEL, target[:-_SIGNATURE_BYTES]), signature
        ):
            raise _refuse("signature_invalid", "the URL was changed, or signed with a secret that is no longer good")
        if int(expires) < self.clock.now_s():
            raise _refuse("expired", "the URL has expired; ask for a new one")
        if self.revoked and int(generation) < self.revoked.get(int(api_key), 0):
            raise _refuse("key_revoked", "the API key behind this URL was revoked or changed")
        disposition = b"inline" if inline else b"attachment"
        if filename:
            disposition += b"; filename*=UTF-8''" + filename  # still percent-encoded, as RFC 8187 wants it
        return PresignedGet(
            int(volume),
            int(needle, 16),
            _content_type(content_type),
            disposition,
            b'"' + unquote(etag.decode()).encode() + b'"' if b"%" in etag else b'"' + etag + b'"',
        )

    def _verify(self, match: re.Match[bytes]) -> Lease:
        volume, _, query, expires, intent_text, kid, signature = match.groups()
        signer = self.signers.get(kid)
        text = b"/" + volume + b"/" + signing.NEEDLE_PLACEHOLDER.encode() + query[:-_SIGNATURE_BYTES]
        if signer is None or not compare_digest(signer.signature(signing.PUT_LABEL, text), signature):
            raise _refuse("signature_invalid", "the URL was changed, or signed with a secret that is no longer good")
        try:
            raw = intents.from_text(intent_text.decode())
            intent = intents.unpack(raw)
        except intents.IntentInvalid as error:
            raise _refuse("signature_invalid", f"the intent is none: {error}") from error
        if intent.volume != int(volume) or intent.expires_at != int(expires):
            raise _refuse("signature_invalid", "the intent is of another lease")
        return Lease(intent, raw, intent_text.decode())

    def _remember(self, name: tuple[bytes, bytes], lease: Lease) -> None:
        if len(self._leases) >= MAX_REMEMBERED:
            now_s = self.clock.now_s()
            self._leases = {
                known: held for known, held in self._leases.items() if held.intent.expires_at >= now_s
            }  # fmt: skip
            while len(self._leases) >= MAX_REMEMBERED:
                del self._leases[next(iter(self._leases))]
        self._leases[name] = lease


_known_types: dict[bytes, bytes] = {}


def _content_type(encoded: bytes | None) -> bytes:
    if encoded is None:
        return b"application/octet-stream"
    found = _known_types.get(encoded)
    if found is None:
        text = unquote(encoded.decode())
        found = text.encode() if _HEADER_VALUE.match(text) else b"application/octet-stream"
        if len(_known_types) < 1000:
            _known_types[encoded] = found
    return found
