"""Servers that died for good: what keeps them on the books, and what becomes of what they had."""

import io
import json
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from buckets.models import Chunk, Journal, JournalNeedle, Outbox
from buckets.services.fsck import check_volume
from buckets.services.objects import delete_objects
from buckets.services.uploads import create_upload
from buckets.usage import current_figures
from keys.models import AuditEntry
from tests.unit.buckets.lab import Lab, Put, chunk_put, forget_caches
from tests.unit.volumes.factories import make_server, make_volume
from tests.unit.volumes.fake_server import FakeVolumeServer
from volumes.errors import LeasesHalted, ServerAlive, ServerNeeded, ServerNotFound
from volumes.models import OFFLINE_AFTER, ForgottenServer, Replica, Server, Volume
from volumes.services import forgetting
from volumes.services.forgetting import Forgotten, forget_server, losses_of
from volumes.services.store import note_behind

pytestmark = pytest.mark.django_db

NOBODY = "http://127.0.0.1:1"


def dies(server: Server, **fields: Any) -> None:
    silent = timezone.now() - OFFLINE_AFTER - timedelta(seconds=1)
    Server.objects.filter(pk=server.pk).update(**{"last_seen_at": silent, "internal_url": NOBODY} | fields)
    forget_caches()


def copy_elsewhere(volume: Volume, **fields: Any) -> Replica:
    """Of a volume of two copies, the other one."""
    Volume.objects.filter(pk=volume.pk).update(replication=2)
    row = {
        "server": make_server(),
        "role": Replica.Role.SECONDARY,
        "state": Replica.State.OPEN,
        "epoch": volume.epoch,
        "whole_epoch": volume.opened_epoch,
        "reported_at": timezone.now(),
    }
    return Replica.objects.create(volume=volume, **(row | fields))


def journal_part(volume: Volume, *, needle: int, entry: str = "e", part: int = 0) -> None:
    JournalNeedle.objects.create(
        needle=needle,
        volume=volume,
        kind=JournalNeedle.Kind.ENTRY,
        entry=entry,
        part=part,
        to_sequence=1,
        size=1,
        crc32=0,
        created_at=timezone.now(),
        is_durable=True,
    )


def unchanged(lab: Lab) -> bool:
    return (
        Server.objects.filter(pk=lab.server.pk).exists()
        and Replica.objects.filter(server=lab.server, volume=lab.volume).exists()
        and not ForgottenServer.objects.exists()
    )


def test_a_server_that_was_heard_is_not_forgotten(lab: Lab) -> None:
    with pytest.raises(ServerAlive, match="was heard"):
        forget_server(server_id=lab.server.pk)
    with pytest.raises(ServerAlive, match="was heard"):
        losses_of(server_id=lab.server.pk)
    dies(lab.server, last_seen_at=timezone.now() - OFFLINE_AFTER / 2, stopped_at=timezone.now())
    with pytest.raises(ServerAlive, match="was heard"):
        forget_server(server_id=lab.server.pk)
    assert unchanged(lab)


def test_a_server_that_only_the_master_does_not_hear_is_not_forgotten(lab: Lab, fake_server: FakeVolumeServer) -> None:
    other = make_server(id=fake_server.id)
    dies(other, internal_url=fake_server.url)
    with pytest.raises(ServerAlive, match="answers at"):
        forget_server(server_id=other.pk)
    dies(lab.server, internal_url=fake_server.url)
    forget_server(server_id=lab.server.pk)  # another server has its address now


def test_a_server_that_alone_has_what_is_named_is_kept(lab: Lab) -> None:
    lab.put_many("a", "b")
    lab.bucket.chunk_size = 1 << 20
    lab.bucket.save()
    slots = create_upload(bucket="photos", holder=lab.rights, key="c", size=3 << 20)
    lab.confirm(*[chunk_put(slot) for slot in slots.chunks[:2]])
    assert Chunk.objects.filter(upload__isnull=False).count() == 2
    dies(lab.server)
    with pytest.raises(ServerNeeded, match="2 objects and 1 open uploads in 1 buckets"):
        forget_server(server_id=lab.server.pk)
    assert unchanged(lab)
    assert not AuditEntry.objects.filter(action="server.forget").exists()


