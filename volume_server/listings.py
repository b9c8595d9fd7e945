"""`/admin/needles`, as the loop sees it: a volume's needles in the order of their ids, page after page.

A listing is one child process (`volume_server.needles_child`), which gets a copy of the index as it is, sorts it and
reads the headers. All of its pages are of one moment: what is entered or buried later is not in it. It ends, and has to
be begun anew, when the file it reads is not the volume's any more (a compaction swapped it, a new epoch made it equal
to another copy), when its child fails, when the server stops, and when nobody has asked for a page for a while.

    asked without "after"     the index is copied, 64 KiB a segment, a few segments in one turn of the loop
    asked with "after"        the child makes the next page in a file in memory; the loop reads and sends it
"""

import asyncio
import logging
import os
import secrets
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from volume_server import superblock
from volume_server.child import Message
from volume_server.errors import ListingEnded, ListingFailed, VolumeBusy
from volume_server.index import LENGTH_BITS, Index
from volume_server.jobs import ChildJob
from volume_server.listing import Live, Reader
from volume_server.store import Store
from volume_server.volume import Volume

log = logging.getLogger(__name__)

MAX_LISTINGS = 8
MAX_PAGE_NEEDLES = 50_000
PAGE_S = 2.0
"""A page that takes longer ends there: with all data read, few needles may be much work."""
IDLE_S = 120.0
"""A listing that nobody has gone on with for so long is given up when another one is asked for, or at the next look."""
SEGMENTS_A_TURN = 4
MAX_ASKED = 1000
"""Needles that are asked for by name in one call."""


@dataclass(slots=True, eq=False)
class Listing:
    """One pass over one volume."""

    volume: Volume
    revision: int
    epoch: int
    page_fd: int
    used_s: float
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    page_number: int = 0
    is_busy: bool = True
    child: ChildJob | None = None
    messages: "asyncio.Queue[Message | str]" = field(default_factory=asyncio.Queue)
    """What the child says, and as text why it is gone."""

    @property
    def cursor(self) -> str:
        return f"{self.name}.{self.page_number}"


