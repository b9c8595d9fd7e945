"""Every file operation fails once, and from then on: what was acknowledged stays, and errors are those that are named.

The engine goes through a scripted life on a disk that loses what was not synced. The n-th of all its file operations
fails, for every n there is, with every errno that a disk gives. Then the faults end, and each of these must hold:

- the engine raised nothing but what its functions say;
- what was acknowledged is read as it was, at once, after SIGKILL, and after a power cut that leaves anything it may;
- after a failed fdatasync of the log nothing more is acknowledged.

Below, the same over HTTP: the answers are the documented ones.
"""

import errno
import random
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from tests.support.simulated_disk import ANYTHING, NOTHING
from tests.unit.volume_server.faults import ANY, META, NEEDLE, SUPERBLOCK, FaultyDisk, FaultyFiles
from tests.unit.volume_server.serving import FIRST, KID, SECRET, Server, get_url, put_url, refused, request, running
from volume_server import signing
from volume_server.durability import FileSystem
from volume_server.errors import NeedleUnknown, NoRoom, ReadFailed, VolumeSealed, VolumeUnusable
from volume_server.server import SMALL_BODY_BYTES
from volume_server.volume import OUT_OF_SPACE, Claim, Volume, volume_path

ERRORS = [errno.EIO, errno.ENOSPC, errno.EDQUOT]
SMALL, OTHER, BURIED, STREAMED, REFUSED, ABORTED, BATCH, LAST = range(NEEDLE, NEEDLE + 8)


@dataclass
class Life:
    """What one volume goes through, as `volume_server.commit` and `routes` would take it."""

    disk: FaultyDisk
    acknowledged: dict[int, bytes | None] = field(default_factory=dict)
    """Needle -> its data, None: dead."""
    in_doubt: set[int] = field(default_factory=set)
    """Tombstones that were begun and not acknowledged."""
    volume: Volume | None = None

    def run(self) -> None:
        if not self._open(lambda: Volume.create(self.disk, self.disk.directory, SUPERBLOCK)):
            return
        self.put(SMALL, b"small")
        self.put(OTHER, b"")
        self.put(BURIED, b"buried")
        self.stream(STREAMED, [b"a" * 700, b"b" * 900])
        self.delete(BURIED)
        self.abort_at_the_tail()
        self.abort_in_the_middle()
        self.put(REFUSED, b"refused")
        self.delete(REFUSED, verdict="412 precondition_failed")
        self.checkpoint()
        self.put_batch()
        self.put(BATCH + 20, b"behind the batch")
        self.read_all()
        self.close()
        if self._open(lambda: Volume.open(self.disk, volume_path(self.disk.directory, SUPERBLOCK.volume))):
            self.put(LAST, b"after the restart")
            self.checkpoint()
            self.close()

    @property
    def open_volume(self) -> Volume:
        assert self.volume is not None
        return self.volume

    def _open(self, how: Callable[[], Volume]) -> bool:
        try:
            self.volume = how()
        except (OSError, VolumeUnusable):
            self.volume = None
        return self.volume is not None

    def put(self, needle: int, data: bytes) -> None:
        with suppress(NoRoom, VolumeSealed):
            claim = self.open_volume.append(needle, META, data, data_crc=zlib.crc32(data), appended_ms=1)
            if self.sync([claim]):
                self.acknowledged[needle] = data

    def put_batch(self) -> None:
        """Three records with one write."""
        volume, claims = self.open_volume, []
        with suppress(NoRoom, VolumeSealed):
            for needle in range(BATCH + 10, BATCH + 13):
                claims.append(volume.enqueue(needle, META, b"batch", data_crc=zlib.crc32(b"batch"), appended_ms=1))
        volume.flush()
        written = [claim for claim in claims if claim.failure is None]
        if written and self.sync(written):
            self.acknowledged.update((claim.needle, b"batch") for claim in written)

    def stream(self, needle: int, pieces: list[bytes]) -> None:
        volume, data = self.open_volume, b"".join(pieces)
        try:
            claim = volume.reserve(needle, META, len(data), appended_ms=1)
        except (NoRoom, VolumeSealed):
            return
        try:
            for at, piece in zip((0, len(pieces[0])), pieces, strict=True):
                volume.write_data(claim, piece, at)
            volume.finish(claim, data_crc=zlib.crc32(data))
        except OSError as error:
            if error.errno not in OUT_OF_SPACE:
                volume.seal(f"a write failed: {error}")
            volume.abort(claim)
            return
        if self.sync([claim]):
            self.acknowledged[needle] = data

    def delete(self, needle: int, *, verdict: str = "") -> None:
        self.in_doubt.add(needle)
        with suppress(NoRoom, VolumeSealed, NeedleUnknown):
            claim = self.open_volume.tombstone(needle, verdict=verdict, appended_ms=1)
            if self.sync([claim]):
                self.acknowledged[needle] = None
                self.in_doubt.discard(needle)

    def abort_at_the_tail(self) -> None:
        with suppress(NoRoom, VolumeSealed):
            claim = self.open_volume.reserve(ABORTED, META, 100, appended_ms=1)
            with suppress(OSError):
                self.open_volume.write_data(claim, bytes(50), 0)
            self.open_volume.abort(claim)

    def abort_in_the_middle(self) -> None:
        with suppress(NoRoom, VolumeSealed):
            claim = self.open_volume.reserve(ABORTED, META, 600, appended_ms=1)
            self.put(ABORTED + 20, b"behind it")
            self.open_volume.abort(claim)

    def sync(self, claims: list[Claim]) -> bool:
        volume = self.open_volume
        failed_before = volume.sync_failure is not None
        try:
            volume.sync_log()
        except OSError:
            volume.seal_unsynced()
            for claim in claims:
                volume.abort(claim)
            return False
        assert not failed_before, "no sync may succeed after one that failed"
        volume.settle(claims)
        return True

    def checkpoint(self) -> None:
        volume = self.open_volume
        job = volume.begin_checkpoint()
        try:
            places = volume.write_checkpoint(job)
        except OSError:
            places = None
        volume.end_checkpoint(job, places)

    def read_all(self) -> None:
        for needle, data in self.acknowledged.items():
            with suppress(ReadFailed):
                if data is not None:
                    assert self.open_volume.read(needle) == data

    def close(self) -> None:
        self.open_volume.close()
        self.volume = None

    def require_held(self, volume: Volume) -> None:
        for needle, data in self.acknowledged.items():
            known = volume.index.get(needle)
            assert known is not None, needle
            if data is None or (needle in self.in_doubt and not known[1]):
                assert not known[1], needle
            else:
                assert volume.read(needle) == data


