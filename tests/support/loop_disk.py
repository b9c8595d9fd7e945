"""A real ext4 on a loop device, whose power can be cut.

What SIGKILL cannot show: the page cache outlives a process, but not the machine. `LoopDisk.cut` shuts the file system
down without flushing anything, not even its journal (EXT4_IOC_SHUTDOWN), as a machine that loses power does: what no
fsync had brought to the device is gone at the next mount. The journal commits only every five minutes by itself, so
that nothing becomes durable by chance.

Needs root, mkfs.ext4 and loop devices; see `require_loop_disks`.
"""

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
"""EXT4_GOING_FLAGS_NOLOGFLUSH: what the journal has in memory is lost, too."""
_OPTIONS = "loop,commit=300,noatime"


class LoopDiskFailed(Exception):
    """The machine did not let a file system be made, mounted or unmounted."""


class LoopDisk:
    """One file system: its image, and where it is mounted. Made by `loop_disk`."""

    def __init__(self, image: Path, mount: Path) -> None:
        self.image = image
        self.mount = mount

    def cut(self) -> None:
        """The power goes: from now on every write and fsync fails, and nothing more reaches the image.

        Reads of what is in the page cache may still work. End the processes, then `power_on`.

        One thing is not as in life: the machine goes on, and an fsync that is under way in this moment may come back
        as if it had succeeded, since ext4 keeps quiet about failures of a file system that was shut down. What a
        program says after this was called is therefore said by nobody: see to it that it does not count.
        """
        fd = os.open(self.mount, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def power_on(self) -> None:
        """Mount anew what a cut left: the journal is replayed. No process may have a file open here any more."""
        _run("umount", str(self.mount))
        _run("mount", "-t", "ext4", "-o", _OPTIONS, str(self.image), str(self.mount))

    def copy_image(self, target: Path) -> None:
        """What the device holds right now, of a file system in use: the image after a power cut at this moment."""
        _run("cp", "--sparse=always", "--reflink=auto", str(self.image), str(target))


@contextmanager
def loop_disk(size_bytes: int, *, image: Path | None = None) -> Iterator[LoopDisk]:
    """A mounted file system of that size, or the one in ``image`` (of `copy_image`); gone at the end, come what may.

    Raises LoopDiskFailed.
    """
    place = Path(tempfile.mkdtemp(prefix="warehouse-loop-"))
    disk = LoopDisk(image or place / "image", place / "disk")
    try:
        disk.mount.mkdir()
        if image is None:
            with disk.image.open("xb") as file:
                os.posix_fallocate(file.fileno(), 0, size_bytes)
            _run("mkfs.ext4", "-q", "-m", "0", str(disk.image))
        _run("mount", "-t", "ext4", "-o", _OPTIONS, str(disk.image), str(disk.mount))
        try:
            yield disk
        finally:
            _unmount(disk.mount)
    finally:
        shutil.rmtree(place)


@cache
def why_no_loop_disks() -> str | None:
    """What stands in the way of a loop mount on this machine; None: nothing does."""
    if os.geteuid() != 0:
        return "only root may mount a loop device"
    for program in ("mkfs.ext4", "mount", "umount"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    try:
        with loop_disk(8 << 20) as disk:
            (disk.mount / "kept").write_bytes(b"")
            disk.cut()
            disk.power_on()
            return "a power cut lost nothing" if (disk.mount / "kept").exists() else None
    except (LoopDiskFailed, OSError) as error:
        return str(error)


def require_loop_disks() -> None:
    """Skips the test, loudly, where the machine allows no loop mounts."""
    reason = why_no_loop_disks()
    if reason is not None:
        pytest.skip(f"NOT TESTED, no loop-mounted ext4 here: {reason}")


def _unmount(mount: Path) -> None:
    with suppress(LoopDiskFailed):
        _run("umount", str(mount))
        return
    # a process that a failed test left still has a file open: the name goes now, the rest when that ends
    _run("umount", "--lazy", str(mount))


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        told = str(getattr(error, "stderr", None) or error).strip()
        raise LoopDiskFailed(f"{' '.join(command)}: {told}") from error
