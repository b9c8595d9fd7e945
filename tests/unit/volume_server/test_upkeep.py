"""Scrubs in a running server: damage is found in one pass, told, kept and forgotten; whose turn it is, and when not."""

import asyncio
import json
import os
import signal
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import wait_until
from tests.unit.volume_server import fake_master, faults
from tests.unit.volume_server.fake_master import FakeMaster
from tests.unit.volume_server.faults import NEEDLE, new_volume, put, reopen
from tests.unit.volume_server.serving import (
    FIRST,
    KID,
    SECRET,
    Answer,
    Server,
    Wire,
    get_url,
    put_url,
    request,
    running,
)
from tests.unit.volume_server.test_process import started
from volume_server import __main__ as command
from volume_server import signing, upkeep
from volume_server.clock import Clock
from volume_server.damage import BAD_CRC, MAX_LISTED, NO_RECORD, READ, Damage
from volume_server.errors import Damaged
from volume_server.store import Store
from volume_server.upkeep import DAY_MS, Upkeep, needles_within
from volume_server.volume import Volume, read_state

SLOW = 1
"""Bytes a second: a pass that does not end while a test looks at it."""


@pytest.fixture
def master() -> Iterator[FakeMaster]:
    with FakeMaster() as started:
        started.instructions = [{"do": "create", "volume": 1, "salt": "ab" * 16, "created_ms": 5, "epoch": 1}]
        yield started


def admin(server: Server, target: str, body: object, *, method: str = "POST") -> Answer:
    """A request of the master's."""
    raw = b"" if body is None else json.dumps(body).encode()
    headers = signing.signed_headers(
        SECRET,
        kid=KID,
        direction=signing.TO_SERVER,
        method=method,
        target=target,
        body=raw,
        server=server.store.identity.server,
        time_ms=server.clock.now_ms(),
    )
    return server.ask(method, target, raw, **headers)


def scrub(server: Server) -> dict[str, Any]:
    """One pass from its start to its end; the volume's figures then."""
    assert admin(server, "/admin/scrub", {"volume": 1}).json()["scrub"]["state"] == "running"
    return ended(server)


def figures(server: Server) -> dict[str, Any]:
    [found] = admin(server, "/usage", None, method="GET").json()["volumes"]
    return found


def ended(server: Server) -> dict[str, Any]:
    return wait_until(
        lambda: (found := figures(server))["scrub"]["state"] != "running" and found, what="the end of the scrub"
    )


def place(server: Server, needle: int) -> tuple[int, int]:
    return server.call(lambda: server.volume.locate(needle))


def flip(server: Server, offset: int) -> None:
    [byte] = os.pread(server.volume.fd, 1, offset)
    os.pwrite(server.volume.fd, bytes([byte ^ 4]), offset)


def listed(server: Server) -> list[dict[str, Any]]:
    answer = admin(server, "/admin/damaged", {"volume": 1}).json()
    assert answer["volume"] == 1
    assert answer["count"] == len(answer["damaged"])
    return answer["damaged"]


# -- what a pass finds -------------------------------------------------------------------------------------------


def test_healthy_volume_is_scrubbed_to_its_end(server: Server) -> None:
    before_ms = server.clock.now_ms()
    for slot in range(20):
        server.put(FIRST + slot, b"x" * slot * 100)
    found = scrub(server)
    job = found["scrub"]
    assert (job["state"], job["detail"], found["damaged_count"], listed(server)) == ("done", "", 0, [])
    assert job["done_bytes"] == job["total_bytes"] == found["size_bytes"] - 8192
    assert before_ms <= job["started_ms"] <= found["scrubbed_ms"] <= job["ended_ms"] <= server.clock.now_ms()


