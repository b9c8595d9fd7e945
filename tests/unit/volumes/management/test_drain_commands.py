"""`manage.py drain` and `manage.py maintenance`: what they say, and what they leave to the worker."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from keys.models import AuditEntry
from tests.unit.volumes.factories import make_server, make_volume
from volumes.management.commands import drain
from volumes.models import Replica, Server, Volume

pytestmark = pytest.mark.django_db

MIB = 1 << 20


class Meanwhile:
    """What happens between two looks of the command, in the place of its pauses."""

    def __init__(self) -> None:
        self.events: list[Callable[[], object]] = []

    def sleep(self, _: float) -> None:
        assert self.events, "it waits for nothing"
        self.events.pop(0)()


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    made = Meanwhile()
    monkeypatch.setattr(drain.time, "sleep", made.sleep)
    return made


def run(*args: Any, out: io.StringIO | None = None) -> str:
    out = out or io.StringIO()
    call_command(*map(str, args), stdout=out)
    return out.getvalue()


def failing(*args: Any, returncode: int = 1) -> tuple[str, str]:
    out = io.StringIO()
    with pytest.raises(CommandError) as caught:
        run(*args, out=out)
    assert caught.value.returncode == returncode
    return out.getvalue(), str(caught.value)


def state_of(server: Server) -> str:
    return Server.objects.get(pk=server.pk).admin_state


def moves_away(volume: Volume) -> Callable[[], object]:
    return lambda: Replica.objects.filter(volume=volume).delete()


class TestDrain:
    def test_it_says_how_far_it_is_until_the_server_is_empty(self, meanwhile: Meanwhile) -> None:
        server = make_server(node="n3")
        volumes = [make_volume(server, replica={"size_bytes": 4 * MIB}) for _ in range(4)]
        meanwhile.events = [moves_away(volume) for volume in volumes]
        said = run("drain", "n3").splitlines()
        assert said == [
            "0 %, 4 volumes left, 16.0 MiB",
            "25 %, 3 volumes left, 12.0 MiB",
            "50 %, 2 volumes left, 8.0 MiB",
            "75 %, 1 volume left, 4.0 MiB",
            f"{server} is empty and may be switched off.",
        ]
        assert state_of(server) == "draining"
        assert AuditEntry.objects.filter(action="server.update", target=str(server.pk)).count() == 1

    def test_what_is_still_to_be_dropped_there_is_not_empty(self, meanwhile: Meanwhile) -> None:
        server = make_server(stray_volumes=[7])
        meanwhile.events = [lambda: Server.objects.update(stray_volumes=[])]
        assert run("drain", server.node).splitlines()[-1] == f"{server} is empty and may be switched off."
        assert meanwhile.events == []

    def test_one_that_was_drained_already_is_done_at_once(self, meanwhile: Meanwhile) -> None:
        server = make_server(admin_state="draining")
        assert run("drain", server.pk) == f"{server} is empty and may be switched off.\n"

    def test_why_a_volume_stays_is_said_once(self, meanwhile: Meanwhile) -> None:
        server = make_server()
        volume = make_volume(server, redundancy_note="No server on another node has room.")
        meanwhile.events = [lambda: None, lambda: None, moves_away(volume)]
        said = run("drain", server.node)
        assert said.count(f"waiting: volume {volume.pk}: No server on another node has room.\n") == 1

    def test_called_off(self, meanwhile: Meanwhile) -> None:
        server = make_server()
        make_volume(server)
        meanwhile.events = [lambda: run("drain", server.node, "--cancel")]
        _, said = failing("drain", server.node)
        assert said == f"{server} is to be active again; its emptying has ended."
        assert state_of(server) == "active"

    def test_no_wait_leaves_it_to_the_worker(self, meanwhile: Meanwhile) -> None:
        server = make_server()
        make_volume(server)
        assert "is being emptied" in run("drain", server.node, "--no-wait")
        assert state_of(server) == "draining"

    def test_an_interrupt_ends_the_watching_alone(self, meanwhile: Meanwhile) -> None:
        def interrupt() -> None:
            raise KeyboardInterrupt

        server = make_server()
        make_volume(server)
        meanwhile.events = [interrupt]
        _, said = failing("drain", server.node, returncode=130)
        assert "--cancel" in said
        assert state_of(server) == "draining"


class TestMaintenance:
    def test_on_and_off(self) -> None:
        server = make_server(node="n3")
        assert run("maintenance", "N3", "on") == f"{server} is in maintenance: it may be stopped and started.\n"
        assert state_of(server) == "maintenance"
        assert run("maintenance", "n3", "off") == f"{server} is in use again.\n"
        assert state_of(server) == "active"

    @pytest.mark.parametrize(
        ("state", "command", "end"),
        [
            ("draining", ["maintenance", "n3", "on"], "drain {} --cancel"),
            ("draining", ["maintenance", "n3", "off"], "drain {} --cancel"),
            ("maintenance", ["drain", "n3"], "maintenance {} off"),
            ("maintenance", ["drain", "n3", "--cancel"], "maintenance {} off"),
        ],
    )
    def test_neither_a_drain_nor_a_maintenance_ends_the_other(self, state: str, command: list[str], end: str) -> None:
        server = make_server(node="n3", admin_state=state)
        _, said = failing(*command)
        named = str(server.pk)[:8]
        assert f"`manage.py {end.format(named)}`" in said
        assert state_of(server) == state
        run(*end.format(named).split())
        assert state_of(server) == "active"

    @pytest.mark.parametrize("word", ["", "yes", "On"])
    def test_neither_on_nor_off(self, word: str) -> None:
        server = make_server()
        with pytest.raises(CommandError):
            run("maintenance", server.node, word)
        assert state_of(server) == "active"


@pytest.mark.parametrize("command", [["drain"], ["drain", "--cancel"], ["maintenance", "on"]])
class TestNames:
    def test_a_server_is_named_by_what_an_operator_sees(self, command: list[str], meanwhile: Meanwhile) -> None:
        server, other = make_server(node="n1"), make_server(node="n10")
        name, *rest = command
        host_and_port = server.public_url.removeprefix("http://")
        addresses = (server.public_url, server.internal_url.upper(), f"{server.public_url}/", host_and_port)
        for word in ("n1", str(server.pk), str(server.pk)[:8], *addresses, " n1 "):
            Server.objects.update(admin_state="active" if "--cancel" not in rest else "draining")
            before = state_of(other)
            run(name, word, *rest)
            assert state_of(other) == before
            assert state_of(server) != before

    @pytest.mark.parametrize("word", ["n", "nobody", "", " ", "n1\0", "n²", "%", "x" * 10_000, "00000000-0000"])
    def test_a_name_of_nobody_lists_what_there_is(self, command: list[str], word: str) -> None:
        server = make_server(node="n1")
        name, *rest = command
        _, said = failing(name, word, *rest)
        assert said.startswith("There is no server ")
        assert said.endswith(f"  {server.pk}  n1  {server.public_url}  online")
        assert state_of(server) == "active"

    def test_a_name_of_two_is_no_name(self, command: list[str]) -> None:
        servers = [make_server(node="n1") for _ in range(2)]
        name, *rest = command
        _, said = failing(name, "n1", *rest)
        assert said.startswith("'n1' names 2 servers:\n")
        assert all(str(one.pk) in said for one in servers)

    def test_a_store_without_servers(self, command: list[str]) -> None:
        name, *rest = command
        assert failing(name, "n1", *rest)[1] == "There is no server 'n1'. There are:\n  none"
