"""Anything that may happen to a store, in any order, with a journal that is written and cut off meanwhile."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from buckets.models import Upload
from buckets.services import journal, journal_rows
from buckets.services.buckets import create_bucket, delete_bucket
from buckets.services.deletion import close_bucket, delete_closed_buckets
from buckets.services.groups import CommitUpload, Copy, Delete, Rename, commit_group
from buckets.services.objects import delete_objects, update_object
from buckets.services.prefixes import rename_prefix
from buckets.services.rebuild.run import opened, rebuild
from buckets.services.shares import create_share
from buckets.services.uploads import abort_upload, create_upload, resume_upload
from keys.errors import WarehouseError
from keys.rights import GrantRow
from keys.services.keys import delete_key
from tests.unit.buckets.disk_lab import DiskLab, empty_database, state
from tests.unit.buckets.lab import chunk_put, make_key, require_sound
from volumes import client
from volumes.errors import ServerUnreachable
from volumes.models import Server

KEYS = [f"{folder}/{name}" for folder in "ab" for name in "123"] + ["a", "ä"]
OPERATIONS = 50


class Player:
    """Does things at random, and remembers which keys were last touched by something else than a put."""

    def __init__(self, disk: DiskLab, seed: int) -> None:
        self.disk = disk
        self.random = random.Random(seed)
        self.not_puts: set[tuple[str, str]] = set()
        """Since the journal was last brought up to date."""
        self.failing_puts = 0
        self.others: list[str] = []

    def key(self) -> str:
        return self.random.choice(KEYS)

    def play(self) -> None:
        steps: list[tuple[int, Callable[[], object]]] = [
            *((20, self.put), (4, self.put_many), (4, self.put_chunks), (6, self.begin_upload), (10, self.send_chunk)),
            *((2, self.abort), (3, self.commit_upload), (10, self.delete), (10, self.group), (4, self.rename_prefix)),
            *((5, self.update), (4, self.other_bucket), (3, self.keys), (2, self.share), (8, self.journal)),
            *((4, self.broken_journal), (6, self.collect)),
        ]
        step = self.random.choices([step for _, step in steps], [weight for weight, _ in steps])[0]
        Server.objects.update(last_seen_at=timezone.now())
        before = state()["objects"]
        # As each call of the API has one: what is refused leaves nothing.
        try:
            with transaction.atomic():
                step()
        except WarehouseError:
            pass
        after = state()["objects"]
        changed = {place for place in before.keys() | after.keys() if before.get(place) != after.get(place)}
        if step in (self.put, self.put_many, self.put_chunks, self.send_chunk):
            self.not_puts -= changed
        else:
            self.not_puts |= changed

    def put(self) -> None:
        fields: dict[str, Any] = {}
        if self.random.random() < 0.2:
            fields["if_none_match"] = True
        if self.random.random() < 0.3:
            fields |= {"content_type": "text/plain", "metadata": {"n": str(self.random.random())}}
        self.disk.put(self.key(), size=self.random.randrange(60), **fields)

    def put_many(self) -> None:
        self.disk.put_many(*(self.key() for _ in range(4)), size=self.random.randrange(60))

    def put_chunks(self) -> None:
        self.disk.put_chunks(self.key(), size=self.random.randrange(65, 300))

    def begin_upload(self) -> None:
        held = self.random.random() < 0.4
        slots = create_upload(bucket="photos", holder=self.disk.rights, key=self.key(), size=150, held=held)
        self.disk.confirm(chunk_put(slots.chunks[self.random.randrange(3)]))

    def upload(self, *states: str) -> Upload:
        found = list(Upload.objects.filter(state__in=states).select_related("bucket").order_by("created_at", "pk"))
        if not found:
            raise ServerUnreachable("none is there")
        return self.random.choice(found)

    def send_chunk(self) -> None:
        slots = resume_upload(upload=self.upload("open"), holder=self.disk.rights)
        self.disk.confirm(chunk_put(self.random.choice(slots.chunks)))

    def abort(self) -> None:
        abort_upload(upload_id=self.upload("open", "ready").pk)

    def commit_upload(self) -> None:
        commit_group(bucket="photos", operations=[CommitUpload(self.upload("ready").pk), Delete(self.key())])

    def delete(self) -> None:
        delete_objects(bucket="photos", keys=[self.key(), self.key()])

    def group(self) -> None:
        one = [
            Rename(self.key(), self.key(), overwrite=True),
            Copy(self.key(), self.key()),
            Delete(self.key()),
        ]
        commit_group(bucket="photos", operations=self.random.choices(one, k=2))

    def rename_prefix(self) -> None:
        first, second = self.random.sample(["a/", "b/", "a"], 2)
        rename_prefix(bucket="photos", prefix=first, to_prefix=second, overwrite=True)

    def update(self) -> None:
        update_object(bucket="photos", key=self.key(), metadata={"updated": str(self.random.random())})

    def other_bucket(self) -> None:
        name = f"other{self.random.randrange(3)}"
        what = self.random.randrange(4)
        if what == 0:
            create_bucket(name=name)
        elif what == 1:
            self.disk.put(self.key(), bucket=name)
        elif what == 2:
            delete_bucket(name=name)
        else:
            close_bucket(name=name)
            delete_closed_buckets()

    def keys(self) -> None:
        key = make_key(permissions=1, grants=(GrantRow("photos", "a/", 1),))
        if self.random.random() < 0.5:
            delete_key(actor=None, key_id=key.pk)

    def share(self) -> None:
        create_share(maker=self.disk.rights, maker_name="test", bucket="photos", key=self.key())

    def journal(self) -> None:
        if self.random.random() < 0.3:
            journal.begin_snapshot()
        journal.write_journal(seconds=self.random.choice([0, 60]))
        if journal.current_journal().whole_at is not None and not journal.current_journal().is_begun_anew:
            self.not_puts.clear()

    def broken_journal(self) -> None:
        """A worker that is killed after so many needles: what it had not counted is there all the same."""
        if self.random.random() < 0.5:
            journal.begin_snapshot()
        self.failing_puts = self.random.randrange(1, 6)
        try:
            journal.write_journal(seconds=60, force=True)
        except ServerUnreachable:
            pass
        finally:
            self.failing_puts = 0

    def collect(self) -> None:
        self.disk.collect()

    def put_needle(self, url: str, data: bytes) -> None:
        if self.failing_puts:
            self.failing_puts -= 1
            if not self.failing_puts:
                self.failing_puts = 1
                if self.random.random() < 0.5:
                    self.disk.put_needle(url, data)  # it was written, and nobody was told
                raise ServerUnreachable("killed")
        self.disk.put_needle(url, data)


@pytest.fixture
def player(request: Any, db: None, tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Player:
    settings.WAREHOUSE_JOURNAL_SECONDS = 3
    settings.WAREHOUSE_CHUNK_SIZE = 64
    disk = DiskLab.on_disk(tmp_path / "1")
    player = Player(disk, request.param)
    monkeypatch.setattr(client, "put_needle", player.put_needle)
    monkeypatch.setattr(journal_rows, "BATCH_ROWS", 2)
    monkeypatch.setattr("buckets.journal_format.PART_CONTENT_BYTES", 900)
    monkeypatch.setattr(journal, "MIN_ENTRY_BYTES", 20_000)
    return player


def lose_and_rebuild(disk: DiskLab) -> Any:
    disk.stop()
    empty_database()
    with opened([disk.directory]) as directories:
        report = rebuild(directories)
    require_sound()
    return report


@pytest.mark.parametrize("player", range(4), indirect=True)
def test_a_journal_that_is_up_to_date_tells_everything(player: Player) -> None:
    for _ in range(OPERATIONS):
        player.play()
    Server.objects.update(last_seen_at=timezone.now())
    journal.write_journal(seconds=60, force=True)
    before = state()
    report = lose_and_rebuild(player.disk)
    assert state() == before
    assert report.is_certain, report


@pytest.mark.parametrize("player", range(100, 104), indirect=True)
def test_what_was_put_is_never_missing(player: Player) -> None:
    player.disk.put("first")
    journal.write_journal(seconds=60)
    for _ in range(OPERATIONS):
        player.play()
    before = {place: row for place, row in state()["objects"].items() if place not in player.not_puts}
    report = lose_and_rebuild(player.disk)
    after = state()["objects"]
    # What a put with a condition met is not known where a deletion before it is not.
    doubtful = {(one.bucket, one.key) for one in report.uncertain if "precondition" in one.what}
    for place, row in before.items():
        if place in doubtful:
            continue
        assert place in after, place
        assert after[place][:4] == row[:4], place
    assert after.keys() - before.keys() <= player.not_puts | doubtful
