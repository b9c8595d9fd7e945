import itertools
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from buckets.errors import (
    KeyInvalid,
    MetadataInvalid,
    ObjectChanged,
    ObjectTooLarge,
    QuotaExceeded,
    UploadOver,
    UploadUnknown,
)
from buckets.models import Bucket, Chunk, Object, Outbox, Upload
from buckets.services.buckets import delete_bucket
from buckets.services.objects import delete_objects
from buckets.services.uploads import MAX_CHUNKS, Slots, abort_upload, create_upload, expire_uploads, resume_upload
from buckets.verdicts import Committed, Refused, Stored
from keys.errors import Invalid
from tests.unit.buckets.lab import Lab, Put, chunk_put, forget_caches, require_sound
from tests.unit.volumes.factories import make_server, make_volume
from volume_server.record import MAX_DATA_BYTES
from volumes.errors import NoRoom, NoServers
from volumes.models import Server

CHUNK = 100


@pytest.fixture(autouse=True)
def _small_chunks(settings: Any) -> None:
    settings.WAREHOUSE_CHUNK_SIZE = CHUNK


def start(lab: Lab, *, key: str = "big", size: int = 250, **fields: Any) -> Slots:
    return create_upload(bucket="photos", holder=lab.rights, key=key, size=size, **fields)


def again(slots: Slots, lab: Lab) -> Slots:
    return resume_upload(upload=Upload.objects.select_related("bucket").get(pk=slots.upload.pk), holder=lab.rights)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("at_once", [True, False])
def test_the_last_chunk_makes_the_object_in_whatever_order(lab: Lab, order: tuple[int, ...], at_once: bool) -> None:
    slots = start(lab, content_type="video/mp4", metadata={"a": "b"})
    assert [(chunk.index, chunk.offset, chunk.size) for chunk in slots.chunks] == [
        (0, 0, 100),
        (1, 100, 100),
        (2, 200, 50),
    ]
    puts = [chunk_put(slots.chunks[index]) for index in order]
    verdicts = lab.confirm(*puts) if at_once else [lab.confirm(put)[0] for put in puts]
    upload = str(slots.upload.pk)
    assert verdicts[:2] == [
        Stored("photos", "big", put.size, upload, index) for put, index in zip(puts[:2], order[:2], strict=True)
    ]
    last = verdicts[2]
    assert isinstance(last, Committed)
    assert (last.key, last.size, last.etag) == ("big", 250, slots.upload.pk.hex)
    row = Object.objects.get()
    assert (row.size, row.etag, row.content_type, row.metadata) == (250, last.etag, "video/mp4", {"a": "b"})
    assert list(Chunk.objects.filter(object=row).order_by("index").values_list("needle", flat=True)) == [
        chunk_put(chunk).needle for chunk in slots.chunks
    ]
    assert Upload.objects.get().state == "completed"
    # Completing twice is one completion.
    assert lab.confirm(*puts) == verdicts
    assert again(slots, lab).chunks == []
    require_sound()


def test_an_empty_upload_is_one_chunk_of_nothing(lab: Lab) -> None:
    slots = start(lab, size=0)
    [chunk] = slots.chunks
    assert (chunk.index, chunk.offset, chunk.size) == (0, 0, 0)
    [verdict] = lab.confirm(chunk_put(chunk))
    assert isinstance(verdict, Committed)
    assert (Object.objects.get().size, Chunk.objects.get().size) == (0, 0)
    require_sound()


def test_resuming_asks_for_what_is_missing(lab: Lab) -> None:
    slots = start(lab)
    lab.confirm(chunk_put(slots.chunks[1]))
    missing = again(slots, lab).chunks
    assert [chunk.index for chunk in missing] == [0, 2]
    assert not {chunk.url for chunk in missing} & {chunk.url for chunk in slots.chunks}
    verdicts = lab.confirm(*[chunk_put(chunk) for chunk in missing])
    assert isinstance(verdicts[1], Committed)
    require_sound()


