"""Buckets that are deleted with all that is in them."""

from collections.abc import Callable

import pytest

from buckets import tasks
from buckets.errors import BucketDeleting, BucketNotEmpty, BucketTaken, BucketUnknown, TooManyRows
from buckets.models import Bucket, Chunk, Object, Outbox, Upload
from buckets.selectors.buckets import get_bucket, is_public
from buckets.selectors.objects import get_object
from buckets.services import deletion, objects
from buckets.services.buckets import BucketSettings, create_bucket, delete_bucket, update_bucket
from buckets.services.deletion import close_bucket, delete_closed_buckets
from buckets.services.downloads import sign_downloads
from buckets.services.objects import delete_objects, update_object
from buckets.services.uploads import abort_upload, create_upload, expire_uploads, resume_upload
from buckets.verdicts import Refused
from keys.models import Grant
from keys.rights import GrantRow
from tests.unit.buckets.lab import Lab, Put, chunk_put, make_key, require_sound
from volumes.models import Store

KEYS = [f"k{at}" for at in range(5)]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two objects a batch."""
    monkeypatch.setattr(deletion, "OBJECTS_A_BATCH", 2)


@pytest.fixture
def full(lab: Lab, settings: pytest.FixtureRequest) -> Lab:
    """A bucket of five objects, an upload with one chunk of two, and a grant; and another one beside it."""
    settings.WAREHOUSE_CHUNK_SIZE = 10  # type: ignore[attr-defined]
    lab.put_many(*KEYS)
    slots = create_upload(bucket="photos", holder=lab.rights, key="u", size=20)
    lab.confirm(chunk_put(slots.chunks[0]))
    make_key(grants=(GrantRow("photos", "", 1),))
    create_bucket(name="other")
    lab.put("k", bucket="other")
    return lab


def test_a_bucket_goes_with_all_that_is_in_it(full: Lab, few: None) -> None:
    closed = close_bucket(name="photos")
    assert closed is not None
    assert (closed.is_deleting, closed.object_count) == (True, 5)
    assert delete_closed_buckets() is False
    assert [bucket.name for bucket in Bucket.objects.all()] == ["other"]
    assert [row.key for row in Object.objects.all()] == ["k"]
    assert not Upload.objects.exists()
    assert not Grant.objects.exists()
    assert sorted(Outbox.objects.values_list("reason", flat=True)) == ["deleted"] * 5 + ["upload_aborted"]
    require_sound()
    create_bucket(name="photos")


def test_an_empty_one_is_gone_at_once(lab: Lab) -> None:
    assert close_bucket(name="photos") is None
    assert not Bucket.objects.exists()
    with pytest.raises(BucketUnknown):
        close_bucket(name="photos")


def test_a_closed_bucket_takes_and_gives_nothing(full: Lab) -> None:
    lease = full.lease()
    upload = Upload.objects.select_related("bucket").get()
    slots = resume_upload(upload=upload, holder=full.rights)
    close_bucket(name="photos")
    upload.refresh_from_db(from_queryset=Upload.objects.select_related("bucket"))
    tries: list[Callable[[], object]] = [
        full.lease,
        lambda: create_upload(bucket="photos", holder=full.rights, key="v", size=1),
        lambda: resume_upload(upload=upload, holder=full.rights),
        lambda: abort_upload(upload_id=upload.pk),
        lambda: get_bucket("photos"),
        lambda: get_object(bucket="photos", key="k0"),
        lambda: get_object(bucket="photos", key="none"),
        lambda: sign_downloads(bucket="photos", reader=full.rights, keys=["k0"]),
        lambda: update_object(bucket="photos", key="k0", content_type="a/b"),
        lambda: delete_objects(bucket="photos", keys=["k0"]),
        lambda: update_bucket(name="photos", settings=BucketSettings(visibility="public-read")),
        lambda: delete_bucket(name="photos"),
    ]
    for job in tries:
        with pytest.raises(BucketDeleting):
            job()
    with pytest.raises(BucketTaken, match="being deleted"):
        create_bucket(name="photos")
    verdicts = full.confirm(Put(lease.url, lease.first, 1, "late"), *map(chunk_put, slots.chunks))
    assert [verdict.code for verdict in verdicts if isinstance(verdict, Refused)] == ["bucket_deleting"] * 2
    assert Object.objects.filter(bucket__name="photos").count() == 5
    assert get_bucket("photos", deleting_too=True).is_deleting
    require_sound()


def test_a_public_bucket_is_closed_as_well(full: Lab) -> None:
    update_bucket(name="photos", settings=BucketSettings(visibility="public-read"))
    assert is_public("photos")
    close_bucket(name="photos")
    assert not is_public("photos")


def test_expired_uploads_of_closed_buckets_hold_nothing_up(full: Lab, settings: pytest.FixtureRequest) -> None:
    settings.WAREHOUSE_CONFIRM_GRACE_SECONDS = 0  # type: ignore[attr-defined]
    settings.WAREHOUSE_UPLOAD_SECONDS = -1  # type: ignore[attr-defined]
    create_upload(bucket="photos", holder=full.rights, key="late", size=1)
    close_bucket(name="photos")
    assert expire_uploads() == 0
    delete_closed_buckets()
    assert not Upload.objects.exists()


def test_it_is_seen_how_far_it_is(full: Lab, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "BATCHES_A_CALL", 1)
    close_bucket(name="photos")
    counts = []
    while delete_closed_buckets():
        bucket = get_bucket("photos", deleting_too=True)
        counts.append((bucket.object_count, bucket.total_bytes))
        require_sound()
    assert counts == [(3, 30), (1, 10)]
    assert not Bucket.objects.filter(name="photos").exists()


def test_a_batch_ends_where_the_chunks_are_too_many(full: Lab, settings: pytest.FixtureRequest) -> None:
    """An object of more chunks than a commit takes goes alone; the bucket goes with the last object, and not before."""
    for key, chunks in (("k1x", 3), ("k2x", 7), ("z", 2)):
        full.put_chunks(key, size=10 * chunks)
    settings.WAREHOUSE_COMMIT_ROWS = 5  # type: ignore[attr-defined]
    close_bucket(name="photos")
    bucket_id = get_bucket("photos", deleting_too=True).pk
    left = []
    while deletion._delete_batch(bucket_id):
        left.append(list(Object.objects.filter(bucket=bucket_id).order_by("key").values_list("key", flat=True)))
        require_sound()
    assert left == [["k2", "k2x", "k3", "k4", "z"], ["k2x", "k3", "k4", "z"], ["k3", "k4", "z"]]
    assert not Bucket.objects.filter(name="photos").exists()
    assert Chunk.objects.count() == 1
    require_sound()


def test_chunks_are_counted_before_all_buckets_wait(full: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    for name in ("count_chunks", "next_sequence"):
        call = getattr(objects, name)
        monkeypatch.setattr(objects, name, lambda *given, call=call, name=name: (steps.append(name), call(*given))[1])
    delete_objects(bucket="photos", keys=["k0"])
    objects.empty_bucket(bucket="photos", limit=1)
    close_bucket(name="photos")
    delete_closed_buckets()
    assert steps == ["count_chunks", "next_sequence"] * 3


def test_a_bucket_is_emptied_by_commits_of_few_chunks(full: Lab, settings: pytest.FixtureRequest) -> None:
    full.put_chunks("k0x", size=60)
    settings.WAREHOUSE_COMMIT_ROWS = 4  # type: ignore[attr-defined]
    sequence = Store.objects.get().sequence
    assert objects.empty_bucket(bucket="photos", limit=3) == objects.Emptied(deleted=3, is_empty=False)
    assert Store.objects.get().sequence == sequence + 3
    assert objects.empty_bucket(bucket="photos", limit=100) == objects.Emptied(deleted=3, is_empty=True)
    assert Store.objects.get().sequence == sequence + 4
    require_sound()


def test_one_call_deletes_no_more_chunks_than_a_commit_takes(full: Lab, settings: pytest.FixtureRequest) -> None:
    full.put_chunks("big", size=40)
    settings.WAREHOUSE_COMMIT_ROWS = 5  # type: ignore[attr-defined]
    sequence = Store.objects.get().sequence
    with pytest.raises(TooManyRows) as refused:
        delete_objects(bucket="photos", keys=["k0", "big", "none", "k1"])
    assert refused.value.extra == {"count": 6, "limit": 5}
    assert (Object.objects.count(), Store.objects.get().sequence) == (7, sequence)
    with pytest.raises(TooManyRows):
        objects.delete_objects_of(keys={"photos": ["k0", "big"], "other": ["k"]})
    assert (Object.objects.count(), Store.objects.get().sequence) == (7, sequence)
    assert delete_objects(bucket="photos", keys=["k0", "big", "none"]).deleted == ["k0", "big"]
    require_sound()


def test_what_was_cut_off_is_gone_on_with(full: Lab, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    close_bucket(name="photos")
    remove, batches = deletion.remove_first_objects, []

    def killed_in_the_second(**arguments: object) -> int:
        removed = remove(**arguments)  # type: ignore[arg-type]
        batches.append(arguments)
        if len(batches) == 2:
            raise KeyboardInterrupt
        return removed

    monkeypatch.setattr(deletion, "remove_first_objects", killed_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        delete_closed_buckets()
    assert get_bucket("photos", deleting_too=True).object_count == 3
    require_sound()
    assert close_bucket(name="photos") is not None
    assert delete_closed_buckets() is False
    assert not Bucket.objects.filter(name="photos").exists()
    assert Chunk.objects.count() == 1
    require_sound()


def test_without_a_worker_it_waits(full: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task finds its work in the database, whoever starts it, and comes back while there is some."""
    woken: list[None] = []
    monkeypatch.setattr(deletion, "OBJECTS_A_BATCH", 4)
    monkeypatch.setattr(deletion, "BATCHES_A_CALL", 1)
    monkeypatch.setattr(tasks, "wake_deletion", lambda: woken.append(None))
    close_bucket(name="photos")
    with pytest.raises(BucketDeleting):
        get_bucket("photos")
    for count in (1, 1):
        tasks.delete_buckets()
        assert len(woken) == count
    assert not Bucket.objects.filter(name="photos").exists()


def test_objects_that_share_needles_with_others(full: Lab) -> None:
    """A needle that another bucket's object names as well stays alive."""
    shared = Chunk.objects.get(object__key="k0")
    Chunk.objects.filter(object__bucket__name="other").update(needle=shared.needle, volume=shared.volume_id)
    close_bucket(name="photos")
    delete_closed_buckets()
    assert not Outbox.objects.filter(needle=shared.needle).exists()


def test_deleting_without_force_stays_what_it_was(full: Lab) -> None:
    with pytest.raises(BucketNotEmpty):
        delete_bucket(name="photos")
