from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from tests.unit.volumes.factories import make_server, make_volume
from volumes.models import MAX_LEASE, MAX_VOLUME, Replica, Server, Store, Volume, usable_bytes

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    "fields",
    [
        {"id": 2},
        {"sequence": -1},
        {"lease_high": -1},
        {"lease_high": MAX_LEASE + 1},
        {"volume_high": -1},
        {"volume_high": MAX_VOLUME + 1},
    ],
)
def test_store_row_that_cannot_be(fields: dict[str, int]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Store.objects.create(**fields)
    Store.objects.create()


def test_there_is_one_store() -> None:
    Store.objects.create()
    with pytest.raises(IntegrityError), transaction.atomic():
        Store.objects.create(id=1)


@pytest.mark.parametrize(
    "fields",
    [
        {"admin_state": "asleep"},
        {"free_bytes": -1},
        {"free_bytes": 11, "capacity_bytes": 10},
        {"used_bytes": -1},
        {"kid": 0},
        {"node": ""},
        {"public_url": ""},
        {"internal_url": ""},
        {"instance": ""},
    ],
)
def test_server_row_that_cannot_be(fields: dict[str, object]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        make_server(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"id": 0},
        {"id": MAX_VOLUME + 1},
        {"epoch": 0},
        {"epoch": MAX_VOLUME + 1},
        {"salt": bytes(15)},
        {"salt": bytes(17)},
        {"state": "open"},
    ],
)
def test_volume_row_that_cannot_be(fields: dict[str, object]) -> None:
    server = make_server()
    with pytest.raises(IntegrityError), transaction.atomic():
        make_volume(server, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"role": "boss"},
        {"state": "lost"},
        {"garbage_bytes": -1},
        {"size_bytes": 10, "garbage_bytes": 11},
        {"live_count": -1},
        {"tombstone_count": -1},
        {"damaged_count": -1},
        {"state": "open", "reported_at": None},
    ],
)
def test_replica_row_that_cannot_be(fields: dict[str, object]) -> None:
    server = make_server()
    with pytest.raises(IntegrityError), transaction.atomic():
        make_volume(server, replica=fields)


def test_a_volume_is_once_on_a_server() -> None:
    server = make_server()
    volume = make_volume(server)
    with pytest.raises(IntegrityError), transaction.atomic():
        Replica.objects.create(volume=volume, server=server, role=Replica.Role.SECONDARY)


def test_a_volume_has_one_primary() -> None:
    volume = make_volume(make_server())
    with pytest.raises(IntegrityError), transaction.atomic():
        Replica.objects.create(volume=volume, server=make_server(), role=Replica.Role.PRIMARY)
    Replica.objects.create(volume=volume, server=make_server(), role=Replica.Role.SECONDARY)


def test_every_transition_leads_to_a_state_that_exists() -> None:
    assert set(Volume.TRANSITIONS) == set(Volume.State.values)
    assert all(targets <= set(Volume.State.values) for targets in Volume.TRANSITIONS.values())


@pytest.mark.parametrize(
    ("admin_state", "age_s", "is_stopped", "status"),
    [
        ("active", 0, False, "online"),
        ("active", 9, False, "online"),
        ("active", 11, False, "offline"),
        ("active", None, False, "offline"),
        ("active", 0, True, "offline"),
        ("draining", 0, False, "draining"),
        ("draining", 11, False, "offline"),
        ("maintenance", 0, False, "maintenance"),
        ("maintenance", 11, True, "maintenance"),
    ],
)
def test_status_is_told_by_the_row_alone(admin_state: str, age_s: int | None, is_stopped: bool, status: str) -> None:
    now = timezone.now()
    server = Server(
        id=uuid4(),
        admin_state=admin_state,
        last_seen_at=None if age_s is None else now - timedelta(seconds=age_s),
        stopped_at=now if is_stopped else None,
    )
    assert server.status == status


@pytest.mark.parametrize(
    ("capacity", "free", "usable"),
    [
        (1000, 500, 490),
        (1000, 10, 0),
        (1000, 5, 0),
        (1 << 50, 1 << 40, (1 << 40) - (1 << 30)),
    ],
)
def test_reserve_is_one_percent_and_a_gibibyte_at_most(capacity: int, free: int, usable: int) -> None:
    assert usable_bytes(capacity_bytes=capacity, free_bytes=free) == usable
