"""A disk that loses what was not synced, for the volume server's file operations.

The files are real ones in a real directory, so that reads, sendfile and other processes see what a running system
would see. Beside them the disk remembers what it need not have kept: every version of each 512-byte sector, of each
file's length and of each name since the last sync that covers it. `SimulatedDisk.crash_image` puts together, in
another directory, one of the states that a power cut may leave.

What a sync covers is what POSIX promises and no more: fdatasync and fsync of a file keep its bytes and its length,
not its name; only the directory's fsync keeps names, removals included.
"""

import os
import random
import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from volume_server.durability import Buffers, FileSystem

T = TypeVar("T")
SECTOR_BYTES = 512
"""What a disk writes whole or not at all."""
NOTHING, EVERYTHING, A_MOMENT, ANYTHING = range(4)

Versions = list[tuple[int, T]]
"""What stood there after which operation, oldest first. The first one is durable, each later one may be."""


@dataclass(eq=False)
class Inode:
    """A file, whatever its name."""

    fd: int
    """The disk's own, for reading: of the file's locks and positions it has no part."""
    sizes: Versions[int]
    sectors: dict[int, Versions[bytes]] = field(default_factory=dict)
    """By number: only those that were written since the last sync. All others are durable as they are."""
    doubtful: set[int] = field(default_factory=set)
    """Written back in vain: a later sync does not make them durable."""


class Directory:
    """A name that is no file's."""


DIRECTORY = Directory()
Node = Inode | Directory


