"""What format version 1 wrote is read for ever, and is still what this version writes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.golden import make
from volume_server import intent as intents
from volume_server import meta as metas
from volume_server import record, recovery, superblock
from volume_server.checkpoint import CheckpointFile
from volume_server.clock import Clock
from volume_server.durability import FileSystem
from volume_server.errors import Damaged, NeedleUnknown, VolumeSealed
from volume_server.leases import Gate
from volume_server.volume import Volume

FORMAT1 = Path(__file__).parent / "format1"
NAME = "0000000007"
FIRST = 0x12340000

LIVE = {
    FIRST: (b"", "plain"),
    FIRST + 1: (b"seven b", "full"),
    FIRST + 3: (bytes(range(256)), "chunk"),
    FIRST + 8: (b"behind the damage", "plain"),
}
DEAD = {FIRST + 4: "", FIRST + 5: "412 precondition_failed"}


def slot_of_many(number: int) -> int:
    """The needles of the case `many`, each third of a lease of its own."""
    return number << 16 if number % 3 == 0 else number


REPORT = {
    "volume": 7, "epoch": 2, "revision": 3, "state": "open", "size_bytes": 10264, "garbage_bytes": 576,
    "live_count": 4, "tombstone_count": 2, "damaged_count": 2,
}  # fmt: skip
TEXTS: dict[str, Any] = json.loads((FORMAT1 / "texts.json").read_text())


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(FORMAT1, tmp_path, dirs_exist_ok=True)
    return tmp_path / f"{NAME}.vol"


@pytest.mark.parametrize("index", ["this version's", "the first version's", None])
def test_volume_opens_to_what_was_put(copy: Path, index: str | None) -> None:
    if index is None:
        copy.with_suffix(".idx").unlink()
    elif index != "this version's":  # WHIndex1, which is not used any more: the volume is scanned
        shutil.copyfile(FORMAT1 / "first_index" / f"{NAME}.idx", copy.with_suffix(".idx"))
    before = copy.read_bytes()
    volume = Volume.open(FileSystem(), copy)
    assert volume.report() == REPORT
    assert {needle for needle, _, length in volume.index.items() if length} == LIVE.keys()
    for needle, (data, meta) in LIVE.items():
        assert bytes(volume.read(needle) or b"") == data
        assert metas.decode(volume.look(needle).meta) == make.METAS[meta]
    assert {needle: volume.verdict_of_dead(needle) for needle, _, length in volume.index.items() if not length} == DEAD
    volume.close()
    assert copy.read_bytes() == before


CASES: dict[str, tuple[dict[int, bytes], dict[int, str]]] = {
    "left_by_a_crash": ({0: b"before", 3: b"between", 4: b"the last whole one"}, {}),
    "buried": (
        {0: b"data of 0", 6: b"data of 6"},
        {
            1: "", 2: "412 precondition_failed", 3: "403 permission_denied", 4: "507 quota_exceeded", 5: "",
            7: "409 " + "x" * 252,
        },
    ),
    "replayed": (
        {2: b"5" * 500, 3: b"behind the watermark, and in the index", 5: b"behind the checkpoint"},
        {0: "", 1: "507 quota_exceeded"},
    ),
    "newer_header_bad": ({1: b"in the newer one", 2: b"in none"}, {0: ""}),
    "sealed": ({0: b"durable", 1: b"in doubt"}, {}),
    "many": (
        {slot_of_many(number): b"" for number in range(1, 4501) if number % 10 != 1},
        {slot_of_many(number): "" for number in range(1, 4501, 10)},
    ),
}  # fmt: skip
"""Of each whole volume: the data of what is alive, the verdicts of what is dead, by slot of the first lease."""


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_case_opens_to_what_was_put(case: str, with_index: bool, tmp_path: Path) -> None:
    live, dead = CASES[case]
    volume = opened(case, tmp_path, with_index=with_index)
    found = list(volume.index.items())
    assert {needle - FIRST: bytes(volume.read(needle) or b"") for needle, _, length in found if length} == live
    assert {needle - FIRST: volume.verdict_of_dead(needle) for needle, _, length in found if not length} == dead
    figures = volume.report()
    assert (figures["live_count"], figures["tombstone_count"]) == (len(live), len(dead))
    assert (figures["epoch"], figures["damaged_count"]) == (2, 0)
    assert figures["state"] == ("sealed" if case == "sealed" else "open")
    volume.close()


def test_what_a_crash_left_is_kept_in_the_middle_and_cut_off_at_the_tail(tmp_path: Path) -> None:
    before = (FORMAT1 / "left_by_a_crash" / f"{NAME}.vol").read_bytes()
    volume = opened("left_by_a_crash", tmp_path)
    report = volume.report()
    assert report["garbage_bytes"] == 3320
    assert report["size_bytes"] == 12152
    volume.close()
    assert volume.path.read_bytes() == before[:12152]


@pytest.mark.parametrize("with_index", [True, False])
def test_damaged_case_loses_no_more_than_what_is_damaged(with_index: bool, tmp_path: Path) -> None:
    """The index, if it is there, still names what cannot be read, and knows of the tombstones."""
    volume = opened("damaged", tmp_path, with_index=with_index)
    before = volume.path.read_bytes()
    for slot, data in ((0, b"whole"), (6, b"behind the damage")):
        assert bytes(volume.read(FIRST + slot) or b"") == data
    for slot in (1, 2, 3):
        with pytest.raises(Damaged if with_index else NeedleUnknown):
            volume.read(FIRST + slot)
    for slot in (4, 5):
        assert volume.stored_length(FIRST + slot) == 0
    assert volume.verdict_of_dead(FIRST + 4) == ""
    with pytest.raises(Damaged):
        volume.verdict_of_dead(FIRST + 5)
    volume.close()
    assert volume.path.read_bytes() == before


def test_sealed_case_confirms_nothing_that_is_in_doubt(tmp_path: Path) -> None:
    volume = opened("sealed", tmp_path)
    volume.require_synced(FIRST)
    with pytest.raises(VolumeSealed):
        volume.require_synced(FIRST + 1)
    volume.close()


def test_older_checkpoint_and_older_header_are_used(tmp_path: Path) -> None:
    for case, watermark in (("replayed", 8552), ("newer_header_bad", 8352)):
        idx = FORMAT1 / case / f"{NAME}.idx"
        loaded = CheckpointFile(FileSystem(), idx, make.SUPERBLOCK).load()
        assert loaded is not None
        assert (loaded.watermark, loaded.clean_size_bytes) == (watermark, 0)


def test_index_of_more_than_one_segment() -> None:
    idx = FORMAT1 / "many" / f"{NAME}.idx"
    loaded = CheckpointFile(FileSystem(), idx, make.SUPERBLOCK).load()
    assert loaded is not None
    assert len(list(loaded.index.segments())) > 1
    assert len(loaded.index) == 4500


def opened(case: str, directory: Path, *, with_index: bool = True) -> Volume:
    """A copy of a case, opened."""
    shutil.copytree(FORMAT1 / case, directory, dirs_exist_ok=True)
    path = directory / f"{NAME}.vol"
    if not with_index:
        path.with_suffix(".idx").unlink(missing_ok=True)
    return Volume.open(FileSystem(), path)


def test_index_needs_no_scan(copy: Path) -> None:
    loaded = CheckpointFile(FileSystem(), copy.with_suffix(".idx"), make.SUPERBLOCK).load()
    assert loaded is not None
    assert loaded.watermark == loaded.clean_size_bytes == REPORT["size_bytes"]
    assert len(loaded.index) == len(LIVE) + len(DEAD)


def test_every_record_is_encoded_as_it_was() -> None:
    raw = (FORMAT1 / f"{NAME}.vol").read_bytes()
    assert superblock.decode_head(raw) == make.SUPERBLOCK
    assert superblock.encode_head(make.SUPERBLOCK) == raw[: superblock.RECORDS_START]
    tagger = record.Tagger(make.SALT)
    kinds = []
    with (FORMAT1 / f"{NAME}.vol").open("rb") as file:
        found = list(recovery.scan(file.fileno(), tagger, start=superblock.RECORDS_START, end=len(raw)))
    for item in found:
        if isinstance(item, recovery.Gap):
            kinds.append("gap")
            assert not item.torn
            continue
        header = item.header
        kinds.append({record.LIVE: "live", record.TOMBSTONE: "tombstone", record.FILLER: "filler"}[header.kind])
        again = record.encode_header(
            tagger, header.kind, header.needle, meta_bytes=header.meta_bytes, data_bytes=header.data_bytes,
            crc=header.crc, appended_ms=header.appended_ms,
        )  # fmt: skip
        assert raw[item.offset : item.offset + record.HEADER_BYTES] == again
        if header.kind == record.LIVE:
            meta = raw[item.offset + 40 : item.offset + 40 + header.meta_bytes]
            assert metas.encode(metas.decode(meta)) == meta
    assert kinds == ["live", "live", "filler", "live", "live", "live", "tombstone", "tombstone", "gap", "live", "live"]


def test_intents_come_back() -> None:
    for name, intent in (("lease", make.LEASE), ("chunk", make.CHUNK), ("presigned", make.PRESIGNED)):
        raw = intents.from_text(TEXTS["intents"][name])
        assert intents.unpack(raw) == intent
        assert intents.is_genuine(raw, make.MASTER_SECRET)


def test_metas_come_back() -> None:
    for name, meta in make.METAS.items():
        assert metas.decode(bytes.fromhex(TEXTS["metas"][name])) == meta


def test_urls_are_still_good() -> None:
    clock = Clock()
    clock.correct((make.EXPIRES_AT - 1) * 1000)
    gate = Gate(clock)
    gate.set_secrets({"1": make.SERVER_SECRET.hex(), "2": make.SERVER_SECRET.hex()})
    lease, needle = gate.admit_put(TEXTS["put_url"].replace("{needle}", f"{FIRST + 9:016x}").encode())
    assert (lease.intent, needle) == (make.LEASE, FIRST + 9)
    plain, full = (gate.admit_get(url.encode()) for url in TEXTS["get_urls"])
    assert (plain.volume, plain.needle, plain.etag, plain.disposition) == (7, FIRST, b'"v1"', b"attachment")
    assert full.content_type == b"text/plain; charset=utf-8"
    assert full.disposition == b"inline; filename*=UTF-8''%C3%A4%20b.txt"


def test_this_version_writes_the_same_bytes(tmp_path: Path) -> None:
    make.main(tmp_path / "again")
    for name in (f"{NAME}.vol", f"{NAME}.idx", "texts.json"):
        assert (tmp_path / "again" / name).read_bytes() == (FORMAT1 / name).read_bytes(), name
    for case in make.CASES:
        made = {path.name: path.read_bytes() for path in (tmp_path / "again" / case).iterdir()}
        assert made == {path.name: path.read_bytes() for path in (FORMAT1 / case).iterdir()}, case
