"""Clients that stop in the middle of a request get their thread taken away."""

import http.client
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import clean_environment, free_ports, start, stop
from tests.support.waiting import wait_until
from warehouse_site.gunicorn_worker import BYTES_PER_S, PatientUnreader
from warehouse_site.up import WORKER_CLASS

THREADS = 4
APPLICATION = """
def application(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
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
    """A gunicorn with few threads, run by the worker that `up` uses."""
    (tmp_path / "patience_app.py").write_text(APPLICATION)
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


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port)):
            return True
    except ConnectionRefusedError:
        return False
