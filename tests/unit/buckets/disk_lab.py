"""A lab whose needles lie in real volume files, so that a database can be made of them again."""

import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.db import connection

from buckets.batch import Batch, Needle
from buckets.models import Bucket, Chunk, Journal, JournalNeedle, Object, Outbox, Removed, Share, Upload
from buckets.services.chunks import Owner, first_verdict
from buckets.services.confirm import confirm_needles
from buckets.services.outbox import tombstones_up_to
from buckets.verdicts import Committed, Refused, Verdict, rfc3339
from keys.models import ApiKey, AuditEntry, Grant, RefreshFamily, RevokedKey
from keys.selectors import forget_rights
from tests.unit.buckets.lab import Lab, Put, forget_caches, intent_text, needle_of
from volume_server import intent as intents
from volume_server import meta as metas
from volume_server.durability import FileSystem
from volume_server.superblock import Superblock
from volume_server.volume import Volume as VolumeFile
from volumes.models import ForgottenServer, Replica, Server, Store, Volume
from volumes.services import store as stores

TABLES = (
    *(Share, Chunk, Outbox, Removed, JournalNeedle, Journal, Object, Upload, Bucket),
    *(Replica, Volume, ForgottenServer, Server, Store, Grant, RefreshFamily, RevokedKey, AuditEntry, ApiKey),
)
"""Every table of a store, those that point to others first."""


@dataclass
class DiskLab(Lab):
    """``directory`` is the data directory of its one volume server."""

    directory: Path = Path()
    file: VolumeFile = field(init=False)
    now_ms: int = 0
    """The master's clock as the volume server knows it; 0: the real one."""

    @classmethod
    def on_disk(cls, directory: Path, **settings: Any) -> "DiskLab":
        lab = Lab.make(**settings)
        made = cls(lab.server, lab.volume, lab.bucket, lab.key, directory)
        directory.mkdir(parents=True)
        superblock = Superblock(lab.volume.pk, 1, lab.volume.created_ms, bytes(lab.volume.salt))
        made.file = VolumeFile.create(FileSystem(), directory, superblock, epoch=lab.volume.epoch)
        made.write_identity()
        return made

    def write_identity(self) -> None:
        identity = {
            "server": str(self.server.pk),
            "secrets": {},
            "kid": 1,
            "store": str(stores.current_store().uuid),
            "sequence": stores.current_store().sequence,
        }
        (self.directory / "server.json").write_text(json.dumps(identity))

    # --- what the volume server does ---

    def append(self, put: Put, data: bytes) -> None:
        """The needle, durable and not confirmed."""
        packed = intents.from_text(intent_text(put.url))
        is_fixed = intents.unpack(packed).key_fixed
        meta = metas.Meta(packed, "" if is_fixed else put.key or "", **_meta_fields(put.fields))
        self._settle(
            self.file.append(
                put.needle, metas.encode(meta), data, data_crc=zlib.crc32(data), appended_ms=self._clock_ms()
            )
        )

    def tombstone(self, *needles: int, verdict: str = "") -> None:
        for needle in needles:
            if self.file.stored_length(needle):
                self._settle(self.file.tombstone(needle, verdict=verdict, appended_ms=self._clock_ms()))

    def _settle(self, claim: Any) -> None:
        self.file.sync_log()
        self.file.settle([claim])

    def _clock_ms(self) -> int:
        return self.now_ms or int(time.time() * 1000)

    def put_needle(self, url: str, data: bytes) -> None:
        """In the place of `volumes.client.put_needle`."""
        put = Put(url, needle_of(url), len(data))
        self.append(put, data)
        [verdict] = self._confirm([put], [data])
        assert isinstance(verdict, Committed), verdict

    def confirm(self, *puts: Put, server: Server | None = None, deadline_ms: int | None = None) -> list[Verdict]:
        data = [bytes_of(put) for put in puts]
        for put, some in zip(puts, data, strict=True):
            if self.file.stored_length(put.needle) is None:
                self.append(put, some)
        verdicts = self._confirm(puts, data)
        for put, verdict in zip(puts, verdicts, strict=True):
            if isinstance(verdict, Refused):
                self.tombstone(put.needle, verdict=f"412 {verdict.code}")
        return verdicts

    def _confirm(self, puts: Sequence[Put], data: Sequence[bytes]) -> list[Verdict]:
        texts = list(dict.fromkeys(intent_text(put.url) for put in puts))
        needles = tuple(
            Needle(
                intent=texts.index(intent_text(put.url)),
                id=put.needle,
                size=len(some),
                crc32=zlib.crc32(some),
                key=put.key,
                content_type=put.fields.get("content_type"),
                metadata=put.fields.get("metadata"),
                if_match=put.fields.get("if_match"),
                if_none_match=put.fields.get("if_none_match", False),
                appended_ms=self._clock_ms(),
            )
            for put, some in zip(puts, data, strict=True)
        )
        batch = Batch(int(time.time() * 1000) + 60_000, tuple(texts), needles)
        return confirm_needles(server=self.server.pk, batch=batch).verdicts

    def collect(self) -> int:
        """Tombstones for dead needles that need not wait for the journal, whoever may be reading them."""
        rows = Outbox.objects.filter(tombstoned_at=None)
        if (journalled := tombstones_up_to()) is not None:
            rows = rows.filter(sequence__lte=journalled)
        needles = list(rows.values_list("needle", flat=True))
        self.tombstone(*needles)
        Outbox.objects.filter(needle__in=needles).update(tombstoned_at=stores.current_store().created_at)
        return len(needles)

    def stop(self) -> None:
        self.write_identity()
        self.file.close()


