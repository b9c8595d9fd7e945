"""`manage.py compact` and `manage.py scrub` against fake volume servers."""

import io
import re
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from tests.unit.volumes.factories import figures, job, make_server, make_volume
from tests.unit.volumes.fake_server import FakeVolumeServer
from tests.unit.volumes.management.test_progress import Terminal
from volumes.management import upkeep
from volumes.management.commands.compact import rate, share
from volumes.models import Replica, Server

pytestmark = pytest.mark.django_db

COMMANDS = ["compact", "scrub"]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "POLL_S", 0)


@pytest.fixture
def fakes() -> Iterator[list[FakeVolumeServer]]:
    """Two servers that are registered and online."""
    with ExitStack() as stack:
        servers = [stack.enter_context(FakeVolumeServer()) for _ in range(2)]
        for fake in servers:
            make_server(id=fake.id, instance=fake.instance, internal_url=fake.url)
        yield servers


def add_volume(fake: FakeVolumeServer, **told: Any) -> int:
    volume = make_volume(Server.objects.get(pk=fake.id))
    fake.volumes[volume.pk] = figures(volume.pk, **({"size_bytes": 10 << 20, "garbage_bytes": 4 << 20} | told))
    return volume.pk


def run(*args: Any, out: io.StringIO | None = None, **options: Any) -> str:
    out = out or io.StringIO()
    call_command(*map(str, args), stdout=out, **options)
    return out.getvalue()


def failing(*args: Any, returncode: int = 1) -> tuple[str, str]:
    """What a command prints that fails, and what it says at its end."""
    out = io.StringIO()
    with pytest.raises(CommandError) as caught:
        run(*args, out=out)
    assert caught.value.returncode == returncode
    return out.getvalue(), str(caught.value)


class TestChoice:
    @pytest.mark.parametrize("command", COMMANDS)
    @pytest.mark.parametrize(
        ("args", "said"),
        [
            ([], "Name volumes by their numbers, or give --all."),
            (["1", "--all"], "Name volumes, or give --all, not both."),
        ],
    )
    def test_volumes_or_all(self, command: str, args: list[str], said: str) -> None:
        assert failing(command, *args, returncode=2)[1] == said

    @pytest.mark.parametrize("command", COMMANDS)
    @pytest.mark.parametrize("number", ["0", "-1", "x", "4294967296", "1.5", "²"])
    def test_what_is_no_number(self, command: str, number: str) -> None:
        with pytest.raises(CommandError):
            run(command, "--", number)

    @pytest.mark.parametrize("command", COMMANDS)
    def test_unknown_volumes_start_nothing(self, command: str, fakes: list[FakeVolumeServer]) -> None:
        known = add_volume(fakes[0])
        assert failing(command, known, 4_000_000_001, 4_000_000_000)[1] == (
            "Not in this store: volumes 4000000000, 4000000001."
        )
        assert fakes[0].requests == []

    @pytest.mark.parametrize("command", COMMANDS)
    def test_an_empty_store(self, command: str) -> None:
        assert "0 volumes done" in run(command, "--all")

    def test_a_volume_still_to_be_made_is_no_failure(self, fakes: list[FakeVolumeServer]) -> None:
        make_volume(Server.objects.get(pk=fakes[0].id), replica={"state": "expected"}, state="creating")
        assert "0 volumes done" in run("compact", "--all")


