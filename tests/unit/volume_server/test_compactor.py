"""Compactions of a running server: real child processes, real sockets, writers and readers meanwhile."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import wait_until
from tests.unit.volume_server.faults import contents
from tests.unit.volume_server.serving import FIRST, Server, admin, get_url, lease, put_url, request, running
from volume_server import compactor
from volume_server.compaction import tidy
from volume_server.server import SMALL_BODY_BYTES
from volume_server.volume import Volume

LARGE = SMALL_BODY_BYTES + 1


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path) as found:
        yield found


def compact(server: Server, **order: Any) -> dict[str, Any]:
    answer = admin(server, "/admin/compact", {"volume": 1, **order})
    assert answer.status == 200, answer
    figures: dict[str, Any] = answer.json()
    return figures


def outcome(server: Server) -> dict[str, Any]:
    """How the last compaction ended; waits for it."""

    def ended() -> bool:
        return server.call(lambda: server.compactor.jobs[1].state) != "running"

    wait_until(ended, what="the end of a compaction")
    found: dict[str, Any] = server.call(lambda: dict(server.compactor.report(server.volume) or {}))
    return found


def delete(server: Server, *needles: int) -> None:
    answer = admin(server, "/admin/delete", {"volume": 1, "needles": [f"{needle:016x}" for needle in needles]})
    assert answer.status == 200, answer


def fill(server: Server, count: int, *, size: int = 1000) -> dict[int, bytes]:
    """Puts so many needles, deletes every other one, and gives what is left."""
    written = {FIRST + slot: os.urandom(size + slot) for slot in range(count)}
    for needle, body in written.items():
        assert server.put(needle, body).status == 201
    dead = [needle for needle in written if needle % 2]
    delete(server, *dead)
    return {needle: body for needle, body in written.items() if needle not in dead}


def check(server: Server, expected: dict[int, bytes]) -> None:
    for needle, body in expected.items():
        answer = server.get(needle)
        assert (answer.status, answer.body) == (200, body), f"{needle:x}"


def leftovers(server: Server) -> list[str]:
    return [path.name for path in server.directory.glob("*.*-*")]


def test_volume_is_compacted_and_goes_on(server: Server) -> None:
    expected = fill(server, 40)
    old_bytes = server.call(lambda: server.volume.tail)
    figures = compact(server)
    assert figures["compaction"]["state"] in {"running", "done"}
    done = outcome(server)
    new_bytes = server.call(lambda: server.volume.tail)
    assert (done["state"], done["detail"]) == ("done", "")
    assert done["done_bytes"] == done["total_bytes"] >= old_bytes - 8192
    assert done["reclaimed_bytes"] == old_bytes - new_bytes > 15_000
    assert done["started_ms"] <= done["ended_ms"]
    check(server, expected)
    assert server.get(FIRST + 1).status == 404
    assert server.put(FIRST + 1, b"again").status == 409
    assert server.put(FIRST + 100, b"new").status == 201
    assert server.put(FIRST, expected[FIRST]).status == 201, "the same PUT gets the same answer"
    large = os.urandom(LARGE)
    assert server.put(FIRST + 101, large).status == 201
    check(server, expected | {FIRST + 100: b"new", FIRST + 101: large})
    assert server.directory.joinpath("0000000001.vol").stat().st_size == server.call(lambda: server.volume.tail)
    assert leftovers(server) == []


def test_what_was_compacted_is_there_after_a_restart(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        expected = fill(server, 20)
        compact(server)
        assert outcome(server)["state"] == "done"
        server.put(FIRST + 100, b"new")
    with running(tmp_path) as server:
        check(server, expected | {FIRST + 100: b"new"})
        assert server.volume.superblock.revision == 2


def test_writers_and_readers_go_on_meanwhile(server: Server) -> None:
    """Compaction after compaction, while four clients put, get, delete and repeat."""
    expected = fill(server, 64)
    stop = threading.Event()
    failures: list[str] = []
    written: list[dict[int, bytes]] = [{} for _ in range(4)]

    def work(number: int) -> None:
        mine, slot = written[number], 0
        wire = server.wire()
        while not stop.is_set():
            needle = FIRST + 128 + slot * 4 + number
            slot += 1
            if slot >= 900:
                break
            body = os.urandom(LARGE if slot % 16 == 5 else 700)
            answers = [wire.send(request("PUT", put_url(needle), body)).answer()]
            if slot % 7 == 0:
                answers.append(wire.send(request("PUT", put_url(needle), body)).answer())
            if [answer.status for answer in answers] != [201] * len(answers):
                failures.append(f"{needle:x}: {answers}")
            if slot % 3:
                mine[needle] = body
            else:
                delete(server, needle)
            seen = wire.send(request("GET", get_url(needle))).answer()
            if (seen.status, seen.body) != ((200, body) if slot % 3 else (404, seen.body)):
                failures.append(f"{needle:x}: GET gave {seen.status}")
        wire.close()

    clients = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for client in clients:
        client.start()
    try:
        for revision in range(2, 6):
            compact(server)
            assert outcome(server)["state"] == "done"
            assert server.call(lambda: server.volume.superblock.revision) == revision
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert failures == []
    for mine in written:
        expected |= mine
    check(server, expected)
    live = {needle: data for needle, data in server.call(lambda: contents(server.volume)).items() if data is not None}
    assert live == expected


def test_slow_upload_is_waited_for_and_others_are_let_in(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compactor, "CUT_WAIT_S", 0.05)
    monkeypatch.setattr(compactor, "CUT_AGAIN_S", 0.05)
    expected = fill(server, 10)
    body = os.urandom(LARGE)
    slow = server.wire()
    raw = request("PUT", put_url(FIRST + 200), body)
    slow.send(raw[:-1000])
    server.wait(lambda: FIRST + 200 in server.volume.claims, what="the reservation")
    compact(server)
    for slot in range(20):
        assert server.put(FIRST + 300 + slot, b"meanwhile").status == 201
    assert server.call(lambda: server.compactor.jobs[1].state) == "running"
    assert slow.send(raw[-1000:]).answer().status == 201
    assert outcome(server)["state"] == "done"
    check(server, expected | {FIRST + 200: body} | {FIRST + 300 + slot: b"meanwhile" for slot in range(20)})


def test_large_answer_under_way_comes_from_the_old_file(server: Server) -> None:
    body = os.urandom(24 << 20)
    assert server.put(FIRST, b"garbage").status == 201
    assert server.put(FIRST + 1, body, url=lease(max_bytes=len(body))).status == 201
    delete(server, FIRST)
    wire = server.wire(receive_buffer=4096)
    wire.send(request("GET", get_url(FIRST + 1)))
    server.wait(lambda: server.listener.counters.bytes_out > 0, what="the first bytes of the answer")
    compact(server)
    assert outcome(server)["state"] == "done"
    assert server.put(FIRST + 2, os.urandom(LARGE)).status == 201
    assert wire.answer().body == body
    wire.close()

    def old_files() -> list[str]:
        names = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return [name for name in names if str(server.directory) in name and "(deleted)" in name]

    wait_until(lambda: not old_files(), what="the old file to be closed")


def test_repeated_large_put_across_the_cut(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is compared with the needle where that lay when it began, so the cut waits for it."""
    monkeypatch.setattr(compactor, "CUT_WAIT_S", 0.05)
    monkeypatch.setattr(compactor, "CUT_AGAIN_S", 0.05)
    assert server.put(FIRST, os.urandom(LARGE)).status == 201
    body = os.urandom(LARGE)
    assert server.put(FIRST + 1, body).status == 201
    delete(server, FIRST)
    raw = request("PUT", put_url(FIRST + 1), body)
    wire = server.wire().send(raw[:-1000])
    server.wait(lambda: server.volume.hold_count == 1, what="the repeated PUT to begin")
    compact(server)
    server.wait(lambda: server.compactor.jobs[1].done_bytes, what="the copy")
    assert wire.send(raw[-1000:]).answer().status == 201
    assert outcome(server)["state"] == "done"
    check(server, {FIRST + 1: body})


