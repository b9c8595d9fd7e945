"""Writers of one bucket at the same time, in processes with connections of their own."""

import multiprocessing
import random
from datetime import timedelta
from functools import partial

import pytest
from django.db import connection, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from buckets.errors import BucketNotEmpty, BucketTaken, BucketUnknown, QuotaExceeded, UploadOver
from buckets.models import Bucket, Chunk, Object, Outbox, Upload
from buckets.services import deletion
from buckets.services.buckets import create_bucket, delete_bucket
from buckets.services.deletion import close_bucket, delete_closed_buckets
from buckets.services.groups import CommitUpload, Copy, Delete, Operation, Rename, commit_group
from buckets.services.locks import lock_bucket
from buckets.services.objects import delete_objects
from buckets.services.prefixes import rename_prefix
from buckets.services.uploads import Slots, abort_upload, create_upload, resume_upload
from buckets.verdicts import Committed, Refused, Stored, Verdict
from keys.errors import WarehouseError
from keys.permissions import Permission
from tests.support.races import at_once
from tests.support.waiting import wait_until
from tests.unit.buckets.lab import Lab, Put, chunk_put, forget_caches, make_key, require_sound
from tests.unit.volumes.factories import make_server, make_volume
from volumes.models import Server
from volumes.services.store import next_sequence

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # nothing else runs in this process
]

ROUNDS = 5
"""How often two that want the same are let loose on each other."""


@pytest.fixture
def lab(transactional_db: None) -> Lab:
    lab = Lab.make()
    _stay_online(lab.server)
    return lab


@pytest.fixture
def labs(lab: Lab) -> list[Lab]:
    """The same bucket as three volume servers see it, each with a volume of its own."""
    return [lab, *(_beside(lab) for _ in range(2))]


def _beside(lab: Lab) -> Lab:
    server = make_server()
    _stay_online(server)
    return Lab(server=server, volume=make_volume(server), bucket=lab.bucket, key=lab.key)


def _stay_online(server: Server) -> None:
    """However slow the machine: nobody sends heartbeats here."""
    Server.objects.filter(pk=server.pk).update(last_seen_at=timezone.now() + timedelta(hours=1))


def puts_of(lab: Lab, *keys: str, size: int = 10) -> list[Put]:
    """Needles for the keys in the volume of this lab's server, of one lease."""
    while True:
        forget_caches()
        lease = lab.lease(count=len(keys))
        if lease.volume == lab.volume.pk:
            return [Put(lease.url, lease.first + at, size, key) for at, key in enumerate(keys)]


def needles_of(*batches: list[Put]) -> list[int]:
    return [put.needle for batch in batches for put in batch]


def state_of(lab: Lab, put: Put) -> str:
    """What a confirm of one needle comes to, by name."""
    return type(lab.confirm(put)[0]).__name__


def winner_of(key: str) -> int:
    """The needle that the one object of the key has."""
    return Chunk.objects.get(object__key=key, object__bucket__name="photos").needle


def test_batches_of_several_servers_on_the_same_keys(labs: list[Lab]) -> None:
    """Absent keys and present ones, in orders that would deadlock if rows were locked as they come."""
    keys = [f"k{at}" for at in range(8)]
    batches = [[puts_of(one, *random.sample(keys, len(keys))) for _ in range(6)] for one in labs]

    def write(one: Lab, own: list[list[Put]]) -> list[Verdict]:
        return [verdict for batch in own for verdict in one.confirm(*batch)]

    def delete() -> list[Verdict]:
        for _ in range(6):
            delete_objects(bucket="photos", keys=random.sample(keys, 3))
        return []

    written = at_once(*(partial(write, one, own) for one, own in zip(labs, batches, strict=True)), delete)
    assert all(isinstance(verdict, Committed) for verdicts in written for verdict in verdicts)
    require_sound(needles=needles_of(*(batch for own in batches for batch in own)))
    assert Chunk.objects.count() + Outbox.objects.count() == 3 * 6 * 8


def test_two_overwrites_of_one_key_in_batches_of_two_servers(labs: list[Lab]) -> None:
    one, other, _ = labs
    needles: list[int] = []
    for size in range(1, ROUNDS + 1):
        # Each batch holds the key twice, and the later needle of it wins there.
        batches = [puts_of(one, "k", "k", size=size), puts_of(other, "k", "k", size=10 * size)]
        needles += needles_of(*batches)
        at_once(partial(one.confirm, *batches[0]), partial(other.confirm, *batches[1]))
        assert winner_of("k") in {batch[1].needle for batch in batches}
        assert Outbox.objects.count() == len(needles) - 1
        require_sound(needles=needles)


