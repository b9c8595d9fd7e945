"""Uploads, deletes, copies and renames in one commit."""

from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from buckets.errors import (
    BucketUnknown,
    KeyInvalid,
    MetadataInvalid,
    ObjectChanged,
    ObjectExists,
    ObjectUnknown,
    QuotaExceeded,
    TooManyRows,
    UploadIncomplete,
    UploadOver,
    UploadUnknown,
)
from buckets.models import Bucket, Chunk, Object, Outbox, Upload
from buckets.services import groups
from buckets.services.buckets import create_bucket
from buckets.services.groups import CommitUpload, Copy, Delete, Operation, Outcome, Rename, commit_group
from buckets.services.objects import delete_objects, update_object
from buckets.services.uploads import Slots, abort_upload, create_upload
from buckets.verdicts import Committed, Verdict
from keys.errors import Invalid, WarehouseError
from keys.models import AuditEntry
from tests.unit.buckets.lab import Lab, Put, chunk_put, require_sound
from volumes.models import Store


@pytest.fixture(autouse=True)
def _small_chunks(settings: Any) -> None:
    settings.WAREHOUSE_CHUNK_SIZE = 100


def commit(*operations: Operation, bucket: str = "photos") -> list[Outcome]:
    return commit_group(bucket=bucket, operations=operations).outcomes


def held(lab: Lab, key: str, *, size: int = 250, **fields: Any) -> Slots:
    """An upload that is ready."""
    slots = create_upload(bucket="photos", holder=lab.rights, key=key, size=size, held=True, **fields)
    lab.confirm(*map(chunk_put, slots.chunks))
    return slots


def keys(bucket: str = "photos") -> dict[str, int]:
    return dict(Object.objects.filter(bucket__name=bucket).values_list("key", "size"))


def put(lab: Lab, key: str, *, size: int = 10, **fields: Any) -> tuple[Put, Verdict]:
    lease = lab.lease(count=1)
    one = Put(lease.url, lease.first, size, key, fields)
    return one, lab.confirm(one)[0]


def state() -> list[list[Any]]:
    return [list(model.objects.order_by("pk").values()) for model in (Bucket, Object, Chunk, Upload, Outbox, Store)]


def test_a_copy_names_the_same_needle(lab: Lab) -> None:
    sent, verdict = put(lab, "a", content_type="text/plain", metadata={"x": "y"})
    [done] = commit(Copy("a", "b/ü"))
    first, second = Object.objects.order_by("key")
    assert (first.key, second.key) == ("a", "b/ü")
    assert (second.size, second.content_type, second.metadata) == (10, "text/plain", {"x": "y"})
    assert second.etag != first.etag
    assert done.version is not None
    assert (done.version.etag, done.version.updated_at) == (second.etag, second.updated_at)
    assert second.sequence == Store.objects.get().sequence > first.sequence
    assert second.created_at == second.updated_at > first.updated_at
    assert set(Chunk.objects.values_list("needle", flat=True)) == {sent.needle}
    assert lab.confirm(sent) == [verdict]
    require_sound()
    # Whichever goes first, the needle dies with the last, and its verdict is the first one still.
    delete_objects(bucket="photos", keys=["a"])
    assert not Outbox.objects.exists()
    assert lab.confirm(sent) == [verdict]
    delete_objects(bucket="photos", keys=["b/ü"])
    assert Outbox.objects.get().needle == sent.needle
    assert lab.confirm(sent) == [verdict]
    assert Outbox.objects.get().verdict == verdict.as_json()
    require_sound(needles=[sent.needle])


def test_a_copy_with_other_attributes_and_onto_itself(lab: Lab) -> None:
    sent, verdict = put(lab, "a", metadata={"x": "y"})
    before = Object.objects.get()
    commit(Copy("a", "a", content_type="text/plain", metadata={}))
    after = Object.objects.get()
    assert (after.content_type, after.metadata, after.created_at) == ("text/plain", {}, before.created_at)
    assert after.etag != before.etag
    assert not Outbox.objects.exists()
    assert lab.confirm(sent) == [verdict]
    require_sound(needles=[sent.needle])


