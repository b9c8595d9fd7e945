"""What background tasks leave behind, and how it is read."""

from datetime import timedelta
from typing import Any

import pytest
from celery.schedules import crontab
from django.conf import settings as django_settings
from django.db import DatabaseError, IntegrityError, transaction
from django.utils import timezone
from kombu.exceptions import OperationalError
from pytest_django import Settings

from keys.models import AuditEntry
from volumes import tasks
from volumes.background import BackgroundHealth, background_health, find_task, known_names, list_tasks, next_run_at
from volumes.errors import ServerUnreachable, TaskNotQueued, TaskUnknown
from volumes.models import BackgroundTask, Worker
from volumes.services import background, checks
from volumes.services.background import begin_run, end_run, expect_tasks, forget_worker, pulse_worker, run_now
from warehouse_site.celery import Runs

pytestmark = pytest.mark.django_db

NAME = "volumes.tasks.check_servers"
NOW = timezone.now()


def begin(run_id: str = "1", *, at: float = 0, limit_s: float = 90, is_scheduled: bool = True) -> None:
    moment = NOW + timedelta(seconds=at)
    begin_run(name=NAME, run_id=run_id, limit_s=limit_s, is_scheduled=is_scheduled, now=moment)


def end(run_id: str = "1", *, at: float = 2, **how: Any) -> None:
    end_run(name=NAME, run_id=run_id, now=NOW + timedelta(seconds=at), **how)


def row() -> BackgroundTask:
    return BackgroundTask.objects.get(pk=NAME)


