"""fsck finds every flipped bit that anybody could miss, says what it means, and writes nothing."""

import errno
import io
import json
import os
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.golden import make
from tests.support.programs import ROOT
from tests.unit.volume_server.faults import NEEDLE, SALT, delete, finish, new_volume, put, reopen, settle, write
from tests.unit.volume_server.serving import FIRST, LARGE, Server, put_url, request
from volume_server import fsck, record
from volume_server import meta as metas
from volume_server.checkpoint import HEADER_OFFSETS, PLACES_START
from volume_server.durability import FileSystem
from volume_server.inspection import MAX_FINDINGS, Inspection, Item, Report
from volume_server.superblock import COPY_OFFSETS, RECORDS_START, SIZE_BYTES
from volume_server.volume import Volume

META = metas.encode(make.METAS["full"])
ALIVE, DELETED, REFUSED, ABORTED, CHUNK, LAST = range(NEEDLE, NEEDLE + 6)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A volume with one record of each sort, stopped cleanly."""
    volume = new_volume(tmp_path)
    put(volume, ALIVE, b"alive", meta=META)
    put(volume, DELETED, b"deleted", meta=META)
    put(volume, REFUSED, b"refused", meta=META)
    aborted = volume.reserve(ABORTED, META, 100, appended_ms=1)
    put(volume, CHUNK, bytes(range(250)), meta=metas.encode(make.METAS["chunk"]))
    volume.abort(aborted)
    delete(volume, DELETED)
    delete(volume, REFUSED, verdict="412 precondition_failed")
    put(volume, LAST, b"the last one", meta=META)
    volume.close()
    return volume.path


def inspected(path: Path) -> Report:
    with Inspection(path) as inspection:
        return inspection.run()


def records(path: Path) -> list[Item]:
    found: list[Item] = []
    with Inspection(path) as inspection:
        inspection.run(found.append)
    return found


def record_of(path: Path, needle: int, kind: str = "live") -> Item:
    [item] = [item for item in records(path) if item.header and item.header.needle == needle and item.kind == kind]
    return item


def overwrite(path: Path, offset: int, raw: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(raw)


def flip(path: Path, offset: int, bit: int = 0) -> None:
    raw = path.read_bytes()[offset]
    overwrite(path, offset, bytes((raw ^ 1 << bit,)))


def damage(report: Report) -> list[str]:
    return [f"{finding.what} {finding.advice}" for finding in report.findings if finding.is_damage]


def notes(report: Report) -> list[str]:
    return [f"{finding.what} {finding.advice}" for finding in report.findings if not finding.is_damage]


def only_damage(path: Path) -> str:
    report = inspected(path)
    [text] = damage(report)
    assert report.damage_count == 1
    return text


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = fsck.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


# -- sound -----------------------------------------------------------------------------------------------------------


def test_sound_volume(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, path)
    assert (code, err) == (fsck.SOUND, "")
    assert out.splitlines()[-1] == "sound"
    assert "5 live, 2 tombstone, 1 filler, 0 gap, 0 torn tail" in out
    assert "3 alive, 2 dead" in out
    assert "counts, generation 1, of a clean stop; it equals the scan (5 needles)" in out


def test_report_is_what_the_server_counts(path: Path) -> None:
    report = inspected(path)
    served = Volume.open(FileSystem(), path)
    figures = served.report()
    served.close(clean=False)
    assert figures["size_bytes"] == report.size_bytes
    assert figures["live_count"] == report.figures.live_count == 3
    assert figures["tombstone_count"] == report.figures.tombstone_count == 2
    assert figures["garbage_bytes"] == report.figures.garbage_bytes
    assert report.figures.damaged_count == report.damage_count == 0


def test_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--json", path)
    found = json.loads(out)
    assert code == fsck.SOUND
    assert found["verdict"] == "sound"
    assert (found["volume"], found["live_count"], found["damage_count"], found["findings"]) == (7, 3, 0, [])
    assert found["records"] == {"live": 5, "tombstone": 2, "filler": 1, "gap": 0, "torn tail": 0}
    flip(path, record_of(path, ALIVE).offset + record.HEADER_BYTES + len(META))
    code, out, _ = run(capsys, "--json", path)
    found = json.loads(out)
    assert (code, found["verdict"], found["damage_count"]) == (fsck.DAMAGED, "damaged", 1)
    assert found["findings"][0]["needle"] == f"{ALIVE:016x}"


def test_dump_has_a_line_a_record(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(path, record_of(path, LAST).offset + record.HEADER_BYTES + len(META))
    overwrite(path, record_of(path, ALIVE).offset, bytes(8))
    code, out, _ = run(capsys, "--dump", path)
    assert code == fsck.DAMAGED
    lines = out.splitlines()
    assert lines[0].split() == ["offset", "kind", "needle", "meta", "data", "appended", "crc", "object"]
    assert [line.split()[1] for line in lines[1:9]] == [
        "gap", "live", "live", "filler", "live", "tombstone", "tombstone", "live",
    ]  # fmt: skip
    assert lines[2].split()[2:7] == [f"{DELETED:016x}", str(len(META)), "7", "2023-11-14T22:13:20.001Z", "ok"]
    assert lines[2].endswith("'holiday/ä ö.jpg' 'image/jpeg'")
    assert lines[7].endswith("ok   412 precondition_failed")
    assert " BAD " in lines[8]


def test_dump_as_json_is_an_object_a_line_and_the_report_last(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--dump", "--json", path)
    *items, report = [json.loads(line) for line in out.splitlines()]
    assert len(items) == 8
    assert items[0] | {"offset": 0} == {
        "offset": 0, "kind": "live", "size_bytes": record.aligned(40 + len(META) + 5), "needle": f"{ALIVE:016x}",
        "meta_bytes": len(META), "data_bytes": 5, "appended_ms": 1_700_000_000_001, "crc": "ok", "reason": "",
        "bucket": "photos", "key": "holiday/ä ö.jpg", "content_type": "image/jpeg", "verdict": "",
    }  # fmt: skip
    assert report["verdict"] == "sound"


def test_key_cannot_write_to_the_terminal(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = Volume.open(FileSystem(), path)
    put(volume, LAST + 1, b"", meta=metas.encode(metas.Meta(b"", key="\x1b[2J\n\x9b evil")))
    volume.close()
    _, out, _ = run(capsys, "--dump", path)
    assert r"\x1b[2J\n\x9b evil" in out
    assert "\x1b" not in out


def test_neither_salt_nor_tag_is_shown(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = path.read_bytes()
    secrets = [SALT.hex(), *(raw[item.offset + 32 : item.offset + 40].hex() for item in records(path))]
    shown = ""
    for options in (["--dump"], ["--dump", "--json"], ["--json"], ["--needle", f"{ALIVE:x}", "--json"]):
        shown += run(capsys, *options, path)[1]
    assert not [secret for secret in secrets if secret in shown.lower()]


def test_nothing_is_written(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overwrite(path, path.stat().st_size, b"torn")
    flip(path.with_suffix(".idx"), PLACES_START + 100)

    def seen() -> dict[str, tuple[bytes, int]]:
        return {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in path.parent.iterdir()}

    before = seen()
    for options in ([], ["--dump"], ["--needle", "1"]):
        run(capsys, *options, path)
    assert seen() == before


# -- what is no volume -----------------------------------------------------------------------------------------------


def unreadable(capsys: pytest.CaptureFixture[str], path: Path) -> str:
    code, out, err = run(capsys, path)
    assert (code, out) == (fsck.UNREADABLE, "")
    [line] = err.splitlines()
    return line


def test_other_things_are_called_what_they_are(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No such file or directory" in unreadable(capsys, tmp_path / "absent.vol")
    assert "is a directory; name one of the .vol files in it" in unreadable(capsys, tmp_path)
    assert "is an index file; name the .vol file beside it" in unreadable(capsys, path.with_suffix(".idx"))
    assert "is not a volume file (at 0: " in unreadable(capsys, path.with_suffix(".state"))
    empty = tmp_path / "empty"
    empty.touch()
    assert "is empty" in unreadable(capsys, empty)
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in unreadable(capsys, tmp_path / "pipe")
    text = tmp_path / "text"
    text.write_bytes(b"a text" * 5000)
    assert "is not a volume file (at 0: not a volume file; at 4096: not a volume file)" in unreadable(capsys, text)


def test_file_of_another_user(path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", denied)
    assert "Permission denied" in unreadable(capsys, path)


def test_refusal_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--json", tmp_path)
    assert (code, err, json.loads(out)["verdict"]) == (fsck.UNREADABLE, "", "unreadable")


@pytest.mark.parametrize("needle", ["0", "x", "10000000000000000", "-1", ""])
def test_needle_that_is_none(path: Path, needle: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        fsck.main(["--needle", needle, str(path)])
    assert stopped.value.code == 2
    assert "hexadecimal" in capsys.readouterr().err


# -- damage ----------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_is_found(path: Path) -> None:
    """All but what a filler holds: nobody put that there for anybody to read."""
    [filler] = [item for item in records(path) if item.kind == "filler"]
    size = path.stat().st_size
    for offset in [*range(0, RECORDS_START, 61), *COPY_OFFSETS, RECORDS_START - 1, *range(RECORDS_START, size)]:
        if filler.offset + record.HEADER_BYTES <= offset < filler.offset + filler.size_bytes:
            continue
        flip(path, offset, offset % 8)
        assert inspected(path).damage_count, offset
        flip(path, offset, offset % 8)
    assert inspected(path).damage_count == 0


def test_damaged_needle_is_named_with_its_object(path: Path) -> None:
    item = record_of(path, ALIVE)
    flip(path, item.offset + record.HEADER_BYTES + len(META) + 2)
    report = inspected(path)
    [finding] = report.findings
    assert (finding.offset, finding.size_bytes, finding.needle) == (item.offset, item.size_bytes, ALIVE)
    assert "object 'holiday/ä ö.jpg' of bucket 'photos': meta and data do not give the CRC" in finding.what
    assert "500 needle_damaged" in finding.advice
    assert "equals the scan but for needles in damaged places" in report.index


def test_damage_of_a_dead_needle_loses_nothing(path: Path) -> None:
    flip(path, record_of(path, DELETED).offset + record.HEADER_BYTES + len(META))
    assert "Nothing is lost: the needle is dead." in only_damage(path)


def test_damaged_verdict(path: Path) -> None:
    flip(path, record_of(path, REFUSED, "tombstone").offset + record.HEADER_BYTES)
    assert "only the verdict of its refusal is lost" in only_damage(path)


def test_flipped_padding(path: Path) -> None:
    item = record_of(path, ALIVE)
    assert item.header is not None
    assert item.size_bytes > item.header.stored_bytes
    flip(path, item.offset + item.header.stored_bytes)
    assert "the padding behind it is not zeros. No reader looks at it." in only_damage(path)


def test_needle_of_a_lost_header_is_known_by_the_index(path: Path) -> None:
    item = record_of(path, CHUNK)
    overwrite(path, item.offset, bytes(record.HEADER_BYTES))
    report = inspected(path)
    [finding] = report.findings
    assert (finding.offset, finding.size_bytes, finding.needle) == (item.offset, item.size_bytes, CHUNK)
    assert f"no genuine header stands here; by the index file this was needle {CHUNK:016x}." in finding.what
    path.with_suffix(".idx").unlink()
    [finding] = inspected(path).findings
    assert finding.needle is None


def test_flipped_header_is_read_as_what_it_claims(path: Path) -> None:
    flip(path, record_of(path, CHUNK).offset + 20)
    assert f"its tag does not match; it reads as that of needle {CHUNK:016x}" in only_damage(path)


def test_zeros_are_called_what_they_are(path: Path) -> None:
    item = record_of(path, CHUNK)
    overwrite(path, item.offset, bytes(item.size_bytes))
    assert "all of it is zeros" in only_damage(path)


def test_lost_tombstone_is_known_by_the_index_alone(path: Path) -> None:
    flip(path, record_of(path, REFUSED, "tombstone").offset)
    text = only_damage(path)
    assert f"by the index file this was the tombstone of needle {REFUSED:016x}" in text
    assert "do not remove that file" in text


def test_torn_tail_is_no_damage(path: Path) -> None:
    overwrite(path, path.stat().st_size, path.read_bytes()[RECORDS_START : RECORDS_START + 50])
    report = inspected(path)
    assert damage(report) == []
    [note] = notes(report)
    assert "part of a record" in note
    assert "The next opening cuts it off." in note


def test_tail_that_the_index_knows_is_damage(path: Path) -> None:
    item = record_of(path, LAST)
    overwrite(path, item.offset, bytes(40))
    text = only_damage(path)
    assert "nothing from here to the end is a record, though by the index file there were some" in text
    assert f"by the index file this was needle {LAST:016x}" in text
    assert "before a server opens it" in text


def test_file_that_was_cut_off_is_damage(path: Path) -> None:
    os.truncate(path, record_of(path, LAST).offset)
    text = only_damage(path)
    assert f"the file ends here, and 0000000007.idx knows of records behind: needle {LAST:016x}" in text


def test_needle_that_stands_twice(path: Path) -> None:
    item = record_of(path, CHUNK)
    raw = path.read_bytes()
    overwrite(path, len(raw), raw[item.offset : item.offset + item.size_bytes])
    assert f"its needle has a record already, at {item.offset:,}, and the first one counts" in only_damage(path)


def test_one_superblock(path: Path) -> None:
    flip(path, 20)
    assert "the superblock at 0 is none: CRC does not match. The other copy is used." in only_damage(path)


def test_two_superblocks_that_differ(path: Path) -> None:
    raw = bytearray(path.read_bytes()[:48])
    raw[16] += 1
    overwrite(path, COPY_OFFSETS[1], bytes(raw) + zlib.crc32(raw).to_bytes(4, "little"))
    assert "the two copies of the superblock differ" in only_damage(path)


def test_no_superblock_but_an_index(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The index file holds the salt as well: what the records are can still be told."""
    for offset in COPY_OFFSETS:
        overwrite(path, offset, bytes(SIZE_BYTES))
    report = inspected(path)
    assert len(damage(report)) == 2
    assert report.figures.live_count == 3
    assert "Bring the first 8,192 bytes back from a backup" in damage(report)[0]
    path.with_suffix(".idx").unlink()
    assert "is not a volume file" in unreadable(capsys, path)


