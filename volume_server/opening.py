"""Making one peer's copy equal to the primary's, byte for byte, before an epoch begins. In a thread of the primary.

1. `join`: the peer writes the epoch down, so that no shipment of an older one is taken any more, and says what it has.
2. What both know to be equal is passed over: all before the start of the newest epoch that both were part of.
3. From there on blocks are compared by digests, and those that differ are sent; then what the peer does not have.
4. `finish`: the peer cuts off what is too much, syncs, indexes what it has, and writes down that it is whole.

Ordered again after it broke off it goes on where it was: blocks that have been sent are equal now.
"""

from collections import deque
from collections.abc import Callable, Iterator
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
    """The primary's file. Nothing in it changes while it is copied."""

    files: FileSystem
    fd: int
    """Of the copying alone: the volume's own may be another file's by the time that a cancelled copy ends."""
    superblock: Superblock
    size_bytes: int
    before: History
    """What the primary's history was."""
    history: History
    """What it is with the epoch that begins."""


def digest_of(data: bytes | memoryview) -> str:
    return blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def blocks_between(start: int, end: int) -> Iterator[tuple[int, int]]:
    """(start, end) of the blocks in an extent; their limits are multiples of `BLOCK_BYTES` but at its ends."""
    while start < end:
        following = min(start - start % BLOCK_BYTES + BLOCK_BYTES, end)
        yield start, following
        start = following


def known_to_be_equal(ours: History, theirs: History) -> int:
    """The offset before which two copies of the same revision are equal, since both were part of the same epoch."""
    return max((start for _, start in set(ours) & set(theirs)), default=0)


def make_equal(
    source: Source, calls: PeerCalls, told: PeerState, is_cancelled: Callable[[], bool], sleep: Callable[[float], None]
) -> None:
    """Raises PeerFailed, CopyCancelled, OSError (of the own file)."""
    _Copy(source, calls, told, is_cancelled, sleep).run()


class _Copy:
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
        self._is_cancelled = is_cancelled
        self._sleep = sleep
        self._sent: deque[HTTPConnection] = deque()

    def run(self) -> None:
        source = self.source
        joined = self._ask(
            "join",
            {"superblock": superblock.encode(source.superblock).hex(), "size": source.size_bytes},
            JOIN_TIMEOUT_S,
        )
        try:
            theirs = min(int(joined["size"]), source.size_bytes)
            history = decode_history(joined["history"])
        except (KeyError, TypeError, ValueError) as error:
            raise PeerFailed(f"its answer makes no sense: {error!r}") from error
        at = min(known_to_be_equal(source.before, history), theirs)
        self._progress(at)
        while at < theirs:
            at = self._compare(at, theirs)
        for start, end in blocks_between(theirs, source.size_bytes):
            self._send(start, self._read(start, end))
            self._progress(end)
        self._await_sent(0)
        self._progress(source.size_bytes)
        order = {"size": source.size_bytes, "history": source.history}
        while not self._ask("finish", order, COPY_TIMEOUT_S).get("whole"):
            self._sleep(FINISH_POLL_S)
        self.told.state = "whole"

    def _compare(self, at: int, end: int) -> int:
        """The next blocks: send those that differ. Up to where that was done."""
        blocks = list(blocks_between(at, min(at - at % BLOCK_BYTES + MAX_BLOCKS * BLOCK_BYTES, end)))
        digests = self._ask("digests", {"start": at, "end": blocks[-1][1]}, COPY_TIMEOUT_S).get("digests")
        if not isinstance(digests, list) or len(digests) != len(blocks):
            raise PeerFailed("it gave other digests than were asked for")
        for (start, following), digest in zip(blocks, digests, strict=True):
            data = self._read(start, following)
            if digest_of(data) != digest:
                self._send(start, data)
            self._progress(following)
        return blocks[-1][1]

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
        self.told.done_bytes = at

    def _ask(self, verb: str, order: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        self._require_going()
        return self.calls.call(verb, dumps(order).encode(), timeout_s=timeout_s)

    def _require_going(self) -> None:
        if self._is_cancelled():
            raise CopyCancelled
