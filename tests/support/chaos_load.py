"""A process of clients that put, change, read and delete objects, and write down all that they do and see.

    python -m tests.support.chaos_load CONFIG

The log is the oracle's only source (`chaos_oracle`): a line before a change is asked for, one when its outcome is
known, one for everything seen. Each client has keys of its own, below a prefix of its own, and judges nothing.
"""

import json
import os
import random
import signal
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from tests.support.api import Answer, Api, put_headers, send
from tests.support.chaos_content import MIN_BYTES, Identity, Mixed, identify
from tests.support.chaos_oracle import DONE, NOTHING, UNKNOWN, Value
from warehouse import Client, TransferConfig
from warehouse.errors import ConnectionFailed, NoSpace, NotFound, PreconditionFailed, WarehouseError

TIMEOUT_S = 5.0
_SMALL_BYTES = 64 << 10
_LARGE_BYTES = (300 << 10, 1200 << 10)
_MOST_SMALL, _MOST_LARGE = 60, 5
_FOLDER_KEYS = 50
_RANGE_BYTES = 8 << 10


@dataclass(frozen=True, slots=True)
class Config:
    """What a process of clients is to do. ``buckets``: one client goes to the first, the next to the second, …

    ``direct``: ports of the volume servers by those of the proxy before them, for a second look at bytes that no CRC
    guards on their way. ``pause_s``: how long a client waits between two operations, at the most.
    """

    name: str
    log: str
    url: str
    key: str
    seed: int
    clients: int
    buckets: tuple[str, ...]
    direct: dict[int, int]
    pause_s: float

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Config":
        found = json.loads(text)
        found["buckets"] = tuple(found["buckets"])
        found["direct"] = {int(port): direct for port, direct in found["direct"].items()}
        return cls(**found)


