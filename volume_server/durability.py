"""Every call that reads or changes a file goes through here, so that a test can make the n-th one fail.

fsync has one place: `FileSystem.sync_data`, `sync_file` and `sync_directory`. Nobody else decides what durable means.
Two things stay outside: sendfile of a large body, which goes from file to socket within the kernel, and the processes
that work beside the server and have the kernel's files only.
"""

import contextlib
import functools
import hashlib
import os
import platform
import secrets
import uuid
from pathlib import Path

Buffers = list[bytes | bytearray | memoryview]


BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Of Linux; the same in all containers of a machine."""


@functools.cache
def machine() -> str:
    """Told apart from every other machine."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return f"{platform.node()} {uuid.getnode():x}"


class FileSystem:
    """The operating system's file operations, thinly. Short writes are completed, errors are the caller's."""

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, fd: int) -> None:
        os.close(fd)

    def read_at(self, fd: int, size_bytes: int, offset: int) -> bytes:
        """``size_bytes`` from ``offset`` on; fewer only where the file ends. Raises OSError."""
        raw = os.pread(fd, size_bytes, offset)
        if len(raw) == size_bytes:
            return raw
        pieces = [raw]
        while raw:
            size_bytes -= len(raw)
            offset += len(raw)
            raw = os.pread(fd, size_bytes, offset)
            pieces.append(raw)
        return b"".join(pieces)

    def read_into(self, fd: int, buffer: bytearray | memoryview, offset: int) -> int:
        """Fill ``buffer`` from ``offset`` on; returns the bytes read, less only where the file ends. Raises OSError."""
        view = memoryview(buffer)
        read = 0
        while read < len(view):
            got = os.preadv(fd, [view[read:]], offset + read)
            if not got:
                break
            read += got
        return read

    def read_file(self, path: Path) -> bytes:
        """The whole of a small file. Raises FileNotFoundError, OSError."""
        fd = self.open(path, os.O_RDONLY)
        try:
            return self.read_at(fd, self.size_bytes(fd), 0)
        finally:
            self.close(fd)

    def is_at(self, fd: int, path: Path) -> bool:
        """Whether an open file is the one that has this name. Raises OSError where that cannot be told."""
        try:
            there = path.stat()
        except FileNotFoundError:
            return False
        here = os.fstat(fd)
        return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)

    def size_bytes(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def write_at(self, fd: int, buffers: Buffers, offset: int) -> None:
        """Write all buffers one after the other from ``offset`` on. Raises OSError; part may then be written."""
        size_bytes = sum(map(len, buffers))
        written = os.pwritev(fd, buffers, offset)
        if written == size_bytes:
            return
        rest = memoryview(b"".join(buffers))[written:]
        while rest:
            written = os.pwrite(fd, rest, offset + size_bytes - len(rest))
            rest = rest[written:]

    def allocate(self, fd: int, size_bytes: int) -> None:
        """Have the space for the file's first ``size_bytes`` before anything is written. Raises OSError (ENOSPC)."""
        os.posix_fallocate(fd, 0, size_bytes)

    def copy_range(self, source: int, target: int, size_bytes: int, source_offset: int, target_offset: int) -> int:
        """Copy up to ``size_bytes`` within the kernel (copy_file_range(2)); how many were copied. Raises OSError."""
        return os.copy_file_range(source, target, size_bytes, source_offset, target_offset)

    def truncate(self, fd: int, size_bytes: int) -> None:
        os.ftruncate(fd, size_bytes)

    def start_writeback(self, fd: int, offset: int, size_bytes: int) -> None:
        """Have the device begin with these bytes, so that the sync to come finds little left. Waits for nothing.

        What Linux does first when pages are said not to be needed; pages that are still dirty stay in the cache.
        """
        os.posix_fadvise(fd, offset, size_bytes, os.POSIX_FADV_DONTNEED)

    def sync_data(self, fd: int) -> None:
        """The bytes written so far, and the length needed to read them, are on the device."""
        os.fdatasync(fd)

    def sync_file(self, fd: int) -> None:
        os.fsync(fd)

    def sync_directory(self, path: Path) -> None:
        """The names in a directory are on the device."""
        fd = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            self.close(fd)

    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700)

    def remove(self, path: Path) -> None:
        """Remove a file, or an empty directory. Raises FileNotFoundError, OSError."""
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()

    def rename(self, source: Path, target: Path) -> None:
        """Atomic, and durable once the directory is synced. What was at ``target`` is gone."""
        source.rename(target)

    def modified_s(self, path: Path) -> float:
        """When it was last written to, by this machine's clock. Raises FileNotFoundError, OSError."""
        return path.stat().st_mtime

    def free_bytes(self, path: Path) -> int:
        """What an unprivileged writer may still take of the file system."""
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize

    def total_bytes(self, path: Path) -> int:
        stat = os.statvfs(path)
        return stat.f_blocks * stat.f_frsize

    def disk_id(self, path: Path) -> str:
        """Of the file system that holds ``path``: no other one has it, on this machine or elsewhere.

        Good until the machine restarts.
        """
        return hashlib.sha256(f"{machine()} {path.stat().st_dev}".encode()).hexdigest()[:32]

    def replace_file(self, path: Path, content: bytes) -> None:
        """Put ``content`` at ``path``, mode 0600: after a crash the old file is there or the new one, whole."""
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        fd = self.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            try:
                self.write_at(fd, [content], 0)
                self.sync_file(fd)
            finally:
                self.close(fd)
            self.rename(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):  # it is the first failure that is told; the next start removes the rest
                self.remove(temporary)
            raise
        self.sync_directory(path.parent)
