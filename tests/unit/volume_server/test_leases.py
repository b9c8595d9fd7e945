"""What the gate remembers, and for how long. (What it lets pass is held by `test_routes`.)"""

import pytest

from tests.unit.volume_server.serving import EXPIRES_AT, FIRST, KID, SECRET, lease, put_url
from volume_server import leases as module
from volume_server.clock import Clock
from volume_server.http1 import HttpError
from volume_server.leases import Gate, Lease


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> Gate:
    found = Gate(clock)
    found.set_secrets({str(KID): SECRET.hex()})
    return found


def admitted(gate: Gate, url: str) -> Lease:
    return gate.admit_put(put_url(FIRST, url).encode())[0]


def test_lease_is_verified_once(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    url = lease()
    first = admitted(gate, url)
    monkeypatch.setattr(gate, "signers", {})
    assert admitted(gate, url) is first
    with pytest.raises(HttpError):
        admitted(gate, lease(count=1))


def test_charge_is_by_lease_and_ends_at_count_times_bytes(gate: Gate) -> None:
    held = admitted(gate, lease(count=2, max_bytes=10))
    held.charge(10)
    held.charge(10)
    with pytest.raises(HttpError, match="adds up") as caught:
        held.charge(1)
    assert (caught.value.status, caught.value.code) == (403, "lease_exhausted")
    held.refund(10)
    held.charge(10)
    admitted(gate, lease(count=2, max_bytes=11)).charge(22)


def test_memory_of_leases_is_bounded_and_the_expired_go_first(
    gate: Gate, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_REMEMBERED", 4)
    short = [lease(first=FIRST, count=count, expires=EXPIRES_AT - 3600) for count in (1, 2)]
    long = [lease(first=FIRST, count=count) for count in (3, 4, 5)]
    held = [admitted(gate, url) for url in (*short, *long[:2])]
    clock.correct((EXPIRES_AT - 1800) * 1000)
    admitted(gate, long[2])
    assert admitted(gate, long[0]) is held[2]
    assert len(gate._leases) == 3
    for count in range(6, 10):
        admitted(gate, lease(count=count))
        assert len(gate._leases) <= 4


def test_secret_that_was_rotated_out_is_no_longer_good(gate: Gate) -> None:
    gate.set_secrets({"2": SECRET.hex()})
    with pytest.raises(HttpError) as caught:
        admitted(gate, lease())
    assert caught.value.code == "signature_invalid"
