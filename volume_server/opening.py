"""Making one peer's copy equal to the primary's, byte for byte, before an epoch begins. In a thread of the primary.

1. `join`: the peer writes the epoch down, so that no shipment of an older one is taken any more, and says what it has.
2. What both know to be equal is passed over: all before the start of the newest epoch that both were part of, but for
   what the peer knows to be damaged. From there on blocks are compared by digests.
3. When all peers have been compared, what is damaged at the primary is mended (`volume_server.mending`).
4. The blocks that differ are sent; then what the peer does not have.
5. `finish`: the peer cuts off what is too much, syncs, indexes what it has, and writes down that it is whole.

Ordered again after it broke off it goes on where it was: blocks that have been sent are equal now.
"""

import binascii
from base64 import b64decode
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from http.client import HTTPConnection
from json import dumps
from typing import Any

from volume_server import superblock
from volume_server.durability import FileSystem
from volume_server.peers import PeerCalls, PeerFailed
from volume_server.state import decode_history
from volume_server.superblock import Superblock

BLOCK_BYTES = 1 << 20
DIGEST_BYTES = 16
MAX_BLOCKS = 64
"""Whose digests are asked for at a time."""
JOIN_TIMEOUT_S = 10.0
COPY_TIMEOUT_S = 60.0
"""For a block that the peer writes, and for the digests of `MAX_BLOCKS`."""
FINISH_POLL_S = 0.1
BLOCKS_AT_A_TIME = 3
"""On their way to the peer: one is sent while another one is written."""

History = tuple[tuple[int, int], ...]
Stretch = tuple[int, int]
"""(start, end) of bytes in a file."""


class CopyCancelled(Exception):
    """A later order has ended this one."""


@dataclass(slots=True)
class PeerState:
    """A peer as the primary's figures tell of it."""

    server: str
    state: str
    """copying, whole or lost"""
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Source:
    """The primary's file. Nothing in it changes while it is copied, but for what is mended before anything is sent."""

    files: FileSystem
    fd: int
    """Of the copying alone: the volume's own may be another file's by the time that a cancelled copy ends."""
    superblock: Superblock
    size_bytes: int
    before: History
    """What the primary's history was."""


def digest_of(data: bytes | memoryview) -> str:
    return blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def blocks_between(start: int, end: int) -> Iterator[tuple[int, int]]:
    """(start, end) of the blocks in an extent; their limits are multiples of `BLOCK_BYTES` but at its ends."""
    while start < end:
        following = min(start - start % BLOCK_BYTES + BLOCK_BYTES, end)
        yield start, following
        start = following


def joined_up(stretches: Iterable[Stretch]) -> list[Stretch]:
    """The same bytes, each in one stretch only, in order."""
    found: list[Stretch] = []
    for start, end in sorted(stretches):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        elif start < end:
            found.append((start, end))
    return found


def known_to_be_equal(ours: History, theirs: History) -> int:
    """The offset before which two copies of the same revision are equal, since both were part of the same epoch."""
    return max((start for _, start in set(ours) & set(theirs)), default=0)


def written_together(ours: History, theirs: History) -> int | None:
    """The offset before which what both copies have was written to both, in epochs that both were part of.

    None: all of it. A record that is sound in one of them is then what the other one has or had in the same place:
    where one copy has taken records without the other, it has a later epoch in its history.
    """
    common = max(set(ours) & set(theirs), default=None)
    if common is None:
        return 0
    return min((start for epoch, start in (*ours, *theirs) if epoch > common[0]), default=None)


