"""Every call that changes a file goes through here, so that a test can make the n-th one fail.

fsync has one place: `FileSystem.sync_data`, `sync_file` and `sync_directory`. Nobody else decides what durable means.
"""

import contextlib
import os
import tempfile
from pathlib import Path


class FileSystem:
    """The operating system's file operations, thinly. Short writes are completed, errors are the caller's."""

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, fd: int) -> None:
        os.close(fd)

    def write_at(self, fd: int, buffers: list[bytes | bytearray | memoryview], offset: int) -> None:
        """Write all buffers one after the other from ``offset`` on. Raises OSError; part may then be written."""
        size_bytes = sum(map(len, buffers))
        written = os.pwritev(fd, buffers, offset)
        if written == size_bytes:
            return
        rest = memoryview(b"".join(buffers))[written:]
        while rest:
            written = os.pwrite(fd, rest, offset + size_bytes - len(rest))
            rest = rest[written:]

    def truncate(self, fd: int, size_bytes: int) -> None:
        os.ftruncate(fd, size_bytes)

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

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def free_bytes(self, path: Path) -> int:
        """What an unprivileged writer may still take of the file system."""
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize

    def total_bytes(self, path: Path) -> int:
        stat = os.statvfs(path)
        return stat.f_blocks * stat.f_frsize

    def replace_file(self, path: Path, content: bytes) -> None:
        """Put ``content`` at ``path``, mode 0600: after a crash the old file is there or the new one, whole."""
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            try:
                self.write_at(fd, [content], 0)
                self.sync_file(fd)
            finally:
                self.close(fd)
            self.rename(Path(temporary), path)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                Path(temporary).unlink()
            raise
        self.sync_directory(path.parent)
