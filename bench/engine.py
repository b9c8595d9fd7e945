"""The figures of the volume engine (`make bench-engine`): one volume server by itself, against what the machine can do.

No master: needles are durable and answered, a verdict is made up on the spot (`bench.uncommitted_server`).
"""

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from bench import light, machine, wrk
from bench.figures import durable_put, write_random_file
from bench.programs import Nginx, UncommittedServer
from bench.table import Effort, Figure, in_turn
from bench.uncommitted_server import VOLUME
from bench.volumes import make_volume, needle_ids
from tests.support.waiting import POLL_S
from volume_server import record, recovery
from volume_server.superblock import RECORDS_START, decode_head
from volume_server.volume import volume_path

NEEDLE_BYTES = 1024
FILES = 10_000
CHUNK_BYTES = 80 << 20
CHUNKS = 8
CHUNKS_AT_A_TIME = 4
COMPACTION_MIX = ((1 << 10, 256), (64 << 10, 16), (4 << 20, 1))
"""Sizes and how many of each in every 273 needles."""
COMPACTION_LIVE_BYTES = 1 << 30
CROWD = 50_000
"""Needles in the volume whose overhead is counted."""


def small_get(directory: Path, effort: Effort) -> list[Figure]:
    """Signed GETs of 10,000 needles of 1 KiB, against nginx and 10,000 files of the same bytes."""
    root = directory / "files"
    root.mkdir()
    needles = list(needle_ids(FILES))
    contents = [os.urandom(NEEDLE_BYTES) for _ in needles]
    for number, content in enumerate(contents):
        (root / f"{number:05}").write_bytes(content)
    make_volume(directory / "server" / "data", zip(needles, contents, strict=True))
    files, signed = directory / "paths", directory / "signed"
    files.write_text("".join(f"/{number:05}\n" for number in range(FILES)))
    with (
        UncommittedServer(directory / "server") as server,
        Nginx(directory / "nginx", root) as nginx,
        Nginx(directory / "nginx-cache", root, remembers_files=True) as caching,
    ):
        signed.write_text("".join(server.signed_get(needle) + "\n" for needle in needles))

        def rate(url: str, paths: Path) -> float:
            return wrk.drive(url, "get", paths, connections=16, seconds=effort.seconds).per_second

        rounds = [
            (rate(server.url, signed), rate(nginx.url, files), rate(caching.url, files)) for _ in range(effort.rounds)
        ]
    ours, plain, cached = (median(side) for side in zip(*rounds, strict=True))
    what = "signed GET of 1 KiB needles, 16 connections, one process"
    return [
        Figure(what, "nginx, the same as static files, one worker", ours, plain, "requests/s", least=0.6),
        Figure(what, "nginx with open_file_cache", ours, cached, "requests/s"),
    ]


def small_put(directory: Path, effort: Effort) -> list[Figure]:
    return [durable_put(directory, effort, least=6)]


def streamed_put(directory: Path, effort: Effort) -> list[Figure]:
    """Eight signed PUTs of 80 MiB into one volume, each round in a new one."""
    source, copy = directory / "large", directory / "copy"
    write_random_file(source, CHUNKS * CHUNK_BYTES)

    def put() -> float:
        home = directory / f"server-{time.monotonic_ns()}"
        with UncommittedServer(home) as server:
            before, number, _, after = server.lease_lines(1)[0].split("\t")
            targets = [f"{before}{number}{slot:04x}{after}" for slot in range(CHUNKS)]
            machine.level(2 * CHUNKS * CHUNK_BYTES)
            rate = light.put_bytes_per_second(
                server.port, source, targets, size_bytes=CHUNK_BYTES, at_a_time=CHUNKS_AT_A_TIME
            )
        shutil.rmtree(home)
        return rate / 1e6

    def dd() -> float:
        machine.level(2 * CHUNKS * CHUNK_BYTES)
        return machine.dd_bytes_per_second(source, copy) / 1e6

    ours, reference = in_turn(effort, put, dd)
    what = f"durable streamed PUT of {CHUNKS} x 80 MiB, {CHUNKS_AT_A_TIME} at a time"
    return [Figure(what, "dd conv=fdatasync of the same bytes", ours, reference, "MB/s", least=0.6)]


