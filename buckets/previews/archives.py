"""What is in an archive, without unpacking it: ZIPs by their directory at the end, tars by their beginning.

    fetch(first, last)    gives the bytes of the archive from first to last, inclusive

An archive may say anything about itself. So every length is held against what there is, and entries, bytes read and
bytes unpacked have limits.
"""

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

MAX_ENTRIES = 1_000
_MAX_NAME = 1_024
_MAX_DIRECTORY = 1 << 20
_XZ_MEMORY = 64 << 20

Fetch = Callable[[int, int], bytes]


class Entry(NamedTuple):
    name: str
    size: int
    is_folder: bool = False
    is_locked: bool = False
    """Encrypted."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The entries in their order, and of how many; ``total`` None where the end was not read."""

    format: str
    entries: list[Entry]
    total: int | None

    @property
    def is_whole(self) -> bool:
        return self.total == len(self.entries)


class NoArchive(ValueError):
    """The bytes are none, or are broken."""


# --- ZIP (APPNOTE 6.3.10, sections 4.3.12 to 4.3.16) ---------------------------------------------------------------

_END = struct.Struct("<4s4H2LH")
_END_MARK = b"PK\x05\x06"
_LOCATOR = struct.Struct("<4sLQL")
_LOCATOR_MARK = b"PK\x06\x07"
_END_64 = struct.Struct("<4sQ2H2L4Q")
_END_64_MARK = b"PK\x06\x06"
_FILE = struct.Struct("<4s6H3L5H2L")
_FILE_MARK = b"PK\x01\x02"
_MAX_COMMENT = 0xFFFF
_FULL_32 = 0xFFFFFFFF


def list_zip(fetch: Fetch, size: int) -> Listing:
    """Reads the last 64 KiB, and of the directory no more than a thousand entries take. Raises NoArchive."""
    tail_at = max(0, size - _MAX_COMMENT - _END.size - _LOCATOR.size)
    tail = fetch(tail_at, size - 1)
    end_at = tail.rfind(_END_MARK, _LOCATOR.size if tail_at else 0)
    if end_at < 0 or end_at + _END.size > len(tail):
        raise NoArchive("There is no directory at the end of it.")
    *_, total, length, _, _ = _END.unpack_from(tail, end_at)
    end = tail_at + end_at
    if tail[max(0, end_at - _LOCATOR.size) : end_at].startswith(_LOCATOR_MARK):
        end = _LOCATOR.unpack_from(tail, end_at - _LOCATOR.size)[2]
        total, length = _end_64(fetch, end, size)
    # It ends where its end is told of. Where it starts is told too, but not rightly behind a self-extractor's program.
    start = end - length
    if start < 0:
        raise NoArchive("Its directory is longer than itself.")
    directory = fetch(start, start + min(length, _MAX_DIRECTORY) - 1) if length else b""
    entries: list[Entry] = []
    at = 0
    while len(entries) < MAX_ENTRIES and at + _FILE.size <= len(directory):
        mark, _, _, flags, _, _, _, _, _, plain, name_length, extra_length, comment_length, *_ = _FILE.unpack_from(
            directory, at
        )
        if mark != _FILE_MARK:
            raise NoArchive("Its directory is broken.")
        name_at = at + _FILE.size
        extra_at = name_at + name_length
        at = extra_at + extra_length + comment_length
        if at > len(directory):
            break
        name = directory[name_at:extra_at].decode("utf-8" if flags & 0x800 else "cp437", "replace")[:_MAX_NAME]
        if plain == _FULL_32:
            plain = _zip64_size(directory[extra_at : extra_at + extra_length])
        entries.append(Entry(name, plain, is_folder=name.endswith("/"), is_locked=bool(flags & 1)))
    return Listing("ZIP", entries, max(total, len(entries)))


def _end_64(fetch: Fetch, at: int, size: int) -> tuple[int, int]:
    """How many entries, and how many bytes of directory before ``at``."""
    if at + _END_64.size > size:
        raise NoArchive("Its directory lies behind its end.")
    mark, *_, total, length, _ = _END_64.unpack(fetch(at, at + _END_64.size - 1))
    if mark != _END_64_MARK:
        raise NoArchive("Its directory is broken.")
    return total, length


