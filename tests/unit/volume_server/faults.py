"""Files that fail on request, and small volumes to try it on."""

import errno
import os
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from volume_server import meta as metas
from volume_server.durability import FileSystem
from volume_server.superblock import Superblock
from volume_server.volume import Buffer, Claim, Volume

SALT = bytes(range(16))
SUPERBLOCK = Superblock(volume=7, revision=1, created_ms=1_700_000_000_000, salt=SALT)
NEEDLE = 1 << 16
META = metas.encode(metas.Meta(intent=b"an intent", key="a key"))


class FaultyFiles(FileSystem):
    """The operating system's files, of which the n-th call of a kind fails.

    `fail("write_at", errno.ENOSPC)` makes the next such call fail, ``after`` lets some pass first. A write that fails
    leaves ``part_bytes`` of what it was given, as a full disk does.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.before: Callable[[str], None] = lambda _: None
        self._failures: dict[str, tuple[int, int, int]] = {}

    def fail(self, call: str, error: int = errno.EIO, *, after: int = 0, part_bytes: int = 0) -> None:
        self._failures[call] = (self.calls[call] + after + 1, error, part_bytes)

    def _count(self, call: str) -> int | None:
        """How much of the call may be done before it fails; None: all of it."""
        self.before(call)
        self.calls[call] += 1
        nth, error, part_bytes = self._failures.get(call, (0, 0, 0))
        self._error = error
        return part_bytes if self.calls[call] == nth else None

    def _check(self, call: str) -> None:
        if self._count(call) is not None:
            raise OSError(self._error, os.strerror(self._error))

    def write_at(self, fd: int, buffers: list[bytes | bytearray | memoryview], offset: int) -> None:
        part_bytes = self._count("write_at")
        if part_bytes is None:
            super().write_at(fd, buffers, offset)
            return
        super().write_at(fd, [b"".join(buffers)[:part_bytes]], offset)
        raise OSError(self._error, os.strerror(self._error))

    def truncate(self, fd: int, size_bytes: int) -> None:
        self._check("truncate")
        super().truncate(fd, size_bytes)

    def sync_data(self, fd: int) -> None:
        self._check("sync_data")
        super().sync_data(fd)

    def sync_file(self, fd: int) -> None:
        self._check("sync_file")
        super().sync_file(fd)

    def rename(self, source: Path, target: Path) -> None:
        self._check("rename")
        super().rename(source, target)


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
