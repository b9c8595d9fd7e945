"""Orders, requests of peers and threads that meet at the worst moment."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.pairs import open_with, order_drop, order_open, replication_of, require_equal, servers, wait_state
from tests.unit.volume_server.faults import FaultyFiles
from tests.unit.volume_server.serving import FIRST, LARGE, Server, admin, put_url, request
from volume_server import receiving, record, shipment
from volume_server.receiving import MAX_BODY_BYTES
from volume_server.shipping import Shipper
from volume_server.state import Replica
from volume_server.superblock import Superblock
from volume_server.volume import Claim, Volume

BODY = bytes(range(256)) * (LARGE // 256)


def test_a_join_that_is_overtaken_while_it_waits_does_not_wait_for_itself(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        assert primary.put(FIRST, BODY).status == 201
        with reading_slowly(peer):
            order_open(primary, [peer], 3)  # its digests take long...
            peer.wait(lambda: membership_of(peer, 3).busy_count, what="the digests")
            order_open(primary, [peer], 4)  # ...so that this one waits for them when the next one comes
            peer.wait(lambda: peer.replication.parts[1].ordered_epoch == 4, what="the second join")
            order_open(primary, [peer], 5)
            peer.wait(lambda: peer.replication.parts[1].ordered_epoch == 5, what="the third join")
        wait_state(primary, "open")
        require_equal(primary, peer)


def test_what_was_admitted_in_an_epoch_is_waited_for_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """An order comes in the very moment in which a shipment has been let in, and is not written yet."""
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        settled, go, was_settled = threading.Event(), threading.Event(), []
        replication = peer.replication
        retire, make_whole, write = replication.retire, replication._make_whole, receiving._write_extended

        async def retiring(part: Any, *rest: Any) -> None:
            if any(membership.busy_count for membership in part.ended):
                go.set()
            await retire(part, *rest)

        async def making_whole(volume: Volume) -> None:
            settled.set()
            go.set()
            await make_whole(volume)

        def writing(*arguments: Any) -> None:
            go.wait(60)
            was_settled.append(settled.is_set())
            write(*arguments)

        ship = peer.receiver._ship

        def shipping(*arguments: Any) -> None:
            peer.receiver._ship = ship  # type: ignore[method-assign]
            replication.order({"do": "open", "volume": 1, "epoch": 3, "peers": []})
            ship(*arguments)

        replication.retire = retiring  # type: ignore[method-assign]
        replication._make_whole = making_whole  # type: ignore[method-assign]
        peer.receiver._ship = shipping  # type: ignore[method-assign]
        monkeypatch.setattr(receiving, "_write_extended", writing)
        monkeypatch.setattr(receiving, "SMALL_BYTES", 0)  # as a group of larger ones
        primary.put(FIRST, b"x")
        wait_state(peer, "open")
        assert was_settled == [False]


def test_an_order_that_comes_while_a_drop_waits_ends_the_drop(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        assert primary.put(FIRST, b"x").status == 201
        volume = peer.volume
        peer.call(lambda: setattr(volume, "hold_count", 1))  # somebody reads by offsets
        dropping = peer.call(lambda: peer.replication.order({"do": "drop", "volume": 1, "epoch": 2}))
        peer.wait(peer.replication.parts[1].lock.locked, what="the drop")
        closing = peer.call(lambda: peer.replication.order({"do": "close", "volume": 1, "epoch": 3}))
        peer.call(lambda: setattr(volume, "hold_count", 0))
        peer.wait(lambda: dropping.done() and closing.done(), what="both orders")
        assert peer.volume is volume
        assert replication_of(peer)["state"] == "closed"
        open_with(primary, [peer], 4)
        require_equal(primary, peer)


def test_a_close_that_is_under_way_is_answered_when_it_is_done(tmp_path: Path) -> None:
    """The answer to a report may bring the order a moment before the master's call does."""
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        go, saving = threading.Event(), threading.Event()
        save = peer.volume.save_replica

        def slowly(epoch: int, replica: Replica) -> None:
            saving.set()
            go.wait(60)
            save(epoch, replica)

        peer.volume.save_replica = slowly  # type: ignore[method-assign]
        order = {"do": "close", "volume": 1, "epoch": 3}
        first = peer.call(lambda: peer.replication.order(order))
        assert saving.wait(60)
        second = peer.call(lambda: peer.replication.order(order))
        assert second is first
        assert not first.done()
        go.set()
        told = admin(peer, "/admin/close", {"volume": 1, "epoch": 3}).json()
        assert (told["replication"]["state"], told["epoch"]) == ("closed", 3)