def live(tmp_path: Path, number: int, arm: Callable[[FaultyDisk], None]) -> tuple[Life, FaultyDisk]:
    directory = tmp_path / f"life-{number}"
    directory.mkdir()
    disk = FaultyDisk(directory)
    arm(disk)
    life = Life(disk)
    life.run()
    return life, disk


def require_all_of_it(life: Life, disk: FaultyDisk, tmp_path: Path, number: int) -> None:
    """At once, after SIGKILL, after a power cut."""
    disk.heal()
    if life.volume is not None:
        life.require_held(life.volume)
        life.volume.close(clean=False)
    images = [disk.directory]
    for left in (lambda _: NOTHING, random.Random(number).randrange, lambda n: ANYTHING if n == 4 else number % n):
        image = tmp_path / f"image-{number}-{len(images)}"
        image.mkdir()
        disk.crash_image(image, left)
        images.append(image)
    disk.release()
    for image in images:
        path = volume_path(image, SUPERBLOCK.volume)
        if not path.exists():
            assert not life.acknowledged
            continue
        volume = Volume.open(FileSystem(), path)
        life.require_held(volume)
        if image is disk.directory:  # a power cut may tear a record of which nobody was told
            assert volume.figures.damaged_count == 0
        if volume.sealed is None:
            probe = volume.append(LAST + 100, META, b"on", data_crc=zlib.crc32(b"on"), appended_ms=1)
            volume.sync_log()
            volume.settle([probe])
        volume.close()
        path.with_suffix(".idx").unlink(missing_ok=True)
        rebuilt = Volume.open(FileSystem(), path)
        life.require_held(rebuilt)
        if image is disk.directory:
            assert rebuilt.figures.damaged_count == 0, "what failed left no hole in the log"
        rebuilt.close(clean=False)


