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
REPORT = {
    "volume": 7, "epoch": 2, "revision": 3, "state": "open", "size_bytes": 10264, "garbage_bytes": 576,
    "live_count": 4, "tombstone_count": 2, "damaged_count": 2,
}  # fmt: skip
TEXTS: dict[str, Any] = json.loads((FORMAT1 / "texts.json").read_text())


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(FORMAT1, tmp_path, dirs_exist_ok=True)
    return tmp_path / f"{NAME}.vol"


@pytest.mark.parametrize("with_index", [True, False])
def test_volume_opens_to_what_was_put(copy: Path, with_index: bool) -> None:
    if not with_index:
        copy.with_suffix(".idx").unlink()
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