def test_a_copy_that_is_being_dropped_is_not_found_again_by_a_join(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        assert primary.put(FIRST, b"x").status == 201
        go, removing = threading.Event(), threading.Event()

        def before(call: str) -> None:
            if call == "remove":
                removing.set()
                go.wait(60)

        peer.files.before = before
        dropping = peer.call(lambda: peer.replication.order({"do": "drop", "volume": 1, "epoch": 2}))
        assert removing.wait(60)
        joins = joins_of(peer)
        order_open(primary, [peer], 3)
        peer.wait(lambda: joins, what="the join")
        go.set()
        peer.wait(dropping.done, what="the drop")
        wait_state(primary, "open")
        assert primary.put(FIRST + 1, b"y").status == 201
        require_equal(primary, peer)
        peer.stop()
        peer.start()
        assert peer.get(FIRST + 1).body == b"y"


def test_a_drop_that_breaks_off_leaves_no_index_without_its_log(tmp_path: Path) -> None:
    """It would be taken for that of the file that is fetched next."""
    with servers(tmp_path) as (_, peer):
        peer.stop()
        peer.start()
        assert (peer.directory / "0000000001.idx").exists()
        peer.files.fail("remove", after=1, sticky=True)
        order_drop(peer)
        assert not (peer.directory / "0000000001.idx").exists()


def test_the_header_of_a_large_body_is_shipped_whenever_the_loop_takes_what_is_to_be_shipped(tmp_path: Path) -> None:
    """A thread finishes a body while the loop takes the list of what is to be shipped."""

    class Meta(bytes):
        during: Callable[[], object] = staticmethod(lambda: None)

        def __len__(self) -> int:
            self.during()
            return super().__len__()

    volume = Volume.create(FaultyFiles(), tmp_path, Superblock(volume=1, revision=1, created_ms=1, salt=b"s" * 16))
    volume.unshipped = []
    claim = volume.reserve(FIRST, b"meta", 1000, appended_ms=1)
    volume.write_data(claim, bytes(1000), 0)
    shipped = []
    claim.meta = Meta(b"meta")

    def take() -> None:
        shipped.extend(volume.take_unshipped())

    Meta.during = staticmethod(take)
    volume.finish(claim, data_crc=0)
    Meta.during = staticmethod(lambda: None)
    take()
    assert any(start <= claim.offset and end >= claim.data_offset for start, end in shipped)
    volume.close(clean=False)


def test_a_log_that_became_shorter_is_not_taken_for_equal_where_it_has_grown_anew(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        for number in range(10):
            assert primary.put(FIRST + number, bytes([number]) * 1000).status == 201
        open_with(primary, [peer], 2)
        primary.stop()
        with (primary.directory / "0000000001.vol").open("r+b") as file:
            file.truncate(5000)  # an older file was put back
        (primary.directory / "0000000001.idx").unlink()
        primary.start()
        order_open(primary, [], 3)
        wait_state(primary, "open")
        for number in range(20, 30):
            assert primary.put(FIRST + number, bytes([number]) * 1000).status == 201
        open_with(primary, [peer], 4)
        require_equal(primary, peer)


def test_a_repeated_upload_that_takes_its_time_does_not_hold_up_an_opening(tmp_path: Path) -> None:
    with servers(tmp_path) as (old, new):
        open_with(old, [new], 2)
        assert old.put(FIRST, BODY).status == 201
        repeating = old.wire().send(request("PUT", put_url(FIRST), BODY)[: LARGE // 2])
        old.wait(lambda: old.volume.hold_count, what="the comparison")
        order_open(new, [old], 3)
        old.wait(lambda: membership_of(old, 3).finishing is not None, what="the end of the copying")
        answer = repeating.send(request("PUT", put_url(FIRST), BODY)[LARGE // 2 :][: LARGE // 3]).answer()
        assert answer.code == (503, "volume_degraded")
        wait_state(new, "open")
        require_equal(new, old)


def test_a_copy_that_is_fetched_leaves_the_reserve_of_the_disk_alone(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        assert primary.put(FIRST, BODY).status == 201
        order_drop(peer)
        room = peer.store.room
        files = cast("Any", peer.files)
        free_bytes = files.free_bytes
        is_copying = threading.Event()
        replace = peer.receiver._replace

        async def replacing(*arguments: Any) -> Any:
            is_copying.set()
            return await replace(*arguments)

        def shrinking(path: Path) -> int:
            """Others take what there is, as soon as the copying has begun."""
            return room.reserve_bytes() + 1000 if is_copying.is_set() else int(free_bytes(path))

        files.free_bytes = shrinking
        peer.receiver._replace = replacing  # type: ignore[method-assign]
        order_open(primary, [peer], 2)
        assert "disk_full" in wait_state(primary, "degraded")["detail"]


def test_a_shipment_of_very_many_records_is_none_that_a_peer_refuses(tmp_path: Path) -> None:
    count = 48_500
    loop = asyncio.new_event_loop()
    volume = Volume.create(FaultyFiles(), tmp_path, Superblock(volume=1, revision=1, created_ms=1, salt=b"s" * 16))
    start = volume.tail
    size_bytes = record.HEADER_BYTES
    volume.files.write_at(volume.fd, [bytes(count * size_bytes)], start)
    volume.tail += count * size_bytes
    shipper = Shipper(
        loop, volume, epoch=2, primary="a", peers=[], clock=cast("Any", SimpleNamespace()), on_failure=lambda *_: None
    )
    volume.unshipped = [(start, volume.tail)]
    batch: Any = [
        (Claim(FIRST + n, start + n * size_bytes, size_bytes, size_bytes, record.TOMBSTONE, 1), lambda _: None)
        for n in range(count)
    ]
    parts = shipper._parts(batch)
    assert max(len(shipment.encode(part)) for part in parts) <= MAX_BODY_BYTES
    assert sum(len(part.records) for part in parts) == count
    volume.close(clean=False)
    loop.close()


def membership_of(server: Server, epoch: int) -> Any:
    """On the loop."""
    part = server.replication.parts.get(1)
    found = None if part is None else part.membership
    return found if found is not None and found.epoch == epoch else SimpleNamespace(busy_count=0, finishing=None)


def joins_of(server: Server) -> list[int]:
    """Filled by the joins that come from now on."""
    found: list[int] = []
    join = server.receiver._join

    async def joining(number: int, *arguments: Any) -> Any:
        found.append(number)
        return await join(number, *arguments)

    server.receiver._join = joining  # type: ignore[method-assign]
    return found


@contextmanager
def reading_slowly(server: Server) -> Iterator[None]:
    """The disk gives nothing meanwhile."""
    over = threading.Event()

    def before(call: str) -> None:
        if call == "read_at":
            over.wait(60)

    server.files.before = before
    try:
        yield
    finally:
        over.set()
