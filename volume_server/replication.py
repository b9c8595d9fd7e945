"""Replicated volumes as the loop sees them: orders, epochs, and who may write what.

Of each replicated volume one copy is the primary in an epoch; it takes records and ships them to its peers. Who that is
the master says, by an order with a higher epoch than any before. Nothing begins under an epoch before it is written
down, and nothing of a lower one is taken from then on: so a primary that was replaced without knowing it finds that
its peers refuse it.

    open E ──> hold back, settle, write E down ──> make the peers equal (`volume_server.opening`) ──> open
                                                                  │ a peer cannot be had                │
                                                                  v                                     │
                                                              degraded <── a shipment fails, a restart ─┘
    close E ─> hold back, settle, write E down ──> closed

Degraded and closed volumes are read as ever, and take no record, tombstones included, until the next `open`.

A peer's side is `volume_server.receiving`.
"""

import asyncio
import logging
import os
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from volume_server.clock import Clock
from volume_server.commit import Committer
from volume_server.compactor import Compactor
from volume_server.errors import (
    EpochOld,
    StoreError,
    VolumeBusy,
    VolumeDegraded,
    VolumeSealed,
    VolumeUnknown,
    VolumeUnusable,
)
from volume_server.http1 import HttpError
from volume_server.joining import Target, discard_fetched, fetched_paths, is_given_up, opened_anew, remove_volume
from volume_server.mending import Mending
from volume_server.opening import CopyCancelled, Copying, History, PeerState, Source, Stretch
from volume_server.peers import Line, Peer, PeerCalls, PeerFailed
from volume_server.shipping import Shipper
from volume_server.state import ALONE, CLOSED, MAX_EPOCH, MAX_HISTORY, SHARED, Replica
from volume_server.store import Store
from volume_server.upkeep import Upkeep
from volume_server.volume import Volume, read_state, volume_path

log = logging.getLogger(__name__)

COPY_THREADS = 8
"""So many peers are made equal at a time; the others wait their turn."""
PEER_THREADS = 16
"""For copies that are made equal: digests, blocks, and whole files that are read anew."""
SHIP_THREADS = 16
"""For shipments and pieces of the volumes that are open; none of them waits behind a copy that is made."""
POLL_S = 0.005
MAX_PEERS = 8
MAX_BODY_BYTES = 2 << 20
SMALL_BYTES = 256 << 10
"""Shipments up to this size are written by the loop."""
SECONDARY = "it is a copy; its primary takes records"

_TARGET = re.compile(r"/replica/([1-9][0-9]{0,9})/([1-9][0-9]{0,9})/([a-z]{1,16})(?:\?at=([0-9]{1,15}))?\Z")

T = TypeVar("T")
Answer = dict[str, object]


@dataclass(slots=True, eq=False)
class Opening:
    """Of a volume, for one epoch: what the primary's figures tell of it, also when it is over."""

    epoch: int
    peers: list[PeerState]
    is_over: bool = False
    is_cancelled: bool = False
    calls: list[PeerCalls] = field(default_factory=list)

    def cancel(self) -> None:
        """Nothing more is copied; a peer that does not answer is not waited for."""
        self.is_cancelled = self.is_over = True
        for calls in self.calls:
            calls.abort()


@dataclass(slots=True, eq=False)
class Membership:
    """A peer's part in one epoch of a volume, from its `join` to its end."""

    epoch: int
    primary: str
    target: Target | None = None
    is_member: bool = False
    """Its copy is whole; it takes shipments."""
    number: int = 0
    """Of the last shipment."""
    busy_count: int = 0
    """Requests of this epoch that are at work."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held by threads that write: none may cut off what another one writes behind the end."""
    end: int = 0
    """How far the file reaches at the least."""
    finishing: "asyncio.Task[None] | None" = None
    failure: StoreError | None = None


@dataclass(slots=True, eq=False)
class Part:
    """What this process knows of one replicated volume besides what is written down."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    ordered_epoch: int = 0
    order: "asyncio.Task[None] | None" = None
    """The latest one; it may be over."""
    opening: Opening | None = None
    shipper: Shipper | None = None
    membership: Membership | None = None
    ended: list[Membership] = field(default_factory=list)
    """Former memberships, requests of which may be at work still."""
    own_count: int = 0
    """Threads that change files of this copy, and nobody's request."""


