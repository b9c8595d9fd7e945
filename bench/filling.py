"""Fill a volume's index as the server would, and tell how long its event loop ever stood still.

    python -m bench.filling DATA COUNT

Needles settle in batches, checkpoints are written by a thread while the filling goes on, and a ticker on the loop
looks at the clock between the batches. Only the records themselves are left out: the volume file has their length and
no bytes. That makes it harder than real traffic, since the loop does nothing but change the index. Prints a line of
JSON.
"""

import asyncio
import gc
import json
import os
import secrets
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from bench.uncommitted_server import VOLUME
from bench.volumes import needle_ids, small_meta
from tests.support.programs import resident_bytes
from volume_server.index import SEGMENT_SLOTS
from volume_server.process import GC_THRESHOLDS, THREADS
from volume_server.record import HEADER_BYTES, LIVE, aligned
from volume_server.store import Store
from volume_server.volume import CHECKPOINT_EVERY_BYTES, Claim, Volume

BATCH = 64
"""Needles that one sync covers when 64 connections write."""
DATA_BYTES = 1024
AHEAD_BYTES = 2 * CHECKPOINT_EVERY_BYTES
"""So far the filling may be ahead of a checkpoint that is being written. A server has some seconds for as much."""


class Filling:
    """The loop's side: one batch a turn, the gaps between turns on record."""

    def __init__(self, volume: Volume, count: int) -> None:
        self.volume = volume
        self.needles = iter(needle_ids(count))
        self.meta_bytes = len(small_meta(1 << 16))
        self.now_ms = int(time.time() * 1000)
        self.longest_gap_s = 0.0
        self.longest_own_gap_s = 0.0
        """As above, less what the thread waited for a core that others had."""
        self.peak_bytes = 0
        self.checkpoints = 0
        self.checkpoint_tail = 0

    async def run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.threads = ThreadPoolExecutor(THREADS)
        self.done = asyncio.Event()
        self.schedule_fd = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)
        self.ticked_at, self.waited_s = time.perf_counter(), self.waited_for_a_core_s()
        self.loop.call_soon(self.turn)
        await self.done.wait()
        self.threads.shutdown()
        await asyncio.sleep(0)  # the end of a last checkpoint
        os.close(self.schedule_fd)

    def turn(self) -> None:
        now, waited = time.perf_counter(), self.waited_for_a_core_s()
        gap = now - self.ticked_at
        self.longest_gap_s = max(self.longest_gap_s, gap)
        self.longest_own_gap_s = max(self.longest_own_gap_s, gap - (waited - self.waited_s))
        self.ticked_at, self.waited_s = now, waited
        if self.volume.checkpointing and self.volume.tail - self.checkpoint_tail > AHEAD_BYTES:
            self.loop.call_later(0.001, self.turn)
            return
        claims = [self.claim(needle) for needle in islice(self.needles, BATCH)]
        if not claims:
            self.done.set()
            return
        self.volume.settle(claims)
        if self.volume.checkpoint_is_due:
            self.checkpoint()
        self.loop.call_soon(self.turn)

    def waited_for_a_core_s(self) -> float:
        return int(os.pread(self.schedule_fd, 100, 0).split()[1]) / 1e9

    def claim(self, needle: int) -> Claim:
        stored_bytes = HEADER_BYTES + self.meta_bytes + DATA_BYTES
        volume = self.volume
        claim = Claim(needle, volume.tail, aligned(stored_bytes), stored_bytes, LIVE, self.now_ms)
        volume.tail += claim.record_bytes
        return claim

    def checkpoint(self) -> None:
        job = self.volume.begin_checkpoint()
        self.checkpoint_tail = self.volume.tail
        self.checkpoints += 1

        def write() -> None:
            places = self.volume.write_checkpoint(job)
            self.peak_bytes = max(self.peak_bytes, resident_bytes(os.getpid()))
            self.loop.call_soon_threadsafe(self.volume.end_checkpoint, job, places)

        self.threads.submit(write)


def main(data: Path, count: int) -> None:
    store = Store(data)
    volume = store.create_volume(
        number=VOLUME, salt=secrets.token_bytes(16), created_ms=int(time.time() * 1000), epoch=1
    )
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    empty_bytes = resident_bytes(os.getpid())
    filling = Filling(volume, count)
    started = time.perf_counter()
    asyncio.run(filling.run())
    seconds = time.perf_counter() - started
    full_bytes = resident_bytes(os.getpid())
    segments = sum(1 for _ in volume.index.segments())
    os.ftruncate(volume.fd, volume.tail)
    volume.close()
    told = {
        "seconds": seconds,
        "longest_gap_s": filling.longest_gap_s,
        "longest_own_gap_s": filling.longest_own_gap_s,
        "checkpoints": filling.checkpoints,
        "bytes_per_needle": (full_bytes - empty_bytes) / count,
        "peak_bytes_per_needle": (filling.peak_bytes - empty_bytes) / count,
        "load": count / (segments * SEGMENT_SLOTS),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
