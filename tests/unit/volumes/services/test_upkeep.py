import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from keys.errors import WarehouseError
from tests.unit.volumes.factories import figures, job, make_server, make_volume
from tests.unit.volumes.fake_server import FakeVolumeServer
from volumes.errors import (
    CompactionNeedsSpace,
    LeasesHalted,
    ServerAnswerInvalid,
    ServerOffline,
    ServerRefused,
    ServerUnreachable,
    VolumeBusy,
    VolumeDegraded,
    VolumeNotFound,
    VolumeSealed,
)
from volumes.models import Replica, Server, Volume
from volumes.reports import parse_figures
from volumes.selectors import redundancy_counts
from volumes.services.figures import record_figures, record_volume
from volumes.services.redundancy import mend_volumes
from volumes.services.store import note_behind
from volumes.services.upkeep import (
    ask_figures,
    list_damage,
    scrub_copies,
    start_compaction,
    start_scrub,
    tombstones_kept_for,
)

pytestmark = pytest.mark.django_db

STARTS = [start_compaction, start_scrub]


@pytest.fixture
def server(fake_server: FakeVolumeServer) -> Server:
    return make_server(id=fake_server.id, instance=fake_server.instance, internal_url=fake_server.url)


@pytest.fixture
def volume(server: Server, fake_server: FakeVolumeServer) -> Volume:
    volume = make_volume(server)
    fake_server.volumes[volume.pk] = figures(volume.pk, size_bytes=10_000, garbage_bytes=4_000)
    return volume


