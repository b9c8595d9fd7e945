"""Every kind of finding, made for real against a real volume server; and what must never be one."""

import os
import zlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.utils import timezone

from buckets.models import Bucket, Chunk, JournalNeedle, Object, Outbox
from buckets.services import fsck, needle_rows
from buckets.services.fsck import Checked, Finding, check_counts, check_volume
from buckets.services.objects import delete_objects
from buckets.services.recount import mend_counts
from keys.models import AuditEntry
from tests.unit.buckets.house import DAY_MS, House, body_of, running_house
from volume_server.errors import Damaged
from volumes import client
from volumes.models import Replica, Server, Volume

pytestmark = pytest.mark.django_db

SOUND = "0 missing, 0 orphaned, 0 divergent"


@pytest.fixture
def house(tmp_path: Path, db: None) -> Iterator[House]:
    with running_house(tmp_path) as built:
        yield built


@pytest.fixture
def pair(tmp_path: Path, db: None) -> Iterator[House]:
    with running_house(tmp_path, copies=2) as built:
        yield built


def check(house: House, **options: Any) -> Checked:
    house.heard()
    return check_volume(volume_id=house.volume.pk, **options)


def only(house: House, **options: Any) -> Finding:
    """The one finding that there is to be."""
    [finding] = check(house, **options).findings
    return finding


def test_what_is_as_it_should_be_is_sound(house: House) -> None:
    """Objects, copies, chunks of an open upload, dead needles with and without their tombstone."""
    needles = [house.put(f"k{number}") for number in range(20)]
    house.bury(house.orphan())
    delete_objects(bucket="photos", keys=["k1", "k2"])
    house.bury(needles[1])
    Outbox.objects.filter(needle=needles[1]).update(tombstoned_at=timezone.now())
    of_copy = Chunk.objects.get(needle=needles[3])
    of_copy.pk, of_copy.object = None, Object.objects.get(key="k4")
    of_copy.index = 1
    of_copy.save()
    for deep in (False, True):
        checked = check(house, deep=deep)
        assert (checked.verdict, checked.findings) == (SOUND, [])
        assert (checked.row_count, checked.needle_count) == (19, 21)


def test_empty_volume_is_sound(house: House) -> None:
    assert check(house).is_sound


def test_a_needle_that_was_never_there_is_missing(house: House) -> None:
    house.put("there")
    needle = house.put("holidays/one", stored=False)
    finding = only(house)
    assert (finding.kind, finding.needle, finding.volume) == ("missing", needle, house.volume.pk)
    assert finding.server == str(house.rows[0])
    assert "bucket 'photos'" in str(finding)
    assert "'holidays/one'" in str(finding)
    assert check(house).verdict == "1 missing, 0 orphaned, 0 divergent"


def test_a_needle_with_a_tombstone_is_missing(house: House) -> None:
    needle = house.put("k")
    house.bury(needle)
    finding = only(house)
    assert (finding.kind, finding.needle) == ("missing", needle)
    assert "tombstone" in finding.detail


@pytest.mark.parametrize("column", ["size", "crc32"])
def test_other_bytes_than_the_row_says_are_divergent(house: House, column: str) -> None:
    needle = house.put("k")
    Chunk.objects.filter(needle=needle).update(**{column: 4000})
    finding = only(house)
    assert (finding.kind, finding.needle) == ("divergent", needle)


def test_of_two_rows_of_one_needle_the_wrong_one_is_told(house: House) -> None:
    needle = house.put("k")
    house.put("other")
    row = Chunk.objects.get(needle=needle)
    row.pk, row.object, row.index, row.size = None, Object.objects.get(key="other"), 1, 7
    row.save()
    assert only(house).kind == "divergent"


def test_a_header_that_is_not_genuine_is_divergent(house: House) -> None:
    needle = house.put("k")
    house.flip(needle, 9)
    finding = only(house)
    assert (finding.kind, finding.needle, finding.owners[0].key) == ("divergent", needle, "k")


def test_a_file_that_was_cut_off_is_divergent(house: House) -> None:
    house.put("first")
    needle = house.put("last")
    file = house.file()
    offset, length = house.servers[0].call(lambda: file.locate(needle))
    os.ftruncate(file.fd, offset + length - 1)
    finding = only(house)
    assert (finding.kind, finding.needle) == ("divergent", needle)


