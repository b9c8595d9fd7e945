"""A peer's side of replication: what the primary of a volume asks of the copy that is held here.

    join ──> digests, replace … ──> finish ──> member: ship, piece … ──┬──> degraded, by the first thing that fails,
      │ what is in the way is told                                     └──  or by a later epoch
      v
    degraded

Every request is signed by the ticket of volume, epoch and primary. A shipment is answered when what it brought is
durable and in the index; those of a volume come one after the other, pieces of bodies beside them.
"""

import asyncio
import json
import logging
import re
import threading
from base64 import b64encode
from collections.abc import Callable, Coroutine
from contextlib import suppress
from hmac import compare_digest
from typing import Any, TypeVar

from volume_server import record, shipment, signing, superblock
from volume_server.errors import (
    DiskFull,
    EpochOld,
    StoreError,
    VolumeBusy,
    VolumeDegraded,
    VolumeDiffers,
    VolumeSealed,
)
from volume_server.http1 import HttpError
from volume_server.joining import CopyFailed, NewFile, OwnFile
from volume_server.opening import BLOCK_BYTES, MAX_BLOCKS, History
from volume_server.replication import POLL_S, Membership, Part, Replication, history_of, whole_number
from volume_server.server import Body
from volume_server.shipment import Shipment, ShipmentInvalid
from volume_server.state import SHARED, Replica, State, decode_history
from volume_server.superblock import Superblock, SuperblockInvalid
from volume_server.volume import OUT_OF_SPACE, Claim, Volume, volume_path, write_state

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 2 << 20
SMALL_BYTES = 256 << 10
"""Shipments up to this size are written by the loop."""
SHIPPED = frozenset({"ship", "piece"})
"""What comes while a volume is open."""
SECONDARY = "it is a copy; its primary takes records"

_TARGET = re.compile(r"/replica/([1-9][0-9]{0,9})/([1-9][0-9]{0,9})/([a-z]{1,16})(?:\?at=([0-9]{1,15}))?\Z")

T = TypeVar("T")
Answer = dict[str, object]


