"""Bits that flip on a disk, in either copy: what one copy has sound is sound in both after the next opening."""

import errno
import os
import random
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.support.pairs import (
    file_of,
    open_with,
    order_drop,
    order_open,
    require_equal,
    servers,
    state_of,
    usage_of,
    wait_state,
)
from tests.unit.volume_server.faults import ANY
from tests.unit.volume_server.serving import FIRST, LARGE, Server, admin
from volume_server import joining, mending, record
from volume_server.opening import joined_up, written_together
from volume_server.superblock import RECORDS_START

NUMBERS = range(12)
BIG = 7
"""Of whose record the body is large."""
STRIDE = int(os.environ.get("FAULT_STRIDE", "5"))
SEEDS = int(os.environ.get("ROT_SEEDS", "6"))


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("number", [5, BIG, 11])
@pytest.mark.parametrize("part", ["header", "data", "all"])
def test_a_primary_whose_record_is_damaged_takes_it_from_its_peer(
    tmp_path: Path, clean: bool, number: int, part: str
) -> None:  # fmt: skip
    """Whether it knows of the damage from its restart, or reads nothing then."""
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary)
        expected = file_of(peer)
        offset, length = primary.call(lambda: primary.volume.locate(FIRST + number))
        stop(clean, primary, peer)
        span = {"header": (3, 1), "data": (length - 1, 1), "all": (0, length)}[part]
        flip(primary, offset + span[0], span[1])
        start(primary, peer)
        open_with(primary, [peer], 3)
        require_equal(primary, peer)
        assert file_of(primary) == expected
        for copy in (primary, peer):
            require_held(copy)
            assert usage_of(copy)["damaged_count"] == 0
        assert primary.put(FIRST + 99, b"it goes on").status == 201
        require_equal(primary, peer)
        assert not list(primary.directory.glob("*.mending"))


def test_what_was_damaged_is_kept_aside(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary)
        offset, length = primary.call(lambda: primary.volume.locate(FIRST + 5))
        primary.stop()
        flip(primary, offset + length - 1)
        damaged = file_of(primary)[offset : offset + length]
        primary.start()
        open_with(primary, [peer], 3)
        [aside] = primary.directory.glob("*.aside-3")
        assert damaged in aside.read_bytes()


