"""The superblock: a volume file's first bytes, written twice (at 0 and at 4096); records start at 8192.

    at  size  field
     0   8    magic "WHVolume"
     8   4    format version (1)
    12   4    volume id
    16   4    revision: 1 at creation, +1 at each compaction
    20   4    reserved, 0
    24   8    created at, ms, by the master's clock
    32  16    salt, random, given by the master so that replicas are identical; never shown to clients
    48   4    CRC-32 of bytes 0..47

Integers are little-endian. Pure module: bytes in, values out.
"""

import struct
import zlib
from dataclasses import dataclass

MAGIC = b"WHVolume"
FORMAT_VERSION = 1
_FIELDS = struct.Struct("<8sIIIIQ16s")
_CRC = struct.Struct("<I")
SIZE_BYTES = _FIELDS.size + _CRC.size
COPY_OFFSETS = (0, 4096)
RECORDS_START = 8192
SALT_BYTES = 16
assert SIZE_BYTES == 52


class SuperblockInvalid(ValueError):
    """Neither copy is a superblock that this version understands."""


@dataclass(frozen=True, slots=True)
class Superblock:
    volume: int
    revision: int
    created_ms: int
    salt: bytes


def encode(superblock: Superblock) -> bytes:
    """The 52 bytes of one copy."""
    fields = _FIELDS.pack(
        MAGIC, FORMAT_VERSION, superblock.volume, superblock.revision, 0, superblock.created_ms, superblock.salt
    )
    return fields + _CRC.pack(zlib.crc32(fields))


def encode_head(superblock: Superblock) -> bytes:
    """The first 8192 bytes of a volume file, both copies in place."""
    head = bytearray(RECORDS_START)
    for offset in COPY_OFFSETS:
        head[offset : offset + SIZE_BYTES] = encode(superblock)
    return bytes(head)


def decode(raw: bytes) -> Superblock:
    """One copy. Raises SuperblockInvalid."""
    if len(raw) < SIZE_BYTES:
        raise SuperblockInvalid("cut off")
    magic, version, volume, revision, reserved, created_ms, salt = _FIELDS.unpack_from(raw)
    if magic != MAGIC:
        raise SuperblockInvalid("not a volume file")
    if _CRC.unpack_from(raw, _FIELDS.size)[0] != zlib.crc32(raw[: _FIELDS.size]):
        raise SuperblockInvalid("CRC does not match")
    if version != FORMAT_VERSION or reserved:
        raise SuperblockInvalid(f"format version {version} is not known")
    return Superblock(volume, revision, created_ms, salt)


def decode_head(raw: bytes) -> Superblock:
    """The first good copy of a volume file's head. Raises SuperblockInvalid with the first copy's reason."""
    first_error: SuperblockInvalid | None = None
    for offset in COPY_OFFSETS:
        try:
            return decode(raw[offset : offset + SIZE_BYTES])
        except SuperblockInvalid as error:
            first_error = first_error or error
    raise first_error or SuperblockInvalid("empty")