def test_file_of_another_name(path: Path) -> None:
    copy = path.with_name("backup.vol")
    copy.write_bytes(path.read_bytes())
    report = inspected(copy)
    assert damage(report) == []
    assert "A server refuses it under this name; it takes 0000000007.vol." in notes(report)[0]


def test_much_damage_is_counted_and_partly_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = new_volume(tmp_path)
    claims = [write(volume, NEEDLE + number, b"data") for number in range(MAX_FINDINGS + 50)]
    settle(volume, *claims)
    volume.close()
    raw = bytearray(volume.path.read_bytes())
    for claim in claims:
        raw[claim.data_offset] ^= 1
    volume.path.write_bytes(raw)
    report = inspected(volume.path)
    assert (len(report.findings), report.untold_count, report.damage_count) == (MAX_FINDINGS, 50, MAX_FINDINGS + 50)
    assert "… and 50 more" in run(capsys, volume.path)[1]


@pytest.fixture
def unreadable_bytes(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[range]]:
    """Ranges of the volume file that the device does not give."""
    bad: set[range] = set()
    pread = os.pread

    def failing(fd: int, size: int, offset: int) -> bytes:
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        if name.endswith(".vol") and any(offset < each.stop and each.start < offset + size for each in bad):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", failing)
    return bad