class TestStart:
    def test_a_compaction_is_recorded_at_once(self, volume: Volume) -> None:
        told = start_compaction(volume_id=volume.pk)
        replica = volume.replicas.get()
        assert told.compaction is not None
        assert told.compaction.as_json() == replica.compaction
        assert (replica.compaction["state"], replica.compaction["total_bytes"]) == ("running", 10_000)
        assert (replica.size_bytes, replica.garbage_bytes, replica.garbage_ratio) == (10_000, 4_000, 0.4)

    def test_a_second_call_changes_nothing(self, volume: Volume) -> None:
        assert start_compaction(volume_id=volume.pk) == start_compaction(volume_id=volume.pk)

    def test_a_scrub_is_recorded_at_once(self, volume: Volume) -> None:
        told = start_scrub(volume_id=volume.pk)
        assert told.scrub is not None
        assert told.scrub.as_json() == volume.replicas.get().scrub == {
            "state": "running", "done_bytes": 0, "total_bytes": 10_000, "detail": "",
            "started_ms": told.scrub.started_ms, "ended_ms": None,
        }  # fmt: skip

    def test_all_copies_are_scrubbed_that_can_be(self, volume: Volume, fake_server: FakeVolumeServer) -> None:
        away = make_server(last_seen_at=None)
        Replica.objects.filter(volume=volume).update(role="secondary")
        Replica.objects.create(volume=volume, server=away, state="open", reported_at=timezone.now())
        with pytest.raises(ServerOffline):
            scrub_copies(volume_id=volume.pk)
        assert [body for _, body in fake_server.asked] == [{"volume": volume.pk}]

    def test_the_rate_is_passed_on(self, volume: Volume, fake_server: FakeVolumeServer) -> None:
        start_compaction(volume_id=volume.pk, rate_bytes=5_000)
        assert fake_server.asked[0][1]["rate_bytes"] == 5_000

    def test_a_volume_of_several_copies_is_closed_before(self, volume: Volume, fake_server: FakeVolumeServer) -> None:
        with FakeVolumeServer() as other:
            other.volumes[volume.pk] = figures(volume.pk)
            Replica.objects.create(
                volume=volume,
                server=make_server(id=other.id, internal_url=other.url),
                role="secondary",
                state="open",
                reported_at=timezone.now(),
            )
            start_compaction(volume_id=volume.pk)
            volume.refresh_from_db()
            assert (volume.redundancy, volume.epoch, volume.opened_epoch) == ("closed", 2, 1)
            assert [path for path, _ in fake_server.asked] == ["/admin/close", "/admin/compact"]
            assert other.asked == [("/admin/close", {"volume": volume.pk, "epoch": 2})]
            expected_ms = (timezone.now() - tombstones_kept_for()).timestamp() * 1000
            assert abs(fake_server.asked[1][1]["drop_before_ms"] - expected_ms) < 60_000
            start_compaction(volume_id=volume.pk)  # it runs: nothing is closed again
            assert len(other.asked) == 1

    def test_a_volume_that_lost_a_copy_is_not_compacted(self, volume: Volume, fake_server: FakeVolumeServer) -> None:
        Replica.objects.create(volume=volume, server=make_server(last_seen_at=None), role="secondary")
        with pytest.raises(VolumeDegraded):
            start_compaction(volume_id=volume.pk)
        assert fake_server.asked == []

    def test_a_volume_that_was_closed_for_nothing_is_opened_again(
        self, volume: Volume, fake_server: FakeVolumeServer
    ) -> None:
        Replica.objects.create(
            volume=volume, server=make_server(internal_url="http://127.0.0.1:9"), role="secondary", state="expected"
        )
        with pytest.raises(ServerUnreachable):
            start_compaction(volume_id=volume.pk)
        volume.refresh_from_db()
        assert volume.redundancy == "degraded"
        assert "/admin/compact" not in {path for path, _ in fake_server.asked}

    def test_tombstones_outlive_every_lease_that_settings_may_ever_have_given(self, settings: Settings) -> None:
        longest = timedelta(days=1)  # the most that either life may be set to
        for name in ("WAREHOUSE_LEASE_SECONDS", "WAREHOUSE_CHUNK_URL_SECONDS", "WAREHOUSE_GET_SECONDS"):
            setattr(settings, name, 1)
        settings.WAREHOUSE_CONFIRM_GRACE_SECONDS = 0
        assert tombstones_kept_for() > longest
        settings.WAREHOUSE_LEASE_SECONDS = 7_000
        settings.WAREHOUSE_CHUNK_URL_SECONDS = 8_000
        settings.WAREHOUSE_CONFIRM_GRACE_SECONDS = 600
        settings.WAREHOUSE_GET_SECONDS = 900
        assert tombstones_kept_for() == timedelta(seconds=8_000 + 600 + 900) + longest

    @pytest.mark.parametrize("start", STARTS)
    def test_no_such_volume(self, start: Any) -> None:
        with pytest.raises(VolumeNotFound):
            start(volume_id=1)

    @pytest.mark.parametrize("start", STARTS)
    def test_an_offline_server_is_not_asked(self, start: Any, volume: Volume, fake_server: FakeVolumeServer) -> None:
        Server.objects.update(last_seen_at=timezone.now() - timedelta(minutes=1))
        with pytest.raises(ServerOffline, match="Start that server"):
            start(volume_id=volume.pk)
        assert fake_server.requests == []

    @pytest.mark.parametrize("start", STARTS)
    def test_a_server_that_does_not_answer(self, start: Any) -> None:
        volume = make_volume(make_server(internal_url="http://127.0.0.1:1"))
        with pytest.raises(ServerUnreachable):
            start(volume_id=volume.pk)
        assert volume.replicas.get().compaction is None

    @pytest.mark.parametrize(
        ("code", "status", "error"),
        [
            ("disk_full", 507, CompactionNeedsSpace),
            ("volume_busy", 409, VolumeBusy),
            ("volume_sealed", 409, VolumeSealed),
            ("something_new", 409, ServerRefused),
        ],
    )
    def test_the_servers_reason_is_passed_on(
        self, volume: Volume, fake_server: FakeVolumeServer, code: str, status: int, error: type[WarehouseError]
    ) -> None:
        for path in ("/admin/compact", "/admin/scrub"):
            fake_server.refusals[path] = (status, {"code": code, "detail": "compaction needs 9 bytes, 3 are free"})
        for start in STARTS:
            with pytest.raises(error, match="needs 9 bytes, 3 are free"):
                start(volume_id=volume.pk)
        assert volume.replicas.get().compaction is None

    def test_an_old_database_lets_nothing_go(self, volume: Volume, fake_server: FakeVolumeServer) -> None:
        note_behind(seen_sequence=99)
        with pytest.raises(LeasesHalted):
            start_compaction(volume_id=volume.pk)
        assert fake_server.requests == []
        start_scrub(volume_id=volume.pk)  # looking does no harm