def bytes_of(put: Put) -> bytes:
    return (b"%016x" % put.needle * (put.size // 16 + 1))[: put.size]


def _meta_fields(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def empty_database() -> None:
    """The database is lost, and with it all that this process remembers of it."""
    with connection.cursor() as cursor:
        for model in TABLES:
            if model is ApiKey:
                cursor.execute("UPDATE keys_apikey SET created_by_id = NULL")
            cursor.execute(f"DELETE FROM {model._meta.db_table}")  # noqa: S608 - our own names
    forget_caches()
    forget_rights()


def state() -> dict[str, Any]:
    """All of the store that must come back, in plain values."""
    objects = {}
    for row in Object.objects.select_related("bucket"):
        objects[row.bucket.name, row.key] = (
            *(row.size, row.etag, row.content_type, row.metadata, row.created_at, row.updated_at, row.sequence),
            _chunks(Chunk.objects.filter(object=row), row.bucket.name, row.key),
        )
    uploads = {
        row["id"]: (row, _chunks(Chunk.objects.filter(upload=row["id"]), "", ""))
        for row in Upload.objects.filter(state__in=("open", "ready")).values()
    }
    return {
        "objects": objects,
        "uploads": uploads,
        "buckets": list(Bucket.objects.order_by("pk").values()),
        "keys": list(ApiKey.objects.order_by("pk").values()),
        "grants": list(Grant.objects.order_by("pk").values()),
        "revoked": list(RevokedKey.objects.order_by("pk").values()),
        "shares": list(Share.objects.order_by("pk").values()),
        "servers": list(
            Server.objects.order_by("pk").values("id", "node", "public_url", "kid", "proven", "admin_state")
        ),
        "volumes": [(row.pk, bytes(row.salt), row.epoch, row.state) for row in Volume.objects.order_by("pk")],
        "replicas": list(Replica.objects.order_by("pk").values("volume", "server", "role")),
        "store": Store.objects.values_list("uuid", flat=True).get(),
    }


def _chunks(chunks: Any, bucket: str, key: str) -> list[tuple[Any, ...]]:
    """A verdict that follows from the object may be written down or not."""
    return [
        (
            *(chunk.index, chunk.volume_id, chunk.needle, chunk.size, chunk.crc32, chunk.committed_at),
            chunk.verdict
            or first_verdict(chunk.needle, Owner(bucket, key, chunk.size), rfc3339(chunk.committed_at)).as_json(),
        )
        for chunk in chunks.order_by("index")
    ]


__all__ = ["DiskLab", "bytes_of", "empty_database", "state"]
