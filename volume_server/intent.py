"""The intent: what a lease allows, packed into bytes, under a MAC that only the master can make.

    at  size  field
     0   1    format version (1)
     1   1    flags: 1 key fixed, 2 chunk of an upload, 4 exact size, 8 If-None-Match: *, 16 of an upload that is held
     2   2    id of the master secret that made the MAC
     4   4    volume
     8   8    first needle
    16   2    count of needles (1..4096)
    18   4    epoch of the volume
    22   4    largest data length
    26   8    bucket id
    34   8    API key id
    42   4    API key generation
    46   4    expires at, Unix seconds
    50   1    length of the bucket name
    51   2    length of key or prefix
    53   2    length of If-Match
    55   2    length of attributes
    57        [upload: 16 id, 4 chunk index, 4 chunk count, 8 total bytes]
              bucket name, key or prefix, If-Match, attributes (JSON object: content_type, metadata), all UTF-8
   -16  16    HMAC-SHA256 over all of the above, truncated (RFC 2104 section 5)

Integers are little-endian. Pure module: bytes in, values out; the master imports it too.
"""

import base64
import binascii
import hmac
import json
import struct
from dataclasses import dataclass, field
from uuid import UUID

VERSION = 1
KEY_FIXED, IS_CHUNK, EXACT, IF_NONE_MATCH, IS_HELD = 1, 2, 4, 8, 16
_ALL_FLAGS = KEY_FIXED | IS_CHUNK | EXACT | IF_NONE_MATCH | IS_HELD
_HEAD = struct.Struct("<BBHIQHIIQQIIBHHH")
_UPLOAD = struct.Struct("<16sIIQ")
MAC_BYTES = 16
MAX_COUNT = 4096
MAX_BYTES = 4096
"""Largest packed intent; its base64 and the rest of the URL stay below 8,190 characters."""
assert _HEAD.size == 57
assert _UPLOAD.size == 32


class IntentInvalid(ValueError):
    """These bytes are not an intent."""


@dataclass(frozen=True, slots=True)
class Intent:
    volume: int
    first: int
    count: int
    epoch: int
    max_bytes: int
    bucket_id: int
    bucket: str
    api_key: int
    generation: int
    expires_at: int
    key: str = ""
    key_fixed: bool = False
    exact: bool = False
    if_match: str = ""
    if_none_match: bool = False
    upload: UUID | None = None
    held: bool = False
    """Only a commit of a group makes the upload an object."""
    chunk_index: int = 0
    chunk_count: int = 0
    total_bytes: int = 0
    content_type: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    secret_id: int = 1

    def allows(self, needle: int) -> bool:
        return self.first <= needle < self.first + self.count


def pack(intent: Intent, secret: bytes) -> bytes:
    """The intent's bytes, MAC included. Raises IntentInvalid where a field does not fit."""
    flags = (
        (KEY_FIXED if intent.key_fixed else 0)
        | (IS_CHUNK if intent.upload else 0)
        | (EXACT if intent.exact else 0)
        | (IF_NONE_MATCH if intent.if_none_match else 0)
        | (IS_HELD if intent.held else 0)
    )
    attributes_raw = _attributes_text(intent.content_type, intent.metadata).encode()
    bucket, key, if_match = intent.bucket.encode(), intent.key.encode(), intent.if_match.encode()
    try:
        head = _HEAD.pack(
            VERSION,
            flags,
            intent.secret_id,
            intent.volume,
            intent.first,
            intent.count,
            intent.epoch,
            intent.max_bytes,
            intent.bucket_id,
            intent.api_key,
            intent.generation,
            intent.expires_at,
            len(bucket),
            len(key),
            len(if_match),
            len(attributes_raw),
        )
        upload = (
            _UPLOAD.pack(intent.upload.bytes, intent.chunk_index, intent.chunk_count, intent.total_bytes)
            if intent.upload
            else b""
        )
    except struct.error as error:
        raise IntentInvalid(f"a field does not fit its place: {error}") from error
    body = head + upload + bucket + key + if_match + attributes_raw
    if len(body) + MAC_BYTES > MAX_BYTES:
        raise IntentInvalid(f"the intent would take {len(body) + MAC_BYTES} bytes, {MAX_BYTES} are allowed")
    return body + _mac(body, secret)


