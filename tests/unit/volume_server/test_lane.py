"""The confirm lane against a master that refuses, hangs up, is busy or wrong about the time."""

import asyncio
import dataclasses
import json
import os
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.volume_server.fake_master import FakeMaster, committed
from tests.unit.volume_server.serving import FIRST, KID, SECRET, Answer, Server, put_url, request, running
from volume_server import lane as module
from volume_server.clock import Clock
from volume_server.commit import Put
from volume_server.lane import ConfirmLane, are_verdicts, encode_batch
from volume_server.leases import Lease
from volume_server.master import Credentials
from volume_server.store import Identity


class Lane:
    """A `ConfirmLane` in the server's `confirmer` place, made once there is a loop."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.lane: ConfirmLane | None = None

    def start(self, server: Server) -> None:
        credentials = Credentials(Identity(secrets={str(KID): SECRET.hex()}, kid=KID), server.clock)
        self.lane = ConfirmLane(self.url, credentials, server.loop)

    def confirm(self, put: Put, done: Any) -> None:
        assert self.lane is not None
        self.lane.confirm(put, done)


@pytest.fixture
def master() -> Iterator[FakeMaster]:
    with FakeMaster() as started:
        yield started


@pytest.fixture(autouse=True)
def _short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONFIRM_DEADLINE_MS", 300)
    monkeypatch.setattr(module, "CONFIRM_GRACE_S", 0.1)
    monkeypatch.setattr(module, "RETRY_S", (0.001, 0.001, 0.001))


@pytest.fixture
def server(tmp_path: Path, master: FakeMaster) -> Iterator[Server]:
    lane = Lane(master.url)
    with running(tmp_path / "data", confirmer=lane) as started:
        lane.start(started)
        yield started
        close(started)


def lane_of(server: Server) -> ConfirmLane:
    assert isinstance(server.confirmer, Lane)
    assert server.confirmer.lane is not None
    return server.confirmer.lane


def close(server: Server) -> None:
    asyncio.run_coroutine_threadsafe(lane_of(server).close(), server.loop).result(60)


def refusal(status: int = 412, code: str = "precondition_failed") -> dict[str, Any]:
    return {"state": "refused", "status": status, "code": code, "title": "No", "detail": "it changed"}


def timed(server: Server, needle: int = FIRST) -> tuple[Answer, float]:
    started = time.monotonic()
    answer = server.put(needle, b"x")
    return answer, time.monotonic() - started


def test_confirm_is_what_the_protocol_says(server: Server, master: FakeMaster) -> None:
    before_ms = server.clock.now_ms()
    url = put_url()
    answer = server.ask(
        "PUT", url, b"hello", Warehouse_Key="k", Content_Type="text/plain", Warehouse_Meta_A="1", If_Match="e"
    )
    assert (answer.status, answer.json()["etag"], answer.json()["crc32"]) == (201, f"{FIRST:016x}", 0x3610A686)
    [body] = master.confirms
    assert body["intents"] == [url.partition("intent=")[2].partition("&")[0]]
    [row] = body["needles"]
    assert row[:9] == [0, f"{FIRST:016x}", 5, 0x3610A686, "k", "text/plain", {"a": "1"}, "e", False]
    assert before_ms <= row[9] <= body["deadline_ms"] <= server.clock.now_ms() + 300
    assert lane_of(server).credentials.identity.sequence == 7


def test_what_waits_goes_in_one_batch_over_one_connection(server: Server, master: FakeMaster) -> None:
    go_on = threading.Event()

    def late(body: dict[str, Any]) -> Any:
        go_on.wait(60)
        return committed(body)

    master.answers = [late]
    first = server.wire().send(request("PUT", put_url(), b"x"))
    server.wait(lambda: len(master.confirms) == 1, what="the first batch")
    others = [server.wire().send(request("PUT", put_url(FIRST + number), b"x")) for number in range(1, 20)]
    server.wait(lambda: len(lane_of(server).waiting) == 19, what="the others to queue up")
    go_on.set()
    assert [wire.answer().status for wire in (first, *others)] == [201] * 20
    assert [len(body["needles"]) for body in master.confirms] == [1, 19]
    assert len(set(master.confirms[1]["intents"])) == len(master.confirms[1]["intents"])
    assert master.connections == 1


def test_refusal_reaches_the_client_once_the_needle_is_buried(server: Server, master: FakeMaster) -> None:
    master.answers = [(200, {"sequence": 1, "verdicts": [refusal()]})]
    assert server.put(FIRST, b"x").code == (412, "precondition_failed")
    assert server.call(lambda: server.volume.verdict_of_dead(FIRST)) == "412 precondition_failed"
    assert server.put(FIRST, b"x").code == (412, "precondition_failed")
    assert len(master.confirms) == 1


def test_master_that_is_not_there_is_503_at_once_and_the_same_put_succeeds_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONFIRM_DEADLINE_MS", 600_000)
    with FakeMaster() as gone:
        url = gone.url
    lane = Lane(url)
    with running(tmp_path / "data", confirmer=lane) as server:
        lane.start(server)
        assert server.put(FIRST, b"x").code == (503, "master_unavailable")
        close(server)
        with FakeMaster() as back:
            lane.url = back.url
            lane.start(server)
            assert server.put(FIRST, b"x").status == 201
            [body] = back.confirms
            close(server)
    assert body["needles"][0][1] == f"{FIRST:016x}"


def test_lost_answer_is_unknown_only_after_the_deadline(server: Server, master: FakeMaster) -> None:
    master.answers = [None] * 4
    answer, took_s = timed(server)
    assert answer.code == (503, "outcome_unknown")
    assert took_s >= 0.3
    assert server.call(lambda: server.volume.stored_length(FIRST))  # durable, and not buried
    assert server.put(FIRST, b"x").status == 201


def test_lost_answer_is_asked_for_again(server: Server, master: FakeMaster) -> None:
    """The master judges a needle once; asked again it says the same again."""
    master.answers = [None]
    assert server.put(FIRST, b"x").status == 201
    assert master.confirms[0]["needles"] == master.confirms[1]["needles"]


def test_answer_that_does_not_come_is_unknown(server: Server, master: FakeMaster) -> None:
    end = threading.Event()
    master.answers = [lambda _: (end.wait(60), None)[1]] * 4
    answer, took_s = timed(server)
    end.set()
    assert answer.code == (503, "outcome_unknown")
    assert took_s >= 0.3


def test_busy_master_is_asked_again(server: Server, master: FakeMaster) -> None:
    master.answers = [(503, {"code": "busy"}), (429, {"code": "throttled"})]
    assert server.put(FIRST, b"x").status == 201
    assert len(master.confirms) == 3


def test_master_that_stays_busy_is_unavailable(server: Server, master: FakeMaster) -> None:
    master.answers = [(503, {"code": "busy"})] * 9
    assert server.put(FIRST, b"x").code == (503, "master_unavailable")
    assert len(master.confirms) == 4


def test_deadline_that_passed_is_certain(server: Server, master: FakeMaster) -> None:
    master.answers = [(503, {"code": "deadline_passed"})]
    assert server.put(FIRST, b"x").code == (503, "master_unavailable")
    assert len(master.confirms) == 1


def test_deadline_that_passed_says_nothing_of_an_earlier_try(server: Server, master: FakeMaster) -> None:
    master.answers = [None, (503, {"code": "deadline_passed"})]
    assert server.put(FIRST, b"x").code == (503, "outcome_unknown")


@pytest.mark.parametrize("status", [500, 502, 504])
def test_error_half_way_may_have_committed(server: Server, master: FakeMaster, status: int) -> None:
    master.answers = [(status, {"code": "internal"})] * 4
    assert server.put(FIRST, b"x").code == (503, "outcome_unknown")


@pytest.mark.parametrize(
    "verdicts",
    [
        [], [{"state": "committed"}] * 2, [{}], ["x"], [{"state": "other"}], [{"state": "refused"}],
        [refusal(status=99)], [refusal(code="no such\ncode")], [refusal(code="")], [refusal(code="c" * 65)], None,
    ],
)  # fmt: skip
def test_verdicts_that_are_none_are_not_carried_out(server: Server, master: FakeMaster, verdicts: Any) -> None:
    master.answers = [(200, {"sequence": 1, "verdicts": verdicts})] * 4
    assert server.put(FIRST, b"x").code == (503, "outcome_unknown")
    assert server.call(lambda: server.volume.stored_length(FIRST))
    assert server.put(FIRST, b"x").status == 201  # the lane lives


def test_verdicts_of_each_kind_are_known() -> None:
    assert are_verdicts([{"state": "committed"}, {"state": "stored"}, refusal(507, "quota_exceeded")], 3)


def test_refusal_of_the_whole_is_told_and_not_repeated(
    server: Server, master: FakeMaster, caplog: pytest.LogCaptureFixture
) -> None:
    master.answers = [(403, {"code": "wrong_server", "detail": "d"})]
    assert server.put(FIRST, b"x").code == (503, "master_unavailable")
    assert "refuses a confirm: 403 wrong_server" in caplog.text


@pytest.mark.parametrize("off_ms", [-3_600_000, 3_600_000])
def test_wrong_clock_is_set_by_the_master_and_the_deadline_anew(
    server: Server, master: FakeMaster, off_ms: int
) -> None:
    url = put_url()
    server.clock.offset_ms = off_ms
    server.gate.clock = Clock()  # the lease itself is good
    masters_ms = time.time_ns() // 1_000_000
    master.answers = [(401, {"code": "clock_skew", "now_ms": masters_ms})]
    assert server.ask("PUT", url, b"x").status == 201
    assert abs(server.clock.offset_ms) < 60_000
    assert masters_ms <= master.confirms[1]["deadline_ms"] <= masters_ms + 60_000


def test_server_that_is_not_registered_yet_confirms_nothing(server: Server, master: FakeMaster) -> None:
    lane_of(server).credentials.identity.kid = 0
    assert server.put(FIRST, b"x").code == (503, "master_unavailable")
    assert master.confirms == []


def test_connection_that_was_closed_while_idle_is_made_anew(
    server: Server, master: FakeMaster, caplog: pytest.LogCaptureFixture
) -> None:
    assert server.put(FIRST, b"x").status == 201
    master.hang_up()
    assert server.put(FIRST + 1, b"x").status == 201
    assert [len(body["needles"]) for body in master.confirms] == [1, 1]
    assert "got no answer" not in caplog.text  # it was not even tried over the dead one


def test_connection_may_have_any_descriptor(server: Server, master: FakeMaster) -> None:
    """select() takes none above 1023: a server with many clients has its lane there."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 1200:
        pytest.skip("this machine allows too few descriptors")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    taken = [os.dup(0) for _ in range(1050)]
    try:
        assert server.put(FIRST, b"x").status == 201
        link = lane_of(server)._link
        assert link is not None
        assert link.transport.get_extra_info("socket").fileno() > 1023
        assert server.put(FIRST + 1, b"x").status == 201
        assert master.connections == 1
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_intent_stands_once_in_a_batch() -> None:
    lease = Lease(intent=None, raw=b"", text="AA")  # type: ignore[arg-type]
    put = Put(
        volume=None,
        lease=lease,
        needle=1,
        size_bytes=2,
        meta=b"",
        appended_ms=3,
        answer=lambda *_: None,  # type: ignore[arg-type]
    )
    other = dataclasses.replace(put, lease=Lease(intent=None, raw=b"", text="BB"))  # type: ignore[arg-type]
    body = json.loads(encode_batch([put, other, put], 9))
    assert body["intents"] == ["AA", "BB"]
    assert [row[0] for row in body["needles"]] == [0, 1, 0]
