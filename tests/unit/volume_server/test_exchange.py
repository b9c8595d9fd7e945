"""The lane's connection, and peers that answer in all the ways that HTTP/1.1 allows, and in some that it does not."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import h11
import pytest

from volume_server.exchange import MAX_BODY_BYTES, MAX_HEAD_BYTES, AnswerUnreadable, ConnectionClosed, Exchange

TIMEOUT_S = 20.0


class Peer:
    """Takes one connection, reads a request with h11 before each of its answers, then closes."""

    def __init__(self, answers: list[bytes | None]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.answers = answers
        self.requests: list[tuple[h11.Request, bytes]] = []
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            for answer in self.answers:
                self.requests.append(self._request(connection))
                if answer is None:  # silence, until the other side goes
                    connection.recv(1)
                else:
                    self._send(connection, answer)

    @staticmethod
    def _send(connection: socket.socket, answer: bytes) -> None:
        """In pieces that respect nothing."""
        size = max(7, len(answer) // 100)
        with contextlib.suppress(ConnectionError):  # the other side may have heard enough
            for at in range(0, len(answer), size):
                connection.sendall(answer[at : at + size])

    @staticmethod
    def _request(connection: socket.socket) -> tuple[h11.Request, bytes]:
        reader, head, body = h11.Connection(h11.SERVER), None, b""
        while True:
            event = reader.next_event()
            if event is h11.NEED_DATA:
                reader.receive_data(connection.recv(65536))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                assert head is not None
                return head, body


@contextlib.contextmanager
def exchange_with(*answers: bytes | None) -> Iterator[tuple[Exchange, Peer]]:
    peer = Peer(list(answers))
    exchange = Exchange("127.0.0.1", peer.listener.getsockname()[1], secure=False, timeout_s=TIMEOUT_S)
    try:
        yield exchange, peer
    finally:
        exchange.close()
        peer.thread.join(TIMEOUT_S)
        peer.listener.close()


def post(exchange: Exchange, body: bytes = b"{}", *, timeout_s: float = TIMEOUT_S) -> tuple[int, bytes]:
    return exchange.post("/x?y=1", {"A": "b"}, body, timeout_s=timeout_s)


def test_request_is_what_a_server_expects() -> None:
    with exchange_with(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") as (exchange, peer):
        assert post(exchange, b"\x00\xff" * 1000) == (200, b"ok")
        port = peer.listener.getsockname()[1]
    [(request, body)] = peer.requests
    assert (request.method, request.target, body) == (b"POST", b"/x?y=1", b"\x00\xff" * 1000)
    assert dict(request.headers) == {b"host": b"127.0.0.1:%d" % port, b"a": b"b", b"content-length": b"2000"}


@pytest.mark.parametrize(
    ("answer", "status", "body", "closes"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-LENGTH:  3 \r\n\r\nabc", 200, b"abc", False),
        (b"HTTP/1.1 503 Not Now\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 503, b"", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx", 200, b"x", False),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\nA\r\n0123456789\r\n0\r\nT:\r\n\r\n",
            200, b"abc0123456789", False,
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nall that comes", 200, b"all that comes", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, b"x", True),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx", 200, b"x", False),
    ],
)  # fmt: skip
def test_answers_of_all_forms(answer: bytes, status: int, body: bytes, closes: bool) -> None:
    with exchange_with(answer) as (exchange, _):
        assert post(exchange) == (status, body)
        assert exchange.will_close == closes


def test_one_connection_many_requests() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n\r\n"
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"
    with exchange_with(plain + b"a", chunked, plain + b"c") as (exchange, peer):
        assert [post(exchange)[1] for _ in range(3)] == [b"a", b"b", b"c"]
        assert len(peer.requests) == 3


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", ConnectionClosed),
        (b"HTTP/1.1 200 OK\r\nContent-Le", ConnectionClosed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", ConnectionClosed),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", ConnectionClosed),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcdefgh\r\n0\r\n\r\n", AnswerUnreadable),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n", AnswerUnreadable),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc", AnswerUnreadable),
        (b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nabcde", AnswerUnreadable),
        (b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nabcde", AnswerUnreadable),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), AnswerUnreadable),
        (b"HTTP/2 200\r\n\r\n", AnswerUnreadable),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", AnswerUnreadable),
        (b"SSH-2.0-OpenSSH\r\n\r\n", AnswerUnreadable),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * (2 * MAX_HEAD_BYTES // 6), AnswerUnreadable),
    ],
)
def test_what_is_no_whole_answer_raises(answer: bytes, error: type[Exception]) -> None:
    with exchange_with(answer) as (exchange, _), pytest.raises(error):
        post(exchange)


def test_silence_ends_in_time() -> None:
    with exchange_with(None) as (exchange, _), pytest.raises(TimeoutError):
        post(exchange, timeout_s=0.05)


def test_trickle_ends_in_time() -> None:
    """Each byte in time is not the answer in time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gone = threading.Event()

        def trickle() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(ConnectionError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while not gone.wait(0.01):
                    connection.sendall(b"x")

        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        exchange = Exchange("127.0.0.1", listener.getsockname()[1], secure=False, timeout_s=TIMEOUT_S)
        with pytest.raises(TimeoutError):
            post(exchange, timeout_s=0.2)
        gone.set()
        exchange.close()
        thread.join(TIMEOUT_S)


def test_dropped_is_seen_before_anything_is_sent() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
    with exchange_with(answer, answer + b"unasked") as (exchange, peer):
        assert not exchange.is_dropped()
        assert post(exchange) == (200, b"x")
        assert not exchange.is_dropped()
        assert post(exchange) == (200, b"x")
        peer.thread.join(TIMEOUT_S)
        assert exchange.is_dropped()


def test_nobody_there_is_an_oserror() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        Exchange("127.0.0.1", port, secure=False, timeout_s=TIMEOUT_S)