@pytest.mark.parametrize("side", ["primary", "peer"])
def test_what_a_scrub_finds_before_the_last_epoch_is_mended_by_the_next_opening(tmp_path: Path, side: str) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary)
        open_with(primary, [peer], 3)  # all of it is known to be equal from here on
        expected = file_of(peer)
        copy = primary if side == "primary" else peer
        for number in (2, BIG):
            offset, length = copy.call(lambda number=number: copy.volume.locate(FIRST + number))  # type: ignore[misc]
            flip(copy, offset + length // 2)
        flip(copy, copy.call(lambda: copy.volume.locate(FIRST + 9))[0])
        scrub(copy)
        assert usage_of(copy)["damaged_count"] == 3
        open_with(primary, [peer], 4)
        assert file_of(primary) == file_of(peer) == expected
        require_held(copy)
        assert usage_of(copy)["damaged_count"] == 0
        copy.stop()
        copy.start()
        assert usage_of(copy)["damaged_count"] == 0


def test_copies_that_are_damaged_in_different_places_mend_each_other(tmp_path: Path) -> None:
    with servers(tmp_path, 3) as copies:
        open_with(copies[0], copies[1:], 2)
        fill(copies[0])
        expected = file_of(copies[0])
        stop(False, *copies)
        for place, copy in enumerate(copies):
            for number in NUMBERS[place::3]:
                flip(copy, places(expected)[FIRST + number] + number % 50)
        start(*copies)
        open_with(copies[1], [copies[0], copies[2]], 3)
        require_equal(*copies)
        for copy in copies:
            require_held(copy)
            assert usage_of(copy)["damaged_count"] == 0


def test_what_no_copy_has_sound_stays_damage_and_takes_nothing_with_it(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary)
        offset, length = primary.call(lambda: primary.volume.locate(FIRST + 5))
        stop(True, primary, peer)
        flip(primary, offset + length - 1)
        flip(peer, offset + length - 2)
        theirs = file_of(peer)[offset : offset + length]
        start(primary, peer)
        open_with(primary, [peer], 3)
        assert file_of(primary) == file_of(peer)
        require_held(primary, but=[5])
        require_held(peer, but=[5])
        assert usage_of(primary)["damaged_count"] == 1
        assert primary.get(FIRST + 5).code == (500, "needle_damaged")
        [aside] = peer.directory.glob("*.aside-3")
        assert theirs in aside.read_bytes()
        assert primary.put(FIRST + 99, b"it goes on").status == 201


def test_a_damaged_superblock_is_not_passed_on(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        fill(primary)
        order_drop(peer)
        open_with(primary, [peer], 2)
        expected = file_of(peer)
        primary.stop()
        flip(primary, 3)
        (primary.directory / "0000000001.state").write_text(
            '{"epoch": 2, "sealed": null}'
        )  # no history: all is compared
        primary.start()
        open_with(primary, [peer], 3)
        assert file_of(primary) == file_of(peer) == expected


def test_a_lost_record_is_not_mistaken_for_another_one_in_its_place(tmp_path: Path) -> None:
    """What a copy has from an epoch of its own was never acknowledged, however sound it is."""
    with servers(tmp_path) as (former, primary):
        open_with(former, [primary], 2)
        fill(former, range(3))
        primary.stop()
        assert former.put(FIRST + 3, b"of its own").code == (503, "volume_degraded")
        primary.start()
        order_open(primary, [], 3)
        wait_state(primary, "open")
        assert primary.put(FIRST + 4, b"of its own").status == 201
        assert primary.put(FIRST + 5, b"and more").status == 201
        offset, _ = primary.call(lambda: primary.volume.locate(FIRST + 4))
        primary.stop()
        flip(primary, offset + 9)
        primary.start()
        open_with(primary, [former], 4)
        assert file_of(primary) == file_of(former)
        for copy in (primary, former):
            assert copy.get(FIRST + 3).code == (404, "needle_unknown")
            assert copy.get(FIRST + 5).body == b"and more"
        assert usage_of(primary)["damaged_count"] == 1


def test_damage_is_found_far_from_where_anything_is_known_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(mending, "NEAR_BYTES", 1000)
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary)
        stop(True, primary, peer)
        at = places(file_of(primary))
        for number in (1, BIG, 11):
            flip(primary, at[FIRST + number] + 60)
        flip(primary, at[FIRST + BIG] + LARGE)
        start(primary, peer)
        open_with(primary, [peer], 3)
        require_equal(primary, peer)
        require_held(primary)


def test_a_damaged_superblock_that_a_scrub_finds_is_written_anew(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary)
        expected = file_of(primary)
        for copy, offset in ((primary, 9), (peer, 4100)):
            flip(copy, offset)
            scrub(copy)
        open_with(primary, [peer], 3)
        assert file_of(primary) == file_of(peer) == expected
        assert [usage_of(copy)["damaged_count"] for copy in (primary, peer)] == [0, 0]


def test_history_tells_what_was_written_together() -> None:
    assert written_together((), ((1, 8192),)) == 0
    assert written_together(((2, 8192),), ((2, 8192),)) is None
    assert written_together(((2, 8192), (3, 9000)), ((2, 8192),)) == 9000
    assert written_together(((2, 8192), (5, 9900)), ((2, 8192), (4, 9800))) == 9800
    assert joined_up([(5, 9), (1, 2), (2, 3), (8, 12), (4, 4)]) == [(1, 3), (5, 12)]


def test_no_room_to_mend_is_told_and_changes_nothing(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary)
        offset, length = primary.call(lambda: primary.volume.locate(FIRST + 5))
        stop(True, primary, peer)
        flip(primary, offset + length - 1)
        start(primary, peer)
        before = file_of(peer)
        primary.files.fail("write_at", 28, sticky=True)
        order_open(primary, [peer], 3)
        wait_state(primary, "degraded")
        assert file_of(peer) == before
        primary.files.heal()
        open_with(primary, [peer], 4)
        require_equal(primary, peer)
        require_held(primary)


def test_a_compaction_passes_no_damage_on_that_another_copy_can_mend(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary)
        open_with(primary, [peer], 3)
        flip(primary, primary.call(lambda: primary.volume.locate(FIRST + 5))[0] + 60)
        close(4, primary, peer)
        assert compact(primary)["state"] == "failed"
        primary.call(primary.upkeep.look)  # that is done once a second
        primary.wait(lambda: primary.upkeep.jobs[1].state == "done", what="the scrub")
        open_with(primary, [peer], 5)
        close(6, primary, peer)
        assert compact(primary)["state"] == "done"
        open_with(primary, [peer], 7)
        require_equal(primary, peer)
        require_held(peer)


def test_a_compaction_keeps_what_nobody_can_mend(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary)
        offset = primary.call(lambda: primary.volume.locate(FIRST + 5))[0] + 60
        for copy in (primary, peer):
            flip(copy, offset)
            scrub(copy)
        open_with(primary, [peer], 3)
        close(4, primary, peer)
        assert compact(primary)["state"] == "done"
        open_with(primary, [peer], 5)
        require_held(peer, but=[5])
        assert primary.get(FIRST + 5).code == (500, "needle_damaged")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_flips_and_kills_in_any_order(tmp_path: Path, seed: int) -> None:
    """One copy of each record stays sound; any copy that is whole may be the next primary, however all of them stopped.

    (A copy that was equal once, and rots after that, is not looked at by an opening: that is what scrubs are for.)
    """
    chance = random.Random(seed)
    held: dict[int, bytes] = {}
    with servers(tmp_path, 2 + seed % 2) as copies:
        epoch, number = 1, 0
        for _ in range(5):
            epoch += 1
            primary, *peers = chance.sample(copies, len(copies))
            open_with(primary, peers, epoch)
            require_equal(*copies)
            for _ in range(chance.randrange(1, 6)):
                number += 1
                held[FIRST + number] = chance.randbytes(chance.choice([0, 1, 100, 5000, 300_000]))
                assert primary.put(FIRST + number, held[FIRST + number]).status == 201
            if chance.random() < 0.5:
                peer = chance.choice(peers)
                peer.stop()
                assert primary.put(FIRST + number + 1, b"here alone" * 9).code == (503, "volume_degraded")
                number += 1
                peer.start()
            for copy in copies:
                stop(chance.random() < 0.5, copy)
            whole = file_of(primary)
            for needle, offset in sorted(places(whole).items()):
                for copy in chance.sample(copies, chance.randrange(len(copies))) if needle in held else ():
                    flip(copy, offset + chance.choice([0, 12, 41, chance.randrange(40 + 1 + len(held[needle]))]))
            start(*copies)
            for copy in copies:
                scrub(copy)
        open_with(copies[seed % len(copies)], [one for one in copies if one is not copies[seed % len(copies)]], 100)
        require_equal(*copies)
        for copy in copies:
            for needle, body in held.items():
                answer = copy.call(lambda copy=copy, needle=needle: bytes(copy.volume.read(needle) or b""))  # type: ignore[misc]
                assert answer == body
            assert usage_of(copy)["damaged_count"] == 0


def test_an_order_that_comes_while_the_primary_is_mended_waits_for_that(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary)
        stop(True, primary, peer)
        for number in (5, BIG):
            flip(primary, places(file_of(primary))[FIRST + number] + 60)
        start(primary, peer)
        begun, go, write_at = threading.Event(), threading.Event(), primary.files.write_at

        def write_slowly(fd: int, buffers: Any, offset: int) -> None:
            if fd == primary.store.volumes[1].fd:
                begun.set()
                assert go.wait(60)
            write_at(fd, buffers, offset)

        primary.files.write_at = write_slowly  # type: ignore[method-assign]
        order_open(primary, [peer], 3)
        assert begun.wait(60)
        order_open(peer, [primary], 4)  # its bytes come into the same file
        primary.wait(lambda: primary.replication.parts[1].ordered_epoch == 4, what="the join")
        go.set()
        primary.files.write_at = write_at  # type: ignore[method-assign]
        wait_state(peer, "open")
        require_equal(primary, peer)
        require_held(primary)


@pytest.mark.parametrize("side", [0, 1])
def test_any_file_operation_fails_while_the_primary_is_mended(tmp_path: Path, side: int) -> None:
    """Each in turn (every fifth, but with FAULT_STRIDE); the next opening, after a crash of both, mends the rest."""
    nth, has_struck = side, True
    while has_struck:
        with servers(tmp_path / str(nth)) as copies:
            open_with(copies[0], copies[1:], 2)
            fill(copies[0], range(6))
            stop(False, *copies)
            at = places(file_of(copies[0]))
            flip(copies[0], at[FIRST + 1])
            flip(copies[0], at[FIRST + 2] + 60)
            flip(copies[1], at[FIRST + 3] + 60)
            start(*copies)
            copies[side].files.fail(ANY, errno.EIO, after=nth)
            order_open(copies[0], copies[1:], 3)
            copies[0].wait(lambda: state_of(copies[0]) in ("open", "degraded"), what="an end of the opening")
            has_struck = bool(copies[side].files.struck)
            copies[side].files.heal()
            sealed = [usage_of(copy)["state"] == "sealed" for copy in copies]
            stop(False, *copies)
            start(*copies)
            if any(sealed):
                assert not all(sealed)
                for number in range(6):  # what is not sound here stands in the other one, which is only read
                    answers = [copy.get(FIRST + number) for copy in copies]
                    assert any(answer.status == 200 and answer.body == body_of(number) for answer in answers), number
            else:
                open_with(copies[0], copies[1:], 4)
                require_equal(*copies)
                for copy in copies:
                    for number in range(6):
                        assert copy.get(FIRST + number).body == body_of(number), (nth, number)
        nth += STRIDE
    assert nth > 3 * STRIDE


def test_what_a_killed_mending_left_goes_at_the_start(tmp_path: Path) -> None:
    with servers(tmp_path, 1) as (server,):
        server.stop()
        left = server.directory / "0000000001.mending"
        left.write_bytes(b"x")
        server.start()
        assert not left.exists()


# -- what is left behind ----------------------------------------------------------------------------------------------


def test_what_was_saved_aside_goes_when_a_later_scrub_finds_all_sound(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary)
        aside = with_aside(primary, peer)
        scrub(peer)
        assert aside.exists(), "it is young"
        age(aside, joining.ASIDE_KEPT_S + 60)
        offset = peer.call(lambda: peer.volume.locate(FIRST + 5))[0]
        flip(peer, offset + 60)
        scrub(peer)
        assert aside.exists(), "it may be what is missing"
        flip(peer, offset + 60)
        scrub(peer)
        assert not aside.exists()
        require_held(peer)


def test_what_was_saved_aside_by_an_opening_that_never_ended_stays(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary)
        aside = with_aside(primary, peer)
        late = aside.with_name("0000000001.aside-77")
        late.write_bytes(b"x")
        for path in (aside, late):
            age(path, joining.ASIDE_KEPT_S + 60)
        scrub(peer)
        assert not aside.exists()
        assert late.exists()


def test_a_copy_that_nobody_goes_on_fetching_goes(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        assert primary.put(FIRST, bytes(LARGE)).status == 201
        fetching = peer.directory / "0000000001.fetching"
        for epoch, at_start in ((2, False), (3, True)):
            order_drop(peer)
            peer.files.fail("write_at", after=2)
            order_open(primary, [peer], epoch)
            wait_state(primary, "degraded")
            peer.call(peer.replication.tidy)
            peer.wait(lambda: not peer.replication.tasks, what="its end")
            assert fetching.is_dir(), "the next opening goes on with it"
            age(fetching / "0000000001.vol", joining.FETCHED_KEPT_S + 60)
            if at_start:
                peer.stop()
                peer.start()
            else:
                peer.call(peer.replication.tidy)
                peer.wait(lambda: not peer.replication.tasks, what="its end")
            assert not fetching.exists()
        order_drop(peer)
        open_with(primary, [peer], 4)
        require_equal(primary, peer)


# -- late orders ------------------------------------------------------------------------------------------------------


def test_a_drop_that_comes_late_leaves_a_copy_that_has_become_whole_since(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary)
        open_with(primary, [peer], 4)
        assert order_drop(peer, 3).code == (409, "epoch_old")
        assert order_drop(primary, 3).code == (409, "epoch_old")
        assert admin(peer, "/admin/drop", {"volume": 1}).status == 400
        require_equal(primary, peer)
        assert primary.put(FIRST + 99, b"it goes on").status == 201
        assert order_drop(peer, 4).json() == {"volume": 1}


def test_a_drop_is_over_when_a_later_join_comes_before_it_is_done(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary)
        peer.call(lambda: setattr(peer.volume, "hold_count", 1))  # a read is at work: the drop waits for it
        dropping = peer.call(lambda: peer.replication.order({"do": "drop", "volume": 1, "epoch": 2}))
        assert dropping is not None
        order_open(primary, [peer], 3)
        peer.wait(lambda: peer.replication.parts[1].ordered_epoch == 3, what="the join")
        peer.call(lambda: setattr(peer.volume, "hold_count", 0))
        peer.wait(dropping.done, what="the end of the drop")
        wait_state(primary, "open")
        require_equal(primary, peer)


def test_a_drop_that_is_older_than_a_file_that_could_not_be_opened_leaves_it(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 5)
        fill(primary)
        volume = peer.call(lambda: peer.store.volumes.pop(1))  # as if its file could not be opened at the start
        order_drop(peer, 4)
        assert (peer.directory / "0000000001.vol").exists()
        peer.call(lambda: peer.store.adopt(volume))


@pytest.mark.parametrize(
    "url",
    [
        "http://b\u00fccher.example:1",
        "http://a:99999",
        "http://a:port",
        "http://a:0",
        "http://a b",
        "http://",
        "a:1",
        "ftp://a",
    ],
)
def test_an_order_with_an_address_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    with servers(tmp_path) as (primary, peer):
        assert order_open(primary, [peer], 2, url=url).code == (400, "bad_request")
        open_with(primary, [peer], 2)


# -- threads ----------------------------------------------------------------------------------------------------------


def test_shipments_do_not_wait_behind_copies_that_are_made(tmp_path: Path) -> None:
    """All threads for copies are at work: an open volume is as fast as ever."""
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        go = threading.Event()
        busy = [peer.replication._peer_threads.submit(go.wait, 60) for _ in range(64)]
        try:
            fill(primary)
        finally:
            go.set()
        assert all(one.result() for one in busy)
        require_equal(primary, peer)


# -- what the tests do ------------------------------------------------------------------------------------------------


def fill(server: Server, numbers: Iterable[int] = NUMBERS) -> None:
    for number in numbers:
        answer = server.put(FIRST + number, body_of(number))
        assert answer.status == 201, answer.body


def body_of(number: int) -> bytes:
    return bytes(range(256)) * (LARGE // 256) if number == BIG else b"%03d" % number * 100


def require_held(server: Server, *, but: Iterable[int] = ()) -> None:
    for number in NUMBERS:
        if number not in but:
            assert server.get(FIRST + number).body == body_of(number), number


def flip(server: Server, offset: int, size_bytes: int = 1) -> None:
    with (server.directory / "0000000001.vol").open("r+b") as file:
        file.seek(offset)
        raw = file.read(size_bytes)
        assert raw
        file.seek(offset)
        file.write(bytes(byte ^ 0x10 for byte in raw))


def places(raw: bytes) -> dict[int, int]:
    """Needle -> offset of its record."""
    tagger, at, found = record.Tagger(b"s" * 16), RECORDS_START, {}
    while at < len(raw):
        header = record.decode_header(tagger, raw, at)
        assert header is not None, at
        if header.kind == record.LIVE:
            found[header.needle] = at
        at += header.record_bytes
    return found


def stop(clean: bool, *copies: Server) -> None:
    for copy in copies:
        copy.ends_clean = clean
        copy.stop()


def start(*copies: Server) -> None:
    for copy in copies:
        copy.start()


def scrub(server: Server) -> None:
    server.call(lambda: server.upkeep.ask(server.volume))
    server.wait(lambda: server.upkeep.jobs[1].state != "running", what="the scrub")
    assert server.upkeep.jobs[1].state == "done"


def close(epoch: int, *copies: Server) -> None:
    for copy in copies:
        assert admin(copy, "/admin/close", {"volume": 1, "epoch": epoch}).status == 200


def compact(server: Server) -> dict[str, Any]:
    assert admin(server, "/admin/compact", {"volume": 1}).status == 200
    server.wait(lambda: server.compactor.jobs[1].state != "running", what="the compaction")
    found: dict[str, Any] = usage_of(server)["compaction"]
    return found


def with_aside(primary: Server, peer: Server) -> Path:
    """What the peer had otherwise has been replaced, and saved aside."""
    peer.stop()
    flip(peer, peer_offset := places(file_of(primary))[FIRST + 5] + 60)
    assert peer_offset
    peer.start()
    open_with(primary, [peer], 3)
    open_with(primary, [peer], 4)
    [aside] = peer.directory.glob("*.aside-3")
    return aside


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))
