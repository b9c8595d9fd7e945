"""The figures of the index at 10 million needles: memory, stalls of the event loop while it fills, opening."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from zlib import crc32

from bench.table import Effort, Figure
from bench.uncommitted_server import VOLUME
from bench.volumes import GROUP, small_meta
from tests.support.programs import ROOT, clean_environment
from volume_server.checkpoint import CheckpointFile
from volume_server.store import Store
from volume_server.superblock import RECORDS_START, decode_head
from volume_server.volume import CHECKPOINT_EVERY_BYTES, Claim, volume_path

NEEDLES = 10_000_000
TAIL_LEASE = 1 << 25
"""Of the needles that a crash left behind the last checkpoint; above those that were filled in."""


def memory_stall_and_open(directory: Path, effort: Effort) -> list[Figure]:
    """One filling (it takes half a minute), and so many openings of what it left as there are rounds."""
    data = directory / "data"
    filled = _told_by("bench.filling", str(data), str(NEEDLES))

    def openings() -> tuple[float, float]:
        times = [_opened(data, lambda: None) for _ in range(effort.rounds)]
        index_file = volume_path(data, VOLUME).with_suffix(".idx")
        return median(times), median(_opened(data, lambda: _forget(index_file)) for _ in range(effort.rounds))

    clean, cold = openings()
    tail_bytes = _add_a_tail(data)
    crashed = median(_opened(data, lambda: None) for _ in range(effort.rounds))
    with_needles = f"with {NEEDLES / 1e6:g} M needles"
    return [
        Figure(f"index memory {with_needles}, in all", "", filled["bytes_per_needle"], None, "bytes a needle", most=40),
        Figure("...at its highest, while a checkpoint is written", "", filled["peak_bytes_per_needle"], None, "bytes"),
        Figure(f"load of its 16-byte slots {with_needles}", "", filled["load"], None, "", least=0.5),
        Figure(
            f"longest stall of the event loop while filling to {NEEDLES / 1e6:g} M needles, "
            f"{filled['checkpoints']} checkpoints among it",
            "", 1e3 * filled["longest_gap_s"], None, "ms", most=20,
        ),
        Figure("...less its waits for a core", "", 1e3 * filled["longest_own_gap_s"], None, "ms"),
        Figure(f"opening {with_needles} after a clean stop", "", clean, None, "s", most=0.5),
        Figure("...with an index file that is not in the page cache", "", cold, None, "s"),
        Figure(f"opening {with_needles} after a crash, {tail_bytes >> 20} MiB of tail", "", crashed, None, "s", most=2),
    ]  # fmt: skip


def _opened(data: Path, before: Callable[[], None]) -> float:
    before()
    seconds: float = _told_by("bench.opening", str(data))["seconds"]
    return seconds


def _told_by(module: str, *arguments: str) -> dict[str, Any]:
    """The line of JSON that a program of this package prints. CalledProcessError when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def _forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _add_a_tail(data: Path) -> int:
    """As many real records as lie between two checkpoints, and no checkpoint after them: as a crash leaves it."""
    now_ms = int(time.time() * 1000)
    content = os.urandom(1024)
    store = Store(data)
    store.open_volumes()
    volume = store.volume(VOLUME)
    volume.size_limit = 1 << 38
    start, claims = volume.tail, list[Claim]()
    while volume.tail - start < CHECKPOINT_EVERY_BYTES:
        needle = (TAIL_LEASE + len(claims) // 4096) << 16 | len(claims) % 4096
        claims.append(
            volume.enqueue(needle, small_meta(needle), content, data_crc=crc32(content), appended_ms=now_ms)
        )  # fmt: skip
        if len(claims) % GROUP == 0:
            volume.flush()
    volume.flush()
    volume.sync_log()
    tail_bytes = volume.tail - start
    store.close(clean=False)
    _require_watermark(data, start)
    return tail_bytes


def _require_watermark(data: Path, watermark: int) -> None:
    """RuntimeError unless an opening will replay the log from there."""
    path = volume_path(data, VOLUME)
    with path.open("rb") as file:
        superblock = decode_head(file.read(RECORDS_START))
    store = Store(data)
    loaded = CheckpointFile(store.files, path.with_suffix(".idx"), superblock).load()
    store.close(clean=False)
    if loaded is None or loaded.watermark != watermark:
        raise RuntimeError(f"the checkpoint is not one up to {watermark}")
