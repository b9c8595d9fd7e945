"""Leases: what they know of their bucket without asking each time."""

import pytest

from buckets.errors import BucketDeleting, BucketUnknown
from buckets.models import Bucket
from buckets.selectors import buckets as bucket_selectors
from buckets.services.buckets import BucketSettings, create_bucket, delete_bucket, update_bucket
from buckets.services.deletion import close_bucket
from buckets.sizes import MIN_CHUNK_BYTES
from tests.unit.buckets.lab import Lab


def test_what_becomes_of_a_bucket_is_seen_at_once(lab: Lab) -> None:
    lab.lease()
    update_bucket(name="photos", settings=BucketSettings(chunk_size=MIN_CHUNK_BYTES))
    assert lab.lease().chunk_size == MIN_CHUNK_BYTES
    delete_bucket(name="photos")
    with pytest.raises(BucketUnknown):
        lab.lease()
    lab.bucket = create_bucket(name="photos")
    lab.put("k")
    close_bucket(name="photos")
    with pytest.raises(BucketDeleting):
        lab.lease()


def test_what_another_process_does_to_a_bucket_is_seen_a_second_later(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(bucket_selectors.time, "monotonic", lambda: now_s)
    lab.lease()
    Bucket.objects.update(chunk_size=MIN_CHUNK_BYTES)
    assert lab.lease().chunk_size != MIN_CHUNK_BYTES
    now_s += bucket_selectors.OPEN_BUCKETS_LIVE_S + 0.1
    assert lab.lease().chunk_size == MIN_CHUNK_BYTES


def test_only_so_many_buckets_are_remembered(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_selectors, "OPEN_BUCKETS_KEPT", 2)
    for name in ("one", "two", "three"):
        create_bucket(name=name)
        assert lab.lease(bucket=name).count
    assert len(bucket_selectors._open_buckets) <= 2