class SimulatedDisk(FileSystem):
    """Everything below one directory; what is there already counts as durable.

    Use it in the place of `FileSystem`; end it with `release`. Changes that other processes make, or that bypass this
    object, count as durable at once.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self._lock = threading.RLock()
        self._operations = 0
        self._inodes: dict[int, Inode] = {}
        self._open: dict[int, Inode] = {}
        self._names: dict[Path, Versions[Node | None]] = {}
        """Only those that changed since their directory's last sync."""

    # -- the crash -------------------------------------------------------------------------------------------------

    def crash_image(self, target: Path, choose: Callable[[int], int]) -> None:
        """Write a state that a power cut now may leave into ``target``, an empty directory.

        ``choose(n)`` gives a number in [0, n), such as `random.Random(seed).randrange`. The least choices lose
        everything that was not synced. Others keep all of it, all up to one moment, or any version of each sector,
        length and name by itself: writes that overtook each other, were torn or came half.
        """
        with self._lock:
            self._image(self.directory, target, self._how(choose))

    @property
    def unsynced(self) -> bool:
        """Whether a power cut now could lose anything."""
        with self._lock:
            return bool(self._names) or any(inode.sectors or len(inode.sizes) > 1 for inode in self._inodes.values())

    def lose_write_back(self, fd: int) -> None:
        """What Linux does when a write-back fails: the pages count as clean.

        They are still read as they were written, but no later sync writes them, though it succeeds.
        """
        with self._lock:
            inode = self._open[fd]
            inode.doubtful = set(inode.sectors)

    def release(self) -> None:
        """Close what the disk holds open. The directory is its maker's."""
        for inode in self._inodes.values():
            os.close(inode.fd)
        self._inodes.clear()

    def _image(self, directory: Path, target: Path, pick: "Pick") -> None:
        names = {path for path in self._names if path.parent == directory}
        names.update(directory.iterdir() if directory.is_dir() else ())
        for path in sorted(names):
            node = pick(self._names[path]) if path in self._names else self._node_at(path)
            if isinstance(node, Inode):
                _write_image(node, target / path.name, pick)
            elif node is not None:
                (target / path.name).mkdir(mode=0o700)
                self._image(path, target / path.name, pick)

    def _how(self, choose: Callable[[int], int]) -> "Pick":
        how = choose(4)
        if how == NOTHING:
            return _AtMoment(0)
        if how == EVERYTHING:
            return _AtMoment(self._operations)
        if how == A_MOMENT:
            moments = sorted({operation for versions in self._all_versions() for operation, _ in versions} | {0})
            return _AtMoment(moments[choose(len(moments))])
        return _Anything(random.Random(choose(1 << 32)))

    def _all_versions(self) -> Iterator[Versions[object]]:
        yield from self._names.values()  # type: ignore[misc]
        for inode in self._inodes.values():
            yield inode.sizes  # type: ignore[misc]
            yield from inode.sectors.values()  # type: ignore[misc]

    # -- file operations -------------------------------------------------------------------------------------------

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        with self._lock:
            is_new = flags & os.O_CREAT and not path.exists()
            fd = super().open(path, flags, mode)
            if not flags & os.O_DIRECTORY:
                if flags & os.O_TRUNC:
                    raise AssertionError("O_TRUNC is not simulated: open, then truncate")
                self._open[fd] = inode = self._know(path)
                if is_new:
                    self._changed_name(path, None, inode)
            return fd

    def close(self, fd: int) -> None:
        with self._lock:
            self._open.pop(fd, None)
            super().close(fd)

    def write_at(self, fd: int, buffers: Buffers, offset: int) -> None:
        with self._changing(fd, offset, offset + sum(map(len, buffers))):
            super().write_at(fd, buffers, offset)

    def copy_range(self, source: int, target: int, size_bytes: int, source_offset: int, target_offset: int) -> int:
        with self._changing(target, target_offset, target_offset + size_bytes):
            return super().copy_range(source, target, size_bytes, source_offset, target_offset)

    def allocate(self, fd: int, size_bytes: int) -> None:
        with self._changing(fd, 0, 0):
            super().allocate(fd, size_bytes)

    def truncate(self, fd: int, size_bytes: int) -> None:
        with self._changing(fd, size_bytes, os.fstat(fd).st_size):
            super().truncate(fd, size_bytes)

    def sync_data(self, fd: int) -> None:
        with self._lock:
            inode = self._open[fd]
            inode.sizes = [(0, inode.sizes[-1][1])]
            inode.sectors = {number: inode.sectors[number] for number in inode.doubtful}

    def sync_file(self, fd: int) -> None:
        SimulatedDisk.sync_data(self, fd)

    def sync_directory(self, path: Path) -> None:
        with self._lock:
            assert path.is_dir(), path
            removed = {name for name in self._names if name.parent == path and not name.exists()}
            self._names = {
                name: versions
                for name, versions in self._names.items()
                if name.parent != path and name.parent not in removed
            }
            self._forget_what_is_gone()

    def make_directory(self, path: Path) -> None:
        with self._lock:
            super().make_directory(path)
            self._changed_name(path, None, DIRECTORY)

    def rename(self, source: Path, target: Path) -> None:
        with self._lock:
            inode, replaced = self._know(source), self._node_at(target)
            super().rename(source, target)
            self._changed_name(target, replaced, inode)
            self._changed_name(source, inode, None, at_once_with_the_last=True)

    def remove(self, path: Path) -> None:
        with self._lock:
            node = self._node_at(path)
            super().remove(path)
            self._changed_name(path, node, None)

    # -- what is remembered ----------------------------------------------------------------------------------------

    def _know(self, path: Path) -> Inode:
        """The file at ``path``, durable as it is when it was not known before."""
        assert path.is_relative_to(self.directory), path
        number = path.stat().st_ino
        if number not in self._inodes:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._inodes[number] = Inode(fd, [(0, os.fstat(fd).st_size)])
        return self._inodes[number]

    def _node_at(self, path: Path) -> Node | None:
        if path.is_dir():
            return DIRECTORY
        return self._know(path) if path.exists() else None

    def _changed_name(
        self, path: Path, before: Node | None, after: Node | None, *, at_once_with_the_last: bool = False
    ) -> None:
        self._operations += not at_once_with_the_last
        self._names.setdefault(path, [(0, before)]).append((self._operations, after))

    def _forget_what_is_gone(self) -> None:
        """Files that have no name any more, not even after a crash, and that nobody has open."""
        kept = {node for versions in self._names.values() for _, node in versions} | set(self._open.values())
        named = {path.stat().st_ino for path in self.directory.rglob("*")}
        for number, inode in list(self._inodes.items()):
            if number not in named and inode not in kept:
                os.close(self._inodes.pop(number).fd)

    @contextmanager
    def _changing(self, fd: int, start: int, end: int) -> Iterator[None]:
        """The bytes in [start, end) and the length are about to change; remember both states, also on failure."""
        with self._lock:
            inode = self._open[fd]
            numbers = range(start // SECTOR_BYTES, -(-end // SECTOR_BYTES))
            for number, raw in zip(numbers, self._read_sectors(inode, numbers), strict=True):
                inode.sectors.setdefault(number, [(0, raw)])
            try:
                yield
            finally:
                self._operations += 1
                for number, raw in zip(numbers, self._read_sectors(inode, numbers), strict=True):
                    inode.sectors[number].append((self._operations, raw))
                inode.doubtful.difference_update(numbers)
                if (size_bytes := os.fstat(fd).st_size) != inode.sizes[-1][1]:
                    inode.sizes.append((self._operations, size_bytes))

    def _read_sectors(self, inode: Inode, numbers: range) -> Iterator[bytes]:
        """Each one whole, with zeros behind the file's end."""
        raw = os.pread(inode.fd, len(numbers) * SECTOR_BYTES, numbers.start * SECTOR_BYTES)
        raw = raw.ljust(len(numbers) * SECTOR_BYTES, b"\0")
        return (raw[at : at + SECTOR_BYTES] for at in range(0, len(raw), SECTOR_BYTES))


class Pick(ABC):
    """Which of its versions a thing has after the crash."""

    @abstractmethod
    def __call__(self, versions: Versions[T]) -> T: ...

    def size(self, sizes: Versions[int]) -> int:
        return self(sizes)


class _AtMoment(Pick):
    """All was written back up to one operation, and nothing after it."""

    def __init__(self, operation: int) -> None:
        self.operation = operation

    def __call__(self, versions: Versions[T]) -> T:
        return [value for operation, value in versions if operation <= self.operation][-1]


class _Anything(Pick):
    """Each thing by itself, with one inclination for all towards the newest."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.newest = rng.random()

    def __call__(self, versions: Versions[T]) -> T:
        return (versions[-1] if self.rng.random() < self.newest else self.rng.choice(versions))[1]

    def size(self, sizes: Versions[int]) -> int:
        """A file that was growing may also have grown half-way, by whole sectors."""
        at = sizes.index(self.rng.choice(sizes)) if self.rng.random() >= self.newest else len(sizes) - 1
        size_bytes = sizes[at][1]
        before = sizes[at - 1][1] if at else size_bytes
        if before < size_bytes and self.rng.random() < 0.5:
            size_bytes = min(size_bytes, self.rng.randint(before, size_bytes) // SECTOR_BYTES * SECTOR_BYTES)
            size_bytes = max(size_bytes, before)
        return size_bytes


def _write_image(inode: Inode, path: Path, pick: Pick) -> None:
    with path.open("xb") as image:
        os.fchmod(image.fileno(), os.fstat(inode.fd).st_mode & 0o777)
        with open(inode.fd, "rb", closefd=False) as source:
            source.seek(0)
            shutil.copyfileobj(source, image)
        image.flush()
        size_bytes = pick.size(inode.sizes)
        for number, versions in sorted(inode.sectors.items()):
            if number * SECTOR_BYTES < size_bytes:
                os.pwrite(image.fileno(), pick(versions), number * SECTOR_BYTES)
        os.ftruncate(image.fileno(), size_bytes)
