"""Background tasks as clients and operators see them."""

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from rest_framework.test import APIClient

from keys.models import ApiKey
from keys.permissions import Permission
from volumes.background import known_names
from volumes.errors import TaskNotQueued
from volumes.models import BackgroundTask
from volumes.services.background import begin_run, end_run

pytestmark = pytest.mark.django_db

NAME = "volumes.tasks.check_servers"


@pytest.fixture
def ran() -> None:
    now = timezone.now()
    begin_run(name=NAME, run_id="1", limit_s=90, is_scheduled=True, now=now)
    end_run(name=NAME, run_id="1", result={"answered": 2, "failed": 0}, now=now + timedelta(seconds=1.5))


def client_of(permissions: int) -> APIClient:
    client = APIClient()
    client.force_authenticate(ApiKey.objects.create(name="k", secret_hash="0" * 64, permissions=permissions))
    return client


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr("celery.current_app.send_task", lambda name, *_, **__: names.append(name))
    return names


def test_the_list_and_one_of_it(ran: None) -> None:
    reader = client_of(Permission.VOLUMES_READ)
    found = {task["name"]: task for task in reader.get("/api/v1/tasks").json()["results"]}
    assert found.keys() == known_names()
    task = reader.get(f"/api/v1/tasks/{NAME}").json()
    assert task == found[NAME]
    assert (task["status"], task["duration_ms"], task["result"]) == ("done", 1500, {"answered": 2, "failed": 0})
    assert (task["runs"], task["failures"], task["losses"], task["schedule"]) == (1, 0, 0, "every 5 s")
    assert task["started_at"] < task["ended_at"] < task["next_run_at"]


@pytest.mark.parametrize("path", ["x", "celery.ping", "volumes.tasks", "a" * 101, "a/b", "%00"])
def test_what_is_no_task(path: str, sent: list[str]) -> None:
    client = client_of(Permission.ADMIN)
    assert client.get(f"/api/v1/tasks/{path}").status_code == 404
    assert client.post(f"/api/v1/tasks/{path}/run").status_code == 404
    assert sent == []


def test_a_task_is_run_by_those_with_admin(ran: None, sent: list[str]) -> None:
    url = f"/api/v1/tasks/{NAME}/run"
    refused = client_of(int(Permission.ADMIN) - 1).post(url)
    assert (refused.status_code, refused.json()["code"], sent) == (403, "permission_denied", [])
    answer = client_of(Permission.ADMIN).post(url)
    assert (answer.status_code, answer.json()["name"], sent) == (202, NAME, [NAME])
    assert client_of(Permission.ADMIN).post("/api/v1/tasks/x/run").json()["code"] == "task_unknown"


def test_a_broker_that_is_away_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr("celery.current_app.send_task", fail)
    answer = client_of(Permission.ADMIN).post(f"/api/v1/tasks/{NAME}/run")
    assert (answer.status_code, answer.json()["code"]) == (503, TaskNotQueued.code)


def test_the_command_lists_them(ran: None) -> None:
    def listed(*arguments: str) -> str:
        out = StringIO()
        call_command("tasks", *arguments, stdout=out)
        return out.getvalue()

    [line] = [line for line in listed().splitlines() if line.startswith(NAME)]
    assert "done" in line
    assert line.endswith("answered 2, failed 0")
    assert listed().endswith("worker: none, beat: alive\n")
    told: list[dict[str, Any]] = [json.loads(line) for line in listed("--json").splitlines()]
    assert {task["name"] for task in told} == known_names()


def test_the_admin_site_shows_them_and_runs_them(client: Client, ran: None, sent: list[str]) -> None:
    key = ApiKey.objects.create(name="operator", secret_hash="0" * 64, permissions=Permission.ADMIN)
    client.force_login(key, backend="keys.backends.KeyBackend")
    begin_run(name="buckets.tasks.collect_outbox", run_id="1", limit_s=1, is_scheduled=True, now=timezone.now())
    BackgroundTask.objects.filter(pk="buckets.tasks.collect_outbox").update(
        deadline_at=timezone.now() - timedelta(seconds=1)
    )
    url = reverse("admin:volumes_backgroundtask_changelist")
    page = client.get(url).content.decode()
    assert "answered 2, failed 0" in page
    assert "lost" in page
    page = client.post(url, {"action": "run", "_selected_action": [NAME]}, follow=True).content.decode()
    assert "check_servers: a worker is asked to run it." in page
    assert sent == [NAME]
