"""From "written" to "answered": group fdatasync, then the batched confirm, each by whoever is waiting.

    appended ──> waits for the volume's sync ──> waits for the confirm lane ──> verdict
                 (one fdatasync at a time,       (one request at a time,        committed, stored: answered
                  for all that came meanwhile)    for all that came meanwhile)  refused: tombstone, sync, answered

Acknowledged is durable: the data's fdatasync comes before the confirm, the master's commit before the answer.
A sync that fails is never tried again: the volume is sealed and everybody who waited gets 503.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from volume_server.clock import Clock
from volume_server.errors import NoRoom, StoreError, VolumeSealed
from volume_server.leases import Lease
from volume_server.responses import problem
from volume_server.syncing import Opener, Syncs, SyncThread, Waiting
from volume_server.volume import Claim, Volume

log = logging.getLogger(__name__)

_ACKNOWLEDGED = frozenset({"committed", "stored"})

Answer = Callable[[int, dict[str, object]], None]
"""Called once with the status and the body."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a PUT's headers say of the object besides its key; nothing where the lease fixes it all."""

    content_type: str | None = None
    metadata: dict[str, str] | None = None
    if_match: str | None = None
    if_none_match: bool = False


NO_ATTRIBUTES = Attributes()


@dataclass(slots=True, eq=False)
class Put:
    """One PUT of a needle on its way."""

    volume: Volume
    lease: Lease
    needle: int
    size_bytes: int
    meta: bytes
    appended_ms: int
    answer: Answer
    key: str | None = None
    attributes: Attributes = NO_ATTRIBUTES
    declared_crc: int | None = None
    data_crc: int = 0

    def refuse(self, error: StoreError) -> None:
        self.answer(error.status, problem(error.status, error.code, error.detail))


class Confirmer(Protocol):
    """Tells the master (`volume_server.master.ConfirmLane`), or in a bench decides on the spot."""

    def confirm(self, put: Put, done: Callable[[Put, dict[str, object]], None]) -> None:
        """Call ``done`` on the loop with the verdict, later or at once."""


