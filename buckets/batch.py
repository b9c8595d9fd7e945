"""A confirm as a volume server sends it: JSON in, typed values out. See docs/protocol.md, section 5.

Only shapes are judged here. A batch of the wrong shape is refused whole, since its sender does not follow the
protocol; what a well-formed needle may do is `buckets.services.confirm`'s to judge.
"""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from buckets.errors import BatchInvalid
from buckets.models import MAX_CRC32

MAX_NEEDLES = 10_000
MAX_NEEDLE = (1 << 63) - 1
"""Needle ids use 63 of their 64 bits, so that they fit a signed column."""
MAX_SIZE = (1 << 32) - 1
_NEEDLE = re.compile(r"[0-9a-f]{16}")
_NEEDLE_FIELDS = 10


class Needle(NamedTuple):
    """One durable needle. ``intent`` is an index into the batch's intents; None: what the intent says."""

    intent: int
    id: int
    size: int
    crc32: int
    key: str | None
    content_type: str | None
    metadata: dict[str, str] | None
    if_match: str | None
    if_none_match: bool
    appended_ms: int


@dataclass(frozen=True, slots=True)
class Batch:
    """``deadline_ms``: Unix milliseconds by the master's clock. ``intents``: as base64url text."""

    deadline_ms: int
    intents: tuple[str, ...]
    needles: tuple[Needle, ...]


def parse_batch(document: object) -> Batch:
    """Raises BatchInvalid."""
    if not isinstance(document, dict):
        raise BatchInvalid("A JSON object is expected.")
    deadline_ms, intents, needles = (document.get(name) for name in ("deadline_ms", "intents", "needles"))
    if type(deadline_ms) is not int:
        raise _invalid("deadline_ms", "must be an integer, Unix milliseconds")
    if not isinstance(intents, list) or not all(isinstance(text, str) for text in intents):
        raise _invalid("intents", "must be a list of base64url texts")
    if not isinstance(needles, list) or not 1 <= len(needles) <= MAX_NEEDLES:
        raise _invalid("needles", f"must be a list of 1 to {MAX_NEEDLES} needles")
    return Batch(
        deadline_ms=deadline_ms,
        intents=tuple(intents),
        needles=tuple([_needle(at, fields, len(intents)) for at, fields in enumerate(needles)]),
    )


def _needle(at: int, fields: Any, intent_count: int) -> Needle:
    if not isinstance(fields, list) or len(fields) != _NEEDLE_FIELDS:
        raise _invalid("needles", f"number {at} is not a list of {_NEEDLE_FIELDS} fields")
    intent, needle, size, crc32, key, content_type, metadata, if_match, if_none_match, appended_ms = fields
    # `type(...) is int` because True is an int.
    if type(intent) is not int or not 0 <= intent < intent_count:
        raise _invalid("needles", f"number {at} names no intent of the batch")
    if (
        not isinstance(needle, str)
        or not _NEEDLE.fullmatch(needle)
        or not 0 < (needle_id := int(needle, 16)) <= MAX_NEEDLE
    ):
        raise _invalid("needles", f"number {at} has no needle id of 16 hex digits")
    if type(size) is not int or not 0 <= size <= MAX_SIZE:
        raise _invalid("needles", f"number {at} has no size")
    if type(crc32) is not int or not 0 <= crc32 <= MAX_CRC32:
        raise _invalid("needles", f"number {at} has no CRC-32")
    if (
        not (key is None or isinstance(key, str))
        or not (content_type is None or isinstance(content_type, str))
        or not (if_match is None or isinstance(if_match, str))
    ):
        raise _invalid("needles", f"number {at} has a key, content type or If-Match that is no text")
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    ):
        raise _invalid("needles", f"number {at} has metadata that is no object of texts")
    if type(if_none_match) is not bool or type(appended_ms) is not int:
        raise _invalid("needles", f"number {at} has no if_none_match or no appended_ms")
    return Needle(intent, needle_id, size, crc32, key, content_type, metadata, if_match, if_none_match, appended_ms)


def _invalid(field: str, text: str) -> BatchInvalid:
    return BatchInvalid(errors={field: [text]})
