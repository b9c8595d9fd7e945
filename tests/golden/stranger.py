"""A reader of volume files, written from docs/format.md alone: it knows nothing of the volume server's code.

Section numbers are those of the document. Whole files in memory: it is made to be compared, not to be used.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

LIVE, TOMBSTONE, FILLER = 1, 2, 3
MASK = (1 << 64) - 1


@dataclass
class Superblock:
    volume: int
    revision: int
    created_ms: int
    salt: bytes


@dataclass
class Record:
    offset: int
    kind: int
    needle: int
    appended_ms: int
    meta: bytes
    data: bytes
    space: int
    sound: bool


@dataclass
class Opened:
    """What section 6 makes of the files: needle -> (offset, length), length 0 for the dead."""

    index: dict[int, tuple[int, int]] = field(default_factory=dict)
    live_count: int = 0
    dead_count: int = 0
    garbage_bytes: int = 0
    damaged_count: int = 0
    end: int = 8192


def superblock(volume: bytes) -> Superblock | None:
    """Section 2: the first copy whose magic, CRC and version are good."""
    for at in (0, 4096):
        raw = volume[at : at + 52]
        if len(raw) == 52 and raw[:8] == b"WHVolume" and zlib.crc32(raw[:48]) == struct.unpack("<I", raw[48:])[0]:
            version, number, revision, reserved, created_ms, salt = struct.unpack("<IIIIQ16s", raw[8:48])
            if version == 1 and reserved == 0:
                return Superblock(number, revision, created_ms, salt)
    return None


def record_at(volume: bytes, at: int, salt: bytes) -> Record | None:
    """Section 2: the record whose genuine header stands here, if it ends within the file."""
    raw = volume[at : at + 40]
    if len(raw) < 40 or raw[:4] != b"WHRc":
        return None
    if hashlib.blake2b(raw[:32], digest_size=8, key=salt).digest() != raw[32:]:
        return None
    kind, reserved, meta_bytes, needle, data_bytes, crc, appended_ms = struct.unpack("<BBHQIIQ", raw[4:32])
    if kind not in (LIVE, TOMBSTONE, FILLER) or reserved or not needle:
        return None
    length = 40 + meta_bytes + data_bytes
    if (kind == LIVE and length > (1 << 28) - 8) or at + length > len(volume):
        return None
    meta = volume[at + 40 : at + 40 + meta_bytes]
    data = volume[at + 40 + meta_bytes : at + length]
    sound = kind == FILLER or zlib.crc32(meta, zlib.crc32(data)) == crc
    return Record(at, kind, needle, appended_ms, meta, data, (length + 7) // 8 * 8, sound)


def scan(volume: bytes, salt: bytes, at: int) -> Iterator[Record | int]:
    """Section 6, step 4: records; the offset of a damaged gap; -1 for the torn tail, with which it ends."""
    while at < len(volume):
        found = record_at(volume, at, salt)
        if found is None:
            following = at + 8
            while following < len(volume) and record_at(volume, following, salt) is None:
                following += 8
            if following >= len(volume):
                yield -1
                return
            yield at
            at = following
        else:
            yield found
            at += found.space


class IndexFile:
    """Section 4. `header` is None where no checkpoint of this volume can be used."""

    def __init__(self, raw: bytes, block: Superblock) -> None:
        self.header: dict[str, int] | None = None
        self.directory: list[bytes] = []
        self.depth = 0
        both = [(at, self._header(raw[at : at + 108], block)) for at in (0, 4096)]
        headers = [header for at, header in both if header is not None and header["generation"] % 2 == (at == 4096)]
        for header in sorted(headers, key=lambda header: header["generation"], reverse=True):
            if self._load(raw, header):
                self.header = header
                return

    @staticmethod
    def _header(raw: bytes, block: Superblock) -> dict[str, int] | None:
        if len(raw) < 108 or raw[:8] != b"WHIndex2" or zlib.crc32(raw[:104]) != struct.unpack("<I", raw[104:])[0]:
            return None
        if struct.unpack("<II16s", raw[8:32]) != (block.volume, block.revision, block.salt):
            return None
        names = ("generation", "watermark", "clean", "live", "dead", "garbage", "damaged", "table", "segments", "crc")
        return dict(zip(names, struct.unpack("<QQQQQQQQII", raw[32:104]), strict=True))

    def _load(self, raw: bytes, header: dict[str, int]) -> bool:
        table = raw[header["table"] : header["table"] + 12 * header["segments"]]
        if len(table) != 12 * header["segments"] or zlib.crc32(table) != header["crc"]:
            return False
        found = []
        for place, depth, _used, crc in struct.iter_unpack("<IHHI", table):
            segment = raw[8192 + place * 65536 : 8192 + (place + 1) * 65536]
            if zlib.crc32(segment) != crc:
                return False
            found.append((depth, segment))
        self.depth = max(depth for depth, _ in found)
        self.directory = [segment for depth, segment in found for _ in range(1 << self.depth - depth)]
        return True

    def find(self, needle: int) -> tuple[int, int] | None:
        """(offset, length), by the three steps at the end of section 4."""
        p = (needle >> 8) * 0x9E3779B97F4A7C15 & MASK
        g = (p ^ p >> 30) * 0xBF58476D1CE4E5B9 & MASK
        segment = self.directory[g >> 64 - self.depth]
        slot = (needle * 0x9E3779B97F4A7C15 & MASK) >> 28 & 4095
        while True:
            found, value = struct.unpack_from("<QQ", segment, slot * 16)
            if found == needle:
                return (value >> 28) * 8, value & (1 << 28) - 1
            if not found:
                return None
            slot = (slot + 1) % 4096

    def items(self) -> Iterator[tuple[int, int, int]]:
        for segment in dict.fromkeys(map(id, self.directory)):
            [raw] = {id(each): each for each in self.directory if id(each) == segment}.values()
            for needle, value in struct.iter_unpack("<QQ", raw):
                if needle:
                    yield needle, (value >> 28) * 8, value & (1 << 28) - 1


def open_volume(volume: bytes, index: bytes | None) -> Opened:
    """Section 6."""
    block = superblock(volume)
    assert block is not None
    opened = Opened(end=(len(volume) + 7) // 8 * 8)
    watermark = 8192
    file = IndexFile(index, block) if index is not None else None
    if file is not None and file.header is not None and file.header["watermark"] <= len(volume):
        header = file.header
        watermark = header["watermark"]
        opened.index = {needle: (offset, length) for needle, offset, length in file.items()}
        opened.live_count, opened.dead_count = header["live"], header["dead"]
        opened.garbage_bytes, opened.damaged_count = header["garbage"], header["damaged"]
        if header["clean"] == watermark == len(volume):
            return opened
    end = watermark
    for found in scan(volume, block.salt, watermark):
        if found == -1:
            opened.end = end
        elif isinstance(found, int):
            opened.damaged_count += 1
        else:
            end = found.offset + found.space
            _take(opened, found)
    return opened


def _take(opened: Opened, found: Record) -> None:
    """Section 6, step 5."""
    if found.kind == FILLER:
        opened.garbage_bytes += found.space
        return
    if not found.sound:
        opened.damaged_count += 1
        if found.kind == LIVE:
            return
    known = opened.index.get(found.needle)
    if known is not None and known[0] >= found.offset:
        return
    if known is not None and (found.kind == LIVE or known[1] == 0):
        opened.garbage_bytes += found.space
        return
    if found.kind == LIVE:
        opened.index[found.needle] = (found.offset, 40 + len(found.meta) + len(found.data))
        opened.live_count += 1
        return
    opened.index[found.needle] = (found.offset, 0)
    opened.dead_count += 1
    if known is not None:
        opened.live_count -= 1
        opened.garbage_bytes += (known[1] + 7) // 8 * 8


def meta(raw: bytes) -> dict[str, Any]:
    """Section 2, the meta of a live record."""
    version, flags, *lengths = struct.unpack("<BBHHHHH", raw[:12])
    assert version == 1
    parts, at = [], 12
    for length in lengths:
        parts.append(raw[at : at + length])
        at += length
    assert at == len(raw)
    return {
        "intent": parts[0],
        "key": parts[1].decode(),
        "content_type": parts[2].decode(),
        "if_match": parts[3].decode(),
        "if_none_match": bool(flags & 1),
        "metadata": json.loads(parts[4]) if parts[4] else {},
    }


def intent(raw: bytes) -> dict[str, Any]:
    """Section 2, the intent."""
    names = (
        "secret_id", "volume", "first", "count", "epoch", "max_bytes", "bucket_id", "api_key", "generation",
        "expires_at",
    )  # fmt: skip
    version, flags = raw[0], raw[1]
    assert version == 1
    *numbers, bucket, key, if_match, attributes = struct.unpack("<HIQHIIQQIIBHHH", raw[2:57])
    found: dict[str, Any] = dict(zip(names, numbers, strict=True))
    at = 57
    if flags & 2:
        upload, *chunk = struct.unpack("<16sIIQ", raw[at : at + 32])
        found |= {
            "upload": upload.hex(),
            **dict(zip(("chunk_index", "chunk_count", "total_bytes"), chunk, strict=True)),
        }
        at += 32
    texts = []
    for length in (bucket, key, if_match, attributes):
        texts.append(raw[at : at + length].decode())
        at += length
    assert at + 16 == len(raw)
    described = json.loads(texts[3]) if texts[3] else {}
    return found | {
        "bucket": texts[0],
        "key": texts[1],
        "if_match": texts[2],
        "key_fixed": bool(flags & 1),
        "exact": bool(flags & 4),
        "if_none_match": bool(flags & 8),
        "held": bool(flags & 16),
        "content_type": described.get("content_type", ""),
        "metadata": described.get("metadata", {}),
    }