def test_a_copy_into_another_bucket(lab: Lab) -> None:
    create_bucket(name="other")
    sent, verdict = put(lab, "a")
    old, _ = put(lab, "old")
    commit(Copy("old", "a", target_bucket="other"), Copy("a", "a", target_bucket="other"), Delete("old"))
    assert (keys(), keys("other")) == ({"a": 10}, {"a": 10})
    assert Outbox.objects.get().needle == old.needle
    delete_objects(bucket="photos", keys=["a"])
    assert lab.confirm(sent) == [verdict]
    require_sound(needles=[sent.needle])
    Bucket.objects.filter(name="other").update(quota_objects=1)
    put(lab, "b")
    with pytest.raises(QuotaExceeded):
        commit(Copy("b", "b", target_bucket="other"))
    with pytest.raises(BucketUnknown):
        commit(Copy("b", "b", target_bucket="none"))
    with pytest.raises(BucketUnknown):
        commit(Copy("b", "b"), bucket="none")


def test_an_overwriting_copy_buries_what_was_there(lab: Lab) -> None:
    put(lab, "a")
    old, _ = put(lab, "b", size=30)
    created_at = Object.objects.get(key="b").created_at
    commit(Copy("a", "b"))
    assert keys() == {"a": 10, "b": 10}
    assert (Outbox.objects.get().needle, Outbox.objects.get().reason) == (old.needle, "overwritten")
    assert Object.objects.get(key="b").created_at == created_at
    require_sound()


def test_a_rename_keeps_what_the_object_is(lab: Lab) -> None:
    sent, verdict = put(lab, "a", content_type="text/plain", metadata={"x": "y"})
    before = Object.objects.get()
    commit(Rename("a", "b"))
    after = Object.objects.get()
    assert (after.pk, after.key, after.content_type, after.metadata) == (before.pk, "b", "text/plain", {"x": "y"})
    assert after.created_at == before.created_at
    assert after.etag != before.etag
    assert after.updated_at > before.updated_at
    assert after.sequence == Store.objects.get().sequence
    assert not Outbox.objects.exists()
    assert lab.confirm(sent) == [verdict]
    # The old key is free, and its next object is another one.
    put(lab, "a")
    assert lab.confirm(sent) == [verdict]
    commit(Rename("b", "a", overwrite=True))
    assert keys() == {"a": 10}
    assert Object.objects.get().pk == before.pk
    require_sound(needles=[sent.needle])


def test_a_rename_overwrites_only_when_told(lab: Lab) -> None:
    put(lab, "a")
    other, _ = put(lab, "b", size=20)
    etag = Object.objects.get(key="b").etag
    for error, fields in (
        (ObjectExists, {}),
        (ObjectChanged, {"if_none_match": True}),
        (ObjectChanged, {"if_none_match": True, "overwrite": True}),
        (ObjectChanged, {"if_match": "other"}),
        (ObjectChanged, {"from_if_match": etag}),
    ):
        before = state()
        with pytest.raises(error) as refused:
            commit(Rename("a", "b", **fields))
        assert refused.value.extra["index"] == 0
        assert state() == before
    commit(Rename("a", "b", if_match=etag))
    assert keys() == {"b": 10}
    assert Outbox.objects.get().needle == other.needle
    require_sound()


