"""A live record's meta: the intent, the key and the object's attributes.

    at  size  field
     0   1    format version (1)
     1   1    flags: 1 If-None-Match: *
     2   2    length of the intent
     4   2    length of the key
     6   2    length of the content type
     8   2    length of If-Match
    10   2    length of the metadata
    12        intent (`volume_server.intent`, MAC included), key, content type, If-Match (UTF-8), metadata (JSON object)

What the intent fixes (an upload's key, preconditions and attributes) is empty here. With this in each
needle the volumes alone can rebuild the database. Integers are little-endian. Pure module.
"""

import json
import struct
from dataclasses import dataclass, field

VERSION = 1
IF_NONE_MATCH = 1
_HEAD = struct.Struct("<BBHHHHH")
MAX_KEY_BYTES = 1024
MAX_METADATA_BYTES = 2048
"""Names and values of all `Warehouse-Meta-*` of one object together (S3's limit)."""
assert _HEAD.size == 12


class MetaInvalid(ValueError):
    """These bytes are not a needle's meta."""


@dataclass(frozen=True, slots=True)
class Meta:
    intent: bytes
    key: str = ""
    content_type: str = ""
    if_match: str = ""
    if_none_match: bool = False
    metadata: dict[str, str] = field(default_factory=dict)


def encode(meta: Meta) -> bytes:
    """Raises MetaInvalid where something is longer than its field."""
    metadata = _metadata_text(meta.metadata).encode() if meta.metadata else b""
    key, content_type, if_match = meta.key.encode(), meta.content_type.encode(), meta.if_match.encode()
    flags = IF_NONE_MATCH if meta.if_none_match else 0
    try:
        head = _HEAD.pack(
            VERSION, flags, len(meta.intent), len(key), len(content_type), len(if_match), len(metadata)
        )  # fmt: skip
    except struct.error as error:
        raise MetaInvalid(f"too long: {error}") from error
    return b"".join((head, meta.intent, key, content_type, if_match, metadata))


def encode_plain(intent: bytes, key: str, content_type: str) -> bytes:
    """What `encode` gives for a meta of no more than these, as most small objects have. They fit their fields."""
    raw, kind = key.encode(), content_type.encode()
    return b"".join((_HEAD.pack(VERSION, 0, len(intent), len(raw), len(kind), 0, 0), intent, raw, kind))


def decode(raw: bytes) -> Meta:
    """What `encode` made of it, and of no other spelling. Raises MetaInvalid."""
    if len(raw) < _HEAD.size:
        raise MetaInvalid("cut off")
    version, flags, *lengths = _HEAD.unpack_from(raw)
    if version != VERSION:
        raise MetaInvalid(f"meta format {version} is not known")
    if flags & ~IF_NONE_MATCH:
        raise MetaInvalid(f"flags {flags:#x} are not known")
    if _HEAD.size + sum(lengths) != len(raw):
        raise MetaInvalid("lengths do not add up")
    parts, at = [], _HEAD.size
    for length in lengths:
        parts.append(raw[at : at + length])
        at += length
    try:
        key, content_type, if_match, text = (part.decode() for part in parts[1:])
        metadata = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise MetaInvalid(f"text that is none: {error}") from error
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise MetaInvalid("metadata that is none")
    if text and (not metadata or _metadata_text(metadata) != text):
        raise MetaInvalid("not the one spelling of this metadata")
    return Meta(parts[0], key, content_type, if_match, bool(flags & IF_NONE_MATCH), metadata)


def _metadata_text(metadata: dict[str, str]) -> str:
    return json.dumps(metadata, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
