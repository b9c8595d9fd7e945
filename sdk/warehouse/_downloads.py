"""Gets: look up, read in parallel, check every CRC-32 before a byte is handed on."""

import io
import os
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from warehouse._http import LocalFault, Wire
from warehouse._master import Master, bucket_path
from warehouse._needles import (
    ChunkRef,
    Damaged,
    Stale,
    crc_value,
    fetch_bytes,
    fetch_into,
    fetch_to_file,
    place_of,
    read_chunk,
)
from warehouse._parallel import as_done
from warehouse.errors import NotFound, ObjectChanged, ObjectDamaged, ObjectLost, ProtocolError, WarehouseError
from warehouse.transfer import Progress, TransferConfig
from warehouse.types import ObjectInfo

LOOKUP_KEYS = 1000
"""Keys of one look-up, as many as the master takes."""
_LOOKUPS = 3
"""How often an object is looked up for one get: each time after the first it was overwritten meanwhile."""
_HAND_ON_BYTES = 1 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Located:
    """One version of an object, and where its bytes are."""

    info: ObjectInfo
    chunks: tuple[ChunkRef, ...]

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Located":
        chunks = tuple(
            ChunkRef(
                index=int(row["index"]),
                offset=int(row["offset"]),
                size=int(row["size"]),
                crc32=crc_value(row["crc32"]),
                urls=tuple(row["urls"]),
            )
            for row in sorted(body["chunks"], key=lambda row: int(row["index"]))
        )
        info = ObjectInfo.from_json(body)
        at = 0
        for chunk in chunks:
            if chunk.offset != at:
                raise ProtocolError(f"the chunks of {info.key!r} do not follow on each other")
            at += chunk.size
        if at != info.size:
            raise ProtocolError(f"the chunks of {info.key!r} do not add up to its size")
        return cls(info, chunks)

    def without(self, absent: Set[str]) -> "Located":
        """The same without the places that do not have what was looked up there before.

        Raises Damaged for a chunk of which nothing is left.
        """
        if not absent:
            return self
        return replace(self, chunks=tuple(_without(chunk, absent) for chunk in self.chunks))


def _without(chunk: ChunkRef, absent: Set[str]) -> ChunkRef:
    urls = tuple(url for url in chunk.urls if place_of(url) not in absent)
    if chunk.urls and not urls:
        raise Damaged(chunk.index, urlsplit(chunk.urls[-1]).netloc, is_lost=True)
    return replace(chunk, urls=urls)


