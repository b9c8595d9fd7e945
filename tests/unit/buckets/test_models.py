"""Rows that must not be, tried."""

from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.db.models import Model
from django.utils import timezone

from buckets.models import Bucket, Chunk, Object, Outbox, Share, Upload
from buckets.services.uploads import create_upload
from tests.unit.buckets.lab import Lab, chunk_put
from tests.unit.buckets.sharing import make_maker, share_of


@pytest.fixture
def rows(lab: Lab, settings: Any) -> dict[str, Model]:
    settings.WAREHOUSE_CHUNK_SIZE = 10
    lab.put("k")
    lab.put("k")
    slots = create_upload(bucket="photos", holder=lab.rights, key="u", size=20)
    lab.confirm(chunk_put(slots.chunks[0]))
    return {
        "bucket": lab.bucket,
        "object": Object.objects.get(),
        "chunk": Chunk.objects.get(upload=None),
        "part": Chunk.objects.get(object=None),
        "outbox": Outbox.objects.get(),
        "share": share_of(make_maker(), "k", max_downloads=2).share,
    }


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("bucket", {"name": ""}),
        ("bucket", {"visibility": "open"}),
        ("bucket", {"replication": 0}),
        ("bucket", {"chunk_size": 1023}),
        ("bucket", {"chunk_size": (255 << 20) + 1}),
        ("bucket", {"object_count": -1}),
        ("bucket", {"total_bytes": -1}),
        ("bucket", {"reserved_objects": -1}),
        ("bucket", {"reserved_bytes": -1}),
        ("object", {"key": ""}),
        ("object", {"key": "ü" * 513}),
        ("object", {"size": -1}),
        ("object", {"etag": ""}),
        ("object", {"sequence": 0}),
        ("chunk", {"object": None}),
        ("chunk", {"needle": 0}),
        ("chunk", {"size": -1}),
        ("chunk", {"crc32": 1 << 32}),
        ("chunk", {"crc32": -1}),
        ("part", {"upload": None}),
        ("part", {"verdict": None}),
        ("outbox", {"reason": "boredom"}),
        ("outbox", {"needle": 0}),
        ("share", {"token_hash": ""}),
        ("share", {"key": ""}),
        ("share", {"key": "ü" * 513}),
        ("share", {"max_downloads": 0}),
        ("share", {"download_count": -1}),
        ("share", {"download_count": 3}),
    ],
)
def test_a_row_that_must_not_be(rows: dict[str, Model], name: str, wrong: dict[str, Any]) -> None:
    row = rows[name]
    with pytest.raises(IntegrityError), transaction.atomic():
        type(row)._default_manager.filter(pk=row.pk).update(**wrong)


def test_what_is_unique(rows: dict[str, Model], lab: Lab) -> None:
    now = timezone.now()
    common = {"volume": lab.volume, "needle": 77, "size": 1, "crc32": 1, "committed_at": now, "index": 0}
    for again in (
        Bucket(name="photos"),
        Object(
            bucket=lab.bucket, key="k", size=1, etag="e", content_type="a/b", created_at=now, updated_at=now, sequence=1
        ),
        Chunk(object=Object.objects.get(), **common),
        Chunk(upload=Upload.objects.get(), verdict={}, **common),
        Share(bucket=lab.bucket, key="k", token_hash=Share.objects.get().token_hash, api_key=1, api_key_name="x"),
        Outbox(
            needle=Outbox.objects.get().needle,
            volume=lab.volume,
            reason="deleted",
            verdict={},
            created_at=now,
            not_before=now,
            keep_until=now,
        ),
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            again.save(force_insert=True)


def test_keys_are_kept_to_the_byte(lab: Lab) -> None:
    """1,024 bytes are a key on both databases, however many characters they are."""
    lab.put_many("ü" * 512, "x" * 1024)
    assert Object.objects.count() == 2