@pytest.mark.parametrize("at_once", [True, False])
def test_of_two_needles_of_one_chunk_the_later_wins(lab: Lab, at_once: bool) -> None:
    slots = start(lab)
    first, second = chunk_put(slots.chunks[0]), chunk_put(again(slots, lab).chunks[0])
    verdicts = lab.confirm(first, second) if at_once else [lab.confirm(first)[0], lab.confirm(second)[0]]
    assert verdicts[0] == verdicts[1] == Stored("photos", "big", 100, str(slots.upload.pk), 0)
    assert Chunk.objects.get().needle == second.needle
    assert Outbox.objects.get().needle == first.needle
    assert lab.confirm(first, second) == verdicts
    lab.confirm(chunk_put(slots.chunks[1]), chunk_put(slots.chunks[2]))
    assert Chunk.objects.get(index=0).needle == second.needle
    require_sound()


def test_a_chunk_for_an_upload_that_is_over(lab: Lab) -> None:
    slots = start(lab, size=50)
    spare = again(slots, lab).chunks[0]
    lab.confirm(chunk_put(slots.chunks[0]))
    [verdict] = lab.confirm(chunk_put(spare))
    assert isinstance(verdict, Refused)
    assert verdict.code == "upload_over"
    assert Outbox.objects.get().reason == "refused"
    require_sound()


def test_a_refused_completion_leaves_the_upload_open(lab: Lab) -> None:
    slots = start(lab, if_none_match=True)
    lab.confirm(chunk_put(slots.chunks[0]), chunk_put(slots.chunks[1]))
    lab.put("big")
    [verdict] = lab.confirm(chunk_put(slots.chunks[2]))
    assert isinstance(verdict, Refused)
    assert verdict.code == "precondition_failed"
    assert Object.objects.get().size == 10
    delete_objects(bucket="photos", keys=["big"])
    [missing] = again(slots, lab).chunks
    assert missing.index == 2
    assert isinstance(lab.confirm(chunk_put(missing))[0], Committed)
    require_sound()


def test_quota_is_judged_at_completion(lab: Lab) -> None:
    slots = start(lab)
    lab.confirm(chunk_put(slots.chunks[0]), chunk_put(slots.chunks[1]))
    Bucket.objects.update(quota_bytes=249)
    [verdict] = lab.confirm(chunk_put(slots.chunks[2]))
    assert isinstance(verdict, Refused)
    assert verdict.code == "quota_exceeded"
    with pytest.raises(QuotaExceeded):
        start(lab)
    require_sound()


def test_an_upload_that_is_overwritten_in_the_batch_that_completes_it(lab: Lab) -> None:
    slots = start(lab)
    lab.put("big")
    lab.confirm(chunk_put(slots.chunks[0]))
    lease = lab.lease()
    puts = [chunk_put(slots.chunks[1]), chunk_put(slots.chunks[2]), Put(lease.url, lease.first, 7, "big")]
    verdicts = lab.confirm(*puts)
    assert [verdict.as_json()["state"] for verdict in verdicts] == ["stored", "committed", "committed"]
    assert Object.objects.get().size == 7
    assert Chunk.objects.count() == 1
    # The three chunks of the upload, and the object before.
    assert Outbox.objects.filter(reason="overwritten").count() == 4
    assert lab.confirm(*puts) == verdicts
    require_sound()


def test_an_upload_over_an_object_that_the_same_batch_wrote(lab: Lab) -> None:
    slots = start(lab, size=50)
    lease = lab.lease()
    lab.confirm(Put(lease.url, lease.first, 7, "big"), chunk_put(slots.chunks[0]))
    assert Object.objects.get().size == 50
    assert Outbox.objects.get().needle == lease.first
    require_sound()


def test_aborting(lab: Lab) -> None:
    slots = start(lab)
    put = chunk_put(slots.chunks[0])
    [first] = lab.confirm(put)
    abort_upload(upload_id=slots.upload.pk)
    assert not Chunk.objects.exists()
    dead = Outbox.objects.get()
    assert (dead.needle, dead.reason) == (put.needle, "upload_aborted")
    assert lab.confirm(put) == [first]
    [late] = lab.confirm(chunk_put(slots.chunks[1]))
    assert isinstance(late, Refused)
    assert late.code == "upload_over"
    assert again(slots, lab).chunks == []
    with pytest.raises(UploadOver):
        abort_upload(upload_id=slots.upload.pk)
    with pytest.raises(UploadUnknown):
        abort_upload(upload_id=lab.server.pk)


