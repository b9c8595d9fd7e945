"""A plain client of the HTTP API, so that tests see every answer as it is, refusals included.

The SDK retries, verifies and hides the wire; these tests are about the wire.
"""

import json
import zlib
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import quote, urlsplit

PROBLEM = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers (names in lower case) and body of one answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The stable code of a problem document; AssertionError when the answer is none."""
        assert self.headers.get("content-type", "").split(";")[0] == PROBLEM, self
        problem = self.json
        assert {"type", "title", "status", "code", "detail"} <= problem.keys(), problem
        assert problem["status"] == self.status, problem
        return str(problem["code"])


def send(
    method: str,
    url: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    *,
    timeout_s: float | None = None,
) -> Answer:
    """One request on a connection of its own; the path goes out exactly as it stands in the URL.

    ``timeout_s``: how long the connection may stand still before TimeoutError; None: for ever.
    """
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if (body or method in {"PUT", "POST", "PATCH"}) and "Content-Length" not in (headers or {}):
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        return _read(connection.getresponse())
    finally:
        connection.close()


def _read(response: HTTPResponse) -> Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read())


@dataclass(frozen=True, slots=True)
class Lease:
    """What `POST buckets/{b}/leases` answered."""

    volume: int
    first: int
    count: int
    max_bytes: int
    url: str

    def url_of(self, slot: int) -> str:
        return self.url.replace("{needle}", f"{self.first + slot:016x}")

    def put(self, slot: int, key: str, body: bytes, **headers: str) -> Answer:
        """PUT of the lease's needle number `slot`; header names with `_` for `-`."""
        return send("PUT", self.url_of(slot), body, put_headers(key, **headers))


def put_headers(key: str | None, **headers: str) -> dict[str, str]:
    sent = {"Content-Type": "application/octet-stream"}
    if key is not None:
        sent["Warehouse-Key"] = quote(key, safe="")
    return sent | {name.replace("_", "-"): value for name, value in headers.items()}


class Api:
    """The API of one store on behalf of one key."""

    def __init__(self, url: str, key: str, *, timeout_s: float | None = None) -> None:
        self.url = url.rstrip("/")
        self.key = key
        self.timeout_s = timeout_s
        self._access: str | None = None

    def answers(self) -> bool:
        """Whether the master takes requests."""
        try:
            return send("GET", f"{self.url}/api/v1/health", timeout_s=self.timeout_s).status in {200, 503}
        except OSError:
            return False

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """`path` below /api/v1/; the body as JSON. A dead token is renewed once."""
        answer = self._request(method, path, body, headers)
        if answer.status == 401:
            self._access = None
            answer = self._request(method, path, body, headers)
        return answer

    @property
    def access(self) -> str:
        """An access token of the key, got when it is first asked for."""
        if self._access is None:
            token = send(
                "POST",
                f"{self.url}/api/v1/tokens",
                json.dumps({"key": self.key}).encode(),
                {"Content-Type": "application/json"},
                timeout_s=self.timeout_s,
            )
            assert token.status == 200, token
            self._access = str(token.json["access"])
        return self._access

    def _request(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Answer:
        sent = {"Authorization": f"Bearer {self.access}", **{n.replace("_", "-"): v for n, v in headers.items()}}
        raw = b""
        if body is not None:
            raw = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        return send(method, f"{self.url}/api/v1/{path}", raw, sent, timeout_s=self.timeout_s)

    def get(self, path: str) -> Any:
        answer = self.request("GET", path)
        assert answer.status == 200, answer
        return answer.json

    def post(self, path: str, body: Any, status: int = 201) -> Any:
        answer = self.request("POST", path, body)
        assert answer.status == status, answer
        return answer.json

    # -- what the tests say often -------------------------------------------------------------------------------------

    def make_bucket(self, name: str, **settings: Any) -> str:
        self.post("buckets", {"name": name, **settings})
        return name

    def lease(self, bucket: str, *, count: int = 1, max_bytes: int = 1 << 16, prefix: str | None = None) -> Lease:
        asked: dict[str, Any] = {"count": count, "max_bytes": max_bytes}
        if prefix is not None:
            asked["prefix"] = prefix
        made = self.post(f"buckets/{bucket}/leases", asked)
        return Lease(
            volume=int(made["volume"]),
            first=int(made["first"], 16),
            count=made["count"],
            max_bytes=made["max_bytes"],
            url=made["url"],
        )

    def put(self, bucket: str, key: str, body: bytes) -> dict[str, Any]:
        """A small object through a lease of its own. Returns what the volume server said."""
        answer = self.lease(bucket, max_bytes=max(len(body), 1)).put(0, key, body)
        assert answer.status == 201, answer
        made: dict[str, Any] = answer.json
        return made

    def put_chunks(self, bucket: str, key: str, body: bytes, **attributes: Any) -> dict[str, Any]:
        """An object through an upload, chunk after chunk. Returns what the last chunk's PUT said."""
        upload = self.post(f"buckets/{bucket}/uploads", {"key": key, "size": len(body), **attributes})
        answer = None
        for chunk in upload["chunks"]:
            piece = body[chunk["offset"] : chunk["offset"] + chunk["size"]]
            answer = send("PUT", chunk["url"], piece, put_headers(None))
            assert answer.status in {201, 202}, answer
        assert answer is not None
        assert answer.status == 201, answer
        made: dict[str, Any] = answer.json
        return made

    def look_up(self, bucket: str, *keys: str) -> dict[str, dict[str, Any]]:
        """What `downloads` knows of the keys; those it misses are not in the answer."""
        found = self.post(f"buckets/{bucket}/downloads", {"keys": list(keys)}, status=200)["objects"]
        return {one["key"]: one for one in found}

    def read(self, bucket: str, key: str) -> bytes:
        """The whole object, every chunk's size and CRC checked."""
        [found] = self.look_up(bucket, key).values()
        body = b"".join(read_chunk(chunk) for chunk in found["chunks"])
        assert len(body) == found["size"]
        return body

    def list(self, bucket: str, prefix: str = "") -> list[str]:
        """All keys of a bucket, page after page."""
        keys: list[str] = []
        after = ""
        while True:
            page = self.get(f"buckets/{bucket}/objects?prefix={quote(prefix, safe='')}&after={quote(after, safe='')}")
            keys += [one["key"] for one in page["results"]]
            if not page["next_after"]:
                return keys
            after = page["next_after"]


def read_chunk(chunk: dict[str, Any]) -> bytes:
    answer = send("GET", chunk["urls"][0])
    assert answer.status == 200, answer
    assert len(answer.body) == chunk["size"]
    assert zlib.crc32(answer.body) == chunk["crc32"]
    return answer.body