def test_what_was_deleted_does_not_keep_it_and_fsck_is_clean(lab: Lab) -> None:
    lab.put_many("a", "b")
    delete_objects(bucket="photos", keys=["a", "b"])
    assert Outbox.objects.count() == 2
    dies(lab.server)
    assert check_volume(volume_id=lab.volume.pk).counts["unknown"] == 1
    assert forget_server(server_id=lab.server.pk) == Forgotten(copies=0, volumes=1)
    assert not Volume.objects.exists()
    assert not Outbox.objects.exists()
    assert not Server.objects.filter(pk=lab.server.pk).exists()
    [entry] = AuditEntry.objects.filter(action="server.forget")
    assert (entry.target, entry.detail) == (str(lab.server.pk), {"copies": 0, "volumes": 1})
    with pytest.raises(ServerNotFound):
        forget_server(server_id=lab.server.pk)


@pytest.mark.parametrize("away", [False, True])
def test_what_another_copy_has_goes_on_there(lab: Lab, away: bool) -> None:
    lab.put("a")
    heir = copy_elsewhere(lab.volume)
    if away:  # and may come back: unknown is never absent
        dies(heir.server)
    dies(lab.server)
    assert forget_server(server_id=lab.server.pk) == Forgotten(copies=1, volumes=0)
    volume = Volume.objects.get()
    assert (volume.redundancy, volume.unsettled) == ("degraded", True)
    assert [(one.server_id, one.role) for one in volume.replicas.all()] == [(heir.server_id, "primary")]
    assert Chunk.objects.filter(volume=volume).count() == 1


@pytest.mark.parametrize(
    "fields", [{"whole_epoch": 0}, {"epoch": 0}, {"state": Replica.State.MISSING}, {"state": Replica.State.EXPECTED}]
)
def test_a_copy_that_may_lack_something_is_no_other_copy(lab: Lab, fields: dict[str, Any]) -> None:
    lab.put("a")
    copy_elsewhere(lab.volume, **fields)
    dies(lab.server)
    losses = losses_of(server_id=lab.server.pk)
    assert (losses.copies, losses.volumes, losses.holdings.objects) == (0, 1, {"photos": 1})
    with pytest.raises(ServerNeeded, match="1 objects and 0 open uploads"):
        forget_server(server_id=lab.server.pk)
    assert unchanged(lab)


def test_a_volume_that_is_still_being_made_is_made_by_the_others(lab: Lab) -> None:
    Volume.objects.update(state="creating", redundancy="making")
    heir = copy_elsewhere(lab.volume, state=Replica.State.EXPECTED, epoch=0, whole_epoch=0, reported_at=None)
    dies(lab.server)
    assert losses_of(server_id=lab.server.pk).copies == 1
    assert forget_server(server_id=lab.server.pk) == Forgotten(copies=1, volumes=0)
    assert [(one.server_id, one.role) for one in Replica.objects.all()] == [(heir.server_id, "primary")]
    assert Volume.objects.get().redundancy == "making"