def test_overwrite_and_delete(lab: Lab) -> None:
    """Both happen, in one order or the other: what the delete found is gone, what came after it is there."""
    needles: list[int] = []

    def delete() -> str:
        [deleted] = delete_objects(bucket="photos", keys=["k"]).deleted
        return deleted

    for _ in range(ROUNDS):
        [old], [new] = puts_of(lab, "k"), puts_of(lab, "k", size=20)
        needles += needles_of([old], [new])
        lab.confirm(old)
        assert at_once(partial(state_of, lab, new), delete) == ["Committed", "k"]
        if Object.objects.exists():
            assert winner_of("k") == new.needle
        require_sound(needles=needles)
        delete_objects(bucket="photos", keys=["k"])


def test_one_creator_of_a_key(labs: list[Lab]) -> None:
    for number in range(ROUNDS):
        puts = [put for one in labs for put in puts_of(one, f"k{number}")]
        for put in puts:
            put.fields["if_none_match"] = True
        verdicts = at_once(*(partial(one.confirm, put) for one, put in zip(labs, puts, strict=True)))
        committed = [put for put, [verdict] in zip(puts, verdicts, strict=True) if isinstance(verdict, Committed)]
        assert [put.needle for put in committed] == [winner_of(f"k{number}")]
        assert sum(isinstance(verdict, Refused) for [verdict] in verdicts) == 2
        require_sound(needles=needles_of(puts))


def test_the_same_batch_twice(lab: Lab) -> None:
    puts = puts_of(lab, *(f"k{at % 3}" for at in range(9)))
    first, *others = at_once(*[partial(lab.confirm, *puts)] * 3)
    assert others == [first, first]
    assert Object.objects.count() == 3
    require_sound(needles=needles_of(puts))


