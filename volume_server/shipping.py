"""What the open primary of a replicated volume sends to its peers: each extent that it appends, before it is settled.

    written ──┬── fdatasync here ─────────────┐
              └── shipment ── peers write and ─┴──> settled, confirmed, answered
                              fdatasync

One group is one shipment, sent while the disk works here. Bodies of large records go ahead piece by piece, from the
threads that write them, and without a sync of their own: the shipment with their header brings it.

The first thing that fails ends the epoch (`Shipper.fail`): what was not shipped by then is durable here and nowhere
else, so it is not confirmed, and nothing more is taken until the volume is opened anew.
"""

import asyncio
import logging
from collections.abc import Callable

from volume_server import record, shipment
from volume_server.clock import Clock
from volume_server.errors import StoreError, VolumeDegraded
from volume_server.peers import Line, Peer, PeerCalls, PeerFailed, PeerLink
from volume_server.shipment import Extent, Record, Shipment
from volume_server.syncing import Done, Opener, Syncs, Waiting
from volume_server.volume import Buffer, Volume

log = logging.getLogger(__name__)

SHIP_TIMEOUT_S = 10.0
"""How long clients wait for a peer that does not answer; then the volume is degraded, and they get 503."""
_OVERHEAD_BYTES = 64 << 10
MAX_PART_BYTES = (1 << 20) - _OVERHEAD_BYTES
MAX_PART_RECORDS = 1000


