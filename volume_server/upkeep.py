"""Scrubs as the loop sees them: whose turn it is, how far one is, and what becomes of its findings.

One at a time in this process, read by a child (`volume_server.scrub_child`). A volume's turn comes when it was asked
for, else when its last full pass is the oldest and longer ago than the days given. A pass that is stopped half-way
counts for nothing and begins again from the front: by a compaction of the same volume, which comes first, or because
the file is another one by now.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import asdict

from volume_server import record, superblock
from volume_server.child import Message
from volume_server.clock import Clock
from volume_server.damage import MAX_LISTED, Damage, name_needles
from volume_server.errors import VolumeBusy
from volume_server.index import LENGTH_BITS, LENGTH_MASK, Index
from volume_server.jobs import ChildJob, Job
from volume_server.joining import discard_asides
from volume_server.store import Store
from volume_server.superblock import RECORDS_START
from volume_server.volume import Volume

log = logging.getLogger(__name__)

DEFAULT_SCRUB_DAYS = 7.0
DEFAULT_SCRUB_RATE = 16 << 20
DAY_MS = 24 * 3600 * 1000
LOOK_S = 1.0
"""How often it is looked whether somebody's turn has come."""
FILES_LOOKS = 5
"""In so many looks it is looked at each volume once whether its file is still in its place."""
REST_S = 300.0
"""After a start or a failed pass no volume is scrubbed for so long, unless it is asked for."""


