"""What a peer does to the copy that it holds for another server, the primary: files and values, no event loop.

The file at which the primary's bytes arrive is the volume's own where it is of the same revision (`OwnFile`), else a
new one beside it (`NewFile`) that takes its place at the end, as a compaction's does.

    same revision    N.vol: blocks that differ are saved to N.aside-EPOCH, then replaced; what is too much is cut off
    else, or none    N.fetching/N.vol, whole ── finish: rename ──> N.vol

A crash in between leaves a volume that opens, with what it had and part of what it was sent; it is degraded then, and
is compared again by the next opening. An index file never names what is about to be replaced: it is removed before.
"""

import contextlib
import logging
import os
import struct
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from volume_server.compaction import install
from volume_server.durability import FileSystem
from volume_server.errors import StoreError, VolumeSealed
from volume_server.opening import blocks_between, digest_of
from volume_server.superblock import RECORDS_START, Superblock, SuperblockInvalid, decode_head, encode_head
from volume_server.volume import Volume

log = logging.getLogger(__name__)

FETCHING_SUFFIX = ".fetching"
ASIDE_INFIX = ".aside-"
ASIDE_HEAD = struct.Struct("<QQ")
"""Offset and length of bytes that follow: what lay there before it was replaced."""
FETCHED_KEPT_S = 24 * 3600.0
"""A fetching that broke off, and that nobody went on with for so long, is given up."""
ASIDE_KEPT_S = 7 * 24 * 3600.0
"""What was saved aside is kept for so long at the least."""


class CopyFailed(StoreError):
    """The copy is not what was sent; it is made again by the next opening."""

    status, code = 500, "copy_failed"


class Target(Protocol):
    """The file that is to become equal to the primary's. All in a thread; all may raise OSError."""

    size_bytes: int

    def digests(self, start: int, end: int) -> list[str]:
        """Of the blocks in an extent."""

    def read(self, start: int, end: int) -> bytes:
        """Fewer where the file ends."""

    def replace(self, offset: int, data: memoryview) -> None: ...

    def finish(self, size_bytes: int) -> Volume | None:
        """Cut off what is too much and sync; a volume that was opened on the file, None where nothing changed.

        Raises StoreError where the copy cannot be used.
        """

    def give_up(self) -> None:
        """No more is sent."""


class OwnFile:
    """The volume's own file.

    ``keeps_history``: what comes into it is what was there once, so that what is known of its epochs goes on being so.
    """

    def __init__(self, volume: Volume, epoch: int, *, keeps_history: bool = False) -> None:
        self.volume = volume
        self.files = volume.files
        self._epoch = epoch
        self._keeps_history = keeps_history
        self.size_bytes = self.files.size_bytes(volume.fd)
        self._aside_path = volume.path.with_name(f"{volume.path.stem}{ASIDE_INFIX}{epoch}")
        self._lock = threading.Lock()
        self._changed = volume.is_being_replaced or volume.is_behind or self.size_bytes != volume.tail

    def digests(self, start: int, end: int) -> list[str]:
        return _digests(self.files, self.volume.fd, start, end)

    def read(self, start: int, end: int) -> bytes:
        return self.files.read_at(self.volume.fd, end - start, start)

    def replace(self, offset: int, data: memoryview) -> None:
        with self._lock:  # several blocks come at a time
            self._save_aside(offset, min(offset + len(data), self.size_bytes))
            self._before_change(offset)
            self.files.write_at(self.volume.fd, [data], offset)
            self.size_bytes = max(self.size_bytes, offset + len(data))
        self.files.start_writeback(self.volume.fd, offset, len(data))

    def finish(self, size_bytes: int) -> Volume | None:
        volume = self.volume
        if self.size_bytes > size_bytes:
            for start, end in blocks_between(size_bytes, self.size_bytes):
                self._save_aside(start, end)
            self._before_change(size_bytes)
            self.files.truncate(volume.fd, size_bytes)
            self.size_bytes = size_bytes
        try:
            volume.sync_log()
        except OSError as error:
            volume.seal_unsynced()
            raise VolumeSealed(f"volume {volume.number} is sealed: {volume.sealed}") from error
        if not self._changed:
            return None
        return opened_anew(volume, size_bytes)

    def give_up(self) -> None:
        pass

    def _before_change(self, offset: int) -> None:
        """Nothing may say of this file what will not be so any more."""
        replica = self.volume.replica
        is_known = replica is not None and any(start > offset for _, start in replica.history)
        if replica is not None and is_known and not self._keeps_history:
            kept = tuple(pair for pair in replica.history if pair[1] <= offset)
            self.volume.save_replica(self._epoch, replace(replica, history=kept))
        if offset < self.volume.checkpointed_to:
            with contextlib.suppress(FileNotFoundError):
                self.files.remove(self.volume.path.with_suffix(".idx"))
            self.files.sync_directory(self.volume.path.parent)
            self.volume.checkpointed_to = RECORDS_START
        self._changed = self.volume.is_being_replaced = True

    def _save_aside(self, start: int, end: int) -> None:
        """What is about to go, durable before it does."""
        if end <= start:
            return
        data = self.files.read_at(self.volume.fd, end - start, start)
        created = not self._aside_path.exists()
        fd = self.files.open(self._aside_path, os.O_RDWR | os.O_CREAT)
        try:
            self.files.write_at(fd, [ASIDE_HEAD.pack(start, len(data)), data], self.files.size_bytes(fd))
            self.files.sync_file(fd)
        finally:
            self.files.close(fd)
        if created:
            self.files.sync_directory(self._aside_path.parent)