class Shipper:
    """The peers of one volume in one epoch. On the loop, but for `ship_piece`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        volume: Volume,
        *,
        epoch: int,
        primary: str,
        peers: list[Peer],
        clock: Clock,
        on_failure: Callable[["Shipper", str, str], None],
    ) -> None:
        self.loop = loop
        self.volume = volume
        self.epoch = epoch
        self.failure: VolumeDegraded | None = None
        self.shipment_count = 0
        self.shipped_bytes = 0
        self._on_failure = on_failure
        lines = [Line(peer, primary, volume.number, epoch, clock) for peer in peers]
        self._links = [PeerLink(loop, line) for line in lines]
        self._calls = [PeerCalls(line) for line in lines]
        volume.unshipped = []
        volume.ship_piece = self.ship_piece

    def opener(self, open_syncs: Opener) -> Opener:
        """Syncs of this volume, which are over when its peers have synced too."""

        def open_shipped(_: asyncio.AbstractEventLoop, __: Volume, done: Done) -> Syncs:
            return ShippedSyncs(self, open_syncs, done)

        return open_shipped

    # -- shipments -----------------------------------------------------------------------------------------------

    def ship(self, batch: Waiting, done: Callable[[VolumeDegraded | None], None]) -> None:
        """All that was written since the last shipment, to all peers. ``done``: the records are durable there."""
        if self.failure is not None:
            done(self.failure)
            return
        try:
            parts = self._parts(batch)
        except OSError as error:
            self.fail("", f"what was written cannot be read again: {error}")
            done(self.failure)
            return
        self._send(parts, 0, done)

    def _parts(self, batch: Waiting) -> list[Shipment]:
        """The group as shipments; the last one has the records. Raises OSError."""
        volume = self.volume
        written = volume.take_unshipped()
        mine = {id(claim) for claim, _ in batch}
        floor = min(
            (claim.offset for claim in volume.reservations.values() if id(claim) not in mine), default=volume.tail
        )
        room_bytes = sum(
            claim.record_bytes for claim, _ in batch if claim.kind == record.LIVE and not claim.is_reserved
        )
        records = [Record(claim.needle, claim.offset, claim.stored_bytes, claim.kind) for claim, _ in batch]
        groups: list[list[Extent]] = [[]]
        held_bytes = 0
        for start, end in shipment.merged(written):
            while start < end:
                size_bytes = min(end - start, MAX_PART_BYTES - held_bytes)
                groups[-1].append(Extent(start, volume.files.read_at(volume.fd, size_bytes, start)))
                start += size_bytes
                held_bytes += size_bytes
                if held_bytes >= MAX_PART_BYTES or len(groups[-1]) >= MAX_PART_RECORDS:
                    groups.append([])
                    held_bytes = 0
        if held_bytes + len(records) * shipment.RECORD_BYTES > MAX_PART_BYTES:
            groups.append([])  # a peer takes no larger request
        first = min([floor, *(claim.offset for claim, _ in batch)])
        return [
            *(Shipment(0, volume.tail, first, 0, group, []) for group in groups[:-1]),
            Shipment(0, volume.tail, floor, room_bytes, groups[-1], records),
        ]

    def _send(self, parts: list[Shipment], at: int, done: Callable[[VolumeDegraded | None], None]) -> None:
        self.shipment_count += 1
        raw = shipment.encode(parts[at]._replace(number=self.shipment_count))
        open_count = len(self._links)

        def answered(link: PeerLink, failure: PeerFailed | None) -> None:
            nonlocal open_count
            if failure is not None:
                self.fail(link.line.peer.server, str(failure))
            open_count -= 1
            if open_count:
                return
            if self.failure is None and at + 1 < len(parts):
                self._send(parts, at + 1, done)
            else:
                done(self.failure)

        def told(link: PeerLink) -> Callable[[PeerFailed | None], None]:
            return lambda failure: answered(link, failure)

        for link in self._links:
            self.shipped_bytes += len(raw)
            link.post("ship", raw, told(link), timeout_s=SHIP_TIMEOUT_S)

    def ship_piece(self, offset: int, data: Buffer) -> Callable[[], None]:
        """In a thread: send a piece of a body to all peers.

        What it gives must be called: it waits until they have written the piece, and raises VolumeDegraded.
        """
        sent = []
        failed: tuple[str, str] | None = None
        for calls in self._calls:
            try:
                sent.append((calls, calls.send("piece", data, timeout_s=SHIP_TIMEOUT_S, at=offset)))
            except PeerFailed as error:
                failed = calls.line.peer.server, str(error)
        self.shipped_bytes += len(data) * len(sent)

        def taken() -> None:
            nonlocal failed
            for calls, connection in sent:
                try:
                    calls.answer(connection)
                except PeerFailed as error:
                    failed = calls.line.peer.server, str(error)
            if failed is not None:
                self.loop.call_soon_threadsafe(self.fail, *failed)
                raise VolumeDegraded(f"volume {self.volume.number} takes nothing now: {' '.join(failed)}")

        return taken

    # -- the end -------------------------------------------------------------------------------------------------

    def fail(self, peer: str, detail: str) -> None:
        """The epoch is over: a peer did not take what it was sent."""
        if self.failure is not None:
            return
        reason = f"server {peer} did not take a record: {detail}" if peer else detail
        self._end(reason)
        log.error("volume %d is degraded: %s", self.volume.number, reason)
        self._on_failure(self, peer, reason)

    def stop(self, reason: str) -> None:
        """Nothing more is shipped. Whoever waits for a shipment is told that it failed."""
        if self.failure is None:
            self._end(reason)
        for link in self._links:
            link.close()
        for calls in self._calls:
            calls.close()

    def _end(self, reason: str) -> None:
        volume = self.volume
        volume.hold_back(reason)
        self.failure = volume.degraded()
        volume.stop_shipping()


class ShippedSyncs:
    """The syncs of a volume with peers: over when it is durable here and there."""

    def __init__(self, shipper: Shipper, open_syncs: Opener, done: Done) -> None:
        self.volume = shipper.volume
        self.running = False
        self.waiting: Waiting = []
        self._shipper = shipper
        self._done = done
        self._inner: Syncs = open_syncs(shipper.loop, shipper.volume, self._synced)
        self._batch: Waiting = []
        self._open_count = 0
        self._failure: OSError | StoreError | None = None

    def start(self) -> None:
        self._batch, self.waiting = self.waiting, []
        self._open_count = 2
        self._failure = None
        self._inner.start()
        self._shipper.ship(self._batch, self._shipped)

    def close(self) -> None:
        self._inner.close()

    def _synced(self, _: Syncs, batch: Waiting, failure: OSError | StoreError | None) -> None:
        if failure is not None:
            self._failure = failure  # what is not durable here counts before all else
        self._step()

    def _shipped(self, failure: VolumeDegraded | None) -> None:
        if self._failure is None:
            self._failure = failure
        self._step()

    def _step(self) -> None:
        self._open_count -= 1
        if not self._open_count:
            batch, self._batch = self._batch, []
            # on the loop's next turn: a group that cannot be shipped must not nest the next one in it
            self._shipper.loop.call_soon(self._done, self, batch, self._failure)