def test_second_call_joins_the_first(server: Server) -> None:
    expected = fill(server, 30, size=100_000)
    first = compact(server, rate_bytes=20_000)["compaction"]
    second = compact(server)["compaction"]
    assert second["state"] == "running"
    assert second["started_ms"] == first["started_ms"]
    server.wait(lambda: server.compactor._children, what="the child")
    server.call(lambda: next(iter(server.compactor._children)).kill())
    assert outcome(server)["state"] == "failed"
    check(server, expected)


def test_killed_copy_leaves_the_volume_as_it_was(server: Server) -> None:
    expected = fill(server, 30, size=100_000)
    compact(server, rate_bytes=20_000)
    server.wait(lambda: server.compactor._children, what="the child")
    [child] = server.compactor._children
    os.kill(child.pid, signal.SIGKILL)
    failed = outcome(server)
    assert failed["state"] == "failed"
    assert "signal 9" in failed["detail"]
    assert leftovers(server) == []
    assert server.put(FIRST + 100, b"new").status == 201
    check(server, expected)
    compact(server)
    assert outcome(server)["state"] == "done"
    check(server, expected | {FIRST + 100: b"new"})


def test_stop_in_the_middle(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        expected = fill(server, 30, size=100_000)
        compact(server, rate_bytes=20_000)
    with running(tmp_path) as server:
        assert leftovers(server) == []
        check(server, expected)


@pytest.mark.parametrize(("name", "begins_with"), [("CUT_WAIT_S", "begin_cut"), ("CUT_AGAIN_S", "end_cut")])
def test_stop_does_not_wait_for_an_upload_that_holds_the_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, begins_with: str
) -> None:
    """In each of the two waits there are; a day of it."""
    begun = threading.Event()
    step = getattr(Volume, begins_with)

    def begin(volume: Volume) -> None:
        step(volume)
        begun.set()

    monkeypatch.setattr(Volume, begins_with, begin)
    monkeypatch.setattr(compactor, "CUT_WAIT_S", 0.01)
    monkeypatch.setattr(compactor, name, 86_400.0)
    with running(tmp_path) as server:
        expected = fill(server, 10)
        slow = server.wire().send(request("PUT", put_url(FIRST + 200), os.urandom(LARGE))[:-1000])
        server.wait(lambda: FIRST + 200 in server.volume.claims, what="the reservation")
        compact(server)
        begun.wait()
    slow.close()
    with running(tmp_path) as server:
        assert leftovers(server) == []
        check(server, expected)


