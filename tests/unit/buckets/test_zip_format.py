"""Archives of the layout, as the standard library and (beyond 4 GiB) its parser of headers read them."""

import io
import zipfile
from datetime import UTC, datetime
from zlib import crc32

from buckets.zip_format import Member, central_header, end_of_archive, local_header

AT = datetime(2026, 11, 23, 13, 30, 58, tzinfo=UTC)


def archive(*members: tuple[Member, bytes]) -> bytes:
    raw, directory = b"", b""
    for member, body in members:
        directory += central_header(member, offset=len(raw))
        raw += local_header(member) + body
    return raw + directory + end_of_archive(count=len(members), directory_bytes=len(directory), directory_at=len(raw))


def test_others_read_it() -> None:
    body = b"bytes of it"
    names = ["文/a b.txt", "empty", "folder/"]
    made = archive(*[(Member(name, len(body), crc32(body), AT), body) for name in names[:1]],
                   *[(Member(name, 0, 0, AT), b"") for name in names[1:]])  # fmt: skip
    with zipfile.ZipFile(io.BytesIO(made)) as opened:
        assert opened.testzip() is None
        assert opened.namelist() == names
        assert opened.read(names[0]) == body
        assert [one.is_dir() for one in opened.infolist()] == [False, False, True]
        assert opened.infolist()[0].date_time == (2026, 11, 23, 13, 30, 58)


def test_numbers_that_need_64_bits() -> None:
    """The directory of an archive of 5 GiB and 70,000 members, with nothing in front of it but a file that is holes."""
    size, count = 5 << 30, 70_000
    large, small = Member("large", size, 7, AT), Member("s", 0, 0, AT)
    assert local_header(large).endswith((size).to_bytes(8, "little") * 2)
    begin = len(local_header(large)) + size
    directory = central_header(large, offset=0)
    directory += b"".join(central_header(small, offset=begin + 31 * at) for at in range(count - 1))
    end = end_of_archive(count=count, directory_bytes=len(directory), directory_at=begin)

    class Holes(io.BytesIO):
        """Its bytes stand at `begin`."""

        def seek(self, at: int, whence: int = 0) -> int:
            return super().seek(max(0, at - begin) if whence == 0 else at, whence) + begin

        def tell(self) -> int:
            return super().tell() + begin

    with zipfile.ZipFile(Holes(directory + end)) as opened:
        found = opened.infolist()
    assert len(found) == count
    assert (found[0].file_size, found[0].header_offset) == (size, 0)
    assert found[-1].header_offset == begin + 31 * (count - 2)


def test_times_that_no_field_holds() -> None:
    for year in (1, 1969, 9999):
        made = archive((Member("k", 0, 0, datetime(year, 1, 1, tzinfo=UTC)), b""))
        with zipfile.ZipFile(io.BytesIO(made)) as opened:
            assert opened.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)
