"""All needles of a volume, told page after page: what is told, how damage is, and when a listing is over."""

import asyncio
import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.waiting import wait_until
from tests.unit.volume_server.serving import FIRST, Server, admin, put_url, request
from volume_server import listing, listings
from volume_server.crc import data_crc
from volume_server.index import Index


@given(st.binary(max_size=300), st.binary(max_size=70_000))
def test_crc_of_the_data_follows_from_that_of_data_and_meta(data: bytes, meta: bytes) -> None:
    assert data_crc(zlib.crc32(meta, zlib.crc32(data)), meta) == zlib.crc32(data)


@dataclass
class Told:
    """What one pass over a volume told."""

    live: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    dead: list[int] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)
    heads: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return self.heads[-1]["next"] is None


def take(told: Told, raw: bytes) -> str | None:
    line, _, columns = raw.partition(b"\n")
    head = json.loads(line)
    live, dead, damaged = head["live"], head["dead"], head["damaged"]
    fixed = columns[: 16 * live]
    rest = list(struct.unpack(f"<{live + dead + damaged}Q", columns[16 * live :]))
    ids = []
    for (needle, size, crc), appended_ms in zip(struct.iter_unpack("<QII", fixed), rest[:live], strict=True):
        told.live[needle] = (size, crc, appended_ms)
        ids.append(needle)
    told.dead += rest[live : live + dead]
    told.damaged += rest[live + dead :]
    ids += rest[live:]
    if head["through"] is not None:
        assert max(ids) == int(head["through"], 16)
    told.heads.append(head)
    following: str | None = head["next"]
    return following


def list_all(server: Server, *, limit: int = 0, deep: bool = False) -> Told:
    told, after = Told(), ""
    while True:
        answer = admin(server, "/admin/needles", {"volume": 1, "after": after, "limit": limit, "deep": deep})
        assert answer.status == 200, answer
        following = take(told, answer.body)
        if following is None:
            return told
        after = following


def flip(server: Server, needle: int, at: int) -> None:
    """One byte of a needle's record, counted from its start, or from its end where ``at`` is negative."""
    offset, length = server.call(lambda: server.volume.locate(needle))
    place = offset + (at if at >= 0 else length + at)
    [byte] = os.pread(server.volume.fd, 1, place)
    os.pwrite(server.volume.fd, bytes([byte ^ 4]), place)


def delete(server: Server, *needles: int) -> None:
    body = {"volume": 1, "needles": [f"{needle:016x}" for needle in needles]}
    assert admin(server, "/admin/delete", body).status == 200


def ask(server: Server, *needles: int, deep: bool = False) -> list[list[Any]]:
    body = {"volume": 1, "needles": [f"{needle:016x}" for needle in needles], "deep": deep}
    answer = admin(server, "/admin/needles", body)
    assert answer.status == 200, answer
    rows: list[list[Any]] = answer.json()["needles"]
    return rows


