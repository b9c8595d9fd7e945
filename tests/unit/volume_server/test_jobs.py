"""Child processes for background work: real ones, which end well, fail, die and are abandoned."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import ROOT
from tests.support.waiting import wait_until
from volume_server.child import MAX_MESSAGE_BYTES, NICENESS, Message, Parent, ParentGone
from volume_server.jobs import ChildJob

PARENT = """
import asyncio, sys
from volume_server.jobs import ChildJob

async def run(what):
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    job = ChildJob(loop, "job_child", {"do": what}, package="tests.unit.volume_server",
                   on_message=lambda _: ready.set(), on_end=lambda _: None)
    await ready.wait()
    print(job.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(run(sys.argv[1]))
"""


class Child:
    """A `job_child`, and what it said."""

    def __init__(self, do: str, *, fds: Sequence[int] = (), **more: Any) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.ends: list[str | None] = []
        self.job = ChildJob(
            asyncio.get_running_loop(),
            "job_child",
            {"do": do, **more},
            fds=fds,
            on_message=self.messages.put_nowait,
            on_end=self._ended,
            package="tests.unit.volume_server",
        )

    def _ended(self, reason: str | None) -> None:
        self.ends.append(reason)
        self.messages.put_nowait({"ended": reason})  # nobody waits in vain for another message

    async def end(self) -> str | None:
        """The one outcome."""
        await self.job.ended.wait()
        [end] = self.ends
        with pytest.raises(ChildProcessError):
            os.waitpid(self.job.pid, os.WNOHANG)  # reaped
        return end


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scene; it must leave no descriptor behind and no error on the loop."""
    errors: list[dict[str, Any]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        before = open_fds()
        await scene()
        assert open_fds() == before

    asyncio.run(run())
    assert errors == []


def open_fds() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the directory's own descriptor is always the same


def test_first_message_brings_open_files_and_the_end_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("content")

    async def scene() -> None:
        with path.open("rb") as one, path.open("rb") as other:
            child = Child("read", fds=[one.fileno(), other.fileno()])
        assert await child.end() is None
        assert child.messages.get_nowait() == {"content": "content", "count": 2}
        assert child.messages.get_nowait() == {"ended": None}

    play(scene)


def test_messages_go_both_ways_in_order() -> None:
    async def scene() -> None:
        child = Child("echo")
        assert await child.messages.get() == {"ready": True}
        sent = [{"number": number, "text": "x" * (number * 100)} for number in range(500)]
        for message in sent:
            child.job.send(message)
        assert [await child.messages.get() for _ in sent] == sent
        child.job.send({"stop": True})
        assert await child.end() is None

    play(scene)


def test_child_can_look_for_a_message_without_waiting() -> None:
    async def scene() -> None:
        child = Child("poll")
        assert await child.messages.get() == {"nothing": "yet"}
        child.job.send({"here": "it is"})
        assert await child.end() is None
        heard = []
        while not child.messages.empty():
            heard.append(child.messages.get_nowait())
        assert heard[-2:] == [{"here": "it is"}, {"ended": None}]

    play(scene)


def test_send_to_a_child_that_reads_nothing_neither_waits_nor_loses() -> None:
    async def scene() -> None:
        reader, go_on = os.pipe()
        child = Child("dawdle", fds=[reader])
        os.close(reader)
        await child.messages.get()
        for _ in range(100):
            child.job.send({"text": "x" * 60_000})  # six megabytes: far more than a socket holds
        child.job.send({"stop": True})
        os.close(go_on)
        assert await child.messages.get() == {"count": 100}
        assert await child.end() is None

    play(scene)


def test_child_is_in_a_session_of_its_own_and_gives_way() -> None:
    async def scene() -> None:
        child = Child("wait")
        ready = await child.messages.get()
        assert ready["session"] == child.job.pid
        assert ready["niceness"] >= NICENESS
        child.job.send({"go": "on"})
        assert await child.end() is None

    play(scene)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"do": "fail"}, "[Errno 28] No space left on device"),
        ({"do": "exit", "code": 7}, "it exited with code 7"),
        ({"do": "exit", "code": 0}, None),
        ({"do": "garbage", "raw": "no JSON"}, "it sent what is no message"),
        ({"do": "garbage", "raw": "[1]"}, "it sent what is no message"),
        ({"do": "garbage", "raw": "1234567 ", "times": MAX_MESSAGE_BYTES // 8 + 1}, "it sent what is no message"),
        ({"do": "nothing that it knows"}, None),
        ({"do": "end at once"}, None),
    ],
)
def test_end_is_told_once_with_its_reason(what: dict[str, Any], reason: str | None) -> None:
    async def scene() -> None:
        child = Child(**what)
        assert await child.end() == reason

    play(scene)