class Log:
    """One line at a time, whole, at the end of a file."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, **line: Any) -> None:
        os.write(self._fd, json.dumps({"t": time.time(), **line}, separators=(",", ":")).encode() + b"\n")


class Refused(Exception):
    """The store said no, and nothing has changed."""


class Unanswered(Exception):
    """No answer, or one that leaves the outcome open."""


class LoadClient:
    """One client: one operation after the other, on keys that nobody else touches.

    A key here is `bucket:key`, as the oracle has it.
    """

    def __init__(self, config: Config, number: int, log: Log, store: Client) -> None:
        self.name = f"{config.name}.{number}"
        self.bucket = config.buckets[number % len(config.buckets)]
        self.buckets = config.buckets
        self.prefix = f"{config.name}/{number}/"
        self._random = random.Random(f"{config.seed} {self.name}")
        self._log = log
        self._store = store
        self._api = Api(config.url, config.key, timeout_s=TIMEOUT_S)
        self._direct = config.direct
        self._here: dict[str, Identity] = {}
        """Every object that is known to be there, by its key."""
        self._gone: list[str] = []
        """Keys that are known to have none."""
        self._doubtful: list[str] = []
        self._shut: set[str] = set()
        """Folders in which nothing is put any more."""
        self._count = 0
        self._hot = 0

    def run(self, stop: threading.Event, pause_s: float) -> None:
        actions: list[tuple[int, Callable[[], None]]] = [
            (22, self.put_small), (5, self.put_large), (4, self.put_hot), (2, self.put_refused),
            (9, self.delete), (5, self.copy), (5, self.rename), (2, self.rename_folder), (4, self.commit),
            (18, self.get), (4, self.get_many), (7, self.get_range), (5, self.list_keys), (4, self.stat),
            (4, self.get_doubtful), (6, self.peek),
        ]  # fmt: skip
        weights = [weight for weight, _ in actions]
        try:
            while not stop.is_set():
                [(_, action)] = self._random.choices(actions, weights)
                worked = self._do(action)
                stop.wait(self._random.uniform(0, pause_s) if worked else 0.5)
        except BaseException:
            self._log.write(do="broke", op="client", who=self.name, why=traceback.format_exc())
            raise

    def _do(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except Unanswered:
            return False
        except Refused:
            pass
        return True

    # -- changes -----------------------------------------------------------------------------------------------------

    def put_small(self) -> None:
        key = self._some_key(overwrite=0.35) if self._small_count() < _MOST_SMALL else self._old_key()
        identity = self._identity(key, int(2 ** self._random.uniform(7, 16)))
        self._put("put", key, identity)

    def put_large(self) -> None:
        large = [key for key, identity in self._here.items() if identity.size > _SMALL_BYTES]
        key = self._random.choice(large) if len(large) >= _MOST_LARGE else self._some_key(overwrite=0.3)
        self._put("put large", key, self._identity(key, self._random.randint(*_LARGE_BYTES)))

    def put_hot(self) -> None:
        """The key that others read while it is overwritten."""
        if (key := f"{self.bucket}:hot/{self.name}/{self._hot}") in self._doubtful:
            self._hot += 1
            key = f"{self.bucket}:hot/{self.name}/{self._hot}"
        self._put("overwrite", key, self._identity(key, self._random.choice((400, 60_000, 300_000))))

    def put_refused(self) -> None:
        """If-None-Match where there is an object: must be refused."""
        if not self._here:
            return
        key = self._old_key()
        identity = self._identity(key, MIN_BYTES)
        with self._change("put if absent", {key: identity}, refuse=True):
            self._store.put(*_split(key), identity.body(), if_none_match=True)

    def delete(self) -> None:
        keys = self._draw(self._here, self._random.choice((1, 1, 1, 3)))
        if self._gone and self._random.random() < 0.2:
            keys.append(self._random.choice(self._gone))
        if not keys:
            return
        with self._change("delete", dict.fromkeys(keys)):
            answer = self._call("POST", "delete", {"keys": [_split(key)[1] for key in keys]})
            there = {f"{self.bucket}:{key}": True for key in answer["deleted"]}
            there |= {f"{self.bucket}:{key}": False for key in answer["missing"]}
            self._log.write(do="told", op="delete", there=there)

    def copy(self) -> None:
        sources = self._draw(self._here, self._random.choice((1, 2)))
        changes: dict[str, Identity | None] = {}
        copies = []
        for source in sources:
            target = self._some_key(overwrite=0.3)
            if target in changes or target in sources:
                continue
            changes |= {target: self._here[source], source: self._here[source]}  # a late copy takes what is there then
            copies.append({"from": _split(source)[1], "to": _split(target)[1]})
        if copies:
            with self._change("copy", changes):
                self._call("POST", "copy", {"copies": copies})

    def rename(self) -> None:
        if not self._here:
            return
        source = self._old_key()
        target = self._some_key(overwrite=0.3)
        if target != source:
            renames = [{"from": _split(source)[1], "to": _split(target)[1], "overwrite": True}]
            with self._change("rename", {source: None, target: self._here[source]}):
                self._call("POST", "rename", {"renames": renames})

    def rename_folder(self) -> None:
        """All objects below a prefix. A folder in which somebody's outcome is open is left alone."""
        if not self._here:
            return
        folder = _split(self._old_key())[1].rpartition("/")[0] + "/"
        if not folder.startswith(self.prefix) or any(_split(key)[1].startswith(folder) for key in self._doubtful):
            return
        self._count += 1
        moved = f"{self.prefix}moved{self._count}/"
        inside = [key for key in self._here if _split(key)[1].startswith(folder)]
        changes: dict[str, Identity | None] = dict.fromkeys(inside)
        for key in inside:
            changes[f"{self.bucket}:{moved}{_split(key)[1][len(folder) :]}"] = self._here[key]
        try:
            with self._change("rename folder", changes):
                self._call("POST", "rename", {"prefix": folder, "to_prefix": moved})
        except Unanswered:  # it may come to pass any time, and takes along what is in the folder then
            self._shut.add(folder)
            self._gone = [key for key in self._gone if not _split(key)[1].startswith(folder)]
            raise

    def commit(self) -> None:
        """A group: an upload or two, a delete, a copy and a rename, visible together or not at all."""
        operations: list[dict[str, Any]] = []
        changes: dict[str, Identity | None] = {}
        for _ in range(self._random.choice((1, 2))):
            key = self._some_key(overwrite=0.3)
            if key not in changes:
                identity = self._identity(key, self._random.choice((300, 20_000, 400_000)))
                operations.append({"op": "upload", "upload": self._held_upload(key, identity)})
                changes[key] = identity
        others = [key for key in self._draw(self._here, 3) if key not in changes]
        for key, operation in zip(others, ("delete", "copy", "rename"), strict=False):
            if operation == "delete":
                operations.append({"op": "delete", "key": _split(key)[1]})
                changes[key] = None
                continue
            target = self._new_key()
            operations.append({"op": operation, "from": _split(key)[1], "to": _split(target)[1]})
            changes |= {target: self._here[key], key: self._here[key] if operation == "copy" else None}
        with self._change("group", changes):
            self._call("POST", "commits", {"operations": operations})

    def _held_upload(self, key: str, identity: Identity) -> str:
        """An upload that is ready. Nobody sees it before it is committed, so nothing of it is written down."""
        body = identity.body()
        upload = self._call("POST", "uploads", {"key": _split(key)[1], "size": len(body), "held": True})
        for chunk in upload["chunks"]:
            piece = body[chunk["offset"] : chunk["offset"] + chunk["size"]]
            for _ in range(3):
                try:
                    headers = put_headers(None, Warehouse_CRC32=f"{zlib.crc32(piece):08x}")
                    answer = send("PUT", chunk["url"], piece, headers, timeout_s=TIMEOUT_S)
                except (OSError, HTTPException):
                    continue
                if answer.status == 202:
                    break
            else:
                self._log.write(do="failed", op="upload", why="a chunk")
                raise Unanswered
        return str(upload["id"])

    def _put(self, operation: str, key: str, identity: Identity) -> None:
        with self._change(operation, {key: identity}):
            self._store.put(*_split(key), identity.body())

    @contextmanager
    def _change(self, operation: str, changes: Mapping[str, Identity | None], *, refuse: bool = False) -> Any:
        """Writes down what is about to be changed, and what comes of the block."""
        self._count += 1
        number = f"{self.name}#{self._count}"
        values: dict[str, Value] = {key: str(identity) if identity else None for key, identity in changes.items()}
        self._log.write(do="begin", n=number, op=operation, changes=values, refuse=refuse)
        outcome, why = UNKNOWN, "?"
        try:
            yield
            outcome, why = DONE, ""
        except (Refused, PreconditionFailed, NoSpace, ConnectionFailed) as error:
            outcome, why = _no(error, changes), _reason(error)
            raise Refused from error
        except (Unanswered, WarehouseError) as error:
            why = _reason(error)
            raise Unanswered from error
        finally:
            self._log.write(do="end", n=number, outcome=outcome, why=why)
            self._learn(changes, outcome)

    def _learn(self, changes: Mapping[str, Identity | None], outcome: str) -> None:
        if outcome == NOTHING:
            return
        for key, identity in changes.items():
            self._here.pop(key, None)
            if key in self._gone:
                self._gone.remove(key)
            if outcome == UNKNOWN:
                self._doubtful.append(key)
            elif ":hot/" in key:
                continue
            elif identity is None:
                self._gone.append(key)
            else:
                self._here[key] = identity
        del self._gone[:-200]

    # -- looking -----------------------------------------------------------------------------------------------------

    def get(self) -> None:
        self._get("get", self._draw(self._here, 1) or self._draw(self._gone, 1))
        if self._random.random() < 0.2:
            self._get("get deleted", self._draw(self._gone, 1))

    def get_doubtful(self) -> None:
        self._get("get doubtful", self._draw(self._doubtful[-200:], 1))

    def _get(self, operation: str, keys: list[str]) -> None:
        for key in keys:
            with self._reading(operation):
                try:
                    body = self._store.get(*_split(key))
                except NotFound:
                    self._log.write(do="saw", op=operation, key=key, value=None)
                else:
                    self._log.write(do="saw", op=operation, key=key, **_value(body))

    def get_many(self) -> None:
        keys = [_split(key)[1] for key in self._draw(self._here, 8) + self._draw(self._gone, 2)]
        failures: list[Exception] = []
        with self._reading("get many"):
            for key, body in self._store.get_many(self.bucket, keys, on_error=lambda _, error: failures.append(error)):
                found = {"value": None} if body is None else _value(body)
                self._log.write(do="saw", op="get many", key=f"{self.bucket}:{key}", **found)
            if failures:
                raise failures[0]

    def get_range(self) -> None:
        for key in self._draw(self._here, 1):
            identity = self._here[key]
            start = self._random.randrange(identity.size)
            end = min(identity.size, start + self._random.randint(1, _RANGE_BYTES))
            with self._reading("range"):
                [found] = self._call("POST", "downloads", {"keys": [_split(key)[1]]})["objects"] or [{}]
                if not found:
                    self._log.write(do="saw", op="range", key=key, value=None)
                    return
                chunk = next(one for one in found["chunks"] if one["offset"] <= start < one["offset"] + one["size"])
                end = min(end, chunk["offset"] + chunk["size"])
                first = start - chunk["offset"]
                url = self._random.choice(chunk["urls"])
                expected = identity.body()[start:end]
                body = self._range(url, first, end - start)
                if body != expected:  # no CRC is of a part: what came over a bad line is asked for again without it
                    body = self._range(self._past_the_proxy(url), first, end - start)
                value = {"value": str(identity)}
                if body != expected:
                    value = {"mixed": f"wrong in bytes {start} to {end} from {urlsplit(url).netloc}"}
                self._log.write(do="saw", op="range", key=key, **value)

    def _range(self, url: str, first: int, count: int) -> bytes:
        answer = send("GET", url, headers={"Range": f"bytes={first}-{first + count - 1}"}, timeout_s=TIMEOUT_S)
        if answer.status != 206:
            raise Unanswered(_code(answer))
        return answer.body

    def _past_the_proxy(self, url: str) -> str:
        port = urlsplit(url).port or 0
        return url.replace(f":{port}/", f":{self._direct[port]}/", 1)

    def list_keys(self) -> None:
        with self._reading("list"):
            sizes = {f"{self.bucket}:{one.key}": one.size for one in self._store.list(self.bucket, self.prefix)}
            self._log.write(do="listed", op="list", prefix=f"{self.bucket}:{self.prefix}", keys=sizes)

    def stat(self) -> None:
        keys = self._draw(self._here, 5) + self._draw(self._gone, 2)
        with self._reading("stat"):
            answer = self._call("POST", "stat", {"keys": [_split(key)[1] for key in keys]})
            sizes: dict[str, int | None] = dict.fromkeys(keys)
            sizes |= {f"{self.bucket}:{one['key']}": one["size"] for one in answer["objects"]}
            self._log.write(do="sized", op="stat", sizes=sizes)

    def peek(self) -> None:
        """Somebody's hot key, while that may be overwriting it."""
        bucket = self._random.choice(self.buckets)
        with self._reading("peek"):
            keys = [one.key for one in self._store.list(bucket, "hot/")]
            if not keys:
                return
            key = self._random.choice(keys)
            try:
                found = _value(self._store.get(bucket, key))
            except NotFound:
                found = {"value": None}
            self._log.write(do="peeked", op="peek", who=self.name, key=f"{bucket}:{key}", **found)

    @contextmanager
    def _reading(self, operation: str) -> Any:
        try:
            yield
        except (WarehouseError, Unanswered, Refused, OSError, HTTPException) as error:
            self._log.write(do="failed", op=operation, why=_reason(error))
            raise Unanswered from error

    # -- keys --------------------------------------------------------------------------------------------------------

    def _identity(self, key: str, size: int) -> Identity:
        self._count += 1
        return Identity(self._count, max(size, MIN_BYTES), key)

    def _some_key(self, *, overwrite: float) -> str:
        """An object's key, one that had an object once, or a new one."""
        draw = self._random.random()
        if draw < overwrite and self._here:
            return self._old_key()
        if draw < overwrite + 0.2 and self._gone:
            return self._random.choice(self._gone)
        return self._new_key()

    def _new_key(self) -> str:
        self._count += 1
        folder = f"{self.prefix}{self._count // _FOLDER_KEYS}/"
        if folder in self._shut:
            folder = f"{self.prefix}{self._count}/"
        return f"{self.bucket}:{folder}{self._count}"

    def _old_key(self) -> str:
        return self._random.choice(list(self._here))

    def _small_count(self) -> int:
        return sum(identity.size <= _SMALL_BYTES for identity in self._here.values())

    def _draw(self, keys: Any, count: int) -> list[str]:
        found = list(keys)
        return self._random.sample(found, min(count, len(found)))

    def _call(self, method: str, path: str, body: Any) -> Any:
        """One call below the bucket, never repeated. Raises Refused, Unanswered."""
        try:
            answer = self._api.request(method, f"buckets/{quote(self.bucket)}/{path}", body)
        except (OSError, HTTPException, ValueError) as error:
            raise Unanswered(_reason(error)) from error
        except AssertionError as error:  # no token
            raise Refused("no token") from error
        if answer.status >= 400:
            reason = _code(answer)
            raise Refused(reason) if answer.status < 500 or answer.status == 507 else Unanswered(reason)
        try:
            return answer.json
        except ValueError as error:  # its head ended early, and so its length was lost
            raise Unanswered("cut off") from error