class Downloader:
    def __init__(self, master: Master, wire: Wire, config: TransferConfig, executor: Callable[[], Executor]) -> None:
        self._master = master
        self._wire = wire
        self._config = config
        self._executor = executor

    def locate_many(self, bucket: str, keys: Sequence[str]) -> dict[str, Located]:
        """Those of up to LOOKUP_KEYS keys that exist and may be read."""
        answer = self._master.call("POST", bucket_path(bucket, "downloads"), body={"keys": list(keys)})
        try:
            return {body["key"]: Located.from_json(body) for body in answer["objects"]}
        except (TypeError, KeyError, ValueError) as error:
            raise ProtocolError("the master's answer to a look-up cannot be read") from error

    def locate(self, bucket: str, key: str) -> Located:
        found = self.locate_many(bucket, [key]).get(key)
        if found is None:
            raise missing(bucket, key)
        return found

    def read(self, bucket: str, located: Located, *, progress: Progress | None = None) -> bytes:
        def read(version: Located) -> bytes:
            if not version.info.size:
                return b""
            if len(version.chunks) == 1:
                fetch = fetch_bytes(self._wire, version.info.size)
                data = read_chunk(version.chunks[0], fetch, config=self._config).body
            else:
                buffer = bytearray(version.info.size)
                self._read_into(version, memoryview(buffer))
                data = bytes(buffer)
            if progress is not None:
                progress(len(data))
            return data

        return self._whole(bucket, located, read)

    def download(
        self, bucket: str, located: Located, path: str | os.PathLike[str], *, progress: Progress | None = None
    ) -> ObjectInfo:
        """Write a version to a file that takes its name only when all of it is there, checked and, where configured,
        on the disk. Raises OSError for the file; what stood at ``path`` before is then still there."""

        def download(version: Located) -> ObjectInfo:
            with _NewFile(path, fsync=self._config.fsync) as file:
                self._download_to(file, version, progress)
            return version.info

        return self._whole(bucket, located, download)

    def iter_bytes(self, bucket: str, located: Located) -> Iterator[bytes]:
        """The bytes of a version in pieces, each chunk checked before the first of it is given; one chunk is read
        ahead. Raises ObjectChanged when the version is gone before its end."""
        pinned = _Pinned(self, bucket, located)
        chunks = [chunk for chunk in located.chunks if chunk.size]
        stop = threading.Event()
        ahead: deque[Future[memoryview]] = deque()
        executor = self._executor() if len(chunks) > 1 else None
        try:
            for at in range(len(chunks)):
                if executor is None:
                    data = pinned.chunk(chunks[at], stop)
                else:
                    while len(ahead) < min(2, len(chunks) - at):
                        ahead.append(executor.submit(pinned.chunk, chunks[at + len(ahead)], stop))
                    data = ahead.popleft().result()
                for start in range(0, len(data), _HAND_ON_BYTES):
                    yield bytes(data[start : start + _HAND_ON_BYTES])
        finally:
            stop.set()
            for future in ahead:
                future.cancel()
            wait(ahead)

    def open(self, bucket: str, located: Located) -> io.BufferedReader:
        return io.BufferedReader(_ObjectReader(_Pinned(self, bucket, located)), _HAND_ON_BYTES)

    def chunk_bytes(self, chunk: ChunkRef, stop: threading.Event | None) -> memoryview:
        view = memoryview(bytearray(chunk.size))
        read_chunk(chunk, fetch_into(self._wire, view, stop), config=self._config, stop=stop)
        return view

    def _read_into(self, located: Located, view: memoryview) -> None:
        stop = threading.Event()

        def read(chunk: ChunkRef) -> None:
            part = view[chunk.offset : chunk.offset + chunk.size]
            read_chunk(chunk, fetch_into(self._wire, part, stop), config=self._config, stop=stop)

        for _ in as_done(self._executor(), read, located.chunks, limit=self._config.concurrency, stop=stop):
            pass

    def _download_to(self, file: "_NewFile", located: Located, progress: Progress | None) -> None:
        stop = threading.Event()

        def read(chunk: ChunkRef) -> None:
            try:
                fetch = fetch_to_file(self._wire, file.write_at, chunk, progress, stop)
                read_chunk(chunk, fetch, config=self._config, stop=stop)
            except LocalFault as fault:
                raise fault.error from fault

        chunks = [chunk for chunk in located.chunks if chunk.size]
        if len(chunks) == 1:
            read(chunks[0])
            return
        for _ in as_done(self._executor(), read, chunks, limit=self._config.concurrency, stop=stop):
            pass

    def _whole(self, bucket: str, located: Located, action: Callable[[Located], T]) -> T:
        """Do it with one version: when that is gone meanwhile, all again with the next, never a mix.

        What a place did not have, and is still looked up there afterwards, is lost there: no delete came between.
        """
        absent: set[str] = set()
        try:
            for _ in range(_LOOKUPS - 1):
                try:
                    return action(located)
                except Stale as stale:
                    absent |= stale.absent
                    located = self.locate(bucket, located.info.key).without(absent)
            return action(located)
        except Stale as stale:
            raise gone(located.info.key, stale) from stale
        except Damaged as damaged:
            raise damage_of(bucket, located.info.key, damaged) from damaged


