"""One needle: the rules of repeating a PUT, and of turning to another replica for a GET.

A PUT that may have been committed is repeated as it was, with the same needle, bytes and headers, until there is an
answer: a volume server answers a repeated PUT like the first one. Only what is known to have kept nothing may be put
again under another needle. So no object is ever written twice, nor rolled back over a later one.
"""

import json
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from warehouse._http import Answer, Body, Lost, NotConnected, Wire
from warehouse._retry import Backoff, retry_after_s
from warehouse._sources import scratch
from warehouse.errors import (
    ApiError,
    ChecksumMismatch,
    ConnectionFailed,
    OutcomeUnknown,
    ProtocolError,
    TransferError,
    WarehouseError,
    api_error,
)
from warehouse.transfer import Progress, TransferConfig

NOTHING_KEPT = frozenset(
    {
        # the volume server's
        "disk_full",
        "expired",
        "key_revoked",
        "lease_exhausted",
        "needle_outside_lease",
        "needle_taken",
        "signature_invalid",
        "volume_degraded",
        "volume_full",
        "volume_sealed",
        "volume_unknown",
        # the master's, about the lease and not about the object
        "epoch_stale",
        "intent_forged",  # as all that are older than a rebuild of the database are to it
        "not_primary",
    }
)
"""Refusals after which the same bytes may be put under a needle of a new lease."""


DEGRADED = "volume_degraded"
"""The volume lost a copy and takes nothing until it has it again, most likely in seconds: other volumes take what is
put. But a needle whose answer was lost may be in it, and is judged when it is put again."""
DAMAGED = "needle_damaged"
"""The refusal of a volume server whose copy of a needle is no longer what was written."""
_NO_ANSWER = frozenset({500, 502, 503, 504})
"""Statuses that leave open whether the needle was committed, or will be."""
_LATER = frozenset({408, 429})
"""Statuses after which the same request may do better."""


class NewNeedle(Exception):
    """Nothing was kept; another needle may be tried. ``error`` says why, for when patience ends."""

    def __init__(self, error: WarehouseError) -> None:
        super().__init__(str(error))
        self.error = error

    @property
    def code(self) -> str:
        return self.error.code if isinstance(self.error, ApiError) else ""


