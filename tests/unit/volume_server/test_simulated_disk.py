"""The disk of the crash tests: keeps what was synced whatever is chosen, and can lose, tear and reorder the rest."""

import os
import random
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.support.simulated_disk import ANYTHING, EVERYTHING, NOTHING, SECTOR_BYTES, SimulatedDisk

CREATE = os.O_RDWR | os.O_CREAT


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SimulatedDisk]:
    directory = tmp_path / "disk"
    directory.mkdir()
    disk = SimulatedDisk(directory)
    yield disk
    disk.release()


@pytest.fixture
def crash(disk: SimulatedDisk, tmp_path: Path) -> Callable[..., dict[str, bytes]]:
    """What is there after a crash with the given choices (the last one again and again), or of a seed."""
    numbers = count()

    def crash(*choices: int, seed: int | None = None) -> dict[str, bytes]:
        target = tmp_path / f"image-{next(numbers)}"
        target.mkdir()
        left = list(choices)
        choose = random.Random(seed).randrange if seed is not None else lambda _: left.pop(0)
        disk.crash_image(target, choose)
        return {path.name: path.read_bytes() for path in target.iterdir()}

    return crash


def write(disk: SimulatedDisk, name: str, content: bytes, offset: int = 0) -> int:
    fd = disk.open(disk.directory / name, CREATE)
    disk.write_at(fd, [content], offset)
    return fd


def durable(disk: SimulatedDisk, name: str, content: bytes) -> int:
    fd = write(disk, name, content)
    disk.sync_file(fd)
    disk.sync_directory(disk.directory)
    assert not disk.unsynced
    return fd


def test_what_is_synced_is_there_whatever_is_chosen(
    disk: SimulatedDisk, crash: Callable[..., dict[str, bytes]]
) -> None:
    content = os.urandom(5000)
    durable(disk, "a", content)
    assert crash(NOTHING) == crash(EVERYTHING) == crash(ANYTHING, 1) == {"a": content}


def test_what_is_not_synced_may_be_lost_or_kept(disk: SimulatedDisk, crash: Callable[..., dict[str, bytes]]) -> None:
    fd = durable(disk, "a", b"old" * 1000)
    disk.write_at(fd, [b"new", b"er"], 10)
    write(disk, "b", b"x")
    disk.remove(write_and_close(disk, "c"))
    assert disk.unsynced
    assert crash(NOTHING) == {"a": b"old" * 1000}
    newer = (b"old" * 1000)[:10] + b"newer" + (b"old" * 1000)[15:]
    assert crash(EVERYTHING) == {"a": newer, "b": b"x"}
    disk.sync_data(fd)
    assert crash(NOTHING) == {"a": newer}, "the file's sync says nothing of the other's name"


def write_and_close(disk: SimulatedDisk, name: str) -> Path:
    disk.close(write(disk, name, b"x"))
    return disk.directory / name


def test_bytes_and_names_are_synced_apart(disk: SimulatedDisk, crash: Callable[..., dict[str, bytes]]) -> None:
    named = write(disk, "named", b"bytes")
    disk.sync_directory(disk.directory)
    assert crash(NOTHING) == {"named": b""}
    disk.sync_data(named)
    disk.sync_file(write(disk, "unnamed", b"bytes"))
    assert crash(NOTHING) == {"named": b"bytes"}


def test_rename_is_old_or_new_and_never_neither(disk: SimulatedDisk, crash: Callable[..., dict[str, bytes]]) -> None:
    durable(disk, "a", b"old")
    disk.sync_file(write(disk, ".a", b"new"))
    disk.rename(disk.directory / ".a", disk.directory / "a")
    assert crash(NOTHING) == {"a": b"old"}
    assert crash(EVERYTHING) == {"a": b"new"}
    found = {crash(seed=seed)["a"] for seed in range(100)}
    assert found == {b"old", b"new"}
    disk.sync_directory(disk.directory)
    assert crash(NOTHING) == {"a": b"new"}


def test_writes_are_torn_at_sectors_and_overtake_each_other(
    disk: SimulatedDisk, crash: Callable[..., dict[str, bytes]]
) -> None:
    fd = durable(disk, "a", bytes(4 * SECTOR_BYTES))
    for value in (b"1", b"2"):
        disk.write_at(fd, [value * 4 * SECTOR_BYTES], 0)
    images = [crash(seed=seed)["a"] for seed in range(200)]
    sectors = [[raw[at : at + SECTOR_BYTES] for at in range(0, len(raw), SECTOR_BYTES)] for raw in images]
    assert {sector[:1] for image in sectors for sector in image} == {b"\0", b"1", b"2"}
    assert all(sector == sector[:1] * SECTOR_BYTES for image in sectors for sector in image), "never within a sector"
    assert any(image[0][:1] == b"\0" and image[3][:1] == b"2" for image in sectors), "the later one only"