class TestRuns:
    def test_a_run_and_its_figures(self) -> None:
        begin()
        assert (row().status_at(NOW), row().runs, row().scheduled_at) == ("running", 1, NOW)
        end(result={"answered": 2})
        task = row()
        assert (task.status, task.duration_ms, task.result, task.error) == ("done", 2000, {"answered": 2}, "")
        assert (task.started_at, task.ended_at) == (NOW, NOW + timedelta(seconds=2))
        assert (task.runs, task.failures, task.losses) == (1, 0, 0)

    def test_a_failure_keeps_the_figures_of_before(self) -> None:
        begin()
        end(result={"answered": 2})
        begin("2", at=5)
        end("2", at=6, error=ServerUnreachable("no answer"))
        task = row()
        assert (task.status, task.error, task.failures) == ("failed", "ServerUnreachable: no answer", 1)
        assert task.result == {"answered": 2}
        begin("3", at=10)
        assert row().error == "ServerUnreachable: no answer"  # the run that ended last failed
        end("3", at=11)
        assert (row().status, row().error, row().failures) == ("done", "", 1)

    def test_a_run_whose_worker_was_killed_is_lost_after_its_time(self) -> None:
        begin(limit_s=90)
        assert row().status_at(NOW + timedelta(seconds=89)) == "running"
        assert row().status_at(NOW + timedelta(seconds=91)) == "lost"
        begin("2", at=100)
        end("2", at=101)
        assert (row().status, row().runs, row().losses) == ("done", 2, 1)

    def test_a_run_that_follows_within_the_time_of_the_other_says_nothing_of_it(self) -> None:
        begin()
        begin("2", at=5)
        end("2", at=6)
        assert (row().runs, row().losses) == (2, 0)

    def test_a_late_end_changes_no_newer_run(self) -> None:
        begin("old")
        begin("new", at=5)
        end("old", at=6, error=ValueError("late"))
        task = row()
        assert (task.run_id, task.state, task.error, task.failures) == ("new", "running", "", 1)
        end("new", at=7, result={})
        assert row().status == "done"

    def test_one_that_hung_and_ends_after_all_is_done(self) -> None:
        begin(limit_s=1)
        end(at=100)
        assert (row().status, row().losses) == ("done", 0)

    def test_what_is_told_twice_counts_once(self) -> None:
        begin()
        begin()
        assert row().runs == 1
        end(error=ValueError("x"))
        end(result={"a": 1})
        assert (row().state, row().failures) == ("failed", 1)

    def test_a_run_by_hand_is_none_of_the_schedule(self) -> None:
        begin()
        end()
        begin("2", at=3, is_scheduled=False)
        assert row().scheduled_at == NOW

    def test_an_end_without_a_beginning(self) -> None:
        end(result={})
        end(error=ValueError("x"))
        assert not BackgroundTask.objects.exists()

    @pytest.mark.parametrize(
        "result", [object(), {1: {2}}, {"x": "y" * 5000}, {"x": float("nan")}, {"nul": "a\0b"}, None, 7, ["a"]]
    )
    def test_whatever_a_task_returns_it_ends(self, result: object) -> None:
        begin()
        end(result=result)
        assert row().status == "done"

    def test_errors_tell_no_secret_and_have_a_length(self) -> None:
        begin()
        end(error=ValueError("GET /3/00?sig=" + "ab" * 32 + " \0 " + "x" * 5000))
        assert "sig=***" in row().error
        assert "abab" not in row().error
        assert len(row().error) <= 1000

    @pytest.mark.parametrize(
        "wrong",
        [
            {"state": "odd"},
            {"state": "running"},
            {"state": "done", "started_at": NOW, "deadline_at": NOW},
            {"failures": 1},
            {"runs": 1, "failures": 1, "losses": 1},
            {"duration_ms": -1},
        ],
    )
    def test_rows_hold_their_invariants(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(IntegrityError), transaction.atomic():
            BackgroundTask.objects.create(name="x", **wrong)


class TestSignals:
    """The tasks do nothing for it: here they are run as the worker runs them."""

    def test_every_run_is_kept(self) -> None:
        tasks.check_servers.apply()
        task = row()
        assert (task.status, task.runs, task.result) == ("done", 1, {"answered": 0, "failed": 0})
        assert task.deadline_at is not None
        assert task.started_at is not None
        assert task.deadline_at - task.started_at == timedelta(seconds=tasks.check_servers.time_limit)

    def test_a_task_that_raises(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail() -> None:
            raise ServerUnreachable("gone")

        monkeypatch.setattr(checks, "check_servers", fail)
        tasks.check_servers.apply()
        assert (row().status, row().error) == ("failed", "ServerUnreachable: gone")

    def test_one_run_at_a_time_goes_on_in_a_worker(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[Any] = []

        def ask() -> checks.CheckResult:
            calls.append(None)
            if len(calls) == 1:
                second = tasks.check_servers.apply()  # as if in another thread
                assert (second.state, second.result) == ("SUCCESS", None)
                assert (row().status, row().runs) == ("running", 1)
            return checks.CheckResult(answered=1, failed=0)

        monkeypatch.setattr(checks, "check_servers", ask)
        tasks.check_servers.apply()
        assert (len(calls), row().status, row().runs) == (1, "done", 1)
        tasks.check_servers.apply()
        assert (len(calls), row().runs) == (2, 2)

    def test_one_that_hangs_is_not_waited_for_beyond_its_time(self) -> None:
        runs = Runs()
        assert runs.begin("t", "1", 0.0)
        assert runs.begin("t", "2", 90.0)
        assert not runs.begin("t", "3", 90.0)
        assert not runs.end("t", "1")  # it ends after all, and ends nothing of the other's
        assert runs.is_of("t", "2")
        assert runs.end("t", "2")
        assert runs.begin("t", "3", 90.0)

    def test_a_database_that_is_away_keeps_no_task_from_its_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(**_: object) -> None:
            raise DatabaseError("gone")

        for name in ("begin_run", "end_run"):
            monkeypatch.setattr(background, name, fail)
        assert tasks.check_servers.apply().result == {"answered": 0, "failed": 0}

    def test_every_task_of_the_schedule_is_there_and_returns_figures(self) -> None:
        from celery import current_app

        scheduled = {entry["task"] for entry in django_settings.CELERY_BEAT_SCHEDULE.values()}
        assert scheduled <= known_names()
        for name in scheduled:
            outcome = current_app.tasks[name].apply()
            assert outcome.state == "SUCCESS", outcome.traceback
            assert BackgroundTask.objects.get(pk=name).result == outcome.result
            assert isinstance(outcome.result, dict)
            again = current_app.tasks[name].apply()  # at once, and it does no harm
            assert again.state == "SUCCESS", again.traceback

    def test_every_task_has_a_time_limit_of_its_own(self) -> None:
        from celery import current_app

        for name in known_names():
            assert current_app.tasks[name].time_limit, name


class TestRunNow:
    def test_it_is_sent_with_what_the_schedule_gives_it(
        self, monkeypatch: pytest.MonkeyPatch, settings: Settings
    ) -> None:
        settings.CELERY_BEAT_SCHEDULE = {"x": {"task": NAME, "schedule": 5.0, "kwargs": {"deep": True}}}
        sent: list[tuple[Any, ...]] = []
        monkeypatch.setattr("celery.current_app.send_task", lambda *given, **_: sent.append(given))
        run_now(name=NAME)
        assert sent == [(NAME, None, {"deep": True})]
        entry = AuditEntry.objects.get()
        assert (entry.action, entry.target, entry.outcome) == ("task.run", NAME, "done")
        assert row().status == "waiting"

    @pytest.mark.parametrize("name", ["", "x", "celery.backend_cleanup", "os.system", "volumes.tasks"])
    def test_what_is_no_task_of_ours(self, name: str) -> None:
        with pytest.raises(TaskUnknown):
            run_now(name=name)
        assert not BackgroundTask.objects.exists()

    def test_a_broker_that_is_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OperationalError("redis://user:password@host/0 refused")

        monkeypatch.setattr("celery.current_app.send_task", fail)
        with pytest.raises(TaskNotQueued) as raised:
            run_now(name=NAME)
        assert "password" not in raised.value.detail
        assert AuditEntry.objects.get().outcome == "failed"


class TestReading:
    def test_tasks_that_never_ran_are_seen(self) -> None:
        found = {task.name: task for task in list_tasks()}
        assert found.keys() == known_names()
        assert {task.status for task in found.values()} == {"waiting"}
        assert found[NAME].schedule == "every 5 s"
        assert find_task(NAME) == found[NAME]
        assert find_task("celery.ping") is None

    def test_rows_of_tasks_that_are_no_more_are_seen(self) -> None:
        expect_tasks(names=["old.task"])
        assert "old.task" in [task.name for task in list_tasks()]
        assert find_task("old.task") is not None

    def test_the_next_run_follows_the_schedules_last(self, settings: Settings) -> None:
        begin()
        begin("by hand", at=3, is_scheduled=False)
        assert next_run_at(row()) == NOW + timedelta(seconds=5)
        settings.CELERY_BEAT_SCHEDULE = {"x": {"task": NAME, "schedule": timedelta(hours=1)}}
        assert next_run_at(row()) == NOW + timedelta(hours=1)
        settings.CELERY_BEAT_SCHEDULE = {"x": {"task": NAME, "schedule": crontab(minute="0", hour="3")}}
        at = next_run_at(row())
        assert at is not None
        assert timezone.now() < at <= timezone.now() + timedelta(days=1)
        settings.CELERY_BEAT_SCHEDULE = {}
        assert next_run_at(row()) is None

    def test_listing_costs_one_query(self, django_assert_num_queries: Any) -> None:
        begin()
        known_names()
        with django_assert_num_queries(1):
            list_tasks()

    def test_health_of_a_store_without_a_worker(self) -> None:
        expect_tasks(names=[NAME])
        assert background_health() == BackgroundHealth(worker="none", beat="none", failed=(), scrubs_overdue=None)

    def test_health(self, django_assert_num_queries: Any) -> None:
        pulse_worker(name="w/1", started_at=NOW, now=NOW)
        assert (background_health(now=NOW).worker, background_health(now=NOW).beat) == ("alive", "none")
        begin()
        end(error=ValueError("x"))
        with django_assert_num_queries(2):
            health = background_health(now=NOW + timedelta(seconds=50))
        assert (health.worker, health.beat, health.failed) == ("alive", "alive", (NAME,))
        health = background_health(now=NOW + timedelta(minutes=2))
        assert (health.worker, health.beat) == ("silent", "silent")
        begin("2", at=100, is_scheduled=False)
        health = background_health(now=NOW + timedelta(seconds=110))
        assert (health.worker, health.beat, health.failed) == ("alive", "silent", ())  # somebody ran it, but not beat
        assert background_health(now=NOW + timedelta(seconds=300)).failed == (NAME,)  # lost
        forget_worker(name="w/1")
        assert background_health(now=NOW + timedelta(seconds=110)).worker == "none"

    def test_workers_that_were_killed_long_ago_are_forgotten(self) -> None:
        pulse_worker(name="w/1", started_at=NOW, now=NOW - timedelta(days=2))
        pulse_worker(name="w/2", started_at=NOW, now=NOW)
        pulse_worker(name="w/2", started_at=NOW, now=NOW + timedelta(seconds=20))
        assert [worker.name for worker in Worker.objects.all()] == ["w/2"]
