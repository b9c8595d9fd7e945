"""Files that fail on request, and small volumes to try it on."""

import errno
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.simulated_disk import SimulatedDisk
from volume_server import meta as metas
from volume_server.durability import Buffers, FileSystem
from volume_server.superblock import Superblock
from volume_server.volume import Buffer, Claim, Volume

SALT = bytes(range(16))
SUPERBLOCK = Superblock(volume=7, revision=1, created_ms=1_700_000_000_000, salt=SALT)
NEEDLE = 1 << 16
META = metas.encode(metas.Meta(intent=b"an intent", key="a key"))


ANY = "any"
"""Of the file operations, whichever comes."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The ``nth`` call fails with ``error``, and all later ones where it is ``sticky``."""

    nth: int
    error: int = errno.EIO
    part_bytes: int = 0
    sticky: bool = False

    def strikes(self, count: int) -> bool:
        return count == self.nth or (self.sticky and count > self.nth)


class FaultyFiles(FileSystem):
    """The operating system's files, of which the n-th call of a kind fails.

    `fail("write_at", errno.ENOSPC)` makes the next such call fail, ``after`` lets some pass first, and ``sticky`` has
    all fail from then on. A write that fails leaves ``part_bytes`` of what it was given, as a full disk does.
    The kinds are the methods of `FileSystem`, and `ANY`.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.before: Callable[[str], None] = lambda _: None
        self.struck: list[str] = []
        """The calls that failed."""
        self._faults: dict[str, Fault] = {}

    def fail(
        self, call: str, error: int = errno.EIO, *, after: int = 0, part_bytes: int = 0, sticky: bool = False
    ) -> None:
        self._faults[call] = Fault(self.calls[call] + after + 1, error, part_bytes, sticky)

    def heal(self) -> None:
        """No more faults."""
        self._faults.clear()

    def _fault(self, call: str) -> Fault | None:
        """The fault that strikes this call, which is counted."""
        self.before(call)
        self.calls[call] += 1
        self.calls[ANY] += 1
        for kind in (call, ANY):
            fault = self._faults.get(kind)
            if fault is not None and fault.strikes(self.calls[kind]):
                self.struck.append(call)
                return fault
        return None

    def _check(self, call: str) -> None:
        fault = self._fault(call)
        if fault is not None:
            raise OSError(fault.error, os.strerror(fault.error))

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        self._check("open")
        return super().open(path, flags, mode)

    def read_at(self, fd: int, size_bytes: int, offset: int) -> bytes:
        self._check("read_at")
        return super().read_at(fd, size_bytes, offset)

    def read_into(self, fd: int, buffer: bytearray | memoryview, offset: int) -> int:
        self._check("read_into")
        return super().read_into(fd, buffer, offset)

    def size_bytes(self, fd: int) -> int:
        self._check("size_bytes")
        return super().size_bytes(fd)

    def write_at(self, fd: int, buffers: Buffers, offset: int) -> None:
        fault = self._fault("write_at")
        if fault is None:
            super().write_at(fd, buffers, offset)
            return
        super().write_at(fd, [b"".join(buffers)[: fault.part_bytes]], offset)
        raise OSError(fault.error, os.strerror(fault.error))

    def allocate(self, fd: int, size_bytes: int) -> None:
        self._check("allocate")
        super().allocate(fd, size_bytes)

    def copy_range(self, source: int, target: int, size_bytes: int, source_offset: int, target_offset: int) -> int:
        self._check("copy_range")
        return super().copy_range(source, target, size_bytes, source_offset, target_offset)

    def truncate(self, fd: int, size_bytes: int) -> None:
        self._check("truncate")
        super().truncate(fd, size_bytes)

    def sync_data(self, fd: int) -> None:
        self._check("sync_data")
        super().sync_data(fd)

    def sync_file(self, fd: int) -> None:
        self._check("sync_file")
        super().sync_file(fd)

    def sync_directory(self, path: Path) -> None:
        self._check("sync_directory")
        super().sync_directory(path)

    def make_directory(self, path: Path) -> None:
        self._check("make_directory")
        super().make_directory(path)

    def remove(self, path: Path) -> None:
        self._check("remove")
        super().remove(path)

    def rename(self, source: Path, target: Path) -> None:
        self._check("rename")
        super().rename(source, target)

    def free_bytes(self, path: Path) -> int:
        self._check("free_bytes")
        return super().free_bytes(path)


class FaultyDisk(FaultyFiles, SimulatedDisk):
    """Fails on request, and loses what was not synced; a sync that fails loses for good what it was to write."""

    def __init__(self, directory: Path) -> None:
        FaultyFiles.__init__(self)
        SimulatedDisk.__init__(self, directory)

    def sync_data(self, fd: int) -> None:
        with self._losing(fd):
            super().sync_data(fd)

    def sync_file(self, fd: int) -> None:
        with self._losing(fd):
            super().sync_file(fd)

    @contextmanager
    def _losing(self, fd: int) -> Iterator[None]:
        try:
            yield
        except OSError:
            self.lose_write_back(fd)
            raise


def new_volume(directory: Path, files: FileSystem | None = None) -> Volume:
    return Volume.create(files or FileSystem(), directory, SUPERBLOCK)


def reopen(volume: Volume, *, clean: bool, files: FileSystem | None = None) -> Volume:
    """Stop, cleanly or as by SIGKILL, and open anew."""
    volume.close(clean=clean)
    return Volume.open(files or FileSystem(), volume.path)


def put(volume: Volume, needle: int, data: Buffer, *, meta: bytes = META) -> Claim:
    """Append and make durable."""
    claim = write(volume, needle, data, meta=meta)
    settle(volume, claim)
    return claim


def write(volume: Volume, needle: int, data: Buffer, *, meta: bytes = META) -> Claim:
    """Append, not yet synced."""
    return volume.append(needle, meta, data, data_crc=zlib.crc32(data), appended_ms=1_700_000_000_001)


def delete(volume: Volume, needle: int, *, verdict: str = "") -> Claim:
    claim = volume.tombstone(needle, verdict=verdict, appended_ms=1_700_000_000_002)
    settle(volume, claim)
    return claim


def checkpoint(volume: Volume) -> None:
    job = volume.begin_checkpoint()
    volume.end_checkpoint(job, volume.write_checkpoint(job))


def settle(volume: Volume, *claims: Claim) -> None:
    volume.sync_log()
    volume.settle(list(claims))


def finish(volume: Volume, claim: Claim, data: bytes) -> None:
    """The body of a reservation came in whole and is durable."""
    volume.write_data(claim, data, 0)
    volume.finish(claim, data_crc=zlib.crc32(data))
    settle(volume, claim)


def data_of(volume: Volume, needle: int) -> bytes:
    return bytes(volume.read(needle) or b"")


def contents(volume: Volume) -> dict[int, bytes | None]:
    """All that the index knows: needle -> its data, None where it is dead."""
    return {needle: data_of(volume, needle) if length else None for needle, _, length in volume.index.items()}


def figures(volume: Volume) -> dict[str, int | str]:
    return volume.report()