class TestAsk:
    def test_figures_by_volume(self, server: Server, volume: Volume) -> None:
        told = ask_figures(server=server)
        assert list(told) == [volume.pk]
        assert told[volume.pk].garbage_bytes == 4_000

    def test_somebody_else_at_the_address(self, server: Server, fake_server: FakeVolumeServer) -> None:
        fake_server.answer = (200, json.dumps(fake_server.usage() | {"server": str(make_server().pk)}).encode())
        with pytest.raises(ServerAnswerInvalid):
            ask_figures(server=server)

    def test_damage(self, volume: Volume, fake_server: FakeVolumeServer) -> None:
        fake_server.damage[volume.pk] = [{"needle": None, "offset": 8192, "bytes": 40, "reason": "bad tag"}]
        report = list_damage(volume_id=volume.pk)
        assert (report.count, report.records[0].reason) == (1, "bad tag")
        with pytest.raises(VolumeNotFound):
            list_damage(volume_id=volume.pk + 1)


class TestRecord:
    def record(self, server: Server, *bodies: dict[str, Any]) -> None:
        record_figures(server=server, volumes=[parse_figures(body) for body in bodies], now=timezone.now())

    def test_jobs_and_the_last_pass_are_kept(self, server: Server, volume: Volume) -> None:
        compaction = job(reclaimed_bytes=0)
        scrub = job(state="done", done_bytes=100, ended_ms=1_700_000_001_500)
        self.record(server, figures(volume.pk, compaction=compaction, scrub=scrub, scrubbed_ms=1_700_000_001_500))
        replica = volume.replicas.get()
        assert (replica.compaction, replica.scrub) == (compaction, scrub)
        assert replica.scrubbed_at == datetime(2023, 11, 14, 22, 13, 21, 500_000, tzinfo=UTC)
        self.record(server, figures(volume.pk))
        replica = volume.replicas.get()
        assert (replica.compaction, replica.scrub, replica.scrubbed_at) == (None, None, None)

    def test_the_largest_moment_fits(self, server: Server, volume: Volume) -> None:
        self.record(server, figures(volume.pk, scrubbed_ms=253_402_300_799_999))
        scrubbed_at = volume.replicas.get().scrubbed_at
        assert scrubbed_at is not None
        assert scrubbed_at.year == 9999

    def test_the_same_figures_write_no_row(
        self, server: Server, volume: Volume, django_assert_num_queries: Any
    ) -> None:
        body = figures(volume.pk, compaction=job(reclaimed_bytes=5), scrub=job(), scrubbed_ms=1_700_000_001_537)
        self.record(server, body)
        before = volume.replicas.get().reported_at
        with django_assert_num_queries(1):  # the one that reads the rows
            self.record(server, body)
        assert volume.replicas.get().reported_at == before
        body["scrub"]["done_bytes"] += 1
        self.record(server, body)
        assert volume.replicas.get().scrub["done_bytes"] == 26

    def test_of_a_volume_that_is_gone_no_job_is_shown(self, server: Server, volume: Volume) -> None:
        self.record(server, figures(volume.pk, scrub=job()))
        self.record(server)
        replica = volume.replicas.get()
        assert (replica.state, replica.scrub) == ("missing", None)

    def test_the_only_copy_that_is_missing_is_told_until_it_is_back(self, server: Server, volume: Volume) -> None:
        self.record(server, figures(volume.pk))
        self.record(server)
        mend_volumes()
        volume.refresh_from_db()
        assert "has no file of it any more" in volume.redundancy_note
        assert redundancy_counts().degraded == 1
        self.record(server, figures(volume.pk))
        mend_volumes()
        volume.refresh_from_db()
        assert (volume.redundancy_note, redundancy_counts().degraded) == ("", 0)

    def test_a_copy_that_nobody_needs_goes_without_an_alarm(
        self, server: Server, volume: Volume, caplog: pytest.LogCaptureFixture
    ) -> None:
        for whole_epoch, level in ((volume.opened_epoch, "ERROR"), (0, "INFO")):
            self.record(server, figures(volume.pk))
            volume.replicas.update(whole_epoch=whole_epoch)
            caplog.clear()
            with caplog.at_level(logging.INFO):
                self.record(server)
            assert [one.levelname for one in caplog.records if "no longer lists" in one.message] == [level]

    def test_why_a_copy_is_sealed_is_kept(self, server: Server, volume: Volume) -> None:
        self.record(server, figures(volume.pk, state="sealed", detail="its file was removed"))
        assert volume.replicas.get().detail == "its file was removed"
        self.record(server, figures(volume.pk))
        assert volume.replicas.get().detail == ""

    def test_data_of_an_earlier_time_are_told(
        self, server: Server, volume: Volume, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.record(server, figures(volume.pk, size_bytes=9000, live_count=5))
        self.record(server, figures(volume.pk, size_bytes=9100, live_count=4, tombstone_count=1))
        self.record(server, figures(volume.pk, size_bytes=9000, live_count=4, tombstone_count=1))
        self.record(server, figures(volume.pk, size_bytes=8900, live_count=4, revision=1))
        assert "put back" not in caplog.text
        self.record(server, figures(volume.pk, size_bytes=8800, live_count=3, revision=1))
        assert f"3 needles in volume {volume.pk}, there were 4: was its data put back" in caplog.text

    def test_damage_and_its_end_are_logged(
        self, server: Server, volume: Volume, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            for count in (2, 2, 3, 0):
                self.record(server, figures(volume.pk, damaged_count=count))
        assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR", "WARNING"]
        assert f"3 damaged records in volume {volume.pk}, 1 more than before" in caplog.text
        assert f"0 damaged records in volume {volume.pk}, there were 3" in caplog.text

    def test_the_end_of_a_job_is_logged_once(
        self, server: Server, volume: Volume, caplog: pytest.LogCaptureFixture
    ) -> None:
        failed = job(state="failed", detail="the disk is gone", reclaimed_bytes=0)
        with caplog.at_level(logging.INFO):
            for compaction in (job(reclaimed_bytes=0), failed, failed):
                self.record(server, figures(volume.pk, compaction=compaction))
        [record] = caplog.records
        assert (record.levelname, "failed the disk is gone" in record.getMessage()) == ("ERROR", True)

    def test_one_answer_says_nothing_of_other_volumes(self, server: Server, volume: Volume) -> None:
        other = make_volume(server)
        told = parse_figures(figures(volume.pk, live_count=7, state="sealed"))
        record_volume(server_id=server.pk, figures=told, now=timezone.now())
        volume.refresh_from_db()
        assert (volume.replicas.get().live_count, volume.state) == (7, "sealed")
        assert other.replicas.get().state == "open"

    def test_a_stray_volumes_figures_are_nobodys(self, server: Server) -> None:
        foreign = make_volume(make_server())
        told = parse_figures(figures(foreign.pk, live_count=7))
        record_volume(server_id=server.pk, figures=told, now=timezone.now())
        assert foreign.replicas.get().live_count == 0
