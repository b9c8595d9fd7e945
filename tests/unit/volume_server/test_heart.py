"""Registering with the master, as far as it is judged here."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from tests.support.waiting import wait_until
from volume_server import master as masters
from volume_server.clock import Clock
from volume_server.master import Address, Credentials, Heart, MasterApi, MasterRefuses
from volume_server.store import Identity


class Answering:
    """A master that answers with ``sequence``, while confirms bring ``meanwhile``."""

    def __init__(self, identity: Identity, *, sequence: int, meanwhile: int) -> None:
        self.credentials = Credentials(identity, Clock())
        self.sequence = sequence
        self.meanwhile = meanwhile

    def call(self, name: str, body: dict[str, Any], **_: object) -> dict[str, Any]:
        identity = self.credentials.identity
        identity.sequence = max(identity.sequence, self.meanwhile)
        return {"store": "s", "sequence": self.sequence}


def heart_of(master: object, on_fatal: Callable[[MasterRefuses], None] = lambda _: None) -> Heart:
    return Heart(
        cast("MasterApi", master),
        address=Address(node="n", public_url="http://p", internal_url="http://i"),
        instance="i",
        join_token="t",
        report=dict,
        on_answer=lambda _: False,
        on_fatal=on_fatal,
    )


def register(*, seen: int, sequence: int, meanwhile: int) -> dict[str, Any]:
    identity = Identity(server="a", store="s", sequence=seen)
    heart = heart_of(Answering(identity, sequence=sequence, meanwhile=meanwhile))
    return heart._register()


def test_confirms_during_the_registration_make_nobody_late() -> None:
    assert register(seen=5, sequence=6, meanwhile=9)["sequence"] == 6


def test_a_master_behind_what_was_seen_before_is_refused() -> None:
    with pytest.raises(MasterRefuses, match="sequence 7 was seen"):
        register(seen=7, sequence=6, meanwhile=9)


def test_what_has_changed_is_told_without_waiting_for_the_next_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masters, "HEARTBEAT_S", 3600.0)
    beats: list[str] = []

    class Counting:
        credentials = Credentials(Identity(server="a", store="s", kid=1), Clock())

        def call(self, name: str, _: dict[str, Any]) -> dict[str, Any]:
            beats.append(name)
            return {"store": "s", "sequence": 1, "now_ms": 1}

    heart = heart_of(Counting())
    heart.start()
    wait_until(lambda: beats == ["register"], what="the registration")
    heart.beat_soon()
    wait_until(lambda: beats == ["register", "heartbeat"], what="a heartbeat")
    heart.stop()
    assert beats[2:] == ["deregister"]


def test_a_server_that_was_forgotten_stops_while_it_runs() -> None:
    """It goes on neither as it is, nor by asking to be let in again."""
    calls: list[str] = []
    ends: list[str] = []

    class Forgetting:
        credentials = Credentials(Identity(server="a", store="s", kid=1), Clock())

        def call(self, name: str, _: dict[str, Any]) -> dict[str, Any]:
            calls.append(name)
            if name == "heartbeat":
                raise MasterRefuses("server_forgotten", "Start with an empty directory.")
            return {"store": "s", "sequence": 1, "now_ms": 1}

    heart = heart_of(Forgetting(), on_fatal=lambda error: ends.append(error.detail))
    heart.start()
    wait_until(lambda: bool(ends), what="the end")
    assert (calls, ends) == (["register", "heartbeat"], ["Start with an empty directory."])
    heart.stop()