def _no(error: Exception, changes: Mapping[str, Identity | None]) -> str:
    """What a refusal comes to. Of an upload the last chunk may have been sent, and its answer lost."""
    uploads = any(identity is not None and identity.size > _SMALL_BYTES for identity in changes.values())
    return UNKNOWN if uploads and isinstance(error, NoSpace | ConnectionFailed) else NOTHING


def _split(key: str) -> tuple[str, str]:
    bucket, _, rest = key.partition(":")
    return bucket, rest


def _value(body: bytes) -> dict[str, Value]:
    try:
        return {"value": str(identify(body))}
    except Mixed as error:
        return {"mixed": str(error)}


def _code(answer: Answer) -> str:
    try:
        return f"{answer.status} {answer.json['code']}"
    except (ValueError, KeyError, TypeError):
        return f"{answer.status}"


def _reason(error: BaseException) -> str:
    """Short enough to be counted."""
    cause = error
    while isinstance(cause, Refused | Unanswered) and not cause.args and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, Refused | Unanswered) and cause.args:
        return str(cause.args[0])
    code = getattr(cause, "code", "")
    return f"{type(cause).__name__}{f' {code}' if code else ''}"


def main() -> int:
    config = Config.from_json(Path(sys.argv[1]).read_text())
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    transfer = TransferConfig(
        small_put_bytes=_SMALL_BYTES, connect_timeout_s=2, io_timeout_s=TIMEOUT_S, retry_s=6, backoff_max_s=1,
        many_concurrency=8, concurrency=4,
    )  # fmt: skip
    log = Log(Path(config.log))
    with Client(config.url, config.key, transfer=transfer) as store:
        threads = [
            threading.Thread(target=LoadClient(config, number, log, store).run, args=(stop, config.pause_s))
            for number in range(config.clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