def test_of_two_that_have_each_others_copies_one_is_kept(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are forgotten at one time: each has looked while the other was still there."""
    lab.put("a")
    heir = copy_elsewhere(lab.volume)
    dies(heir.server)
    dies(lab.server)
    shut_out = forgetting._shut_out

    def late(server_id: Any) -> None:
        monkeypatch.setattr(forgetting, "_shut_out", shut_out)
        forget_server(server_id=heir.server_id)
        shut_out(server_id)

    monkeypatch.setattr(forgetting, "_shut_out", late)
    with pytest.raises(ServerNeeded):
        forget_server(server_id=lab.server.pk)
    assert [one.pk for one in ForgottenServer.objects.all()] == [heir.server_id]
    assert [one.server_id for one in Replica.objects.all()] == [lab.server.pk]


def test_a_call_that_was_interrupted_is_taken_up(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make_volume(lab.server)
    copy_elsewhere(other)
    dies(lab.server)
    real = forgetting._remove_volume

    def killed(volume_id: int) -> None:
        real(volume_id)
        raise KeyboardInterrupt

    monkeypatch.setattr(forgetting, "_remove_volume", killed)
    with pytest.raises(KeyboardInterrupt):
        forget_server(server_id=lab.server.pk)
    assert ForgottenServer.objects.filter(pk=lab.server.pk).exists(), "it is shut out from the beginning"
    monkeypatch.setattr(forgetting, "_remove_volume", real)
    forget_server(server_id=lab.server.pk)
    assert list(Volume.objects.values_list("pk", flat=True)) == [other.pk]
    assert not Server.objects.filter(pk=lab.server.pk).exists()


def test_a_deletion_that_was_under_way_is_waited_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row comes up after the others were removed; the volume is never removed from under it."""
    dies(lab.server)
    real = forgetting.release_volume

    def too_early(volume_id: int) -> None:
        monkeypatch.setattr(forgetting, "release_volume", real)
        real(volume_id)
        now = timezone.now()
        times = {"created_at": now, "not_before": now, "keep_until": now}
        Outbox.objects.create(needle=9 << 16, volume_id=volume_id, reason="deleted", verdict={}, **times)

    monkeypatch.setattr(forgetting, "release_volume", too_early)
    assert forget_server(server_id=lab.server.pk) == Forgotten(copies=0, volumes=1)
    assert not Volume.objects.exists()


def test_nothing_is_forgotten_by_an_old_database(lab: Lab) -> None:
    dies(lab.server)
    note_behind(seen_sequence=10**6)
    with pytest.raises(LeasesHalted):
        forget_server(server_id=lab.server.pk)
    assert unchanged(lab)


@pytest.mark.parametrize("has_twin", [True, False])
def test_a_journal_that_lost_a_part_begins_anew(lab: Lab, has_twin: bool) -> None:
    survivor = make_volume(make_server())
    whole_at = timezone.now()
    Journal.objects.create(number=5, sequence=9, safe_sequence=9, whole_at=whole_at)
    journal_part(lab.volume, needle=1 << 16)
    if has_twin:
        journal_part(survivor, needle=2 << 16)
    journal_part(survivor, needle=3 << 16, part=1)
    dies(lab.server)
    forget_server(server_id=lab.server.pk)
    journal = Journal.objects.get()
    assert (journal.whole_at, journal.safe_sequence) == ((whole_at, 9) if has_twin else (None, 0))
    assert set(JournalNeedle.objects.values_list("volume", flat=True)) == {survivor.pk}


def test_traffic_is_not_forgotten(lab: Lab) -> None:
    served = {"requests": 7, "puts": 3, "received_bytes": 30, "sent_bytes": 40}
    dies(lab.server, traffic={"instance": "i", "told": served, "total": served})
    before = current_figures()
    forget_server(server_id=lab.server.pk)
    after = current_figures()
    assert {name: after[name] for name in served} == {name: before[name] for name in served} == served
    assert (before["servers"], after["servers"]) == (1, 0)


# -- how operators call it ---------------------------------------------------------------------------------------------


def run(*args: Any) -> list[str]:
    out = io.StringIO()
    call_command("forget", *map(str, args), stdout=out)
    return out.getvalue().splitlines()


def test_the_command_asks_first(lab: Lab) -> None:
    dies(lab.server)
    said = run(lab.server.pk)
    assert said[-1] == "Nothing was changed; with --yes it is forgotten."
    assert "of 1 volumes no other copy has everything" in said[0]
    assert unchanged(lab)
    assert run(lab.server.pk, "--yes")[-1].endswith("is forgotten: 0 copies are made anew, 1 volumes are gone.")
    assert not Server.objects.exists()


def test_the_command_names_what_keeps_the_server(lab: Lab) -> None:
    """An object is named once, however many of its chunks lie there."""
    lab.put_many("a", "ü\n'b'")
    lease = lab.lease(count=1)
    lab.confirm(Put(lease.url, lease.first, 10, "gone"))
    delete_objects(bucket="photos", keys=["gone"])
    dies(lab.server)
    out = io.StringIO()
    with pytest.raises(CommandError, match="No other copy has all of 2 objects"):
        call_command("forget", str(lab.server.pk), "--yes", stdout=out)
    assert "  bucket photos: 2 objects, 0 open uploads" in out.getvalue().splitlines()
    assert unchanged(lab)
    assert [json.loads(line) for line in run(lab.server.pk, "--list")] == [
        {"bucket": "photos", "key": key, "is_upload": False} for key in ("a", "ü\n'b'")
    ]


def test_the_list_is_whole_over_its_pages(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("buckets.services.lost_volumes.ROWS_AT_ONCE", 2)
    keys = [f"k{number}" for number in range(5)]
    lab.put_many(*keys)
    assert [json.loads(line)["key"] for line in run(lab.server.pk, "--list")] == keys