class Listings:
    """Lives on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: Executor, store: Store) -> None:
        self.loop = loop
        self.threads = threads
        self.store = store
        self._listings: dict[str, Listing] = {}
        self._stopping = False

    async def page(self, volume: Volume, *, after: str, limit: int, deep: bool) -> tuple[dict[str, object], bytes]:
        """A page's head and its columns. Raises ListingEnded, ListingFailed, VolumeBusy."""
        listing = self._find(volume, after) if after else self._begin(volume)
        listing.is_busy = True
        try:
            self._require_same(listing)
            if listing.child is None:
                await self._start(listing, deep=deep)
            head, raw = await self._next(listing, limit)
        except BaseException:
            self._end(listing)
            raise
        listing.is_busy = False
        listing.used_s = self.loop.time()
        if head["next"] is None:
            self._end(listing)
        return head, raw

    async def ask(self, volume: Volume, needles: list[int], *, deep: bool) -> list[list[object]]:
        """[id, size, CRC, time, state] of each of these needles, as it is now. Raises ReadFailed, ListingFailed.

        state: ``live``, ``dead``, ``damaged``, ``absent``, or ``pending``: a record of it is on its way.
        """
        volume.hold_count += 1  # until the end the needles lie where they were found
        try:
            found = {needle: volume.index.get(needle) for needle in needles if needle not in volume.claims}
            values = {
                needle: place[0] >> 3 << LENGTH_BITS | place[1]
                for needle, place in found.items()
                if place is not None and place[1]
            }
            try:
                live = await self.loop.run_in_executor(self.threads, _look, volume, values, deep)
            except OSError as error:
                raise ListingFailed(f"volume {volume.number} could not be read: {error}") from error
        finally:
            volume.hold_count -= 1
        return [_as_row(needle, found, live) for needle in needles]

    def look(self) -> None:
        """Give up what nobody goes on with."""
        for listing in list(self._listings.values()):
            if not listing.is_busy and self.loop.time() - listing.used_s > IDLE_S:
                log.info("a listing of volume %d is given up: nobody asks for more", listing.volume.number)
                self._end(listing)

    async def stop(self) -> None:
        self._stopping = True
        children = [listing.child for listing in self._listings.values() if listing.child is not None]
        for listing in list(self._listings.values()):
            self._end(listing)
        for child in children:
            await child.ended.wait()

    # -- one listing ---------------------------------------------------------------------------------------------

    def _find(self, volume: Volume, after: str) -> Listing:
        listing = self._listings.get(after.partition(".")[0])
        if listing is None or listing.volume is not volume or listing.cursor != after or listing.is_busy:
            raise ListingEnded(f"no listing of volume {volume.number} goes on there; begin anew")
        return listing

    def _begin(self, volume: Volume) -> Listing:
        self.look()
        if self._stopping:
            raise VolumeBusy("the server is stopping")
        if volume.is_unlinked:  # what is lost with the next restart is no proof of anything
            raise ListingFailed(f"volume {volume.number}: {volume.sealed}")
        if len(self._listings) >= MAX_LISTINGS:
            idle = [listing for listing in self._listings.values() if not listing.is_busy]
            if not idle:
                raise VolumeBusy(f"{MAX_LISTINGS} listings are under way")
            self._end(min(idle, key=lambda listing: listing.used_s))
        try:
            page_fd = _memory_file("page")
        except OSError as error:
            raise ListingFailed(f"no memory for a listing: {error}") from error
        listing = Listing(volume, volume.superblock.revision, volume.epoch, page_fd, self.loop.time())
        self._listings[listing.name] = listing
        return listing

    async def _start(self, listing: Listing, *, deep: bool) -> None:
        volume = listing.volume
        try:
            index_fd = _memory_file("index")
            try:
                await _copy(volume.index, index_fd)
                self._require_same(listing)
                listing.child = ChildJob(
                    self.loop,
                    "needles_child",
                    {"superblock": superblock.encode(volume.superblock).hex(), "deep": deep},
                    fds=[volume.fd, index_fd, listing.page_fd],
                    on_message=listing.messages.put_nowait,
                    on_end=lambda reason: listing.messages.put_nowait(reason or "the listing process ended too early"),
                )
            finally:
                os.close(index_fd)
        except OSError as error:
            raise ListingFailed(f"volume {volume.number} cannot be listed: {error}") from error

    async def _next(self, listing: Listing, limit: int) -> tuple[dict[str, object], bytes]:
        assert listing.child is not None
        listing.child.send({"limit": limit, "seconds": PAGE_S})
        message = await listing.messages.get()
        if isinstance(message, str):
            raise ListingFailed(f"volume {listing.volume.number} was not listed to its end: {message}")
        self._require_same(listing)
        page: dict[str, Any] = message["page"]
        through = page["through"]
        listing.page_number += 1
        head: dict[str, object] = {
            "volume": listing.volume.number,
            "revision": listing.revision,
            "epoch": listing.epoch,
            "live": page["live"],
            "dead": page["dead"],
            "damaged": page["damaged"],
            "through": None if through is None else f"{through:016x}",
            "next": None if through is None else listing.cursor,
        }
        return head, os.pread(listing.page_fd, page["bytes"], 0)

    def _require_same(self, listing: Listing) -> None:
        """Raises ListingEnded where the volume is not what it was when the listing began."""
        volume = listing.volume
        if (
            self._listings.get(listing.name) is not listing
            or self.store.volumes.get(volume.number) is not volume
            or volume.superblock.revision != listing.revision
            or volume.is_being_replaced
            or volume.epoch != listing.epoch
        ):
            raise ListingEnded(f"volume {volume.number} was changed as a whole meanwhile; begin anew")

    def _end(self, listing: Listing) -> None:
        if self._listings.pop(listing.name, None) is None:
            return
        os.close(listing.page_fd)
        if listing.child is not None:
            listing.child.kill()


async def _copy(index: Index, fd: int) -> None:
    """Write all segments to a file, each as it is when its turn comes.

    By what they are the segments of, not by a list of them: one that is split meanwhile is gone, its halves are there.
    """
    at, count = 0, 0
    while at >> 64 == 0:
        segment = index.segment_at(at)
        os.write(fd, segment.buffer)
        at = (at >> 64 - segment.depth) + 1 << 64 - segment.depth
        count += 1
        if count % SEGMENTS_A_TURN == 0:
            await asyncio.sleep(0)


def _memory_file(name: str) -> int:
    return os.memfd_create(f"warehouse-{name}", os.MFD_CLOEXEC)


def _look(volume: Volume, values: dict[int, int], deep: bool) -> dict[int, Live | None]:
    """In a thread."""
    reader = Reader(volume.files, volume.fd, volume.tagger, deep=deep)
    return {needle: reader.look(needle, value) for needle, value in values.items()}


def _as_row(needle: int, found: dict[int, tuple[int, int] | None], live: dict[int, Live | None]) -> list[object]:
    if needle not in found:
        return [f"{needle:016x}", 0, 0, 0, "pending"]
    place = found[needle]
    if place is None or not place[1]:
        return [f"{needle:016x}", 0, 0, 0, "absent" if place is None else "dead"]
    told = live[needle]
    if told is None:
        return [f"{needle:016x}", 0, 0, 0, "damaged"]
    return [f"{needle:016x}", told.size_bytes, told.crc32, told.appended_ms, "live"]