class Replication:
    """Lives on the loop. ``on_change``: a volume's state has changed; the master should know it at once."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        store: Store,
        committer: Committer,
        clock: Clock,
        *,
        compactor: Compactor,
        upkeep: Upkeep,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.loop = loop
        self.store = store
        self.committer = committer
        self.clock = clock
        self.compactor = compactor
        self.upkeep = upkeep
        self.on_change = on_change
        self.shipment_count = 0
        self.shipped_bytes = 0
        self.degraded_count = 0
        self.parts: dict[int, Part] = {}
        self.tasks: set[asyncio.Task[Any]] = set()
        self.is_stopping = False
        # Not the threads that bodies come in by: these wait for peers, whose threads may be waiting for ours.
        self._copy_threads: Executor = ThreadPoolExecutor(COPY_THREADS, thread_name_prefix="copy")
        self._peer_threads: Executor = ThreadPoolExecutor(PEER_THREADS, thread_name_prefix="peer")
        # What a client waits for here or there, and what ends an epoch when it takes too long.
        self._ship_threads: Executor = ThreadPoolExecutor(SHIP_THREADS, thread_name_prefix="ship")

    # -- figures -------------------------------------------------------------------------------------------------

    def report(self, volume: Volume) -> dict[str, object]:
        """What replication adds to, or says otherwise than, the volume's own figures (docs/protocol.md, section 5)."""
        replica, part = volume.replica, self.parts.get(volume.number)
        opening = None if part is None else part.opening
        is_opening = opening is not None and not opening.is_over
        if replica is None and not is_opening and volume.held_back is None:
            return {"replication": None}
        role = "primary" if is_opening or replica is None else replica.role  # None: nothing could be written down yet
        told: dict[str, object] = {"role": role, "epoch": volume.epoch, "state": self._state(volume, part)}
        if role == "primary":
            told["peers"] = [] if opening is None else [asdict(peer) for peer in opening.peers]
        told["detail"] = volume.held_back or ""
        return {"epoch": self._whole_epoch(volume), "replication": told}

    def _state(self, volume: Volume, part: Part | None) -> str:
        replica = volume.replica
        if part is not None:
            if part.opening is not None and not part.opening.is_over:
                return "opening"
            if part.membership is not None:
                return "open" if part.membership.is_member else "opening"
        if replica is not None and replica.mode == CLOSED:
            return "closed"
        return "open" if volume.held_back is None else "degraded"

    def _whole_epoch(self, volume: Volume) -> int:
        """A secondary's epoch is that in which it was whole; it is fenced by a higher one, maybe."""
        replica = volume.replica
        if replica is None or replica.role == "primary" or replica.mode == CLOSED:
            return volume.epoch
        return max((epoch for epoch, _ in replica.history), default=0)

    def is_joining(self, number: int) -> bool:
        """Whether the volume is being copied to here, or has been."""
        part = self.parts.get(number)
        return part is not None and part.membership is not None

    def degraded_volumes(self) -> list[Volume]:
        return [volume for volume in self.store.volumes.values() if volume.replica and self._is_degraded(volume)]

    def _is_degraded(self, volume: Volume) -> bool:
        return self._state(volume, self.parts.get(volume.number)) == "degraded"

    # -- orders --------------------------------------------------------------------------------------------------

    def order(self, order: dict[str, Any]) -> "asyncio.Task[None] | None":
        """An `open`, `close` or `drop` of the master's. Begins it; the task ends when it is done, or has failed.

        One that was given twice, in an answer to a report and by a call, is done once: both get the task of the first.
        None: it is written down already. Raises StoreError, HttpError 400.
        """
        number = whole_number(order, "volume")
        if self.is_stopping:
            raise VolumeBusy("the server is stopping")
        epoch = whole_number(order, "epoch")
        if not 1 <= epoch <= MAX_EPOCH:
            raise HttpError(400, "bad_request", f"{epoch} is no epoch")
        is_drop = order.get("do") == "drop"  # of whatever is here
        volume = self.store.volumes.get(number) if is_drop else self.store.volume(number)
        part = self.parts.setdefault(number, Part())
        highest = max(part.ordered_epoch, 0 if volume is None else volume.epoch)
        if epoch < highest:
            raise EpochOld(f"volume {number} is at epoch {highest}")
        if volume is None or is_drop:
            part.order = self._begin(self._drop(number, part, epoch))
            return part.order
        if epoch == volume.epoch and volume.replica is not None:
            return None
        if epoch == part.ordered_epoch:
            return part.order
        if self.compactor.is_running(volume):
            raise VolumeBusy(f"volume {number} is being compacted")
        if order.get("do") == "close":
            part.ordered_epoch = epoch
            part.order = self._begin(self._close(volume, part, epoch))
            return part.order
        peers = _peers(order, self.store.identity.server)
        part.ordered_epoch = epoch
        self.end_all(part, f"epoch {epoch} begins")
        told = [PeerState(peer.server, "copying", 0, volume.tail) for peer in peers]
        part.opening = Opening(epoch, told)
        part.order = self._begin(self._open(volume, part, part.opening, peers))
        return part.order

    def _begin(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = self.loop.create_task(work)
        self.keep(task)
        task.add_done_callback(lambda _: self.on_change())
        return task

    def keep(self, task: "asyncio.Task[Any]") -> None:
        """Until it ends; a stop waits for it."""
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _open(self, volume: Volume, part: Part, opening: Opening, peers: list[Peer]) -> None:
        epoch = opening.epoch
        if volume.replica is None and not peers:
            with self._told(volume, part, epoch):
                await self.in_thread(volume.save_replica, epoch, Replica("primary", ALONE))
            return
        volume.hold_back("it is being opened")
        with self._told(volume, part, epoch):
            async with self.settled(volume, part, epoch):
                if volume.sealed is not None:
                    raise VolumeSealed(f"volume {volume.number} is sealed: {volume.sealed}")
                await self._make_whole(volume)
                revision = volume.superblock.revision
                before = history_of(volume)
                mode = SHARED if peers else ALONE
                await self.in_thread(volume.save_replica, epoch, Replica("primary", SHARED, revision, before))
                source = Source(volume.files, os.dup(volume.fd), volume.superblock, volume.tail, before)
            try:
                history = await self._copy(volume, part, opening, source, peers)
            finally:
                os.close(source.fd)
            async with self.settled(volume, part, epoch):
                await self.in_thread(volume.save_replica, epoch, Replica("primary", mode, revision, history))
                volume.unmended_count = volume.figures.damaged_count
                if peers:
                    shipper = part.shipper = Shipper(
                        self.loop,
                        volume,
                        epoch=epoch,
                        primary=self.store.identity.server,
                        peers=peers,
                        clock=self.clock,
                        on_failure=lambda *found: self._shipping_failed(part, *found),
                    )
                    self.committer.openers[volume] = shipper.opener(self.committer.open_syncs)
                volume.held_back = None
                log.info("volume %d is open in epoch %d with %d peers", volume.number, epoch, len(peers))

    async def _make_whole(self, volume: Volume) -> None:
        """What the volume knows is what lies in its file, and durable. Raises OSError, StoreError."""
        if volume.is_being_replaced or volume.is_behind:
            volume.take_over(await self.in_thread(opened_anew, volume))
        await self.in_thread(_make_durable, volume)

    async def _copy(
        self, volume: Volume, part: Part, opening: Opening, source: Source, peers: list[Peer]
    ) -> History:  # fmt: skip
        """Make all copies equal, and sound as far as any of them is; the volume's history with this epoch.

        Raises VolumeDegraded where a peer is not whole; EpochOld, StoreError, OSError.
        """
        copies = []
        for peer, told in zip(peers, opening.peers, strict=True):
            calls = PeerCalls(Line(peer, self.store.identity.server, volume.number, opening.epoch, self.clock))
            opening.calls.append(calls)
            told.total_bytes = source.size_bytes
            copies.append(Copying(source, calls, told, lambda: opening.is_cancelled, time.sleep))
        try:
            await self._each(copies, Copying.compare)
            mended = await self._mend(volume, part, opening, source, copies)
            size_bytes = volume.tail
            history = (*source.before, (opening.epoch, size_bytes))[-MAX_HISTORY:]
            await self._each(copies, lambda copy: copy.make_equal(size_bytes, history, mended))
        finally:
            for copy in copies:
                copy.calls.close()
        failed = [f"server {copy.told.server} is not whole: {copy.failure}" for copy in copies if copy.failure]
        if failed:
            raise VolumeDegraded("; ".join(failed))
        return history

    async def _each(self, copies: list[Copying], step: Callable[[Copying], None]) -> None:
        """Side by side, for those that have not failed; what goes wrong is theirs."""

        def run(copy: Copying) -> None:
            try:
                if copy.failure is None:
                    step(copy)
            except CopyCancelled:
                copy.failure = "the opening is over"
            except (PeerFailed, OSError) as error:
                copy.failure = str(error)
            if copy.failure is not None:
                copy.told.state = "lost"

        await asyncio.gather(*[self.loop.run_in_executor(self._copy_threads, run, copy) for copy in copies])

    async def _mend(
        self, volume: Volume, part: Part, opening: Opening, source: Source, copies: list[Copying]
    ) -> list[Stretch]:  # fmt: skip
        """Take from the peers what is damaged here; which bytes were. Raises EpochOld, StoreError, OSError."""
        mending = Mending(volume, opening.epoch, source, [copy for copy in copies if copy.failure is None])
        if not mending.copies:
            return []
        if opening.is_cancelled:
            raise EpochOld(f"volume {volume.number}: epoch {opening.epoch} is over")
        part.own_count += 1  # nobody else may write into the file meanwhile
        try:
            await self.loop.run_in_executor(self._copy_threads, mending.look)
            if not mending.wounds:
                return []
            self.upkeep.give_way(volume)
            volume.hold_checkpoints(held=True)
            twin = await self.loop.run_in_executor(self._copy_threads, mending.mend)
        except CopyCancelled:
            raise EpochOld(f"volume {volume.number}: epoch {opening.epoch} is over") from None
        finally:
            part.own_count -= 1
        if twin is not None:
            try:
                async with self.settled(volume, part, opening.epoch):
                    while volume.hold_count:  # reads that compare by offsets
                        await asyncio.sleep(POLL_S)
                    self.committer.forget(volume)
                    volume.take_over(twin)
                    twin = None
            finally:
                if twin is not None:
                    twin.close(clean=False)
        for damage in mending.damage:
            volume.note_damage(damage)
        return mending.mended

    async def _close(self, volume: Volume, part: Part, epoch: int) -> None:
        self.end_all(part, f"it is closed in epoch {epoch}")
        volume.hold_back("it is closed")
        with self._told(volume, part, epoch):
            async with self.settled(volume, part, epoch):
                known = volume.replica or Replica("primary")
                closed = replace(known, mode=CLOSED, revision=volume.superblock.revision, history=history_of(volume))
                await self.in_thread(volume.save_replica, epoch, closed)
                log.info("volume %d is closed in epoch %d", volume.number, epoch)

    async def _drop(self, number: int, part: Part, epoch: int) -> None:
        """Also of what is there of a copy that never became whole, or of a file that cannot be opened.

        A later order or join that comes before it is done ends it: the copy is wanted again.
        """
        part.ordered_epoch = epoch
        self.end_all(part, "it is dropped here")
        volume = self.store.volumes.get(number)
        if volume is not None:
            volume.hold_back("it is dropped here")
        await self.retire(part)
        async with part.lock:
            if volume is not None:
                await self._quiesce(volume)
                while volume.hold_count or self.compactor.is_running(volume):
                    await asyncio.sleep(POLL_S)
            if self.store.volumes.get(number) is not volume:
                return  # another drop was faster
            try:
                written_down = await self.in_thread(self._epoch_on_disk, number)
                if written_down > epoch or part.ordered_epoch != epoch:
                    log.info("volume %d is not dropped: a later epoch has begun", number)
                    return
                if volume is not None:
                    del self.store.volumes[number]
                    self.upkeep.forget(volume)
                    self._stop_shipping(volume, part)
                    volume.close(clean=False)
                await self.in_thread(remove_volume, self.store.files, volume_path(self.store.directory, number))
            except OSError as error:  # what is left is found by the next start; the master sees it and orders it again
                log.error("volume %d could not be removed: %s", number, error)
            else:
                log.info("volume %d is dropped", number)
            part.opening, part.ordered_epoch = None, 0  # the part stays: its lock may be waited for

    def _epoch_on_disk(self, number: int) -> int:
        """In a thread: what the files of a volume say that may not have been opened. Raises OSError."""
        try:
            return read_state(self.store.files, volume_path(self.store.directory, number)).epoch
        except VolumeUnusable:
            return 0  # nor could it ever be whole

    @contextmanager
    def _told(self, volume: Volume, part: Part, epoch: int) -> Iterator[None]:
        """What goes wrong with an order leaves the volume as degraded as it is, and is told in its figures."""
        try:
            yield
        except (StoreError, OSError) as error:
            self._tell(volume, part, epoch, str(error))
        except Exception:
            log.exception("an order for volume %d failed", volume.number)
            self._tell(volume, part, epoch, "something went wrong here; the log says what")
        finally:
            if part.opening is not None and part.opening.epoch == epoch:
                part.opening.is_over = True

    def _tell(self, volume: Volume, part: Part, epoch: int, reason: str) -> None:
        if part.ordered_epoch != epoch:
            log.info("volume %d: epoch %d was over before it began", volume.number, epoch)
            return
        part.ordered_epoch = volume.epoch  # what is not written down may be ordered again
        volume.hold_back(reason)
        log.error("volume %d is not open in epoch %d: %s", volume.number, epoch, reason)

    @asynccontextmanager
    async def settled(
        self, volume: Volume, part: Part, epoch: int, own: Membership | None = None
    ) -> AsyncIterator[None]:  # fmt: skip
        """Alone with the volume, nothing on its way into it. ``own``: whose request this is.

        Raises EpochOld where another epoch was ordered, VolumeUnknown where the volume was dropped meanwhile.
        """
        await self.retire(part, own)  # before the lock, which these may want
        async with part.lock:
            if self.store.volumes.get(volume.number) is not volume:
                raise VolumeUnknown(f"volume {volume.number} is not here any more")  # its descriptor is another file's
            volume.hold_checkpoints(held=False)
            await self._quiesce(volume)
            if part.ordered_epoch != epoch:
                raise EpochOld(f"volume {volume.number}: epoch {part.ordered_epoch} has begun")
            self._stop_shipping(volume, part)
            yield

    def end_all(self, part: Part, reason: str) -> None:
        """Whatever this copy was part of is over; nothing more of it is taken."""
        if part.opening is not None:
            part.opening.cancel()
        if part.shipper is not None:
            part.shipper.stop(reason)
        if part.membership is not None:
            part.ended.append(part.membership)
            part.membership = None

    async def retire(self, part: Part, own: Membership | None = None) -> None:
        """Wait until nothing of an epoch that is over is at work here, but for ``own``, whose request waits here."""
        while part.own_count or any(membership.busy_count for membership in part.ended if membership is not own):
            await asyncio.sleep(POLL_S)
        self._give_up(part, own)

    def _give_up(self, part: Part, own: Membership | None = None) -> None:
        over = [membership for membership in part.ended if membership is not own]
        part.ended[:] = [membership for membership in part.ended if membership is own]
        for membership in over:
            if membership.target is not None:
                membership.target.give_up()

    def _shipping_failed(self, part: Part, shipper: Shipper, peer: str, reason: str) -> None:
        self.degraded_count += 1
        if part.opening is not None:
            for told in part.opening.peers:
                if told.server == peer:
                    told.state = "lost"
        self.on_change()
        self._begin(self._give_up_reservations(shipper.volume))

    async def _quiesce(self, volume: Volume) -> None:
        """Wait until nothing is on its way into a volume that is held back."""
        await self._give_up_reservations(volume)
        while volume.claims or volume.checkpointing or self.committer.is_syncing(volume):
            await asyncio.sleep(POLL_S)

    async def _give_up_reservations(self, volume: Volume) -> None:
        revoked = volume.revoke_reservations()
        while volume.has_writers:
            await asyncio.sleep(POLL_S)
        for claim in revoked:
            if not claim.is_finished:
                volume.abort(claim)

    def _stop_shipping(self, volume: Volume, part: Part) -> None:
        """Syncs of this volume are its own matter again. Nothing is on its way."""
        self.committer.forget(volume)
        self.committer.openers.pop(volume, None)
        if part.shipper is not None:
            self.shipment_count += part.shipper.shipment_count
            self.shipped_bytes += part.shipper.shipped_bytes
            part.shipper = None
        volume.floor = None

    def shipped(self) -> tuple[int, int]:
        """Shipments and their bytes since the start."""
        open_ones = [part.shipper for part in self.parts.values() if part.shipper is not None]
        return (
            self.shipment_count + sum(shipper.shipment_count for shipper in open_ones),
            self.shipped_bytes + sum(shipper.shipped_bytes for shipper in open_ones),
        )

    def tidy(self) -> None:
        """Give up what was fetched and is not gone on with. To be called now and then."""
        for path in fetched_paths(self.store.directory):
            if path.stem.isdecimal() and not self.is_stopping:
                self.keep(self.loop.create_task(self._tidy(path, self.parts.setdefault(int(path.stem), Part()))))

    async def _tidy(self, path: Path, part: Part) -> None:
        joined = [*part.ended, part.membership] if part.membership is not None else part.ended
        if any(membership.is_member or membership.busy_count for membership in joined):
            return
        part.own_count += 1  # a join waits for it
        try:
            if await self.in_thread(is_given_up, self.store.files, path):
                log.info("what was fetched of %s is removed: nobody went on with it", path.name)
                self.end_all(part, "nobody went on with it")
                await self.in_thread(discard_fetched, self.store.files, path)
        except OSError as error:
            log.error("what was fetched of %s could not be removed: %s", path.name, error)
        finally:
            part.own_count -= 1

    async def stop(self) -> None:
        """No more orders, no more peers. What is shipped now is shipped yet, as far as the peers take it."""
        self.is_stopping = True
        for part in self.parts.values():
            if part.opening is not None:
                part.opening.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def close(self) -> None:
        """The very end: nothing is on its way."""
        for part in self.parts.values():
            self.end_all(part, "the server stops")
            self._give_up(part)
        for threads in (self._copy_threads, self._peer_threads, self._ship_threads):
            threads.shutdown()

    async def in_thread(self, call: Callable[..., T], *arguments: object) -> T:
        return await self.loop.run_in_executor(self._peer_threads, call, *arguments)

    async def in_ship_thread(self, call: Callable[..., T], *arguments: object) -> T:
        return await self.loop.run_in_executor(self._ship_threads, call, *arguments)


def _make_durable(volume: Volume) -> None:
    """The file is as long as the log, and all of it durable. Raises OSError; a sync that failed seals the volume."""
    if volume.files.size_bytes(volume.fd) != volume.tail:
        volume.files.truncate(volume.fd, volume.tail)
    try:
        volume.sync_log()
    except OSError:
        volume.seal_unsynced()
        raise


def _peers(order: dict[str, Any], own: str) -> list[Peer]:
    """Raises HttpError 400."""
    try:
        peers = [Peer.of_json(found) for found in order["peers"]]
    except (KeyError, TypeError, ValueError) as error:
        raise HttpError(400, "bad_request", f"peers: {error!r}") from error
    names = {peer.server for peer in peers}
    if len(names) != len(peers) or own in names or len(peers) > MAX_PEERS:
        raise HttpError(400, "bad_request", f"peers: at most {MAX_PEERS} other servers, each once")
    return peers


def history_of(volume: Volume) -> History:
    """What is known of the file as it is."""
    replica = volume.replica
    if replica is None or replica.revision != volume.superblock.revision:
        return ()
    # Where the log became shorter than it was (its end was damaged, an old file was put back), what lies behind is new.
    return tuple(pair for pair in replica.history if pair[1] <= volume.tail)


def whole_number(order: dict[str, Any], name: str) -> int:
    """Raises HttpError 400."""
    value = order.get(name)
    if type(value) is not int or value < 0:
        raise HttpError(400, "bad_request", f"{name} is a whole number from 0 on")
    return value
