"""The rules of bucket names, object keys, metadata and ETags. Pure functions over text."""

import functools
import re
from uuid import UUID

MAX_KEY_BYTES = 1024
MAX_METADATA_BYTES = 2048
"""Names and values of one object's metadata together (S3's limit)."""
MAX_CONTENT_TYPE_CHARS = 255
MAX_IF_MATCH_CHARS = 1024
DEFAULT_CONTENT_TYPE = "application/octet-stream"

_SHORT_BUCKET = re.compile(r"[a-z0-9._]{1,32}")
_S3_BUCKET = re.compile(r"(?=.{3,63}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_METADATA_NAME = re.compile(r"[a-z0-9-]{1,64}")
_CONTENT_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+[\x20-\x7e]*")
_ETAG = re.compile(r'\s*(?:"([\x21\x23-\x7e]*)"|([\x21\x23-\x2b\x2d-\x7e]+))\s*')


def bucket_name_error(name: str) -> str | None:
    """Why this is no bucket name; None when it is one.

    1 to 32 of ``a-z 0-9 . _`` (not ``.`` or ``..``), or a valid S3 name: 3 to 63 of ``a-z 0-9 . -``,
    each part between dots beginning and ending with a letter or digit.
    """
    if _SHORT_BUCKET.fullmatch(name) and name not in (".", ".."):
        return None
    if _S3_BUCKET.fullmatch(name):
        return None
    return (
        "A bucket name has 1 to 32 of a-z, 0-9, '.' and '_' (and is not '.' or '..'), "
        "or is a valid S3 bucket name: 3 to 63 of a-z, 0-9, '.' and '-'."
    )


def key_error(key: str) -> str | None:
    """Why this is no object key; None when it is one: 1 to 1,024 bytes of UTF-8, no NUL."""
    if not key:
        return "A key has at least one character."
    if "\0" in key:
        return "A key has no NUL character."
    if not key.isascii():
        try:
            size_bytes = len(key.encode())
        except UnicodeEncodeError:
            return "A key is text that UTF-8 can hold; this has a lone surrogate."
    else:
        size_bytes = len(key)
    if size_bytes > MAX_KEY_BYTES:
        return f"A key has at most {MAX_KEY_BYTES} bytes of UTF-8; this has {size_bytes}."
    return None


@functools.lru_cache(maxsize=1024)
def content_type_error(content_type: str) -> str | None:
    """Why this can't be a Content-Type; None when it can."""
    if len(content_type) > MAX_CONTENT_TYPE_CHARS:
        return f"A content type has at most {MAX_CONTENT_TYPE_CHARS} characters."
    if not _CONTENT_TYPE.fullmatch(content_type):
        return "A content type looks like type/subtype, with parameters after it, in visible ASCII."
    return None


def metadata_error(metadata: dict[str, str]) -> str | None:
    """Why these pairs can't be an object's metadata; None when they can."""
    size_bytes = 0
    for name, value in metadata.items():
        if not _METADATA_NAME.fullmatch(name):
            return f"A metadata name has 1 to 64 of a-z, 0-9 and '-'; {name[:80]!r} has not."
        try:
            size_bytes += len(name) + len(value.encode())
        except UnicodeEncodeError:
            return f"The value of {name!r} has a lone surrogate, which UTF-8 can't hold."
        if "\0" in value:
            return f"The value of {name!r} has a NUL character."
    if size_bytes > MAX_METADATA_BYTES:
        return f"Metadata takes at most {MAX_METADATA_BYTES} bytes, names and values together; this takes {size_bytes}."
    return None


def if_match_error(if_match: str) -> str | None:
    """Why this is no If-Match list; None when it is one (empty: no condition)."""
    if len(if_match) > MAX_IF_MATCH_CHARS:
        return f"If-Match has at most {MAX_IF_MATCH_CHARS} characters."
    if if_match and if_match.strip() != "*" and parse_etags(if_match) is None:
        return "If-Match is * or a list of ETags, separated by commas."
    return None


def parse_etags(text: str) -> frozenset[str] | None:
    """The ETags of a list, without quotes; None where it is no list.

    RFC 9110 section 13.1.1 wants them quoted; the JSON bodies give them bare, so bare ones are taken too. A weak ETag
    never matches strongly, and ours are all strong, so ``W/"..."`` stays in as text that equals nothing.
    """
    etags = set()
    at = 0
    while True:
        weak = text[at:].lstrip().startswith('W/"')
        if weak:
            at = text.index("W/", at) + 2
        match = _ETAG.match(text, at)
        if match is None:
            return None
        tag = match[1] if match[1] is not None else match[2]
        etags.add("W/" + tag if weak else tag)
        at = match.end()
        if at == len(text):
            return frozenset(etags)
        if text[at] != ",":
            return None
        at += 1


def etag_matches(if_match: str, etag: str | None) -> bool:
    """Whether an If-Match list lets a change of the version ``etag`` (None: there is no object) through."""
    if etag is None:
        return False
    if if_match == etag or if_match.strip() == "*":
        return True
    return etag in (parse_etags(if_match) or ())


def etag_of_needle(needle: int) -> str:
    """The ETag of a version that one needle holds: needle ids are never reused, so neither is this."""
    return f"{needle:016x}"


def etag_of_upload(upload: UUID) -> str:
    return upload.hex


def etag_of_change(etag: str, sequence: int, nth: int | None = None) -> str:
    """The ETag of a version that has the bytes of ``etag``'s and other attributes or another key.

    ``sequence``: the commit that made it; ``nth`` tells those of one commit apart.
    """
    changed = f"{etag.partition('-')[0]}-{sequence:x}"
    return changed if nth is None else f"{changed}-{nth:x}"


def successor(prefix: str) -> str | None:
    """The first text, in byte order, after all that begin with ``prefix``; None where there is no such end."""
    while prefix:
        last = ord(prefix[-1])
        if last < 0x10FFFF:
            # Surrogates are no characters: UTF-8 goes from U+D7FF to U+E000.
            return prefix[:-1] + chr(0xE000 if last == 0xD7FF else last + 1)
        prefix = prefix[:-1]
    return None
