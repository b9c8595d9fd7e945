"""What `manage.py up` decides before it starts anything; the rest is seen on real processes."""

import json
import logging
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_django import Settings

from keys.models import ApiKey
from keys.selectors import key_works
from keys.services.keys import delete_key
from volume_server.process import STOP_SERVING
from warehouse_site import up
from warehouse_site.supervisor import Part, Signals
from warehouse_site.up_lock import AlreadyUp, UpLock
from warehouse_site.up_options import export_options


@pytest.fixture
def data(tmp_path: Path, settings: Settings) -> Path:
    settings.WAREHOUSE_DATA = tmp_path
    return tmp_path


def plan(port: int = 20_000, servers: int = 2, volume_port: int = 20_001) -> up.Plan:
    return up.Plan(
        Path("/nowhere"), port, tuple(range(volume_port, volume_port + servers)), worker=False, json_logs=False
    )


def test_a_plan(settings: Settings) -> None:
    settings.WAREHOUSE_PORT = 9000
    made = up.plan(volume_servers=3, volume_port=9001, worker=True, json_logs=False)
    assert made.volume_ports == (9001, 9002, 9003)
    assert made.master_url == "http://127.0.0.1:9000"
    with pytest.raises(up.CannotStart, match="asked for twice"):
        up.plan(volume_servers=3, volume_port=8998, worker=True, json_logs=False)
    with pytest.raises(up.CannotStart, match="65535"):
        up.plan(volume_servers=3, volume_port=65534, worker=True, json_logs=False)


@pytest.mark.parametrize("option", ["--port", "--volume-port"])
def test_a_taken_port_is_named_with_its_option(option: str) -> None:
    with socket.socket() as taken, socket.socket() as free:
        for one in (taken, free):
            one.bind(("127.0.0.1", 0))
        taken.listen()
        port, other = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        wanted = plan(port, 0) if option == "--port" else plan(other, 1, port)
        with pytest.raises(up.CannotStart, match=f"Port {port} .*{option}"):
            up.require_free_ports(wanted)
    up.require_free_ports(wanted)


@pytest.mark.django_db
def test_the_first_admin_key_is_made_once_and_kept(data: Path) -> None:
    up.prepare()
    text = up.admin_key()
    assert text is not None
    assert key_works(key_text=text)
    assert stat.S_IMODE((data / "secrets" / "admin.key").stat().st_mode) == 0o600
    up.prepare()
    assert up.admin_key() == text
    assert ApiKey.objects.count() == 1


@pytest.mark.django_db
def test_a_new_admin_key_only_when_no_live_one_exists(data: Path) -> None:
    up.prepare()
    first = up.admin_key()
    delete_key(actor=None, key_id=ApiKey.objects.get().pk)
    assert up.admin_key() is None  # shown only as long as it works
    up.prepare()
    second = up.admin_key()
    assert second is not None
    assert second != first


def watched(folder: Path, code: str, *, restart: bool = True, deaths: int = 1) -> Part:
    """A store of one part, watched until it has died so often. Returns the part."""
    wanted = up.Plan(folder, 0, (), worker=False, json_logs=False, restart=restart)
    part = Part("part", [sys.executable, "-c", code], dict(os.environ), folder / "part.log", {3: "it is refused"})
    waits_after_a_death = 0
    with UpLock.held(folder) as lock, Signals().caught() as signals, pytest.MonkeyPatch.context() as patch:
        running = up.Running(wanted, signals, lock)

        def wait(timeout_s: float | None) -> None:
            """In place of time: a life and a pause are over at once; enough deaths are a Ctrl-C."""
            nonlocal waits_after_a_death
            assert part.process is not None
            part.process.wait()
            if part.reported:
                part.due_at = None if part.due_at is None else 0.0
                waits_after_a_death += 1
                signals.asked_to_stop = int(waits_after_a_death == deaths)

        patch.setattr(signals, "wait", wait)
        running.supervisor.start(part)
        running.watch()
    return part


def test_a_part_that_dies_is_started_again_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "warehouse.up")
    part = watched(tmp_path, "print('what is wrong'); raise SystemExit(1)", deaths=3)
    last = (
        f"part exited with 1; its log is {part.log}. It died 3 times in a row, and is tried again in 4 s. "
        "Its last lines:\n    what is wrong\n    what is wrong\n    what is wrong"
    )
    assert [record.getMessage() for record in caplog.records if record.name == "warehouse.up"] == [
        f"part exited with 1; its log is {part.log}. It is started again in 1 s.",
        "part is started again.",
        f"part exited with 1; its log is {part.log}. It is started again in 2 s.",
        "part is started again.",
        last,
    ]


def test_a_refusal_for_good_is_final_and_explained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert up.REFUSED_FOR_GOOD == STOP_SERVING
    part = watched(tmp_path, "print('refused: secret'); raise SystemExit(3)")
    said = f"part exited with 3; its log is {part.log}. It is not started again: it is refused. Its last lines:"
    assert caplog.messages == [f"{said}\n    refused: secret"]
    assert part.due_at is None


def test_without_restarts_a_dead_part_stays_dead(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    part = watched(tmp_path, "pass", restart=False)
    assert caplog.messages == [
        f"part exited with 0; its log is {part.log}. It is not started again: as --no-restart says."
    ]
    assert part.due_at is None


def test_the_broker_is_emptied(settings: Settings, tmp_path: Path) -> None:
    settings.BROKER_FOLDER = tmp_path / "broker"
    (tmp_path / "broker" / "queue").mkdir(parents=True)
    (tmp_path / "broker" / "queue" / "torn.msg").write_bytes(b"{")
    up.empty_broker()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "broker",
        "broker/control",
        "broker/queue",
    ]


def test_one_up_for_each_folder(tmp_path: Path) -> None:
    with UpLock.held(tmp_path), pytest.raises(AlreadyUp, match=f"{tmp_path}: stop it"), UpLock.held(tmp_path):
        pass
    with UpLock.held(tmp_path):
        pass


def test_leftovers_of_a_killed_up_are_waited_for(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with UpLock.held(tmp_path) as lock:
        lock.remember([child.pid, os.getpid() + 10_000_000])
    assert json.loads((tmp_path / "up.lock").read_text())[0][0] == child.pid
    assert child.stdin is not None
    child.stdin.close()  # it ends now, and may not have ended yet
    with UpLock.held(tmp_path):
        assert child.poll() is not None
    assert json.loads((tmp_path / "up.lock").read_text()) == []


def test_somebody_else_with_an_old_number_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "up.lock").write_text(json.dumps([[os.getpid(), "1"]]))
    with UpLock.held(tmp_path):
        pass


def test_a_torn_lock_file_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "up.lock").write_text('[[12, "3')
    with UpLock.held(tmp_path):
        pass


def test_options_become_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("WAREHOUSE_DATA", "WAREHOUSE_PORT", "WAREHOUSE_LOG"):
        monkeypatch.setenv(name, "before")
    export_options(["manage.py", "migrate", "--port", "1"])
    assert os.environ["WAREHOUSE_PORT"] == "before"
    export_options(["manage.py", "up", "--data", "here", "--port=9001", "--json", "--volume-servers", "x"])
    assert os.environ["WAREHOUSE_PORT"] == "before"  # a line that is wrong is left to the command
    export_options(["manage.py", "up", "--data", "here", "--port=9001", "--json", "-v", "2"])
    assert os.environ["WAREHOUSE_DATA"] == str(tmp_path / "here")
    assert os.environ["WAREHOUSE_PORT"] == "9001"
    assert os.environ["WAREHOUSE_LOG"] == "json"