@pytest.mark.parametrize(
    ("operations", "left"),
    [
        # A swap, a circle of three, a chain, and there and back.
        ([Rename("a", "t"), Rename("b", "a"), Rename("t", "b")], {"a": 2, "b": 1, "c": 3}),
        ([Rename("a", "t"), Rename("c", "a"), Rename("b", "c"), Rename("t", "b")], {"a": 3, "b": 1, "c": 2}),
        ([Rename("c", "d"), Rename("b", "c"), Rename("a", "b")], {"b": 1, "c": 2, "d": 3}),
        ([Rename("a", "x"), Rename("x", "a")], {"a": 1, "b": 2, "c": 3}),
        ([Rename("a", "b", overwrite=True), Rename("b", "c", overwrite=True)], {"c": 1}),
        # What an earlier one left is what a later one finds.
        ([Copy("a", "b"), Delete("a"), Copy("b", "d"), Rename("c", "a")], {"a": 3, "b": 1, "d": 1}),
        ([Copy("a", "x"), Rename("x", "y"), Copy("y", "z"), Delete("y"), Delete("a")], {"z": 1, "b": 2, "c": 3}),
        ([Delete("a"), Copy("b", "a"), Rename("b", "d"), Delete("none")], {"a": 2, "d": 2, "c": 3}),
        ([Rename("a", "d"), Copy("d", "a"), Delete("d"), Copy("c", "d")], {"a": 1, "b": 2, "c": 3, "d": 3}),
        ([Copy("a", "b"), Copy("c", "b"), Delete("c"), Delete("a")], {"b": 3}),
    ],
)
def test_operations_find_what_earlier_ones_left(lab: Lab, operations: list[Operation], left: dict[str, int]) -> None:
    sent = [put(lab, key, size=size) for size, key in enumerate("abc", start=1)]
    outcomes = commit(*operations)
    assert keys() == left
    assert len({row.etag for row in Object.objects.all()}) == len(left)
    for row in Object.objects.all():
        told = [one for one in outcomes if one.key == row.key and one.version is not None]
        assert not told or told[-1].version.etag == row.etag  # type: ignore[union-attr]
    require_sound(needles=[one.needle for one, _ in sent])
    for one, verdict in sent:
        assert lab.confirm(one) == [verdict]
    delete_objects(bucket="photos", keys=left)
    assert not Chunk.objects.exists()
    require_sound(needles=[one.needle for one, _ in sent])


def test_a_group_of_everything(lab: Lab) -> None:
    put(lab, "old", size=5)
    put(lab, "gone", size=6)
    one = held(lab, "big", content_type="video/mp4", metadata={"a": "b"})
    two = held(lab, "old", size=20)
    assert keys() == {"old": 5, "gone": 6}
    before = Store.objects.get().sequence
    done = commit_group(
        bucket="photos",
        operations=[
            CommitUpload(one.upload.pk),
            Copy("big", "copy"),
            CommitUpload(two.upload.pk, if_match="*"),
            Delete("gone"),
            Rename("old", "new"),
        ],
    )
    assert done.sequence == Store.objects.get().sequence == before + 1
    assert keys() == {"big": 250, "copy": 250, "new": 20}
    assert {row.sequence for row in Object.objects.all()} == {done.sequence}
    row = Object.objects.get(key="big")
    assert (row.etag, row.content_type, row.metadata) == (one.upload.pk.hex, "video/mp4", {"a": "b"})
    assert Upload.objects.filter(state="completed").count() == 2
    assert [(outcome.key, outcome.existed) for outcome in done.outcomes] == [
        ("big", False),
        ("copy", False),
        ("old", True),
        ("gone", True),
        ("new", False),
    ]
    assert Outbox.objects.count() == 2
    bucket = Bucket.objects.get()
    assert (bucket.reserved_objects, bucket.reserved_bytes) == (0, 0)
    needles = [chunk_put(chunk).needle for chunk in (*one.chunks, *two.chunks)]
    require_sound(needles=needles)
    # Completing twice is one completion.
    with pytest.raises(UploadOver):
        commit(CommitUpload(one.upload.pk))
    with pytest.raises(UploadOver):
        abort_upload(upload_id=one.upload.pk)
    delete_objects(bucket="photos", keys=keys())
    assert not Chunk.objects.exists()
    require_sound(needles=needles)


