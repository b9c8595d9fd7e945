"""The scrub: damage of every kind is found once and nothing else is, at the pace it was given, and spares the cache."""

import ctypes
import errno
import mmap
import os
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.unit.volume_server.faults import NEEDLE, SUPERBLOCK, delete, finish, new_volume, put, write
from volume_server import record
from volume_server.damage import BAD_CRC, BAD_SUPERBLOCK, CUT_OFF, NO_RECORD, Damage, name_needles
from volume_server.durability import FileSystem
from volume_server.pace import Pace
from volume_server.recovery import WINDOW_BYTES
from volume_server.scrub import PAGE_BYTES, SparingFiles, scrub
from volume_server.superblock import RECORDS_START
from volume_server.volume import Claim

PIECE_BYTES = 512 << 10
LARGE = (2 * WINDOW_BYTES) + 12_345


class Filled:
    """A volume with records of every kind and of sizes on either side of the window's."""

    def __init__(self, directory: Path) -> None:
        self.volume = volume = new_volume(directory)
        random.seed(7)
        self.claims = [
            put(volume, NEEDLE + slot, random.randbytes(size))
            for slot, size in enumerate((0, 1, 1000, 5000, LARGE, 8, 70_000, 1, WINDOW_BYTES, 3, 9000, 100))
        ]
        self.dead = self.claims[2]
        self.tombstone = delete(volume, self.dead.needle, verdict="412 precondition_failed")
        slow = volume.reserve(NEEDLE + 100, b"meta", 5000, appended_ms=1)
        behind = volume.reserve(NEEDLE + 101, b"meta", 5000, appended_ms=1)
        finish(volume, behind, random.randbytes(5000))
        volume.write_data(slow, record.MAGIC * 1000, 0)
        volume.abort(slow)
        self.filler = slow
        self.claims.append(behind)
        self.last = put(volume, NEEDLE + 200, b"the last one")

    def found(self, files: FileSystem | None = None, *, end: int | None = None) -> list[Damage]:
        volume = self.volume
        end = volume.watermark if end is None else end
        return list(scrub(files or FileSystem(), volume.fd, volume.superblock, end=end))

    def poke(self, offset: int, raw: bytes) -> None:
        os.pwrite(self.volume.fd, raw, offset)

    def flip(self, offset: int, bit: int = 0) -> None:
        [byte] = os.pread(self.volume.fd, 1, offset)
        self.poke(offset, bytes([byte ^ 1 << bit]))


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    made = Filled(tmp_path)
    yield made
    made.volume.close(clean=False)


def of_record(claim: Claim, reason: str) -> Damage:
    return Damage(claim.offset, claim.record_bytes, claim.needle, reason)


def of_bytes(claim: Claim, reason: str) -> Damage:
    return Damage(claim.offset, claim.record_bytes, None, reason)


def test_healthy_volume_has_no_damage(filled: Filled) -> None:
    assert filled.found() == []


def test_empty_volume_has_no_damage(tmp_path: Path) -> None:
    volume = new_volume(tmp_path)
    assert list(scrub(FileSystem(), volume.fd, SUPERBLOCK, end=RECORDS_START)) == []


def test_flipped_bit_in_any_record_is_found_where_it_is(filled: Filled) -> None:
    """In its data, its meta or its header; first byte and last; of live and dead records and of tombstones."""
    for claim in [*filled.claims, filled.tombstone, filled.last]:
        for offset, expected in (
            (claim.offset, of_bytes(claim, NO_RECORD)),
            (claim.offset + 13, of_bytes(claim, NO_RECORD)),
            (claim.offset + record.HEADER_BYTES - 1, of_bytes(claim, NO_RECORD)),
            (claim.offset + record.HEADER_BYTES, of_record(claim, BAD_CRC)),
            (claim.offset + claim.stored_bytes - 1, of_record(claim, BAD_CRC)),
        ):
            filled.flip(offset, bit=offset % 8)
            assert filled.found() == [expected], (claim, offset)
            filled.flip(offset, bit=offset % 8)
    assert filled.found() == []


