"""Compaction by the share of garbage, and the watch over scrubs."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from keys.models import AuditEntry
from tests.unit.volumes.factories import GIB, figures, job, make_server, make_volume
from tests.unit.volumes.fake_server import FakeVolumeServer
from volumes.models import Replica, Server, Volume
from volumes.reports import parse_figures
from volumes.services import housekeeping
from volumes.services.figures import record_figures
from volumes.services.housekeeping import Compactions, Scrubs, compact_garbage, watch_scrubs
from volumes.services.store import note_behind
from volumes.services.upkeep import tombstones_kept_for

pytestmark = pytest.mark.django_db

MIB = 1 << 20


@pytest.fixture
def server(fake_server: FakeVolumeServer) -> Server:
    return make_server(id=fake_server.id, instance=fake_server.instance, internal_url=fake_server.url)


def add_volume(server: Server, fake: FakeVolumeServer, *, garbage_mib: int, size_mib: int = 100, **more: Any) -> Volume:
    replica = {"size_bytes": size_mib * MIB, "garbage_bytes": garbage_mib * MIB}
    also = more.pop("replica", {})
    volume = make_volume(server, replica=replica | also, **more)
    scrubbed_ms = int(also["scrubbed_at"].timestamp() * 1000) if "scrubbed_at" in also else None
    fake.volumes[volume.pk] = figures(volume.pk, scrubbed_ms=scrubbed_ms, **replica)
    return volume


def asked(fake: FakeVolumeServer, what: str = "compact") -> list[int]:
    return [body["volume"] for path, body in fake.asked if path == f"/admin/{what}"]


class TestCompaction:
    def test_the_worst_volume_of_each_server_is_compacted(
        self, server: Server, fake_server: FakeVolumeServer, settings: Settings
    ) -> None:
        settings.WAREHOUSE_COMPACT_RATE = 5 * MIB
        add_volume(server, fake_server, garbage_mib=40)
        worst = add_volume(server, fake_server, garbage_mib=60)
        add_volume(server, fake_server, garbage_mib=29)
        with FakeVolumeServer() as other_fake:
            other = make_server(id=other_fake.id, instance=other_fake.instance, internal_url=other_fake.url)
            beside = add_volume(other, other_fake, garbage_mib=30)
            assert compact_garbage() == Compactions(due=3, started=2, refused=0, running=2)
            assert asked(other_fake) == [beside.pk]
        assert asked(fake_server) == [worst.pk]
        assert fake_server.asked[0][1]["rate_bytes"] == 5 * MIB
        assert AuditEntry.objects.filter(action="volume.compact", target=str(worst.pk)).count() == 1

    def test_one_runs_at_a_time_and_the_next_follows(self, server: Server, fake_server: FakeVolumeServer) -> None:
        first = add_volume(server, fake_server, garbage_mib=60)
        second = add_volume(server, fake_server, garbage_mib=40)
        assert compact_garbage().started == 1
        later = timezone.now() + timedelta(minutes=1)
        Server.objects.update(last_seen_at=later)
        assert compact_garbage(now=later) == Compactions(due=2, started=0, refused=0, running=1)
        for _ in range(2):  # a compaction of the fake server takes two steps
            told = [parse_figures(body) for body in fake_server.usage()["volumes"]]
        record_figures(server=server, volumes=told, now=later)
        assert compact_garbage(now=later) == Compactions(due=1, started=1, refused=0, running=1)
        assert asked(fake_server) == [first.pk, second.pk]

    def test_one_that_an_operator_began_counts_too(self, server: Server, fake_server: FakeVolumeServer) -> None:
        add_volume(server, fake_server, garbage_mib=60)
        add_volume(server, fake_server, garbage_mib=0, replica={"compaction": job(reclaimed_bytes=0)})
        assert compact_garbage() == Compactions(due=1, started=0, refused=0, running=1)
        assert asked(fake_server) == []

    def test_of_two_workers_one_begins(
        self, server: Server, fake_server: FakeVolumeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both have seen that nothing runs; the second comes when the first has claimed the server."""
        add_volume(server, fake_server, garbage_mib=60)
        add_volume(server, fake_server, garbage_mib=50)
        worth = housekeeping._worth_compacting

        def other_first(now: datetime) -> Any:
            found = list(worth(now))
            monkeypatch.setattr(housekeeping, "_worth_compacting", worth)
            assert compact_garbage().started == 1
            return iter(found)

        monkeypatch.setattr(housekeeping, "_worth_compacting", other_first)
        assert compact_garbage().started == 0
        # The same, so late that the other's claim has lapsed: its figures show what it began.
        monkeypatch.setattr(housekeeping, "ASKED_AGAIN_AFTER", timedelta(0))
        Replica.objects.update(compaction=None)
        monkeypatch.setattr(housekeeping, "_worth_compacting", other_first)
        assert compact_garbage(now=timezone.now() + timedelta(seconds=5)).started == 0
        assert len(asked(fake_server)) == 2

    def test_a_worker_that_was_killed_with_its_claim_holds_nobody_up(
        self, server: Server, fake_server: FakeVolumeServer
    ) -> None:
        add_volume(server, fake_server, garbage_mib=60)
        now = timezone.now()
        Server.objects.update(compaction_asked_at=now - timedelta(seconds=20))
        assert compact_garbage(now=now).started == 0
        Server.objects.update(compaction_asked_at=now - timedelta(seconds=31))
        assert compact_garbage(now=now).started == 1

    @pytest.mark.parametrize(
        ("what", "change"),
        [
            ("server", {"admin_state": "draining"}),
            ("server", {"admin_state": "maintenance"}),
            ("server", {"last_seen_at": None}),
            ("server", {"free_bytes": 0}),
            ("server", {"capacity_bytes": 40 * MIB, "free_bytes": 39 * MIB}),  # 40 MiB live on in the new file
            ("volume", {"state": "sealed"}),
            ("volume", {"state": "creating"}),
            ("replica", {"state": "missing"}),
            ("replica", {"role": "secondary"}),
            ("replica", {"garbage_bytes": MIB - 1, "size_bytes": MIB}),
            ("settings", {"WAREHOUSE_COMPACT_GARBAGE": 0}),
            ("settings", {"WAREHOUSE_COMPACT_GARBAGE": 61}),
        ],
    )
    def test_what_is_left_alone(
        self, server: Server, fake_server: FakeVolumeServer, settings: Settings, what: str, change: dict[str, Any]
    ) -> None:
        add_volume(server, fake_server, garbage_mib=60)
        if what == "settings":
            for name, value in change.items():
                setattr(settings, name, value)
        else:
            {"server": Server, "volume": Volume, "replica": Replica}[what].objects.update(**change)
        assert compact_garbage() == Compactions(due=0, started=0, refused=0, running=0)
        assert asked(fake_server) == []

    def test_full_volumes_are_compacted_as_well(self, server: Server, fake_server: FakeVolumeServer) -> None:
        add_volume(server, fake_server, garbage_mib=60, state="full")
        assert compact_garbage().started == 1

    def test_a_volume_that_lost_a_copy_is_left_alone(self, server: Server, fake_server: FakeVolumeServer) -> None:
        add_volume(server, fake_server, garbage_mib=60, redundancy="degraded")
        assert compact_garbage().due == 0

    def test_a_refusal_is_not_asked_for_again_each_minute_and_holds_no_other_up(
        self, server: Server, fake_server: FakeVolumeServer
    ) -> None:
        worst = add_volume(server, fake_server, garbage_mib=60)
        other = add_volume(server, fake_server, garbage_mib=40)
        fake_server.refusals["/admin/compact"] = (507, {"code": "disk_full", "detail": "no room"})
        now = timezone.now()
        assert compact_garbage(now=now) == Compactions(due=2, started=0, refused=1, running=0)
        fake_server.refusals.clear()
        Server.objects.update(last_seen_at=now + timedelta(minutes=62))
        assert compact_garbage(now=now + timedelta(minutes=1)).due == 1
        Replica.objects.update(compaction=None)
        assert compact_garbage(now=now + timedelta(minutes=61)).started == 1
        assert asked(fake_server) == [worst.pk, other.pk, worst.pk]

    def test_so_it_is_with_one_that_failed(self, server: Server, fake_server: FakeVolumeServer) -> None:
        now = timezone.now()
        ended_ms = int(now.timestamp() * 1000)
        failed = job(state="failed", ended_ms=ended_ms, reclaimed_bytes=0)
        add_volume(server, fake_server, garbage_mib=60, replica={"compaction": failed})
        assert compact_garbage(now=now).due == 0
        Server.objects.update(last_seen_at=now + timedelta(hours=2))
        assert compact_garbage(now=now + timedelta(hours=2)).due == 1

    def test_a_new_volume_was_never_compacted(self, server: Server, fake_server: FakeVolumeServer) -> None:
        volume = make_volume(server, state="creating", replica={"state": "expected", "reported_at": None})
        told = [parse_figures(figures(volume.pk, revision=1))]
        record_figures(server=server, volumes=told, now=timezone.now())
        assert (volume.replicas.get().revision, volume.replicas.get().compacted_at) == (1, None)

    def test_what_a_compaction_has_to_keep_is_no_reason_for_another(
        self, server: Server, fake_server: FakeVolumeServer
    ) -> None:
        """Tombstones of young leases are garbage, and stay: a volume of little else is not compacted in circles."""
        volume = add_volume(server, fake_server, garbage_mib=60)
        now = timezone.now()
        left = figures(volume.pk, revision=1, size_bytes=50 * MIB, garbage_bytes=20 * MIB)
        record_figures(server=server, volumes=[parse_figures(left)], now=now)
        replica = volume.replicas.get()
        assert (replica.compacted_at, replica.kept_garbage_bytes) == (now, 20 * MIB)
        assert compact_garbage(now=now).due == 0
        grown = left | {"size_bytes": 60 * MIB, "garbage_bytes": 38 * MIB}
        record_figures(server=server, volumes=[parse_figures(grown)], now=now)
        assert compact_garbage(now=now).due == 1  # 18 of 60 MiB came since
        record_figures(server=server, volumes=[parse_figures(left)], now=now)
        later = now + tombstones_kept_for() + timedelta(seconds=1)
        Server.objects.update(last_seen_at=later)
        assert compact_garbage(now=later).due == 1  # now they may go

    @pytest.mark.parametrize(
        ("hours", "hour", "begins"),
        [
            (None, 12, True),
            ((22, 6), 22, True),
            ((22, 6), 5, True),
            ((22, 6), 6, False),
            ((22, 6), 21, False),
            ((1, 3), 1, True),
            ((1, 3), 3, False),
            ((22, 24), 23, True),
            ((22, 24), 0, False),
        ],
    )
    def test_quiet_hours(
        self,
        server: Server,
        fake_server: FakeVolumeServer,
        settings: Settings,
        hours: tuple[int, int] | None,
        hour: int,
        begins: bool,
    ) -> None:
        settings.WAREHOUSE_COMPACT_HOURS = hours
        now = datetime(2999, 1, 1, hour, 30, tzinfo=UTC)
        Server.objects.update(last_seen_at=now)
        add_volume(server, fake_server, garbage_mib=60)
        assert compact_garbage(now=now).started == begins

    def test_an_old_database_lets_nothing_go(self, server: Server, fake_server: FakeVolumeServer) -> None:
        add_volume(server, fake_server, garbage_mib=60)
        note_behind(seen_sequence=99)
        assert compact_garbage().started == 0
        assert asked(fake_server) == []