class Copying:
    """From the primary's file to one peer. Its methods are called one after the other, in threads.

    They raise PeerFailed, CopyCancelled, OSError (of the own file).
    """

    def __init__(
        self,
        source: Source,
        calls: PeerCalls,
        told: PeerState,
        is_cancelled: Callable[[], bool],
        sleep: Callable[[float], None],
    ) -> None:
        self.source = source
        self.calls = calls
        self.told = told
        self.failure: str | None = None
        """Why the peer is not whole."""
        self.their_bytes = 0
        self.their_history: History = ()
        self.differing: list[Stretch] = []
        """Of what both have."""
        self._is_cancelled = is_cancelled
        self._sleep = sleep
        self._sent: deque[HTTPConnection] = deque()

    def compare(self) -> None:
        """Have the peer join, and find out what differs of what both have. Nothing is changed by that."""
        source = self.source
        joined = self._ask(
            "join",
            {"superblock": superblock.encode(source.superblock).hex(), "size": source.size_bytes},
            JOIN_TIMEOUT_S,
        )
        try:
            self.their_bytes = int(joined["size"])
            self.their_history = decode_history(joined["history"])
            damaged = [(int(start), int(start) + int(size_bytes)) for start, size_bytes in joined.get("damaged", ())]
        except (KeyError, TypeError, ValueError) as error:
            raise PeerFailed(f"its answer makes no sense: {error!r}") from error
        common = min(self.their_bytes, source.size_bytes)
        equal = min(known_to_be_equal(source.before, self.their_history), common)
        suspect = [(max(start, 0), min(end, equal)) for start, end in damaged]
        self._progress(equal)
        for start, end in joined_up([*suspect, (equal, common)]):
            self.differing += self._compared(start, end)

    def fetch(self, start: int, end: int) -> bytes:
        """What the peer has there; at most `BLOCK_BYTES`. After `compare`."""
        answer = self._ask("read", {"start": start, "end": end}, COPY_TIMEOUT_S)
        try:
            data = b64decode(answer["data"], validate=True)
        except (KeyError, TypeError, binascii.Error) as error:
            raise PeerFailed(f"its answer makes no sense: {error!r}") from error
        if len(data) != end - start:
            raise PeerFailed(f"it gave {len(data)} bytes instead of {end - start}")
        return data

    def make_equal(self, size_bytes: int, history: History, mended: list[Stretch]) -> None:
        """Send what differs, and what the peer does not have. ``size_bytes``: of the own file as it is now, of which
        the stretches that were ``mended`` are others than those that were compared."""
        common = min(self.their_bytes, size_bytes)
        differing = self.differing
        if mended:
            again = joined_up([*differing, *((start, min(end, common)) for start, end in mended)])
            differing = [block for start, end in again for block in self._compared(start, end)]
        for start, end in [*differing, *blocks_between(common, size_bytes)]:
            self._send(start, self._read(start, end))
            self._progress(end)
        self._await_sent(0)
        self._progress(size_bytes)
        while not self._ask("finish", {"size": size_bytes, "history": history}, COPY_TIMEOUT_S).get("whole"):
            self._sleep(FINISH_POLL_S)
        self.told.state = "whole"

    def _compared(self, at: int, end: int) -> list[Stretch]:
        """The blocks between that differ."""
        differing = []
        while at < end:
            blocks = list(blocks_between(at, min(at - at % BLOCK_BYTES + MAX_BLOCKS * BLOCK_BYTES, end)))
            digests = self._ask("digests", {"start": at, "end": blocks[-1][1]}, COPY_TIMEOUT_S).get("digests")
            if not isinstance(digests, list) or len(digests) != len(blocks):
                raise PeerFailed("it gave other digests than were asked for")
            for (start, following), digest in zip(blocks, digests, strict=True):
                if digest_of(self._read(start, following)) != digest:
                    differing.append((start, following))
                self._progress(following)
            at = blocks[-1][1]
        return differing

    def _send(self, start: int, data: bytes) -> None:
        self._await_sent(BLOCKS_AT_A_TIME - 1)
        self._require_going()
        self._sent.append(self.calls.send("replace", data, timeout_s=COPY_TIMEOUT_S, at=start))

    def _await_sent(self, most: int) -> None:
        """Until no more than so many blocks are on their way."""
        while len(self._sent) > most:
            self.calls.answer(self._sent.popleft())

    def _read(self, start: int, end: int) -> bytes:
        data = self.source.files.read_at(self.source.fd, end - start, start)
        if len(data) != end - start:
            raise OSError(f"the own file ends before {end}")
        return data

    def _progress(self, at: int) -> None:
        self.told.done_bytes = max(at, self.told.done_bytes)

    def _ask(self, verb: str, order: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        self._require_going()
        return self.calls.call(verb, dumps(order).encode(), timeout_s=timeout_s)

    def _require_going(self) -> None:
        if self._is_cancelled():
            raise CopyCancelled