def _zip64_size(extra: bytes) -> int:
    """The first number of the field 1, which is there when the usual one has no room for it."""
    at = 0
    while at + 12 <= len(extra):
        field, length = struct.unpack_from("<2H", extra, at)
        if field == 1 and length >= 8:
            return int.from_bytes(extra[at + 4 : at + 12], "little")
        at += 4 + length
    return _FULL_32


# --- tar (POSIX ustar and pax, and GNU's long names) ---------------------------------------------------------------

_BLOCK = 512


def list_tar(data: bytes, *, is_cut: bool, form: str = "tar") -> Listing:
    """The entries whose headers are in ``data``, the beginning of a tar. ``is_cut``: more follows. Raises NoArchive."""
    entries: list[Entry] = []
    at, long_name, is_ended = 0, "", False
    while at + _BLOCK <= len(data) and len(entries) < MAX_ENTRIES:
        header = data[at : at + _BLOCK]
        if not header.strip(b"\0"):
            is_ended = True
            break
        size = _checked_size(header)
        if size is None:
            if not at:
                raise NoArchive("It does not begin as a tar does.")
            break
        body = data[at + _BLOCK : at + _BLOCK + size]
        at += _BLOCK + -(-size // _BLOCK) * _BLOCK
        kind = header[156:157]
        if kind == b"x":
            long_name = _pax_name(body) or long_name
        elif kind == b"L":
            long_name = _text(body)
        elif kind not in (b"g", b"K"):
            name = long_name or _name(header)
            entries.append(Entry(name[:_MAX_NAME], size, is_folder=kind == b"5" or name.endswith("/")))
            long_name = ""
    if not at and not is_ended:
        raise NoArchive("It is too short for a tar.")
    is_whole = is_ended or (not is_cut and at == len(data))
    return Listing(form, entries, len(entries) if is_whole else None)


def _checked_size(header: bytes) -> int | None:
    """The size that a header tells; None where its sum is wrong, and so it is none."""
    told = _octal(header[148:156])
    if told != sum(header) - sum(header[148:156]) + 8 * 0x20:
        return None
    if header[124] & 0x80:  # GNU's way to write what eleven octal digits can't
        return int.from_bytes(header[124:136], "big") & ((1 << 63) - 1)
    return _octal(header[124:136])


def _octal(field: bytes) -> int | None:
    digits = field.strip(b"\0 ")
    if not digits:
        return 0
    return int(digits, 8) if all(0x30 <= byte < 0x38 for byte in digits) else None


def _name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name


def _pax_name(body: bytes) -> str:
    """Of records such as `30 path=some/name\\n`."""
    at = 0
    while (space := body.find(b" ", at, at + 20)) > 0 and body[at:space].isdigit():
        length = int(body[at:space])
        record = body[space + 1 : at + length - 1]
        if record.startswith(b"path="):
            return _text(record[5:])
        if length <= space - at:
            break
        at += length
    return ""


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "replace")


# --- What is packed as a whole --------------------------------------------------------------------------------------


class _Unpacker(Protocol):
    """What bz2 and lzma have alike."""

    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


def unpack(data: bytes, limit: int) -> tuple[bytes, bool, str] | None:
    """The first ``limit`` bytes of what gzip, bzip2 or xz packed, whether that is all, and which; None for others.

    ``data`` may be the beginning of it. Raises NoArchive.
    """
    if data.startswith(b"\x1f\x8b"):
        unzip = zlib.decompressobj(wbits=31)
        try:
            plain = unzip.decompress(data, limit)
        except zlib.error as error:
            raise NoArchive(str(error)) from error
        return plain, unzip.eof, "gzip"
    unpacker: _Unpacker
    if data.startswith(b"BZh"):
        unpacker, form = bz2.BZ2Decompressor(), "bzip2"
    elif data.startswith(b"\xfd7zXZ\0"):
        unpacker, form = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY), "xz"
    else:
        return None
    try:
        plain = unpacker.decompress(data, limit)
    except (OSError, ValueError, lzma.LZMAError) as error:
        raise NoArchive(str(error)) from error
    return plain, unpacker.eof, form