def test_pages_that_the_disk_does_not_give(tmp_path: Path, unreadable_bytes: set[range]) -> None:
    volume = new_volume(tmp_path)
    claims = [put(volume, NEEDLE + number, bytes(3000)) for number in range(12)]
    volume.close()
    unreadable_bytes |= {range(16384, 20480), range(24576, 28672)}
    report = inspected(volume.path)
    texts = damage(report)
    assert all("it cannot be read: Input/output error" in text for text in texts)
    hit = [
        claim
        for claim in claims
        if any(claim.offset < each.stop and each.start < claim.offset + claim.record_bytes for each in unreadable_bytes)
    ]
    assert report.records["live"] + report.records["gap"] == len(claims)
    assert len(texts) == len(hit)
    for claim in hit:
        assert any(f"{claim.needle:016x}" in text for text in texts)
    unreadable_bytes.clear()
    assert inspected(volume.path).damage_count == 0


# -- index and state -------------------------------------------------------------------------------------------------


def test_no_index(path: Path) -> None:
    path.with_suffix(".idx").unlink()
    report = inspected(path)
    assert report.findings == []
    assert "is not there" in report.index


def test_index_behind_the_volume(path: Path) -> None:
    volume = Volume.open(FileSystem(), path)
    watermark = volume.tail
    put(volume, LAST + 1, b"behind it", meta=META)
    volume.close(clean=False)
    report = inspected(path)
    assert report.findings == []
    assert f"to be replayed from {watermark:,} on; it equals the scan (6 needles)" in report.index


