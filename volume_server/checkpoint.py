"""The index on disk: a checkpoint that stands by itself.

A file of 64 KiB places behind an 8 KiB head. Segments that changed are written to places that the current
checkpoint does not use, then the table of all segments, then fsync, then one of the two headers in turn, then fsync.
A crash at any moment leaves the older header and everything it names. What does not check is not used:
the index is then rebuilt by a scan of the volume.

    header, at 0 and at 4096 in turn
     0   8    magic "WHIndex2"
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

import logging
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from volume_server.durability import Buffers, FileSystem
from volume_server.index import MAX_DEPTH, MAX_USED, SEGMENT_BYTES, Frozen, Index, Segment
from volume_server.record import ALIGNMENT
from volume_server.superblock import RECORDS_START, Superblock

log = logging.getLogger(__name__)

MAGIC = b"WHIndex2"
_HEADER = struct.Struct("<8sII16sQQQQQQQQII")
_CRC = struct.Struct("<I")
_ENTRY = struct.Struct("<IHHI")
HEADER_OFFSETS = (0, 4096)
HEADER_BYTES = _HEADER.size + _CRC.size
PLACES_START = 8192
MAX_GENERATION = (1 << 64) - 2
assert _HEADER.size == 104
assert _ENTRY.size == 12


class CheckpointInvalid(ValueError):
    """This checkpoint is not one of this volume, or was damaged."""


class Header(NamedTuple):
    """One of the two headers of an index file, in the order of its fields."""

    volume: int
    revision: int
    salt: bytes
    generation: int
    watermark: int
    clean_size_bytes: int
    live_count: int
    tombstone_count: int
    garbage_bytes: int
    damaged_count: int
    table_offset: int
    segment_count: int
    table_crc: int


def encode_header(header: Header) -> bytes:
    """The 108 bytes of a header, CRC included. Raises struct.error where a value does not fit its field."""
    fields = _HEADER.pack(MAGIC, *header)
    return fields + _CRC.pack(zlib.crc32(fields))


def decode_header(raw: bytes) -> Header:
    """Raises CheckpointInvalid."""
    if len(raw) < HEADER_BYTES:
        raise CheckpointInvalid("cut off")
    magic, *fields = _HEADER.unpack_from(raw)
    if magic != MAGIC:
        raise CheckpointInvalid("not an index file")
    if _CRC.unpack_from(raw, _HEADER.size)[0] != zlib.crc32(raw[: _HEADER.size]):
        raise CheckpointInvalid("CRC does not match")
    return Header._make(fields)


@dataclass(slots=True)
class Figures:
    """What is counted besides the index itself."""

    live_count: int = 0
    tombstone_count: int = 0
    garbage_bytes: int = 0
    damaged_count: int = 0


RUN_SEGMENTS = 128
_CRC_BYTES = 4096


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
            headers = [found for found in self.headers(fd) if isinstance(found, Header)]
            for header in sorted(headers, key=lambda found: found.generation, reverse=True):
                try:
                    return self.load_from(fd, header)
                except CheckpointInvalid as error:
                    # the other header may still stand; a scan is what comes after that
                    log.warning("%s: generation %d is not used: %s", self.path.name, header.generation, error)
            return None
        finally:
            self.files.close(fd)

    def headers(self, fd: int) -> list[Header | CheckpointInvalid]:
        """The two headers of the open file, at 0 and at 4096; in place of a bad one the reason why it is none."""
        found: list[Header | CheckpointInvalid] = []
        for number, offset in enumerate(HEADER_OFFSETS):
            try:
                header = decode_header(self.files.read_at(fd, HEADER_BYTES, offset))
            except CheckpointInvalid as error:
                found.append(error)
                continue
            # in the other's place it would be overwritten by the next one, and with it the only one that stands
            found.append(header if header.generation % 2 == number else CheckpointInvalid("in the other one's place"))
        return found

    def write(self, frozen: list[Frozen], figures: Figures, *, watermark: int, clean_size_bytes: int) -> list[int]:
        """Make a checkpoint of frozen segments durable; returns each one's place. Raises OSError.

        The caller has synced the volume's data before: nothing here may name a record that is not durable.
        """
        fd = self.files.open(self.path, os.O_RDWR | os.O_CREAT)
        try:
            created = self.files.size_bytes(fd) == 0
            taken = set(self._used)
            places, crcs, entries = [], {}, []
            free = 0
            run = _Run(self.files, fd)
            for segment, saved_at, depth, used in frozen:
                place = saved_at
                if saved_at < 0:
                    while free in taken:
                        free += 1
                    place = free
                    taken.add(place)
                    crcs[place] = _crc_of(segment.buffer)
                    run.add(segment, place)
                else:
                    crcs[place] = self._crcs[place]
                places.append(place)
                entries.append(_ENTRY.pack(place, depth, used, crcs[place]))
            run.write()
            table = b"".join(entries)
            table_places = _free_run(taken, -(-len(table) // SEGMENT_BYTES))
            table_offset = PLACES_START + table_places.start * SEGMENT_BYTES
            self.files.write_at(fd, [table], table_offset)
            self.files.sync_file(fd)
            header = Header(
                volume=self.superblock.volume,
                revision=self.superblock.revision,
                salt=self.superblock.salt,
                generation=self.generation + 1,
                watermark=watermark,
                clean_size_bytes=clean_size_bytes,
                live_count=figures.live_count,
                tombstone_count=figures.tombstone_count,
                garbage_bytes=figures.garbage_bytes,
                damaged_count=figures.damaged_count,
                table_offset=table_offset,
                segment_count=len(frozen),
                table_crc=zlib.crc32(table),
            )
            self.files.write_at(fd, [encode_header(header)], HEADER_OFFSETS[header.generation % 2])
            self.files.sync_file(fd)
            if created:
                self.files.sync_directory(self.path.parent)
        finally:
            self.files.close(fd)
        self.generation += 1
        self._used = set(places) | set(table_places)
        self._crcs = crcs
        return places

    def load_from(self, fd: int, header: Header) -> Loaded:
        """The checkpoint that a header of the open file names. Raises CheckpointInvalid where not all of it checks."""
        superblock = self.superblock
        if (header.volume, header.revision, header.salt) != (superblock.volume, superblock.revision, superblock.salt):
            raise CheckpointInvalid("of another volume or revision")
        if not 0 < header.generation <= MAX_GENERATION:
            raise CheckpointInvalid("a generation that none can follow")
        if header.watermark < RECORDS_START or header.watermark % ALIGNMENT:
            raise CheckpointInvalid("a watermark at which no record can begin")
        table_bytes = header.segment_count * _ENTRY.size
        if not table_bytes or header.table_offset + table_bytes > self.files.size_bytes(fd):
            raise CheckpointInvalid("the table does not lie in the file")
        table = self.files.read_at(fd, table_bytes, header.table_offset)
        if len(table) != table_bytes or zlib.crc32(table) != header.table_crc:
            raise CheckpointInvalid("the table does not check")
        segments, crcs = [], {}
        for place, depth, used, crc in _ENTRY.iter_unpack(table):
            if depth > MAX_DEPTH or used > MAX_USED or place in crcs:
                raise CheckpointInvalid("a segment of no possible size or place")
            buffer = bytearray(SEGMENT_BYTES)
            read = self.files.read_into(fd, buffer, PLACES_START + place * SEGMENT_BYTES)
            if read != SEGMENT_BYTES or zlib.crc32(buffer) != crc:
                raise CheckpointInvalid("a segment does not check")
            segments.append(Segment(depth, buffer, used, place))
            crcs[place] = crc
        try:
            index = Index.of_segments(segments)
        except ValueError as error:
            raise CheckpointInvalid(str(error)) from error
        self.generation = header.generation
        self._crcs = crcs
        table_start = (header.table_offset - PLACES_START) // SEGMENT_BYTES
        self._used = set(crcs) | set(range(table_start, table_start + -(-len(table) // SEGMENT_BYTES)))
        figures = Figures(header.live_count, header.tombstone_count, header.garbage_bytes, header.damaged_count)
        return Loaded(index, figures, header.watermark, header.clean_size_bytes)


class _Run:
    """Segments for places in a row, written by one call. A busy loop lets this thread have the interpreter for a
    moment every 5 ms; with a call for each segment, a checkpoint would take as many of these as there are segments."""

    def __init__(self, files: FileSystem, fd: int) -> None:
        self._files = files
        self._fd = fd
        self._segments: list[Segment] = []
        self._start = 0

    def add(self, segment: Segment, place: int) -> None:
        """Raises OSError."""
        if len(self._segments) == RUN_SEGMENTS or place != self._start + len(self._segments):
            self.write()
            self._start = place
        self._segments.append(segment)

    def write(self) -> None:
        """Write what was added. Raises OSError."""
        if self._segments:
            buffers: Buffers = [segment.buffer for segment in self._segments]
            self._files.write_at(self._fd, buffers, PLACES_START + self._start * SEGMENT_BYTES)
            for segment in self._segments:
                segment.frozen = False  # the loop may change it again, without a copy
            self._start += len(self._segments)
            self._segments = []


def _crc_of(buffer: bytearray) -> int:
    """CRC-32, in pieces so small that zlib does not let go of the interpreter for each."""
    crc, view = 0, memoryview(buffer)
    for at in range(0, len(buffer), _CRC_BYTES):
        crc = zlib.crc32(view[at : at + _CRC_BYTES], crc)
    return crc


def _free_run(taken: set[int], length: int) -> range:
    """The first run of ``length`` places that are not taken."""
    start = 0
    while any(place in taken for place in range(start, start + length)):
        start += 1
    return range(start, start + length)
