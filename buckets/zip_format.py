"""The layout of a ZIP file whose members are stored as they are, with nothing to be filled in later.

Sizes and CRCs are known before the bytes are read, so every header is whole and any tool can read the file as it
comes. ZIP64 (APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3) stands only where a number needs it. Pure module.

    local header, bytes of the member    for each member
    central header                       for each member, in the same order
    [ZIP64 end, ZIP64 locator]           where there are more than 65,534 members, or 4 GiB
    end
"""

import struct
from datetime import UTC, datetime
from typing import NamedTuple

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
assert (_LOCAL.size, _CENTRAL.size, _END.size, _END64.size, _LOCATOR64.size) == (30, 46, 22, 56, 20)

_VERSION, _VERSION64 = 20, 45
_UNIX = 3 << 8
_UTF8 = 1 << 11
_STORED = 0
_FULL32, _FULL16 = 0xFFFFFFFF, 0xFFFF
_EXTRA64, _EXTRA_TIME = 1, 0x5455
_FILE, _FOLDER = 0o100644 << 16, 0o040755 << 16 | 0x10
_FIRST_YEAR, _LAST_YEAR = 1980, 2107
_MAX_UNIX_TIME = (1 << 31) - 1


class Member(NamedTuple):
    """A file in the archive; a name that ends with a slash is a folder's."""

    name: str
    size: int
    crc32: int
    modified_at: datetime


def local_header(member: Member) -> bytes:
    """What stands before the member's bytes."""
    name = member.name.encode()
    is_large = member.size >= _FULL32
    extra = _time_extra(member)
    if is_large:
        extra += struct.pack("<2H2Q", _EXTRA64, 16, member.size, member.size)
    size = _FULL32 if is_large else member.size
    version = _VERSION64 if is_large else _VERSION
    fixed = (b"PK\3\4", version, _UTF8, _STORED, *_dos_time(member), member.crc32, size, size)
    return _LOCAL.pack(*fixed, len(name), len(extra)) + name + extra


def central_header(member: Member, *, offset: int) -> bytes:
    """The member's entry in the directory; its local header is at ``offset``."""
    name = member.name.encode()
    numbers = [member.size, member.size] if member.size >= _FULL32 else []
    if offset >= _FULL32:
        numbers.append(offset)
    extra = _time_extra(member)
    if numbers:
        extra += struct.pack(f"<2H{len(numbers)}Q", _EXTRA64, 8 * len(numbers), *numbers)
    version = _VERSION64 if numbers else _VERSION
    size = min(member.size, _FULL32)
    kind = _FOLDER if member.name.endswith("/") else _FILE
    fixed = (b"PK\1\2", _UNIX | version, version, _UTF8, _STORED, *_dos_time(member), member.crc32, size, size)
    return _CENTRAL.pack(*fixed, len(name), len(extra), 0, 0, 0, kind, min(offset, _FULL32)) + name + extra


def end_of_archive(*, count: int, directory_bytes: int, directory_at: int) -> bytes:
    """What stands behind the last central header."""
    tail = b""
    if count >= _FULL16 or directory_bytes >= _FULL32 or directory_at >= _FULL32:
        tail = _END64.pack(
            b"PK\6\6",
            _END64.size - 12,
            _UNIX | _VERSION64,
            _VERSION64,
            0,
            0,
            count,
            count,
            directory_bytes,
            directory_at,
        )
        tail += _LOCATOR64.pack(b"PK\6\7", 0, directory_at + directory_bytes, 1)
    few = min(count, _FULL16)
    return tail + _END.pack(b"PK\5\6", 0, 0, few, few, min(directory_bytes, _FULL32), min(directory_at, _FULL32), 0)


def _dos_time(member: Member) -> tuple[int, int]:
    """Time and date as MS-DOS had them, of UTC: tools that know the other field show the reader's own time."""
    at = member.modified_at.astimezone(UTC)
    if not _FIRST_YEAR <= at.year <= _LAST_YEAR:
        return 0, 1 << 5 | 1
    return at.hour << 11 | at.minute << 5 | at.second // 2, at.year - _FIRST_YEAR << 9 | at.month << 5 | at.day


def _time_extra(member: Member) -> bytes:
    seconds = min(max(0, int(member.modified_at.timestamp())), _MAX_UNIX_TIME)
    return struct.pack("<2HBI", _EXTRA_TIME, 5, 1, seconds)
