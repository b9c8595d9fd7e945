"""A bucket's replication applied to what is there: which volumes the survey raises and lowers, and when it is over."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from buckets.models import Chunk, Survey, SurveyedVolume
from buckets.services import replication
from buckets.services.buckets import BucketSettings, create_bucket, update_bucket
from buckets.services.groups import Copy, commit_group
from buckets.services.replication import apply_replication
from buckets.services.uploads import create_upload
from buckets.verdicts import Committed, Stored
from tests.unit.buckets.lab import Lab, Put, chunk_put
from tests.unit.volumes.factories import make_volume
from volumes.models import Volume

pytestmark = pytest.mark.django_db


def put_into(lab: Lab, volume: Volume, *keys: str, bucket: str = "photos") -> None:
    """Objects whose chunks lie in that volume, whatever placement would say."""
    for key in keys:
        assert isinstance(lab.put(key, bucket=bucket), Committed)
        Chunk.objects.filter(object__bucket__name=bucket, object__key=key).update(volume=volume)


def change(copies: int, *, bucket: str = "photos") -> None:
    update_bucket(name=bucket, settings=BucketSettings(replication=copies))


def copies_of(*volumes: Volume) -> list[int]:
    found = dict(Volume.objects.values_list("pk", "replication"))
    return [found[volume.pk] for volume in volumes]


def walk(*, seconds: float = 60) -> tuple[int, int]:
    """Raised and lowered, until nothing more is to be done now."""
    raised = lowered = 0
    while (done := apply_replication(seconds=seconds)).pages:
        raised += done.raised
        lowered += done.lowered
    return raised, lowered


def more_volumes(lab: Lab, count: int) -> list[Volume]:
    return [make_volume(lab.server) for _ in range(count)]


def test_what_nobody_asked_for_is_not_looked_for(lab: Lab, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    lab.put("k")
    assert walk() == (0, 0)
    with django_assert_num_queries(1):  # every five seconds
        apply_replication()
    assert not SurveyedVolume.objects.exists()


def test_the_volumes_with_its_chunks_are_raised_and_no_others(lab: Lab) -> None:
    mine, others, nobodys = more_volumes(lab, 3)
    create_bucket(name="others")
    put_into(lab, mine, "a", "b")
    put_into(lab, others, "c", bucket="others")
    change(3)
    assert walk() == (1, 0)
    assert copies_of(mine, others, nobodys) == [3, 1, 1]
    assert Volume.objects.get(pk=mine.pk).unsettled
    assert walk() == (0, 0)


def test_chunks_of_an_upload_count(lab: Lab, settings: Any) -> None:
    settings.WAREHOUSE_CHUNK_SIZE = 1 << 20
    slots = create_upload(bucket="photos", holder=lab.rights, key="k", size=2 << 20)
    assert isinstance(lab.confirm(chunk_put(slots.chunks[0]))[0], Stored)
    change(2)
    assert walk() == (1, 0)
    assert copies_of(lab.volume) == [2]


def test_a_volume_has_as_many_copies_as_the_most_careful_bucket_in_it_asks_for(lab: Lab) -> None:
    both, mine = more_volumes(lab, 2)
    create_bucket(name="others")
    put_into(lab, both, "a")
    put_into(lab, both, "b", bucket="others")
    put_into(lab, mine, "c")
    change(3)
    change(2, bucket="others")
    walk()
    assert copies_of(both, mine) == [3, 3]
    change(1)
    assert walk() == (0, 2)
    assert copies_of(both, mine) == [2, 1]
    change(1, bucket="others")
    walk()
    assert copies_of(both, mine) == [1, 1]


def test_a_copied_object_keeps_its_volume_careful(lab: Lab) -> None:
    """The needles of a copy are those of its source, and lie where the source's bucket wanted them."""
    create_bucket(name="careful", settings=BucketSettings(replication=2))
    [mine] = more_volumes(lab, 1)
    put_into(lab, mine, "k")
    commit_group(bucket="photos", operations=[Copy("k", "k", target_bucket="careful")])
    assert walk() == (1, 0)
    assert copies_of(mine) == [2]


