"""Clients that stop in the middle of a request get their thread taken away; lanes keep theirs for a moment."""

import contextlib
import http.client
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import pytest
from gunicorn.config import Config

from tests.support.programs import clean_environment, free_ports, start, stop
from tests.support.waiting import wait_until
from warehouse_site import gunicorn_worker
from warehouse_site.gunicorn_worker import BYTES_PER_S, LANE_PATH, PatientUnreader, PatientWorker
from warehouse_site.up import WORKER_CLASS

THREADS = 4
APPLICATION = """
import threading
def application(environ, start_response):
    body = environ["wsgi.input"].read()
    thread = str(threading.get_ident())
    start_response("200 OK", [("Content-Length", str(len(body))), ("Thread", thread)])
    return [body]
"""
APPLICATION_WITH_LANE = (
    APPLICATION
    + """
import re
from types import SimpleNamespace
REQUEST = re.compile(rb"POST /api/v1/internal/confirm [!-~]+\\r\\nHost: lane\\r\\nContent-Length: ([0-9]+)\\r\\n\\r\\n")
class Lane:
    def head_of(self, raw):
        match = REQUEST.match(raw)
        return match and SimpleNamespace(body_at=match.end(), body_bytes=int(match[1]))
    def answer(self, head, body):
        assert len(body) == head.body_bytes
        return b"HTTP/1.1 200 OK\\r\\nShort: yes\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body)
application.lane = Lane()
"""
)
HALF_A_HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nX-Half: "
HALF_A_BODY = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_silent_client_is_given_up(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    unreader = PatientUnreader(ours, grace_s=0.05)
    theirs.send(b"GET")
    assert unreader.chunk() == b"GET"
    assert not unreader.gave_up
    assert unreader.chunk() == b""
    assert unreader.gave_up
    theirs.send(b"more")
    assert unreader.chunk() == b""
    assert ours.gettimeout() is None


def test_bytes_buy_time_and_a_new_request_starts_anew(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    unreader = PatientUnreader(ours, grace_s=5)
    theirs.send(bytes(BYTES_PER_S))
    got = 0
    while got < BYTES_PER_S:
        got += len(unreader.chunk(BYTES_PER_S))
    assert 5 < unreader._left_s <= 6
    unreader.new_request()
    assert unreader._left_s == 5


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    with gunicorn(tmp_path, APPLICATION) as port:
        yield port


@pytest.fixture
def port_with_lane(tmp_path: Path) -> Iterator[int]:
    with gunicorn(tmp_path, APPLICATION_WITH_LANE) as port:
        yield port


@contextlib.contextmanager
def gunicorn(tmp_path: Path, application: str) -> Iterator[int]:
    """A gunicorn with few threads, run by the worker that `up` uses."""
    (tmp_path / "patience_app.py").write_text(application)
    [port] = free_ports(1)
    command = [
        *(sys.executable, "-m", "gunicorn", "patience_app:application", "--pythonpath", str(tmp_path)),
        *("--bind", f"127.0.0.1:{port}", "--worker-class", WORKER_CLASS, "--threads", str(THREADS)),
        *("--keep-alive", "75", "--no-control-socket"),
    ]
    process = start(command, log=tmp_path / "log", env=clean_environment())
    try:
        wait_until(lambda: _answers(port), what="gunicorn")
        yield port
    finally:
        stop(process, signal.SIGTERM)


def test_clients_that_stop_do_not_stop_the_store(port: int) -> None:
    kept = http.client.HTTPConnection("127.0.0.1", port)
    kept.request("POST", "/", b"first")
    assert kept.getresponse().read() == b"first"
    stalled = [socket.create_connection(("127.0.0.1", port)) for _ in range(THREADS)]
    try:
        for number, one in enumerate(stalled):
            one.sendall(HALF_A_BODY if number % 2 else HALF_A_HEAD)
        # All threads wait for them; were they held for ever, this would never be answered.
        kept.request("POST", "/", b"second")
        assert kept.getresponse().read() == b"second"
        for one in stalled:
            while one.recv(4096):
                pass  # what it ends with is the end of the connection
    finally:
        for one in stalled:
            one.close()
        kept.close()


class TestLane:
    @pytest.fixture
    def worker(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[PatientWorker]:
        """A worker with eight threads, two of which may wait with lanes; it never waits in vain."""
        monkeypatch.setattr(gunicorn_worker, "LANE_WAIT_S", 0)
        config = Config()
        config.set("threads", 8)
        worker = PatientWorker(0, os.getppid(), [], None, 30, config, logging.getLogger(__name__))
        yield worker
        worker.tmp.close()

    @staticmethod
    def connection(sock: socket.socket, path: str = LANE_PATH) -> SimpleNamespace:
        parser = SimpleNamespace(mesg=SimpleNamespace(path=path), unreader=PatientUnreader(sock))
        return SimpleNamespace(sock=sock, parser=parser)

    def test_what_comes_next_is_seen(self, worker: PatientWorker, pair: tuple[socket.socket, socket.socket]) -> None:
        lane = self.connection(pair[0])
        assert not worker._next_of_lane(lane)
        pair[1].send(b"POST")
        assert worker._next_of_lane(lane)

    def test_what_was_read_ahead_is_seen(
        self, worker: PatientWorker, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        lane = self.connection(pair[0])
        lane.parser.unreader.unread(b"POST")
        assert worker._next_of_lane(lane)

    def test_other_connections_go_back_to_the_poller(
        self, worker: PatientWorker, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        pair[1].send(b"POST")
        assert not worker._next_of_lane(self.connection(pair[0], "/api/v1/health"))

    def test_a_worker_that_stops_waits_for_nothing(
        self, worker: PatientWorker, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        pair[1].send(b"POST")
        worker.alive = False
        assert not worker._next_of_lane(self.connection(pair[0]))

    def test_only_a_quarter_of_the_threads_waits(
        self, worker: PatientWorker, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Four lanes that ask one inside the other: while one waits, the next one asks."""
        lane = self.connection(pair[0])
        pair[1].send(b"POST")
        answers: list[bool] = []
        real = gunicorn_worker.select.poll

        def poll() -> object:
            if len(answers) < 3:
                answers.append(worker._next_of_lane(lane))
            return real()

        monkeypatch.setattr(gunicorn_worker.select, "poll", poll)
        outermost = worker._next_of_lane(lane)
        assert [*answers, outermost] == [False, True, True]
        answers[:] = [True] * 3
        assert worker._next_of_lane(lane)  # the places were given back

    def test_batches_of_a_lane_meet_one_thread(self, port: int) -> None:
        others = [http.client.HTTPConnection("127.0.0.1", port) for _ in range(THREADS)]
        threads = set()
        for other in others:  # all threads of the pool have started when each has answered in its turn
            other.request("POST", "/", b"x")
        for other in others:
            response = other.getresponse()
            threads.add(response.headers["Thread"])
            response.read()
            other.close()
        request = f"POST {LANE_PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx".encode()
        with socket.create_connection(("127.0.0.1", port)) as lane, lane.makefile("rb") as answers:
            lane.sendall(request * 20)  # each is there before the last one is answered
            seen = set()
            for _ in range(20):
                while (line := answers.readline()) != b"\r\n":
                    if line.startswith(b"Thread:"):
                        seen.add(line)
                assert answers.read(1) == b"x"
        assert len(seen) == 1


class TestShortWay:
    @pytest.fixture
    def lane(self, port_with_lane: int) -> Iterator["LaneClient"]:
        """A connection that has had its first confirm, which always goes the whole way."""
        with socket.create_connection(("127.0.0.1", port_with_lane)) as sock, sock.makefile("rb") as answers:
            lane = LaneClient(sock, answers)
            lane.sock.sendall(confirm(b"first"))
            assert lane.answer() == ("whole", b"first")
            yield lane

    @pytest.mark.parametrize("size", [0, 1, 10_000, 1_000_000])
    def test_confirms_of_a_lane_take_it(self, lane: "LaneClient", size: int) -> None:
        body = os.urandom(size)
        for _ in range(3):
            lane.sock.sendall(confirm(body))
            assert lane.answer() == ("short", body)

    def test_many_at_once_are_answered_in_their_order(self, lane: "LaneClient") -> None:
        bodies = [b"%d" % number * number for number in range(50)]
        lane.sock.sendall(b"".join(confirm(body, host=b"a" if at % 3 else b"lane") for at, body in enumerate(bodies)))
        for at, body in enumerate(bodies):
            way, answered = lane.answer()
            assert answered == body
            if at % 3:
                assert way == "whole"

    def test_pieces_are_put_together(self, lane: "LaneClient") -> None:
        """Wherever it was cut: which way it takes may depend on that, the answer must not."""
        raw = confirm(b"0123456789")
        for cut in range(1, len(raw)):
            lane.sock.sendall(raw[:cut])
            lane.sock.sendall(raw[cut:])
            assert lane.answer()[1] == b"0123456789"

    def test_after_a_rest_it_still_takes_it(self, lane: "LaneClient") -> None:
        time_over = gunicorn_worker.LANE_WAIT_S * 3
        assert not select.select([lane.sock], [], [], time_over)[0]  # the poller has it now, and says nothing
        lane.sock.sendall(confirm(b"again"))
        assert lane.answer() == ("short", b"again")

    def test_other_requests_on_it_go_the_whole_way(self, lane: "LaneClient") -> None:
        lane.sock.sendall(b"POST / HTTP/1.1\r\nHost: lane\r\nContent-Length: 1\r\n\r\nx")
        assert lane.answer() == ("whole", b"x")
        lane.sock.sendall(confirm(b"y"))
        assert lane.answer() == ("whole", b"y")  # its last request was no confirm
        lane.sock.sendall(confirm(b"z"))
        assert lane.answer() == ("short", b"z")

    def test_one_that_goes_in_the_middle_holds_nothing(self, port_with_lane: int) -> None:
        for _ in range(2 * THREADS):
            with socket.create_connection(("127.0.0.1", port_with_lane)) as sock, sock.makefile("rb") as answers:
                sock.sendall(confirm(b"first"))
                LaneClient(sock, answers).answer()
                sock.sendall(confirm(b"cut off")[:-1])
        with socket.create_connection(("127.0.0.1", port_with_lane)) as sock, sock.makefile("rb") as answers:
            sock.sendall(confirm(b"fine"))
            assert LaneClient(sock, answers).answer() == ("whole", b"fine")


def confirm(body: bytes, *, host: bytes = b"lane") -> bytes:
    head = f"POST {LANE_PATH} HTTP/1.1\r\nHost: ".encode() + host
    return head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@dataclass
class LaneClient:
    sock: socket.socket
    answers: BinaryIO

    def __post_init__(self) -> None:
        self.sock.settimeout(20)

    def answer(self) -> tuple[str, bytes]:
        """Which way it came, and its body."""
        way, length = "whole", 0
        assert self.answers.readline().startswith(b"HTTP/1.1 200")
        while (line := self.answers.readline()) != b"\r\n":
            name, _, value = line.partition(b":")
            if name == b"Short":
                way = "short"
            if name == b"Content-Length":
                length = int(value)
        return way, self.answers.read(length)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port)):
            return True
    except ConnectionRefusedError:
        return False