def test_compaction_that_would_not_fit_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fill(server, 10)
    monkeypatch.setattr(server.store.files, "free_bytes", lambda _: 5000)
    answer = admin(server, "/admin/compact", {"volume": 1})
    assert (answer.status, answer.json()["code"]) == (507, "disk_full")
    assert "are free beside the reserve" in answer.json()["detail"]
    check(server, expected)


def test_sealed_volume_is_not_compacted(server: Server) -> None:
    assert admin(server, "/admin/seal", {"volume": 1}).status == 200
    answer = admin(server, "/admin/compact", {"volume": 1})
    assert (answer.status, answer.json()["code"]) == (503, "volume_sealed")


@pytest.mark.parametrize("order", [{"rate_bytes": -1}, {"rate_bytes": "fast"}, {"drop_before_ms": True}])
def test_order_that_is_none(server: Server, order: dict[str, Any]) -> None:
    assert admin(server, "/admin/compact", {"volume": 1, **order}).status == 400
    assert admin(server, "/admin/compact", {"volume": 9}).status == 404


def test_directory_that_cannot_be_synced_seals_the_volume(server: Server) -> None:
    """The rename may be undone by a power cut then: both files hold the same, and neither may get more."""
    expected = fill(server, 10)
    files = server.store.files

    class Unsyncable(type(files)):  # type: ignore[misc]
        def sync_directory(self, path: Path) -> None:
            raise OSError(5, "a disk that fails")

    server.call(lambda: setattr(server.volume, "files", Unsyncable()))
    compact(server)
    assert outcome(server)["state"] == "done"
    assert server.put(FIRST + 100, b"new").status == 503
    check(server, expected)
    tidy(files, server.volume.path)
    server.call(lambda: setattr(server.volume, "files", files))