def unpack(raw: bytes) -> Intent:
    """Values of a packed intent; the MAC is not judged here (see `is_genuine`). Raises IntentInvalid."""
    if not _HEAD.size + MAC_BYTES <= len(raw) <= MAX_BYTES:
        raise IntentInvalid(f"an intent of {len(raw)} bytes")
    (version, flags, secret_id, volume, first, count, epoch, max_bytes, bucket_id, api_key, generation,
     expires_at, bucket_len, key_len, if_match_len, attributes_len) = _HEAD.unpack_from(raw)  # fmt: skip
    if version != VERSION:
        raise IntentInvalid(f"intent format {version} is not known")
    if flags & ~_ALL_FLAGS:
        raise IntentInvalid(f"flags {flags:#x} are not known")
    at = _HEAD.size
    upload_id, chunk_index, chunk_count, total_bytes = None, 0, 0, 0
    if flags & IS_CHUNK:
        if len(raw) < at + _UPLOAD.size + MAC_BYTES:
            raise IntentInvalid("cut off")
        packed_id, chunk_index, chunk_count, total_bytes = _UPLOAD.unpack_from(raw, at)
        upload_id = UUID(bytes=packed_id)
        at += _UPLOAD.size
    if at + bucket_len + key_len + if_match_len + attributes_len + MAC_BYTES != len(raw):
        raise IntentInvalid("lengths do not add up")
    if not 1 <= count <= MAX_COUNT or not first:
        raise IntentInvalid("no such range of needles")
    texts = []
    try:
        for length in (bucket_len, key_len, if_match_len, attributes_len):
            texts.append(raw[at : at + length].decode())
            at += length
    except ValueError as error:
        raise IntentInvalid(f"text that is none: {error}") from error
    content_type, metadata = _attributes(texts[3]) if texts[3] else ("", {})
    return Intent(
        volume=volume,
        first=first,
        count=count,
        epoch=epoch,
        max_bytes=max_bytes,
        bucket_id=bucket_id,
        bucket=texts[0],
        api_key=api_key,
        generation=generation,
        expires_at=expires_at,
        key=texts[1],
        key_fixed=bool(flags & KEY_FIXED),
        exact=bool(flags & EXACT),
        if_match=texts[2],
        if_none_match=bool(flags & IF_NONE_MATCH),
        upload=upload_id,
        held=bool(flags & IS_HELD),
        chunk_index=chunk_index,
        chunk_count=chunk_count,
        total_bytes=total_bytes,
        content_type=content_type,
        metadata=metadata,
        secret_id=secret_id,
    )


def is_genuine(raw: bytes, secret: bytes) -> bool:
    """Whether the MAC at the end of a packed intent was made with this secret."""
    return hmac.compare_digest(raw[-MAC_BYTES:], _mac(raw[:-MAC_BYTES], secret))


def to_text(raw: bytes) -> str:
    """base64url without padding (RFC 4648 section 5), as it stands in URLs and confirms."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def from_text(text: str) -> bytes:
    """The bytes of `to_text`, and of no other spelling. Raises IntentInvalid."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise IntentInvalid(f"not base64url: {error}") from error
    if to_text(raw) != text:
        raise IntentInvalid("not the one spelling of these bytes")
    return raw


def _attributes_text(content_type: str, metadata: dict[str, str]) -> str:
    """The JSON of what is not empty; no text where both are."""
    attributes: dict[str, object] = {}
    if content_type:
        attributes["content_type"] = content_type
    if metadata:
        attributes["metadata"] = metadata
    return json.dumps(attributes, separators=(",", ":"), ensure_ascii=False) if attributes else ""


def _attributes(text: str) -> tuple[str, dict[str, str]]:
    """Content type and metadata of `_attributes_text`, and of no other spelling. Raises IntentInvalid."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise IntentInvalid(f"text that is none: {error}") from error
    if not isinstance(found, dict):
        raise IntentInvalid("attributes that are none")
    content_type, metadata = found.get("content_type", ""), found.get("metadata", {})
    if (
        not isinstance(content_type, str)
        or not isinstance(metadata, dict)
        or not all(isinstance(value, str) for value in metadata.values())
        or _attributes_text(content_type, metadata) != text
    ):
        raise IntentInvalid("attributes that are none")
    return content_type, metadata


def _mac(body: bytes, secret: bytes) -> bytes:
    return hmac.digest(secret, b"warehouse intent 1\n" + body, "sha256")[:MAC_BYTES]