def bodies_in(server: Server, count: int) -> dict[int, bytes]:
    """Small needles, and a large one in the middle."""
    bodies = {FIRST + slot: os.urandom(slot * 37 % 5000) for slot in range(count)}
    bodies[FIRST + count // 2] = os.urandom(600_000)
    for needle, body in bodies.items():
        assert server.put(needle, body).status == 201
    return bodies


def test_every_needle_is_told_with_size_crc_and_time(server: Server) -> None:
    before_ms = server.clock.now_ms()
    bodies = bodies_in(server, 40)
    delete(server, FIRST + 3, FIRST + 4)
    for limit in (1, 7, 0):
        for deep in (False, True):
            told = list_all(server, limit=limit, deep=deep)
            assert told.is_complete
            assert {needle: told.live[needle][:2] for needle in told.live} == {
                needle: (len(body), zlib.crc32(body))
                for needle, body in bodies.items()
                if needle not in {FIRST + 3, FIRST + 4}
            }
            assert list(told.live) == sorted(told.live)
            assert (told.dead, told.damaged) == ([FIRST + 3, FIRST + 4], [])
            assert all(before_ms <= at_ms <= server.clock.now_ms() for _, _, at_ms in told.live.values())
            assert {(head["volume"], head["revision"], head["epoch"]) for head in told.heads} == {(1, 1, 1)}


def test_empty_volume_is_one_empty_page(server: Server) -> None:
    told = list_all(server)
    assert (told.live, told.dead, told.damaged, len(told.heads)) == ({}, [], [], 1)


@pytest.mark.parametrize(("at", "deep", "is_seen"), [(3, False, True), (60, False, False), (-1, False, False)])
def test_a_record_that_is_not_genuine_is_told_as_damage(server: Server, at: int, deep: bool, is_seen: bool) -> None:
    """A header always; meta by the CRC that it gives; data where all of it is read."""
    bodies = bodies_in(server, 5)
    flip(server, FIRST + 1, at)
    told = list_all(server)
    assert told.damaged == ([FIRST + 1] if is_seen else [])
    if not is_seen:
        is_same = told.live[FIRST + 1][1] == zlib.crc32(bodies[FIRST + 1])
        assert is_same == (at < 0), "of a damaged meta follows another CRC"
    told = list_all(server, deep=True)
    assert told.damaged == [FIRST + 1] or told.live[FIRST + 1][1] != zlib.crc32(bodies[FIRST + 1])
    assert len(told.live) + len(told.damaged) == 5


def test_a_record_behind_the_file_s_end_is_damage(server: Server) -> None:
    bodies_in(server, 3)
    offset, length = server.call(lambda: server.volume.locate(FIRST + 2))
    os.ftruncate(server.volume.fd, offset + length - 1)
    assert list_all(server).damaged == [FIRST + 2]
    os.ftruncate(server.volume.fd, offset)
    assert list_all(server).damaged == [FIRST + 2]


def test_single_needles_are_told_as_they_are_now(server: Server) -> None:
    bodies = bodies_in(server, 6)
    delete(server, FIRST + 1)
    flip(server, FIRST + 2, 0)
    flip(server, FIRST + 4, -1)
    rows = ask(server, FIRST, FIRST + 1, FIRST + 2, FIRST + 4, FIRST + 99)
    assert [row[4] for row in rows] == ["live", "dead", "damaged", "live", "absent"]
    assert rows[0][:3] == [f"{FIRST:016x}", len(bodies[FIRST]), zlib.crc32(bodies[FIRST])]
    assert [row[4] for row in ask(server, FIRST, FIRST + 4, deep=True)] == ["live", "damaged"]
    wire = server.wire()
    raw = request("PUT", put_url(FIRST + 7), bytes(300_000))
    wire.send(raw[:-1])
    server.wait(lambda: FIRST + 7 in server.volume.claims, what="the reservation")
    assert ask(server, FIRST + 7)[0][4] == "pending"
    wire.send(raw[-1:])
    assert wire.answer().status == 201
    assert ask(server, FIRST + 7)[0][4] == "live"


def test_what_is_written_while_a_listing_goes_on_takes_nothing_from_it(server: Server) -> None:
    bodies_in(server, 30)
    told = Told()
    after = take(told, admin(server, "/admin/needles", {"volume": 1, "limit": 10}).body)
    for slot in range(30, 60):
        server.put(FIRST + slot, b"later")
    delete(server, FIRST + 20)
    while after is not None:
        after = take(told, admin(server, "/admin/needles", {"volume": 1, "limit": 10, "after": after}).body)
    assert sorted(told.live) == [FIRST + slot for slot in range(30)]


def test_a_compaction_ends_a_listing_and_the_next_one_is_of_the_new_file(server: Server) -> None:
    bodies_in(server, 10)
    delete(server, FIRST + 1)
    page = admin(server, "/admin/needles", {"volume": 1, "limit": 3})
    after = take(Told(), page.body)
    assert admin(server, "/admin/compact", {"volume": 1}).status == 200
    server.wait(lambda: server.volume.superblock.revision == 2, what="the compaction")
    assert admin(server, "/admin/needles", {"volume": 1, "after": after}).code == (409, "listing_ended")
    assert admin(server, "/admin/needles", {"volume": 1, "after": after}).code == (409, "listing_ended")
    told = list_all(server)
    assert {head["revision"] for head in told.heads} == {2}
    assert len(told.live) == 9


def test_a_page_is_asked_for_once_and_in_its_turn(server: Server) -> None:
    bodies_in(server, 10)
    first = json.loads(admin(server, "/admin/needles", {"volume": 1, "limit": 3}).body.partition(b"\n")[0])
    second = admin(server, "/admin/needles", {"volume": 1, "limit": 3, "after": first["next"]})
    assert second.status == 200
    again = admin(server, "/admin/needles", {"volume": 1, "limit": 3, "after": first["next"]})
    assert again.code == (409, "listing_ended")
    assert admin(server, "/admin/needles", {"volume": 1, "after": "x.1"}).code == (409, "listing_ended")


def children(server: Server) -> list[int]:
    return server.call(lambda: [one.child.pid for one in server.listings._listings.values() if one.child])


def test_a_killed_child_is_an_error_and_no_end(server: Server) -> None:
    bodies_in(server, 10)
    page = json.loads(admin(server, "/admin/needles", {"volume": 1, "limit": 3}).body.partition(b"\n")[0])
    [pid] = children(server)
    os.kill(pid, 9)
    answer = admin(server, "/admin/needles", {"volume": 1, "after": page["next"]})
    assert answer.code == (503, "listing_failed")
    assert children(server) == []


def test_listings_are_bounded_and_forgotten_when_nobody_goes_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies_in(server, 10)
    for _ in range(listings.MAX_LISTINGS + 2):
        assert admin(server, "/admin/needles", {"volume": 1, "limit": 3}).status == 200
    assert len(children(server)) == listings.MAX_LISTINGS
    monkeypatch.setattr(listings, "IDLE_S", -1.0)
    pids = children(server)
    server.call(server.listings.look)
    assert children(server) == []
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), what="the children's end")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"volume": "1"},
        {"volume": 1, "limit": -1},
        {"volume": 1, "limit": "9"},
        {"volume": 1, "after": 3},
        {"volume": 1, "deep": 1},
        {"volume": 1, "needles": "x"},
        {"volume": 1, "needles": ["x"]},
        {"volume": 1, "needles": [1]},
        {"volume": 1, "needles": ["0" * 16] * 1001},
    ],
)
def test_bad_questions_are_refused(server: Server, body: dict[str, Any]) -> None:
    assert admin(server, "/admin/needles", body).code == (400, "bad_request")


