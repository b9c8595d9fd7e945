"""A store in one process: a volume server that exists as a row, and clients' needles as the numbers they are."""

import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from buckets.batch import Batch, Needle
from buckets.models import IN_PROGRESS, Bucket, Chunk, Object, Outbox, Upload
from buckets.selectors.buckets import forget_open_buckets, wrong_counts
from buckets.services.buckets import BucketSettings, create_bucket
from buckets.services.confirm import confirm_needles
from buckets.services.leases import Lease, issue_lease
from buckets.services.uploads import ChunkSlot, create_upload
from buckets.verdicts import Verdict
from keys.models import ApiKey
from keys.permissions import Permission
from keys.rights import GrantRow, KeyRights
from keys.selectors import forget_rights, rights_of_row
from keys.services.keys import create_key
from tests.unit.volumes.factories import make_server, make_volume
from volumes.models import Server, Volume
from volumes.services import leases, placement, presign

WRITE = int(Permission.OBJECTS_READ | Permission.OBJECTS_WRITE)


def intent_text(url: str) -> str:
    return parse_qs(urlsplit(url).query)["intent"][0]


def needle_of(url: str) -> int:
    return int(urlsplit(url).path.rsplit("/", 1)[1], 16)


@dataclass
class Put:
    """One durable needle, and what a volume server knows of it."""

    url: str
    needle: int
    size: int = 10
    key: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass
class Lab:
    server: Server
    volume: Volume
    bucket: Bucket
    key: ApiKey

    @classmethod
    def make(cls, **settings: Any) -> "Lab":
        server = make_server()
        key = make_key(permissions=WRITE)
        return cls(
            server=server,
            volume=make_volume(server),
            bucket=create_bucket(name="photos", settings=BucketSettings(**settings)),
            key=key,
        )

    @property
    def rights(self) -> KeyRights:
        return rights_of_row(self.key)

    def lease(self, *, count: int = 100, max_bytes: int = 1 << 20, prefix: str = "", bucket: str = "photos") -> Lease:
        return issue_lease(bucket=bucket, holder=self.rights, count=count, max_bytes=max_bytes, prefix=prefix)

    def confirm(self, *puts: Put, server: Server | None = None, deadline_ms: int | None = None) -> list[Verdict]:
        return confirm_needles(
            server=(server or self.server).pk, batch=batch_of(puts, deadline_ms=deadline_ms)
        ).verdicts

    def put(self, key: str, *, size: int = 10, bucket: str = "photos", **fields: Any) -> Verdict:
        lease = self.lease(count=1, bucket=bucket)
        return self.confirm(Put(lease.url, lease.first, size, key, fields))[0]

    def put_many(self, *keys: str, size: int = 10) -> list[Verdict]:
        lease = self.lease(count=len(keys))
        return self.confirm(*[Put(lease.url, lease.first + at, size, key) for at, key in enumerate(keys)])

    def put_chunks(self, key: str, *, size: int) -> list[Verdict]:
        """An object of as many chunks as `WAREHOUSE_CHUNK_SIZE` makes of it."""
        slots = create_upload(bucket="photos", holder=self.rights, key=key, size=size)
        return self.confirm(*[chunk_put(slot) for slot in slots.chunks])


def forget_caches() -> None:
    """What this process remembers belongs to another test's database."""
    leases.forget_block()
    placement.forget_table()
    presign.forget_places()
    forget_rights()
    forget_open_buckets()


def chunk_put(slot: ChunkSlot) -> Put:
    return Put(slot.url, needle_of(slot.url), slot.size)


def make_key(*, permissions: int = 0, grants: tuple[GrantRow, ...] = (), **fields: Any) -> ApiKey:
    return create_key(actor=None, name="test", permissions=permissions, grants=grants, **fields).key


def batch_of(puts: Any, *, deadline_ms: int | None = None) -> Batch:
    texts = list(dict.fromkeys(intent_text(put.url) for put in puts))
    return Batch(
        deadline_ms=int(time.time() * 1000) + 60_000 if deadline_ms is None else deadline_ms,
        intents=tuple(texts),
        needles=tuple(
            Needle(
                intent=texts.index(intent_text(put.url)),
                id=put.needle,
                size=put.size,
                crc32=zlib.crc32(b"%d" % put.needle),
                key=put.key,
                content_type=put.fields.get("content_type"),
                metadata=put.fields.get("metadata"),
                if_match=put.fields.get("if_match"),
                if_none_match=put.fields.get("if_none_match", False),
                appended_ms=int(time.time() * 1000),
            )
            for put in puts
        ),
    )


def require_sound(*, needles: Iterable[int] = ()) -> None:
    """What must hold between the tables, whatever has happened. ``needles``: all that were ever judged."""
    for bucket in Bucket.objects.all():
        sizes = list(Object.objects.filter(bucket=bucket).values_list("size", flat=True))
        assert (bucket.object_count, bucket.total_bytes) == (len(sizes), sum(sizes)), bucket.name
        waiting = Upload.objects.filter(bucket=bucket, state__in=IN_PROGRESS)
        assert bucket.reserved_objects == sum(upload.reserved_objects for upload in waiting), bucket.name
        assert bucket.reserved_bytes == sum(upload.reserved_bytes for upload in waiting), bucket.name
    assert wrong_counts() == []
    for row in Object.objects.all():
        chunks = list(Chunk.objects.filter(object=row).order_by("index"))
        assert [chunk.index for chunk in chunks] == list(range(len(chunks))), row.key
        assert chunks, row.key
        assert sum(chunk.size for chunk in chunks) == row.size, row.key
    named = set(Chunk.objects.values_list("needle", flat=True))
    buried = set(Outbox.objects.values_list("needle", flat=True))
    assert not named & buried
    assert set(needles) <= named | buried, "a needle that nobody knows"
