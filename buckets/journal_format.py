"""A part of the journal, as it lies in a needle (docs/format.md, section 9). Pure: bytes in, values out.

 at  size  field
  0   8    magic "WHJrnl01"
  8   4    length of the header, u32 little-endian
 12        header: JSON object, UTF-8
           content: lines of JSON, zlib (RFC 1950)
-32  32    HMAC-SHA256 over all of the above, with the journal's secret, which only the master has
"""

import hmac
import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

MAGIC = b"WHJrnl01"
ENTRY, SNAPSHOT = "entry", "snapshot"
PART_CONTENT_BYTES = 8 << 20
"""Content of a part before it is compressed, which makes a fifth of it or less."""
_LEVEL = 3
_LENGTH = struct.Struct("<I")
_MAC_BYTES = 32
_MAX_EXPANSION = 1100
"""zlib makes at most 1,032 bytes out of one."""

TAIL_NAME = "journal.tail"
"""A file in a volume server's data directory: the end of the journal as of a clean stop, each part with its length
before it (u64)."""
TAIL_LENGTH_BYTES = 8

Line = list[Any]
"""What changed, and how it is now: see `buckets.services.journal_rows`."""


class PartInvalid(ValueError):
    """These bytes are no part of this store's journal, or not as they were written."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a part is of. Commits are told by their numbers, times in Unix microseconds."""

    store: str
    kind: str
    entry: str
    """Of what it is a part: 32 hex digits."""
    part: int
    is_last: bool
    after: int
    """An entry tells of the commits after this one; a snapshot was begun when the journal had come so far."""
    to: int
    """Up to which commit: an entry's last; for a snapshot's last part, that up to which entries must be applied."""
    read_us: int
    """When it was read from the database, by the master's clock."""
    cursor: str = ""
    """Where a snapshot's part begins in the rows..."""
    next_cursor: str = ""
    """...and where the following one does."""


def pack(header: Header, content: bytes, secret: bytes) -> bytes:
    """The bytes of a part; ``content`` as `Packer` compressed it."""
    raw = json.dumps(asdict(header), separators=(",", ":")).encode()
    body = MAGIC + _LENGTH.pack(len(raw)) + raw + content
    return body + hmac.digest(secret, body, "sha256")


def read_header(raw: bytes, secret: bytes | None) -> Header:
    """Raises PartInvalid. ``secret`` None: the MAC is not looked at."""
    return _split(raw, secret)[0]


def read_part(raw: bytes, secret: bytes | None) -> tuple[Header, Iterator[Line]]:
    """Raises PartInvalid, from the iterator too."""
    header, content = _split(raw, secret)
    return header, _lines(content)


def _split(raw: bytes, secret: bytes | None) -> tuple[Header, bytes]:
    start = len(MAGIC) + _LENGTH.size
    if not raw.startswith(MAGIC) or len(raw) < start + _MAC_BYTES:
        raise PartInvalid("this is no part of a journal")
    body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
    if secret is not None and not hmac.compare_digest(mac, hmac.digest(secret, body, "sha256")):
        raise PartInvalid("it was not signed with this store's secret, or was changed since")
    end = start + _LENGTH.unpack_from(raw, len(MAGIC))[0]
    if end > len(body):
        raise PartInvalid("it is cut off")
    try:
        return _header(json.loads(body[start:end])), body[end:]
    except (ValueError, TypeError, RecursionError) as error:
        raise PartInvalid(f"its header makes no sense: {error}") from error


def _header(fields: Any) -> Header:
    header = Header(**fields)
    UUID(header.store)
    numbers = (header.part, header.after, header.to, header.read_us)
    texts = (header.entry, header.cursor, header.next_cursor)
    if (
        header.kind not in (ENTRY, SNAPSHOT)
        or any(type(number) is not int or number < 0 for number in numbers)
        or not all(isinstance(text, str) for text in texts)
        or type(header.is_last) is not bool
    ):
        raise ValueError("a field is of the wrong kind")
    return header


def _lines(content: bytes) -> Iterator[Line]:
    try:
        text = zlib.decompressobj().decompress(content, PART_CONTENT_BYTES * _MAX_EXPANSION)
        for line in text.splitlines():
            found = json.loads(line)
            if not isinstance(found, list) or not found:
                raise PartInvalid("a line is no list")
            yield found
    except (zlib.error, ValueError, RecursionError) as error:
        raise PartInvalid(f"its content cannot be read: {error}") from error


def join_tail(parts: Iterable[bytes]) -> bytes:
    """The content of such a file."""
    return b"".join(len(part).to_bytes(TAIL_LENGTH_BYTES, "little") + part for part in parts)


def split_tail(raw: bytes) -> Iterator[bytes]:
    """The parts in such a file; what is cut off is left out."""
    at = 0
    while at + TAIL_LENGTH_BYTES <= len(raw):
        end = at + TAIL_LENGTH_BYTES + int.from_bytes(raw[at : at + TAIL_LENGTH_BYTES], "little")
        if end > len(raw):
            return
        yield raw[at + TAIL_LENGTH_BYTES : end]
        at = end


class Packer:
    """Lines in, compressed content of parts out; memory for the content of one part."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._zlib = zlib.compressobj(_LEVEL)
        self._pieces: list[bytes] = []
        self._content_bytes = 0

    @property
    def is_full(self) -> bool:
        return self._content_bytes >= PART_CONTENT_BYTES

    def add(self, line: Line) -> None:
        raw = json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        self._content_bytes += len(raw)
        self._pieces.append(self._zlib.compress(raw))

    def end(self) -> bytes:
        """The content of what was added since the last one."""
        content = b"".join(self._pieces) + self._zlib.flush()
        self._begin()
        return content


def contents(lines: Iterable[Line]) -> list[bytes]:
    """The contents of the parts that these lines make; none for no lines."""
    packer, parts, is_open = Packer(), [], False
    for line in lines:
        packer.add(line)
        is_open = True
        if packer.is_full:
            parts.append(packer.end())
            is_open = False
    if is_open:
        parts.append(packer.end())
    return parts