def test_death_is_told_and_what_it_said_before_is_not_lost() -> None:
    async def scene() -> None:
        child = Child("tell")
        for _ in range(3):
            await child.messages.get()
        os.kill(child.job.pid, signal.SIGKILL)
        assert await child.end() == "it was killed by signal 9"
        child.job.send({"too": "late"})
        child.job.kill()
        assert len(child.ends) == 1

    play(scene)


def test_all_that_a_child_said_comes_before_its_end() -> None:
    async def scene() -> None:
        child = Child("end at once", times=20)
        wait_until(lambda: is_zombie(child.job.pid), what="the child's death, unseen by the loop")
        assert await child.end() is None
        assert [child.messages.get_nowait()["number"] for _ in range(20)] == list(range(20))

    play(scene)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_child_goes_on_through_signals_that_are_meant_for_its_parent(number: signal.Signals) -> None:
    async def scene() -> None:
        child = Child("echo")
        await child.messages.get()
        os.kill(child.job.pid, number)
        child.job.send({"still": "there"})
        assert await child.messages.get() == {"still": "there"}
        child.job.send({"stop": True})
        assert await child.end() is None

    play(scene)


def test_send_to_a_dead_child_does_not_raise() -> None:
    async def scene() -> None:
        reader, go_on = os.pipe()
        child = Child("dawdle", fds=[reader])
        await child.messages.get()
        for _ in range(100):
            child.job.send({"text": "x" * 60_000})
        child.job.kill()
        wait_until(lambda: is_zombie(child.job.pid), what="the child's death")
        child.job.send({"nobody": "there"})
        assert await child.end() == "it was killed by signal 9"
        os.close(reader)
        os.close(go_on)

    play(scene)


def test_callback_that_raises_costs_no_end() -> None:
    errors: list[dict[str, Any]] = []

    async def scene() -> None:
        ends: list[str | None] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))

        def refuse(_: Message) -> None:
            raise LookupError

        job = ChildJob(
            asyncio.get_running_loop(),
            "job_child",
            {"do": "end at once"},
            on_message=refuse,
            on_end=ends.append,
            package="tests.unit.volume_server",
        )
        await job.ended.wait()
        assert ends == [None]

    asyncio.run(scene())
    assert isinstance(errors[0]["exception"], LookupError)


def test_child_that_cannot_be_started_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        monkeypatch.setattr(sys, "executable", "/nonexistent/python")
        with pytest.raises(FileNotFoundError):
            Child("wait")

    play(scene)


def test_too_long_a_message_is_refused_before_it_is_sent() -> None:
    async def scene() -> None:
        child = Child("echo")
        with pytest.raises(ValueError, match="a message of"):
            child.job.send({"text": "x" * MAX_MESSAGE_BYTES})
        child.job.send({"stop": True})
        assert await child.end() is None

    play(scene)


@pytest.mark.parametrize("what", ["tell", "wait", "echo"])
def test_child_ends_with_its_parent(what: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, what], stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    wait_until(lambda: not Path(f"/proc/{child}").exists() or is_zombie(child), what="the child's end")


def test_every_call_of_the_child_tells_that_the_parent_is_gone() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.send(b'{"to": "do"}')
        parent = Parent(theirs)
        assert parent.first() == ({"to": "do"}, [])
        assert parent.poll() is None
        ours.close()
        with pytest.raises(ParentGone):
            parent.first()
        with pytest.raises(ParentGone):
            parent.receive()
        with pytest.raises(ParentGone):
            parent.poll()
        with pytest.raises(ParentGone):
            parent.send({})


def is_zombie(pid: int) -> bool:
    return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