def test_life_without_faults_acknowledges_everything(tmp_path: Path) -> None:
    life, disk = live(tmp_path, 0, lambda _: None)
    assert sorted(life.acknowledged) == sorted(
        [SMALL, OTHER, BURIED, STREAMED, REFUSED, ABORTED + 20, BATCH + 10, BATCH + 11, BATCH + 12, BATCH + 20, LAST]
    )
    assert [needle for needle, data in life.acknowledged.items() if data is None] == [BURIED, REFUSED]
    require_all_of_it(life, disk, tmp_path, 0)
    kinds = {"open", "read_at", "read_into", "size_bytes", "write_at", "truncate", "sync_data", "sync_file", "rename"}
    assert kinds | {"sync_directory"} <= set(disk.calls), "the walk below meets them all"


@pytest.mark.parametrize("sticky", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_what_was_acknowledged_outlives_any_failure(tmp_path: Path, error: int, sticky: bool) -> None:
    for number in count():
        part_bytes = (0, 44, 512)[number % 3]
        life, disk = live(
            tmp_path,
            number,
            lambda disk, after=number, part_bytes=part_bytes: disk.fail(
                ANY, error, after=after, part_bytes=part_bytes, sticky=sticky
            ),
        )
        if not disk.struck:
            break
        require_all_of_it(life, disk, tmp_path, number)
    assert number > 60


# -- over HTTP ---------------------------------------------------------------------------------------------------

LARGE = bytes(range(256)) * (3 << 10)
assert len(LARGE) > 2 * SMALL_BODY_BYTES
DOCUMENTED = {
    "PUT": {(201, "committed"), (503, "volume_sealed"), (507, "disk_full")},
    "refused PUT": {(412, "precondition_failed"), (503, "volume_sealed"), (507, "disk_full")},
    "GET": {(200, ""), (404, "needle_unknown"), (503, "read_failed")},
    "DELETE": {(200, ""), (503, "volume_sealed"), (507, "disk_full")},
}


@dataclass
class Client:
    server: Server
    held: dict[int, bytes] = field(default_factory=dict)
    dying: set[int] = field(default_factory=set)

    def run(self) -> None:
        self.put(FIRST, b"small")
        self.put(FIRST + 1, LARGE)
        self.put(FIRST + 2, b"buried")
        self.get(FIRST)
        self.delete(FIRST + 2)
        self.server.verdicts.judge = refused
        self.ask("refused PUT", request("PUT", put_url(FIRST + 3), b"refused"))

    def put(self, needle: int, body: bytes) -> None:
        if self.ask("PUT", request("PUT", put_url(needle), body)) == (201, "committed"):
            self.held[needle] = body

    def get(self, needle: int) -> None:
        if self.ask("GET", request("GET", get_url(needle)))[0] == 404:
            assert needle not in self.held

    def delete(self, needle: int) -> None:
        self.dying.add(needle)
        body = b'{"volume":1,"needles":["%016x"]}' % needle
        headers = signing.signed_headers(
            SECRET, kid=KID, direction=signing.TO_SERVER, method="POST", target="/admin/delete", body=body,
            server=self.server.store.identity.server, time_ms=self.server.clock.now_ms(),
        )  # fmt: skip
        if self.ask("DELETE", request("POST", "/admin/delete", body, **headers)) == (200, ""):
            self.held.pop(needle, None)

    def ask(self, what: str, raw: bytes) -> tuple[int, str]:
        wire = self.server.wire()
        try:
            answer = wire.send(raw).answer()
        finally:
            wire.close()
        told = (answer.status, "")
        if what in ("PUT", "refused PUT") or answer.status >= 400:
            told = (answer.status, answer.json().get("state") or answer.json()["code"])
        assert told in DOCUMENTED[what], (what, answer)
        return told

    def require_held(self) -> None:
        for needle, body in self.held.items():
            answer = self.server.get(needle)
            if needle in self.dying and answer.status == 404:
                continue
            assert (answer.status, answer.body) == (200, body)


@pytest.mark.parametrize("sticky", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
def test_every_failure_has_its_documented_answer(tmp_path: Path, error: int, sticky: bool) -> None:
    for number in count():
        directory = tmp_path / str(number)
        with running(directory, files=FaultyFiles()) as server:
            server.files.fail(ANY, error, after=number, sticky=sticky)
            client = Client(server)
            client.run()
            struck = bool(server.files.struck)
            server.files.heal()
            client.require_held()
        with running(directory) as client.server:
            client.require_held()
        if not struck:
            break
    assert number > 12