def test_newest_header_bad(path: Path) -> None:
    reopen(reopen(Volume.open(FileSystem(), path), clean=True), clean=True).close()  # both headers are written now
    idx = path.with_suffix(".idx")
    generations = [int.from_bytes(idx.read_bytes()[at + 32 : at + 40], "little") for at in HEADER_OFFSETS]
    newest = HEADER_OFFSETS[generations[1] > generations[0]]
    flip(idx, newest + 40)
    report = inspected(path)
    [text] = damage(report)
    assert f"the header at {newest} of 0000000007.idx is none: CRC does not match." in text
    assert f"counts, generation {min(generations)}" in report.index


def test_segment_bad(path: Path) -> None:
    flip(path.with_suffix(".idx"), PLACES_START + 5)
    report = inspected(path)
    [text] = damage(report)
    assert "generation 1 of 0000000007.idx is not used: a segment does not check. Nothing is lost" in text
    assert "holds no checkpoint that can be used" in report.index


def saved(path: Path, needle: int, offset: int, length: int) -> None:
    """Put a wrong entry into the index file."""
    volume = Volume.open(FileSystem(), path)
    volume.index.put(needle, offset, length)
    volume.close()


def test_index_with_a_wrong_entry(path: Path) -> None:
    item = record_of(path, ALIVE)
    saved(path, ALIVE, item.offset, item.size_bytes - 8)
    text = only_damage(path)
    assert f"0000000007.idx has needle {ALIVE:016x} at {item.offset:,}" in text
    assert "remove the .idx file" in text