class NewFile:
    """A file that is fetched whole, to take the place of the volume's, or to be the first of it here.

    What an earlier try has brought of the same file stays. Raises OSError.
    """

    def __init__(self, files: FileSystem, path: Path, superblock: Superblock) -> None:
        self.files = files
        self.final_path = path
        self.directory = fetching_directory(path)
        self.path = self.directory / path.name
        self._lock = threading.Lock()
        if not self.directory.is_dir():
            files.make_directory(self.directory)
        self.fd = files.open(self.path, os.O_RDWR | os.O_CREAT)
        try:
            if _superblock_of(files, self.fd) != superblock:
                files.truncate(self.fd, 0)
                files.write_at(self.fd, [encode_head(superblock)], 0)
            self.size_bytes = files.size_bytes(self.fd)
        except BaseException:
            files.close(self.fd)
            raise

    def digests(self, start: int, end: int) -> list[str]:
        return _digests(self.files, self.fd, start, end)

    def read(self, start: int, end: int) -> bytes:
        return self.files.read_at(self.fd, end - start, start)

    def replace(self, offset: int, data: memoryview) -> None:
        with self._lock:
            self.files.write_at(self.fd, [data], offset)
            self.size_bytes = max(self.size_bytes, offset + len(data))
        self.files.start_writeback(self.fd, offset, len(data))

    def finish(self, size_bytes: int) -> Volume:
        with contextlib.suppress(FileNotFoundError):  # of an earlier try that came as far as this
            self.files.remove(self.path.with_suffix(".idx"))
        try:
            if self.size_bytes > size_bytes:
                self.files.truncate(self.fd, size_bytes)
            self.files.sync_file(self.fd)
        except OSError:
            discard_fetched(self.files, self.final_path)  # a later sync would say nothing of what this one lost
            raise
        twin = Volume.open(self.files, self.path)
        if twin.sealed is not None or twin.tail != size_bytes:
            twin.close(clean=False)
            raise CopyFailed(f"the copy's log ends at {twin.tail}, not at {size_bytes}, or could not be synced")
        try:
            job = twin.begin_checkpoint()
            twin.end_checkpoint(job, twin.write_checkpoint(job))
        except BaseException:
            twin.close(clean=False)
            raise
        return twin

    def install(self) -> bool:
        """Put the file in the volume's place. False: it happened, but may not outlive a power cut. Raises OSError."""
        return install(self.files, self.final_path, self.directory)

    def give_up(self) -> None:
        self.files.close(self.fd)


