"""docs/format.md is enough: a reader written from it alone reads what the volume server reads."""

import ast
import dataclasses
import shutil
import sys
from pathlib import Path

import pytest

from tests.golden import make, stranger
from tests.support.programs import ROOT
from volume_server import intent as intents
from volume_server import meta as metas
from volume_server.durability import FileSystem
from volume_server.errors import Damaged
from volume_server.volume import Volume

FORMAT1 = Path(make.__file__).parent / "format1"
CASES = [*make.CASES, "."]


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_a_stranger_opens_every_volume_to_the_same(case: str, with_index: bool, tmp_path: Path) -> None:
    path = tmp_path / "0000000007.vol"
    for name in (path.name, "0000000007.idx", "0000000007.state"):
        if (FORMAT1 / case / name).exists() and (with_index or not name.endswith(".idx")):
            shutil.copy(FORMAT1 / case / name, tmp_path)
    raw = path.read_bytes()
    index = path.with_suffix(".idx").read_bytes() if path.with_suffix(".idx").exists() else None
    theirs = stranger.open_volume(raw, index)
    ours = Volume.open(FileSystem(), path)
    assert theirs.index == {needle: (offset, length) for needle, offset, length in ours.index.items()}
    figures = ours.figures
    assert theirs.live_count == figures.live_count
    assert theirs.dead_count == figures.tombstone_count
    assert theirs.garbage_bytes == figures.garbage_bytes
    if case != ".":  # whose state says what is known of damage
        assert theirs.damaged_count == figures.damaged_count
    assert theirs.end == ours.tail
    for needle, (offset, length) in theirs.index.items():
        found = stranger.record_at(raw, offset, make.SALT)
        try:
            read = ours.read(needle) if length else ours.verdict_of_dead(needle).encode()
        except Damaged:
            assert found is None or not found.sound
            continue
        assert found is not None
        assert found.sound
        assert (found.data if length else found.meta) == bytes(read or b"")
    ours.close(clean=False)


@pytest.mark.parametrize("case", [case for case in CASES if (FORMAT1 / case / "0000000007.idx").exists()])
def test_a_stranger_finds_every_needle_in_the_index_file(case: str) -> None:
    block = stranger.superblock((FORMAT1 / case / "0000000007.vol").read_bytes())
    assert block is not None
    file = stranger.IndexFile((FORMAT1 / case / "0000000007.idx").read_bytes(), block)
    items = list(file.items())
    assert items
    for needle, offset, length in items:
        assert file.find(needle) == (offset, length)
    assert file.find(max(needle for needle, _, _ in items) + 1) is None


def test_a_stranger_reads_the_superblock() -> None:
    for case in CASES:
        block = stranger.superblock((FORMAT1 / case / "0000000007.vol").read_bytes())
        assert block is not None
        assert dataclasses.asdict(block) == dataclasses.asdict(make.SUPERBLOCK)


@pytest.mark.parametrize("meta", make.METAS.values(), ids=make.METAS)
def test_a_stranger_reads_metas(meta: metas.Meta) -> None:
    assert stranger.meta(metas.encode(meta)) == dataclasses.asdict(meta)


@pytest.mark.parametrize("intent", [make.LEASE, make.CHUNK, make.PRESIGNED])
def test_a_stranger_reads_intents(intent: intents.Intent) -> None:
    ours = dataclasses.asdict(intent)
    if intent.upload is None:
        for name in ("upload", "chunk_index", "chunk_count", "total_bytes"):
            del ours[name]
    else:
        ours["upload"] = intent.upload.hex
    assert stranger.intent(make.packed(intent)) == ours


def test_the_stranger_knows_nothing_of_us() -> None:
    for node in ast.walk(ast.parse((ROOT / "tests" / "golden" / "stranger.py").read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert all(name.split(".")[0] in sys.stdlib_module_names for name in names), names