def put_needle(
    wire: Wire,
    url: str,
    headers: Mapping[str, str],
    body: Body,
    *,
    config: TransferConfig,
    object_size: int | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Mapping[str, Any]:
    """The verdict, ``committed`` or ``stored``; ``object_size`` where the needle is only a chunk of the object.

    Raises NewNeedle, OutcomeUnknown, ChecksumMismatch, SourceChanged, or ApiError for a refusal of the object itself.
    """
    crc = body.crc32()
    backoff = Backoff(config, stop=stop)
    uncertain = damaged = False
    while True:
        counter = _Counter(progress)
        signed = {**headers, "Warehouse-CRC32": f"{crc:08x}"}
        pause_s = 0.0
        error: WarehouseError
        try:
            answer = wire.put(url, signed, body, progress=counter.count, stop=stop)
        except NotConnected as failure:
            error = ConnectionFailed(str(failure))
            if not uncertain:
                raise NewNeedle(error) from failure
        except Lost as failure:
            error = ConnectionFailed(str(failure))
            uncertain = uncertain or failure.sent
        else:
            if answer.status in (201, 202):
                return _verdict(answer, size=body.size, object_size=object_size, crc=crc)
            error = refusal = problem_of(answer)
            pause_s = retry_after_s(answer.headers.get("retry-after"))
            if refusal.code == "crc_mismatch" and not damaged:
                damaged, crc = True, body.crc32()
            elif refusal.status in _NO_ANSWER and refusal.code not in NOTHING_KEPT:
                uncertain = True
            elif refusal.status not in _LATER and not (uncertain and refusal.code == DEGRADED):
                counter.undo()
                raise _final(refusal, uncertain=uncertain) from None
        counter.undo()
        if not backoff.pause(at_least_s=pause_s):
            if uncertain:
                raise OutcomeUnknown(f"no definite answer in {config.retry_s:g} s: {error}") from error
            raise error


def _final(refusal: ApiError, *, uncertain: bool) -> Exception:
    """What a refusal that will not change comes to."""
    if refusal.code == "crc_mismatch":
        return ChecksumMismatch(f"the volume server got other bytes than were sent: {refusal}")
    if refusal.code not in NOTHING_KEPT:
        return refusal
    if uncertain:
        # An earlier try of the same needle may have been committed before its lease came to this end.
        return OutcomeUnknown(f"an answer was lost, and then: {refusal}")
    return NewNeedle(refusal)


@dataclass(frozen=True, slots=True)
class ChunkRef:
    """Where a chunk can be read; ``urls`` one per replica, the best first."""

    index: int
    offset: int
    size: int
    crc32: int
    urls: tuple[str, ...]


class Stale(Exception):
    """The URLs are no longer good: expired, or the object was overwritten meanwhile. Look it up again.

    ``absent`` are the places (see `place_of`) that do not have the needle: if a look-up made now still names them, its
    bytes are lost there.
    """

    def __init__(self, error: ApiError, absent: frozenset[str]) -> None:
        super().__init__(str(error))
        self.error = error
        self.absent = absent


class Damaged(Exception):
    """A chunk's bytes are damaged wherever they are, or lost; ``server`` is the last one that said so."""

    def __init__(self, chunk: int, server: str, *, is_lost: bool = False) -> None:
        super().__init__(f"chunk {chunk} is {'lost' if is_lost else 'damaged'} on {server}")
        self.chunk = chunk
        self.server = server
        self.is_lost = is_lost


def place_of(url: str) -> str:
    """The server and the needle of a URL, without what changes with each signature. No needle is ever used again."""
    parts = urlsplit(url)
    return parts.netloc + parts.path


Fetch = Callable[[str], tuple[Answer, int]]
"""Get one URL; gives the answer and the CRC-32 of the bytes that came."""


def read_chunk(chunk: ChunkRef, fetch: Fetch, *, config: TransferConfig, stop: threading.Event | None = None) -> Answer:
    """Fetch from the first replica that has the right bytes.

    A replica that says that its bytes are damaged is not asked again: no patience makes them right.

    Raises Stale, Damaged when no other replica is left, ChecksumMismatch when every one has sent wrong bytes, or the
    last replica's failure.
    """
    backoff = Backoff(config, stop=stop)
    urls = list(chunk.urls)
    damaged: str | None = None
    while True:
        stale: ApiError | None = None
        absent: set[str] = set()
        failures: list[WarehouseError] = []
        for url in list(urls):
            try:
                answer, crc = fetch(url)
            except (NotConnected, Lost) as failure:
                failures.append(ConnectionFailed(str(failure)))
                continue
            except ProtocolError as failure:
                failures.append(failure)
                continue
            if answer.status == 200:
                if crc == chunk.crc32:
                    return answer
                failures.append(
                    ChecksumMismatch(f"chunk {chunk.index} has CRC-32 {crc:08x} instead of {chunk.crc32:08x}")
                )
                continue
            refusal = problem_of(answer)
            if refusal.code == DAMAGED:
                damaged = urlsplit(url).netloc
                urls.remove(url)
                continue
            failures.append(refusal)
            if refusal.status in (403, 404, 410):
                stale = refusal
            if refusal.status == 404:
                absent.add(place_of(url))
        if stale is not None:
            raise Stale(stale, frozenset(absent))
        if damaged is not None and all(isinstance(failure, ChecksumMismatch) for failure in failures):
            raise Damaged(chunk.index, damaged)
        if not failures:
            raise TransferError(f"chunk {chunk.index} has no replica")
        if all(isinstance(failure, ChecksumMismatch) for failure in failures) or not backoff.pause():
            raise failures[-1]


def fetch_bytes(wire: Wire, size: int, stop: threading.Event | None = None) -> Fetch:
    """A fetch whose answer holds the bytes: for small ones."""

    def fetch(url: str) -> tuple[Answer, int]:
        answer = wire.get(url, size=size, stop=stop)
        return answer, zlib.crc32(answer.body)

    return fetch


def fetch_into(wire: Wire, view: memoryview, stop: threading.Event | None = None) -> Fetch:
    """A fetch into a buffer of the chunk's size."""

    def fetch(url: str) -> tuple[Answer, int]:
        answer = wire.get(url, size=len(view), into=view, stop=stop)
        return answer, zlib.crc32(view)

    return fetch


def fetch_to_file(
    wire: Wire,
    write_at: Callable[[memoryview, int], None],
    chunk: ChunkRef,
    progress: Progress | None,
    stop: threading.Event | None = None,
) -> Fetch:
    """A fetch that writes pieces as they come; the same chunk again overwrites them."""

    def fetch(url: str) -> tuple[Answer, int]:
        counter = _Counter(progress)
        crc, offset = 0, chunk.offset

        def sink(piece: memoryview) -> None:
            nonlocal crc, offset
            crc = zlib.crc32(piece, crc)
            write_at(piece, offset)
            offset += len(piece)
            counter.count(len(piece))

        try:
            answer = wire.get(url, size=chunk.size, through=(scratch(), sink), stop=stop)
        except BaseException:
            counter.undo()
            raise
        if answer.status != 200 or crc != chunk.crc32:
            counter.undo()
        return answer, crc

    return fetch


def problem_of(answer: Answer) -> ApiError:
    try:
        problem: object = json.loads(answer.body)
    except ValueError:
        problem = None
    return api_error(
        answer.status,
        problem,
        request_id=answer.headers.get("x-request-id", ""),
        default=f"a volume server answered {answer.status}",
    )


def crc_value(value: object) -> int:
    """A CRC-32 in an answer. Raises ProtocolError for anything but a number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ProtocolError(f"{value!r} is no CRC-32")


def _verdict(answer: Answer, *, size: int, object_size: int | None, crc: int) -> Mapping[str, Any]:
    try:
        verdict: Mapping[str, Any] = json.loads(answer.body)
        state, stored_size, stored_crc = verdict["state"], verdict["size"], crc_value(verdict.get("crc32", crc))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProtocolError("the volume server's answer to a PUT cannot be read") from error
    expected = object_size if object_size is not None and state == "committed" else size
    if stored_size != expected:
        raise ProtocolError(f"{expected} bytes were sent, the volume server speaks of {stored_size!r}")
    if stored_crc != crc:
        raise ChecksumMismatch(f"sent with CRC-32 {crc:08x}, stored with {stored_crc:08x}")
    return verdict


class _Counter:
    """Tells progress, and takes it back when the same bytes must be moved again."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._total = 0

    def count(self, size: int) -> None:
        self._total += size
        if self._progress is not None:
            self._progress(size)

    def undo(self) -> None:
        if self._total:
            self.count(-self._total)