class Receiver:
    """Lives on the loop."""

    def __init__(self, replication: Replication) -> None:
        self.replication = replication

    def receive(
        self, target: str, headers: dict[str, str], body: Body, done: Callable[[Answer | Exception], None]
    ) -> None:
        """What a primary asks. ``done`` gets the answer, now or later. Raises HttpError, StoreError."""
        match = _TARGET.match(target)
        if match is None:
            raise HttpError(404, "not_found", "nothing is here")
        number, epoch, verb = int(match[1]), int(match[2]), match[3]
        at = None if match[4] is None else int(match[4])
        if self.replication.is_stopping:
            raise VolumeBusy("the server is stopping")
        if len(body) <= SMALL_BYTES:
            primary = self._authenticate(target, headers, body, number, epoch)
            self._do(verb, number, epoch, primary, at, body, done)
            return

        async def authenticate_first() -> None:
            """A thread hashes what is large."""
            try:
                in_thread = self.replication.in_ship_thread if verb in SHIPPED else self.replication.in_thread
                primary = await in_thread(self._authenticate, target, headers, body, number, epoch)
                self._do(verb, number, epoch, primary, at, body, done)
            except (HttpError, StoreError) as error:
                done(error)

        self._begin(authenticate_first())

    def _do(
        self,
        verb: str,
        number: int,
        epoch: int,
        primary: str,
        at: int | None,
        body: Body,
        done: Callable[[Answer | Exception], None],
    ) -> None:
        """A genuine request. Raises as `receive`."""
        if verb == "ship":
            self._ship(self._membership(number, epoch, primary, is_member=True), number, body, done)
            return
        membership: Membership | None = None
        if verb == "join":
            work = self._join(number, epoch, primary, _json(body))
        elif verb == "piece" and at is not None:
            membership = self._membership(number, epoch, primary, is_member=True)
            work = self._piece(membership, number, at, body)
        elif verb == "replace" and at is not None:
            membership = self._membership(number, epoch, primary)
            work = self._replace(membership, at, body)
        elif verb == "digests":
            membership, order = self._membership(number, epoch, primary), _json(body)
            work = self._digests(membership, order)
        elif verb == "read":
            membership, order = self._membership(number, epoch, primary), _json(body)
            work = self._read(membership, order)
        elif verb == "finish":
            membership, order = self._membership(number, epoch, primary, is_member=None), _json(body)
            work = self._finish(membership, number, order)
        else:
            raise HttpError(404, "not_found", "nothing is here")
        if membership is not None:
            work = self._counted(membership, work)
        task = self._begin(work)

        def ended(task: "asyncio.Task[Answer]") -> None:
            error = task.exception()
            done(task.result() if error is None else _as_answer(error))

        task.add_done_callback(ended)

    def _counted(self, membership: Membership, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        """The same work, counted from now on and not from its first step: the end of the epoch waits for it."""
        membership.busy_count += 1

        async def counted() -> T:
            try:
                return await work
            finally:
                membership.busy_count -= 1

        return counted()

    def _begin(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = self.replication.loop.create_task(work)
        self.replication.keep(task)
        return task

    def _authenticate(self, target: str, headers: dict[str, str], body: Body, number: int, epoch: int) -> str:
        """The primary's id. Raises HttpError 401 for whoever has no ticket of this server's."""
        primary, time_text = headers[signing.HEADER_SERVER], headers[signing.HEADER_TIME]
        secret = self.replication.store.identity.secrets.get(headers[signing.HEADER_KID])
        refusal = HttpError(401, "signature_invalid", "only the volume's primary may ask this")
        if secret is None or not time_text.isdecimal() or len(time_text) > 15:
            raise refusal
        ticket = signing.replica_ticket(bytes.fromhex(secret), volume=number, epoch=epoch, primary=primary)
        expected = signing.replica_signature(
            ticket, target=target, body=body, primary=primary, time_ms=int(time_text)
        )  # fmt: skip
        if not compare_digest(expected.encode(), headers[signing.HEADER_SIGNATURE].encode("utf-8", "replace")):
            raise refusal
        if abs(int(time_text) - self.replication.clock.now_ms()) > signing.REQUEST_WINDOW_MS:
            raise HttpError(401, "clock_skew", "the request was signed at another time")
        return primary

    def _membership(self, number: int, epoch: int, primary: str, *, is_member: bool | None = False) -> Membership:
        """``is_member`` None: as it may be. Raises EpochOld, VolumeDegraded."""
        part = self.replication.parts.get(number)
        found = None if part is None else part.membership
        if (
            found is not None
            and (found.epoch, found.primary) == (epoch, primary)
            and is_member in (None, found.is_member)
        ):
            return found
        volume = self.replication.store.volumes.get(number)
        known = max(0 if volume is None else volume.epoch, 0 if found is None else found.epoch)
        if known > epoch:
            raise EpochOld(f"volume {number} is at epoch {known}")
        raise VolumeDegraded(f"volume {number} is not part of epoch {epoch} here, or not any more")

    async def _join(self, number: int, epoch: int, primary: str, order: dict[str, Any]) -> Answer:
        wanted, size_bytes = _superblock(order, number), whole_number(order, "size")
        part = self.replication.parts.setdefault(number, Part())
        volume = self.replication.store.volumes.get(number)
        if volume is None:
            async with part.lock:  # a drop may be removing it
                volume = self.replication.store.volumes.get(number) or await self._found(number)
        self._require_joinable(number, volume, part, epoch, wanted)
        self.replication.end_all(part, f"epoch {epoch} begins")
        part.ordered_epoch = epoch
        membership = part.membership = Membership(epoch, primary, busy_count=1)
        try:
            if volume is None:
                return await self._join_anew(part, membership, wanted, size_bytes)
            volume.hold_back("it is being made whole")
            self.replication.upkeep.give_way(volume)
            async with self.replication.settled(volume, part, epoch, membership):
                history = history_of(volume)
                replica = Replica("secondary", SHARED, volume.superblock.revision, history)
                await self.replication.in_thread(volume.save_replica, epoch, replica)
                volume.hold_checkpoints(held=True)
                if volume.superblock != wanted:
                    return await self._join_anew(part, membership, wanted, size_bytes)
                own = membership.target = OwnFile(volume, epoch)
                damaged = [(one.offset, one.size_bytes) for one in volume.damage]
                return {"size": own.size_bytes, "history": history, "damaged": damaged}
        except BaseException as error:
            self._leave(number, part, membership, str(error))
            raise
        finally:
            membership.busy_count -= 1

    async def _found(self, number: int) -> Volume | None:
        """A copy whose file is here and was not opened, because something failed just then.

        Raises VolumeUnusable, OSError.
        """
        store = self.replication.store
        path = volume_path(store.directory, number)
        if not path.exists():
            return None
        volume = await self.replication.in_thread(lambda: Volume.open(store.files, path, room=store.room))
        if number in store.volumes:  # another request has found it meanwhile
            volume.close(clean=False)
            return store.volumes[number]
        volume.hold_back("it is being made whole")
        store.adopt(volume)
        return volume

    async def _join_anew(self, part: Part, membership: Membership, wanted: Superblock, size_bytes: int) -> Answer:
        """There is no such volume here, or one of another revision. Raises DiskFull, OSError."""
        await self.replication.retire(part, membership)
        store = self.replication.store
        path = volume_path(store.directory, wanted.volume)
        new = await self.replication.in_thread(NewFile, store.files, path, wanted)
        membership.target = new
        needed = size_bytes - new.size_bytes
        if needed > store.free_bytes():
            raise DiskFull(f"the copy of volume {wanted.volume} needs {needed} bytes more than there are")
        return {"size": new.size_bytes, "history": (), "damaged": ()}

    def _require_joinable(self, number: int, volume: Volume | None, part: Part, epoch: int, wanted: Superblock) -> None:
        known = part.ordered_epoch
        if volume is not None:
            known = max(known, volume.epoch if volume.replica is not None else volume.epoch - 1)
        if epoch <= known:
            raise EpochOld(f"volume {number} is at epoch {known}")
        if volume is None:
            return
        own = volume.superblock
        if (own.salt, own.created_ms) != (wanted.salt, wanted.created_ms):
            raise VolumeDiffers(f"another volume has the number {number} here")
        if volume.sealed is not None:
            raise VolumeSealed(f"volume {number} is sealed: {volume.sealed}")
        if self.replication.compactor.is_running(volume):
            raise VolumeBusy(f"volume {number} is being compacted")

    def _leave(self, number: int, part: Part, membership: Membership, reason: str) -> None:
        """This epoch is over here; the copy is degraded."""
        if part.membership is membership:
            part.membership = None
            part.ended.append(membership)
            volume = self.replication.store.volumes.get(number)
            if volume is not None:
                volume.hold_back(reason)
                volume.hold_checkpoints(held=False)
            log.error("volume %d is degraded: %s", number, reason)
            self.replication.on_change()

    async def _at_work(self, membership: Membership, call: Callable[..., T], *arguments: object) -> T:
        membership.busy_count += 1
        in_thread = self.replication.in_ship_thread if membership.is_member else self.replication.in_thread
        try:
            return await in_thread(call, *arguments)
        finally:
            membership.busy_count -= 1

    async def _digests(self, membership: Membership, order: dict[str, Any]) -> Answer:
        target, start, end = membership.target, whole_number(order, "start"), whole_number(order, "end")
        if target is None or not start <= end <= target.size_bytes or end - start > MAX_BLOCKS * BLOCK_BYTES:
            raise HttpError(400, "bad_request", "no such extent")
        return {"digests": await self._at_work(membership, target.digests, start, end)}

    async def _read(self, membership: Membership, order: dict[str, Any]) -> Answer:
        target, start, end = membership.target, whole_number(order, "start"), whole_number(order, "end")
        if target is None or not start <= end <= target.size_bytes or end - start > BLOCK_BYTES:
            raise HttpError(400, "bad_request", "no such extent")
        return {"data": b64encode(await self._at_work(membership, target.read, start, end)).decode()}

    async def _replace(self, membership: Membership, at: int, body: Body) -> Answer:
        target = membership.target
        if target is None or membership.finishing is not None:
            raise HttpError(400, "bad_request", "nothing is taken now")
        if at + len(body) > target.size_bytes:
            self.replication.store.room.require(len(body))  # several may be fetched at once
        await self._at_work(membership, target.replace, at, memoryview(body))
        return {}

    async def _finish(self, membership: Membership, number: int, order: dict[str, Any]) -> Answer:
        """Begins it, or says how far it is; asked again until ``whole`` is true."""
        size_bytes = whole_number(order, "size")
        try:
            history = decode_history(order["history"])
        except (KeyError, TypeError, ValueError) as error:
            raise HttpError(400, "bad_request", f"the history: {error!r}") from error
        if membership.finishing is None:
            membership.finishing = self._begin(self._make_whole(membership, number, size_bytes, history))
        await asyncio.wait([membership.finishing], timeout=1.0)
        if membership.finishing.done():
            await membership.finishing
        return {"whole": membership.is_member}

    async def _make_whole(self, membership: Membership, number: int, size_bytes: int, history: History) -> None:
        part = self.replication.parts[number]
        membership.busy_count += 1
        try:
            await self._finished(part, membership, number, size_bytes, history)
        except BaseException as error:
            self._leave(number, part, membership, str(error))
            raise
        finally:
            membership.busy_count -= 1
        self.replication.on_change()

    async def _finished(
        self, part: Part, membership: Membership, number: int, size_bytes: int, history: History
    ) -> None:
        """Raises HttpError, StoreError, OSError."""
        target = membership.target
        if target is None:
            raise HttpError(400, "bad_request", "nothing was joined")
        twin = await self.replication.in_thread(target.finish, size_bytes)
        async with part.lock:
            volume = self.replication.store.volumes.get(number)
            while volume is not None and not volume.is_quiet:  # reads that compare by offsets
                await asyncio.sleep(POLL_S)
            if part.membership is not membership:
                if twin is not None:
                    twin.close(clean=False)
                raise EpochOld(f"volume {number}: a later epoch has begun")
            if isinstance(target, NewFile):
                assert twin is not None
                volume = await self._installed(membership, target, twin, volume, history)
            elif twin is not None and volume is not None:
                self.replication.committer.forget(volume)
                volume.take_over(twin)
            assert volume is not None
            replica = Replica("secondary", SHARED, volume.superblock.revision, history)
            await self.replication.in_thread(volume.save_replica, membership.epoch, replica)
            volume.hold_checkpoints(held=False)
            target.give_up()
            membership.target = None
            if part.membership is membership:
                volume.hold_back(SECONDARY)
                membership.is_member, membership.end = True, volume.tail
                log.info("volume %d is whole in epoch %d", number, membership.epoch)

    async def _installed(
        self,
        membership: Membership,
        target: NewFile,
        twin: Volume,
        volume: Volume | None,
        history: History,
    ) -> Volume:
        """Put a fetched file in its place; the volume with it. The twin is used up. Raises OSError, VolumeUnusable."""
        if volume is None:
            twin.close(clean=False)
            replica = Replica("secondary", SHARED, twin.superblock.revision, history)
            await self.replication.in_thread(
                write_state, self.replication.store.files, target.final_path, State(membership.epoch, replica=replica)
            )
            is_durable = await self.replication.in_thread(target.install)
            volume = await self.replication.in_thread(
                lambda: Volume.open(self.replication.store.files, target.final_path, room=self.replication.store.room)
            )
            volume.hold_back("it is being made whole")
            self.replication.store.adopt(volume)
        else:
            try:
                is_durable = await self.replication.in_thread(target.install)
            except BaseException:
                twin.close(clean=False)
                raise
            self.replication.committer.forget(volume)
            volume.take_over(twin)
        if not is_durable:
            volume.seal("the directory could not be made durable after the volume was fetched")
        return volume

    async def _piece(self, membership: Membership, number: int, at: int, body: Body) -> Answer:
        volume = self.replication.store.volumes[number]
        if at < volume.equal_before:
            raise HttpError(400, "bad_request", "that is settled")
        volume.is_behind = True
        try:
            volume.room.require(len(body))
            await self._at_work(membership, _write_piece, volume, membership.lock, at, body)
        except (StoreError, OSError) as error:
            self._leave(number, self.replication.parts[number], membership, f"a piece could not be written: {error}")
            raise
        return {}

    def _ship(
        self, membership: Membership, number: int, body: Body, done: Callable[[Answer | Exception], None]
    ) -> None:
        """Write a shipment; ``done`` when its records are durable here, and in the index."""
        volume = self.replication.store.volumes[number]
        found = _next_shipment(volume, membership, body)
        membership.number += 1
        volume.is_behind = True
        end = max((extent.offset + len(extent.data) for extent in found.extents), default=0)
        membership.end = max(membership.end, end)
        is_extended = found.tail > membership.end
        membership.end = max(membership.end, found.tail)

        def failed(error: Exception) -> None:
            self._leave(number, self.replication.parts[number], membership, f"a shipment could not be written: {error}")
            done(_as_answer(error))

        def written() -> None:
            volume.tail, volume.floor = found.tail, found.floor
            if not found.records:
                synced(None)
                return
            membership.busy_count += 1
            self._settle(volume, found, settled)

        def settled(error: StoreError | None) -> None:
            membership.busy_count -= 1
            synced(error)

        def synced(error: StoreError | None) -> None:
            if error is not None:
                failed(error)
                return
            # What the shipment did not name lies behind its floor.
            volume.is_behind = found.floor < found.tail
            done({})

        try:
            volume.room.require(found.room_bytes)
            if len(body) <= SMALL_BYTES and not is_extended:
                _write_extents(volume, found)
                written()
                return
        except (StoreError, OSError) as error:
            failed(error)
            return

        async def write() -> None:
            try:
                await self._at_work(membership, _write_extended, volume, membership.lock, found)
            except OSError as error:
                failed(error)
            else:
                written()

        self._begin(self._counted(membership, write()))

    def _settle(self, volume: Volume, found: Shipment, done: Callable[[StoreError | None], None]) -> None:
        """Call ``done`` once the records are durable and in the index."""
        claims = [
            Claim(each.needle, each.offset, record.aligned(each.stored_bytes), each.stored_bytes, each.kind, 0)
            for each in found.records
        ]
        for claim in claims:
            volume.claims[claim.needle] = claim
        for claim in claims[:-1]:
            self.replication.committer.sync(volume, claim, _nothing)
        self.replication.committer.sync(volume, claims[-1], done)


def _nothing(_: StoreError | None) -> None:
    """The last of a group is told."""


def _next_shipment(volume: Volume, membership: Membership, body: Body) -> Shipment:
    """Raises HttpError 400, 409."""
    try:
        found = shipment.decode(body)
    except ShipmentInvalid as error:
        raise HttpError(400, "bad_request", str(error)) from error
    if found.number != membership.number + 1:
        raise HttpError(409, "shipment_lost", f"shipment {membership.number + 1} is expected")
    if any(extent.offset < volume.equal_before for extent in found.extents):
        raise HttpError(400, "bad_request", "that is settled")
    return found


def _write_extents(volume: Volume, found: Shipment) -> None:
    """Raises OSError."""
    for extent in found.extents:
        volume.files.write_at(volume.fd, [extent.data], extent.offset)


def _write_extended(volume: Volume, lock: threading.Lock, found: Shipment) -> None:
    """Raises OSError."""
    with lock:
        _write_extents(volume, found)
        if volume.files.size_bytes(volume.fd) < found.tail:
            volume.files.truncate(volume.fd, found.tail)


def _write_piece(volume: Volume, lock: threading.Lock, at: int, body: Body) -> None:
    """Raises OSError."""
    with lock:
        volume.files.write_at(volume.fd, [body], at)
    volume.files.start_writeback(volume.fd, at, len(body))


def _superblock(order: dict[str, Any], number: int) -> Superblock:
    """Raises HttpError 400."""
    with suppress(KeyError, TypeError, ValueError, SuperblockInvalid):
        found = superblock.decode(bytes.fromhex(order["superblock"]))
        if found.volume == number:
            return found
    raise HttpError(400, "bad_request", "superblock is that of the volume, in hex")


def _json(body: Body) -> dict[str, Any]:
    """Raises HttpError 400."""
    with suppress(ValueError):
        found = json.loads(body)
        if isinstance(found, dict):
            return found
    raise HttpError(400, "bad_request", "the body is a JSON object")


def _as_answer(error: BaseException) -> Exception:
    """What a failed request is answered with."""
    if isinstance(error, OSError):
        if error.errno in OUT_OF_SPACE:
            return DiskFull("the disk is full")
        return CopyFailed(f"the disk failed: {error}")
    return error if isinstance(error, Exception) else VolumeBusy("the server is stopping")
