"""The benches run, on little: what they call of the engine is still there, and a row says what was measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import index, light, proof
from bench.crowd import key_of
from bench.master import BUCKET, Crowd
from bench.programs import UncommittedServer
from bench.table import Effort, Figure, in_turn
from bench.uncommitted_server import VOLUME
from bench.volumes import make_volume, needle_ids
from tests.support.programs import ROOT
from tests.support.store import Store as RunningStore
from volume_server.store import Store


@pytest.mark.parametrize(
    ("figure", "end"),
    [
        (Figure("w", "a", 1200, 1000, "MB/s", least=1.2), "| 1,200 MB/s | 1,000 | 1.20 | at least 1.2 | met |"),
        (Figure("w", "a", 1199, 1000, "MB/s", least=1.2), "| 1,199 MB/s | 1,000 | 1.20 | at least 1.2 | MISSED |"),
        (Figure("w", "", 20.1, None, "ms", most=20), "| 20.1 ms |  |  | at most 20 | MISSED |"),
        (Figure("w", "", 20, None, "ms", most=20), "| 20 ms |  |  | at most 20 | met |"),
        (Figure("w", "a", 13, 10, "µs", most=1.25), "| 13 µs | 10 | 1.30 | at most 1.25 | MISSED |"),
        (Figure("w", "a", 1, 1000, "MB/s"), "| 1 MB/s | 1,000 | 0.00 |  |  |"),
    ],
)
def test_row_says_what_was_wanted_and_whether_it_was_met(figure: Figure, end: str) -> None:
    assert figure.row() == f"| w | {figure.against} {end}"


def test_rounds_are_medians_of_sides_in_turn() -> None:
    calls: list[str] = []
    values = iter([5.0, 50.0, 1.0, 10.0, 2.0, 20.0])

    def side(name: str) -> float:
        calls.append(name)
        return next(values)

    effort = Effort(rounds=3, seconds=1, large_bytes=1)
    assert in_turn(effort, lambda: side("ours"), lambda: side("reference")) == (2.0, 20.0)
    assert calls == ["ours", "reference"] * 3


def told_by(module: str, *arguments: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )  # fmt: skip
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_filled_volume_opens_cleanly_and_with_a_tail_as_after_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = told_by("bench.filling", str(tmp_path / "data"), "60000")
    assert told["checkpoints"] >= 1
    assert 0 < told["longest_own_gap_s"] <= told["longest_gap_s"]
    assert told_by("bench.opening", str(tmp_path / "data"))["needles"] == 60000
    monkeypatch.setattr(index, "CHECKPOINT_EVERY_BYTES", 1 << 20)
    assert index._add_a_tail(tmp_path / "data") >= 1 << 20
    assert told_by("bench.opening", str(tmp_path / "data"))["needles"] > 60000


def test_made_volume_holds_the_living_and_the_dead(tmp_path: Path) -> None:
    needles = list(needle_ids(4100))
    make_volume(tmp_path, ((needle, b"%d" % needle) for needle in needles), dead=needles[:300])
    store = Store(tmp_path)
    store.open_volumes()
    volume = store.volume(VOLUME)
    assert (volume.figures.live_count, volume.figures.tombstone_count) == (3800, 300)
    assert bytes(volume.read(needles[-1]) or b"") == b"%d" % needles[-1]
    store.close()


def test_light_client_moves_every_byte_and_takes_no_refusal_for_an_answer(tmp_path: Path) -> None:
    source = tmp_path / "source"
    size_bytes = 300_000
    source.write_bytes(os.urandom(2 * size_bytes))
    with UncommittedServer(tmp_path / "server") as server:
        before, number, _, after = server.lease_lines(1)[0].split("\t")
        targets = [f"{before}{number}{slot:04x}{after}" for slot in range(2)]
        assert light.put_bytes_per_second(server.port, source, targets, size_bytes=size_bytes, at_a_time=2) > 0
        needle = int(number, 16) << 16 | 1
        target = server.signed_get(needle)
        assert light.get_bytes_per_second(server.port, target, size_bytes=size_bytes, seconds=0.01) > 0
        assert server.usage()["live_count"] == 2
        with pytest.raises(RuntimeError, match="403"):
            light.get_bytes_per_second(server.port, target + "0", size_bytes=size_bytes, seconds=0.01)
        with pytest.raises(RuntimeError, match="403"):
            light.put_bytes_per_second(server.port, source, [targets[0] + "0"], size_bytes=size_bytes, at_a_time=1)
        assert server.admin("/admin/seal", {"volume": VOLUME}).json["state"] == "sealed"
    store = Store(tmp_path / "server" / "data")
    store.open_volumes()
    assert bytes(store.volume(VOLUME).read(needle) or b"") == source.read_bytes()[size_bytes:]
    store.close()


def test_crowd_is_a_bucket_as_confirms_would_have_filled_it(tmp_path: Path) -> None:
    """And a store with the bench's own settings answers all that it is asked for."""
    env = {"DJANGO_SETTINGS_MODULE": "bench.master_settings"}
    with RunningStore(tmp_path, env=env, volume_servers=1, worker=False) as store:
        crowd = Crowd(store, 2200, Effort(rounds=1, seconds=1, large_bytes=1))
        crowd.fill()
        bucket = crowd.api.get(f"buckets/{BUCKET}")
        assert (bucket["object_count"], bucket["total_bytes"]) == (2200, 2200 << 10)
        assert crowd.api.list(BUCKET) == sorted(key_of(number) for number in range(2200))
        found = crowd.api.look_up(BUCKET, key_of(0), key_of(2199))
        assert [len(one["chunks"]) for one in found.values()] == [1, 1]
        assert crowd.confirm(size=200, confirms=2) > 0
        assert crowd.confirm(size=1, confirms=2, anywhere=True) > 0
        assert crowd.api.get(f"buckets/{BUCKET}")["object_count"] == 2200, "what was confirmed is deleted again"
        for path in ("bench/empty", "bench/open"):
            assert crowd.api.post(path, {}, status=200) == {}


def test_fsck_and_sweep_of_a_crowd_are_timed(tmp_path: Path) -> None:
    [fsck, sweep] = proof.on_sqlite(tmp_path, Effort(rounds=1, seconds=1, large_bytes=1, objects=300))
    assert (fsck.ours > 0, sweep.ours > 0) == (True, True)
    assert "fsck of 300 needles" in fsck.row()
