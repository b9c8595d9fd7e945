"""The figures of the whole store (`make bench`), rounds in turn so that both sides see the same machine."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from bench import machine, wrk
from bench.programs import BareServer, UncommittedServer
from bench.table import Effort, Figure, in_turn
from tests.support.api import Api
from tests.support.store import Part, Store
from volume_server.signing import TO_MASTER, signed_headers
from warehouse import Client

NEEDLE_BYTES = 1024
LEASE_COUNT = 4096


def signed_get(directory: Path, effort: Effort) -> Figure:
    """GETs of 10,000 different needles by signed URLs."""
    with (
        Store(directory / "get", volume_servers=1, worker=False) as store,
        BareServer(directory / "bare.log") as bare,
    ):
        api = store.api()
        api.make_bucket("bench")
        with Client(store.url, store.key) as client:
            keys = [f"{number:05}" for number in range(10_000)]
            for key in keys:
                client.put("bench", key, os.urandom(NEEDLE_BYTES))
        urls = []
        for first in range(0, len(keys), 1000):
            found = api.post("buckets/bench/downloads", {"keys": keys[first : first + 1000]}, status=200)["objects"]
            urls += [one["chunks"][0]["urls"][0] for one in found]
        paths = directory / "paths"
        paths.write_text("".join(path_of(url) + "\n" for url in urls))
        ours, reference = in_turn(
            effort,
            lambda: wrk.drive(origin_of(urls[0]), "get", paths, connections=16, seconds=effort.seconds).per_second,
            lambda: wrk.drive(bare.url, "get", paths, connections=16, seconds=effort.seconds).per_second,
        )
    return Figure(
        "signed GET of 1 KiB needles, 16 connections",
        "a bare asyncio.Protocol server, constant 1 KiB",
        ours, reference, "requests/s", 0.4,
    )  # fmt: skip


def durable_put(directory: Path, effort: Effort, *, least: float = 5) -> Figure:
    """PUTs that are fdatasynced and answered, without a master; each round in a new volume."""

    def put() -> float:
        with UncommittedServer(directory / f"uncommitted-{time.monotonic_ns()}") as server:
            leases = directory / "leases"
            leases.write_text("".join(line + "\n" for line in server.lease_lines(200)))
            return wrk.drive(server.url, "put", leases, connections=64, seconds=effort.seconds).per_second

    ours, reference = in_turn(
        effort, put, lambda: machine.serial_fdatasyncs_per_second(directory, seconds=effort.seconds)
    )
    return Figure(
        "durable PUT of 1 KiB needles without commit, 64 connections",
        "serial fdatasync of 4 KiB appends",
        ours, reference, "needles/s", least,
    )  # fmt: skip


def committed_put(directory: Path, effort: Effort) -> Figure:
    """PUT, group fdatasync, batched confirm, SQL commit, 201; against one confirm request for each object."""
    with Store(directory / "put", volume_servers=1, worker=False) as store:
        api = store.api()
        api.make_bucket("bench")
        [server] = store.servers

        def put() -> float:
            leases = directory / "leases"
            url = write_leases(api, "bench", leases)
            return wrk.drive(url, "put", leases, connections=64, seconds=effort.seconds).per_second

        def confirm_one_by_one() -> float:
            requests = directory / "confirms"
            requests.write_bytes(b"".join(single_confirms(api, server, store.url, count=4000 * effort.seconds)))
            return wrk.drive(store.url, "raw", requests, connections=64, seconds=effort.seconds).per_second

        ours, reference = in_turn(effort, put, confirm_one_by_one)
    return Figure(
        "PUT + commit through leases, 64 connections, SQLite",
        "one commit request per object (its commit alone, no PUT)",
        ours, reference, "objects/s", 10,
    )  # fmt: skip


def write_leases(api: Api, bucket: str, path: Path) -> str:
    """Writes down 80 leases of one volume server, as wrk's script reads them; the server's address."""
    url, lines = "", list[str]()
    while len(lines) < 80:
        lease = api.lease(bucket, count=LEASE_COUNT, max_bytes=NEEDLE_BYTES)
        url = url or origin_of(lease.url)
        if origin_of(lease.url) == url:
            lines.append(wrk.lease_line(path_of(lease.url), f"{lease.first:016x}", lease.count) + "\n")
    path.write_text("".join(lines))
    return url


def single_confirms(api: Api, server: Part, master_url: str, *, count: int) -> list[bytes]:
    """Signed confirm requests of one needle each, as the volume server would send them if it did not batch."""
    kid, secret, server_id = server.identity()
    target = "/api/v1/internal/confirm"
    host = urlsplit(master_url).netloc
    made: list[bytes] = []
    while len(made) < count:
        lease = api.lease("bench", count=LEASE_COUNT, max_bytes=NEEDLE_BYTES)
        intent = dict(pair.split("=", 1) for pair in urlsplit(lease.url).query.split("&"))["intent"]
        for slot in range(min(LEASE_COUNT, count - len(made))):
            now_ms = int(time.time() * 1000)
            needle = f"{lease.first + slot:016x}"
            row = [
                0,
                needle,
                NEEDLE_BYTES,
                0,
                f"single/{needle}",
                "application/octet-stream",
                None,
                None,
                False,
                now_ms,
            ]
            body = json.dumps({"deadline_ms": now_ms + 60_000, "intents": [intent], "needles": [row]}).encode()
            headers = signed_headers(
                secret, kid=kid, direction=TO_MASTER, method="POST", target=target, body=body,
                server=server_id, time_ms=now_ms,
            )  # fmt: skip
            lines = [f"POST {target} HTTP/1.1", f"Host: {host}", "Content-Type: application/json"]
            lines += [f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items())]
            request = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
            made.append(b"%d\n%s" % (len(request), request))
    return made


def large_put_and_get(directory: Path, effort: Effort) -> list[Figure]:
    """One large file through the SDK, with the store's own chunk size and two volume servers."""
    source, target = directory / "large", directory / "copy"
    write_random_file(source, effort.large_bytes)
    with (
        Store(directory / "large-store", volume_servers=2, worker=False) as store,
        Client(store.url, store.key) as client,
    ):
        client.create_bucket("bench")

        def rate_of(action: Callable[[], object]) -> float:
            machine.level(2 * effort.large_bytes)
            started = time.perf_counter()
            action()
            return effort.large_bytes / (time.perf_counter() - started) / 1e6

        def put() -> float:
            return rate_of(lambda: client.put("bench", "large", source))

        def dd() -> float:
            machine.level(2 * effort.large_bytes)
            return machine.dd_bytes_per_second(source, target) / 1e6

        def get() -> float:
            rate = rate_of(lambda: client.download("bench", "large", target))
            target.unlink()
            return rate

        def cp() -> float:
            machine.level(2 * effort.large_bytes)
            return machine.cp_bytes_per_second(source, target) / 1e6

        put_ours, put_dd = in_turn(effort, put, dd)
        get_ours, get_cp = in_turn(effort, get, cp)
    size = f"{effort.large_bytes / (1 << 30):g} GiB"
    return [
        Figure(f"{size} put through the SDK", "dd conv=fdatasync of the same file", put_ours, put_dd, "MB/s", 0.3),
        Figure(f"{size} get through the SDK", "cp of the same file", get_ours, get_cp, "MB/s", 0.3),
    ]


def write_random_file(path: Path, size: int) -> None:
    with path.open("wb") as out:
        for at in range(0, size, 1 << 24):
            out.write(os.urandom(min(1 << 24, size - at)))


def path_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


def origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