class _Pinned:
    """Chunks of one version, for a reader that has already handed some of it on: new URLs, never new bytes."""

    def __init__(self, downloader: Downloader, bucket: str, located: Located) -> None:
        self._downloader = downloader
        self._bucket = bucket
        self._urls = located
        self._absent: set[str] = set()
        self._lock = threading.Lock()
        self.info = located.info
        self.chunks = located.chunks

    def chunk(self, chunk: ChunkRef, stop: threading.Event | None = None) -> memoryview:
        try:
            for _ in range(_LOOKUPS - 1):
                seen = self._urls
                try:
                    return self._downloader.chunk_bytes(seen.chunks[chunk.index], stop)
                except Stale as stale:
                    with self._lock:
                        # What is not there must be looked up after that was found out, not before by another thread.
                        if self._urls is seen or stale.absent:
                            self._absent |= stale.absent
                            self._urls = self._again().without(self._absent)
            return self._downloader.chunk_bytes(self._urls.chunks[chunk.index], stop)
        except Stale as stale:
            raise gone(self.info.key, stale) from stale
        except Damaged as damaged:
            raise damage_of(self._bucket, self.info.key, damaged) from damaged

    def _again(self) -> Located:
        try:
            found = self._downloader.locate(self._bucket, self.info.key)
        except NotFound as error:
            raise ObjectChanged(f"{self.info.key!r} was deleted while it was being read") from error
        if found.info.etag != self.info.etag or len(found.chunks) != len(self.chunks):
            raise ObjectChanged(f"{self.info.key!r} was overwritten while it was being read")
        return found


class _ObjectReader(io.RawIOBase):
    """A seekable file over one version; holds one checked chunk."""

    def __init__(self, pinned: _Pinned) -> None:
        self._pinned = pinned
        self._at = 0
        self._held: tuple[ChunkRef, memoryview] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._pinned.info.size}[whence]
        if base + offset < 0:
            raise ValueError("seek before the start")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._pinned.info.size:
            return 0
        chunk, data = self._hold()
        start = self._at - chunk.offset
        view = memoryview(buffer).cast("B")
        size = min(len(view), chunk.size - start)
        view[:size] = data[start : start + size]
        self._at += size
        return size

    def _hold(self) -> tuple[ChunkRef, memoryview]:
        held = self._held
        if held is None or not held[0].offset <= self._at < held[0].offset + held[0].size:
            self._held = None  # before the next one is read, so that there is never more than one
            chunk = next(c for c in self._pinned.chunks if c.offset <= self._at < c.offset + c.size)
            self._held = held = (chunk, self._pinned.chunk(chunk))
        return held


class _NewFile:
    """A file beside its target that takes the target's name at the end, or is gone."""

    def __init__(self, path: str | os.PathLike[str], *, fsync: bool) -> None:
        # Through a symbolic link the file it points to is replaced, not the link.
        self._target = Path(path).resolve()
        if self._target.exists() and not self._target.is_file():
            raise FileExistsError(f"{os.fspath(path)!r} is no regular file, so it cannot be replaced by one")
        self._temporary = self._target.with_name(f".warehouse-{secrets.token_hex(8)}.part")
        self._fsync = fsync
        self._fd = -1
        self._lock = threading.Lock()

    def __enter__(self) -> "_NewFile":
        self._fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        return self

    def write_at(self, piece: memoryview, offset: int) -> None:
        # One at a time: the kernel takes turns for one file anyway, and burns a processor waiting for them.
        with self._lock:
            while piece:
                written = os.pwrite(self._fd, piece, offset)
                piece, offset = piece[written:], offset + written

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            try:
                if kind is None and self._fsync:
                    os.fsync(self._fd)
            finally:
                os.close(self._fd)
            if kind is None:
                self._temporary.replace(self._target)
        finally:
            self._temporary.unlink(missing_ok=True)
        if kind is None and self._fsync:
            _sync_directory(self._target.parent)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def damage_of(bucket: str, key: str, damaged: Damaged) -> ObjectDamaged:
    kind = ObjectLost if damaged.is_lost else ObjectDamaged
    return kind(bucket=bucket, key=key, server=damaged.server, chunk=damaged.chunk)


def gone(key: str, stale: Stale) -> WarehouseError:
    """What it comes to when every look-up was out of date before its bytes were read: never that there is no object."""
    if stale.absent:
        return ObjectChanged(f"{key!r} was overwritten or moved each time that it was looked up to be read")
    return stale.error


def missing(bucket: str, key: str) -> NotFound:
    return NotFound(
        status=404, code="object_unknown", title="There is no such object", detail=f"there is no {key!r} in {bucket!r}"
    )
