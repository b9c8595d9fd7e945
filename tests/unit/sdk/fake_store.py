"""A store in one process and in memory, that speaks the client's side of docs/protocol.md and does as it is told.

It is master and volume server at once. `tests/unit/sdk/contract.py` runs against it and against a real store, so that
what the client is tested with here is what it meets there.
"""

import json
import secrets
import socket
import threading
import zlib
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

KEY = "whk_1_secret"
CHUNK_SIZE = 1 << 20


@dataclass
class Refusal(Exception):
    status: int
    code: str
    fields: dict[str, Any] = field(default_factory=dict)


CUT = "cut"
"""A fault: do what was asked, and close the connection instead of answering."""
BEHEAD = "behead"
"""A fault: do what was asked, and close the connection within the head of the answer."""
HANG_UP = "hang up"
"""A fault: close the connection before the body is read."""
Fault = Refusal | str | Callable[[bytes], bytes]
"""A function as fault of a GET changes the bytes that are sent."""


@dataclass
class Stored:
    body: bytes
    key: str
    content_type: str
    metadata: dict[str, str]
    etag: str
    chunks: list[int]
    updated_at: str


@dataclass
class Upload:
    bucket: str
    key: str
    size: int
    attributes: dict[str, Any]
    needles: dict[int, int] = field(default_factory=dict)
    missing: set[int] = field(default_factory=set)
    state: str = "open"


@dataclass
class Lease:
    bucket: str
    max_bytes: int
    prefix: str = ""
    upload: str | None = None
    index: int = 0


