"""What a rebuild of the master's database wants of data directories whose servers are stopped. Reads, and never writes.

The master imports this module and no other one that touches files.
"""

import contextlib
import fcntl
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from volume_server import intent as intents
from volume_server import meta as metas
from volume_server import record
from volume_server.checkpoint import Figures
from volume_server.errors import VolumeUnusable
from volume_server.index import LENGTH_MASK, Index
from volume_server.inspection import Inspection, NotAVolume, Tally
from volume_server.recovery import SYSTEM
from volume_server.superblock import Superblock
from volume_server.volume import read_state

__all__ = [
    "Contents",
    "Copy",
    "DataDirectory",
    "DirectoryBusy",
    "Found",
    "copies_in",
    "find_directories",
    "held",
    "read_contents",
]

_BUCKET_AT = 12 + 26
"""Where in a needle's meta the intent has its bucket id (`volume_server.meta`, `volume_server.intent`)."""
_BUCKET_BYTES = 8


class DirectoryBusy(Exception):
    """A volume server is running on this data directory."""


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """A volume server's data directory, and what ``server.json`` says. ``server`` None: it cannot be read."""

    path: Path
    server: str | None = None
    kid: int = 0
    store: str | None = None
    sequence: int = 0
    """The highest commit that the server has seen."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy of a volume."""

    path: Path
    directory: DataDirectory
    superblock: Superblock
    epoch: int
    """The last one in which it was whole."""
    fence: int
    """The highest one that it was told of: nothing of a lower one is taken."""
    size_bytes: int
    is_primary: bool = True
    """Its log is the truth among copies of one epoch and revision."""

    @property
    def rank(self) -> tuple[int, int, bool, int]:
        """The highest one counts."""
        return self.epoch, self.superblock.revision, self.is_primary, self.size_bytes


class Found(NamedTuple):
    """A live needle as it was read, sound. ``crc32`` is that of the data alone."""

    needle: int
    size_bytes: int
    crc32: int
    appended_ms: int
    meta: metas.Meta
    intent: intents.Intent


@dataclass(slots=True)
class Contents:
    """What one copy holds. Use as a context manager."""

    copy: Copy
    fd: int
    tagger: record.Tagger
    index: Index = field(default_factory=Index)
    system: list[int] = field(default_factory=list)
    """Live needles of the master's own, which are in no bucket."""
    damaged: set[int] = field(default_factory=set)
    """Needles whose record is there and not as it was written."""
    damaged_count: int = 0
    """Damaged places in all, those that tell no needle included."""
    highest_needle: int = 0

    def __enter__(self) -> "Contents":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.fd)

    def is_live(self, needle: int) -> bool | None:
        """None: nothing is known of it here."""
        known = self.index.get(needle)
        return None if known is None else bool(known[1])

    def live_needles(self) -> Iterator[int]:
        for segment in self.index.segments():
            view = segment.view
            for slot in range(0, len(view), 2):
                if view[slot] and view[slot + 1] & LENGTH_MASK:
                    yield view[slot]

    def appended_ms(self, needle: int) -> int | None:
        """When a live needle was written, by the master's clock; None where it is not live. Raises OSError."""
        known = self.index.get(needle)
        if known is None or not known[1]:
            return None
        header = record.decode_header(self.tagger, os.pread(self.fd, record.HEADER_BYTES, known[0]))
        return None if header is None else header.appended_ms

    def read(self, needle: int) -> tuple[record.Header, bytes, bytes] | None:
        """Header, meta and data of a live needle; None where it is not sound or not live. Raises OSError."""
        known = self.index.get(needle)
        if known is None or not known[1]:
            return None
        offset, length = known
        raw = os.pread(self.fd, length, offset)
        header = record.decode_header(self.tagger, raw)
        if header is None or len(raw) != header.stored_bytes or header.needle != needle:
            return None
        meta = raw[record.HEADER_BYTES : record.HEADER_BYTES + header.meta_bytes]
        data = raw[record.HEADER_BYTES + header.meta_bytes :]
        return (header, meta, data) if record.body_is_sound(header, meta, data) else None

    def find(self, needle: int) -> Found | None:
        """What a live needle says of itself; None where it is not sound, or says nothing. Raises OSError."""
        parts = self.read(needle)
        if parts is None:
            return None
        header, raw, data = parts
        try:
            meta = metas.decode(raw)
            intent = intents.unpack(meta.intent)
        except (metas.MetaInvalid, intents.IntentInvalid):
            return None
        return Found(needle, len(data), zlib.crc32(data), header.appended_ms, meta, intent)

    def data(self, needle: int) -> bytes | None:
        """The bytes of a live needle; None where they are not as they were written. Raises OSError."""
        parts = self.read(needle)
        return None if parts is None else parts[2]


