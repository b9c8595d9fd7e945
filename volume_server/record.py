"""The record: how one needle, tombstone or filler lies in a volume file.

    at  size  field
     0   4    magic "WHRc"
     4   1    kind: 1 live, 2 tombstone, 3 filler
     5   1    reserved, 0
     6   2    meta length
     8   8    needle id
    16   4    data length (filler: the space held after the header)
    20   4    CRC-32 of the data, continued over meta
    24   8    appended at, ms, by the master's clock
    32   8    BLAKE2b-64 of bytes 0..31, keyed by the volume's salt
    40        meta, data, zeros up to the next multiple of 8

Integers are little-endian. The keyed tag is what a recovery scan trusts: a client's bytes may imitate
all of a record but the tag, since the salt is never shown to clients.

A live record's meta is `volume_server.meta`; a tombstone's is the refused PUT's status and code as ASCII
("412 precondition_failed"), or empty for a plain delete; a filler has none. Pure module: bytes in, values out.
(Needles come from Haystack, OSDI 2010, section 3.5.)
"""

import hashlib
import struct
import zlib
from typing import NamedTuple

MAGIC = b"WHRc"
LIVE, TOMBSTONE, FILLER = 1, 2, 3
ALIGNMENT = 8
_FIELDS = struct.Struct("<4sBBHQIIQ")
TAG_BYTES = 8
HEADER_BYTES = 40
MAX_RECORD_BYTES = (1 << 28) - ALIGNMENT
"""What the index's 28 bits of length hold, header and meta included."""
MAX_META_BYTES = 0xFFFF
MAX_DATA_BYTES = MAX_RECORD_BYTES - HEADER_BYTES - MAX_META_BYTES
_VALUES = struct.Struct("<4xBxHQIIQ")
"""`_FIELDS` without magic and reserved: just what a `Header` is made of."""
_RESERVED_AT = 5
_LIVE_START = MAGIC + bytes((LIVE, 0))
assert _FIELDS.size + TAG_BYTES == HEADER_BYTES
assert _VALUES.size == _FIELDS.size

PADDING = tuple(bytes(n) for n in range(ALIGNMENT))


class Header(NamedTuple):
    kind: int
    meta_bytes: int
    needle: int
    data_bytes: int
    crc: int
    appended_ms: int

    @property
    def stored_bytes(self) -> int:
        """Header, meta and data, without the padding."""
        return HEADER_BYTES + self.meta_bytes + self.data_bytes

    @property
    def record_bytes(self) -> int:
        """The space taken in the file."""
        return (HEADER_BYTES + self.meta_bytes + self.data_bytes + ALIGNMENT - 1) & -ALIGNMENT


def aligned(size_bytes: int) -> int:
    return (size_bytes + ALIGNMENT - 1) & -ALIGNMENT


def padding_of(size_bytes: int) -> bytes:
    return PADDING[-size_bytes & (ALIGNMENT - 1)]


class Tagger:
    """Makes the tags of one volume. Keyed once: hashing the key anew for each tag would double its cost."""

    __slots__ = ("_keyed",)

    def __init__(self, salt: bytes) -> None:
        self._keyed = hashlib.blake2b(digest_size=TAG_BYTES, key=salt)

    def tag(self, fields: bytes) -> bytes:
        """The 8 bytes that make a header's first 32 genuine."""
        hasher = self._keyed.copy()
        hasher.update(fields)
        return hasher.digest()


def encode_header(
    tagger: Tagger, kind: int, needle: int, *, meta_bytes: int, data_bytes: int, crc: int, appended_ms: int
) -> bytes:
    """The 40 bytes in front of a record. Raises struct.error where a value does not fit its field."""
    fields = _FIELDS.pack(MAGIC, kind, 0, meta_bytes, needle, data_bytes, crc, appended_ms)
    return fields + tagger.tag(fields)


def decode_header(tagger: Tagger, raw: bytes | memoryview, at: int = 0) -> Header | None:
    """The header at ``raw[at:at + 40]``, or None where there is no genuine one."""
    fields = bytes(raw[at : at + _FIELDS.size])
    if not fields.startswith(MAGIC) or tagger.tag(fields) != raw[at + _FIELDS.size : at + HEADER_BYTES]:
        return None
    header = tuple.__new__(Header, _VALUES.unpack(fields))  # what `_make` does
    if not LIVE <= header.kind <= FILLER or fields[_RESERVED_AT] or not header.needle:
        return None
    if header.kind == LIVE and header.data_bytes > MAX_DATA_BYTES and header.stored_bytes > MAX_RECORD_BYTES:
        return None  # the index could not name it
    return header


def live_header(
    tagger: Tagger, raw: bytes, at: int, needle: int, stored_bytes: int
) -> tuple[int, int, int, int] | None:  # fmt: skip
    """Length of meta and of data, CRC and time of this needle's live record, whose header is ``raw[at:at + 40]``.

    None where that is not genuine, or of another record: `decode_header` for whoever looks at very many.
    """
    fields = raw[at : at + _FIELDS.size]
    if not fields.startswith(_LIVE_START) or tagger.tag(fields) != raw[at + _FIELDS.size : at + HEADER_BYTES]:
        return None
    _, meta_bytes, found, data_bytes, crc, appended_ms = _VALUES.unpack(fields)
    if found != needle or HEADER_BYTES + meta_bytes + data_bytes != stored_bytes:
        return None
    return meta_bytes, data_bytes, crc, appended_ms


def live_data(tagger: Tagger, raw: bytes, needle: int) -> memoryview | None:
    """The data of this needle's live record, which ``raw`` is from its header to its data's end.

    None where anything about it is not as it was written: `decode_header` and `body_is_sound` in one, for reads.
    """
    fields = raw[: _FIELDS.size]
    if not fields.startswith(_LIVE_START) or tagger.tag(fields) != raw[_FIELDS.size : HEADER_BYTES]:
        return None
    _, meta_bytes, found, data_bytes, crc, _ = _VALUES.unpack(fields)
    data_at = HEADER_BYTES + meta_bytes
    if found != needle or data_at + data_bytes != len(raw):
        return None
    data = memoryview(raw)[data_at:]
    return data if zlib.crc32(raw[HEADER_BYTES:data_at], zlib.crc32(data)) == crc else None


def encode_filler(tagger: Tagger, needle: int, *, record_bytes: int, appended_ms: int) -> bytes:
    """The header of a filler that holds ``record_bytes`` in all: the provisional header of a reservation."""
    return encode_header(
        tagger, FILLER, needle, meta_bytes=0, data_bytes=record_bytes - HEADER_BYTES, crc=0, appended_ms=appended_ms
    )


def encode_tombstone(tagger: Tagger, needle: int, *, verdict: str, appended_ms: int) -> bytes:
    """A whole tombstone record; ``verdict`` is the refusal's status and code, empty for a plain delete."""
    meta = verdict.encode("ascii")
    header = encode_header(
        tagger, TOMBSTONE, needle, meta_bytes=len(meta), data_bytes=0, crc=zlib.crc32(meta), appended_ms=appended_ms
    )
    return header + meta + padding_of(len(meta))


def body_is_sound(header: Header, meta: bytes | memoryview, data: bytes | memoryview) -> bool:
    """Whether meta and data are what the header's CRC was made of (fillers hold nothing to check)."""
    return header.kind == FILLER or zlib.crc32(meta, zlib.crc32(data)) == header.crc