def test_a_moment_keeps_what_was_before_it_and_nothing_after(
    disk: SimulatedDisk, crash: Callable[..., dict[str, bytes]]
) -> None:
    first, second = durable(disk, "a", bytes(600)), durable(disk, "b", bytes(600))
    disk.write_at(first, [b"1"], 0)
    disk.write_at(second, [b"2"], 0)
    disk.write_at(first, [b"3"], 599)
    found = [(image["a"][0], image["b"][0], image["a"][599]) for image in (crash(2, moment) for moment in range(4))]
    assert found == [(0, 0, 0), (ord("1"), 0, 0), (ord("1"), ord("2"), 0), (ord("1"), ord("2"), ord("3"))]


def test_length_may_come_before_the_bytes_and_be_cut_back(
    disk: SimulatedDisk, crash: Callable[..., dict[str, bytes]]
) -> None:
    fd = durable(disk, "a", b"x" * 100)
    disk.write_at(fd, [b"y" * 3000], 100)
    disk.truncate(fd, 50)
    images = [crash(seed=seed)["a"] for seed in range(300)]
    assert {len(raw) for raw in images} > {50, 100, 3100}
    assert any(len(raw) == 3100 and not any(raw[1024:]) for raw in images), "grown, but nothing of it written"
    disk.sync_data(fd)
    assert crash(ANYTHING, 7) == {"a": b"x" * 50}


def test_sync_after_a_lost_write_back_makes_nothing_of_it_durable(
    disk: SimulatedDisk, crash: Callable[..., dict[str, bytes]]
) -> None:
    fd = durable(disk, "a", bytes(2 * SECTOR_BYTES))
    disk.write_at(fd, [b"1" * 2 * SECTOR_BYTES], 0)
    disk.lose_write_back(fd)
    disk.sync_data(fd)
    assert crash(NOTHING) == {"a": bytes(2 * SECTOR_BYTES)}
    disk.write_at(fd, [b"2"], 0)
    disk.sync_data(fd)
    assert crash(NOTHING)["a"] == (b"2" + b"1" * (SECTOR_BYTES - 1)) + bytes(SECTOR_BYTES)


def test_replaced_file_is_the_old_one_or_the_new_one_whole(
    disk: SimulatedDisk, crash: Callable[..., dict[str, bytes]]
) -> None:
    path = disk.directory / "a"
    disk.replace_file(path, b"old")
    steps: list[dict[str, bytes]] = []
    for name in ("write_at", "sync_file", "rename"):
        original = getattr(disk, name)

        def filmed(*arguments: object, original: Callable[..., None] = original) -> None:
            original(*arguments)
            steps.extend(crash(seed=seed) for seed in range(30))

        setattr(disk, name, filmed)
    disk.replace_file(path, b"new")
    assert {step["a"] for step in steps} == {b"old", b"new"}
    assert crash(NOTHING) == {"a": b"new"}


def test_directory_is_made_renamed_out_of_and_removed(disk: SimulatedDisk, tmp_path: Path) -> None:
    """As a compaction does it: what is renamed is the old file or the new one, and the new one is whole."""
    numbers = count()

    def crashed(choose: Callable[[int], int]) -> dict[str, bytes]:
        target = tmp_path / f"nested-{next(numbers)}"
        target.mkdir()
        disk.crash_image(target, choose)
        return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}

    fd = durable(disk, "a", b"old" * 1000)
    inner = disk.directory / "inner"
    disk.make_directory(inner)
    assert crashed(lambda _: NOTHING) == {"a": b"old" * 1000}
    new = disk.open(inner / "a", CREATE)
    disk.allocate(new, 2000)
    assert disk.copy_range(fd, new, 1500, 0, 0) == 1500
    disk.truncate(new, 1500)
    disk.sync_file(new)
    disk.sync_directory(inner)
    disk.rename(inner / "a", disk.directory / "a")
    found = {crashed(random.Random(seed).randrange)["a"] for seed in range(100)}
    assert found == {b"old" * 1000, b"old" * 500}
    disk.remove(inner)
    disk.sync_directory(disk.directory)
    assert crashed(lambda _: NOTHING) == {"a": b"old" * 500}
    assert not disk.unsynced


def test_nothing_is_held_open_of_what_is_gone(disk: SimulatedDisk) -> None:
    before = open_descriptors()
    for _ in range(50):
        disk.replace_file(disk.directory / "a", b"x")
    assert open_descriptors() <= before + 1


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