@pytest.mark.parametrize(
    ("operations", "left"),
    [
        ([Delete("up")], {}),
        ([Copy("up", "x"), Delete("up")], {"x": 250}),
        ([Copy("up", "x"), Copy("x", "up")], {"x": 250, "up": 250}),
        ([Rename("up", "x"), Copy("x", "y"), Delete("x")], {"y": 250}),
        ([Rename("up", "x")], {"x": 250}),
    ],
)
def test_an_upload_that_does_not_stay_what_it_was(lab: Lab, operations: list[Operation], left: dict[str, int]) -> None:
    slots = held(lab, "up")
    puts = [chunk_put(chunk) for chunk in slots.chunks]
    verdicts = lab.confirm(*puts)
    commit(CommitUpload(slots.upload.pk), *operations)
    assert keys() == left
    assert not Chunk.objects.filter(upload__isnull=False).exists()
    assert lab.confirm(*puts) == verdicts
    require_sound(needles=[one.needle for one in puts])


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (Copy("none", "x"), ObjectUnknown),
        (Rename("none", "x"), ObjectUnknown),
        (Copy("a", "x", from_if_match="other"), ObjectChanged),
        (Copy("a", "b", if_none_match=True), ObjectChanged),
        (Copy("a", "x", if_match="*"), ObjectChanged),
        (Delete("a", if_match="other"), ObjectChanged),
        (Delete("none", if_match="*"), ObjectChanged),
        (CommitUpload(uuid4()), UploadUnknown),
        (Copy("a", ""), KeyInvalid),
        (Copy("a\0", "x"), KeyInvalid),
        (Delete("x" * 1025), KeyInvalid),
        (Rename("a", "a"), Invalid),
        (Delete("a", if_match='"'), Invalid),
        (Copy("a", "x", content_type="x"), MetadataInvalid),
        (Copy("a", "x", metadata={"A": "b"}), MetadataInvalid),
    ],
)
def test_all_or_nothing(lab: Lab, operation: Operation, error: type[WarehouseError]) -> None:
    put(lab, "a")
    put(lab, "b")
    before = state()
    with pytest.raises(error) as refused:
        commit(Copy("a", "c"), Delete("b"), Copy("c", "b"), operation)
    assert refused.value.extra["index"] == 3
    assert state() == before
    require_sound()


def test_uploads_that_cannot_be_committed(lab: Lab) -> None:
    unfinished = create_upload(bucket="photos", holder=lab.rights, key="k", size=250, held=True)
    plain = create_upload(bucket="photos", holder=lab.rights, key="k", size=250)
    lab.confirm(*map(chunk_put, (unfinished.chunks[0], plain.chunks[0])))
    aborted = held(lab, "k", size=1)
    abort_upload(upload_id=aborted.upload.pk)
    expired = held(lab, "k", size=2)
    Upload.objects.filter(pk=expired.upload.pk).update(expires_at=expired.upload.created_at)
    only_new, twice = held(lab, "k", size=3, if_none_match=True), held(lab, "j", size=4)
    put(lab, "k")
    elsewhere = held(lab, "k", size=5)
    create_bucket(name="other")
    before = state()
    for slots, error, bucket in (
        (unfinished, UploadIncomplete, "photos"),
        (plain, UploadIncomplete, "photos"),
        (aborted, UploadOver, "photos"),
        (expired, UploadOver, "photos"),
        (only_new, ObjectChanged, "photos"),
        (elsewhere, UploadUnknown, "other"),
    ):
        with pytest.raises(error):
            commit(CommitUpload(slots.upload.pk), bucket=bucket)
        assert state() == before
    with pytest.raises(UploadOver) as refused:
        commit(CommitUpload(twice.upload.pk), CommitUpload(twice.upload.pk))
    assert refused.value.extra["index"] == 1
    with pytest.raises(ObjectChanged):
        commit(CommitUpload(elsewhere.upload.pk, if_match="other"))
    with pytest.raises(ObjectChanged):
        commit(CommitUpload(elsewhere.upload.pk, if_none_match=True))
    assert state() == before
    commit(Delete("k"), CommitUpload(only_new.upload.pk), CommitUpload(elsewhere.upload.pk))
    assert keys() == {"k": 5}
    require_sound()


def test_quotas_are_judged_in_order_with_what_is_reserved(lab: Lab) -> None:
    put(lab, "a", size=40)
    slots = held(lab, "up", size=50)
    Bucket.objects.update(quota_bytes=100, quota_objects=2)
    before = state()
    with pytest.raises(QuotaExceeded) as refused:
        commit(CommitUpload(slots.upload.pk), Copy("a", "b"))
    assert refused.value.extra["index"] == 1
    assert state() == before
    # A rename adds nothing, an upload's own reservation is no hindrance, and what a delete frees is free.
    commit(Rename("a", "b"), CommitUpload(slots.upload.pk), Delete("b"), Copy("up", "c"))
    assert keys() == {"up": 50, "c": 50}
    Bucket.objects.update(quota_bytes=1, quota_objects=1)
    commit(Rename("c", "d"), Copy("up", "d"))
    require_sound()


