"""What a compaction has copied is read again, in this process or in one of its own."""

import errno
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.volume_server.faults import META, NEEDLE, new_volume, put
from volume_server import verification
from volume_server.durability import FileSystem
from volume_server.record import HEADER_BYTES, Tagger
from volume_server.superblock import RECORDS_START
from volume_server.verification import ForkedVerifier, Verified, Verifier
from volume_server.volume import Claim, Volume

Make = Callable[..., Verifier]
SIZES = (0, 1, 500, 70_000, 300_000)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    found = new_volume(tmp_path)
    yield found
    os.close(found.fd)


@pytest.fixture(params=[Verifier, ForkedVerifier])
def make(request: pytest.FixtureRequest, volume: Volume) -> Iterator[Make]:
    made: list[Verifier] = []

    def verifier(files: FileSystem | None = None) -> Verifier:
        made.append(request.param(files or FileSystem(), volume.path, Tagger(volume.superblock.salt)))
        return made[-1]

    yield verifier
    for one in made:
        one.close()


def fill(volume: Volume) -> list[Claim]:
    return [put(volume, NEEDLE + number, os.urandom(size)) for number, size in enumerate(SIZES)]


def headers_crc(volume: Volume, claims: list[Claim]) -> int:
    crc = 0
    for claim in claims:
        crc = zlib.crc32(os.pread(volume.fd, HEADER_BYTES, claim.offset), crc)
    return crc


def flip(volume: Volume, at: int) -> None:
    raw = os.pread(volume.fd, 1, at)
    os.pwrite(volume.fd, bytes([raw[0] ^ 1]), at)


@pytest.mark.parametrize("window_bytes", [HEADER_BYTES, 1000, 1 << 20])
def test_whole_records_are_sound(
    volume: Volume, make: Make, window_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "WINDOW_BYTES", window_bytes)
    claims = fill(volume)
    verifier = make()
    verifier.begin(RECORDS_START, volume.tail)
    verifier.begin(claims[2].offset, volume.tail)
    verifier.begin(volume.tail, volume.tail)
    assert verifier.result() == Verified(headers_crc(volume, claims), [])
    assert verifier.result() == Verified(headers_crc(volume, claims[2:]), [])
    assert verifier.result() == Verified(0, [])


@pytest.mark.parametrize("which", range(len(SIZES)))
def test_flipped_bits_are_found(volume: Volume, make: Make, which: int) -> None:
    claims = fill(volume)
    crc = headers_crc(volume, claims)
    flip(volume, claims[which].offset + HEADER_BYTES + len(META) - 1)
    verifier = make()
    verifier.begin(RECORDS_START, volume.tail)
    assert verifier.result() == Verified(crc, [claims[which].offset])
    flip(volume, claims[which].offset + 9)
    verifier.begin(RECORDS_START, volume.tail)
    assert verifier.result().headers_crc is None


def test_what_ends_within_a_record_is_no_record(volume: Volume, make: Make) -> None:
    claims = fill(volume)
    verifier = make()
    for end in (claims[-1].offset + 8, claims[-1].offset + HEADER_BYTES, volume.tail - 8, volume.tail + 8):
        verifier.begin(claims[-1].offset, end)
        assert verifier.result().headers_crc is None


def test_genuine_record_of_another_needle_is_seen_by_its_header(volume: Volume, make: Make) -> None:
    one, other = put(volume, NEEDLE, b"same"), put(volume, NEEDLE + 1, b"same")
    crc = headers_crc(volume, [one, other])
    os.pwrite(volume.fd, os.pread(volume.fd, one.record_bytes, one.offset), other.offset)
    verifier = make()
    verifier.begin(RECORDS_START, volume.tail)
    found = verifier.result()
    assert found.headers_crc not in (None, crc)
    assert found.unsound == []


class Broken(FileSystem):
    def __init__(self, call: str) -> None:
        self.call = call

    def read_at(self, fd: int, size_bytes: int, offset: int) -> bytes:
        if self.call == "read_at":
            raise OSError(errno.EIO, "broken disk")
        return super().read_at(fd, size_bytes, offset)

    def start_writeback(self, fd: int, offset: int, size_bytes: int) -> None:
        if self.call == "start_writeback":
            raise OSError(errno.EIO, "broken disk")
        super().start_writeback(fd, offset, size_bytes)


@pytest.mark.parametrize("call", ["read_at", "start_writeback"])
def test_errors_of_the_disk_are_told(volume: Volume, make: Make, call: str) -> None:
    fill(volume)

    def verify() -> None:
        verifier = make(Broken(call))
        verifier.begin(RECORDS_START, volume.tail)
        verifier.result()

    with pytest.raises(OSError, match="broken disk"):
        verify()


def test_process_that_is_killed_is_an_error_and_no_verdict(volume: Volume) -> None:
    fill(volume)
    verifier = ForkedVerifier(FileSystem(), volume.path, Tagger(volume.superblock.salt))
    try:
        verifier._process.kill()
        verifier._process.join()
        with pytest.raises(OSError, match="ended too early"):
            verifier.begin(RECORDS_START, volume.tail)
    finally:
        verifier.close()


def test_process_goes_when_its_maker_goes(volume: Volume) -> None:
    """However that ended: the pipe is all that holds it."""
    verifier = ForkedVerifier(FileSystem(), volume.path, Tagger(volume.superblock.salt))
    pid = verifier._process.pid
    assert pid is not None
    verifier.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_process_ends_in_peace_when_its_maker_goes_while_it_verifies(volume: Volume) -> None:
    """A killed compaction leaves nobody to tell; that is no error of the process beside it."""
    fill(volume)
    gate, opener = os.pipe()

    class Gated(FileSystem):
        def read_at(self, fd: int, size_bytes: int, offset: int) -> bytes:
            os.read(gate, 1)
            return super().read_at(fd, size_bytes, offset)

    verifier = ForkedVerifier(Gated(), volume.path, Tagger(volume.superblock.salt))
    verifier.begin(RECORDS_START, volume.tail)
    verifier._connection.close()
    os.write(opener, b"go" * 100)
    verifier._process.join()
    assert verifier._process.exitcode == 0
    verifier.close()
    os.close(gate)
    os.close(opener)
