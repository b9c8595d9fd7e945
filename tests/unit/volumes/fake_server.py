"""A tiny volume server for tests of the master's client: it checks signatures and keeps needles in a dict.

That it answers as the real one does is held by `client_contract`, whose checks run against both.
"""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
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
        self.refusals: dict[str, tuple[int, dict[str, Any]]] = {}
        """By path: status and problem document that are sent instead."""
        self.damage: dict[int, list[dict[str, Any]]] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        """Path and body of what was asked under ``/admin/``."""
        self.steps = 2
        """A compaction or a scrub is over when ``/usage`` has been asked so many times."""
        self.fails_with = ""
        """What a compaction or a scrub ends in, when it shall fail."""
        self.may_answer = threading.Event()
        """Cleared: it hangs, as a stopped process does, with its connections open."""
        self.may_answer.set()
        self.on_request: Callable[[], object] = lambda: None
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
        self.may_answer.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def usage(self) -> dict[str, Any]:
        """The figures, after every running job has come a step further."""
        for figures in self.volumes.values():
            self._step(figures, "compaction")
            self._step(figures, "scrub")
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

    def close(self, volume: int, epoch: int) -> dict[str, Any]:
        figures = self.volumes[volume]
        figures["epoch"] = epoch
        figures["replication"] = {"role": "secondary", "epoch": epoch, "state": "closed", "detail": ""}
        return figures

    def compact(self, volume: int) -> dict[str, Any]:
        figures = self.volumes[volume]
        if not _is_running(figures["compaction"]):
            figures["compaction"] = _job(figures["size_bytes"]) | {"reclaimed_bytes": 0}
        return figures

    def scrub(self, volume: int) -> dict[str, Any]:
        figures = self.volumes[volume]
        if not _is_running(figures["scrub"]):
            figures["scrub"] = _job(figures["size_bytes"])
        return figures

    def damaged(self, volume: int) -> dict[str, Any]:
        records = self.damage.get(volume, [])
        return {"volume": volume, "count": len(records), "damaged": records[:1000]}

    def _step(self, figures: dict[str, Any], name: str) -> None:
        job = figures[name]
        if not _is_running(job):
            return
        job["done_bytes"] = min(job["total_bytes"], job["done_bytes"] + -(-job["total_bytes"] // self.steps))
        if job["done_bytes"] < job["total_bytes"]:
            return
        job["ended_ms"] = job["started_ms"] + 1000
        job["state"] = "failed" if self.fails_with else "done"
        job["detail"] = self.fails_with
        if self.fails_with:
            return
        if name == "compaction":
            job["reclaimed_bytes"] = figures["garbage_bytes"]
            figures["size_bytes"] -= figures["garbage_bytes"]
            figures["garbage_bytes"] = 0
            figures["revision"] += 1
        else:
            figures["damaged_count"] = len(self.damage.get(figures["volume"], []))
            figures["scrubbed_ms"] = job["ended_ms"]


def _is_running(job: dict[str, Any] | None) -> bool:
    return job is not None and job["state"] == "running"


def _job(total_bytes: int) -> dict[str, Any]:
    now_ms = int(time.time() * 1000)
    return {
        "state": "running", "done_bytes": 0, "total_bytes": total_bytes, "detail": "", "started_ms": now_ms,
        "ended_ms": None,
    }  # fmt: skip


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
            fake.on_request()
            fake.may_answer.wait()
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
            elif self.path.startswith("/admin/"):
                self._serve_admin(json.loads(body))
            else:
                self._send_json(404, {"code": "not_found", "detail": "Nothing here."})

        def _serve_admin(self, asked: dict[str, Any]) -> None:
            fake.asked.append((self.path, asked))
            volume = asked["volume"]
            answers: dict[str, Callable[[], dict[str, Any]]] = {
                "/admin/delete": lambda: fake.delete(volume, asked["needles"]),
                "/admin/seal": lambda: fake.seal(volume),
                "/admin/close": lambda: fake.close(volume, asked["epoch"]),
                "/admin/compact": lambda: fake.compact(volume),
                "/admin/scrub": lambda: fake.scrub(volume),
                "/admin/damaged": lambda: fake.damaged(volume),
            }
            if self.path in fake.refusals:
                self._send_json(*fake.refusals[self.path])
            elif self.path not in answers:
                self._send_json(404, {"code": "not_found", "detail": "Nothing here."})
            elif volume not in fake.volumes:
                self._send_json(404, {"code": "volume_unknown", "detail": "No such volume."})
            elif self.path == "/admin/close" and asked["epoch"] < fake.volumes[volume]["epoch"]:
                self._send_json(409, {"code": "epoch_old", "detail": "A higher one was ordered."})
            else:
                self._send_json(200, answers[self.path]())

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
            with suppress(BrokenPipeError, ConnectionResetError):  # the master has given up on an answer that hung
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Tests are quiet."""

    return Handler
