"""Volumes made beforehand, through the volume's own code, without a server."""

import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from zlib import crc32

from bench.uncommitted_server import VOLUME
from volume_server import intent as intents
from volume_server import meta as metas
from volume_server.store import Store
from volume_server.volume import Claim

GROUP = 256
"""Records that share a sync."""


def needle_ids(count: int) -> Iterator[int]:
    """As leases of 4,096 give them out."""
    for at in range(count):
        lease, slot = divmod(at, intents.MAX_COUNT)
        yield lease + 1 << 16 | slot


def small_meta(needle: int) -> bytes:
    """What a small put through a lease stores beside its bytes."""
    intent = intents.Intent(
        volume=VOLUME, first=needle >> 16 << 16, count=intents.MAX_COUNT, epoch=1, max_bytes=1 << 20, bucket_id=1,
        bucket="bench", api_key=1, generation=1, expires_at=0,
    )  # fmt: skip
    return metas.encode_plain(intents.pack(intent, bytes(32)), f"bench/{needle:016x}", "application/octet-stream")


def make_volume(data: Path, needles: Iterable[tuple[int, bytes]], *, dead: Sequence[int] = ()) -> None:
    """A data directory whose one volume holds these needles, the `dead` ones under a tombstone; cleanly closed."""
    now_ms = int(time.time() * 1000)
    store = Store(data)
    volume = store.create_volume(number=VOLUME, salt=secrets.token_bytes(16), created_ms=now_ms, epoch=1)
    store.adopt(volume)
    volume.size_limit = 1 << 38

    def settle(claims: list[Claim]) -> None:
        volume.flush()
        volume.settle(claims)
        claims.clear()

    claims: list[Claim] = []
    for needle, content in needles:
        claims.append(
            volume.enqueue(needle, small_meta(needle), content, data_crc=crc32(content), appended_ms=now_ms)
        )  # fmt: skip
        if len(claims) == GROUP:
            settle(claims)
    settle(claims)
    for needle in dead:
        claims.append(volume.tombstone(needle, appended_ms=now_ms))
        if len(claims) == GROUP:
            settle(claims)
    settle(claims)
    store.close()
