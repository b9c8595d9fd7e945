"""Downloads: keys in, signed chunks out."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from django.conf import settings

from buckets.errors import NeedleUnreadable
from buckets.selectors.buckets import open_bucket
from buckets.selectors.objects import Found, find_objects
from keys.permissions import Permission
from keys.rights import KeyRights
from volume_server.signing import MAX_GET_SECONDS
from volumes.services.presign import GetItem, sign_gets

_turn = threading.Lock()
"""One look-up at a time: each row that SQLite gives lets go of the interpreter's lock, and with sixteen threads in
line for it a batch took twice as long as alone."""


class Download(NamedTuple):
    """An object, and for each of its chunks the URLs of all replicas, those that are online first."""

    object: Found
    urls: list[list[str]]


@dataclass(frozen=True, slots=True)
class Downloads:
    """The keys that were asked for, each once and in their order."""

    found: list[Download]
    missing: list[str]


def sign_downloads(*, bucket: str, reader: KeyRights, keys: Iterable[str]) -> Downloads:
    """Signed URLs for all chunks of the objects; keys that ``reader`` may not read count as missing.

    Three queries at the most (but for the database's parameter limit). Raises BucketUnknown.
    """
    # Before anything is read: whoever kills a needle later knows when the last URL for it has expired.
    expires_at = url_expiry()
    wanted = list(dict.fromkeys(keys))
    within = reader.prefixes(Permission.OBJECTS_READ, bucket=bucket)
    allowed = wanted if within is None else [key for key in wanted if key.startswith(within)]
    with _turn:
        found = find_objects(bucket_id=open_bucket(bucket).id, keys=allowed)
        urls = iter(sign_chunks(found.values(), reader=reader, expires_at=expires_at))
        signed = {key: Download(one, [next(urls) for _ in one.chunks]) for key, one in found.items()}
    return Downloads(
        found=[signed[key] for key in wanted if key in signed], missing=[key for key in wanted if key not in signed]
    )


def sign_needle(found: Found, *, reader: KeyRights, expires_at: int, inline: bool = False) -> str:
    """The URL of an object of one chunk, at the replica to be asked first. Raises NeedleUnreadable."""
    [urls] = sign_chunks([found], reader=reader, expires_at=expires_at, inline=inline)
    if not urls:
        raise NeedleUnreadable("The volume server that holds this object is not known yet.")
    return urls[0]


def sign_online(
    objects: Iterable[Found], *, reader: KeyRights, expires_at: int, inline: bool = False
) -> list[list[str]]:
    """As `sign_chunks`, of the replicas alone whose servers are online. Raises NeedleUnreadable where there is none.

    For the master, which does not wait for a server that is known to be silent, and for people in a browser, who would
    be sent to a page that does not come.
    """
    signed = sign_chunks(objects, reader=reader, expires_at=expires_at, inline=inline, only_online=True)
    if not all(signed):
        raise NeedleUnreadable("The server that holds this object is offline.")
    return signed


def sign_chunks(
    objects: Iterable[Found], *, reader: KeyRights, expires_at: int, inline: bool = False, only_online: bool = False
) -> list[list[str]]:
    """For each chunk of each object the URLs of its replicas, good until ``expires_at`` (Unix seconds)."""
    return sign_gets(
        [
            GetItem(
                volume_id=chunk.volume_id,
                needle=chunk.needle,
                etag=one.etag,
                content_type=one.content_type,
                inline=inline,
                filename=file_name(one.key),
            )
            for one in objects
            for chunk in one.chunks
        ],
        api_key=reader.id,
        generation=reader.generation,
        expires_at=expires_at,
        only_online=only_online,
    )


def url_expiry(seconds: int = MAX_GET_SECONDS) -> int:
    """Unix seconds until which a GET that is signed now is good; at most ``seconds`` from now."""
    return int(time.time()) + min(settings.WAREHOUSE_GET_SECONDS, MAX_GET_SECONDS, seconds)


def file_name(key: str) -> str | None:
    """The name that a browser saves an object under: what follows the last slash."""
    return key.rpartition("/")[2] or None
