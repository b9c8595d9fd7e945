import logging

import pytest
from django.db import connections
from django.utils import timezone

from tests.unit.volumes.factories import figures, make_server, make_volume
from tests.unit.volumes.fake_server import FakeVolumeServer
from volumes import client
from volumes.models import Server
from volumes.reports import Usage
from volumes.services.checks import CheckResult, check_servers
from volumes.tasks import check_servers as check_servers_task

pytestmark = pytest.mark.django_db


@pytest.fixture
def server(fake_server: FakeVolumeServer) -> Server:
    return make_server(id=fake_server.id, instance=fake_server.instance, internal_url=fake_server.url)


def test_figures_are_recorded_and_twice_is_once(server: Server, fake_server: FakeVolumeServer) -> None:
    volume = make_volume(server)
    fake_server.volumes[volume.pk] = figures(volume.pk, size_bytes=9000, live_count=4)
    before = server.last_seen_at
    for _ in range(2):
        assert check_servers() == CheckResult(answered=1, failed=0)
    server.refresh_from_db()
    assert (server.used_bytes, server.free_bytes, server.check_error) == (9000, 1 << 39, "")
    assert server.last_checked_at is not None
    assert server.last_seen_at == before  # only heartbeats make a server online
    assert volume.replicas.get().live_count == 4


def test_an_answer_that_is_older_than_the_last_report_makes_nothing_missing(server: Server) -> None:
    volume = make_volume(server)
    check_servers()  # of before the volume was made there
    assert volume.replicas.get().state == "open"


def test_silence_is_kept_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    server = make_server(internal_url="http://127.0.0.1:1")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert check_servers() == CheckResult(answered=0, failed=1)
    server.refresh_from_db()
    assert "does not answer: no connection" in server.check_error
    assert server.last_checked_at is not None
    assert caplog.text.count("does not answer") == 1
    assert server.status == "online"


def test_a_server_that_answers_again_is_good(server: Server, fake_server: FakeVolumeServer) -> None:
    fake_server.answer = (500, b"")
    check_servers()
    server.refresh_from_db()
    assert "500" in server.check_error
    fake_server.answer = None
    check_servers()
    server.refresh_from_db()
    assert server.check_error == ""


def test_another_process_at_the_address_counts_for_nothing(server: Server, fake_server: FakeVolumeServer) -> None:
    fake_server.instance = "another"
    assert check_servers().failed == 1
    server.refresh_from_db()
    assert "Another process" in server.check_error
    assert server.free_bytes != 1 << 39


def test_stopped_servers_and_those_in_maintenance_are_left_alone() -> None:
    make_server(internal_url="http://127.0.0.1:1", stopped_at=timezone.now())
    make_server(internal_url="http://127.0.0.1:1", admin_state="maintenance")
    assert check_servers() == CheckResult(answered=0, failed=0)


@pytest.mark.django_db(transaction=True)
def test_a_process_that_started_since_knows_better(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = client.usage(server)

    def meanwhile(_: Server) -> Usage:
        Server.objects.update(instance="newer", free_bytes=7)
        connections.close_all()  # this runs in a thread of the check
        return usage

    monkeypatch.setattr("volumes.services.checks.client.usage", meanwhile)
    check_servers()
    server.refresh_from_db()
    assert server.free_bytes == 7


def test_the_task_calls_the_service(server: Server) -> None:
    check_servers_task()
    server.refresh_from_db()
    assert server.last_checked_at is not None
