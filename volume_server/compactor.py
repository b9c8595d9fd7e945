"""Compactions as the loop sees them: who may begin, how far they are, and the cut.

One at a time in this process; the others wait their turn. The copying is done by a child process
(`volume_server.compaction_child`); here it is told how far it may read, and at the end its file takes the place of
the volume's:

1. A checkpoint is written for the child to read, and none is made until it has.
2. The child copies what lives, then follows the log, each time up to the watermark, until little is left.
3. It saves a checkpoint of its own, from which the twin is opened here, in a thread.
4. The cut: new writes wait. When all that was under way is settled, the child follows the last of the log.
   If something holds the volume for longer (a slow upload), the writers are let in, and the cut is tried again later.
5. The rename, in a thread; then the volume becomes its twin, and the writers go on.

What fails before the rename leaves the volume as it was, and is told in the job's ``detail``.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from volume_server.child import Message
from volume_server.clock import Clock
from volume_server.commit import Committer
from volume_server.compaction import CompactionFailed, Copied, discard, install, new_twin_directory
from volume_server.errors import DiskFull, StoreError, VolumeBusy
from volume_server.index import SEGMENT_BYTES
from volume_server.jobs import ChildJob, Job
from volume_server.state import CLOSED
from volume_server.store import Store
from volume_server.superblock import RECORDS_START
from volume_server.volume import Volume

log = logging.getLogger(__name__)

CUT_BYTES = 4 << 20
"""When no more than this is left to follow, the cut is made."""
MAX_ROUNDS = 20
"""Of following a log that grows as fast; then the cut is made with whatever is left."""
CUT_WAIT_S = 2.0
CUT_AGAIN_S = 5.0
MAX_CUTS = 720
POLL_S = 0.005

T = TypeVar("T")


@dataclass(slots=True)
class Compaction(Job):
    """As it is reported."""

    reclaimed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Order:
    """What a compaction was asked for with."""

    rate_bytes: int = 0
    drop_before_ms: int = 0
    drop_damage: bool = False


class Compactor:
    """Lives on the loop.

    ``before`` is called with a volume whose compaction is about to begin, ``on_damage`` with one that was not compacted
    because of damage that nobody knew of.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        threads: Executor,
        store: Store,
        committer: Committer,
        clock: Clock,
        before: Callable[[Volume], None] = lambda _: None,
        on_damage: Callable[[Volume], object] = lambda _: None,
    ) -> None:
        self.loop = loop
        self.threads = threads
        self.store = store
        self.committer = committer
        self.clock = clock
        self.before = before
        self.on_damage = on_damage
        self.jobs: dict[int, Compaction] = {}
        """The last one of each volume since the start."""
        self._stopping = asyncio.Event()
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._children: set[ChildJob] = set()

    def start(self, volume: Volume, order: Order) -> Compaction:
        """Begin, or join the compaction that runs. Raises VolumeSealed, VolumeBusy, DiskFull."""
        running = self.jobs.get(volume.number)
        if running is not None and running.state == "running":
            return running
        self.require_going()
        volume.require_compactable()
        self._require_room(volume)
        total_bytes = volume.tail - RECORDS_START
        job = self.jobs[volume.number] = Compaction("running", 0, total_bytes, "", self.clock.now_ms())
        task = self.loop.create_task(self._run(volume, order, job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    def is_running(self, volume: Volume) -> bool:
        job = self.jobs.get(volume.number)
        return job is not None and job.state == "running"

    def report(self, volume: Volume) -> dict[str, object] | None:
        job = self.jobs.get(volume.number)
        return None if job is None else asdict(job)

    async def stop(self) -> None:
        """Give up what runs, unless its rename is already under way."""
        self._stopping.set()
        for child in self._children:
            child.kill()
        await asyncio.gather(*self._tasks)

    def require_going(self) -> None:
        if self._stopping.is_set():
            raise VolumeBusy("the server is stopping")

    def _require_room(self, volume: Volume) -> None:
        needed = volume.tail - volume.figures.garbage_bytes + sum(SEGMENT_BYTES for _ in volume.index.segments())
        free = self.store.free_bytes()
        if needed > free:
            raise DiskFull(
                f"the compaction of volume {volume.number} needs {needed} bytes, {free} are free beside the reserve"
            )

    async def _run(self, volume: Volume, order: Order, job: Compaction) -> None:
        async with self._turn:
            size_bytes = volume.tail
            try:
                self.require_going()
                volume.require_compactable()
                self._require_room(volume)
                self.before(volume)
                log.info("volume %d: compacting %d bytes", volume.number, size_bytes)
                await Attempt(self, volume, order, job).run()
            except (CompactionFailed, StoreError, OSError) as error:
                job.state, job.detail = "failed", str(error)
                log.error("volume %d was not compacted: %s", volume.number, error)
            except Exception:
                job.state, job.detail = "failed", "something went wrong here; the log says what"
                log.exception("volume %d was not compacted", volume.number)
            else:
                job.state = "done"
                job.done_bytes = job.total_bytes
                log.info("volume %d: compacted, %d bytes given back", volume.number, job.reclaimed_bytes)
            job.ended_ms = self.clock.now_ms()

    async def sleep(self, seconds: float) -> None:
        """Raises VolumeBusy as soon as the server stops."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        self.require_going()

    def child(self, first: Message, messages: "asyncio.Queue[Message | str]") -> ChildJob:
        """A child at work, whose messages and whose end (as text) come through the queue. Raises VolumeBusy."""
        self.require_going()

        def ended(reason: str | None) -> None:
            self._children.discard(child)
            messages.put_nowait(reason or "the copying process ended too early")

        child = ChildJob(
            self.loop, "compaction_child", first, on_message=messages.put_nowait, on_end=ended
        )  # fmt: skip
        self._children.add(child)
        return child

    async def in_thread(self, call: Callable[..., T], *arguments: object) -> T:
        return await self.loop.run_in_executor(self.threads, call, *arguments)


class Attempt:
    """One compaction of one volume, from its checkpoint to the swap."""

    def __init__(self, compactor: Compactor, volume: Volume, order: Order, job: Compaction) -> None:
        self.compactor = compactor
        self.volume = volume
        self.order = order
        self.job = job
        self.directory = new_twin_directory(volume.path)
        self.messages: asyncio.Queue[Message | str] = asyncio.Queue()
        self.child: ChildJob | None = None
        self.twin: Volume | None = None
        self.installed = False

    async def run(self) -> None:
        volume, compactor = self.volume, self.compactor
        try:
            volume.hold_checkpoints(held=True)
            try:
                await self._checkpoint()
                self.child = compactor.child(
                    {
                        "path": str(volume.path.absolute()),
                        "directory": str(self.directory.absolute()),
                        **asdict(self.order),
                    },
                    self.messages,
                )
                await self._next("loaded")
            finally:
                volume.hold_checkpoints(held=False)
            copied = await self._copied()
            copied = await self._follow_closely(copied)
            await self._step({"do": "save"})
            self.twin = await compactor.in_thread(Volume.open, volume.files, self.directory / volume.path.name)
            await self._cut_and_swap(copied)
        finally:
            await self._clean_up()

    async def _checkpoint(self) -> None:
        volume = self.volume
        while volume.checkpointing:
            await asyncio.sleep(POLL_S)
        volume.require_compactable()
        job = volume.begin_checkpoint()
        places = None
        try:
            places = await self.compactor.in_thread(volume.write_checkpoint, job)
        finally:
            volume.end_checkpoint(job, places)

    async def _follow_closely(self, copied: Copied) -> Copied:
        for _ in range(MAX_ROUNDS):
            upto = self.volume.watermark
            if upto - copied.at <= CUT_BYTES:
                break
            copied = await self._step({"do": "follow", "upto": upto})
        return copied

    async def _cut_and_swap(self, copied: Copied) -> None:
        volume = self.volume
        for _ in range(MAX_CUTS):
            volume.begin_cut()
            try:
                if await self._is_quiet():
                    await self._swap(await self._step({"do": "follow", "upto": volume.tail}))
                    return
            finally:
                volume.end_cut()
            await self.compactor.sleep(CUT_AGAIN_S)
            copied = await self._follow_closely(copied)
        raise CompactionFailed("uploads held the volume all the time; try again when there is less to do")

    async def _is_quiet(self) -> bool:
        ends_s = self.compactor.loop.time() + CUT_WAIT_S
        while not self.volume.is_quiet:
            if self.compactor.loop.time() > ends_s:
                return False
            await self.compactor.sleep(POLL_S)
        return True

    async def _swap(self, copied: Copied) -> None:
        volume, twin, compactor = self.volume, self.twin, self.compactor
        assert twin is not None
        await compactor.in_thread(twin.catch_up)
        if twin.tail != copied.tail or copied.at != volume.tail:
            raise CompactionFailed(f"the copy ends at {twin.tail}, not at {copied.tail}")
        volume.require_compactable()
        self._require_sound(twin)
        old_bytes = volume.tail
        is_durable = await compactor.in_thread(install, volume.files, volume.path, self.directory)
        self.installed = True
        compactor.committer.forget(volume)
        volume.take_over(twin)
        self.twin = None
        if not is_durable:
            volume.seal("the directory could not be made durable after a compaction")
        self.job.reclaimed_bytes = old_bytes - volume.tail

    def _require_sound(self, twin: Volume) -> None:
        """The other copies of a volume take this file in the place of theirs, which may be sound where it is not.

        Raises CompactionFailed.
        """
        volume = self.volume
        if volume.replica is None or volume.replica.mode != CLOSED or self.order.drop_damage:
            return
        found = twin.figures.damaged_count
        if found > volume.unmended_count:
            self.compactor.on_damage(volume)
            raise CompactionFailed(
                f"{found} damaged records, which other copies may have sound; it is to be opened first"
            )

    async def _clean_up(self) -> None:
        if self.child is not None:
            self.child.kill()
            await self.child.ended.wait()
        if self.twin is not None:
            self.twin.close(clean=False)
        if not self.installed:
            await self.compactor.in_thread(discard, self.volume.files, self.directory)

    # -- talking to the child ------------------------------------------------------------------------------------

    async def _step(self, order: Message) -> Copied:
        assert self.child is not None
        self.child.send(order)
        return await self._copied()

    async def _copied(self) -> Copied:
        message = await self._next("at")
        return Copied(int(message["at"]), int(message["tail"]))

    async def _next(self, name: str) -> dict[str, Any]:
        """The next message of this name; progress is taken note of. Raises CompactionFailed when the child ends."""
        while True:
            message = await self.messages.get()
            if isinstance(message, str):
                raise CompactionFailed(message)
            at = message.get("progress", message.get("at"))
            if at is not None:
                self.job.total_bytes = max(self.job.total_bytes, self.volume.tail - RECORDS_START)
                self.job.done_bytes = min(int(at) - RECORDS_START, self.job.total_bytes)
            if name in message:
                return message
