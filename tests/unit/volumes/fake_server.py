"""A tiny volume server for tests of the master's client: it checks signatures and keeps needles in a dict.

That it answers as the real one does is held by `client_contract`, whose checks run against both.
"""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from uuid import UUID, uuid4

from volume_server.signing import (
    HEADER_KID,
    HEADER_SERVER,
    HEADER_SIGNATURE,
    HEADER_TIME,
    REQUEST_WINDOW_MS,
    TO_SERVER,
    request_is_signed,
)
from volumes.derived_secrets import server_secret


class FakeVolumeServer:
    def __init__(self) -> None:
        self.id: UUID = uuid4()
        self.instance = "fake-instance"
        self.kid = 1
        self.volumes: dict[int, dict[str, Any]] = {}
        self.needles: dict[int, set[int]] = {}
        self.bodies: dict[str, bytes] = {}
        self.answer: tuple[int, bytes] | None = None
        """Status and body that are sent instead of the right ones."""
        self.requests: list[str] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
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

    def usage(self) -> dict[str, Any]:
        return {
            "server": str(self.id),
            "instance": self.instance,
            "capacity_bytes": 1 << 40,
            "free_bytes": 1 << 39,
            "volumes": list(self.volumes.values()),
        }

    def delete(self, volume: int, needles: list[str]) -> dict[str, Any]:
        held = self.needles.get(volume, set())
        return {
            "deleted": [needle for needle in needles if int(needle, 16) in held],
            "absent": [needle for needle in needles if int(needle, 16) not in held],
        }

    def seal(self, volume: int) -> dict[str, Any]:
        self.volumes[volume]["state"] = "sealed"
        return self.volumes[volume]


def _handler(fake: FakeVolumeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fake.requests.append(f"{self.command} {self.path}")
            if fake.answer is not None:
                self._send(*fake.answer)
            elif self.path == "/healthz":
                self._send_json(200, {"status": "ok", "server": str(fake.id), "instance": fake.instance})
            elif self.path in fake.bodies:
                self._send_needle(fake.bodies[self.path])
            elif not self._is_signed(body):
                self._send_json(401, {"code": "signature_invalid", "detail": "Not signed."})
            elif self.path == "/usage":
                self._send_json(200, fake.usage())
            elif self.path == "/admin/delete":
                asked = json.loads(body)
                self._send_of_volume(asked["volume"], lambda: fake.delete(asked["volume"], asked["needles"]))
            elif self.path == "/admin/seal":
                asked = json.loads(body)
                self._send_of_volume(asked["volume"], lambda: fake.seal(asked["volume"]))
            else:
                self._send_json(404, {"code": "not_found", "detail": "Nothing here."})

        def _send_of_volume(self, volume: int, answer: Callable[[], dict[str, Any]]) -> None:
            if volume in fake.volumes:
                self._send_json(200, answer())
            else:
                self._send_json(404, {"code": "volume_unknown", "detail": "No such volume."})

        def _send_needle(self, body: bytes) -> None:
            asked = self.headers.get("Range")
            if asked is None:
                self._send(200, body)
                return
            first, last = asked.removeprefix("bytes=").split("-")
            self._send(206, body[int(first) : int(last) + 1 if last else None])

        def _is_signed(self, body: bytes) -> bool:
            time_ms = int(self.headers.get(HEADER_TIME, 0))
            return (
                self.headers.get(HEADER_SERVER) == str(fake.id)
                and self.headers.get(HEADER_KID) == str(fake.kid)
                and abs(time.time() * 1000 - time_ms) < REQUEST_WINDOW_MS
                and request_is_signed(
                    server_secret(fake.id, fake.kid),
                    self.headers.get(HEADER_SIGNATURE, ""),
                    direction=TO_SERVER,
                    method=self.command,
                    target=self.path,
                    body=body,
                    server=str(fake.id),
                    time_ms=time_ms,
                )
            )

        def _send_json(self, status: int, body: dict[str, Any]) -> None:
            self._send(status, json.dumps(body).encode())

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Tests are quiet."""

    return Handler