def test_all_of_many_damages_are_found_each_once(filled: Filled) -> None:
    claims = filled.claims
    filled.flip(claims[1].offset + claims[1].stored_bytes - 1)
    filled.flip(claims[4].offset + LARGE // 2)
    filled.flip(claims[6].offset + 3)
    filled.flip(claims[8].offset + 50)
    filled.flip(filled.last.offset + 39)
    assert filled.found() == [
        of_record(claims[1], BAD_CRC),
        of_record(claims[4], BAD_CRC),
        of_bytes(claims[6], NO_RECORD),
        of_record(claims[8], BAD_CRC),
        of_bytes(filled.last, NO_RECORD),
    ]


def test_page_of_zeros_takes_what_begins_in_it_and_what_reaches_into_it(filled: Filled) -> None:
    one, *others, last = filled.claims[5:8]
    for claim in (one, *others):
        assert claim.offset < last.offset
    start = one.offset + one.stored_bytes - 1
    filled.poke(start, bytes(last.offset - start))
    gap = Damage(others[0].offset, last.offset - others[0].offset, None, NO_RECORD)
    assert filled.found() == [of_record(one, BAD_CRC), gap]


def test_nothing_in_a_filler_is_damage_but_its_header_is(filled: Filled) -> None:
    filled.flip(filled.filler.offset + 1000)
    assert filled.found() == []
    filled.flip(filled.filler.offset + 8)
    assert filled.found() == [of_bytes(filled.filler, NO_RECORD)]


def test_what_is_not_settled_is_left_alone(filled: Filled) -> None:
    volume = filled.volume
    claim = volume.reserve(NEEDLE + 300, b"", 1000, appended_ms=1)
    filled.poke(claim.offset, bytes(40))
    write(volume, NEEDLE + 301, b"behind")
    assert volume.watermark == claim.offset
    assert filled.found() == []


@pytest.mark.parametrize("copy", [0, 4096])
def test_each_copy_of_the_superblock_is_compared_with_what_it_was(filled: Filled, copy: int) -> None:
    filled.flip(copy + 20)
    assert filled.found() == [Damage(copy, 52, None, BAD_SUPERBLOCK)]


def test_file_that_became_shorter_is_damaged_up_to_where_it_went(filled: Filled) -> None:
    end = filled.volume.tail
    lost = filled.last.offset
    os.ftruncate(filled.volume.fd, lost)
    assert filled.found() == [Damage(lost, end - lost, None, CUT_OFF)]


class BadPages(FileSystem):
    """A device that does not give some of its pages."""

    def __init__(self, *pages: int, error: int = errno.EIO) -> None:
        self.pages = pages
        self.error = error

    def read_at(self, fd: int, size_bytes: int, offset: int) -> bytes:
        for page in self.pages:
            if page < offset + size_bytes and offset < page + 4096:
                raise OSError(self.error, os.strerror(self.error))
        return super().read_at(fd, size_bytes, offset)


EIO_REASON = f"it cannot be read: {os.strerror(errno.EIO)}"


def test_page_that_cannot_be_read_damages_its_records_and_hides_none(filled: Filled) -> None:
    large, small = filled.claims[4], filled.claims[10]
    pages = [(large.offset + LARGE // 2) & -4096, (large.offset + LARGE // 2 + 8192) & -4096]
    pages.append((small.offset + small.stored_bytes // 2) & -4096)
    filled.flip(filled.last.offset + 45)
    expected = [of_record(large, EIO_REASON)]
    header_lost = pages[-1] <= small.offset + 39
    expected += [] if header_lost else [of_record(small, EIO_REASON)]
    expected += [of_record(filled.last, BAD_CRC)]
    assert not header_lost
    assert filled.found(BadPages(*pages)) == expected


def test_header_that_cannot_be_read_damages_all_up_to_the_next(filled: Filled) -> None:
    at = filled.claims[6]
    page = at.offset & -4096
    found = filled.found(BadPages(page))
    assert [damage.reason for damage in found] == [EIO_REASON] * len(found)
    touched = [
        claim
        for claim in [*filled.claims, filled.tombstone, filled.last]
        if claim.offset < page + 4096 and claim.offset + claim.stored_bytes > page
    ]
    assert at in touched
    for claim in touched:
        assert any(damage.offset <= claim.offset < damage.end for damage in found), claim
    assert found[-1].end <= touched[-1].offset + touched[-1].record_bytes


def test_superblock_that_cannot_be_read_is_damage(filled: Filled) -> None:
    assert filled.found(BadPages(0)) == [Damage(0, 52, None, EIO_REASON)]


def test_page_of_zeros_and_one_that_cannot_be_read_are_told_apart(tmp_path: Path) -> None:
    """A record of zeros has the right CRC even where the device gave nothing."""
    volume = new_volume(tmp_path)
    claim = put(volume, NEEDLE, bytes(20_000))
    bad = BadPages((claim.offset + 10_000) & -4096)
    assert list(scrub(bad, volume.fd, SUPERBLOCK, end=volume.tail)) == [of_record(claim, EIO_REASON)]


def test_page_that_can_be_read_the_second_time_is_sound(filled: Filled) -> None:
    class OnceBad(BadPages):
        def read_at(self, fd: int, size_bytes: int, offset: int) -> bytes:
            try:
                return super().read_at(fd, size_bytes, offset)
            except OSError:
                self.pages = ()
                raise

    assert filled.found(OnceBad(filled.claims[4].offset & -4096)) == []


def test_error_that_says_nothing_of_the_data_ends_the_pass(filled: Filled) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        filled.found(BadPages(16_384, error=errno.EBADF))


class FakeTime:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.naps: list[float] = []

    def now(self) -> float:
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        self.naps.append(duration_s)
        self.now_s += duration_s


def test_pace_is_kept_and_the_pass_is_heard_of_meanwhile(filled: Filled) -> None:
    time, rate = FakeTime(), 1 << 20
    heard: list[tuple[float, int]] = []
    pace = Pace(rate, now=time.now, sleep=time.sleep)
    volume = filled.volume
    found = list(
        scrub(
            FileSystem(),
            volume.fd,
            SUPERBLOCK,
            end=volume.tail,
            pace=pace,
            progress=lambda at: heard.append((time.now_s, at)),
        )
    )
    assert found == []
    least_s = (volume.tail - RECORDS_START) / rate - 1
    assert least_s < time.now_s < 1.2 * least_s + 1
    assert max(time.naps) <= 0.5
    times = [at_s for at_s, _ in heard]
    assert max(later - earlier for earlier, later in pairwise(times)) <= 0.5
    assert heard[-1][1] == volume.tail


def test_pass_reads_hardly_more_than_the_file(filled: Filled) -> None:
    class Counting(FileSystem):
        read_bytes = 0

        def read_at(self, fd: int, size_bytes: int, offset: int) -> bytes:
            self.read_bytes += size_bytes
            return super().read_at(fd, size_bytes, offset)

    files = Counting()
    assert filled.found(files) == []
    assert files.read_bytes < 1.2 * filled.volume.tail


# -- the page cache ----------------------------------------------------------------------------------------------


def cached_pages(path: Path) -> list[int]:
    """Which pages of a file the kernel has in memory, by mincore(2): asking changes nothing."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as mapped:
        states = (ctypes.c_ubyte * -(-len(mapped) // PAGE_BYTES))()
        start = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None).mincore(
            ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(len(mapped)), states
        )  # fmt: skip
        del start
        assert not failed
    return [page for page, state in enumerate(states) if state & 1]


def test_cache_is_left_as_it_was(tmp_path: Path) -> None:
    """What was not cached is not afterwards, what was still is."""
    content = random.Random(1).randbytes(6 * PIECE_BYTES)
    path = tmp_path / "file"
    path.write_bytes(content)
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if cached_pages(path):
            pytest.skip("this file system keeps its files in memory")
        for offset in (0, 2 * PIECE_BYTES + 8192, 4 * PIECE_BYTES, 4 * PIECE_BYTES + PAGE_BYTES):
            os.pread(fd, 1, offset)
        hot = cached_pages(path)
        assert 0 < len(hot) < len(content) // PAGE_BYTES // 2
        files = SparingFiles()
        again = files.open_again(fd)
        assert b"".join(files.read_at(again, PIECE_BYTES * 2, at * PIECE_BYTES) for at in (0, 2, 4)) == content
        files.close(again)
        assert cached_pages(path) == hot


def test_nothing_is_read_ahead(tmp_path: Path) -> None:
    """What was read ahead would be in the cache already when its turn comes, and stay there."""
    path = tmp_path / "file"
    path.write_bytes(bytes(PIECE_BYTES * 4))
    files = SparingFiles()
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if cached_pages(path):
            pytest.skip("this file system keeps its files in memory")
        again = files.open_again(file.fileno())
        for offset in range(0, 16 * PAGE_BYTES, 4 * PAGE_BYTES):
            files.read_at(again, 4 * PAGE_BYTES, offset)
        files.close(again)
    assert cached_pages(path) == []


def test_sparing_read_gives_what_a_plain_one_does(tmp_path: Path) -> None:
    content = random.Random(2).randbytes(2 * PIECE_BYTES + 77)
    path = tmp_path / "file"
    path.write_bytes(content)
    with path.open("rb", buffering=0) as file:
        files = SparingFiles()
        fd = files.open_again(file.fileno())
        for offset, size_bytes in ((0, len(content)), (0, 10), (77, PIECE_BYTES), (5, 9 * PIECE_BYTES), (10**9, 5)):
            assert files.read_at(fd, size_bytes, offset) == content[offset : offset + size_bytes]
        files.close(fd)


def test_where_the_kernel_does_not_tell_what_is_cached_all_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Libc:
        def mincore(self, *arguments: object) -> int:
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Libc())
    monkeypatch.setattr(os, "posix_fadvise", lambda *_: pytest.fail("nothing may be dropped"))
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10_000)
    with path.open("rb", buffering=0) as file:
        assert SparingFiles().read_at(file.fileno(), 20_000, 5) == b"x" * 9995


# -- damage as it is told ----------------------------------------------------------------------------------------


def test_damage_keeps_over_json() -> None:
    for damage in (Damage(8192, 48, 1 << 63, BAD_CRC), Damage(0, 52, None, BAD_SUPERBLOCK)):
        assert Damage.of_json(damage.to_json()) == damage


def test_gap_is_divided_among_the_needles_that_lie_in_it() -> None:
    gap = Damage(1000, 800, None, NO_RECORD)
    assert name_needles(gap, []) == [gap]
    assert name_needles(gap, [(7, 1000, 800)]) == [Damage(1000, 800, 7, NO_RECORD)]
    assert name_needles(gap, [(8, 1600, 160), (7, 1080, 200)]) == [
        Damage(1000, 80, None, NO_RECORD),
        Damage(1080, 200, 7, NO_RECORD),
        Damage(1280, 320, None, NO_RECORD),
        Damage(1600, 160, 8, NO_RECORD),
        Damage(1760, 40, None, NO_RECORD),
    ]