class TestScrubs:
    def at(self, *, days: float) -> datetime:
        return timezone.now() - timedelta(days=days)

    def test_the_oldest_of_those_that_are_late_is_asked_for(
        self, server: Server, fake_server: FakeVolumeServer
    ) -> None:
        add_volume(server, fake_server, garbage_mib=0, replica={"scrubbed_at": self.at(days=7.5)})
        add_volume(server, fake_server, garbage_mib=0, replica={"scrubbed_at": self.at(days=9)})
        oldest = add_volume(server, fake_server, garbage_mib=0, replica={"scrubbed_at": self.at(days=10)})
        assert watch_scrubs() == Scrubs(copies=3, overdue=2, asked=1)
        assert asked(fake_server, "scrub") == [oldest.pk]
        assert watch_scrubs() == Scrubs(copies=3, overdue=2, asked=0)  # it runs

    def test_a_volume_that_was_never_scrubbed_counts_from_its_beginning(
        self, server: Server, fake_server: FakeVolumeServer
    ) -> None:
        add_volume(server, fake_server, garbage_mib=0)
        old = int(self.at(days=9).timestamp() * 1000)
        made = add_volume(server, fake_server, garbage_mib=0, created_ms=old)
        assert watch_scrubs() == Scrubs(copies=2, overdue=1, asked=1)
        assert asked(fake_server, "scrub") == [made.pk]

    def test_every_copy_is_watched(self, server: Server, fake_server: FakeVolumeServer) -> None:
        """The primary one lies on a server that is away; the other one is scrubbed where it lies."""
        away = make_server(last_seen_at=None)
        volume = make_volume(away, replica={"scrubbed_at": self.at(days=9)})
        Replica.objects.create(
            volume=volume,
            server=server,
            role="secondary",
            state="open",
            reported_at=timezone.now(),
            scrubbed_at=self.at(days=9),
        )
        fake_server.volumes[volume.pk] = figures(volume.pk)
        assert watch_scrubs() == Scrubs(copies=2, overdue=2, asked=1)
        assert asked(fake_server, "scrub") == [volume.pk]
        assert Replica.objects.get(server=server).scrub["state"] == "running"

    def test_a_server_in_maintenance_is_not_asked_and_is_told_nevertheless(
        self, server: Server, fake_server: FakeVolumeServer
    ) -> None:
        add_volume(server, fake_server, garbage_mib=0, replica={"scrubbed_at": self.at(days=9)})
        Server.objects.update(admin_state="maintenance")
        assert watch_scrubs() == Scrubs(copies=1, overdue=1, asked=0)

    def test_a_refusal_is_not_the_end(self, server: Server, fake_server: FakeVolumeServer) -> None:
        add_volume(server, fake_server, garbage_mib=0, replica={"scrubbed_at": self.at(days=9)})
        fake_server.refusals["/admin/scrub"] = (409, {"code": "volume_busy", "detail": "stopping"})
        assert watch_scrubs() == Scrubs(copies=1, overdue=1, asked=0)
        fake_server.refusals.clear()
        assert watch_scrubs().asked == 1

    def test_the_setting(self, server: Server, fake_server: FakeVolumeServer, settings: Settings) -> None:
        add_volume(server, fake_server, garbage_mib=0, replica={"scrubbed_at": self.at(days=9)})
        settings.WAREHOUSE_SCRUB_DAYS = 9
        assert watch_scrubs().overdue == 0
        settings.WAREHOUSE_SCRUB_DAYS = 0
        assert watch_scrubs() == Scrubs(copies=1, overdue=0, asked=0)


def test_space_is_what_the_new_file_takes(server: Server, fake_server: FakeVolumeServer) -> None:
    """Beside the old one, without the reserve; what it takes are the live needles alone."""
    add_volume(server, fake_server, garbage_mib=60)
    Server.objects.update(capacity_bytes=100 * GIB, free_bytes=GIB + 40 * MIB - 1)
    assert compact_garbage().due == 0
    Server.objects.update(free_bytes=GIB + 40 * MIB)
    assert compact_garbage().due == 1
