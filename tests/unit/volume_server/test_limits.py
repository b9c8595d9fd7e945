"""The format's limits, met exactly: far offsets in sparse files, the largest record, a full volume, a whole lease."""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.volume_server.faults import META, NEEDLE, contents, data_of, delete, finish, new_volume, put, reopen
from tests.unit.volume_server.serving import FIRST, Server, lease, put_url, request, running
from volume_server import record, recovery
from volume_server.durability import FileSystem
from volume_server.errors import VolumeFull
from volume_server.index import MAX_OFFSET
from volume_server.record import HEADER_BYTES, MAX_RECORD_BYTES
from volume_server.superblock import RECORDS_START
from volume_server.volume import MAX_TOMBSTONE_BYTES, Volume

BORDERS = {"4 GiB": 1 << 32, "32 GiB": 1 << 35, "256 GiB": 1 << 38}
LAST_END = MAX_OFFSET - MAX_TOMBSTONE_BYTES
"""Where the only needle of a volume may end at most."""


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    volume = new_volume(tmp_path)
    volume.size_limit = 1 << 60
    return volume


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recovery jumps from header to header here; what it would read along is holes."""
    monkeypatch.setattr(recovery, "WINDOW_BYTES", 1 << 16)


def reach(volume: Volume, offset: int) -> Volume:
    """The volume with its tail at ``offset``, behind fillers: aborted uploads of the largest size, all of them holes.

    Opened anew as after a crash, so that it has read them.
    """
    assert not volume.index.get(NEEDLE)
    volume.close(clean=False)
    with volume.path.open("r+b") as file:
        at = volume.tail
        while at < offset:
            size_bytes = min(offset - at, MAX_RECORD_BYTES)
            if 0 < offset - at - size_bytes < HEADER_BYTES:
                size_bytes -= HEADER_BYTES
            filler = record.encode_filler(volume.tagger, NEEDLE, record_bytes=size_bytes, appended_ms=1)
            os.pwrite(file.fileno(), filler, at)
            at += size_bytes
        file.truncate(at)
    again = Volume.open(FileSystem(), volume.path)
    again.size_limit = volume.size_limit
    assert again.tail == offset
    assert again.figures.garbage_bytes == offset - RECORDS_START
    return again


def on_disk_bytes(volume: Volume) -> int:
    return volume.path.stat().st_blocks * 512


@pytest.mark.parametrize("ahead_bytes", [0, 8, HEADER_BYTES, HEADER_BYTES + len(META), 200, 1000])
@pytest.mark.parametrize("border", BORDERS.values(), ids=list(BORDERS))
def test_needles_before_across_and_behind_a_border(volume: Volume, border: int, ahead_bytes: int) -> None:
    """Written small and streamed, read, deleted; through the index, and through a scan without one."""
    volume = reach(volume, border - record.aligned(ahead_bytes))
    bodies = {NEEDLE + number: os.urandom(300) for number in range(1, 5)}
    streamed = NEEDLE + 3
    offsets = {}
    for needle, body in bodies.items():
        if needle == streamed:
            claim = volume.reserve(needle, META, len(body), appended_ms=1)
            finish(volume, claim, body)
        else:
            claim = put(volume, needle, body)
        offsets[needle] = (claim.offset, claim.stored_bytes)
    assert volume.tail > border
    assert {needle: volume.locate(needle) for needle in bodies} == offsets
    grave = delete(volume, NEEDLE + 4)
    expected = {**bodies, NEEDLE + 4: None}
    for opened in ("as it is", "dirty", "clean", "without an index"):
        if opened != "as it is":
            volume = reopen(volume, clean=opened == "clean")
        if opened == "without an index":
            volume.close(clean=False)
            volume.path.with_suffix(".idx").unlink()
            volume = Volume.open(FileSystem(), volume.path)
        assert contents(volume) == expected, opened
        assert {needle: volume.locate(needle) for needle in bodies if needle != NEEDLE + 4} == {
            needle: at for needle, at in offsets.items() if needle != NEEDLE + 4
        }
        assert volume.index.get(NEEDLE + 4) == (grave.offset, 0)
        found = volume.look(NEEDLE + 2)
        assert volume.same_data(found, bodies[NEEDLE + 2][100:150], 100)
    assert on_disk_bytes(volume) < 32 << 20, "sparse: the test costs no disk"


def test_last_offset_of_the_format(volume: Volume) -> None:
    """The last record ends where its tombstone still has an offset; one step further nothing is written."""
    data = b"the last"
    record_bytes = record.aligned(HEADER_BYTES + len(META) + len(data))
    volume = reach(volume, LAST_END - record_bytes)
    volume.size_limit = 1 << 60
    with pytest.raises(VolumeFull):
        volume.append(NEEDLE, META, data + bytes(8), data_crc=0, appended_ms=1)
    with pytest.raises(VolumeFull):
        volume.reserve(NEEDLE, META, len(data) + 8, appended_ms=1)
    assert volume.path.stat().st_size == LAST_END - record_bytes
    claim = put(volume, NEEDLE, data)
    assert (claim.offset, volume.tail) == (LAST_END - record_bytes, LAST_END)
    with pytest.raises(VolumeFull):
        volume.append(NEEDLE + 1, b"", b"", data_crc=0, appended_ms=1)
    assert data_of(volume, NEEDLE) == data
    grave = delete(volume, NEEDLE, verdict="4" * 256)
    assert (grave.offset, volume.tail) == (LAST_END, MAX_OFFSET)
    for clean in (False, True):
        volume = reopen(volume, clean=clean)
        assert volume.index.get(NEEDLE) == (LAST_END, 0)
        assert volume.verdict_of_dead(NEEDLE) == "4" * 256


def test_largest_offset_is_kept_exactly(volume: Volume) -> None:
    volume.index.put(NEEDLE, MAX_OFFSET, MAX_RECORD_BYTES)
    assert volume.index.get(NEEDLE) == (MAX_OFFSET, MAX_RECORD_BYTES)
    volume.tail = MAX_OFFSET + 8
    with pytest.raises(VolumeFull, match="where the index's offsets do"):
        volume.tombstone(NEEDLE, appended_ms=1)


@pytest.mark.parametrize("border", [*BORDERS.values()], ids=list(BORDERS))
def test_largest_record_across_a_border(volume: Volume, border: int) -> None:
    """Its bytes but the last are holes; its length and its CRC are whole."""
    volume = reach(volume, border - (MAX_RECORD_BYTES >> 1) // 8 * 8)
    size_bytes = MAX_RECORD_BYTES - HEADER_BYTES - len(META)
    claim = volume.reserve(NEEDLE, META, size_bytes, appended_ms=1)
    assert claim.record_bytes == MAX_RECORD_BYTES
    volume.write_data(claim, b"end", size_bytes - 3)
    volume.finish(claim, data_crc=zlib.crc32(b"end", crc_of_zeros(size_bytes - 3)))
    volume.sync_log()
    volume.settle([claim])
    behind = put(volume, NEEDLE + 1, b"behind it")
    assert behind.offset == claim.offset + MAX_RECORD_BYTES
    again = reopen(volume, clean=False)
    assert again.locate(NEEDLE) == (claim.offset, MAX_RECORD_BYTES)
    assert again.figures.damaged_count == 0
    assert again.same_data(again.look(NEEDLE), b"\0end", size_bytes - 4)
    assert data_of(again, NEEDLE + 1) == b"behind it"
    assert on_disk_bytes(again) < 32 << 20


def crc_of_zeros(size_bytes: int) -> int:
    crc, piece = 0, bytes(1 << 20)
    for start in range(0, size_bytes, len(piece)):
        crc = zlib.crc32(piece[: size_bytes - start], crc)
    return crc


# -- at the wire -------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path) as server:
        yield server


def test_needle_of_no_bytes(server: Server) -> None:
    answer = server.put(FIRST, b"")
    assert (answer.status, answer.json()["size"], answer.json()["crc32"]) == (201, 0, 0)
    assert server.put(FIRST, b"").json() == answer.json()
    assert server.put(FIRST, b"x").code == (409, "needle_taken")
    found = server.get()
    assert (found.status, found.body, found.headers["content-length"]) == (200, b"", "0")
    assert server.get(Range="bytes=0-").code[0] == 416


def test_volume_that_is_full_to_the_byte(server: Server) -> None:
    """The last record that fits is taken; one byte more is 507; the dead are buried all the same."""
    server.put(FIRST, b"x" * 1000)
    record_bytes = server.volume.tail - RECORDS_START
    server.volume.size_limit = server.volume.tail + record_bytes
    room_bytes = record_bytes - (HEADER_BYTES + len(server.call(lambda: server.volume.look(FIRST)).meta))
    assert server.put(FIRST + 1, b"y" * (room_bytes + 1)).code == (507, "volume_full")
    assert server.put(FIRST + 1, b"y" * room_bytes).status == 201
    assert server.volume.tail == server.volume.size_limit == server.volume.path.stat().st_size
    for size_bytes in (0, 600_000):
        assert server.put(FIRST + 2, bytes(size_bytes)).code == (507, "volume_full")
    claim = server.call(lambda: server.volume.tombstone(FIRST, appended_ms=1))
    server.call(lambda: (server.volume.sync_log(), server.volume.settle([claim])))
    assert server.get(FIRST).code == (404, "needle_unknown")
    assert server.get(FIRST + 1).body == b"y" * room_bytes
    assert server.volume.sealed is None


def test_every_slot_of_a_lease_and_one_more(server: Server) -> None:
    url = lease(count=4096, max_bytes=100)
    wire = server.wire()
    for first in range(0, 4096, 64):
        slots = range(first, first + 64)
        wire.send(b"".join(request("PUT", put_url(FIRST + slot, url), b"%d" % slot) for slot in slots))
        assert [wire.answer().status for _ in slots] == [201] * 64
    assert server.put(FIRST + 4096, b"x", url=url).code == (403, "needle_outside_lease")
    assert server.call(server.volume.report)["live_count"] == 4096
    for slot in (0, 1, 63, 64, 2047, 4094, 4095):
        assert server.get(FIRST + slot).body == b"%d" % slot