def find_directories(paths: list[Path]) -> list[DataDirectory]:
    """The data directories among these folders and right below them. Raises NotADirectoryError for one that is none."""
    found: dict[Path, DataDirectory] = {}
    for path in paths:
        if not path.is_dir():
            raise NotADirectoryError(f"{path} is no directory")
        for candidate in (path, *sorted(child for child in path.iterdir() if child.is_dir())):
            if (candidate / "server.json").exists() or any(candidate.glob("*.vol")):
                found[candidate.resolve()] = _read_identity(candidate)
    return list(found.values())


@contextlib.contextmanager
def held(directories: list[DataDirectory]) -> Iterator[None]:
    """Keeps volume servers from starting on them meanwhile. Raises DirectoryBusy where one runs."""
    with contextlib.ExitStack() as stack:
        for directory in directories:
            try:
                fd = os.open(directory.path / "lock", os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # a copy that no server ever ran on
            stack.callback(os.close, fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DirectoryBusy(f"a volume server runs on {directory.path}; stop it first") from None
        yield


def copies_in(directory: DataDirectory) -> tuple[list[Copy], list[str]]:
    """The copies of volumes that lie there, and what is wrong with files that are none. Raises OSError."""
    copies, problems = [], []
    for path in sorted(directory.path.glob("*.vol")):
        try:
            with Inspection(path) as inspection:
                superblock, size_bytes = inspection.superblock, inspection.size_bytes
            state = read_state(SYSTEM, path)
        except (NotAVolume, VolumeUnusable) as error:
            problems.append(f"{path}: {error}")
            continue
        whole, is_primary = state.epoch, True
        if state.replica is not None:
            whole = max((epoch for epoch, _ in state.replica.history), default=0)
            is_primary = state.replica.role == "primary"
        copies.append(Copy(path, directory, superblock, whole, state.epoch, size_bytes, is_primary))
    return copies, problems


def read_contents(copy: Copy) -> Contents:
    """Reads a copy through; memory: 16 bytes a needle at a load of about a half. Raises OSError, NotAVolume."""
    with Inspection(copy.path) as inspection:
        contents = Contents(copy, os.dup(inspection.fd), inspection.tagger)
        try:
            tally = Tally(contents.index, Figures())
            for item in inspection.items():
                tally.take(item)
                header = item.header
                if header is None:
                    contents.damaged_count += not item.torn
                    continue
                if header.kind == record.FILLER:
                    continue
                contents.highest_needle = max(contents.highest_needle, header.needle)
                if not item.sound:
                    contents.damaged_count += 1
                    contents.damaged.add(header.needle)
                elif header.kind == record.LIVE and _is_system(contents.fd, item.offset, header):
                    contents.system.append(header.needle)
        except BaseException:
            contents.close()
            raise
    contents.system = [needle for needle in contents.system if contents.is_live(needle)]
    return contents


def _is_system(fd: int, offset: int, header: record.Header) -> bool:
    """Whether the needle's intent names no bucket."""
    if header.meta_bytes < _BUCKET_AT + _BUCKET_BYTES:
        return False
    return not any(os.pread(fd, _BUCKET_BYTES, offset + record.HEADER_BYTES + _BUCKET_AT))


def _read_identity(path: Path) -> DataDirectory:
    try:
        known = json.loads((path / "server.json").read_bytes())
        return DataDirectory(
            path, str(known["server"]), int(known["kid"]), known.get("store"), int(known.get("sequence") or 0)
        )
    except (OSError, ValueError, TypeError, KeyError):
        return DataDirectory(path)
