"""A shipment: what a volume's primary has its peers write, and which records of it they are to settle.

    at  size  field
     0   8    number: 1 for the first of an epoch, then one more each time
     8   8    tail: the length of the log with it
    16   8    floor: all records before this offset were named by shipments up to this one
    24   8    room: bytes of new live records in it, which have to fit beside the disk's reserve
    32   4    number of extents
    36   4    number of records
    40        extents: u64 offset, u64 length
              records: u64 needle, u64 offset, u32 length (header, meta, data), u32 kind
              the extents' bytes, one after the other

Integers are little-endian. A shipment with records is answered when all that was shipped up to it is durable.
Pure module: bytes in, values out.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from volume_server import record
from volume_server.superblock import RECORDS_START

_HEAD = struct.Struct("<QQQQII")
_EXTENT = struct.Struct("<QQ")
_RECORD = struct.Struct("<QQII")
RECORD_BYTES = _RECORD.size
_KINDS = frozenset({record.LIVE, record.TOMBSTONE})
assert (_HEAD.size, _EXTENT.size, _RECORD.size) == (40, 16, 24)

Buffer = bytes | bytearray | memoryview


class ShipmentInvalid(ValueError):
    """These bytes are no shipment."""


class Extent(NamedTuple):
    offset: int
    data: Buffer


class Record(NamedTuple):
    needle: int
    offset: int
    stored_bytes: int
    kind: int


class Shipment(NamedTuple):
    number: int
    tail: int
    floor: int
    room_bytes: int
    extents: list[Extent]
    records: list[Record]


def encode(shipment: Shipment) -> bytes:
    extents, records = shipment.extents, shipment.records
    return b"".join(
        [
            _HEAD.pack(*shipment[:4], len(extents), len(records)),
            *[_EXTENT.pack(extent.offset, len(extent.data)) for extent in extents],
            *[_RECORD.pack(*each) for each in records],
            *[extent.data for extent in extents],
        ]
    )


def decode(raw: Buffer) -> Shipment:
    """The extents' data are views of ``raw``. Raises ShipmentInvalid where anything lies outside of the log."""
    view = memoryview(raw)
    if len(view) < _HEAD.size:
        raise ShipmentInvalid("cut off")
    number, tail, floor, room_bytes, extent_count, record_count = _HEAD.unpack_from(view)
    records_at = _HEAD.size + extent_count * _EXTENT.size
    at = records_at + record_count * _RECORD.size
    if at > len(view) or not RECORDS_START <= floor <= tail:
        raise ShipmentInvalid("cut off, or of no possible log")
    extents = []
    for offset, size_bytes in _EXTENT.iter_unpack(view[_HEAD.size : records_at]):
        if offset < RECORDS_START or offset + size_bytes > tail or at + size_bytes > len(view):
            raise ShipmentInvalid("an extent outside of the log")
        extents.append(Extent(offset, view[at : at + size_bytes]))
        at += size_bytes
    if at != len(view):
        raise ShipmentInvalid("bytes that are of no extent")
    records = [
        Record._make(values) for values in _RECORD.iter_unpack(view[records_at : records_at + record_count * 24])
    ]
    for each in records:
        _require_possible(each, tail)
    return Shipment(number, tail, floor, room_bytes, extents, records)


def _require_possible(found: Record, tail: int) -> None:
    ends_within = found.offset >= RECORDS_START and found.offset + found.stored_bytes <= tail
    if not (found.needle and found.kind in _KINDS and ends_within and not found.offset % record.ALIGNMENT):
        raise ShipmentInvalid("a record that cannot be")
    if not record.HEADER_BYTES <= found.stored_bytes <= record.MAX_RECORD_BYTES:
        raise ShipmentInvalid("a record of no possible length")


def merged(extents: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(start, end) of extents, those that touch each other in a row made one; the order stays."""
    found: list[tuple[int, int]] = []
    for start, end in extents:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found
