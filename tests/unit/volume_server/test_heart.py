"""Registering with the master, as far as it is judged here."""

from typing import Any, cast

import pytest

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


def register(*, seen: int, sequence: int, meanwhile: int) -> dict[str, Any]:
    identity = Identity(server="a", store="s", sequence=seen)
    heart = Heart(
        cast("MasterApi", Answering(identity, sequence=sequence, meanwhile=meanwhile)),
        address=Address(node="n", public_url="http://p", internal_url="http://i"),
        instance="i",
        join_token="t",
        report=dict,
        on_answer=lambda _: False,
        on_fatal=lambda _: None,
    )
    return heart._register()


def test_confirms_during_the_registration_make_nobody_late() -> None:
    assert register(seen=5, sequence=6, meanwhile=9)["sequence"] == 6


def test_a_master_behind_what_was_seen_before_is_refused() -> None:
    with pytest.raises(MasterRefuses, match="sequence 7 was seen"):
        register(seen=7, sequence=6, meanwhile=9)
