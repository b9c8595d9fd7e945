"""Leases: the right to write needles, handed out without a database write."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from django.conf import settings

from buckets.errors import KeyInvalid
from buckets.names import key_error
from buckets.selectors.buckets import lately_open_bucket
from keys.errors import Invalid
from keys.rights import KeyRights
from volume_server.intent import MAX_COUNT, Intent
from volume_server.record import MAX_DATA_BYTES
from volumes.services.leases import reserve_lease_number
from volumes.services.placement import pick
from volumes.services.presign import put_url

SLOT_BITS = 16


@dataclass(frozen=True, slots=True)
class Lease:
    """``first`` is a needle id; ``url`` holds the literal ``{needle}``. ``chunk_size``: larger objects are uploads."""

    volume: int
    first: int
    count: int
    max_bytes: int
    url: str
    expires_at: datetime
    chunk_size: int


def issue_lease(*, bucket: str, holder: KeyRights, count: int, max_bytes: int, prefix: str = "") -> Lease:
    """The right to write ``count`` needles of at most ``max_bytes`` each, to keys that start with ``prefix``.

    Whether ``holder`` may is judged by the caller now, and again at confirm, which judges the bucket, too. Costs no
    query where all it needs was read within a second, and one update in a thousand calls. Raises BucketUnknown,
    BucketDeleting, Invalid, KeyInvalid, NoRoom, NoServers.
    """
    errors = {}
    if not 1 <= count <= MAX_COUNT:
        errors["count"] = [f"A number from 1 to {MAX_COUNT}."]
    if not 0 <= max_bytes <= MAX_DATA_BYTES:
        errors["max_bytes"] = [f"A number from 0 to {MAX_DATA_BYTES}; larger objects are uploads."]
    if errors:
        raise Invalid(errors=errors)
    if prefix and (problem := key_error(prefix)) is not None:
        raise KeyInvalid(errors={"prefix": [problem]})
    row = lately_open_bucket(bucket)
    (target,) = pick(needed_bytes=max_bytes, replication=row.replication)
    first = reserve_lease_number() << SLOT_BITS
    expires_at = int(time.time()) + settings.WAREHOUSE_LEASE_SECONDS
    intent = Intent(
        volume=target.volume_id,
        first=first,
        count=count,
        epoch=target.epoch,
        max_bytes=max_bytes,
        bucket_id=row.id,
        bucket=row.name,
        api_key=holder.id,
        generation=holder.generation,
        expires_at=expires_at,
        key=prefix,
    )
    return Lease(
        volume=target.volume_id,
        first=first,
        count=count,
        max_bytes=max_bytes,
        url=put_url(target=target, intent=intent),
        expires_at=datetime.fromtimestamp(expires_at, UTC),
        chunk_size=row.chunk_size or settings.WAREHOUSE_CHUNK_SIZE,
    )