@pytest.mark.parametrize(
    ("quota", "fitting"), [({"quota_bytes": 100}, 3), ({"quota_objects": 5}, 5), ({"quota_objects": 0}, 0)]
)
def test_quota_at_the_edge(labs: list[Lab], quota: dict[str, int], fitting: int) -> None:
    for number in range(ROUNDS // 2):
        Bucket.objects.update(quota_bytes=None, quota_objects=None)
        delete_objects(bucket="photos", keys=Object.objects.values_list("key", flat=True))
        Bucket.objects.update(**quota)
        own = [puts_of(one, *(f"{number}-{one.volume.pk}-{at}" for at in range(2)), size=30) for one in labs]
        jobs = [partial(one.confirm, put) for one, puts in zip(labs, own, strict=True) for put in puts]
        verdicts = [verdict for [verdict] in at_once(*jobs)]
        assert sum(isinstance(verdict, Committed) for verdict in verdicts) == fitting == Object.objects.count()
        assert {verdict.code for verdict in verdicts if isinstance(verdict, Refused)} == {"quota_exceeded"}
        require_sound(needles=needles_of(*own))


def test_quota_of_bytes_and_an_object_that_grows(labs: list[Lab]) -> None:
    """Two overwrites, either of which fits: the one that comes second would be too much."""
    one, other, _ = labs
    for number in range(ROUNDS):
        keys = [f"{number}-a", f"{number}-b"]
        Bucket.objects.update(quota_bytes=None)
        one.confirm(*puts_of(one, *keys, size=10))
        Bucket.objects.update(quota_bytes=Bucket.objects.get().total_bytes + 25)
        puts = [puts_of(one, keys[0], size=30), puts_of(other, keys[1], size=30)]
        verdicts = at_once(partial(one.confirm, *puts[0]), partial(other.confirm, *puts[1]))
        assert sorted(type(verdict).__name__ for [verdict] in verdicts) == ["Committed", "Refused"]
        require_sound(needles=needles_of(*puts))


def test_reservations_at_the_edge(lab: Lab, settings: object) -> None:
    settings.WAREHOUSE_CHUNK_SIZE = 10  # type: ignore[attr-defined]

    def start(key: str) -> Slots | None:
        try:
            return create_upload(bucket="photos", holder=lab.rights, key=key, size=30)
        except QuotaExceeded:
            return None

    for number in range(ROUNDS):
        Bucket.objects.update(quota_bytes=Bucket.objects.get().total_bytes + 100)
        outcomes = at_once(*[partial(start, f"{number}-{at}") for at in range(6)])
        made = [slots for slots in outcomes if slots is not None]
        assert len(made) == 3
        require_sound()
        # One completes while another is aborted and small puts look for room.
        puts = [*map(chunk_put, made[0].chunks), *puts_of(lab, *(f"{number}-s{at}" for at in range(4)), size=20)]
        end = partial(abort_upload, upload_id=made[1].upload.pk)
        at_once(*[partial(state_of, lab, put) for put in puts], end)
        bucket = Bucket.objects.get()
        assert (bucket.reserved_objects, bucket.reserved_bytes) == (1, 30)
        assert bucket.quota_bytes is not None
        assert bucket.total_bytes + bucket.reserved_bytes <= bucket.quota_bytes
        require_sound(needles=needles_of(puts))
        abort_upload(upload_id=made[2].upload.pk)


def test_two_workers_delete_a_bucket_that_is_written_to(labs: list[Lab], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes in before the bucket is closed goes with it; nothing comes in later."""
    monkeypatch.setattr(deletion, "OBJECTS_A_BATCH", 3)
    puts = [[puts_of(one, f"{one.volume.pk}-{at}-a", f"{one.volume.pk}-{at}-b") for at in range(8)] for one in labs]
    labs[0].put("first")

    def write(one: Lab, own: list[list[Put]]) -> list[str]:
        return [type(verdict).__name__ for batch in own for verdict in one.confirm(*batch)]

    def delete() -> list[str]:
        close_bucket(name="photos")
        while delete_closed_buckets():
            pass
        return []

    writers = [partial(write, one, own) for one, own in zip(labs, puts, strict=True)]
    for told in at_once(*writers, delete, delete_closed_buckets, delete_closed_buckets)[:3]:
        assert told == sorted(told)  # committed ones, then refused ones
    delete_closed_buckets()
    assert not Bucket.objects.exists()
    assert not Chunk.objects.exists()
    require_sound(needles=needles_of(*(batch for own in puts for batch in own)))


def test_two_completions_of_one_upload(lab: Lab, settings: object) -> None:
    settings.WAREHOUSE_CHUNK_SIZE = 10  # type: ignore[attr-defined]
    for number in range(ROUNDS):
        slots = create_upload(bucket="photos", holder=lab.rights, key=f"big-{number}", size=40)
        puts = [chunk_put(chunk) for chunk in slots.chunks]
        verdicts = [verdict for [verdict] in at_once(*(partial(lab.confirm, put) for put in puts))]
        assert sum(isinstance(verdict, Committed) for verdict in verdicts) == 1
        assert sum(isinstance(verdict, Stored) for verdict in verdicts) == 3
        assert Object.objects.get(key=f"big-{number}").size == 40
        require_sound(needles=needles_of(puts))


def test_last_chunk_twice_and_an_abort(lab: Lab, settings: object) -> None:
    """Two needles either of which completes the upload, and its end by hand: one of the three wins."""
    settings.WAREHOUSE_CHUNK_SIZE = 10  # type: ignore[attr-defined]

    def abort(upload: Upload) -> str:
        try:
            abort_upload(upload_id=upload.pk)
        except UploadOver:
            return "over"
        return "aborted"

    for number in range(ROUNDS):
        slots = create_upload(bucket="photos", holder=lab.rights, key=f"big-{number}", size=20)
        first = chunk_put(slots.chunks[0])
        lab.confirm(first)
        lasts = [chunk_put(resume_upload(upload=slots.upload, holder=lab.rights).chunks[0]) for _ in range(2)]
        one, other, end = at_once(*(partial(state_of, lab, put) for put in lasts), partial(abort, slots.upload))
        assert sorted([one, other, end]) in (["Committed", "Refused", "over"], ["Refused", "Refused", "aborted"])
        assert Object.objects.filter(key=f"big-{number}").exists() == (end == "over")
        require_sound(needles=needles_of([first], lasts))


def test_a_bucket_is_made_once_and_deleted_empty(lab: Lab) -> None:
    def make(name: str) -> str:
        try:
            create_bucket(name=name)
        except BucketTaken:
            return "taken"
        return "made"

    def delete() -> str:
        try:
            delete_bucket(name="photos")
        except BucketNotEmpty:
            return "full"
        return "deleted"

    for number in range(ROUNDS):
        assert sorted(at_once(*[partial(make, f"new{number}")] * 3)) == ["made", "taken", "taken"]
        [put] = puts_of(lab, "k")
        outcome, verdict = at_once(delete, partial(state_of, lab, put))
        if outcome == "deleted":
            assert verdict == "Refused"
            with pytest.raises(BucketUnknown):
                delete_objects(bucket="photos", keys=["k"])
            create_bucket(name="photos")
        else:
            assert verdict == "Committed"
            assert delete_objects(bucket="photos", keys=["k"]).deleted == ["k"]
        require_sound(needles=[put.needle])


def test_the_last_two_copies_of_a_needle_die_in_two_buckets(lab: Lab) -> None:
    """Their writers hold different locks; one of them must see that it was the last."""
    create_bucket(name="other")
    for _ in range(ROUNDS * 2):
        [put] = puts_of(lab, "k")
        lab.confirm(put)
        commit_group(bucket="photos", operations=[Copy("k", "k", target_bucket="other")])
        at_once(*[partial(delete_objects, bucket=bucket, keys=["k"]) for bucket in ("photos", "other")])
        assert not Chunk.objects.exists()
        assert Outbox.objects.filter(needle=put.needle).count() == 1
        require_sound(needles=[put.needle])


def test_a_needle_is_confirmed_again_while_its_last_copy_dies_elsewhere(lab: Lab) -> None:
    create_bucket(name="other")
    for _ in range(ROUNDS):
        [put] = puts_of(lab, "k")
        first = lab.confirm(put)
        commit_group(bucket="photos", operations=[Copy("k", "k", target_bucket="other"), Delete("k")])
        jobs = [partial(lab.confirm, put)] * 3
        delete = partial(delete_objects, bucket="other", keys=["k"])
        assert at_once(*jobs, delete)[:3] == [first] * 3
        assert not Object.objects.exists()
        require_sound(needles=[put.needle])


def test_groups_copies_and_renames_of_the_same_keys(lab: Lab, settings: object) -> None:
    """Whatever comes first: a group is there whole or not at all, in both buckets, and nobody waits for ever."""
    settings.WAREHOUSE_CHUNK_SIZE = 10  # type: ignore[attr-defined]
    create_bucket(name="other")

    def commit(bucket: str, *operations: Operation) -> str:
        try:
            commit_group(bucket=bucket, operations=operations)
        except WarehouseError as error:
            return error.code
        return "done"

    def rename(prefix: str, to_prefix: str) -> str:
        try:
            rename_prefix(bucket="photos", prefix=prefix, to_prefix=to_prefix)
        except WarehouseError as error:
            return error.code
        return "done"

    for number in range(ROUNDS):
        puts = puts_of(lab, f"{number}/a", f"{number}/b")
        lab.confirm(*puts)
        slots = create_upload(bucket="photos", holder=lab.rights, key=f"{number}/up", size=20, held=True)
        chunks = [chunk_put(chunk) for chunk in slots.chunks]
        lab.confirm(*chunks)
        a, b, up, there = (f"{number}/{name}" for name in ("a", "b", "up", "there"))
        late = puts_of(lab, a)
        jobs = [
            partial(commit, "photos", CommitUpload(slots.upload.pk), Copy(up, there, target_bucket="other")),
            partial(commit, "photos", CommitUpload(slots.upload.pk), Delete(a)),
            partial(commit, "photos", Copy(a, there, target_bucket="other"), Rename(b, f"{number}/c")),
            partial(commit, "other", Copy(there, b, target_bucket="photos"), Delete(there)),
            partial(rename, f"{number}/", f"{number}/in/"),
            partial(state_of, lab, late[0]),
        ]
        outcomes = at_once(*jobs)
        assert outcomes[:2].count("done") <= 1
        completed = Upload.objects.get(pk=slots.upload.pk).state == "completed"
        assert completed == ("done" in outcomes[:2])
        require_sound(needles=needles_of(puts, chunks, late))


@pytest.mark.skipif(connection.vendor != "postgresql", reason="on SQLite a transaction is alone from its beginning")
@pytest.mark.parametrize("model", [Bucket, Object])
def test_several_are_deleted_in_the_admin_site_beside_a_commit(lab: Lab, model: type[Bucket] | type[Object]) -> None:
    """The commit has the last of the buckets, and wants the store's sequence while the delete waits for it."""
    create_bucket(name="second")
    if model is Object:
        lab.put_many("a")
        commit_group(bucket="photos", operations=[Copy("a", "a", target_bucket="second")])
    site = Client()
    site.force_login(make_key(permissions=int(Permission.ADMIN)))
    is_locked = multiprocessing.get_context("fork").Event()

    def somebody_waits() -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))")
            return bool(cursor.fetchone()[0])

    def commit() -> int:
        with transaction.atomic():
            lock_bucket("second")
            is_locked.set()
            wait_until(somebody_waits, what="the delete to want this bucket")
            return next_sequence()

    def delete() -> int:
        is_locked.wait()
        chosen = {"action": "delete_selected", "_selected_action": list(model.objects.values_list("pk", flat=True))}
        changelist = reverse(f"admin:buckets_{model._meta.model_name}_changelist")
        return site.post(changelist, {**chosen, "post": "yes"}).status_code

    _, status = at_once(commit, delete)
    assert status == 302
    assert not model.objects.exists()
    require_sound()