def test_planted_damage_is_found_in_one_pass_named_and_never_served(server: Server) -> None:
    for slot in range(5):
        server.put(FIRST + slot, b"some data")
    (body_at, body_bytes), (header_at, _) = place(server, FIRST + 1), place(server, FIRST + 3)
    flip(server, body_at + body_bytes - 1)
    flip(server, header_at + 12)
    assert scrub(server)["damaged_count"] == 2
    aligned = (body_bytes + 7) // 8 * 8
    assert listed(server) == [
        {"needle": f"{FIRST + 1:016x}", "offset": body_at, "bytes": aligned, "reason": BAD_CRC},
        {"needle": f"{FIRST + 3:016x}", "offset": header_at, "bytes": aligned, "reason": NO_RECORD},
    ]
    assert [server.get(FIRST + slot).status for slot in range(5)] == [200, 500, 200, 500, 200]
    assert figures(server)["damaged_count"] == 2  # the reads found nothing that was not known


def test_damage_that_is_gone_is_no_longer_counted(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.put(FIRST, b"some data")
    at, _ = place(server, FIRST)
    flip(server, at + 45)
    for _ in range(2):
        assert scrub(server)["damaged_count"] == 1
    assert sum("are damaged" in line for line in caplog.messages) == 1  # told once
    flip(server, at + 45)
    found = scrub(server)
    assert (found["damaged_count"], listed(server)) == (0, [])
    assert server.get(FIRST).body == b"some data"


def test_dead_needle_s_damage_counts_but_damages_no_needle(server: Server) -> None:
    server.put(FIRST, b"some data")
    at, _ = place(server, FIRST)
    assert admin(server, "/admin/delete", {"volume": 1, "needles": [f"{FIRST:016x}"]}).status == 200
    flip(server, at + 45)
    assert scrub(server)["damaged_count"] == 1
    assert server.call(lambda: set(server.volume.damaged_needles)) == set()


def test_reads_between_two_passes_add_what_they_come_across(server: Server) -> None:
    server.put(FIRST, b"one")
    server.put(FIRST + 1, b"other")
    scrub(server)
    at, _ = place(server, FIRST)
    flip(server, at + 45)
    assert server.get(FIRST).status == 500
    assert server.get(FIRST).status == 500
    assert figures(server)["damaged_count"] == 1
    assert [damage["reason"] for damage in listed(server)] == [READ]
    assert scrub(server)["damaged_count"] == 1
    assert [damage["reason"] for damage in listed(server)] == [BAD_CRC]


def test_what_was_found_is_known_after_a_restart(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        server.put(FIRST, b"one")
        flip(server, place(server, FIRST)[0] + 45)
        before = scrub(server)
        damaged = listed(server)
    with running(tmp_path) as server:
        after = figures(server)
        assert listed(server) == damaged
        assert (after["damaged_count"], after["scrubbed_ms"]) == (1, before["scrubbed_ms"])
        assert after["scrub"] is None
        assert server.get(FIRST).status == 500
        assert figures(server)["damaged_count"] == 1


def test_metrics_tell_when_the_last_pass_was(server: Server) -> None:
    def told() -> str:
        [line] = [
            line
            for line in server.ask("GET", "/metrics").body.decode().splitlines()
            if line.startswith("warehouse_volume_scrubbed_timestamp_seconds")
        ]
        return line

    assert told() == 'warehouse_volume_scrubbed_timestamp_seconds{volume="1"} 0.0'
    found = scrub(server)
    assert told() == f'warehouse_volume_scrubbed_timestamp_seconds{{volume="1"}} {found["scrubbed_ms"] / 1000}'


def test_scrub_of_a_volume_that_is_not_here_is_404(server: Server) -> None:
    for target in ("/admin/scrub", "/admin/damaged"):
        assert admin(server, target, {"volume": 9}).code == (404, "volume_unknown")
        assert admin(server, target, {}).code == (400, "bad_request")


# -- passes that do not come to their end ------------------------------------------------------------------------


def slow_pass(server: Server) -> int:
    """A scrub that takes for ever; the child's process id."""
    server.put(FIRST, b"x" * 200_000)
    server.call(lambda: setattr(server.upkeep, "scrub_rate", SLOW))
    assert admin(server, "/admin/scrub", {"volume": 1}).status == 200
    return wait_until(lambda: server.call(lambda: child_of(server.upkeep)), what="the child")


def child_of(upkeep: Upkeep) -> int | None:
    running = upkeep._pass
    return None if running is None or running._child is None else running._child.pid


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_second_call_joins_the_pass_that_runs(server: Server) -> None:
    pid = slow_pass(server)
    first = figures(server)["scrub"]
    assert admin(server, "/admin/scrub", {"volume": 1}).json()["scrub"] == first
    assert first["state"] == "running"
    assert server.call(lambda: child_of(server.upkeep)) == pid


def test_stop_ends_a_pass_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        pid = slow_pass(server)
    assert is_gone(pid)
    with running(tmp_path) as server:
        assert figures(server)["scrubbed_ms"] is None


def test_child_that_dies_fails_the_pass_and_what_it_found_is_kept(server: Server) -> None:
    pid = slow_pass(server)
    damage = Damage(place(server, FIRST)[0], 200_072, FIRST, BAD_CRC)

    def tell() -> None:
        assert server.upkeep._pass is not None
        server.upkeep._pass._take({"damaged": [damage.to_json()]})

    server.call(tell)
    os.kill(pid, signal.SIGKILL)
    found = ended(server)
    assert found["scrub"]["state"] == "failed"
    assert found["scrub"]["detail"] == "it was killed by signal 9"
    assert found["scrubbed_ms"] is None
    assert found["damaged_count"] == 1
    server.call(lambda: setattr(server.upkeep, "scrub_rate", 0))
    assert scrub(server)["damaged_count"] == 0


def test_child_that_cannot_be_started_fails_the_pass(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nonexistent/python")
    found = scrub(server)["scrub"]
    assert found["state"] == "failed"
    assert "cannot be started" in found["detail"]


def test_compaction_comes_first_and_the_scrub_begins_again_after_it(server: Server) -> None:
    pid = slow_pass(server)
    server.put(FIRST + 1, b"x" * 1000)
    assert admin(server, "/admin/delete", {"volume": 1, "needles": [f"{FIRST + 1:016x}"]}).status == 200
    server.call(lambda: setattr(server.upkeep, "scrub_rate", 0))
    assert admin(server, "/admin/compact", {"volume": 1}).status == 200

    def compacted() -> bool:
        report = server.compactor.report(server.volume)
        return report is not None and report["state"] == "done"

    server.wait(compacted, what="the compaction")
    assert is_gone(pid)
    assert figures(server)["scrub"]["state"] == "running"
    server.call(server.upkeep.look)
    found = ended(server)
    assert found["scrub"]["state"] == "done"
    assert found["revision"] == 2
    assert found["scrub"]["total_bytes"] == found["size_bytes"] - 8192


def test_damage_is_placed_anew_after_a_compaction(server: Server) -> None:
    for slot in range(3):
        server.put(FIRST + slot, b"some data")
    flip(server, place(server, FIRST + 2)[0] + 45)
    scrub(server)
    [before] = listed(server)
    admin(server, "/admin/delete", {"volume": 1, "needles": [f"{FIRST:016x}"]})
    admin(server, "/admin/compact", {"volume": 1})
    server.wait(lambda: server.volume.superblock.revision == 2, what="the compaction")
    assert figures(server)["damaged_count"] == 1

    def rescrubbed() -> bool:
        server.upkeep.look()
        return bool(server.volume.damage)

    server.wait(rescrubbed, what="the scrub after it")
    [after] = listed(server)
    assert after["needle"] == before["needle"]
    assert after["offset"] == place(server, FIRST + 2)[0] != before["offset"]


def test_pass_over_a_file_that_was_swapped_meanwhile_counts_for_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put(FIRST, b"data")
    passes: list[int] = []
    read = upkeep.Pass._read

    async def read_and_swap(self: upkeep.Pass) -> str | None:
        outcome = await read(self)
        passes.append(self.revision)
        if len(passes) == 1:
            volume = self.volume
            self._take({"damaged": [Damage(8192, 48, None, NO_RECORD).to_json()]})
            volume.superblock = replace(volume.superblock, revision=2)
            head = volume.superblock
            os.pwrite(volume.fd, upkeep.superblock.encode_head(head), 0)
        return outcome

    monkeypatch.setattr(upkeep.Pass, "_read", read_and_swap)
    found = scrub(server)
    assert passes == [1, 2]
    assert (found["scrub"]["state"], found["damaged_count"]) == ("done", 0)


# -- files that are not where they were --------------------------------------------------------------------------


def test_file_that_is_taken_from_under_the_server_is_told_and_read_on(server: Server) -> None:
    server.put(FIRST, b"data")
    path = server.volume.path
    path.rename(path.with_suffix(".gone"))
    assert f"{path.name} was removed or replaced" in scrub(server)["scrub"]["detail"], "a scrub looks at once"
    for _ in range(2):
        server.call(server.upkeep.look_at_files)
    found = figures(server)
    assert found["state"] == "sealed"
    assert "was removed or replaced while the server ran" in found["detail"]
    assert f"/proc/{os.getpid()}/fd/{server.volume.fd}: copy it back" in found["detail"]
    assert server.get(FIRST).body == b"data"
    refused = server.put(FIRST + 1, b"is lost with the next restart")
    assert (refused.status, refused.json()["code"]) == (503, "volume_sealed")
    listed = admin(server, "/admin/needles", {"volume": 1})
    assert (listed.status, listed.json()["code"]) == (503, "listing_failed")
    assert "was removed or replaced" in listed.body.decode()
    server.call(server.volume.save_state)
    assert read_state(server.volume.files, path).sealed is None, "the file that is put back takes records"


def test_file_that_is_swapped_is_not_taken_for_one_that_is_lost(server: Server) -> None:
    path = server.volume.path
    aside = path.with_suffix(".aside")
    path.rename(aside)
    server.call(server.upkeep.look_at_files)
    aside.rename(path)
    for _ in range(2):
        server.call(server.upkeep.look_at_files)
    aside.write_bytes(path.read_bytes())
    aside.replace(path)
    server.call(server.upkeep.look_at_files)
    server.volume.fd = os.open(path, os.O_RDWR)  # as a compaction does it, with the new file
    for _ in range(2):
        server.call(server.upkeep.look_at_files)
    assert figures(server)["state"] == "open"


def test_many_volumes_are_looked_at_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scene(turns: Turns) -> None:
        volumes = [turns.volume(number, days_ago=1) for number in range(1, 13)]
        looked_at: list[int] = []

        def is_in_place(volume: Volume) -> bool:
            looked_at.append(volume.number)
            return True

        monkeypatch.setattr(Volume, "is_in_place", is_in_place)
        for _ in range(4):
            turns.upkeep.look_at_files()
        assert sorted(looked_at) == [volume.number for volume in volumes]

    play(tmp_path, monkeypatch, scene)


# -- whose turn it is --------------------------------------------------------------------------------------------


class Turns:
    """An upkeep without children: passes are noted, and ended by hand."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, *, scrub_days: float = 7) -> None:
        self.store = Store(directory)
        self.clock = Clock()
        self.upkeep = Upkeep(
            asyncio.get_running_loop(), ThreadPoolExecutor(1), self.store, self.clock, scrub_days=scrub_days
        )
        self.begun: list[int] = []
        turns = self

        class Noted:
            def __init__(self, _: Upkeep, volume: Volume, job: upkeep.Job) -> None:
                turns.begun.append(volume.number)
                self.volume, self.job = volume, job
                self.given_up = False

            def give_up(self) -> None:
                self.given_up = True

        monkeypatch.setattr(upkeep, "Pass", Noted)

    def volume(self, number: int, *, days_ago: float | None, created_days_ago: float = 100) -> Volume:
        now_ms = self.clock.now_ms()
        created_ms = now_ms - int(created_days_ago * DAY_MS)
        volume = self.store.create_volume(number=number, salt=bytes(16), created_ms=created_ms, epoch=1)
        volume.scrubbed_ms = None if days_ago is None else now_ms - int(days_ago * DAY_MS)
        self.store.adopt(volume)
        return volume

    def rested(self) -> "Turns":
        self.upkeep._rests_until_s = 0.0
        return self

    def end(self, state: str = "done", *, again: bool = False) -> None:
        noted = self.upkeep._pass
        assert noted is not None
        if not again:
            noted.job.state = state
        if state == "done" and not again:
            noted.volume.scrubbed_ms = self.clock.now_ms()
        self.upkeep.ended(noted, again=again)


def play(directory: Path, monkeypatch: pytest.MonkeyPatch, scene: Any, **options: Any) -> None:
    async def run() -> None:
        turns = Turns(directory, monkeypatch, **options)
        scene(turns)
        turns.store.close(clean=False)

    asyncio.run(run())


def test_oldest_pass_comes_first_and_none_before_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scene(turns: Turns) -> None:
        turns.volume(1, days_ago=8)
        turns.volume(2, days_ago=6.9)
        turns.volume(3, days_ago=20)
        turns.volume(4, days_ago=None, created_days_ago=9)
        turns.volume(5, days_ago=None, created_days_ago=1)
        turns.rested().upkeep.look()
        turns.upkeep.look()
        assert turns.begun == [3]  # one at a time
        for _ in range(3):
            turns.end()
        assert turns.begun == [3, 4, 1]
        assert turns.upkeep._pass is None

    play(tmp_path, monkeypatch, scene)


def test_new_server_rests_first_and_so_it_does_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scene(turns: Turns) -> None:
        turns.volume(1, days_ago=100)
        turns.upkeep.look()
        assert turns.begun == []
        turns.rested().upkeep.look()
        turns.end("failed")
        assert turns.begun == [1]
        assert turns.upkeep._pass is None

    play(tmp_path, monkeypatch, scene)


def test_no_days_means_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scene(turns: Turns) -> None:
        volume = turns.volume(1, days_ago=None)
        turns.rested().upkeep.look()
        assert turns.begun == []
        turns.upkeep.ask(volume)
        assert turns.begun == [1]

    play(tmp_path, monkeypatch, scene, scrub_days=0)


def test_who_is_asked_for_waits_for_its_turn_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scene(turns: Turns) -> None:
        volumes = [turns.volume(number, days_ago=1) for number in (1, 2, 3)]
        turns.volume(4, days_ago=50)
        jobs = [turns.upkeep.ask(volume) for volume in reversed(volumes)]
        assert turns.upkeep.ask(volumes[0]) is jobs[2]
        assert [(job.state, job.done_bytes) for job in jobs] == [("running", 0)] * 3
        turns.rested()
        for _ in range(3):
            turns.end()
        assert turns.begun == [3, 2, 1, 4]

    play(tmp_path, monkeypatch, scene)


def test_volume_that_is_busy_waits_and_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scene(turns: Turns) -> None:
        one, other = turns.volume(1, days_ago=50), turns.volume(2, days_ago=1)
        busy = {1}
        turns.upkeep.is_busy = lambda volume: volume.number in busy
        turns.rested().upkeep.look()
        assert turns.begun == []
        turns.upkeep.ask(one)
        turns.upkeep.ask(other)
        assert turns.begun == [2]
        turns.end()
        assert turns.begun == [2]
        busy.clear()
        turns.upkeep.look()
        assert turns.begun == [2, 1]
        turns.upkeep.give_way(one)
        busy.add(1)
        turns.end(again=True)
        assert turns.begun == [2, 1]
        assert turns.upkeep.jobs[1].state == "running"
        busy.clear()
        turns.upkeep.look()
        assert turns.begun == [2, 1, 1]

    play(tmp_path, monkeypatch, scene)


# -- what a volume knows and keeps -------------------------------------------------------------------------------


@pytest.mark.parametrize("clean", [True, False])
def test_findings_are_kept_over_any_stop(tmp_path: Path, clean: bool) -> None:
    volume = new_volume(tmp_path)
    claim = put(volume, NEEDLE, b"data")
    damage = Damage(claim.offset, claim.record_bytes, NEEDLE, BAD_CRC)
    volume.end_scrub([damage], 1, end=volume.tail, now_ms=77)
    volume.save_state()
    again = reopen(volume, clean=clean)
    known = (again.damage, again.figures.damaged_count, again.damaged_needles, again.scrubbed_ms)
    # after the crash the log was replayed from the front: there it was found sound
    assert known == (((damage,), 1, {NEEDLE}, 77) if clean else ((), 0, set(), 77))


def test_newer_findings_count_against_an_older_checkpoint(tmp_path: Path) -> None:
    volume = new_volume(tmp_path)
    claim = put(volume, NEEDLE, b"data")
    volume.note_damage(Damage(claim.offset, claim.record_bytes, NEEDLE, READ))
    volume = reopen(volume, clean=True)
    assert volume.figures.damaged_count == 1
    volume.end_scrub([], 0, end=volume.tail, now_ms=77)
    volume.save_state()
    again = reopen(volume, clean=False)
    assert (again.figures.damaged_count, again.damage) == (0, ())


def test_findings_in_a_file_that_is_gone_are_not_taken_for_this_one_s(tmp_path: Path) -> None:
    volume = new_volume(tmp_path)
    put(volume, NEEDLE, b"data")
    volume.end_scrub([Damage(8192, 48, NEEDLE, BAD_CRC)], 1, end=volume.tail, now_ms=77)
    volume.save_state()
    state_path = volume.path.with_suffix(".state")
    volume.end_scrub([], 0, end=volume.tail, now_ms=78)
    volume.close()
    state = json.loads(state_path.read_bytes())
    assert state["damaged"]["revision"] == 1
    state["damaged"]["revision"] = 2
    state_path.write_text(json.dumps(state))
    again = Volume.open(faults.FileSystem(), volume.path)
    assert (again.damage, again.figures.damaged_count, again.scrubbed_ms) == ((), 0, 77)


def test_damage_behind_the_end_of_a_pass_is_not_forgotten_by_it(tmp_path: Path) -> None:
    volume = new_volume(tmp_path)
    put(volume, NEEDLE, b"data")
    end = volume.tail
    claim = put(volume, NEEDLE + 1, b"came meanwhile")
    os.pwrite(volume.fd, b"!", claim.offset + claim.stored_bytes - 1)
    with pytest.raises(Damaged):
        volume.read(NEEDLE + 1)
    volume.end_scrub([], 0, end=end, now_ms=1)
    assert volume.figures.damaged_count == 1
    assert volume.damaged_needles == {NEEDLE + 1}


def test_seal_and_findings_written_at_the_same_time_both_stay(tmp_path: Path) -> None:
    """Whoever writes last writes all: a seal is not taken back by a thread that began before it."""
    files = faults.FaultyFiles()
    volume = new_volume(tmp_path, files)
    with ThreadPoolExecutor(1) as threads:
        sealing = []

        def seal_meanwhile(call: str) -> None:
            if call == "rename" and not sealing:
                sealing.append(threads.submit(volume.seal, "by the master"))
                wait_until(
                    lambda: sealing[0].done() or (volume.sealed and volume._state_lock.locked()),
                    what="the seal to be written, or to wait for this",
                )

        files.before = seal_meanwhile
        volume.end_scrub([], 0, end=volume.tail, now_ms=5)
        volume.save_state()
        sealing[0].result()
    again = reopen(volume, clean=False)
    assert (again.sealed, again.scrubbed_ms) == ("by the master", 5)


def test_no_more_than_a_thousand_places_are_listed_but_all_are_counted(tmp_path: Path) -> None:
    volume = new_volume(tmp_path)
    many = [Damage(8192 + 48 * number, 48, None, NO_RECORD) for number in range(MAX_LISTED + 10)]
    volume.end_scrub(many, len(many), end=1 << 30, now_ms=1)
    assert len(volume.damage) == MAX_LISTED
    assert volume.figures.damaged_count == MAX_LISTED + 10
    volume.save_state()
    assert len(json.loads(volume.path.with_suffix(".state").read_bytes())["damaged"]["listed"]) == MAX_LISTED


def test_needles_are_found_by_where_they_lie(tmp_path: Path) -> None:
    volume = new_volume(tmp_path)
    claims = [
        volume.enqueue(NEEDLE + slot, b"", b"data", data_crc=zlib.crc32(b"data"), appended_ms=1)
        for slot in range(20_000)
    ]
    volume.flush()
    faults.settle(volume, *claims)
    dead = faults.delete(volume, NEEDLE + 100)
    extents = [
        Damage(claims[99].offset, claims[102].offset - claims[99].offset, None, NO_RECORD),
        Damage(claims[-1].offset, claims[-1].record_bytes, None, NO_RECORD),
        Damage(dead.offset, dead.record_bytes, None, NO_RECORD),
    ]
    found = asyncio.run(needles_within(volume.index, extents))
    expected = [claims[99], claims[101], claims[-1]]
    assert sorted(found) == [(claim.needle, claim.offset, claim.record_bytes) for claim in expected]


# -- the whole ---------------------------------------------------------------------------------------------------


def test_damage_on_disk_is_in_the_heartbeat_after_one_pass(tmp_path: Path, master: FakeMaster) -> None:
    data = tmp_path / "data"
    with started(data, master, "--scrub-rate", "0", "--scrub-days", "0") as process:
        for slot in range(3):
            assert process.wire().send(request("PUT", put_url(FIRST + slot), b"some data")).answer().status == 201
        with (data / "0000000001.vol").open("r+b") as file:
            raw = file.read()
            file.seek(raw.index(b"some data", raw.index(b"some data") + 1))
            file.write(b"SOME")
        server = json.loads((data / "server.json").read_bytes())["server"]
        body = b'{"volume":1}'
        headers = signing.signed_headers(
            fake_master.SECRET,
            kid=1,
            direction=signing.TO_SERVER,
            method="POST",
            target="/admin/scrub",
            body=body,
            server=server,
            time_ms=Clock().now_ms(),
        )
        assert Wire(process.port).send(request("POST", "/admin/scrub", body, **headers)).answer().status == 200
        beat = wait_until(lambda: scrubbed_beat(master), what="a heartbeat after the scrub")
        assert (beat["scrub"]["state"], beat["damaged_count"]) == ("done", 1)
        assert beat["scrubbed_ms"] >= beat["scrub"]["started_ms"]
        statuses = [process.wire().send(request("GET", get_url(FIRST + slot))).answer().status for slot in range(3)]
        assert statuses == [200, 500, 200]
        assert process.stop() == 0


def scrubbed_beat(master: FakeMaster) -> dict[str, Any] | None:
    for _, body in master.calls:
        for volume in body.get("volumes", []):
            if volume["scrubbed_ms"] is not None:
                found: dict[str, Any] = volume
                return found
    return None


@pytest.mark.parametrize(
    ("text", "size_bytes"), [("0", 0), ("1000", 1000), ("50M", 50 << 20), ("16MiB", 16 << 20), ("2g", 2 << 30)]
)
def test_rate_is_given_as_a_person_would(text: str, size_bytes: int) -> None:
    options = command.parse_options(["--data", "d", "--master", "m", "--scrub-rate", text])
    assert options.scrub_rate == size_bytes


@pytest.mark.parametrize(
    "option",
    [
        *("--scrub-rate=-1", "--scrub-rate=fast", "--scrub-days=-1", "--scrub-days=nan"),
        *("--node=", "--node= ", f"--node={'n' * 65}"),
    ],
)
def test_options_that_cannot_be_used_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.parse_options(["--data", "d", "--master", "m", option])
    assert option.partition("=")[0] in capsys.readouterr().err
