"""A volume with copies: what one answers the others have, byte for byte, over epochs, restarts and faults."""

from pathlib import Path

from tests.support.pairs import (
    open_with,
    replication_of,
    require_equal,
    servers,
    usage_of,
    wait_state,
)
from tests.unit.volume_server.serving import FIRST, LARGE, admin


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
        assert usage_of(peer)["epoch"] == 2


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
