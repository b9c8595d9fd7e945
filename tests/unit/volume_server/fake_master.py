"""A master that answers as a test tells it to, and remembers what it was asked."""

import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from volume_server import signing

STORE = "11111111-2222-3333-4444-555555555555"
SECRET = b"\x01" * 32

Answer = tuple[int, dict[str, Any]] | None
"""Status and body; None: the connection ends without an answer."""


class FakeMaster:
    """``answers`` are given to confirms in turn; when they are used up, every needle is committed."""

    def __init__(self) -> None:
        self.confirms: list[dict[str, Any]] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.answers: list[Answer | Callable[[dict[str, Any]], Answer]] = []
        self.instructions: list[dict[str, Any]] = []
        self.revoked: dict[str, int] = {}
        self.connections = 0
        self._open: list[socket.socket] = []
        self._http = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def hang_up(self) -> None:
        """End all connections, which are idle."""
        for connection in self._open:
            connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def answer(self, name: str, body: dict[str, Any]) -> Answer:
        if name != "confirm":
            self.calls.append((name, body))
            return self._settings(name)
        self.confirms.append(body)
        if self.answers:
            told = self.answers.pop(0)
            return told(body) if callable(told) else told
        return committed(body)

    def _settings(self, name: str) -> Answer:
        answer: dict[str, Any] = {
            "store": STORE, "sequence": 1, "now_ms": time.time_ns() // 1_000_000, "settings": {},
            "revoked": self.revoked, "instructions": self.instructions,
        }  # fmt: skip
        if name == "register":
            answer |= {"kid": 1, "secret": SECRET.hex()}
        return 200, answer


def committed(body: dict[str, Any]) -> Answer:
    verdicts = [
        {"state": "committed", "bucket": "b", "key": row[4], "size": row[2], "etag": row[1], "updated_at": "t"}
        for row in body["needles"]
    ]
    return 200, {"sequence": 7, "verdicts": verdicts}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is no error here."""


def _handler(master: FakeMaster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            master.connections += 1
            master._open.append(self.connection)

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            name = self.path.rpartition("/")[2]
            if name == "confirm":
                assert signing.request_is_signed(
                    SECRET, self.headers["Warehouse-Signature"], direction=signing.TO_MASTER, method="POST",
                    target=self.path, body=raw, server=self.headers["Warehouse-Server"],
                    time_ms=int(self.headers["Warehouse-Time"]),
                )  # fmt: skip
            answer = master.answer(name, json.loads(raw))
            if answer is None:
                self.close_connection = True
                return
            status, body = answer
            out = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(out)))
            self.end_headers()
            self.wfile.write(out)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