def test_flipped_data_is_found_deep_or_after_somebody_came_across_it(house: House) -> None:
    needle = house.put("k")
    house.put("other")
    house.flip(needle, -1)
    assert check(house).is_sound, "headers do not show it"
    assert only(house, deep=True).needle == needle
    server = house.servers[0]
    with pytest.raises(Damaged):
        server.call(lambda: house.file().read(needle))
    finding = only(house)
    assert (finding.kind, finding.needle) == ("divergent", needle)


def test_a_needle_that_no_row_names_is_an_orphan_once_it_is_older_than_every_lease(house: House) -> None:
    house.put("k")
    house.orphan(age_ms=0)
    assert check(house).is_sound, "its confirm may still come"
    needle = house.orphan(age_ms=DAY_MS)
    finding = only(house)
    assert (finding.kind, finding.needle) == ("orphaned", needle)
    assert check(house).verdict == "0 missing, 1 orphaned, 0 divergent"


def test_a_needle_in_another_volume_than_its_row_says(house: House) -> None:
    needle = house.put("k")
    other = Volume.objects.create(pk=999, salt=bytes(16), created_ms=1, state=Volume.State.WRITABLE)
    Chunk.objects.filter(needle=needle).update(volume=other)
    house.orphan()
    Chunk.objects.update(volume=other)
    checked = check_volume(volume_id=other.pk)
    [finding] = checked.findings
    assert (finding.kind, finding.volume) == ("unknown", 999)
    assert "no server" in finding.detail
    assert "1 chunks" in finding.detail
    house.store(house.lab.lease(count=1).first, age_ms=0)
    kinds = {one.needle: one.kind for one in check(house).findings}
    assert kinds.pop(needle, "") in {"", "divergent"}
    assert list(kinds.values()) == ["orphaned"]


def test_a_deleted_needle_that_lives_again_is_divergent(house: House) -> None:
    needle = house.put("k", age_ms=DAY_MS)
    delete_objects(bucket="photos", keys=["k"])
    assert check(house).is_sound
    Outbox.objects.filter(needle=needle).update(tombstoned_at=timezone.now())
    finding = only(house)
    assert (finding.kind, finding.needle) == ("divergent", needle)


def test_parts_of_the_journal_are_rows_as_well(house: House) -> None:
    """Those on their way are neither missing nor orphans."""

    def journal(*, stored: bool, durable: bool) -> int:
        needle = house.orphan(age_ms=DAY_MS) if stored else house.lab.lease(count=1).first
        data = body_of(needle)
        JournalNeedle.objects.create(
            needle=needle, volume=house.volume, kind="entry", entry=str(needle), part=0, to_sequence=1,
            size=len(data), crc32=zlib.crc32(data), created_at=timezone.now(), is_durable=durable,
        )  # fmt: skip
        return needle

    journal(stored=True, durable=True)
    journal(stored=True, durable=False)
    journal(stored=False, durable=False)
    assert check(house).is_sound
    lost = journal(stored=False, durable=True)
    finding = only(house)
    assert (finding.kind, finding.needle) == ("missing", lost)


# -- unknown -----------------------------------------------------------------------------------------------------


def test_a_server_that_is_offline_is_unknown_and_nothing_of_it_missing(house: House) -> None:
    for number in range(3):
        house.put(f"k{number}")
    Server.objects.update(last_seen_at=timezone.now() - timedelta(minutes=1))
    checked = check_volume(volume_id=house.volume.pk)
    assert checked.verdict == f"{SOUND}, 2 unknown"
    assert {one.kind for one in checked.findings} == {"unknown"}
    assert "offline" in checked.findings[0].detail
    assert "3 chunks" in checked.findings[1].detail


def test_a_server_that_does_not_answer_is_unknown(house: House) -> None:
    house.put("k")
    Server.objects.update(internal_url="http://127.0.0.1:9")
    assert check(house).verdict == f"{SOUND}, 2 unknown"


def test_a_server_without_the_volume_is_unknown(house: House) -> None:
    house.put("k")
    file = house.file()
    house.servers[0].call(lambda: house.servers[0].store.volumes.pop(house.volume.pk))
    try:
        checked = check(house)
        assert checked.verdict == f"{SOUND}, 2 unknown"
        assert "does not have it" in checked.findings[0].detail
    finally:
        house.servers[0].call(lambda: house.servers[0].store.adopt(file))


