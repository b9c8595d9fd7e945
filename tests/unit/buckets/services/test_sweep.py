"""Orphans are deleted when everything speaks for it, and nothing else ever is."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.utils import timezone

from buckets.models import Chunk, Object, Orphan, Outbox, Sweep
from buckets.services import sweep
from buckets.services.objects import delete_objects
from buckets.services.sweep import Swept, sweep_due, sweep_figures, sweep_volume, volumes_to_sweep
from keys.models import AuditEntry
from tests.unit.buckets.house import DAY_MS, House, running_house
from volumes import client
from volumes.errors import LeasesHalted, ServerUnreachable
from volumes.models import Replica, Server, Store, Volume
from volumes.services.store import current_store

pytestmark = pytest.mark.django_db

OLD_MS = 3 * DAY_MS


@pytest.fixture
def house(tmp_path: Path, db: None) -> Iterator[House]:
    with running_house(tmp_path) as built:
        yield built


def run(house: House, *, days: float = 0, delete: bool = True, **options: Any) -> Swept:
    house.heard()
    now = timezone.now() + timedelta(days=days)
    return sweep_volume(volume_id=house.volume.pk, delete=delete, now=now, **options)


def test_an_orphan_is_deleted_when_two_listings_have_seen_it(house: House) -> None:
    kept = house.put("k", age_ms=OLD_MS)
    orphan = house.orphan(age_ms=OLD_MS)
    first = run(house)
    assert (first.orphan_count, first.ripe_count, first.deleted_count) == (1, 0, 0)
    assert house.lives(orphan)
    assert Orphan.objects.get().needle == orphan
    too_soon = run(house, days=0.9)
    assert (too_soon.ripe_count, too_soon.deleted_count) == (0, 0)
    again = run(house, days=1.1)
    assert (again.orphan_count, again.ripe_count, again.deleted_count, again.deleted_bytes) == (
        1,
        1,
        1,
        len(str(orphan)),
    )
    assert not house.lives(orphan)
    assert house.lives(kept)
    assert not Orphan.objects.exists()
    assert sweep_figures() == {
        "volumes": 1, "orphans": 0, "orphan_bytes": 0, "deleted": 1, "deleted_bytes": len(str(orphan)), "held_back": 0,
    }  # fmt: skip
    entry = AuditEntry.objects.get(action="volume.sweep")
    assert (entry.target, entry.detail["count"]) == (str(house.volume.pk), 1)
    assert entry.detail["needles"] == [f"{orphan:016x}"]


def test_nothing_is_deleted_without_being_told_to(house: House) -> None:
    orphan = house.orphan(age_ms=OLD_MS)
    run(house, delete=False)
    swept = run(house, days=2, delete=False)
    assert (swept.ripe_count, swept.deleted_count) == (1, 0)
    assert house.lives(orphan)
    assert not AuditEntry.objects.filter(action="volume.sweep").exists()


def test_what_is_younger_than_every_lease_is_no_orphan(house: House, settings: LazySettings) -> None:
    house.orphan(age_ms=DAY_MS)  # and no longer: leases, their grace and a margin come on top
    assert run(house).orphan_count == 0
    assert run(house, days=0.1).orphan_count == 1


def test_what_any_row_names_is_no_orphan(house: House) -> None:
    """By its object, by a copy alone, from another volume, or by the outbox with and without its tombstone."""
    needles = [house.put(f"k{number}", age_ms=OLD_MS) for number in range(5)]
    copy = Chunk.objects.get(needle=needles[0])
    copy.pk, copy.object, copy.index = None, Object.objects.get(key="k1"), 1
    copy.save()
    Chunk.objects.filter(needle=needles[0], object__key="k0").delete()
    other = Volume.objects.create(pk=999, salt=bytes(16), created_ms=1)
    Chunk.objects.filter(needle=needles[2]).update(volume=other)
    delete_objects(bucket="photos", keys=["k3", "k4"])
    Outbox.objects.filter(needle=needles[4]).update(tombstoned_at=timezone.now())
    for days in (0, 2, 4):
        assert run(house, days=days).orphan_count == 0
    assert all(house.lives(needle) for needle in needles)


def test_an_orphan_that_a_row_names_after_all_is_left_alone(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a database was put back: right before the deletion the rows are asked once more."""
    orphan, other = house.orphan(age_ms=OLD_MS), house.orphan(age_ms=OLD_MS)
    house.put("k")
    run(house)
    remember = sweep._remember

    def late(*args: Any) -> Any:
        ripe = remember(*args)
        Chunk.objects.update(needle=orphan)
        return ripe

    monkeypatch.setattr(sweep, "_remember", late)
    assert run(house, days=2).deleted_count == 1
    assert house.lives(orphan)
    assert not house.lives(other)


def test_an_orphan_that_was_not_seen_again_is_forgotten(house: House) -> None:
    orphan = house.orphan(age_ms=OLD_MS)
    run(house)
    house.bury(orphan)
    assert run(house, days=2).deleted_count == 0
    assert not Orphan.objects.exists()


# -- when nothing is known ---------------------------------------------------------------------------------------


def unchanged(house: House, orphan: int, **options: Any) -> Swept:
    """A sweep that may not delete, nor take itself for a listing."""
    before = list(Orphan.objects.values()), list(Sweep.objects.values())
    swept = run(house, days=2, **options)
    assert swept.deleted_count == 0
    assert swept.problem
    assert house.lives(orphan)
    assert (list(Orphan.objects.values()), list(Sweep.objects.values())) == before
    return swept