class FakeStore:
    """`with FakeStore() as fake:` serves on a free port; `fake.url` and KEY are what a Client wants."""

    def __init__(self, *, chunk_size: int = CHUNK_SIZE, writable_prefix: str = "", token_life_s: int = 300) -> None:
        self.chunk_size = chunk_size
        self.writable_prefix = writable_prefix
        self.token_life_s = token_life_s
        self.calls: Counter[str] = Counter()
        """How often: "POST tokens", "POST leases", "PUT needle", …"""
        self.puts: list[tuple[int, Mapping[str, str], bytes]] = []
        """Every PUT that came whole: needle, headers (without those of the connection), bytes."""
        self.leases: list[dict[str, Any]] = []
        self.keys_a_delete = 1000
        self.faults: dict[str, deque[Fault]] = {}
        """What the next calls of a name come to, instead of what they should."""
        self.before: dict[str, Callable[[], None]] = {}
        """Called ahead of the next call of a name, once."""
        self.replicas = 1
        self.lost_in: set[int] = set()
        """Volumes that do not have what was put into them."""
        self.max_lease_bytes = 1 << 28
        self.buckets: dict[str, dict[str, Stored]] = {}
        self.settings: dict[str, dict[str, Any]] = {}
        """What each bucket was made with, besides its name."""
        self.closed: dict[str, dict[str, Stored]] = {}
        """Buckets that are being deleted."""
        self.needles: dict[int, bytes] = {}
        self.verdicts: dict[int, tuple[int, dict[str, Any]]] = {}
        self.uploads: dict[str, Upload] = {}
        self.shares: dict[int, dict[str, Any]] = {}
        self.lock = threading.RLock()
        self.tokens: set[str] = set()
        self._leases: dict[int, Lease] = {}
        self._lease_number = 0
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def fail(self, name: str, *faults: Fault) -> None:
        self.faults.setdefault(name, deque()).extend(faults)

    def fault(self, name: str) -> Fault | None:
        with self.lock:
            self.calls[name] += 1
            if before := self.before.pop(name, None):
                before()
            queue = self.faults.get(name)
            return queue.popleft() if queue else None

    # The master

    def call(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> tuple[int, Any]:
        match method, path.split("/", 2):
            case "POST", ["tokens"]:
                return self.issue_token(body)
            case "GET", ["buckets"]:
                return 200, {"results": [self.bucket_json(name) for name in sorted(self.buckets)], "next_after": None}
            case "POST", ["buckets"]:
                if body["name"] in self.buckets:
                    raise Refusal(409, "bucket_taken")
                self.buckets[body["name"]] = {}
                self.settings[body["name"]] = {name: value for name, value in body.items() if name != "name"}
                return 201, self.bucket_json(body["name"])
            case "DELETE", ["buckets", bucket]:
                return self.delete_bucket(bucket, force=query.get("force") == "true")
            case _, ["buckets", bucket]:
                if bucket in self.closed:
                    objects = self.closed[bucket]
                    if objects:
                        objects.popitem()
                        return 200, {"name": bucket, "object_count": len(objects), "total_bytes": 0, "deleting": True}
                    del self.closed[bucket]
                self.objects(bucket)
                return 200, self.bucket_json(bucket)
            case _, ["buckets", bucket, rest]:
                self.objects(bucket)
                return self.call_bucket(method, bucket, rest, query, body)
            case "POST", ["shares"]:
                return 201, self.make_share(body)
            case "GET", ["shares"]:
                return 200, self.shares_page(query)
            case "DELETE", ["shares", number]:
                if int(number) not in self.shares:
                    raise Refusal(404, "share_unknown")
                self.shares[int(number)]["state"] = "revoked"
                return 204, None
            case "GET", ["uploads", upload]:
                if upload not in self.uploads:
                    raise Refusal(404, "upload_unknown")
                return 200, self.upload_json(upload, "missing", sorted(self.uploads[upload].missing))
            case "DELETE", ["uploads", upload]:
                if self.uploads[upload].state not in ("open", "ready"):
                    raise Refusal(409, "upload_over")
                self.abort(upload)
                return 204, None
        raise Refusal(404, "not_found")

    def call_bucket(
        self, method: str, bucket: str, rest: str, query: dict[str, str], body: dict[str, Any]
    ) -> tuple[int, Any]:
        objects = self.buckets[bucket]
        match method, rest.split("/", 1):
            case "GET", ["objects"]:
                return 200, self.list_page(objects, query)
            case "GET", ["objects", key]:
                if key not in objects:
                    raise Refusal(404, "object_unknown")
                return 200, object_json(objects[key])
            case "POST", ["leases"]:
                return self.issue_lease(bucket, body)
            case "POST", ["uploads"]:
                return self.create_upload(bucket, body)
            case "POST", ["downloads"]:
                found = [objects[key] for key in dict.fromkeys(body["keys"]) if key in objects]
                return 200, {
                    "objects": [{**object_json(one), "chunks": self.chunks_json(one)} for one in found],
                    "missing": [key for key in body["keys"] if key not in objects],
                }
            case "POST", ["stat"]:
                rows = [object_json(objects[key]) for key in dict.fromkeys(body["keys"]) if key in objects]
                return 200, {"objects": rows, "missing": [key for key in body["keys"] if key not in objects]}
            case "POST", ["copy"]:
                return 200, {"copied": self.commit_group(bucket, [{"op": "copy", **one} for one in body["copies"]])}
            case "POST", ["rename"]:
                if "renames" in body:
                    renames = [{"op": "rename", **one} for one in body["renames"]]
                    return 200, {"count": len(renames), "renamed": self.commit_group(bucket, renames)}
                return 200, {"count": self.rename_prefix(bucket, body), "overwritten": 0}
            case "POST", ["commits"]:
                return 200, {"sequence": 1, "results": self.commit_group(bucket, body["operations"])}
            case "POST", ["delete"]:
                if len(body["keys"]) > self.keys_a_delete:
                    raise Refusal(413, "too_many_rows")
                deleted = [key for key in body["keys"] if objects.pop(key, None)]
                return 200, {"deleted": deleted, "missing": [key for key in body["keys"] if key not in deleted]}
        raise Refusal(404, "not_found")

    def commit_group(self, bucket: str, operations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        before = {name: dict(objects) for name, objects in self.buckets.items()}
        states = {upload: self.uploads[upload].state for upload in self.uploads}
        try:
            return [self.operate(bucket, one) for one in operations]
        except Refusal:
            for name, objects in before.items():
                self.buckets[name].clear()
                self.buckets[name].update(objects)
            for upload, state in states.items():
                self.uploads[upload].state = state
            raise

    def operate(self, bucket: str, told: dict[str, Any]) -> dict[str, Any]:
        objects = self.buckets[bucket]
        if told["op"] == "delete":
            there = objects.get(told["key"])
            if told.get("if_match") and (there is None or there.etag != told["if_match"]):
                raise Refusal(412, "precondition_failed")
            return {"op": "delete", "key": told["key"], "deleted": objects.pop(told["key"], None) is not None}
        if told["op"] == "upload":
            upload = self.uploads[told["upload"]]
            if upload.state != "ready":
                raise Refusal(409, "upload_incomplete" if upload.state == "open" else "upload_over")
            upload.state = "completed"
            return {"op": "upload", "upload": told["upload"], **object_json(self.make_object_of(upload))}
        source = objects.get(told["from"])
        if source is None:
            raise Refusal(404, "object_unknown")
        if told.get("from_if_match", source.etag) != source.etag:
            raise Refusal(412, "precondition_failed")
        target = told.get("bucket", bucket)
        is_rename = told["op"] == "rename"
        if is_rename and told["to"] in self.objects(target) and not (told.get("overwrite") or told.get("if_match")):
            raise Refusal(409, "object_exists")
        made = self.make_object(
            target,
            told["to"],
            source.chunks,
            told.get("content_type", source.content_type),
            told.get("metadata", source.metadata),
            told.get("if_match"),
            bool(told.get("if_none_match")),
        )
        if is_rename:
            del objects[told["from"]]
        row = object_json(made)
        del row["key"]
        return {"op": told["op"], "from": told["from"], "to": told["to"], "bucket": target, **row}

    def rename_prefix(self, bucket: str, body: dict[str, Any]) -> int:
        keys = [key for key in self.buckets[bucket] if key.startswith(body["prefix"])]
        if not keys:
            raise Refusal(404, "object_unknown")
        overwrite = bool(body.get("overwrite"))
        self.commit_group(
            bucket,
            [
                {
                    "op": "rename",
                    "from": key,
                    "to": body["to_prefix"] + key[len(body["prefix"]) :],
                    "overwrite": overwrite,
                }
                for key in keys
            ],
        )
        return len(keys)

    def make_share(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["key"] not in self.objects(body["bucket"]):
            raise Refusal(404, "object_unknown")
        expires_at = None
        if (seconds := body.get("expires_in_seconds")) is not None:
            expires_at = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
        made = {
            "id": len(self.shares) + 1,
            "bucket": body["bucket"],
            "key": body["key"],
            "state": "live",
            "expires_at": expires_at,
            "max_downloads": body["max_downloads"],
            "download_count": 0,
            "has_password": body["password"] is not None,
            "inline": body["inline"],
            "description": body["description"],
        }
        self.shares[len(self.shares) + 1] = made
        return {**made, "url": f"{self.url}/s/{len(self.shares):043}"}

    def shares_page(self, query: dict[str, str]) -> dict[str, Any]:
        """Two a page, so that there are several."""
        after = int(query.get("after", 0))
        rows = [share for number, share in self.shares.items() if number > after]
        rows = [share for share in rows if query.get("bucket", share["bucket"]) == share["bucket"]]
        return {"results": rows[:2], "next_after": rows[1]["id"] if len(rows) > 2 else None}

    def delete_bucket(self, bucket: str, *, force: bool) -> tuple[int, Any]:
        """By force in the background: an object goes each time that somebody looks."""
        objects = self.objects(bucket)
        if objects and not force:
            raise Refusal(409, "bucket_not_empty")
        told = self.bucket_json(bucket)
        del self.buckets[bucket]
        if not objects:
            return 204, None
        self.closed[bucket] = objects
        return 202, {**told, "deleting": True, "detail": "it goes"}

    def issue_token(self, body: dict[str, Any]) -> tuple[int, Any]:
        if body.get("key") != KEY:
            raise Refusal(401, "authentication_failed")
        token = secrets.token_hex(8)
        self.tokens.add(token)
        return 200, {"access": token, "refresh": secrets.token_hex(8), "expires_in": self.token_life_s}

    def issue_lease(self, bucket: str, body: dict[str, Any]) -> tuple[int, Any]:
        prefix = body.get("prefix", "")
        if not prefix.startswith(self.writable_prefix):
            raise Refusal(403, "permission_denied")
        if body["max_bytes"] > self.max_lease_bytes:
            raise Refusal(400, "invalid", {"errors": {"max_bytes": ["too large"]}})
        self.leases.append({"bucket": bucket, **body})
        number = self.new_lease(Lease(bucket, body["max_bytes"], prefix))
        return 201, {
            "volume": 1,
            "first": f"{number << 16:016x}",
            "count": body["count"],
            "max_bytes": body["max_bytes"],
            "chunk_size": self.chunk_size,
            "url": f"{self.url}/1/{{needle}}?exp=1&intent=x&kid=1&sig=y",
            "expires_at": (datetime.now(UTC) + timedelta(minutes=15)).isoformat(),
        }

    def new_lease(self, lease: Lease) -> int:
        self._lease_number += 1
        self._leases[self._lease_number] = lease
        return self._lease_number

    def create_upload(self, bucket: str, body: dict[str, Any]) -> tuple[int, Any]:
        count = max(1, -(-body["size"] // self.chunk_size))
        upload = secrets.token_hex(8)
        self.uploads[upload] = Upload(bucket, body["key"], body["size"], body, missing=set(range(count)))
        return 201, {"chunk_size": self.chunk_size, **self.upload_json(upload, "chunks", range(count))}

    def upload_json(self, upload: str, name: str, indexes: Any) -> dict[str, Any]:
        size = self.uploads[upload].size
        rows = []
        for index in indexes:
            number = self.new_lease(Lease(self.uploads[upload].bucket, self.chunk_size, upload=upload, index=index))
            offset = index * self.chunk_size
            rows.append(
                {
                    "index": index,
                    "offset": offset,
                    "size": min(self.chunk_size, size - offset),
                    "url": f"{self.url}/1/{number << 16:016x}?exp=1&intent=x&kid=1&sig=y",
                }
            )
        expires_at = (datetime.now(UTC) + timedelta(days=7)).isoformat()
        return {"id": upload, "state": self.uploads[upload].state, name: rows, "expires_at": expires_at}

    def abort(self, upload: str) -> None:
        self.uploads[upload].state = "aborted"
        self.uploads[upload].missing.clear()

    def list_page(self, objects: dict[str, Stored], query: dict[str, str]) -> dict[str, Any]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after, limit = query.get("after", ""), int(query.get("limit", "1000"))
        results: list[dict[str, Any]] = []
        prefixes: list[str] = []
        last = ""
        for key in sorted(objects, key=str.encode):
            if not fits(objects[key], query):
                continue
            tail = key[len(prefix) :]
            folded = prefix + tail[: tail.index(delimiter) + 1] if delimiter and delimiter in tail else None
            entry = folded or key
            if not key.startswith(prefix) or entry.encode() <= after.encode() or folded in prefixes:
                continue
            if len(results) + len(prefixes) == limit:
                return {"results": results, "prefixes": prefixes, "next_after": last}
            last = entry
            if folded:
                prefixes.append(folded)
            else:
                results.append(object_json(objects[key]))
        return {"results": results, "prefixes": prefixes, "next_after": None}

    def chunks_json(self, one: Stored) -> list[dict[str, Any]]:
        rows, offset = [], 0
        for index, needle in enumerate(one.chunks):
            body = self.needles[needle]
            urls = [f"{self.url}/{volume}/{needle:016x}?etag={one.etag}" for volume in range(1, self.replicas + 1)]
            rows.append({"index": index, "offset": offset, "size": len(body), "crc32": zlib.crc32(body), "urls": urls})
            offset += len(body)
        return rows

    def objects(self, bucket: str) -> dict[str, Stored]:
        if bucket not in self.buckets:
            raise Refusal(404, "bucket_deleting" if bucket in self.closed else "bucket_unknown")
        return self.buckets[bucket]

    def bucket_json(self, name: str) -> dict[str, Any]:
        objects = self.buckets[name]
        return {
            "name": name,
            "created_at": "2026-01-01T00:00:00Z",
            "object_count": len(objects),
            "total_bytes": sum(len(one.body) for one in objects.values()),
        }

    # The volume server

    def put(self, needle: int, headers: Mapping[str, str], body: bytes) -> tuple[int, Any]:
        self.puts.append((needle, headers, body))
        crc = zlib.crc32(body)
        if headers.get("warehouse-crc32", f"{crc:08x}") != f"{crc:08x}":
            raise Refusal(400, "crc_mismatch")
        if needle in self.verdicts:
            if self.needles[needle] != body:
                raise Refusal(409, "needle_taken")
            return self.verdicts[needle]
        lease = self._leases[needle >> 16]
        if len(body) > lease.max_bytes:
            raise Refusal(413, "payload_too_large")
        self.verdicts[needle] = self.commit(lease, needle, headers, body)
        return self.verdicts[needle]

    def commit(self, lease: Lease, needle: int, headers: Mapping[str, str], body: bytes) -> tuple[int, Any]:
        facts = {"bucket": lease.bucket, "crc32": zlib.crc32(body)}
        if lease.upload is not None:
            upload = self.uploads[lease.upload]
            if upload.state != "open":
                raise Refusal(409, "upload_over")
            self.needles[needle] = body
            upload.needles[lease.index] = needle
            upload.missing.discard(lease.index)
            if not upload.missing and upload.attributes.get("held"):
                upload.state = "ready"
            if upload.missing or upload.state == "ready":
                stored = {"state": "stored", "key": upload.key, "size": len(body), "upload": lease.upload}
                return 202, {**facts, **stored, "index": lease.index}
            upload.state = "completed"
            one = self.make_object_of(upload)
        else:
            self.needles[needle] = body
            metadata = {
                name.removeprefix("warehouse-meta-"): unquote(value)
                for name, value in headers.items()
                if name.startswith("warehouse-meta-")
            }
            key = unquote(headers["warehouse-key"])
            if not key.startswith(lease.prefix):
                raise Refusal(403, "key_outside_lease")
            one = self.make_object(
                lease.bucket,
                key,
                [needle],
                headers["content-type"],
                metadata,
                headers.get("if-match"),
                headers.get("if-none-match") == "*",
            )
        return 201, {"state": "committed", **facts, **object_json(one)}

    def make_object_of(self, upload: Upload) -> Stored:
        return self.make_object(
            upload.bucket,
            upload.key,
            [upload.needles[index] for index in sorted(upload.needles)],
            upload.attributes.get("content_type") or "",
            upload.attributes.get("metadata") or {},
            upload.attributes.get("if_match"),
            bool(upload.attributes.get("if_none_match")),
        )

    def make_object(
        self,
        bucket: str,
        key: str,
        needles: list[int],
        content_type: str,
        metadata: dict[str, str],
        if_match: str | None,
        if_none_match: bool,
    ) -> Stored:
        there = self.objects(bucket).get(key)
        if if_none_match and there:
            raise Refusal(412, "precondition_failed")
        if if_match and (there is None or there.etag != if_match.strip('"')):
            raise Refusal(412, "precondition_failed")
        body = b"".join(self.needles[needle] for needle in needles)
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        one = Stored(body, key, content_type, metadata, secrets.token_hex(8), needles, now)
        self.buckets[bucket][key] = one
        return one


def fits(one: Stored, query: dict[str, str]) -> bool:
    """Whether a search finds an object; of the filters those that the tests use."""
    wanted = query.get("content_type", one.content_type)
    return (
        query.get("search", "").lower() in one.key.lower()
        and int(query.get("min_size", 0)) <= len(one.body) <= int(query.get("max_size", 1 << 62))
        and (one.content_type == wanted or one.content_type.split("/")[0] + "/*" == wanted)
        and query.get("updated_after", "").replace("+00:00", "Z") < one.updated_at
        and ("metadata" not in query or query["metadata"] in {f"{name}:{text}" for name, text in one.metadata.items()})
    )


def object_json(one: Stored) -> dict[str, Any]:
    return {
        "key": one.key,
        "size": len(one.body),
        "etag": one.etag,
        "content_type": one.content_type,
        "metadata": one.metadata,
        "updated_at": one.updated_at,
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that end in the middle are what some tests are about."""


def _handler(store: FakeStore) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self.answer()

        do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - http.server finds them by these names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            pass

        def handle_expect_100(self) -> bool:
            """Continue is said where the body is read, after a refusal had its chance."""
            return True

        def answer(self) -> None:
            parts = urlsplit(self.path)
            if parts.path.startswith("/api/v1/"):
                self.answer_as_master(unquote(parts.path.removeprefix("/api/v1/")), parts.query)
            else:
                _, volume, needle = parts.path.split("/")
                self.answer_as_volume_server(int(volume), int(needle, 16))

        def answer_as_master(self, path: str, query: str) -> None:
            body = json.loads(self.body() or b"{}")
            words = path.split("/")
            name = words[2] if words[0] == "buckets" and len(words) > 2 else words[0]
            fault = store.fault(f"{self.command} {name}")
            if isinstance(fault, Refusal):
                self.refuse(fault)
                return
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            with store.lock:
                try:
                    if path != "tokens" and token not in store.tokens:
                        raise Refusal(401, "token_invalid")  # noqa: TRY301 - one way out for all refusals
                    queries = {key: values[0] for key, values in parse_qs(query).items()}
                    status, answer = store.call(self.command, path, queries, body)
                except Refusal as refusal:
                    self.refuse(refusal)
                    return
            if fault == CUT:
                self.cut()
                return
            if fault == BEHEAD:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nServer: x\r\n")
                self.wfile.flush()
                self.cut()
                return
            self.send(status, b"" if answer is None else json.dumps(answer).encode())

        def answer_as_volume_server(self, volume: int, needle: int) -> None:
            fault = store.fault(f"{self.command} needle")
            if fault == HANG_UP:
                self.cut()
                return
            if isinstance(fault, Refusal):
                if self.command == "PUT" and "Expect" not in self.headers:
                    store.puts.append((needle, self.own_headers(), self.body()))
                self.refuse(fault)
                return
            if self.command == "GET":
                with store.lock:
                    body = None if volume in store.lost_in else store.needles.get(needle)
                if body is None:
                    self.refuse(Refusal(404, "needle_unknown"))
                elif fault == CUT:
                    self.send(200, body, cut=len(body) // 2)
                else:
                    self.send(200, fault(body) if callable(fault) else body)
                return
            body = self.body()
            with store.lock:
                try:
                    status, answer = store.put(needle, self.own_headers(), body)
                except Refusal as refusal:
                    self.refuse(refusal)
                    return
            if fault == CUT:
                self.cut()
                return
            self.send(status, json.dumps(answer).encode())

        def own_headers(self) -> dict[str, str]:
            skipped = ("host", "content-length", "user-agent", "expect")
            return {name.lower(): value for name, value in self.headers.items() if name.lower() not in skipped}

        def body(self) -> bytes:
            if "Expect" in self.headers:
                self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                self.wfile.flush()
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def send(self, status: int, body: bytes, *, cut: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:cut])
            self.wfile.flush()
            if cut is not None:
                self.cut()

        def refuse(self, refusal: Refusal) -> None:
            if "Expect" in self.headers:
                self.close_connection = True
            problem = {"type": "about:blank", "title": refusal.code, "status": refusal.status, "code": refusal.code}
            self.send(refusal.status, json.dumps({**problem, **refusal.fields}).encode())

        def cut(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    return Handler