class Committer:
    """``open_syncs`` gives each volume somebody who waits for its fdatasyncs."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        threads: Executor,
        confirmer: Confirmer,
        clock: Clock,
        open_syncs: Opener = SyncThread,
    ) -> None:
        self.loop = loop
        self.threads = threads
        self.confirmer = confirmer
        self.clock = clock
        self.sync_count = 0
        self.open_syncs = open_syncs
        """Of a volume whose records go nowhere else; others are in ``openers``."""
        self.openers: dict[Volume, Opener] = {}
        self._syncs: dict[Volume, Syncs] = {}

    def call_soon(self, call: Callable[..., None], *arguments: object) -> None:
        self.loop.call_soon(call, *arguments)

    def commit(self, put: Put, claim: Claim) -> None:
        """A record was written whole: make it durable, confirm it, answer."""
        self.sync(put.volume, claim, partial(self._put_synced, put))

    def _put_synced(self, put: Put, error: StoreError | None) -> None:
        if error is None:
            self.confirm(put)
            return
        if isinstance(error, NoRoom):  # nothing was kept
            put.lease.refund(put.size_bytes)
        put.refuse(error)

    def confirm(self, put: Put) -> None:
        """A durable needle is confirmed (again, for a repeated PUT)."""
        self.confirmer.confirm(put, self._judged)

    def sync(self, volume: Volume, claim: Claim, done: Callable[[StoreError | None], None]) -> None:
        """Call ``done`` once the claim is settled by a successful fdatasync, or with the error."""
        sync = self._syncs.get(volume)
        if sync is None:
            opener = self.openers.get(volume, self.open_syncs)
            sync = self._syncs[volume] = opener(self.loop, volume, self._synced)
        sync.waiting.append((claim, done))
        if not sync.running:
            sync.running = True
            # after all that is ready now has been read: what comes in the same breath shares the sync
            self.loop.call_soon(self._start, sync)

    def forget(self, volume: Volume) -> None:
        """The volume's file is about to be another one. Nothing of it may be waiting for a sync."""
        sync = self._syncs.pop(volume, None)
        if sync is not None:
            assert not sync.running
            sync.close()

    def close(self) -> None:
        """No more syncs. Nothing may be waiting for one."""
        for sync in self._syncs.values():
            sync.close()
        self._syncs.clear()

    def _start(self, sync: Syncs) -> None:
        sync.volume.flush()
        failed = [(claim, done) for claim, done in sync.waiting if claim.failure is not None]
        if failed:
            sync.waiting = [(claim, done) for claim, done in sync.waiting if claim.failure is None]
        sync.running = bool(sync.waiting)
        if sync.running:
            self.sync_count += 1
            sync.start()
        for claim, done in failed:  # last: an answer may bring the next PUT, which is not flushed yet
            done(claim.failure)

    def is_syncing(self, volume: Volume) -> bool:
        sync = self._syncs.get(volume)
        return sync is not None and sync.running

    def _synced(self, sync: Syncs, batch: Waiting, failure: OSError | StoreError | None) -> None:
        volume = sync.volume
        # what was synced before another sync failed is given up too: the seal may have named it already
        if isinstance(failure, OSError) or volume.sync_failure is not None:
            volume.seal_unsynced()
            error = VolumeSealed(f"volume {volume.number} is sealed: {volume.sealed}")
            batch += sync.waiting
            sync.waiting = []
            sync.running = False
            for claim, _ in batch:
                volume.abort(claim)
            for _, done in batch:
                done(error)
            return
        volume.settle([claim for claim, _ in batch])
        self._start(sync)
        for _, done in batch:
            done(failure)
        if volume.checkpoint_is_due:
            self._checkpoint(volume)

    def _checkpoint(self, volume: Volume) -> None:
        job = volume.begin_checkpoint()

        def write() -> None:
            places: list[int] | None = None
            failure: OSError | None = None
            try:
                places = volume.write_checkpoint(job)
            except OSError as error:
                failure = error
            self.loop.call_soon_threadsafe(end, places, failure)

        def end(places: list[int] | None, failure: OSError | None) -> None:
            volume.end_checkpoint(job, places)
            if failure is not None:
                log.error("volume %d: no checkpoint: %s", volume.number, failure)

        self.threads.submit(write)

    def _judged(self, put: Put, verdict: dict[str, object]) -> None:
        state = verdict["state"]
        if state in _ACKNOWLEDGED:
            status = 201 if state == "committed" else 202
            put.answer(status, {**verdict, "crc32": put.data_crc})
        elif state == "refused":
            self._bury(put, verdict)
        else:  # unknown, with the status and code to tell the client
            put.answer(503, problem(503, str(verdict["code"]), str(verdict["detail"])))

    def _bury(self, put: Put, verdict: dict[str, object]) -> None:
        """A refused needle gets its tombstone, durable before the refusal is answered."""
        status, code = int(str(verdict["status"])), str(verdict["code"])

        def answer() -> None:
            detail, title = str(verdict.get("detail", "")), verdict.get("title")
            put.answer(status, problem(status, code, detail, title=str(title) if title else None))

        def buried(error: StoreError | None) -> None:
            if error is not None:
                put.refuse(error)
            else:
                answer()

        if put.volume.cut is not None:
            put.volume.cut.append(partial(self.call_soon, self._bury, put, verdict))
            return
        known = put.volume.claims.get(put.needle)
        if known is not None:  # a repeated PUT was refused at the same time: its tombstone is on the way
            known.waiters.append(partial(self.call_soon, self._bury, put, verdict))
            return
        try:
            if not put.volume.stored_length(put.needle):
                put.volume.require_synced(put.needle)
                answer()  # dead already, and durably so
                return
            claim = put.volume.tombstone(
                put.needle, verdict=f"{status} {code}", appended_ms=self.clock.now_ms()
            )  # fmt: skip
        except StoreError as error:
            put.refuse(error)
            return
        self.sync(put.volume, claim, buried)