class TestCompact:
    def test_all_with_plain_lines(self, fakes: list[FakeVolumeServer]) -> None:
        one, two, three = add_volume(fakes[0]), add_volume(fakes[0]), add_volume(fakes[1])
        full = add_volume(fakes[1], garbage_bytes=0)
        sealed = add_volume(fakes[1], state="sealed")
        fakes[0].steps = 4
        said = run("compact", "--all")
        for volume in (one, two, three):
            assert f"volume {volume}: compacted, 4.0 MiB given back, 6.0 MiB left\n" in said
        assert [line for line in said.splitlines() if line.startswith(f"volume {one}:")][:-1] == [
            f"volume {one}: 20 %", f"volume {one}: 50 %", f"volume {one}: 70 %",
        ]  # fmt: skip
        assert f"volume {full}: skipped, it has no garbage\n" in said
        assert f"volume {sealed}: skipped, it is sealed\n" in said
        assert said.endswith("3 volumes done, 12.0 MiB given back, 0 failed\n")
        assert "\x1b" not in said
        assert [body["volume"] for _, body in fakes[0].asked] == [one, two]
        assert fakes[0].asked[0][1]["rate_bytes"] == 0

    def test_one_at_a_time_on_each_server(self, fakes: list[FakeVolumeServer]) -> None:
        for fake in fakes:
            add_volume(fake)
            add_volume(fake)
        run("compact", "--all")
        for fake in fakes:
            starts = [at for at, request in enumerate(fake.requests) if request == "POST /admin/compact"]
            assert fake.requests[starts[0] + 1 : starts[1]] == ["GET /usage"] * fake.steps

    def test_bars_on_a_terminal(self, fakes: list[FakeVolumeServer]) -> None:
        volume, other = add_volume(fakes[0]), add_volume(fakes[1])
        said = run("compact", "--all", out=Terminal())
        assert re.search(rf"volume {volume} +\[#{{12}}-{{12}}\]  50 %  5.0 MiB of 10.0 MiB\n", said)
        assert re.search(r"in all +\[#{12}-{12}\]  50 %  0 of 2 volumes\n", said)
        assert f"volume {volume}: 50 %" not in said
        assert said.endswith("2 volumes done, 8.0 MiB given back, 0 failed\n")
        assert f"volume {other}: compacted" in said

    def test_named_volumes_are_compacted_whatever_their_garbage(self, fakes: list[FakeVolumeServer]) -> None:
        volume = add_volume(fakes[0], garbage_bytes=0)
        assert f"volume {volume}: compacted, 0 bytes given back" in run("compact", volume, "--rate", "1.5K")
        assert fakes[0].asked[0][1]["rate_bytes"] == 1536

    def test_min_garbage(self, fakes: list[FakeVolumeServer]) -> None:
        much, little = add_volume(fakes[0]), add_volume(fakes[0], garbage_bytes=1 << 20)
        for chosen in (["--all"], [much, little]):
            said = run("compact", *chosen, "--min-garbage", "25%", "--no-wait")
            assert f"volume {little}: skipped, 10 % of it is garbage\n" in said
            assert f"volume {much}: the compaction runs\n" in said

    def test_damage_is_dropped_where_there_is_some(self, fakes: list[FakeVolumeServer]) -> None:
        damaged, sound = add_volume(fakes[0], garbage_bytes=0, damaged_count=1), add_volume(fakes[1], garbage_bytes=0)
        said = run("compact", "--all", "--drop-damage")
        assert f"volume {damaged}: compacted" in said
        assert f"volume {sound}: skipped, it has no garbage" in said
        assert fakes[0].asked[0][1]["drop_damage"] is True
        run("compact", damaged)
        assert "drop_damage" not in fakes[0].asked[-1][1]

    def test_one_that_runs_is_watched(self, fakes: list[FakeVolumeServer]) -> None:
        running = job(done_bytes=0, total_bytes=50, reclaimed_bytes=0)
        volume = add_volume(fakes[0], garbage_bytes=0, compaction=running)
        assert f"volume {volume}: compacted" in run("compact", "--all")

    def test_no_wait(self, fakes: list[FakeVolumeServer]) -> None:
        one, two = add_volume(fakes[0]), add_volume(fakes[0])
        assert run("compact", "--all", "--no-wait") == (
            f"volume {one}: the compaction runs\nvolume {two}: the compaction runs\n"
        )
        assert fakes[0].requests.count("GET /usage") == 1

    def test_refusals_and_failures_are_told_and_the_rest_goes_on(self, fakes: list[FakeVolumeServer]) -> None:
        refused, failed = add_volume(fakes[0]), add_volume(fakes[1])
        fakes[0].refusals["/admin/compact"] = (507, {"code": "disk_full", "detail": "compaction needs 9 bytes"})
        fakes[1].fails_with = "the disk is gone"
        said, ended = failing("compact", "--all")
        assert f"volume {refused}: failed, compaction needs 9 bytes\n" in said
        assert f"volume {failed}: failed, the disk is gone\n" in said
        assert said.endswith("0 volumes done, 0 bytes given back, 2 failed\n")
        assert ended == "The compaction of 2 volumes failed; see above."

    def test_offline_servers_and_lost_volumes(self, fakes: list[FakeVolumeServer]) -> None:
        good, lost = add_volume(fakes[0]), add_volume(fakes[0])
        del fakes[0].volumes[lost]
        offline = make_volume(make_server(last_seen_at=None)).pk
        silent = make_volume(make_server(internal_url="http://127.0.0.1:1")).pk
        said, _ = failing("compact", "--all")
        assert f"volume {good}: compacted" in said
        assert f"volume {lost}: failed, server" in said
        assert re.search(rf"volume {offline}: failed, its server .* is offline; start that server", said)
        assert re.search(rf"volume {silent}: failed, server n\d+ \(http://127.0.0.1:1\) does not answer: no conn", said)
        assert "1 volume done" in said

    def test_a_server_that_starts_anew_ends_it(
        self, fakes: list[FakeVolumeServer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        volume = add_volume(fakes[0])

        def forget(*_: object) -> None:
            fakes[0].volumes[volume]["compaction"] = None

        monkeypatch.setattr(upkeep.Board, "draw", forget)
        assert f"volume {volume}: failed, its server was started anew" in failing("compact", volume)[0]

    def test_a_server_that_is_silent_for_a_moment_is_waited_for(
        self, fakes: list[FakeVolumeServer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        volume = add_volume(fakes[0])
        answers = iter([(500, b""), (503, b"{}"), None])

        def stumble(*_: object) -> None:
            fakes[0].answer = next(answers, None)

        monkeypatch.setattr(upkeep.Board, "draw", stumble)
        assert f"volume {volume}: compacted" in run("compact", volume)

    def test_a_server_that_stays_silent_is_given_up(
        self, fakes: list[FakeVolumeServer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        volume = add_volume(fakes[0])
        monkeypatch.setattr(upkeep, "SILENT_S", 0)
        monkeypatch.setattr(upkeep.Board, "draw", lambda *_: setattr(fakes[0], "answer", (500, b"")))
        said, _ = failing("compact", volume)
        assert f"volume {volume}: failed, lost sight of it, the compaction may go on: GET /usage: 500" in said

    def test_all_servers_are_asked_at_once(self, fakes: list[FakeVolumeServer]) -> None:
        hanging, healthy = fakes
        one, two = add_volume(hanging), add_volume(healthy)
        hanging.may_answer.clear()
        healthy.on_request = hanging.may_answer.set  # so the first can answer only after the second was asked
        said = run("compact", one, two)
        assert f"volume {one}: compacted" in said
        assert f"volume {two}: compacted" in said

    def test_a_server_that_hangs_fails_its_own_volumes_alone(
        self, fakes: list[FakeVolumeServer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hanging, healthy = fakes
        one, two = add_volume(hanging), add_volume(healthy)
        monkeypatch.setattr(upkeep, "ANSWER_S", 0.05)
        hanging.may_answer.clear()
        said, ended = failing("compact", one, two)
        assert f"volume {one}: failed, server {Server.objects.get(pk=hanging.id).node}" in said
        assert "does not answer: timeout" in said
        assert f"volume {two}: compacted" in said
        assert ended == "The compaction of 1 volume failed; see above."

    def test_a_server_that_hangs_while_it_is_watched(
        self, fakes: list[FakeVolumeServer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hanging, healthy = fakes
        one, two = add_volume(hanging), add_volume(healthy)
        monkeypatch.setattr(upkeep, "ANSWER_S", 0.05)
        monkeypatch.setattr(upkeep.Board, "draw", lambda *_: hanging.may_answer.clear())

        def told(board: upkeep.Board, line: str) -> None:
            if line.startswith(f"volume {two}: compacted"):
                hanging.may_answer.set()  # only the end of the healthy one's lets the other go on
                monkeypatch.setattr(upkeep.Board, "draw", lambda *_: None)
            say(board, line)

        say = upkeep.Board.say
        monkeypatch.setattr(upkeep.Board, "say", told)
        said = run("compact", one, two)
        assert said.index(f"volume {two}: compacted") < said.index(f"volume {one}: compacted")

    def test_ctrl_c_leaves_it_running(self, fakes: list[FakeVolumeServer], monkeypatch: pytest.MonkeyPatch) -> None:
        one, two, three = add_volume(fakes[0]), add_volume(fakes[0]), add_volume(fakes[1])

        def interrupt(_: float) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(upkeep.time, "sleep", interrupt)
        _, ended = failing("compact", "--all", returncode=130)
        assert ended == (
            f"Interrupted. The compaction of volumes {one}, {three} goes on; run the command again to watch it. "
            f"Not started: volume {two}."
        )
        for fake, volume in zip(fakes, (one, three), strict=True):
            assert fake.volumes[volume]["compaction"]["state"] == "running"


class TestScrub:
    def test_sound_volumes(self, fakes: list[FakeVolumeServer]) -> None:
        one, two = add_volume(fakes[0]), add_volume(fakes[1], state="sealed")
        said = run("scrub", "--all")
        for volume in (one, two):
            assert f"volume {volume}: 10.0 MiB checked, sound\n" in said
        assert said.endswith("2 volumes done, 0 damaged records, 0 failed\n")

    def test_damage_is_listed_and_fails(self, fakes: list[FakeVolumeServer]) -> None:
        volume = add_volume(fakes[0])
        entry = {"needle": f"{0xA0001:016x}", "offset": 8192, "bytes": 96, "reason": "the CRC does not fit"}
        fakes[0].damage[volume] = [entry, entry | {"needle": None}] * 501
        said, ended = failing("scrub", volume)
        lines = said.splitlines()
        at = lines.index(f"volume {volume}: 10.0 MiB checked, 1002 DAMAGED")
        assert lines[at + 1] == (
            "  needle 00000000000a0001 (no object names it), 96 bytes at 8192: the CRC does not fit"
        )
        assert lines[at + 2] == "  unknown needle, 96 bytes at 8192: the CRC does not fit"
        assert lines[at + 1001] == "  and 2 more"
        assert lines[-1] == "1 volume done, 1002 damaged records, 0 failed"
        assert ended.startswith("There is damage.")

    def test_each_copy_is_read_and_damage_in_one_is_nobodys_loss(self, fakes: list[FakeVolumeServer]) -> None:
        volume, single = add_volume(fakes[0]), add_volume(fakes[0])
        peer = Server.objects.get(pk=fakes[1].id)
        Replica.objects.create(
            volume_id=volume, server=peer, role="secondary", state="open", reported_at=timezone.now()
        )
        fakes[1].volumes[volume] = figures(volume, size_bytes=10 << 20)
        entry = {"needle": f"{0xA0001:016x}", "offset": 8192, "bytes": 96, "reason": "the CRC does not fit"}
        fakes[1].damage[volume] = [entry]
        said, ended = failing("scrub", volume)
        assert f"volume {volume} on {Server.objects.get(pk=fakes[0].id)}: 10.0 MiB checked, sound\n" in said
        assert f"volume {volume} on {peer}: 10.0 MiB checked, 1 DAMAGED\n" in said
        assert said.endswith("1 volume done, 1 damaged records, 0 failed\n")
        assert f"The copies of volume {volume} are brought into line" in ended
        assert "again" not in ended
        fakes[0].damage[single] = [entry]
        ended = failing("scrub", "--all")[1]
        assert f"The copies of volume {volume} are" in ended
        assert f"Put the objects named above for volume {single} again;" in ended

    def test_damage_that_cannot_be_listed_is_a_failure(self, fakes: list[FakeVolumeServer]) -> None:
        volume = add_volume(fakes[0])
        fakes[0].damage[volume] = [{"needle": None, "offset": 0, "bytes": 0, "reason": ""}]
        fakes[0].refusals["/admin/damaged"] = (500, {})
        said, ended = failing("scrub", volume)
        assert f"volume {volume}: failed, POST /admin/damaged: 500" in said
        assert ended == "The scrub of 1 volume failed; see above."

    def test_no_wait(self, fakes: list[FakeVolumeServer]) -> None:
        volume = add_volume(fakes[0])
        assert run("scrub", volume, "--no-wait") == f"volume {volume}: the scrub runs\n"


@pytest.mark.parametrize(
    ("text", "bytes_a_second"),
    [
        ("0", 0),
        ("0.0", 0),
        ("1.5", 1),
        ("0.001K", 1),
        ("4096", 4096),
        ("50M", 50 << 20),
        ("50MiB/s", 50 << 20),
        ("1.5 GB", 3 << 29),
        ("2k", 2048),
        ("1T", 1 << 40),
    ],
)
def test_rates(text: str, bytes_a_second: int) -> None:
    assert rate(text) == bytes_a_second


@pytest.mark.parametrize("text", ["", "fast", "-1", "50X", "M", "1e6", "٣", "9000T", "0.0001", "0.9"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        rate(text)


@pytest.mark.parametrize(("text", "percent"), [("0", 0), ("25", 25), ("12.5%", 12.5), ("100%", 100)])
def test_shares(text: str, percent: float) -> None:
    assert share(text) == percent


@pytest.mark.parametrize("text", ["", "-1", "101", "nan", "half", "%"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        share(text)
