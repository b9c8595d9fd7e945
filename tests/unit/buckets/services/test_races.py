"""Writers of one bucket at the same time, in threads with connections of their own."""

import random

import pytest

from buckets.errors import BucketNotEmpty, BucketTaken, BucketUnknown
from buckets.models import Bucket, Chunk, Object, Outbox
from buckets.services.buckets import create_bucket, delete_bucket
from buckets.services.objects import delete_objects
from buckets.services.uploads import create_upload
from buckets.verdicts import Committed, Refused, Stored
from tests.support.races import at_once
from tests.unit.buckets.lab import Lab, Put, chunk_put, forget_caches, require_sound
from tests.unit.volumes.factories import make_server, make_volume

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def lab(transactional_db: None) -> Lab:
    return Lab.make()


def test_batches_of_several_servers_on_the_same_keys(lab: Lab) -> None:
    """Absent keys and present ones, in orders that would deadlock if rows were locked as they come."""
    keys = [f"k{at}" for at in range(8)]
    labs = [lab]
    for _ in range(2):
        server = make_server()
        labs.append(Lab(server=server, volume=make_volume(server), bucket=lab.bucket, key=lab.key))
    batches: list[list[list[Put]]] = []
    for one in labs:
        own: list[list[Put]] = []
        while len(own) < 6:
            forget_caches()
            lease = lab.lease(count=8)
            if lease.volume != one.volume.pk:
                continue
            order = random.sample(keys, len(keys))
            own.append([Put(lease.url, lease.first + at, at, key) for at, key in enumerate(order)])
        batches.append(own)

    def write(one: Lab, own: list[list[Put]]) -> None:
        for batch in own:
            assert all(isinstance(verdict, Committed) for verdict in one.confirm(*batch))

    def delete() -> None:
        for _ in range(6):
            delete_objects(bucket="photos", keys=random.sample(keys, 3))

    jobs = [lambda one=one, own=own: write(one, own) for one, own in zip(labs, batches, strict=True)]
    at_once(*jobs, delete)
    require_sound()
    assert Chunk.objects.count() + Outbox.objects.count() == 3 * 6 * 8


def test_one_creator_of_a_key(lab: Lab) -> None:
    lease = lab.lease()
    verdicts: list[object] = []
    puts = [Put(lease.url, lease.first + at, 1, "k", {"if_none_match": True}) for at in range(4)]
    at_once(*[lambda put=put: verdicts.extend(lab.confirm(put)) for put in puts])
    assert sum(isinstance(verdict, Committed) for verdict in verdicts) == 1
    assert sum(isinstance(verdict, Refused) for verdict in verdicts) == 3
    require_sound()


def test_the_same_batch_twice(lab: Lab) -> None:
    lease = lab.lease()
    puts = [Put(lease.url, lease.first + at, 1, f"k{at % 3}") for at in range(9)]
    answers: list[object] = []
    at_once(*[lambda: answers.append(lab.confirm(*puts)) for _ in range(3)])
    assert answers[0] == answers[1] == answers[2]
    assert Object.objects.count() == 3
    require_sound()


def test_quota_at_the_edge(lab: Lab) -> None:
    Bucket.objects.update(quota_bytes=100, quota_objects=5)
    lease = lab.lease()
    puts = [Put(lease.url, lease.first + at, 30, f"k{at}") for at in range(6)]
    at_once(*[lambda put=put: lab.confirm(put) for put in puts])
    assert Object.objects.count() == 3
    require_sound()


def test_two_completions_of_one_upload(lab: Lab, settings: object) -> None:
    settings.WAREHOUSE_CHUNK_SIZE = 10  # type: ignore[attr-defined]
    slots = create_upload(bucket="photos", holder=lab.rights, key="big", size=40)
    verdicts: list[object] = []
    at_once(*[lambda chunk=chunk: verdicts.extend(lab.confirm(chunk_put(chunk))) for chunk in slots.chunks])
    assert sum(isinstance(verdict, Committed) for verdict in verdicts) == 1
    assert sum(isinstance(verdict, Stored) for verdict in verdicts) == 3
    require_sound()


def test_a_bucket_is_made_once_and_deleted_empty(lab: Lab) -> None:
    outcomes: list[str] = []

    def make() -> None:
        try:
            create_bucket(name="new")
            outcomes.append("made")
        except BucketTaken:
            outcomes.append("taken")

    at_once(make, make, make)
    assert sorted(outcomes) == ["made", "taken", "taken"]
    lease = lab.lease()
    put = Put(lease.url, lease.first, 1, "k")

    def delete() -> None:
        try:
            delete_bucket(name="photos")
            outcomes.append("deleted")
        except BucketNotEmpty:
            outcomes.append("full")

    verdicts: list[object] = []
    at_once(delete, lambda: verdicts.extend(lab.confirm(put)))
    if outcomes[-1] == "deleted":
        assert isinstance(verdicts[0], Refused)
        with pytest.raises(BucketUnknown):
            delete_objects(bucket="photos", keys=["k"])
    else:
        assert isinstance(verdicts[0], Committed)
    require_sound()