def fetching_directory(path: Path) -> Path:
    return path.with_name(f"{path.stem}{FETCHING_SUFFIX}")


def discard_fetched(files: FileSystem, path: Path) -> None:
    """Remove what was fetched for the volume at ``path`` and is not in its place. Raises OSError."""
    directory = fetching_directory(path)
    if directory.is_dir():
        for found in directory.iterdir():
            files.remove(found)
        files.remove(directory)


def is_given_up(files: FileSystem, path: Path) -> bool:
    """Whether nobody has gone on for long with what was fetched for the volume at ``path``. Raises OSError."""
    found = fetching_directory(path) / path.name
    try:
        modified_s = files.modified_s(found if found.exists() else found.parent)
    except FileNotFoundError:
        return False
    return modified_s < time.time() - FETCHED_KEPT_S


def fetched_paths(directory: Path) -> list[Path]:
    """Of all volumes of which there is a file that was fetched and is not in its place: where that is."""
    return [found.with_suffix(".vol") for found in directory.glob(f"*{FETCHING_SUFFIX}")]


def tidy_fetched(files: FileSystem, directory: Path) -> None:
    """At the start: of fetched files whose volume file is in its place already, the rest goes; what is given up, too.

    Raises OSError.
    """
    for path in fetched_paths(directory):
        if not (fetching_directory(path) / path.name).exists() or is_given_up(files, path):
            discard_fetched(files, path)


def discard_asides(files: FileSystem, path: Path, *, whole_epoch: int, scrubbed_from_s: float) -> None:
    """Remove what was saved aside of the volume at ``path`` by openings up to an epoch in which it became whole.

    ``scrubbed_from_s``: when the pass began that has just found all of it sound. So what was saved aside before is no
    record that the log lacks, or has only damaged. Raises OSError.
    """
    for found in sorted(path.parent.glob(f"{path.stem}{ASIDE_INFIX}*")):
        epoch = found.name.rpartition("-")[2]
        if epoch.isdecimal() and int(epoch) <= whole_epoch and files.modified_s(found) < scrubbed_from_s - ASIDE_KEPT_S:
            log.info("%s is removed: the volume has been whole and sound since", found.name)
            files.remove(found)


def remove_volume(files: FileSystem, path: Path) -> None:
    """Remove a volume's files, the log before all that is of no use without it. Raises OSError.

    But first the index: left over, it would be taken for that of the file that is fetched next.
    """
    for found in (path.with_suffix(".idx"), path):
        with contextlib.suppress(FileNotFoundError):
            files.remove(found)
    files.sync_directory(path.parent)
    discard_fetched(files, path)
    for found in (
        path.with_suffix(".state"),
        *path.parent.glob(f"{path.stem}{ASIDE_INFIX}*"),
    ):
        with contextlib.suppress(FileNotFoundError):
            files.remove(found)
    files.sync_directory(path.parent)


def opened_anew(volume: Volume, size_bytes: int | None = None) -> Volume:
    """A twin that knows what lies in the volume's file, for `Volume.take_over`. ``size_bytes``: where its log must end.

    In a thread. Raises CopyFailed, VolumeSealed, VolumeUnusable, OSError.
    """
    twin = Volume.open(volume.files, volume.path)
    if twin.sealed is None and size_bytes in (None, twin.tail):
        return twin
    twin.close(clean=False)
    if twin.sealed is None:
        raise CopyFailed(f"the copy's log ends at {twin.tail}, not at {size_bytes}")
    volume.sealed, volume.unsynced = twin.sealed, twin.unsynced  # it is written down already
    raise VolumeSealed(f"volume {volume.number} is sealed: {volume.sealed}")


def _superblock_of(files: FileSystem, fd: int) -> Superblock | None:
    try:
        return decode_head(files.read_at(fd, RECORDS_START, 0))
    except SuperblockInvalid:
        return None


def _digests(files: FileSystem, fd: int, start: int, end: int) -> list[str]:
    return [digest_of(files.read_at(fd, stop - at, at)) for at, stop in blocks_between(start, end)]