def large_get(directory: Path, effort: Effort) -> list[Figure]:
    """One needle of 80 MiB by sendfile, against nginx and a file of the same bytes; the same light client."""
    root = directory / "files"
    root.mkdir()
    write_random_file(root / "large", CHUNK_BYTES)
    [needle] = needle_ids(1)
    make_volume(directory / "server" / "data", [(needle, (root / "large").read_bytes())])
    with UncommittedServer(directory / "server") as server, Nginx(directory / "nginx", root) as nginx:
        target = server.signed_get(needle)

        def rate(port: int, path: str) -> float:
            return light.get_bytes_per_second(port, path, size_bytes=CHUNK_BYTES, seconds=effort.seconds) / 1e6

        ours, reference = in_turn(effort, lambda: rate(server.port, target), lambda: rate(nginx.port, "/large"))
    return [
        Figure(
            "signed GET of 80 MiB by sendfile", "nginx, sendfile of the same file", ours, reference, "MB/s", least=0.8
        )
    ]


def compaction(directory: Path, effort: Effort) -> list[Figure]:
    """A volume of needles of mixed sizes, a random half of them dead, compacted by its server as fast as it goes."""
    draw = random.Random(0)
    sizes = [size for size, count in COMPACTION_MIX for _ in range(count)]
    cycles = round(2 * COMPACTION_LIVE_BYTES / sum(sizes))
    needles = list(needle_ids(cycles * len(sizes)))
    largest = os.urandom(max(sizes))
    order = [size for _ in range(cycles) for size in draw.sample(sizes, len(sizes))]
    dead = draw.sample(needles, len(needles) // 2)
    home = directory / "volume"
    make_volume(
        home / "data", ((needle, largest[-size:]) for needle, size in zip(needles, order, strict=True)), dead=dead
    )
    gone = set(dead)
    live_bytes = sum(size for needle, size in zip(needles, order, strict=True) if needle not in gone)
    source, copy = directory / "live", directory / "copy"
    write_random_file(source, live_bytes)

    def compact() -> float:
        work = directory / "work"
        shutil.copytree(home, work)
        with UncommittedServer(work) as server:
            machine.level(2 * live_bytes)
            answer = server.admin("/admin/compact", {"volume": VOLUME, "rate_bytes": 0})
            if answer.status != 200:
                raise RuntimeError(f"/admin/compact: {answer}")
            while (state := server.usage()["compaction"])["state"] == "running":
                time.sleep(POLL_S)
            if state["state"] != "done":
                raise RuntimeError(f"the compaction {state['state']}: {state['detail']}")
        shutil.rmtree(work)
        took_ms = int(state["ended_ms"]) - int(state["started_ms"])
        return live_bytes / took_ms / 1e3

    def copied_by(cp: Callable[[Path, Path], float]) -> float:
        machine.level(2 * live_bytes)
        return cp(source, copy) / 1e6

    rounds = [
        (compact(), copied_by(machine.synced_cp_bytes_per_second), copied_by(machine.cp_bytes_per_second))
        for _ in range(effort.rounds)
    ]
    ours, synced, plain = (median(side) for side in zip(*rounds, strict=True))
    mix = ", ".join(f"{count} of {size >> 10} KiB" for size, count in COMPACTION_MIX)
    what = f"compaction of a half-dead volume, {live_bytes / (1 << 30):.1f} GiB live ({mix} in {len(sizes)} needles)"
    return [
        Figure(what, "cp of the live bytes, and its fdatasync", ours, synced, "MB/s", least=0.5),
        Figure(what, "cp alone, not durable", ours, plain, "MB/s"),
    ]


def overhead(directory: Path, _effort: Effort) -> list[Figure]:
    """What a volume file holds beside the bytes and the meta of its needles, padding and superblock included."""
    data = directory / "data"
    make_volume(data, ((needle, os.urandom(NEEDLE_BYTES)) for needle in needle_ids(CROWD)))
    path = volume_path(data, VOLUME)
    with path.open("rb") as file:
        size_bytes = path.stat().st_size
        tagger = record.Tagger(decode_head(file.read(RECORDS_START)).salt)
        payload = count = 0
        for found in recovery.scan(file.fileno(), tagger, start=RECORDS_START, end=size_bytes):
            if not isinstance(found, recovery.Found) or not found.sound:
                raise RuntimeError(f"{found} in a new volume")
            payload += found.header.meta_bytes + found.header.data_bytes
            count += 1
    beside = (size_bytes - payload) / count
    return [Figure("volume file for each 1 KiB needle beside its bytes and meta", "", beside, None, "bytes", most=48)]
