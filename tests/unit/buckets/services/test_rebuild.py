"""The database is made anew from the volumes alone, and is what it was."""

import fcntl
import os
import shutil
import time
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from buckets.errors import NotEmpty, NothingToRebuildFrom
from buckets.journal_format import TAIL_NAME
from buckets.models import Bucket, Journal, JournalNeedle, Object, Outbox, Upload
from buckets.services import journal, journal_rows
from buckets.services.buckets import create_bucket
from buckets.services.confirm import confirm_needles
from buckets.services.groups import Copy, Rename, commit_group
from buckets.services.leases import issue_lease
from buckets.services.objects import delete_objects
from buckets.services.rebuild.report import Report
from buckets.services.rebuild.run import opened, rebuild
from buckets.services.uploads import create_upload
from buckets.verdicts import Refused
from keys.models import ApiKey
from keys.permissions import Permission
from keys.selectors import rights_of_row
from tests.unit.buckets.disk_lab import DiskLab, empty_database, state
from tests.unit.buckets.lab import WRITE, Put, batch_of, chunk_put, make_key, require_sound
from volume_server import record
from volumes import client
from volumes.models import ForgottenServer, Server, Store
from volumes.services.store import current_store, next_sequence

Rebuilt = Callable[..., Report]


@pytest.fixture
def disk(db: None, tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> DiskLab:
    settings.WAREHOUSE_JOURNAL_SECONDS = 3
    settings.WAREHOUSE_CHUNK_SIZE = 64
    lab = DiskLab.on_disk(tmp_path / "volumes" / "1")
    monkeypatch.setattr(client, "put_needle", lab.put_needle)
    # Several stretches and parts for a handful of rows.
    monkeypatch.setattr(journal_rows, "BATCH_ROWS", 3)
    monkeypatch.setattr("buckets.journal_format.PART_CONTENT_BYTES", 1500)
    return lab


@pytest.fixture
def rebuilt(disk: DiskLab) -> Rebuilt:
    """Loses the database and makes it anew."""

    def lose_and_rebuild(**options: Any) -> Report:
        disk.stop()
        empty_database()
        with opened([disk.directory]) as directories:
            report = rebuild(directories, **options)
        require_sound()
        return report

    return lose_and_rebuild


def write() -> None:
    journal.write_journal(seconds=60)


def test_what_the_journal_tells_comes_back_exactly(disk: DiskLab, rebuilt: Rebuilt) -> None:
    disk.put_many(*(f"key{number}" for number in range(10)))
    write()
    disk.put("key1", content_type="text/plain", metadata={"a": "ä"})
    delete_objects(bucket="photos", keys=["key2", "key3"])
    commit_group(bucket="photos", operations=[Rename("key4", "renamed"), Copy("key5", "copied")])
    disk.put_chunks("large", size=300)
    waiting = create_upload(bucket="photos", holder=disk.rights, key="waiting", size=200)
    disk.confirm(chunk_put(waiting.chunks[0]))
    create_bucket(name="empty")
    write()
    disk.collect()
    before = state()
    report = rebuilt()
    assert state() == before
    assert report.is_certain, report
    assert report.counts["objects"] == 10


def test_puts_from_after_the_journals_end_come_back(disk: DiskLab, rebuilt: Rebuilt) -> None:
    disk.put_many("a", "b")
    write()
    disk.put("a", size=33)
    disk.put("new", content_type="image/png", metadata={"x": "y"})
    disk.put_chunks("large", size=150)
    before = state()["objects"]
    report = rebuilt()
    after = state()["objects"]
    assert after.keys() == before.keys()
    for place, row in before.items():
        assert after[place][:4] == row[:4], place
    assert {one.key for one in report.late} == {"a", "new", "large"}
    assert report.uncertain == []
    assert report.commits_unknown


def test_deleted_objects_stay_deleted_and_the_next_numbers_are_new(disk: DiskLab, rebuilt: Rebuilt) -> None:
    disk.put("gone")
    write()
    delete_objects(bucket="photos", keys=["gone"])
    disk.put("stays")
    write()
    highest = max(Object.objects.values_list("chunks__needle", flat=True))
    told = Journal.objects.get().safe_sequence
    rebuilt()
    assert list(Object.objects.values_list("key", flat=True)) == ["stays"]
    assert current_store().lease_high > highest >> 16
    assert next_sequence() > told


def test_an_older_attempt_never_takes_the_place_of_what_is_known(disk: DiskLab, rebuilt: Rebuilt) -> None:
    lease = disk.lease(count=3)
    disk.now_ms = int(time.time() * 1000) - 1000
    for at, key in enumerate(("overwritten", "removed", "alone")):
        disk.append(Put(lease.url, lease.first + at, 10, key), b"0123456789")
    disk.now_ms = 0
    disk.put("overwritten", size=20)
    disk.put("removed")
    delete_objects(bucket="photos", keys=["removed"])
    write()
    report = rebuilt()
    assert {row.key: row.size for row in Object.objects.all()} == {"overwritten": 20, "alone": 10}
    assert {one.key for one in report.uncertain} == {"overwritten", "removed", "alone"}


@pytest.mark.parametrize(
    ("changed", "doubted"),
    [
        ({}, False),
        ({"permissions": int(Permission.OBJECTS_READ)}, True),
        ({"expires_at": datetime(2001, 1, 1, tzinfo=UTC)}, True),
        ({"expires_at": datetime(2101, 1, 1, tzinfo=UTC)}, False),
    ],
)
def test_a_late_put_without_the_right_to_it_is_taken_and_told(
    disk: DiskLab, rebuilt: Rebuilt, changed: dict[str, Any], doubted: bool
) -> None:
    """Its key may have got the right after the journal's end, and the put been acknowledged."""
    lease = disk.lease(count=1)
    ApiKey.objects.filter(pk=disk.key.pk).update(**changed)
    write()
    disk.append(Put(lease.url, lease.first, 10, "late"), b"0123456789")
    report = rebuilt()
    assert [row.key for row in Object.objects.all()] == ["late"]
    [told] = report.uncertain if doubted else report.late
    assert ("no right" in told.what) == doubted


def test_a_late_put_of_a_key_that_was_deleted_is_not_taken(disk: DiskLab, rebuilt: Rebuilt) -> None:
    other = make_key(permissions=WRITE)
    lease = issue_lease(bucket="photos", holder=rights_of_row(other), count=1, max_bytes=10, prefix="")
    write()
    other.delete()
    write()
    disk.append(Put(lease.url, lease.first, 10, "late"), b"0123456789")
    report = rebuilt()
    assert not Object.objects.exists()
    assert ["not taken" in one.what for one in report.uncertain] == [True]


def test_an_upload_goes_on(disk: DiskLab, rebuilt: Rebuilt) -> None:
    slots = create_upload(bucket="photos", holder=disk.rights, key="large", size=200)
    disk.confirm(chunk_put(slots.chunks[0]))
    write()
    disk.confirm(chunk_put(slots.chunks[1]))
    lost = create_upload(bucket="photos", holder=disk.rights, key="lost", size=200)
    disk.confirm(chunk_put(lost.chunks[0]))
    report = rebuilt()
    assert Upload.objects.get().chunks.count() == 2
    assert len(report.uploads_lost) == 1
    assert "'lost'" in report.uploads_lost[0]


def part_needles(kind: str) -> list[int]:
    rows = JournalNeedle.objects.filter(kind=kind, is_durable=True)
    return list(rows.order_by("-to_sequence", "part").values_list("needle", flat=True))


def damage(disk: DiskLab, needle: int, change: Callable[[bytearray], None]) -> None:
    """Changes the needle's data, and the record's CRC with it: only the MAC can tell."""
    found = disk.file.look(needle)
    offset = found.data_offset
    raw = bytearray(disk.file.path.read_bytes())
    data = raw[offset : offset + found.header.data_bytes]
    change(data)
    raw[offset : offset + len(data)] = data
    start = offset - record.HEADER_BYTES - found.header.meta_bytes
    header = record.encode_header(
        record.Tagger(bytes(disk.volume.salt)),
        record.LIVE,
        needle,
        meta_bytes=found.header.meta_bytes,
        data_bytes=found.header.data_bytes,
        crc=zlib.crc32(found.meta, zlib.crc32(data)),
        appended_ms=found.header.appended_ms,
    )
    raw[start : start + len(header)] = header
    disk.file.path.write_bytes(raw)


def test_a_forged_part_is_not_believed(disk: DiskLab, rebuilt: Rebuilt) -> None:
    disk.put("a")
    write()
    disk.put("b")
    write()
    [newest, *_] = part_needles("entry")
    disk.stop()

    def forge(data: bytearray) -> None:
        data[-40] ^= 1

    disk.file = type(disk.file).open(disk.file.files, disk.file.path)
    damage(disk, newest, forge)
    report = rebuilt()
    assert any("not signed with this store's secret" in problem for problem in report.problems), report.problems
    # What it told of is found all the same.
    assert {row.key for row in Object.objects.all()} == {"a", "b"}


def test_parts_of_the_journal_that_were_given_up_are_given_up_once_more(disk: DiskLab, rebuilt: Rebuilt) -> None:
    """An older snapshot is dead when a newer one is whole, and the journal may tell so before its tombstones."""
    disk.put("a")
    write()
    journal.begin_snapshot()
    disk.put("b")
    write()
    dead = set(Outbox.objects.values_list("needle", flat=True))
    assert dead
    disk.put("c")
    write()
    rebuilt()
    assert not Outbox.objects.filter(needle__in=dead).exists()
    journal.drop_older(snapshot="a new one", begun_at=1 << 40)
    assert not JournalNeedle.objects.exists()
    assert dead <= set(Outbox.objects.values_list("needle", flat=True))


def test_an_entry_that_is_missing_ends_what_is_exact(disk: DiskLab, rebuilt: Rebuilt) -> None:
    disk.put_many("a", "b")
    write()
    delete_objects(bucket="photos", keys=["a"])
    write()
    [lost, *_] = part_needles("entry")
    disk.put("c")
    write()
    disk.tombstone(lost)
    report = rebuilt()
    assert any("gap" in problem for problem in report.problems)
    assert report.commits_unknown
    assert {row.key for row in Object.objects.all()} == {"a", "b", "c"}


def test_without_any_journal_the_needles_tell_what_they_can(disk: DiskLab, rebuilt: Rebuilt) -> None:
    disk.put("a", content_type="text/plain")
    disk.put("a", size=30)
    disk.put_chunks("large", size=150)
    report = rebuilt()
    assert {row.key: row.size for row in Object.objects.all()} == {"a": 30, "large": 150}
    assert report.journal_read_at is None
    assert Server.objects.get().pk == disk.server.pk
    assert Bucket.objects.get().name == "photos"


def test_what_cannot_be_read_is_told(disk: DiskLab, rebuilt: Rebuilt) -> None:
    disk.put("a", size=50)
    write()
    needle = Object.objects.get().chunks.get().needle
    offset = disk.file.look(needle).data_offset
    disk.stop()
    raw = bytearray(disk.file.path.read_bytes())
    raw[offset] ^= 1
    disk.file.path.write_bytes(raw)
    disk.file = type(disk.file).open(disk.file.files, disk.file.path)
    report = rebuilt()
    assert [text.partition(":")[0] for text in report.unreadable] == ["photos/a"]
    assert "is damaged" in report.unreadable[0]


def test_forgotten_servers_stay_so_but_those_whose_directories_are_read(disk: DiskLab, rebuilt: Rebuilt) -> None:
    disk.put("a")
    stays = ForgottenServer.objects.create(pk=uuid4(), node="n9", traffic={"total": {"puts": 3}})
    ForgottenServer.objects.create(pk=disk.server.pk, node="n1")
    write()
    rebuilt()
    [row] = ForgottenServer.objects.all()
    assert (row.pk, row.node, row.forgotten_at, row.traffic) == (stays.pk, "n9", stays.forgotten_at, stays.traffic)
    assert Server.objects.filter(pk=disk.server.pk).exists()


def test_a_dry_run_keeps_nothing(disk: DiskLab, rebuilt: Rebuilt) -> None:
    disk.put("a")
    write()
    report = rebuilt(keep=False)
    assert report.counts["objects"] == 1
    assert not Object.objects.exists()
    assert not Store.objects.exists()


def test_a_database_that_holds_something_is_never_changed(disk: DiskLab) -> None:
    disk.stop()
    with opened([disk.directory]) as directories, pytest.raises(NotEmpty):
        rebuild(directories)


def test_volumes_of_two_stores_are_not_mixed(disk: DiskLab, tmp_path: Path) -> None:
    other = tmp_path / "volumes" / "2"
    other.mkdir()
    (other / "server.json").write_text(
        '{"server": "11111111-1111-1111-1111-111111111111", "kid": 1, "store": "22222222-2222-2222-2222-222222222222"}'
    )
    disk.stop()
    with pytest.raises(NothingToRebuildFrom, match="different stores"), opened([tmp_path / "volumes"]):
        pass


def test_a_directory_whose_server_runs_is_refused(disk: DiskLab) -> None:
    lock = os.open(disk.directory / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(NothingToRebuildFrom, match="stop it first"), opened([disk.directory]):
        pass
    os.close(lock)


def test_the_copy_of_the_highest_revision_counts(disk: DiskLab, rebuilt: Rebuilt, tmp_path: Path) -> None:
    """An older copy of a volume knows nothing of what was deleted since."""
    disk.put("gone")
    write()
    stale = tmp_path / "volumes" / "2"
    shutil.copytree(disk.directory, stale)
    head = bytearray(stale.joinpath(disk.file.path.name).read_bytes())
    delete_objects(bucket="photos", keys=["gone"])
    disk.put("stays")
    write()
    disk.collect()
    disk.file.epoch = 2
    disk.file.save_state()
    assert len(head) < disk.file.path.stat().st_size
    disk.stop()
    empty_database()
    with opened([tmp_path / "volumes"]) as directories:
        rebuild(directories)
    assert [row.key for row in Object.objects.all()] == ["stays"]


def test_leases_of_the_lost_time_are_void(disk: DiskLab, rebuilt: Rebuilt) -> None:
    disk.put("first")
    write()
    lease = disk.lease(count=1)
    rebuilt()
    [verdict] = confirm_needles(
        server=disk.server.pk, batch=batch_of([Put(lease.url, lease.first, 10, "late")])
    ).verdicts
    assert isinstance(verdict, Refused)
    assert verdict.code == "intent_forged"


def test_the_end_of_the_journal_lies_beside_the_volumes_after_a_clean_stop(disk: DiskLab, rebuilt: Rebuilt) -> None:
    disk.put_many("a", "b")
    write()
    delete_objects(bucket="photos", keys=["a"])
    raw = journal.read_tail()
    (disk.directory / TAIL_NAME).write_bytes(raw)
    report = rebuilt()
    assert [row.key for row in Object.objects.all()] == ["b"]
    assert report.is_certain, report
