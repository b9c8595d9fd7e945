"""Leases for small puts, shared by all threads of a client.

A lease is asked for once and then used needle by needle, so a loop of small puts costs the master a call per lease.
Leases of a kind (bucket, prefix, size class) grow with use: 64 needles, then 256, 1,024, 4,096.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from warehouse._master import Master, bucket_path
from warehouse.errors import Invalid, PermissionDenied, ProtocolError

_CLASSES_BYTES = (64 << 10, 1 << 20, 8 << 20)
_FIRST_COUNT, _GROWTH, _MAX_COUNT = 64, 4, 4096
_MAX_LEASE_BYTES = 256 << 20
"""count × max_bytes of one lease: what it may at most write to its volume."""
_MIN_LIFE_S = 60.0
"""A lease is used for so long at least, whatever a wrong local clock makes of its expiry: the server has the word."""
_REFUSED_FOR_S = 60.0
"""For so long a prefix that the key may not write is not asked for again: its rights may have grown meanwhile."""


class LeaseTooLarge(Exception):
    """There is no lease for needles of this size: the object goes as an upload."""


@dataclass(slots=True)
class Lease:
    url: str
    first: int
    count: int
    best_until: float
    """On the monotonic clock."""
    used: int = 0
    dropped: bool = False

    def next_url(self) -> str | None:
        """The URL of the next needle, or None when it is time for another lease."""
        if self.dropped or self.used >= self.count or time.monotonic() >= self.best_until:
            return None
        needle = self.first + self.used
        self.used += 1
        return self.url.replace("{needle}", f"{needle:016x}")


@dataclass(slots=True)
class _Kind:
    lock: threading.Lock = field(default_factory=threading.Lock)
    lease: Lease | None = None
    next_count: int = _FIRST_COUNT


class LeasePool:
    def __init__(self, master: Master, *, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        """Objects up to this size are put under leases; and up to their bucket's chunk size, when that is learnt."""
        self._chunk_bytes: dict[str, int] = {}
        self._master = master
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, str, int], _Kind] = {}
        self._granted: dict[str, list[str]] = {}
        self._refused: dict[tuple[str, str], float] = {}

    def take(self, bucket: str, key: str, size: int) -> tuple[str, Lease]:
        """The URL of a needle for an object, and the lease that it is from.

        A key whose rights end at a prefix gets no lease for the whole bucket. What it may write is found by asking:
        the folders of ``key`` from the top, then ``key`` itself.
        Raises LeaseTooLarge, PermissionDenied and whatever else the master answers.
        """
        limit_bytes = self._limit_of(bucket)
        if size > limit_bytes:
            raise LeaseTooLarge
        max_bytes = next((limit for limit in _CLASSES_BYTES if size <= limit), limit_bytes)
        max_bytes = min(max_bytes, limit_bytes)
        refusal: PermissionDenied | None = None
        for prefix in self._prefixes(bucket, key):
            try:
                if prefix == key:
                    lease = self._ask(bucket, prefix, 1, max_bytes)
                    url = lease.next_url()
                    assert url is not None
                else:
                    url, lease = self._take_kind(bucket, prefix, max_bytes)
            except PermissionDenied as error:
                refusal = error
                self._remember_refused(bucket, prefix)
                continue
            if prefix and prefix != key:
                self._remember_granted(bucket, prefix)
            if size > self._limit_of(bucket):  # learnt from this very lease
                raise LeaseTooLarge
            return url, lease
        assert refusal is not None
        raise refusal

    def learn_chunk_size(self, bucket: str, chunk_bytes: int) -> None:
        """Larger objects of the bucket are cut into chunks, and the store would have them so."""
        self._chunk_bytes[bucket] = min(self._chunk_bytes.get(bucket, chunk_bytes), chunk_bytes)

    def _limit_of(self, bucket: str) -> int:
        return min(self._limit_bytes, self._chunk_bytes.get(bucket, self._limit_bytes))

    def drop(self, lease: Lease) -> None:
        """Use no more needles of this lease."""
        lease.dropped = True

    def _take_kind(self, bucket: str, prefix: str, max_bytes: int) -> tuple[str, Lease]:
        with self._lock:
            kind = self._kinds.setdefault((bucket, prefix, max_bytes), _Kind())
        # Held while asking: the others wait for that answer instead of asking for a lease of their own.
        with kind.lock:
            if kind.lease is not None and (url := kind.lease.next_url()) is not None:
                return url, kind.lease
            count = max(1, min(kind.next_count, _MAX_LEASE_BYTES // max(max_bytes, 1)))
            kind.lease = lease = self._ask(bucket, prefix, count, max_bytes)
            kind.next_count = min(kind.next_count * _GROWTH, _MAX_COUNT)
            url = lease.next_url()
            assert url is not None
            return url, lease

    def _ask(self, bucket: str, prefix: str, count: int, max_bytes: int) -> Lease:
        body = {"count": count, "max_bytes": max_bytes}
        try:
            answer = self._master.call(
                "POST", bucket_path(bucket, "leases"), body={**body, "prefix": prefix} if prefix else body
            )
        except Invalid as error:
            if "max_bytes" in error.errors:
                raise LeaseTooLarge from error
            raise
        try:
            url, first, given = str(answer["url"]), int(answer["first"], 16), int(answer["count"])
            expires_at = datetime.fromisoformat(answer["expires_at"])
        except (TypeError, KeyError, ValueError) as error:
            raise ProtocolError("the master's lease cannot be read") from error
        if given < 1 or "{needle}" not in url:
            raise ProtocolError("the master gave a lease without needles")
        if "chunk_size" in answer:
            self.learn_chunk_size(bucket, int(answer["chunk_size"]))
        life_s = max((expires_at - datetime.now(UTC)).total_seconds(), _MIN_LIFE_S)
        return Lease(url, first, given, best_until=time.monotonic() + life_s - min(30.0, life_s / 5))

    def _prefixes(self, bucket: str, key: str) -> Iterator[str]:
        with self._lock:
            granted = [prefix for prefix in self._granted.get(bucket, []) if key.startswith(prefix)]
        if granted:
            yield max(granted, key=len)
        folders = [key[: at + 1] for at, char in enumerate(key) if char == "/"]
        now = time.monotonic()
        for prefix in ("", *folders):
            if prefix not in granted and self._refused.get((bucket, prefix), 0.0) <= now:
                yield prefix
        if key not in folders:
            yield key

    def _remember_granted(self, bucket: str, prefix: str) -> None:
        with self._lock:
            granted = self._granted.setdefault(bucket, [])
            if prefix not in granted:
                granted.append(prefix)

    def _remember_refused(self, bucket: str, prefix: str) -> None:
        with self._lock:
            if prefix in self._granted.get(bucket, []):
                self._granted[bucket].remove(prefix)
            if len(self._refused) > 10_000:
                self._refused.clear()
            self._refused[bucket, prefix] = time.monotonic() + _REFUSED_FOR_S