@pytest.fixture
def ripe(house: House) -> int:
    """An orphan that the next sweep would delete."""
    orphan = house.orphan(age_ms=OLD_MS)
    run(house)
    return orphan


def test_damage_ends_a_sweep(house: House, ripe: int) -> None:
    house.flip(house.put("k"), 3)
    assert "damaged" in unchanged(house, ripe).problem


def test_a_listing_that_breaks_off_ends_a_sweep(house: House, ripe: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        house.put(f"k{number}")
    list_needles = client.list_needles

    def breaking(*args: Any, **options: Any) -> Any:
        if options.get("after"):
            raise ServerUnreachable("gone")
        return list_needles(*args, **{**options, "limit": 2})

    monkeypatch.setattr(client, "list_needles", breaking)
    assert unchanged(house, ripe).problem == "gone"


def test_a_server_that_is_away_ends_a_sweep(house: House, ripe: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(House, "heard", lambda _: Server.objects.update(last_seen_at=None))
    assert "offline" in unchanged(house, ripe).problem


@pytest.mark.parametrize("state", [Volume.State.SEALED, Volume.State.CREATING])
def test_volumes_that_take_no_tombstones_are_not_swept(house: House, ripe: int, state: str) -> None:
    Volume.objects.update(state=state)
    unchanged(house, ripe)
    assert volumes_to_sweep() == []


@pytest.mark.parametrize("redundancy", ["making", "opening", "degraded", "closed"])
def test_volumes_whose_copies_are_not_all_there_are_not_swept(house: House, ripe: int, redundancy: str) -> None:
    Volume.objects.update(redundancy=redundancy)
    unchanged(house, ripe)


def test_another_epoch_ends_a_sweep(house: House, ripe: int) -> None:
    Volume.objects.update(epoch=5, opened_epoch=5)
    assert "epoch" in unchanged(house, ripe).problem


def test_a_copy_that_is_missing_is_not_swept(house: House, ripe: int) -> None:
    Replica.objects.update(state=Replica.State.MISSING)
    unchanged(house, ripe)


def test_an_old_database_deletes_nothing(house: House, ripe: int, monkeypatch: pytest.MonkeyPatch) -> None:
    current_store()
    Store.objects.update(behind_of=10)
    with pytest.raises(LeasesHalted):
        run(house, days=2)
    assert sweep_due(seconds=60)["volumes"] == 0
    Store.objects.update(behind_of=None)
    remember = sweep._remember

    def behind(*args: Any) -> Any:
        Store.objects.update(behind_of=10)
        return remember(*args)

    monkeypatch.setattr(sweep, "_remember", behind)
    with pytest.raises(LeasesHalted):
        run(house, days=2)
    assert house.lives(ripe)


def test_a_crash_after_the_tombstones_is_told_and_does_no_harm(
    house: House, ripe: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = client.delete_needles

    def dying(*args: Any) -> Any:
        delete(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(client, "delete_needles", dying)
        with pytest.raises(KeyboardInterrupt):
            run(house, days=2)
    assert AuditEntry.objects.filter(action="volume.sweep").count() == 1
    assert run(house, days=4).deleted_count == 0
    assert not Orphan.objects.exists()


# -- the worker's ------------------------------------------------------------------------------------------------


def test_so_many_that_rows_must_be_lost_wait_for_an_operator(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "FEW", 2)
    orphans = [house.orphan(age_ms=OLD_MS) for _ in range(4)]
    run(house)
    swept = run(house, days=2, max_share=True)
    assert (swept.held_back, swept.ripe_count, swept.deleted_count) == (True, 4, 0)
    assert sweep_figures()["held_back"] == 1
    assert all(house.lives(orphan) for orphan in orphans)
    assert run(house, days=2.1).deleted_count == 4
    assert sweep_figures()["held_back"] == 0


def test_the_worker_lists_each_volume_once_in_the_time_set(house: House, settings: LazySettings) -> None:
    house.orphan(age_ms=OLD_MS)
    house.heard()
    assert sweep_due(seconds=60)["volumes"] == 1
    assert sweep_due(seconds=60)["volumes"] == 0
    Sweep.objects.update(listed_at=timezone.now() - timedelta(days=1, minutes=1))
    assert sweep_due(seconds=60) == {"volumes": 1, "orphans": 1, "deleted": 0, "held_back": 0, "problems": 0}


@pytest.mark.parametrize(("mode", "deleted"), [("delete", 1), ("report", 0)])
def test_the_worker_deletes_where_the_setting_says_so(
    house: House, settings: LazySettings, mode: str, deleted: int
) -> None:
    settings.WAREHOUSE_SWEEP = mode
    house.orphan(age_ms=OLD_MS)
    house.heard()
    sweep_due(seconds=60)
    long_ago: datetime = timezone.now() - timedelta(days=2)
    Orphan.objects.update(first_seen_at=long_ago)
    Sweep.objects.update(listed_at=long_ago)
    assert sweep_due(seconds=60)["deleted"] == deleted


def test_what_was_listed_longest_ago_comes_first(house: House) -> None:
    Volume.objects.create(pk=900, salt=bytes(16), created_ms=1, state=Volume.State.WRITABLE)
    Sweep.objects.create(volume_id=900, listed_at=timezone.now() - timedelta(days=3))
    assert volumes_to_sweep() == [house.volume.pk, 900]
    Sweep.objects.create(volume=house.volume, listed_at=timezone.now())
    assert volumes_to_sweep() == [900, house.volume.pk]