def test_expiry(lab: Lab, settings: Any) -> None:
    fresh, stale, done = start(lab, key="fresh"), start(lab, key="stale"), start(lab, key="done", size=1)
    lab.confirm(chunk_put(stale.chunks[0]), chunk_put(done.chunks[0]))
    grace = timedelta(seconds=settings.WAREHOUSE_CONFIRM_GRACE_SECONDS)
    Upload.objects.exclude(pk=fresh.upload.pk).update(expires_at=timezone.now() - grace - timedelta(seconds=1))
    assert expire_uploads() == 1
    assert list(Upload.objects.all()) == [fresh.upload]
    assert Outbox.objects.get().reason == "upload_aborted"
    assert expire_uploads() == 0
    assert Object.objects.get().key == "done"
    require_sound()


def test_deleting_the_bucket_ends_its_uploads(lab: Lab) -> None:
    slots = start(lab)
    lab.confirm(chunk_put(slots.chunks[0]))
    delete_bucket(name="photos")
    assert not Upload.objects.exists()
    assert Outbox.objects.get().reason == "upload_aborted"
    [late] = lab.confirm(chunk_put(slots.chunks[1]))
    assert isinstance(late, Refused)
    assert late.code == "bucket_unknown"


def test_chunks_are_spread_over_servers(lab: Lab) -> None:
    other = make_server()
    make_volume(other)
    slots = start(lab, size=400)
    assert {chunk.url.split("/")[2] for chunk in slots.chunks} == {
        server.public_url.split("/")[2] for server in (lab.server, other)
    }


def test_what_cannot_be_leaves_no_trace(lab: Lab) -> None:
    lab.put("there")
    for error, fields in (
        (KeyInvalid, {"key": ""}),
        (KeyInvalid, {"key": "x" * 1025}),
        (Invalid, {"size": -1}),
        (ObjectTooLarge, {"size": MAX_CHUNKS * MAX_DATA_BYTES + 1}),
        (MetadataInvalid, {"metadata": {"A": "b"}}),
        (MetadataInvalid, {"content_type": "x"}),
        (Invalid, {"if_match": '"'}),
        (ObjectChanged, {"if_match": "*"}),
        (ObjectChanged, {"key": "there", "if_none_match": True}),
        # Many short names: their JSON does not fit into a URL.
        (Invalid, {"metadata": {f"a{at}": "" for at in range(500)}}),
    ):
        with pytest.raises(error):
            start(lab, **fields)
    Server.objects.update(stopped_at=timezone.now())
    forget_caches()
    with pytest.raises(NoServers):
        start(lab)
    assert not Upload.objects.exists()


def reserved() -> tuple[int, int]:
    bucket = Bucket.objects.get()
    return bucket.reserved_objects, bucket.reserved_bytes


def test_what_uploads_have_reserved_counts_until_they_are_over(lab: Lab, settings: Any) -> None:
    lab.put("there", size=30)
    Bucket.objects.update(quota_bytes=300, quota_objects=3)
    first = start(lab, size=150)
    second = start(lab, key="there", size=130)
    # Only what it adds to what is there.
    assert reserved() == (1, 250)
    require_sound()
    with pytest.raises(QuotaExceeded):
        start(lab, key="third", size=21)
    with pytest.raises(QuotaExceeded):
        start(lab, key="there", size=51)
    third = start(lab, key="third", size=20)
    assert reserved() == (2, 270)
    # Small puts are judged beside what is on its way, whatever is there; but what grows nothing is let through.
    for key, size in (("new", 0), ("there", 31)):
        refused = lab.put(key, size=size)
        assert isinstance(refused, Refused)
        assert refused.code == "quota_exceeded"
    assert isinstance(lab.put("there", size=30), Committed)
    # Its own reservation is no hindrance to the upload that completes.
    assert isinstance(lab.confirm(*map(chunk_put, first.chunks))[-1], Committed)
    assert reserved() == (1, 120)
    require_sound()
    abort_upload(upload_id=second.upload.pk)
    assert reserved() == (1, 20)
    require_sound()
    over = timezone.now() - timedelta(seconds=settings.WAREHOUSE_CONFIRM_GRACE_SECONDS + 1)
    Upload.objects.filter(pk=third.upload.pk).update(expires_at=over)
    assert expire_uploads() == 1
    assert reserved() == (0, 0)
    assert isinstance(lab.put("new", size=120), Committed)
    require_sound()


