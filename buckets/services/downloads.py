"""Downloads: keys in, signed chunks out."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from django.conf import settings

from buckets.models import Bucket, Chunk, Object
from buckets.selectors import Found, find_objects
from keys.permissions import Permission
from keys.rights import KeyRights
from volume_server.signing import MAX_GET_SECONDS
from volumes.services.presign import GetItem, sign_gets


@dataclass(frozen=True, slots=True)
class SignedChunk:
    """``urls``: of every replica, those that are online first. ``offset`` and ``size`` in bytes."""

    index: int
    offset: int
    size: int
    crc32: int
    urls: list[str]


@dataclass(frozen=True, slots=True)
class Download:
    object: Object
    chunks: list[SignedChunk]


@dataclass(frozen=True, slots=True)
class Downloads:
    """The keys that were asked for, each once and in their order."""

    found: list[Download]
    missing: list[str]


def sign_downloads(*, bucket: Bucket, reader: KeyRights, keys: Iterable[str]) -> Downloads:
    """Signed URLs for all chunks of the objects; keys that ``reader`` may not read count as missing.

    A constant number of queries (but for the database's parameter limit).
    """
    # Before anything is read: whoever kills a needle later knows when the last URL for it has expired.
    expires_at = url_expiry()
    wanted = list(dict.fromkeys(keys))
    within = reader.prefixes(Permission.OBJECTS_READ, bucket=bucket.name)
    allowed = wanted if within is None else [key for key in wanted if key.startswith(within)]
    found = find_objects(bucket_id=bucket.pk, keys=allowed)
    pairs = [(one.object, chunk) for one in found.values() for chunk in one.chunks]
    urls = iter(sign_chunks(pairs, reader=reader, expires_at=expires_at))
    signed = {key: Download(object=one.object, chunks=_with_urls(one, urls)) for key, one in found.items()}
    return Downloads(
        found=[signed[key] for key in wanted if key in signed], missing=[key for key in wanted if key not in signed]
    )


def sign_chunks(chunks: Iterable[tuple[Object, Chunk]], *, reader: KeyRights, expires_at: int) -> list[list[str]]:
    """For each chunk the URLs of its replicas, good until ``expires_at`` (Unix seconds), those online first."""
    return sign_gets(
        (
            GetItem(
                volume_id=chunk.volume_id,
                needle=chunk.needle,
                etag=owner.etag,
                content_type=owner.content_type,
                filename=file_name(owner.key),
            )
            for owner, chunk in chunks
        ),
        api_key=reader.id,
        generation=reader.generation,
        expires_at=expires_at,
    )


def url_expiry() -> int:
    """Unix seconds until which a GET that is signed now is good."""
    return int(time.time()) + min(settings.WAREHOUSE_GET_SECONDS, MAX_GET_SECONDS)


def file_name(key: str) -> str | None:
    """The name that a browser saves an object under: what follows the last slash."""
    return key.rpartition("/")[2] or None


def _with_urls(found: Found, urls: Iterable[list[str]]) -> list[SignedChunk]:
    signed = []
    offset = 0
    # The chunks come first: `zip` would otherwise take one list of URLs too many.
    for chunk, chunk_urls in zip(found.chunks, urls, strict=False):
        signed.append(
            SignedChunk(index=chunk.index, offset=offset, size=chunk.size, crc32=chunk.crc32, urls=chunk_urls)
        )
        offset += chunk.size
    return signed