class Upkeep:
    """Lives on the loop.

    ``scrub_days`` 0: no scrub but those that are asked for; ``scrub_rate`` in bytes/s, 0: no limit.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        threads: Executor,
        store: Store,
        clock: Clock,
        *,
        scrub_days: float = DEFAULT_SCRUB_DAYS,
        scrub_rate: int = DEFAULT_SCRUB_RATE,
    ) -> None:
        self.loop = loop
        self.threads = threads
        self.store = store
        self.clock = clock
        self.scrub_days = scrub_days
        self.scrub_rate = scrub_rate
        self.is_busy: Callable[[Volume], bool] = lambda _: False
        """Of which volumes there may be no scrub now."""
        self.jobs: dict[int, Job] = {}
        """The last one of each volume since the start."""
        self._asked: list[Volume] = []
        self._pass: Pass | None = None
        self._rests_until_s = loop.time() + REST_S
        self._stopping = False
        self._timer: asyncio.TimerHandle | None = None
        self._to_look_at: list[int] = []
        """Numbers of the volumes whose files are looked at next."""
        self._a_look = 0
        self._suspects: dict[int, int] = {}
        """Of volumes whose files were not in their places at the last look: the descriptors."""

    def start(self) -> None:
        """Look for work from now on, again and again."""
        self.look()
        self.look_at_files()
        self._timer = self.loop.call_later(LOOK_S, self.start)

    def ask(self, volume: Volume) -> Job:
        """A scrub as soon as it can be, or the one that is under way. Raises VolumeBusy."""
        known = self.jobs.get(volume.number)
        if known is not None and known.state == "running":
            return known
        if self._stopping:
            raise VolumeBusy("the server is stopping")
        job = self._new_job(volume)
        self._asked.append(volume)
        self.look()
        return job

    def give_way(self, volume: Volume) -> None:
        """Another one needs the volume: its scrub is stopped, and comes again when the volume is not busy any more.

        Where damage is known it comes then in any case, to tell where that lies now.
        """
        running = self._pass is not None and self._pass.volume is volume
        if self._pass is not None and running:
            self._pass.give_up()
        if (running or volume.figures.damaged_count) and volume not in self._asked:
            self._asked.append(volume)

    def forget(self, volume: Volume) -> None:
        """The volume goes; what is done with it is given up."""
        if self._pass is not None and self._pass.volume is volume:
            self._pass.give_up()
        if volume in self._asked:
            self._asked.remove(volume)
        self.jobs.pop(volume.number, None)

    def report(self, volume: Volume) -> dict[str, object] | None:
        job = self.jobs.get(volume.number)
        return None if job is None else asdict(job)

    async def stop(self) -> None:
        """End what runs; it counts for nothing."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
        if self._pass is not None:
            self._pass.give_up()
            await self._pass.task

    def look(self) -> None:
        """Begin the next pass, if none runs and it is somebody's turn."""
        if self._pass is not None or self._stopping:
            return
        volume = self._next()
        if volume is None:
            return
        if volume in self._asked:
            self._asked.remove(volume)
        job = self.jobs.get(volume.number)
        if job is None or job.state != "running":
            job = self._new_job(volume)
        self._pass = Pass(self, volume, job)

    def look_at_files(self) -> None:
        """Whether some of the volumes' files are where they were opened; in some turns all of them are looked at.

        Nothing but a look at the names shows that a file was removed or replaced: it can be read and written on. A file
        that is being swapped is out of its place for a moment, and has another descriptor at the next look.
        """
        if not self._to_look_at:
            self._to_look_at = list(self.store.volumes)
            self._a_look = -(-len(self._to_look_at) // FILES_LOOKS)
        looked_at, self._to_look_at = self._to_look_at[: self._a_look], self._to_look_at[self._a_look :]
        suspects, self._suspects = self._suspects, {}
        for number in {*looked_at, *suspects}:
            volume = self.store.volumes.get(number)
            if volume is None or volume.is_unlinked or self.is_busy(volume) or _is_in_place(volume):
                continue
            if suspects.get(number) == volume.fd:
                volume.note_unlinked()
            else:
                self._suspects[number] = volume.fd

    def ended(self, finished: "Pass", *, again: bool) -> None:
        """A pass is over; ``again``: it has to be repeated."""
        self._pass = None
        if finished.job.state == "failed":
            self._rests_until_s = self.loop.time() + REST_S
        is_here = self.store.volumes.get(finished.volume.number) is finished.volume
        if again and is_here and finished.volume not in self._asked:
            self._asked.append(finished.volume)
        self.look()

    def _next(self) -> Volume | None:
        for volume in self._asked:
            if not self.is_busy(volume):
                return volume
        if not self.scrub_days or self.loop.time() < self._rests_until_s:
            return None
        free = [volume for volume in self.store.volumes.values() if not self.is_busy(volume)]
        oldest = min(free, key=_last_pass_ms, default=None)
        if oldest is None or self.clock.now_ms() - _last_pass_ms(oldest) < self.scrub_days * DAY_MS:
            return None
        return oldest

    def _new_job(self, volume: Volume) -> Job:
        job = Job("running", 0, volume.watermark - RECORDS_START, "", self.clock.now_ms())
        self.jobs[volume.number] = job
        return job


def _last_pass_ms(volume: Volume) -> int:
    return volume.superblock.created_ms if volume.scrubbed_ms is None else volume.scrubbed_ms


def _is_in_place(volume: Volume) -> bool:
    try:
        return volume.is_in_place()
    except OSError:  # it is not known, and a scrub will tell
        return True


class Pass:
    """One attempt to scrub a volume."""

    def __init__(self, upkeep: Upkeep, volume: Volume, job: Job) -> None:
        self.upkeep = upkeep
        self.volume = volume
        self.job = job
        self.revision = volume.superblock.revision
        self.index = volume.index
        """Another one takes its place with another file, and when other bytes have come into the file."""
        self.end = volume.watermark
        self.found: list[Damage] = []
        self.count = 0
        self._began_s = time.time()
        self._given_up = False
        self._child: ChildJob | None = None
        self._reason: str | None = None
        job.done_bytes, job.total_bytes = 0, self.end - RECORDS_START
        self.task = upkeep.loop.create_task(self._run())

    def give_up(self) -> None:
        self._given_up = True
        if self._child is not None:
            self._child.kill()

    async def _run(self) -> None:
        volume, job = self.volume, self.job
        log.info("volume %d: scrubbing %d bytes", volume.number, job.total_bytes)
        again = False
        try:
            failure = await self._read()
            if failure is None and not self._given_up:
                await self._name_needles()
            if self._given_up or not self._is_of_this_file():
                again = True
            elif failure is not None:
                job.state, job.detail = "failed", failure
                for damage in self.found:  # it is there, whatever else is
                    volume.note_damage(damage)
                log.error("volume %d was not scrubbed: %s", volume.number, failure)
            else:
                await self._conclude()
        except Exception:
            job.state, job.detail = "failed", "something went wrong here; the log says what"
            log.exception("volume %d was not scrubbed", volume.number)
        if again:
            job.done_bytes = 0
        else:
            job.ended_ms = self.upkeep.clock.now_ms()
        self.upkeep.ended(self, again=again)

    def _is_of_this_file(self) -> bool:
        volume = self.volume
        is_same = volume.superblock.revision == self.revision and volume.index is self.index
        return is_same and not volume.is_being_replaced

    async def _read(self) -> str | None:
        """Have the child read it all. Why it did not, or None."""
        if self._given_up:
            return None
        if not _is_in_place(self.volume):
            return self.volume.sealed or f"its file {self.volume.path.name} was removed or replaced; see the log"
        first = {
            "superblock": superblock.encode(self.volume.superblock).hex(),
            "end": self.end,
            "rate_bytes": self.upkeep.scrub_rate,
        }
        try:
            self._child = ChildJob(
                self.upkeep.loop,
                "scrub_child",
                first,
                fds=[self.volume.fd],
                on_message=self._take,
                on_end=self._take_end,
            )
        except OSError as error:
            return f"its process cannot be started: {error}"
        await self._child.ended.wait()
        return self._reason

    def _take_end(self, reason: str | None) -> None:
        self._reason = reason

    def _take(self, message: Message) -> None:
        if "at" in message:
            self.job.done_bytes = min(max(int(message["at"]) - RECORDS_START, 0), self.job.total_bytes)
        for found in message.get("damaged", ()):
            self.count += 1
            if len(self.found) < MAX_LISTED:
                self.found.append(Damage.of_json(found))

    async def _name_needles(self) -> None:
        """Find out by the index whose records lie where no header tells it."""
        nameless = [damage for damage in self.found if damage.needle is None and damage.offset >= RECORDS_START]
        if not nameless:
            return
        lying = await needles_within(self.volume.index, nameless)
        named = [damage for damage in self.found if damage not in nameless]
        for damage in nameless:
            named += name_needles(damage, [found for found in lying if damage.offset <= found[1] < damage.end])
        self.count += len(named) - len(self.found)
        self.found = sorted(named, key=lambda damage: damage.offset)

    async def _conclude(self) -> None:
        volume, job = self.volume, self.job
        known = {damage.offset for damage in volume.damage}
        for damage in self.found:
            if damage.offset not in known:
                log.error(
                    "volume %d: %d bytes at %d are damaged (needle %s): %s",
                    volume.number,
                    damage.size_bytes,
                    damage.offset,
                    "unknown" if damage.needle is None else f"{damage.needle:016x}",
                    damage.reason,
                )
        volume.end_scrub(self.found, self.count, end=self.end, now_ms=self.upkeep.clock.now_ms())
        await self.upkeep.loop.run_in_executor(self.upkeep.threads, self._write_down)
        job.state, job.done_bytes = "done", job.total_bytes
        job.detail = f"{self.count} damaged" if self.count else ""
        log.info("volume %d: scrubbed, %d damaged", volume.number, self.count)

    def _write_down(self) -> None:
        """In a thread."""
        volume = self.volume
        volume.save_state()
        if self.count or volume.replica is None:
            return
        whole_epoch = max((epoch for epoch, _ in volume.replica.history), default=0)
        try:
            discard_asides(volume.files, volume.path, whole_epoch=whole_epoch, scrubbed_from_s=self._began_s)
        except OSError as error:
            log.error("volume %d: what was saved aside could not be removed: %s", volume.number, error)


async def needles_within(index: Index, extents: Iterable[Damage]) -> list[tuple[int, int, int]]:
    """(id, offset, bytes) of the live needles whose records begin within the extents.

    The index knows no way from offset to needle, so all of it is looked through, a segment at a time: a segment takes
    a small part of a millisecond, and the loop has other work in between. What is entered or buried meanwhile does no
    harm: each is asked for again at the end, and nothing new is written into the extents.
    """
    bounds = [(damage.offset >> 3 << LENGTH_BITS, damage.end >> 3 << LENGTH_BITS) for damage in extents]
    lowest, highest = min(bounds)[0], max(end for _, end in bounds)
    needles = []
    for segment in list(index.segments()):
        slots = segment.view.tolist()
        for slot, value in enumerate(slots[1::2]):
            if lowest <= value < highest and value & LENGTH_MASK and any(low <= value < high for low, high in bounds):
                needles.append(slots[2 * slot])
        await asyncio.sleep(0)
    found = []
    for needle in needles:
        known = index.get(needle)
        if known is not None and known[1]:
            found.append((needle, known[0], record.aligned(known[1])))
    return found
