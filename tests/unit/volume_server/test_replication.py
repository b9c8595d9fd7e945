"""A volume with copies: what one answers the others have, byte for byte, over epochs, restarts and faults."""

import errno
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.pairs import (
    file_of,
    known_to,
    open_with,
    order_drop,
    order_open,
    peer_of,
    replication_of,
    require_equal,
    servers,
    usage_of,
    wait_state,
)
from tests.unit.volume_server.serving import FIRST, LARGE, Server, admin, put_url, request, running
from volume_server import shipment, shipping
from volume_server.errors import VolumeBusy


def test_what_is_answered_is_on_both(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        for number in range(20):
            assert primary.put(FIRST + number, b"%d" % number * 100).status == 201
        assert primary.put(FIRST + 20, bytes(range(256)) * (LARGE // 256)).status == 201
        names = [f"{FIRST + 3:016x}"]
        assert admin(primary, "/admin/delete", {"volume": 1, "needles": names}).json()["deleted"] == names
        require_equal(primary, peer)
        assert peer.get(FIRST + 7).body == b"7" * 100
        assert peer.get(FIRST + 3).code == (404, "needle_unknown")
        assert peer.get(FIRST + 20).body == bytes(range(256)) * (LARGE // 256)
        told = replication_of(primary)
        assert (told["role"], told["state"], told["epoch"], told["detail"]) == ("primary", "open", 2, "")
        [other] = told["peers"]
        assert (other["server"], other["state"]) == (peer.store.identity.server, "whole")
        assert {**replication_of(peer), "detail": ""} == {
            "role": "secondary",
            "epoch": 2,
            "state": "open",
            "detail": "",
        }
        [told] = admin(peer, "/usage", None, method="GET").json()["volumes"]
        assert (told["epoch"], told["replication"]["epoch"]) == (2, 2)


def test_a_secondary_takes_nothing_itself(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        assert peer.put(FIRST, b"x").code == (503, "volume_degraded")
        assert primary.put(FIRST, b"x").status == 201
        answer = admin(peer, "/admin/delete", {"volume": 1, "needles": [f"{FIRST:016x}"]})
        assert answer.code == (503, "volume_degraded")
        require_equal(primary, peer)


def test_a_restart_of_either_ends_the_epoch(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        assert primary.put(FIRST, b"x").status == 201
        peer.stop()
        assert primary.put(FIRST + 1, b"y").code == (503, "volume_degraded")
        assert wait_state(primary, "degraded")["peers"][0]["state"] == "lost"
        peer.start()
        assert replication_of(peer)["state"] == "degraded"
        open_with(primary, [peer], 3)
        require_equal(primary, peer)
        assert primary.put(FIRST + 2, b"z").status == 201
        primary.stop()
        primary.start()
        assert primary.put(FIRST + 3, b"z").code == (503, "volume_degraded")
        assert primary.get(FIRST + 2).body == b"z"
        open_with(primary, [peer], 4)
        assert primary.put(FIRST + 3, b"z").status == 201
        require_equal(primary, peer)


def test_a_server_without_the_volume_gets_it_whole(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        fill(primary, range(30))
        assert order_drop(peer).json() == {"volume": 1}
        assert peer.call(lambda: dict(peer.store.volumes)) == {}
        assert sorted(path.name for path in peer.directory.iterdir()) == ["lock", "server.json"]
        open_with(primary, [peer], 2)
        require_equal(primary, peer)
        fill(primary, range(30, 40))
        require_equal(primary, peer)
        assert sorted(path.name for path in peer.directory.iterdir()) == [
            "0000000001.idx", "0000000001.state", "0000000001.vol", "lock", "server.json",
        ]  # fmt: skip


def test_what_is_there_of_an_unreplicated_volume_is_copied_by_the_first_opening(tmp_path: Path) -> None:
    with servers(tmp_path, 3) as (primary, *peers):
        fill(primary, range(10))
        delete(primary, 4)
        open_with(primary, peers, 1)
        fill(primary, range(10, 12))
        require_equal(primary, *peers)


def test_deleted_needles_stay_deleted_for_a_copy_that_was_away(tmp_path: Path) -> None:
    """Down, delete, compact, up, open."""
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary, range(10))
        peer.stop()
        order_open(primary, [], 3)
        wait_state(primary, "open")
        delete(primary, 3, 4)
        assert admin(primary, "/admin/compact", {"volume": 1, "drop_before_ms": 1 << 52}).status == 200
        primary.wait(lambda: primary.compactor.jobs[1].state == "done", what="the compaction")
        fill(primary, range(10, 12))
        peer.start()
        assert peer.get(FIRST + 3).body == body_of(3)  # it cannot know; nobody is sent here for it
        open_with(primary, [peer], 4)
        require_equal(primary, peer)
        for copy in (primary, peer):
            assert copy.get(FIRST + 3).code == (404, "needle_unknown")
            assert copy.get(FIRST + 5).body == body_of(5)
        assert usage_of(peer)["revision"] == 2


def test_a_primary_that_was_replaced_finds_nobody_who_takes_its_records(tmp_path: Path) -> None:
    with servers(tmp_path) as (old, new):
        open_with(old, [new], 2)
        fill(old, range(5))
        order_open(new, [], 3)
        wait_state(new, "open")
        assert old.put(FIRST + 5, b"of the old epoch").code == (503, "volume_degraded")
        assert "epoch_old" in wait_state(old, "degraded")["detail"]
        fill(new, range(6, 8))
        open_with(new, [old], 4)
        require_equal(new, old)
        assert old.get(FIRST + 5).code == (404, "needle_unknown")
        [aside] = old.directory.glob("*.aside-4")
        assert b"of the old epoch" in aside.read_bytes()
        fill(new, range(8, 10))
        require_equal(new, old)


def test_only_what_differs_is_sent(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        for number in range(4):
            assert primary.put(FIRST + number, bytes(LARGE)).status == 201
        replaced = count_calls(peer, "replace")
        open_with(primary, [peer], 3)
        assert replaced == []
        peer.stop()
        assert primary.put(FIRST + 4, b"it stays here").code == (503, "volume_degraded")
        peer.start()
        replaced = count_calls(peer, "replace")
        open_with(primary, [peer], 4)
        assert len(replaced) == 1
        assert primary.put(FIRST + 4, b"it stays here").status == 201  # the log was taken as it is
        require_equal(primary, peer)


def test_closed_volumes_alone_are_compacted(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary, range(10))
        delete(primary, 1, 2, 3)
        assert admin(primary, "/admin/compact", {"volume": 1}).code == (409, "volume_replicated")
        assert admin(peer, "/admin/compact", {"volume": 1}).code == (409, "volume_replicated")
        for copy in (primary, peer):
            told = admin(copy, "/admin/close", {"volume": 1, "epoch": 3}).json()
            assert (told["replication"]["state"], told["epoch"]) == ("closed", 3)
        assert primary.put(FIRST + 20, b"x").code == (503, "volume_degraded")
        assert primary.get(FIRST + 5).body == body_of(5)
        assert admin(primary, "/admin/compact", {"volume": 1}).status == 200
        primary.wait(lambda: primary.compactor.jobs[1].state == "done", what="the compaction")
        open_with(primary, [peer], 4)
        require_equal(primary, peer)
        assert [usage_of(copy)["revision"] for copy in (primary, peer)] == [2, 2]
        fill(primary, range(20, 25))
        require_equal(primary, peer)


def test_orders_of_old_epochs_are_refused_and_repeated_ones_change_nothing(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 5)
        fill(primary, [1])
        assert order_open(primary, [], 4).code == (409, "epoch_old")
        assert admin(primary, "/admin/close", {"volume": 1, "epoch": 4}).code == (409, "epoch_old")
        assert admin(peer, "/admin/close", {"volume": 1, "epoch": 4}).code == (409, "epoch_old")
        assert order_open(primary, [], 5).json()["replication"]["state"] == "open"
        fill(primary, [2])
        require_equal(primary, peer)


def test_a_copy_of_another_volume_is_refused(tmp_path: Path) -> None:
    with running(tmp_path / "a") as primary, running(tmp_path / "b", salt=b"t" * 16) as peer:
        fill(peer, range(3))
        before = file_of(peer)
        assert order_open(primary, [peer], 2).status == 200
        assert "volume_differs" in wait_state(primary, "degraded")["detail"]
        assert file_of(peer) == before
        assert peer.put(FIRST + 9, b"as ever").status == 201


def test_only_the_holder_of_a_ticket_is_heard(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        told = {**peer_of(primary, peer, 2), "ticket": "00" * 32}
        assert admin(primary, "/admin/open", {"volume": 1, "epoch": 2, "peers": [told]}).status == 200
        assert "signature_invalid" in wait_state(primary, "degraded")["detail"]
        assert replication_of(peer) is None
        assert peer.ask("POST", "/replica/1/2/join", b"{}").code == (401, "signature_invalid")


def test_an_upload_that_is_under_way_ends_with_the_epoch(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        body = bytes(range(256)) * (LARGE // 256)
        uploading = primary.wire().send(request("PUT", put_url(FIRST), body)[:-1000])
        primary.wait(lambda: FIRST in primary.volume.claims, what="the reservation")
        fill(primary, range(1, 5))
        open_with(primary, [peer], 3)
        assert uploading.send(body[-1000:]).answer().code == (503, "volume_degraded")
        fill(primary, range(5, 8))
        require_equal(primary, peer)
        assert primary.put(FIRST, body).status == 201
        require_equal(primary, peer)


def test_a_full_disk_under_an_upload_leaves_the_copies_equal(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        body = bytes(range(256)) * (LARGE // 256)
        for number in range(6):  # header, three pieces, padding or meta, live header
            primary.files.fail("write_at", errno.ENOSPC, after=number, part_bytes=20)
            assert primary.put(FIRST + number, body).code == (507, "disk_full")
            primary.files.heal()
            fill(primary, [20 + number])
            require_equal_bytes(primary, peer)
        assert replication_of(primary)["state"] == "open"


def test_an_upload_that_its_client_gives_up_leaves_the_copies_equal(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        uploading = primary.wire().send(request("PUT", put_url(FIRST), bytes(LARGE))[:-1000])
        primary.wait(lambda: FIRST in primary.volume.claims, what="the reservation")
        uploading.close()
        primary.wait(lambda: not primary.volume.claims, what="the end of the upload")
        fill(primary, [1])
        require_equal_bytes(primary, peer)
        for copy in (primary, peer):
            copy.stop()
            copy.start()
        open_with(primary, [peer], 3)
        fill(primary, [2])
        require_equal(primary, peer)


def test_a_peer_that_hangs_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "SHIP_TIMEOUT_S", 0.3)
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        with hanging(peer):
            assert primary.put(FIRST, b"x").code == (503, "volume_degraded")
            assert "no answer within" in wait_state(primary, "degraded")["detail"]
        open_with(primary, [peer], 3)
        assert primary.put(FIRST, b"x").status == 201
        require_equal(primary, peer)


def test_a_full_disk_at_the_peer_degrades_and_nothing_is_lost(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary, range(3))
        peer.files.fail("write_at", errno.ENOSPC, part_bytes=20, sticky=True)
        assert primary.put(FIRST + 3, b"x" * 500).code == (503, "volume_degraded")
        assert "disk_full" in wait_state(primary, "degraded")["detail"]
        assert replication_of(peer)["state"] == "degraded"
        peer.files.heal()
        open_with(primary, [peer], 3)
        assert primary.put(FIRST + 3, b"x" * 500).status == 201
        require_equal(primary, peer)


def test_a_failed_fsync_seals_the_copy_where_it_failed(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary, range(3))
        peer.files.fail("sync_data")
        assert primary.put(FIRST + 3, b"x").code == (503, "volume_degraded")
        assert usage_of(peer)["state"] == "sealed"
        assert order_open(primary, [peer], 3).status == 200
        assert "volume_sealed" in wait_state(primary, "degraded")["detail"]
        order_open(primary, [], 4)
        wait_state(primary, "open")
        primary.files.fail("sync_data")
        assert primary.put(FIRST + 4, b"x").code == (503, "volume_sealed")
        assert usage_of(primary)["state"] == "sealed"


def test_reads_at_a_secondary_go_on_while_shipments_come(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary, range(50))
        for number in range(50, 150):
            fill(primary, [number])
            assert peer.get(FIRST + number - 50).body == body_of(number - 50)
            assert peer.get(FIRST + number).body == body_of(number)


def test_a_copy_that_was_cut_off_half_way_is_ordered_again(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        for number in range(3):
            assert primary.put(FIRST + number, bytes([number]) * LARGE).status == 201
        order_drop(peer)
        peer.files.fail("write_at", after=4)
        assert order_open(primary, [peer], 2).status == 200
        assert "copy_failed" in wait_state(primary, "degraded")["detail"]
        peer.files.heal()
        replaced = count_calls(peer, "replace")
        open_with(primary, [peer], 3)
        assert 0 < len(replaced) < 9  # what had come was not sent again
        require_equal(primary, peer)


def test_secondary_recovers_by_itself_to_what_it_was_told(tmp_path: Path) -> None:
    """Its own log, index and checkpoints are as good as a primary's: a server that loses all others opens with them."""
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary, range(20))
        delete(primary, 3)
        peer.call(lambda: peer.committer._checkpoint(peer.volume))
        peer.wait(lambda: not peer.volume.checkpointing, what="the checkpoint")
        fill(primary, range(20, 30))
        known = known_to(primary)
        primary.stop()
        peer.stop()
        peer.start()
        assert known_to(peer) == known
        order_open(peer, [], 3)
        wait_state(peer, "open")
        fill(peer, range(30, 35))
        primary.start()
        open_with(peer, [primary], 4)
        require_equal(peer, primary)


def test_a_tombstone_that_is_not_on_all_copies_is_not_told_as_written(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary, range(3))
        delete(primary, 0)
        order = {"volume": 1, "needles": [f"{FIRST + 1:016x}"]}
        peer.stop()
        for _ in range(2):  # the second time there is a tombstone, but here alone
            assert admin(primary, "/admin/delete", order).code == (503, "volume_degraded")
        peer.start()
        open_with(primary, [peer], 3)
        delete(primary, 0, 1)
        require_equal(primary, peer)


def test_what_a_copying_that_broke_off_has_replaced_is_not_taken_for_equal(tmp_path: Path) -> None:
    with servers(tmp_path, 3) as (stale, primary, peer):
        open_with(stale, [primary, peer], 2)
        fill(stale, range(5))
        primary.stop()
        peer.stop()
        assert stale.put(FIRST + 10, b"here alone" * 20).code == (503, "volume_degraded")
        primary.start()
        peer.start()
        open_with(primary, [peer], 3)
        fill(primary, range(20, 30))
        open_with(primary, [peer], 4)
        fill(primary, range(30, 32))
        peer.files.fail("truncate")
        assert order_open(stale, [peer], 5).status == 200  # the wrong one, by somebody's mistake
        wait_state(stale, "degraded")
        open_with(primary, [peer], 6)
        fill(primary, range(40, 42))
        require_equal(primary, peer)
        open_with(primary, [stale, peer], 7)
        require_equal(primary, stale, peer)
        for copy in (stale, primary, peer):
            assert copy.get(FIRST + 25).body == body_of(25)
            assert copy.get(FIRST + 10).code == (404, "needle_unknown")


def test_a_copy_that_was_half_replaced_may_open_as_primary(tmp_path: Path) -> None:
    """Nothing that was acknowledged lies where the copies differ; the index is made anew from what is there."""
    with servers(tmp_path) as (former, left):
        open_with(former, [left], 2)
        fill(former, range(5))
        left.stop()
        assert former.put(FIRST + 7, b"here alone").code == (503, "volume_degraded")
        left.start()
        order_open(left, [], 3)
        wait_state(left, "open")
        fill(left, range(10, 20))
        former.files.fail("open", after=5)  # when the file that was made equal is opened anew
        order_open(left, [former], 4)
        wait_state(left, "degraded")
        assert former.call(lambda: former.volume.is_being_replaced)
        former.files.heal()
        order_open(former, [], 5)
        wait_state(former, "open")
        for number in (*range(5), *range(10, 20)):
            assert former.get(FIRST + number).body == body_of(number)
        assert former.get(FIRST + 7).code == (404, "needle_unknown")
        fill(former, range(50, 55))
        before = known_to(former)
        former.ends_clean = False
        former.stop()
        former.start()
        assert known_to(former) == before


def test_a_copy_joins_no_epoch_that_is_older_than_its_own(tmp_path: Path) -> None:
    with servers(tmp_path, 3) as (late, primary, peer):
        open_with(late, [peer], 2)
        open_with(primary, [peer], 5)
        order_open(late, [peer], 4)
        assert "epoch_old" in wait_state(late, "degraded")["detail"]
        fill(primary, range(3))
        require_equal(primary, peer)
        peer.stop()
        peer.start()  # it has been written down
        order_open(late, [peer], 5)
        assert "epoch_old" in wait_state(late, "degraded")["detail"]


def test_records_that_came_and_were_never_named_are_known_after_the_next_opening(tmp_path: Path) -> None:
    """Of a group that is several shipments the last one, which names the records, is lost: the bytes are equal then."""
    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary, range(3))
        receive = peer.receiver.receive

        def lose_names(target: str, headers: dict[str, str], body: bytes, done: Any) -> None:
            found = shipment.decode(body)
            unnamed = found._replace(records=[], floor=found.records[0].offset)
            part = peer.replication.parts[1]
            assert part.membership is not None
            peer.receiver._ship(part.membership, 1, shipment.encode(unnamed), lambda _: None)
            done(VolumeBusy("lost"))

        peer.receiver.receive = lose_names  # type: ignore[method-assign]
        assert primary.put(FIRST + 3, b"not named").code == (503, "volume_degraded")
        peer.receiver.receive = receive  # type: ignore[method-assign]
        require_equal_bytes(primary, peer)
        open_with(primary, [peer], 3)
        require_equal(primary, peer)
        assert peer.get(FIRST + 3).body == b"not named"


def test_metrics_tell_of_shipments_and_of_degraded_volumes(tmp_path: Path) -> None:
    def metric(server: Server, name: str) -> float:
        [line] = [line for line in server.ask("GET", "/metrics").body.decode().splitlines() if line.startswith(name)]
        return float(line.split()[-1])

    with servers(tmp_path) as (primary, peer):
        open_with(primary, [peer], 2)
        fill(primary, range(3))
        assert metric(primary, "warehouse_shipments_total") == 3
        assert metric(primary, "warehouse_shipped_bytes_total") > 3 * len(body_of(0))
        assert [metric(copy, "warehouse_degraded_volumes") for copy in (primary, peer)] == [0, 0]
        peer.stop()
        assert primary.put(FIRST + 3, b"x").code == (503, "volume_degraded")
        assert metric(primary, "warehouse_shipping_failures_total") == 1
        assert metric(primary, "warehouse_degraded_volumes") == 1
        peer.start()
        assert metric(peer, "warehouse_degraded_volumes") == 1


def test_dropping_what_never_became_whole(tmp_path: Path) -> None:
    with servers(tmp_path) as (primary, peer):
        assert primary.put(FIRST, bytes(LARGE)).status == 201
        for _ in range(2):
            assert order_drop(peer).json() == {"volume": 1}
        peer.files.fail("write_at", after=2)
        order_open(primary, [peer], 2)
        wait_state(primary, "degraded")
        assert (peer.directory / "0000000001.fetching").is_dir()
        peer.stop()
        peer.start()
        order_drop(peer)
        assert not (peer.directory / "0000000001.fetching").exists()
        open_with(primary, [peer], 3)
        require_equal(primary, peer)


def fill(server: Server, numbers: Iterable[int]) -> None:
    for number in numbers:
        answer = server.put(FIRST + number, body_of(number))
        assert answer.status == 201, answer.body


def body_of(number: int) -> bytes:
    return b"%d" % number * 100


def delete(server: Server, *numbers: int) -> None:
    names = [f"{FIRST + number:016x}" for number in numbers]
    assert sorted(admin(server, "/admin/delete", {"volume": 1, "needles": names}).json()["deleted"]) == names


def require_equal_bytes(first: Server, second: Server) -> None:
    """At a moment at which nobody asks: what was given up is filler, of which the peer has no count."""
    assert file_of(first) == file_of(second)


def count_calls(server: Server, verb: str) -> list[str]:
    """The targets of what the server is asked from now on as a peer, of one verb."""
    found: list[str] = []
    receiver = server.receiver
    receive = receiver.receive

    def counting(target: str, *arguments: Any) -> None:
        if f"/{verb}" in target:
            found.append(target)
        receive(target, *arguments)

    receiver.receive = counting  # type: ignore[method-assign]
    return found


@contextmanager
def hanging(server: Server) -> Iterator[None]:
    """Its loop does nothing meanwhile."""
    over = threading.Event()
    server.loop.call_soon_threadsafe(over.wait)
    try:
        yield
    finally:
        over.set()