def test_a_refused_completion_keeps_its_reservation(lab: Lab) -> None:
    lab.put("big", size=200)
    slots = start(lab)
    assert reserved() == (0, 50)
    delete_objects(bucket="photos", keys=["big"])
    Bucket.objects.update(quota_bytes=249)
    lab.confirm(*map(chunk_put, slots.chunks[:2]))
    [verdict] = lab.confirm(chunk_put(slots.chunks[2]))
    assert isinstance(verdict, Refused)
    assert verdict.code == "quota_exceeded"
    assert reserved() == (0, 50)
    require_sound()


def test_free_space_is_judged_beside_what_is_still_to_come(lab: Lab) -> None:
    Server.objects.update(capacity_bytes=1000, free_bytes=1000)
    forget_caches()
    first = start(lab, size=300)
    with pytest.raises(NoRoom):
        start(lab, size=691)
    start(lab, size=690)
    with pytest.raises(NoRoom):
        start(lab, size=1)
    # What is stored is in the figures of the server, and no longer to come.
    lab.confirm(chunk_put(first.chunks[0]))
    start(lab, size=100)
    with pytest.raises(NoRoom):
        start(lab, size=1)
    abort_upload(upload_id=first.upload.pk)
    start(lab, size=200)


def test_a_promise_that_nobody_keeps_holds_no_space_for_long(lab: Lab, settings: Any) -> None:
    Server.objects.update(capacity_bytes=1000, free_bytes=1000)
    forget_caches()
    sent, silent = start(lab, size=400), start(lab, key="silent", size=590)
    lab.confirm(chunk_put(sent.chunks[0]))
    Upload.objects.update(created_at=timezone.now() - timedelta(seconds=settings.WAREHOUSE_CHUNK_URL_SECONDS))
    start(lab, size=690)  # beside the 300 that are still to come of the one that sends
    with pytest.raises(NoRoom):
        start(lab, size=1)
    assert Upload.objects.get(pk=silent.upload.pk).is_in_progress


def test_a_held_upload_is_ready_and_no_object(lab: Lab, settings: Any) -> None:
    slots = start(lab, held=True)
    verdicts = lab.confirm(*map(chunk_put, slots.chunks))
    assert verdicts == [
        Stored("photos", "big", chunk.size, str(slots.upload.pk), chunk.index) for chunk in slots.chunks
    ]
    assert Upload.objects.get().state == "ready"
    assert not Object.objects.exists()
    assert reserved() == (1, 250)
    assert again(slots, lab).chunks == []
    assert lab.confirm(*map(chunk_put, slots.chunks)) == verdicts
    require_sound()
    abort_upload(upload_id=slots.upload.pk)
    assert Outbox.objects.filter(reason="upload_aborted").count() == 3
    assert reserved() == (0, 0)
    require_sound()
    lost = start(lab, held=True, size=10)
    lab.confirm(chunk_put(lost.chunks[0]))
    over = timezone.now() - timedelta(seconds=settings.WAREHOUSE_CONFIRM_GRACE_SECONDS + 1)
    Upload.objects.update(expires_at=over)
    assert expire_uploads() == 1
    assert Outbox.objects.count() == 4
    assert not Upload.objects.exists()
    require_sound()


def test_a_ready_upload_takes_no_more_chunks(lab: Lab) -> None:
    slots = start(lab, held=True, size=50)
    spare = chunk_put(again(slots, lab).chunks[0])
    _, late = lab.confirm(chunk_put(slots.chunks[0]), spare)
    assert isinstance(late, Refused)
    assert late.code == "upload_over"
    assert Chunk.objects.get().needle != spare.needle
    require_sound()
    delete_bucket(name="photos")
    assert Outbox.objects.count() == 2


def test_very_large_objects_have_larger_chunks(lab: Lab) -> None:
    slots = start(lab, size=MAX_CHUNKS * CHUNK + 1)
    assert slots.upload.chunk_size == CHUNK + 1
    assert sum(chunk.size for chunk in slots.chunks) == MAX_CHUNKS * CHUNK + 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"chunk_count": 2},
        {"chunk_count": 4},
        {"size": 301},
        {"size": -1},
        {"state": "lost"},
        {"state": "ready"},
        {"reserved_bytes": 251},
        {"reserved_bytes": -1},
        {"reserved_objects": 2},
        {"chunk_size": 0},
    ],
)
def test_rows_hold_their_invariants(lab: Lab, wrong: dict[str, Any]) -> None:
    slots = start(lab)
    with pytest.raises(IntegrityError), transaction.atomic():
        Upload.objects.filter(pk=slots.upload.pk).update(**wrong)
