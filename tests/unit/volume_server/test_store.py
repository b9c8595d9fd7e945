"""A data directory: one owner, one identity, all its volumes, and the room on its disk."""

import json
import stat
from pathlib import Path

import pytest

from tests.unit.volume_server.faults import FaultyFiles, put
from volume_server import durability
from volume_server import store as module
from volume_server.durability import FileSystem
from volume_server.errors import DataDirectoryBusy, DiskFull, VolumeUnknown, VolumeUnusable
from volume_server.store import DiskRoom, Store


def with_volume(store: Store, number: int) -> None:
    store.adopt(store.create_volume(number=number, salt=bytes(16), created_ms=1, epoch=3))


def test_one_process_owns_a_directory(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(DataDirectoryBusy, match="in use"):
        Store(tmp_path)
    store.close()
    Store(tmp_path).close()


def test_identity_is_made_once_and_kept_to_its_owner(tmp_path: Path) -> None:
    store = Store(tmp_path / "new")
    store.identity.secrets = {"1": "ab"}
    store.identity.kid, store.identity.sequence = 1, 9
    store.save_identity()
    store.close()
    again = Store(tmp_path / "new")
    assert again.identity == store.identity
    assert stat.S_IMODE((tmp_path / "new" / "server.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    again.close()


def test_identity_that_cannot_be_saved_leaves_the_old_one(tmp_path: Path) -> None:
    files = FaultyFiles()
    store = Store(tmp_path, files)
    before = (tmp_path / "server.json").read_bytes()
    for call in ("write_at", "sync_file", "rename"):
        files.fail(call, part_bytes=5)
        store.identity.sequence += 1
        with pytest.raises(OSError, match="Input/output"):
            store.save_identity()
        assert (tmp_path / "server.json").read_bytes() == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "server.json"]
    store.close()


def test_identity_that_is_none_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text("{")
    with pytest.raises(VolumeUnusable, match="not JSON"):
        Store(tmp_path)


def test_volumes_are_opened_and_a_bad_one_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)
    for number in (1, 2, 3):
        with_volume(store, number)
    put(store.volume(2), 5, b"data")
    store.close()
    bad = tmp_path / "0000000003.vol"
    bad.write_bytes(b"something else")
    store = Store(tmp_path)
    store.open_volumes()
    assert sorted(store.volumes) == [1, 2]
    assert store.volume(2).epoch == 3
    assert [report["live_count"] for report in store.reports()] == [0, 1]
    assert "0000000003.vol is not usable" in caplog.text
    assert bad.read_bytes() == b"something else"
    with pytest.raises(VolumeUnknown):
        store.volume(3)
    with pytest.raises(FileExistsError):
        with_volume(store, 3)
    store.close()


def test_state_that_is_none_costs_one_volume_only(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with_volume(store, 1)
    with_volume(store, 2)
    store.close()
    (tmp_path / "0000000001.state").write_text(json.dumps({"epoch": None, "sealed": None}))
    store = Store(tmp_path)
    store.open_volumes()
    assert sorted(store.volumes) == [2]
    store.close()


def test_what_a_crash_left_half_made_is_removed(tmp_path: Path) -> None:
    for name in (".0000000001.vol.abc", ".0000000001.state.abc", ".server.json.abc"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    store = Store(tmp_path)
    store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "notes.txt", "server.json"]


def test_limit_holds_for_volumes_that_are_here_and_that_come(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with_volume(store, 1)
    store.set_size_limit(12345)
    with_volume(store, 2)
    assert [volume.size_limit for volume in store.volumes.values()] == [12345, 12345]
    store.close()


class Disk(FaultyFiles):
    def __init__(self, *, free: int, total: int) -> None:
        super().__init__()
        self.free, self.total = free, total
        self.asked = 0

    def free_bytes(self, path: Path) -> int:
        self.asked += 1
        return self.free

    def total_bytes(self, path: Path) -> int:
        return self.total


@pytest.mark.parametrize(("total", "reserve"), [(1 << 30, (1 << 30) // 100), (1 << 40, 1 << 30)])
def test_reserve_is_the_lesser_of_a_hundredth_and_a_gibibyte(tmp_path: Path, total: int, reserve: int) -> None:
    room = DiskRoom(Disk(free=reserve + 1000, total=total), tmp_path)
    assert room.reserve_bytes() == reserve
    with pytest.raises(DiskFull):
        room.require(1001)
    room.require(1000)
    with pytest.raises(DiskFull):
        DiskRoom(Disk(free=reserve - 1, total=total), tmp_path).require(1)


def test_disk_is_asked_again_after_what_was_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    disk = Disk(free=1 << 40, total=1 << 40)
    room = DiskRoom(disk, tmp_path)
    for _ in range(64):
        room.require(1 << 20)
    assert disk.asked == 1
    room.require(1 << 20)
    room.require(1 << 20)
    assert disk.asked == 2
    now[0] += 1.5
    room.require(1)
    assert disk.asked == 3
    disk.free = 0
    now[0] += 1.5
    with pytest.raises(DiskFull):
        room.require(1)


def test_stores_of_one_file_system_say_that_they_share_it(tmp_path: Path) -> None:
    stores = [Store(tmp_path / name) for name in ("a", "b")]
    [disk] = {store.disk_id() for store in stores}
    for store in stores:
        store.close()
    assert FileSystem().disk_id(Path("/dev")) != disk


def test_one_machine_s_disks_are_no_other_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for boot_id in ("one", "two", None):
        file = tmp_path / str(boot_id)
        if boot_id is not None:
            file.write_text(boot_id)
        monkeypatch.setattr(durability, "BOOT_ID", file)
        durability.machine.cache_clear()
        found.add(FileSystem().disk_id(tmp_path))
    durability.machine.cache_clear()
    assert len(found) == 3


def test_free_bytes_are_never_less_than_none(tmp_path: Path) -> None:
    store = Store(tmp_path, Disk(free=5, total=1 << 40))
    assert store.free_bytes() == 0
    assert store.capacity_bytes() == 1 << 40
    store.close()