def test_index_with_a_needle_too_many(path: Path) -> None:
    saved(path, LAST + 1, record_of(path, ALIVE).offset, 48)
    assert "and the scan does not know it" in only_damage(path)


def test_index_with_a_needle_too_few(path: Path) -> None:
    """As a lost record of a needle that was dead before: the index says alive."""
    item = record_of(path, DELETED)
    assert item.header is not None
    saved(path, DELETED, item.offset, item.header.stored_bytes)
    assert f"and the scan dead, its tombstone at {record_of(path, DELETED, 'tombstone').offset:,}" in only_damage(path)


def test_index_that_counts_wrong(path: Path) -> None:
    volume = Volume.open(FileSystem(), path)
    volume.figures.live_count += 1
    volume.close()
    assert "counts 4 live and 2 dead needles" in only_damage(path)


def test_state(path: Path) -> None:
    volume = Volume.open(FileSystem(), path)
    volume.unsynced.append((RECORDS_START, RECORDS_START + 8))
    volume.seal("an fdatasync failed")
    volume.close()
    report = inspected(path)
    assert damage(report) == []
    assert "the volume is sealed: an fdatasync failed." in notes(report)[0]
    assert "in doubt" in notes(report)[1]
    path.with_suffix(".state").write_text("{")
    assert "0000000007.state holds no state" in only_damage(path)


# -- one needle ------------------------------------------------------------------------------------------------------


def explained(capsys: pytest.CaptureFixture[str], path: Path, needle: int) -> tuple[str, dict[str, Any]]:
    _, out, _ = run(capsys, "--needle", f"{needle:016x}", path)
    _, lines, _ = run(capsys, "--needle", f"{needle:x}", "--json", path)
    return out, json.loads(lines.splitlines()[-1])