def test_statements_do_not_grow_with_the_group(lab: Lab) -> None:
    names = [f"n{at:03}" for at in range(300)]
    counts = []
    for some in (names[:3], names[3:]):
        lab.put_many(*some)
        third = len(some) // 3
        operations = [
            *(Copy(key, f"c-{key}") for key in some[:third]),
            *(Rename(key, f"r-{key}") for key in some[third : 2 * third]),
            *(Delete(key) for key in some[2 * third :]),
        ]
        with CaptureQueriesContext(connection) as queries:
            commit(*operations)
        counts.append(len(queries))
    assert counts[0] == counts[1]
    require_sound()


def test_copies_have_a_bound(lab: Lab, settings: Any) -> None:
    slots = held(lab, "big")
    commit(CommitUpload(slots.upload.pk))
    settings.WAREHOUSE_COMMIT_ROWS = 5
    commit(Copy("big", "a"))
    before = state()
    with pytest.raises(TooManyRows) as refused:
        commit(Copy("big", "b"), Copy("big", "c"))
    assert (refused.value.extra["count"], refused.value.extra["limit"]) == (6, 5)
    assert state() == before
    with pytest.raises(Invalid):
        commit(*[Delete("x")] * (groups.MAX_OPERATIONS + 1))


def test_what_a_group_deletes_and_overwrites_has_a_bound(lab: Lab, settings: Any) -> None:
    """Chunks of every object that goes, and of an upload whose object was gone before the commit."""
    for key in ("a", "b", "c", "d"):
        commit(CommitUpload(held(lab, key).upload.pk))
    put(lab, "small")
    lost = held(lab, "lost")
    settings.WAREHOUSE_COMMIT_ROWS = 5
    before = state()
    groups_of_six: list[list[Operation]] = [
        [Delete("a"), Delete("b")],
        [Rename("a", "b", overwrite=True), Delete("c")],
        [Copy("a", "b")],
        [Rename("small", "a", overwrite=True), Rename("b", "e"), Delete("c")],
        [CommitUpload(lost.upload.pk), Delete("lost"), Delete("a")],
    ]
    for operations in groups_of_six:
        with pytest.raises(TooManyRows) as refused:
            commit(*operations)
        assert refused.value.extra == {"count": 6, "limit": 5}
        assert state() == before
    settings.WAREHOUSE_COMMIT_ROWS = 6
    commit(CommitUpload(lost.upload.pk), Delete("lost"), Delete("a"))
    commit(Rename("b", "c", overwrite=True), Delete("d"))
    assert keys() == {"c": 250, "small": 10}
    require_sound()


def test_the_trail_tells_of_it(lab: Lab) -> None:
    create_bucket(name="other")
    lab.put_many("a/1", "a/2")
    commit(Rename("a/1", "b/1"), Rename("a/2", "b/2"))
    commit(Copy("b/1", "x", target_bucket="other"))
    commit(Copy("b/1", "c"), Delete("b/2"))
    told = [(row.action, row.bucket, row.target, row.detail) for row in AuditEntry.objects.order_by("-pk")[:4]]
    assert told[::-1] == [
        ("object.rename", "photos", "b/", {"renamed": 2, "from": "a/"}),
        ("object.copy", "other", "x", {"copied": 1, "from_bucket": "photos"}),
        ("object.copy", "photos", "", {"copied": 1, "from": "b/1"}),
        ("object.commit", "photos", "", {"copied": 1, "deleted": 1, "from": "b/1"}),
    ]


def test_a_changed_copy_of_a_changed_copy(lab: Lab) -> None:
    sent, verdict = put(lab, "a")
    update_object(bucket="photos", key="a", metadata={"n": "1"})
    commit(Copy("a", "b"), Rename("a", "c"))
    update_object(bucket="photos", key="b", metadata={"n": "2"})
    commit(Copy("b", "c"), Rename("b", "d"))
    assert isinstance(verdict, Committed)
    assert lab.confirm(sent) == [verdict]
    assert all(len(row.etag) <= 64 for row in Object.objects.all())
    require_sound(needles=[sent.needle])