def test_a_listing_that_breaks_off_is_unknown(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        house.put(f"k{number}")
    pages = paged(monkeypatch, limit=2)
    pages.append(lambda: kill_children(house))
    checked = check(house)
    assert checked.verdict == f"{SOUND}, 2 unknown"
    assert "not listed to its end" in checked.findings[0].detail


def kill_children(house: House) -> None:
    def kill() -> None:
        for one in house.servers[0].listings._listings.values():
            if one.child is not None:
                os.kill(one.child.pid, 9)

    house.servers[0].call(kill)


def paged(monkeypatch: pytest.MonkeyPatch, *, limit: int) -> list[Callable[[], object]]:
    """Has pages be so small; what is put into the list is called, each once, before a further page is asked for."""
    steps: list[Callable[[], object]] = []
    list_needles = client.list_needles

    def small(*args: Any, **options: Any) -> Any:
        if options.get("after") and steps:
            steps.pop(0)()
        return list_needles(*args, **{**options, "limit": limit})

    monkeypatch.setattr(client, "list_needles", small)
    return steps


# -- writes go on ------------------------------------------------------------------------------------------------


def test_a_compaction_meanwhile_only_means_to_begin_anew(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8):
        house.put(f"k{number}")
    missing = house.put("gone", stored=False)
    house.bury(house.orphan())
    server = house.servers[0]

    def compact() -> None:
        from volume_server.compactor import Order

        server.call(lambda: server.compactor.start(house.file(), Order(drop_before_ms=1 << 50)))
        server.wait(lambda: house.file().superblock.revision == 2, what="the compaction")

    paged(monkeypatch, limit=3).append(compact)
    finding = only(house)
    assert (finding.kind, finding.needle) == ("missing", missing)


def test_a_volume_that_never_holds_still_is_unknown(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        house.put(f"k{number}")
    server = house.servers[0]

    def change() -> None:
        house.file().epoch += 1

    steps = paged(monkeypatch, limit=1)
    steps += [lambda: server.call(change)] * 50
    assert check(house).verdict == f"{SOUND}, 1 unknown"


@pytest.mark.parametrize("moment", ["before the rows", "before the question", "behind the question"])
def test_what_is_put_and_deleted_meanwhile_is_no_finding(
    house: House, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Between the listing and the rows, and around the question about a suspect: one finding is real."""
    missing = house.put("missing", stored=False)
    needles = [house.put(f"k{number}", age_ms=DAY_MS) for number in range(6)]
    house.put("going", stored=False)
    leaving = house.put("leaving", age_ms=DAY_MS)
    delete_objects(bucket="photos", keys=["leaving"])

    def change() -> None:
        house.put("new")
        house.put("new2", age_ms=2 * DAY_MS)
        delete_objects(bucket="photos", keys=["k1", "k5", "going"])
        for needle in (needles[1], needles[5], leaving):
            house.bury(needle)
        Outbox.objects.all().delete()

    meddled = {"before the rows": ("named_in", 1), "before the question": ("rows_of", 1)}
    name, turn = meddled.get(moment, ("rows_of", 2))
    original = getattr(fsck, name)
    calls: list[int] = []

    def meddling(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == turn and moment != "before the question":
            change()
        found = original(*args, **options)
        if len(calls) == turn and moment == "before the question":
            change()
        return found

    monkeypatch.setattr(fsck, name, meddling)
    finding = only(house)
    assert (finding.kind, finding.needle) == ("missing", missing)
    assert len(calls) >= turn


# -- copies ------------------------------------------------------------------------------------------------------


def test_equal_copies_are_sound(pair: House) -> None:
    for number in range(5):
        pair.put(f"k{number}")
    pair.bury(pair.orphan())
    checked = check(pair)
    assert (checked.verdict, checked.needle_count, checked.row_count) == (SOUND, 12, 5)


def test_a_copy_that_lacks_a_needle_is_told(pair: House) -> None:
    needle = pair.put("k", stored=False)
    pair.store(needle, on=0)
    finding = only(pair)
    assert (finding.kind, finding.server, finding.needle) == ("missing", str(pair.rows[1]), needle)


def test_copies_that_differ_in_what_nobody_names_are_divergent(pair: House) -> None:
    needle = pair.orphan()
    pair.bury(needle, on=0)
    found = {one.kind: one for one in check(pair).findings}
    assert found["divergent"].needle == found["orphaned"].needle == needle
    assert found["orphaned"].server == str(pair.rows[1])


def test_a_tombstone_on_its_way_to_the_other_copy_is_no_finding(pair: House, monkeypatch: pytest.MonkeyPatch) -> None:
    needle = pair.orphan()
    pair.bury(needle, on=0)
    ask = client.ask_needles

    def arriving(server: Server, *args: Any, **options: Any) -> Any:
        found = ask(server, *args, **options)
        if server == pair.rows[1] and pair.lives(needle, on=1):
            pair.bury(needle, on=1)
        return found

    monkeypatch.setattr(client, "ask_needles", arriving)
    assert "divergent" not in {one.kind for one in check(pair).findings}


def test_one_copy_that_is_away_leaves_the_other_checked(pair: House) -> None:
    pair.put("k", stored=False)
    Server.objects.filter(pk=pair.rows[1].pk).update(last_seen_at=None)
    checked = check_volume(volume_id=pair.volume.pk)
    assert checked.verdict == "1 missing, 0 orphaned, 0 divergent, 1 unknown"


def test_a_copy_of_an_older_revision_is_unknown(pair: House) -> None:
    pair.put("k")
    from volume_server.compactor import Order

    server = pair.servers[0]
    server.call(lambda: server.compactor.start(pair.file(0), Order()))
    server.wait(lambda: pair.file(0).superblock.revision == 2, what="the compaction")
    checked = check(pair)
    assert checked.verdict == f"{SOUND}, 1 unknown"
    assert checked.findings[0].server == str(pair.rows[1])


def test_a_copy_that_is_not_in_line_yet_is_unknown_and_lacks_nothing(pair: House) -> None:
    needle = pair.put("k", stored=False)
    pair.store(needle, on=0)
    Replica.objects.filter(server=pair.rows[1]).update(whole_epoch=0)
    checked = check(pair)
    assert checked.verdict == f"{SOUND}, 1 unknown"
    assert checked.findings[0].server == str(pair.rows[1])


def test_copies_of_a_degraded_volume_may_differ_in_what_nobody_names(pair: House) -> None:
    pair.bury(pair.orphan(), on=0)
    Volume.objects.update(redundancy="degraded")
    assert "divergent" not in {one.kind for one in check(pair).findings}


# -- many --------------------------------------------------------------------------------------------------------


def test_stretches_however_small_add_up(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        house.put(f"k{number}")
    lost = {house.put(f"lost{number}", stored=False) for number in range(5)}
    orphans = {house.orphan() for _ in range(5)}
    monkeypatch.setattr(needle_rows, "ROWS_AT_ONCE", 4)
    monkeypatch.setattr(fsck, "SUSPECTS_AT_ONCE", 3)
    paged(monkeypatch, limit=7)
    checked = check(house)
    assert checked.row_count == 35
    assert checked.needle_count == 35
    assert {one.needle for one in checked.findings if one.kind == "missing"} == lost
    assert {one.needle for one in checked.findings if one.kind == "orphaned"} == orphans


def test_findings_beyond_the_bound_are_counted(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsck, "MAX_FINDINGS", 2)
    for number in range(5):
        house.put(f"lost{number}", stored=False)
    checked = check(house)
    assert (checked.counts["missing"], len(checked.findings)) == (5, 2)


def test_statements_do_not_grow_with_the_needles(house: House, django_assert_max_num_queries: Any) -> None:
    for number in range(40):
        house.put(f"k{number}")
    house.put("lost", stored=False)
    house.heard()
    with django_assert_max_num_queries(9):
        check_volume(volume_id=house.volume.pk)


def test_a_volume_that_is_still_to_be_made_has_nothing_to_check(house: House) -> None:
    Replica.objects.update(state=Replica.State.EXPECTED)
    Volume.objects.update(state=Volume.State.CREATING)
    assert check(house).is_sound


# -- counts ------------------------------------------------------------------------------------------------------


def test_wrong_counts_are_found_and_mended(house: House) -> None:
    house.put("k")
    assert check_counts().is_sound
    Bucket.objects.update(object_count=7)
    checked = check_counts()
    assert checked.verdict == f"{SOUND}, 1 miscounted"
    assert "7 kept, 1 there" in checked.findings[0].detail
    assert mend_counts() == ["photos"]
    assert check_counts().is_sound
    assert mend_counts() == []
    assert AuditEntry.objects.filter(action="bucket.recount").count() == 1


def test_ages_go_by_the_longest_lease_and_its_grace(settings: LazySettings) -> None:
    settings.WAREHOUSE_LEASE_SECONDS = 100
    settings.WAREHOUSE_CHUNK_URL_SECONDS = 700
    settings.WAREHOUSE_CONFIRM_GRACE_SECONDS = 40
    assert fsck.lease_end_ms(now_ms=1_000_000) == 1_000_000 - (700 + 40 + 60) * 1000