@pytest.mark.parametrize("seconds", [60, -1], ids=["in one go", "a page a time"])
def test_it_is_walked_in_pages(lab: Lab, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(replication, "PAGE_ROWS", 3)
    volumes = more_volumes(lab, 4)
    for number, volume in enumerate(volumes):
        put_into(lab, volume, *(f"{number}/{at}" for at in range(4)))
    Chunk.objects.filter(object__key__startswith="1/").delete()  # gaps in the ids
    change(2)
    walk(seconds=seconds)
    assert copies_of(*volumes) == [2, 1, 2, 2]
    change(1)
    assert walk(seconds=seconds) == (0, 3)
    assert copies_of(*volumes) == [1, 1, 1, 1]


def test_a_page_that_another_worker_did_counts_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "PAGE_ROWS", 1)
    first, second = more_volumes(lab, 2)
    put_into(lab, first, "a")
    put_into(lab, second, "b")
    change(2)
    apply_replication(seconds=-1)
    late = Survey.objects.get()
    apply_replication(seconds=-1)
    passed = Survey.objects.get()
    replication._walk_page(Survey(pk=late.pk, generation=late.generation, cursor=late.cursor))
    replication._walk_page(Survey(pk=late.pk, generation=late.generation - 1, cursor=passed.cursor))
    assert (passed.cursor, passed.raised_volumes) == (Survey.objects.get().cursor, Survey.objects.get().raised_volumes)
    walk()
    assert Survey.objects.get().started_at is None
    assert copies_of(first, second) == [2, 2]


def test_a_change_in_the_middle_is_walked_anew_and_lowers_nothing_before(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The walk under way has seen the first volume when its bucket wanted fewer copies."""
    monkeypatch.setattr(replication, "PAGE_ROWS", 1)
    first, second = more_volumes(lab, 2)
    put_into(lab, first, "a")
    put_into(lab, second, "b")
    change(3)
    walk()
    change(1)
    apply_replication(seconds=-1)
    change(2)
    seen = set[tuple[int, ...]]()
    while apply_replication(seconds=-1).pages:
        seen.add(tuple(copies_of(first, second)))
    assert min(min(one) for one in seen) == 2, "copies were given up that are wanted"
    assert copies_of(first, second) == [2, 2]


def test_needles_that_come_under_older_leases_are_found_when_these_have_ended(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, early = more_volumes(lab, 2)
    put_into(lab, early, "early")
    lease = lab.lease(count=1)
    change(2)
    assert walk() == (1, 0)
    assert isinstance(lab.confirm(Put(lease.url, lease.first, 10, "late"))[0], Committed)
    Chunk.objects.filter(object__key="late").update(volume=late)
    assert walk() == (0, 0)
    again_at = Survey.objects.get().again_at
    assert again_at is not None
    assert again_at - timezone.now() > timedelta(hours=1), "uploads' URLs are good for an hour"
    for moment, copies in ((again_at - timedelta(seconds=1), 1), (again_at, 2)):
        monkeypatch.setattr(timezone, "now", lambda moment=moment: moment)
        walk()
        assert copies_of(late) == [copies]
    assert Survey.objects.get().again_at is None
    assert walk() == (0, 0)


def test_an_unchanged_replication_asks_for_nothing(lab: Lab) -> None:
    lab.put("k")
    change(1)
    update_bucket(name="photos", settings=BucketSettings(visibility="public-read"))
    assert not Survey.objects.exists()


def test_looking_costs_the_same_however_many_volumes_a_page_has(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    monkeypatch.setattr(replication, "PAGE_ROWS", 10)
    for volume, count in [(one, 5) for one in more_volumes(lab, 2)] + [(one, 1) for one in more_volumes(lab, 10)]:
        put_into(lab, volume, *(f"{volume.pk}/{at}" for at in range(count)))
    change(2)
    for raised in (2, 10):
        survey = replication._under_way()
        assert survey is not None
        with django_assert_num_queries(8):
            assert replication._walk_page(survey).raised == raised