def test_unknown_volumes_are_said_to_be(server: Server) -> None:
    assert admin(server, "/admin/needles", {"volume": 9}).code == (404, "volume_unknown")


# -- many needles ------------------------------------------------------------------------------------------------


def copied(index: Index) -> Iterator[int]:
    """A file with a copy of the index, as the child gets it."""
    fd = os.memfd_create("index")
    for segment in index.segments():
        os.write(fd, segment.buffer)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.mark.parametrize("spread", [1, 1 << 16], ids=["of one lease", "of as many leases"])
def test_parts_together_are_all_entries_in_order(monkeypatch: pytest.MonkeyPatch, spread: int) -> None:
    monkeypatch.setattr(listing, "PART_NEEDLES", 2000)
    index = Index()
    wanted = [(number * spread, number) for number in range(1, 30_000)]
    for needle, number in wanted:
        index.put(needle, number * 8, 0 if number % 3 else 50)
    for fd in copied(index):
        found = list(listing.Entries(fd))
    assert [needle for needle, _ in found] == [needle for needle, _ in wanted]
    assert all(value >> 28 == number for (_, value), (_, number) in zip(found, wanted, strict=True))


def test_no_needle_is_lost_when_segments_are_split_while_they_are_copied(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "SEGMENTS_A_TURN", 1)

    def fill(first: int, count: int) -> None:
        for needle in range(first, first + count):
            server.volume.index.put(needle << 16, 8192, 0)

    server.call(lambda: fill(1, 20_000))
    seen: list[int] = []

    async def scenario() -> None:
        fd = os.memfd_create("index")
        task = server.loop.create_task(listings._copy(server.volume.index, fd))
        added = 20_001
        while not task.done():
            if added < 100_000:  # else it would grow faster than it is copied
                fill(added, 20_000)
                added += 20_000
            await asyncio.sleep(0)
        seen.extend(needle for needle, _ in listing.Entries(fd))
        os.close(fd)

    asyncio.run_coroutine_threadsafe(scenario(), server.loop).result(60)
    assert set(range(1, 20_001)) <= {needle >> 16 for needle in seen}
    assert len(seen) == len(set(seen))
