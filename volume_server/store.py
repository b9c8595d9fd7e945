"""A data directory: its lock, the identity of the server, and all its volumes.

lock          held (flock) as long as a process owns the directory
server.json   id, secrets, store id and highest sequence seen; mode 0600
N.vol         a volume: the truth
N.state       its epoch and seal
N.idx         its index: derived, rebuilt when it is gone
"""

import contextlib
import fcntl
import json
import logging
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from volume_server.compaction import tidy
from volume_server.durability import FileSystem
from volume_server.errors import DataDirectoryBusy, DiskFull, VolumeUnknown, VolumeUnusable
from volume_server.joining import tidy_fetched
from volume_server.mending import MENDING_SUFFIX
from volume_server.superblock import Superblock
from volume_server.volume import DEFAULT_SIZE_LIMIT, Room, Volume

log = logging.getLogger(__name__)

RESERVE_SHARE = 100
MAX_RESERVE_BYTES = 1 << 30
RECHECK_BYTES = 64 << 20
RECHECK_S = 1.0


@dataclass(slots=True)
class Identity:
    """Who this server is, and whom it has believed so far. Written down before it is used."""

    server: str = field(default_factory=lambda: str(uuid.uuid4()))
    secrets: dict[str, str] = field(default_factory=dict)
    """Secret id (decimal) -> secret (64 hex); the current one and the one before it."""
    kid: int = 0
    store: str | None = None
    sequence: int = 0


class DiskRoom(Room):
    """Free space of the data directory's file system beside the reserve of min(1 %, 1 GiB).

    statvfs is asked again after 64 MiB or a second; between two answers what was promised is subtracted.
    """

    def __init__(self, files: FileSystem, directory: Path) -> None:
        self.files = files
        self.directory = directory
        self._left_bytes = 0
        self._until_s = 0.0

    def reserve_bytes(self) -> int:
        return min(self.files.total_bytes(self.directory) // RESERVE_SHARE, MAX_RESERVE_BYTES)

    def require(self, size_bytes: int) -> None:
        now_s = time.monotonic()
        if size_bytes > self._left_bytes or now_s > self._until_s:
            try:
                free_bytes = self.files.free_bytes(self.directory) - self.reserve_bytes()
            except OSError as error:
                raise DiskFull(f"the disk does not say how much room it has: {error}") from error
            if size_bytes > free_bytes:
                raise DiskFull(f"the disk has no room for {size_bytes} bytes beside its reserve")
            self._left_bytes = min(free_bytes, RECHECK_BYTES + size_bytes)
            self._until_s = now_s + RECHECK_S
        self._left_bytes -= size_bytes


class Store:
    """One process owns one data directory. Raises DataDirectoryBusy when another one does."""

    def __init__(self, directory: Path, files: FileSystem | None = None) -> None:
        self.files = files or FileSystem()
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_fd = self.files.open(directory / "lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.files.close(self._lock_fd)
            raise DataDirectoryBusy(
                f"{directory} is in use by another volume server; stop it, or give this one its own --data"
            ) from error
        self.room = DiskRoom(self.files, directory)
        self.size_limit = DEFAULT_SIZE_LIMIT
        self.volumes: dict[int, Volume] = {}
        self._identity_path = directory / "server.json"
        self._saved_identity = b""
        self.identity = self._load_identity()
        self._remove_leftovers()

    def open_volumes(self) -> None:
        """Open all; one that cannot be is reported and left as it is."""
        try:
            tidy_fetched(self.files, self.directory)
        except OSError as error:
            log.error("what fetching volumes left could not be tidied up: %s", error)
        for path in sorted(self.directory.glob("*.vol")):
            try:
                tidy(self.files, path)
            except OSError as error:  # the volume is good without
                log.error("what a compaction left of %s could not be tidied up: %s", path.name, error)
            try:
                volume = Volume.open(self.files, path, room=self.room)
            except (VolumeUnusable, OSError) as error:
                log.error("volume file %s is not usable and left alone: %s", path.name, error)
                continue
            self.volumes[volume.number] = volume

    def volume(self, number: int) -> Volume:
        """Raises VolumeUnknown."""
        try:
            return self.volumes[number]
        except KeyError:
            raise VolumeUnknown(f"volume {number} is not here") from None

    def create_volume(self, *, number: int, salt: bytes, created_ms: int, epoch: int) -> Volume:
        """In any thread: a new volume on disk, not yet in `volumes`. Raises FileExistsError, OSError."""
        superblock = Superblock(volume=number, revision=1, created_ms=created_ms, salt=salt)
        return Volume.create(self.files, self.directory, superblock, epoch=epoch, room=self.room)

    def adopt(self, volume: Volume) -> None:
        volume.size_limit = self.size_limit
        self.volumes[volume.number] = volume

    def set_size_limit(self, size_bytes: int) -> None:
        self.size_limit = size_bytes
        for volume in self.volumes.values():
            volume.size_limit = size_bytes

    def save_identity(self) -> None:
        """Write the identity down where it differs from what stands there. Raises OSError."""
        content = _encode_identity(self.identity)
        if content != self._saved_identity:
            self.files.replace_file(self._identity_path, content)
            self._saved_identity = content

    def free_bytes(self) -> int:
        """What may still be written: free space without the reserve."""
        return max(self.files.free_bytes(self.directory) - self.room.reserve_bytes(), 0)

    def capacity_bytes(self) -> int:
        return self.files.total_bytes(self.directory)

    def disk_id(self) -> str:
        """Which file system the store lies on: servers with the same one share its space."""
        return self.files.disk_id(self.directory)

    def reports(self) -> list[dict[str, int | str]]:
        return [volume.report() for volume in self.volumes.values()]

    def close(self, *, clean: bool = True) -> None:
        """Checkpoint (where ``clean``) and close every volume, then give the directory back."""
        for volume in self.volumes.values():
            volume.close(clean=clean)
        self.volumes.clear()
        self.files.close(self._lock_fd)

    def _load_identity(self) -> Identity:
        try:
            self._saved_identity = self.files.read_file(self._identity_path)
            found = json.loads(self._saved_identity)
        except FileNotFoundError:
            identity = Identity()
            self._saved_identity = _encode_identity(identity)
            self.files.replace_file(self._identity_path, self._saved_identity)
            return identity
        except ValueError as error:
            raise VolumeUnusable(f"{self._identity_path} is not JSON: {error}") from error
        known = {name: found[name] for name in Identity.__dataclass_fields__ if name in found}
        return Identity(**known)

    def _remove_leftovers(self) -> None:
        for path in self._leftovers():
            log.info("removing %s, left by a stop half-way", path.name)
            with contextlib.suppress(FileNotFoundError):
                self.files.remove(path)

    def _leftovers(self) -> Iterator[Path]:
        """Temporary files of `FileSystem.replace_file` whose rename never came, and scratch files of mending."""
        yield from self.directory.glob(".*.vol.*")
        yield from self.directory.glob(".*.state.*")
        yield from self.directory.glob(".server.json.*")
        yield from self.directory.glob(f"*{MENDING_SUFFIX}")


def _encode_identity(identity: Identity) -> bytes:
    return json.dumps(asdict(identity), indent=1).encode()