def test_needle_alive(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, found = explained(capsys, path, ALIVE)
    assert found["state"] == "alive"
    assert "key: 'holiday/ä ö.jpg'" in out
    assert "metadata: {'camera': 'x', 'place': 'Küste'}" in out
    assert "If-None-Match: '*'" in out
    assert "lease of 4,096 from 0000000012340000 on, epoch 2" in out
    assert "API key 5 generation 3, until 2023-11-14T22:28:20.000Z" in out
    out, _ = explained(capsys, path, CHUNK)
    assert "chunk 2 of 3 of upload 12345678-1234-5678-1234-567812345678" in out


def test_needle_as_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--needle", f"{CHUNK:x}", "--json", path)
    first, answer = (json.loads(line) for line in out.splitlines())
    assert (first["kind"], first["crc"], first["meta"]["key"]) == ("live", "ok", "")
    assert first["intent"]["upload"] == "12345678-1234-5678-1234-567812345678"
    assert (answer["needle"], answer["state"], answer["findings"]) == (f"{CHUNK:016x}", "alive", [])


def test_needle_dead(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, found = explained(capsys, path, REFUSED)
    assert found["state"] == "dead"
    assert "its PUT was refused: 412 precondition_failed" in out
    assert "verdict: 412 precondition_failed" in out
    out, found = explained(capsys, path, DELETED)
    assert (found["state"], found["explanation"]) == ("dead", "it is dead; it was deleted.")


def test_needle_damaged_lost_aborted_and_unknown(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explained(capsys, path, ABORTED)[1]["state"] == "aborted"
    assert explained(capsys, path, LAST + 9)[1]["state"] == "unknown"
    flip(path, record_of(path, ALIVE).offset + record.HEADER_BYTES + len(META))
    overwrite(path, record_of(path, CHUNK).offset, bytes(8))
    out, found = explained(capsys, path, ALIVE)
    assert found["state"] == "damaged"
    assert "CRC WRONG" in out
    assert "The volume has other damage (1)" in out
    assert explained(capsys, path, CHUNK)[1]["state"] == "lost"


# -- beside a running server -----------------------------------------------------------------------------------------


def test_beside_a_running_server(server: Server) -> None:
    """Uploads under way, small puts one after the other, a checkpoint now and then: never a false alarm."""
    path = server.volume.path
    slow = server.wire().send(request("PUT", put_url(FIRST + 4000), bytes(LARGE))[: LARGE // 2])
    server.wait(lambda: server.volume.claims, what="the upload under way")
    stopped = threading.Event()

    def load() -> None:
        slot = 1
        while not stopped.is_set():
            server.put(FIRST + slot, bytes(slot))
            if slot % 100 == 0:
                job = server.call(server.volume.begin_checkpoint)
                places = server.volume.write_checkpoint(job)
                server.call(lambda job=job, places=places: server.volume.end_checkpoint(job, places))
            slot += 1

    loader = threading.Thread(target=load)
    loader.start()
    try:
        seen = 0
        while seen < 150:
            report = inspected(path)
            assert damage(report) == []
            assert report.records["filler"] + report.records["torn tail"] >= 1
            seen = report.records["live"]
    finally:
        stopped.set()
        loader.join()
        slow.close()


def test_damage_in_a_file_that_changes_is_looked_at_again(path: Path) -> None:
    """A record that was half-written when it was met, and is whole by the end."""
    path.with_suffix(".idx").unlink()
    good = path.read_bytes()
    flip(path, record_of(path, CHUNK).offset)
    flip(path, record_of(path, ALIVE).offset + record.HEADER_BYTES)

    def mend(item: Item) -> None:
        if item.kind == "gap":
            overwrite(path, item.offset, good[item.offset : item.offset + item.size_bytes])

    with Inspection(path) as inspection:
        [finding] = inspection.run(mend).findings
    assert finding.needle == ALIVE


# -- the process -----------------------------------------------------------------------------------------------------


def process(*arguments: str | Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "volume_server.fsck", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_exit_codes(path: Path, tmp_path: Path) -> None:
    for wanted, file in ((0, path), (1, ROOT / "tests/golden/format1/0000000007.vol"), (2, tmp_path)):
        with process(file) as running:
            running.communicate()
            assert running.returncode == wanted
    with process("--help") as running:
        out, _ = running.communicate()
    assert "exit codes: 0 sound, 1 damage was found, 2 the file cannot be read" in " ".join(out.split())


def test_reader_that_has_seen_enough(tmp_path: Path) -> None:
    volume = new_volume(tmp_path)
    settle(volume, *(write(volume, NEEDLE + number, b"") for number in range(3000)))
    volume.close()
    with process("--dump", volume.path) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.stderr.read() == ""
        assert running.wait() == fsck.UNREADABLE


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_and_wiped_away(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(fsck, "PROGRESS_EVERY_S", 0)
    progress = fsck.Progress(8 << 20, terminal)
    progress.passed(Item(2 << 20, 2 << 20, None, sound=True))
    assert "[###############               ]  50% of 8 MiB" in terminal.getvalue()
    progress.clear()
    assert terminal.getvalue().endswith("\r\x1b[K")
    silent = io.StringIO()
    fsck.Progress(8 << 20, silent).passed(Item(2 << 20, 2 << 20, None, sound=True))
    assert silent.getvalue() == ""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """A quarter of a GiB of zeros in two needles, sparse."""
    volume = new_volume(tmp_path)
    zeros = bytes(1 << 20)
    crc = 0
    for _ in range(128):
        crc = zlib.crc32(zeros, crc)
    for number in range(2):
        claim = volume.reserve(NEEDLE + number, META, 128 << 20, appended_ms=1)
        volume.finish(claim, data_crc=crc)
        volume.sync_log()
        volume.settle([claim])
    volume.close()
    tracemalloc.start()
    try:
        report = inspected(volume.path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.damage_count == 0
    assert report.figures.live_count == 2
    assert peak_bytes < 16 << 20


def test_streamed_needle_is_sound(tmp_path: Path) -> None:
    volume = new_volume(tmp_path)
    finish(volume, volume.reserve(NEEDLE, META, 5001, appended_ms=1), bytes(5001))
    volume.close()
    assert inspected(volume.path).findings == []
