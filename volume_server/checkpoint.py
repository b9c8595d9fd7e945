"""The index on disk: a checkpoint that stands by itself.

A file of 64 KiB places behind an 8 KiB head. Segments that changed are written to places that the current
checkpoint does not use, then the table of all segments, then fsync, then one of the two headers in turn, then fsync.
A crash at any moment leaves the older header and everything it names. What does not check is not used:
the index is then rebuilt by a scan of the volume.

    header, at 0 and at 4096 in turn
     0   8    magic "WHIndex1"
     8   4    volume id
    12   4    revision of the volume
    16  16    salt of the volume
    32   8    generation of this checkpoint; the valid header with the highest one counts
    40   8    watermark: every record before this offset is in the index, all from it on are replayed
    48   8    length of the volume file at a clean stop, else 0
    56   8    live needles
    64   8    dead needles
    72   8    garbage bytes
    80   8    damaged regions
    88   8    offset of the table in this file
    96   4    number of segments
   100   4    CRC-32 of the table
   104   4    CRC-32 of bytes 0..103

    table: per segment, in the directory's order: u32 place, u16 depth, u16 used slots, u32 CRC-32 of the segment

Integers are little-endian.
"""

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volume_server.durability import FileSystem
from volume_server.index import SEGMENT_BYTES, Index, Segment
from volume_server.superblock import Superblock

MAGIC = b"WHIndex1"
_HEADER = struct.Struct("<8sII16sQQQQQQQQII")
_CRC = struct.Struct("<I")
_ENTRY = struct.Struct("<IHHI")
HEADER_OFFSETS = (0, 4096)
PLACES_START = 8192
assert _HEADER.size == 104
assert _ENTRY.size == 12


class CheckpointInvalid(ValueError):
    """This checkpoint is not one of this volume, or was damaged."""


@dataclass(slots=True)
class Figures:
    """What is counted besides the index itself."""

    live_count: int = 0
    tombstone_count: int = 0
    garbage_bytes: int = 0
    damaged_count: int = 0


@dataclass(slots=True)
class Loaded:
    index: Index
    figures: Figures
    watermark: int
    clean_size_bytes: int


class CheckpointFile:
    """Reads and writes the checkpoints of one volume. One writer at a time."""

    def __init__(self, files: FileSystem, path: Path, superblock: Superblock) -> None:
        self.files = files
        self.path = path
        self.superblock = superblock
        self.generation = 0
        self._used: set[int] = set()
        self._crcs: dict[int, int] = {}

    def load(self) -> Loaded | None:
        """The newest whole checkpoint, or None where there is none that checks."""
        try:
            fd = self.files.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            headers = []
            for offset in HEADER_OFFSETS:
                raw = os.pread(fd, _HEADER.size + _CRC.size, offset)
                if len(raw) == _HEADER.size + _CRC.size and _CRC.unpack_from(raw, _HEADER.size)[0] == zlib.crc32(
                    raw[: _HEADER.size]
                ):
                    headers.append(_HEADER.unpack_from(raw))
            for header in sorted(headers, key=lambda found: found[4], reverse=True):
                try:
                    return self._load(fd, header)
                except (CheckpointInvalid, ValueError):
                    continue  # the other header may still stand; a scan is what comes after that
            return None
        finally:
            self.files.close(fd)

    def write(self, segments: list[Segment], figures: Figures, *, watermark: int, clean_size_bytes: int) -> list[int]:
        """Make a checkpoint of frozen segments durable; returns each one's place. Raises OSError.

        The caller has synced the volume's data before: nothing here may name a record that is not durable.
        """
        fd = self.files.open(self.path, os.O_RDWR | os.O_CREAT)
        try:
            created = os.fstat(fd).st_size == 0
            taken = set(self._used)
            places, crcs, entries = [], {}, []
            free = 0
            for segment in segments:
                place = segment.saved_at
                if place < 0 or place not in self._crcs:
                    while free in taken:
                        free += 1
                    place = free
                    taken.add(place)
                    crcs[place] = zlib.crc32(segment.buffer)
                    self.files.write_at(fd, [segment.buffer], PLACES_START + place * SEGMENT_BYTES)
                else:
                    crcs[place] = self._crcs[place]
                places.append(place)
                entries.append(_ENTRY.pack(place, segment.depth, segment.used, crcs[place]))
            table = b"".join(entries)
            table_places = _free_run(taken, -(-len(table) // SEGMENT_BYTES))
            table_offset = PLACES_START + table_places.start * SEGMENT_BYTES
            self.files.write_at(fd, [table], table_offset)
            self.files.sync_file(fd)
            header = _HEADER.pack(
                MAGIC,
                self.superblock.volume,
                self.superblock.revision,
                self.superblock.salt,
                self.generation + 1,
                watermark,
                clean_size_bytes,
                figures.live_count,
                figures.tombstone_count,
                figures.garbage_bytes,
                figures.damaged_count,
                table_offset,
                len(segments),
                zlib.crc32(table),
            )
            at = HEADER_OFFSETS[(self.generation + 1) % 2]
            self.files.write_at(fd, [header + _CRC.pack(zlib.crc32(header))], at)
            self.files.sync_file(fd)
            if created:
                self.files.sync_directory(self.path.parent)
        finally:
            self.files.close(fd)
        self.generation += 1
        self._used = set(places) | set(table_places)
        self._crcs = crcs
        return places

    def _load(self, fd: int, header: tuple[Any, ...]) -> Loaded:
        (magic, volume, revision, salt, generation, watermark, clean_size_bytes, live_count, tombstone_count,
         garbage_bytes, damaged_count, table_offset, segment_count, table_crc) = header  # fmt: skip
        superblock = self.superblock
        if magic != MAGIC or (volume, revision, salt) != (superblock.volume, superblock.revision, superblock.salt):
            raise CheckpointInvalid("of another volume, revision or format")
        table = os.pread(fd, segment_count * _ENTRY.size, table_offset)
        if not segment_count or len(table) != segment_count * _ENTRY.size or zlib.crc32(table) != table_crc:
            raise CheckpointInvalid("the table does not check")
        segments, crcs = [], {}
        for place, depth, used, crc in _ENTRY.iter_unpack(table):
            buffer = bytearray(SEGMENT_BYTES)
            read = os.preadv(fd, [buffer], PLACES_START + place * SEGMENT_BYTES)
            if read != SEGMENT_BYTES or zlib.crc32(buffer) != crc:
                raise CheckpointInvalid("a segment does not check")
            segments.append(Segment(depth, buffer, used, place))
            crcs[place] = crc
        index = Index.of_segments(segments)
        self.generation = generation
        self._crcs = crcs
        table_start = (table_offset - PLACES_START) // SEGMENT_BYTES
        self._used = set(crcs) | set(range(table_start, table_start + -(-len(table) // SEGMENT_BYTES)))
        figures = Figures(live_count, tombstone_count, garbage_bytes, damaged_count)
        return Loaded(index, figures, watermark, clean_size_bytes)


def _free_run(taken: set[int], length: int) -> range:
    """The first run of ``length`` places that are not taken."""
    start = 0
    while any(place in taken for place in range(start, start + length)):
        start += 1
    return range(start, start + length)
