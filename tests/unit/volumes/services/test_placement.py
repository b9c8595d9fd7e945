import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connections
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from tests.unit.volumes.factories import GIB, make_server, make_volume
from volume_server.signing import PUT_LABEL
from volumes.derived_secrets import server_secret
from volumes.errors import LeasesHalted, NoRoom, NoServers
from volumes.models import Server
from volumes.services.placement import forget_table, pick
from volumes.services.store import accept_store, current_store, note_behind

pytestmark = pytest.mark.django_db

MIB = 1 << 20


def test_a_target_says_all_that_signing_needs() -> None:
    server = make_server(kid=3)
    volume = make_volume(server, epoch=5)
    [target] = pick(needed_bytes=MIB)
    assert (target.volume_id, target.epoch, target.server_id) == (volume.pk, 5, str(server.pk))
    assert (target.public_url, target.kid) == (server.public_url, 3)
    assert target.secret == server_secret(server.pk, 3)
    assert target.secret.hex() not in repr(target)
    assert PUT_LABEL not in target.secret


@pytest.mark.parametrize("servers", [1, 20])
def test_picks_cost_no_query_while_the_table_is_fresh(
    servers: int, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    current_store()
    for _ in range(servers):
        make_volume(make_server())
    with django_assert_num_queries(3):  # the store, its servers, its open volumes
        pick(needed_bytes=1)
    with django_assert_num_queries(0):
        for _ in range(100):
            pick(needed_bytes=1)


def test_nobody_there() -> None:
    with pytest.raises(NoServers, match="online"):
        pick(needed_bytes=1)


@pytest.mark.parametrize(
    "fields",
    [
        {"last_seen_at": None},
        {"stopped_at": timezone.now()},
        {"admin_state": Server.AdminState.DRAINING},
        {"admin_state": Server.AdminState.MAINTENANCE},
    ],
)
def test_servers_that_are_never_picked(fields: dict[str, object]) -> None:
    make_volume(make_server(**fields))
    with pytest.raises(NoServers):
        pick(needed_bytes=1)


def test_an_offline_server_is_passed_over() -> None:
    make_volume(make_server(last_seen_at=timezone.now() - timedelta(seconds=11)))
    alive = make_volume(make_server())
    assert {pick(needed_bytes=1)[0].volume_id for _ in range(50)} == {alive.pk}


def test_a_server_that_falls_silent_is_passed_over_by_the_cached_table_too(monkeypatch: pytest.MonkeyPatch) -> None:
    make_volume(make_server())
    pick(needed_bytes=1)
    now = time.time()
    monkeypatch.setattr("volumes.services.placement.time.time", lambda: now + 10)
    with pytest.raises(NoServers):
        pick(needed_bytes=1)


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "creating"},
        {"state": "full"},
        {"state": "sealed"},
        {"replica": {"state": "missing"}},
        {"replica": {"state": "sealed"}},
        {"replica": {"epoch": 7}},
        {"replica": {"role": "secondary"}},
    ],
)
def test_volumes_that_are_never_picked(fields: dict[str, object]) -> None:
    make_volume(make_server(), **fields)
    with pytest.raises(NoServers, match="being made"):
        pick(needed_bytes=1)


def test_a_full_server_is_passed_over_and_507_only_when_nothing_fits() -> None:
    full = make_server(capacity_bytes=100 * GIB, free_bytes=GIB + 10)  # the reserve is 1 GiB
    roomy = make_server()
    make_volume(full)
    volume = make_volume(roomy)
    assert {pick(needed_bytes=11)[0].volume_id for _ in range(50)} == {volume.pk}
    assert len({pick(needed_bytes=10)[0].volume_id for _ in range(200)}) == 2
    with pytest.raises(NoRoom):
        pick(needed_bytes=50 * GIB)


def test_a_volume_without_room_is_passed_over(settings: Settings) -> None:
    settings.WAREHOUSE_VOLUME_SIZE = GIB
    server = make_server()
    nearly_full = make_volume(server, replica={"size_bytes": GIB - MIB})
    empty = make_volume(server)
    assert {pick(needed_bytes=MIB)[0].volume_id for _ in range(10)} == {empty.pk}
    assert {pick(needed_bytes=1000)[0].volume_id for _ in range(10)} == {empty.pk, nearly_full.pk}
    assert {target.volume_id for target in pick(needed_bytes=MIB, count=5)} == {empty.pk}


def test_no_volume_has_room_yet(settings: Settings) -> None:
    settings.WAREHOUSE_VOLUME_SIZE = GIB
    make_volume(make_server(), replica={"size_bytes": GIB - MIB})
    with pytest.raises(NoServers, match="being made"):
        pick(needed_bytes=MIB)


def test_what_no_volume_can_ever_hold(settings: Settings) -> None:
    settings.WAREHOUSE_VOLUME_SIZE = GIB
    make_volume(make_server())
    with pytest.raises(NoRoom):
        pick(needed_bytes=GIB)


def test_the_one_that_fits_is_found_among_many() -> None:
    for _ in range(40):
        make_volume(make_server(free_bytes=GIB))
    volume = make_volume(make_server())
    assert pick(needed_bytes=MIB)[0].volume_id == volume.pk


def test_free_space_draws_the_needles() -> None:
    small, large = make_server(free_bytes=11 * GIB), make_server(free_bytes=41 * GIB)
    make_volume(small)
    make_volume(large)
    picks = Counter(pick(needed_bytes=1)[0].server_id for _ in range(1000))
    # Usable are 10 and 40; only one draw in four is of the smaller alone, and no more can go to it.
    assert picks[str(large.pk)] > 2 * picks[str(small.pk)] > 0


def test_volumes_of_a_server_take_turns() -> None:
    server = make_server()
    volumes = {make_volume(server).pk for _ in range(3)}
    for _ in range(5):
        assert {pick(needed_bytes=1)[0].volume_id for _ in range(3)} == volumes


def test_several_are_spread_over_servers_then_volumes() -> None:
    servers = [make_server() for _ in range(3)]
    for server in servers:
        make_volume(server)
        make_volume(server)
    targets = pick(needed_bytes=1, count=6)
    assert Counter(target.server_id for target in targets) == {str(server.pk): 2 for server in servers}
    assert len({target.volume_id for target in targets}) == 6
    assert len({target.server_id for target in pick(needed_bytes=1, count=2)}) == 2


def test_several_are_spread_over_nodes_first() -> None:
    for node in ("a", "a", "a", "b"):
        make_volume(make_server(node=node))
    nodes = {str(server.pk): server.node for server in Server.objects.all()}
    for _ in range(20):
        assert {nodes[target.server_id] for target in pick(needed_bytes=1, count=2)} == {"a", "b"}


def test_chunks_among_many_servers_go_to_as_many_nodes_and_in_time_everywhere() -> None:
    nodes = {}
    for number in range(40):
        server = make_server(node=f"n{number // 2}")
        make_volume(server)
        nodes[str(server.pk)] = server.node
    picks: Counter[str] = Counter()
    for _ in range(100):
        targets = pick(needed_bytes=1, count=12)
        assert len({nodes[target.server_id] for target in targets}) == 12
        picks.update(target.server_id for target in targets)
    assert len(picks) == 40
    assert 0.7 * 30 <= min(picks.values()) <= max(picks.values()) <= 1.3 * 30


def test_free_space_draws_the_chunks_of_an_object_too() -> None:
    large = set()
    for number in range(60):
        server = make_server(free_bytes=41 * GIB if number % 2 else 11 * GIB)
        make_volume(server)
        large |= {str(server.pk)} if number % 2 else set()
    picks = Counter(target.server_id in large for _ in range(100) for target in pick(needed_bytes=1, count=8))
    assert picks[True] > 0.7 * picks.total()


def test_chunks_find_the_few_with_room_among_many() -> None:
    for _ in range(60):
        make_volume(make_server(free_bytes=GIB))
    roomy = {make_volume(make_server(free_bytes=3 * GIB)).pk for _ in range(2)}
    targets = pick(needed_bytes=GIB, count=4)
    assert Counter(target.volume_id for target in targets) == dict.fromkeys(roomy, 2)


def test_a_node_whose_first_server_has_no_room_gives_another(settings: Settings) -> None:
    settings.WAREHOUSE_VOLUME_SIZE = GIB
    full, other = make_server(node="a", free_bytes=90 * GIB), make_server(node="a")
    make_volume(full, replica={"size_bytes": GIB})
    make_volume(other)
    make_volume(make_server(node="b"))
    nodes = {str(server.pk): server.node for server in Server.objects.all()}
    for _ in range(20):
        assert {nodes[target.server_id] for target in pick(needed_bytes=MIB, count=2)} == {"a", "b"}


def test_what_is_spread_goes_only_where_it_fits() -> None:
    small, large = make_server(free_bytes=3 * GIB), make_server(free_bytes=9 * GIB)  # usable: 2 and 8
    make_volume(small)
    make_volume(large)
    counts = Counter(target.server_id for target in pick(needed_bytes=GIB, count=10))
    assert counts == {str(small.pk): 2, str(large.pk): 8}
    with pytest.raises(NoRoom):
        pick(needed_bytes=GIB, count=11)


def test_an_empty_needle_needs_room_too() -> None:
    make_volume(make_server(free_bytes=GIB))
    for count in (1, 2):
        with pytest.raises(NoRoom):
            pick(needed_bytes=0, count=count)


def test_nothing_is_handed_out_while_the_database_is_behind() -> None:
    make_volume(make_server())
    note_behind(seen_sequence=5)
    with pytest.raises(LeasesHalted):
        pick(needed_bytes=1)
    accept_store()
    assert pick(needed_bytes=1)


def test_a_new_server_is_seen_when_the_table_is_forgotten() -> None:
    make_volume(make_server())
    pick(needed_bytes=1)
    other = make_volume(make_server())
    forget_table()
    assert other.pk in {pick(needed_bytes=1)[0].volume_id for _ in range(50)}


@pytest.mark.django_db(transaction=True)
def test_threads_pick_side_by_side() -> None:
    for _ in range(4):
        make_volume(make_server())
    start = threading.Barrier(8)

    def some(_: int) -> int:
        try:
            start.wait()
            for number in range(50):
                if number % 10 == 0:
                    forget_table()
                pick(needed_bytes=1, count=1 + number % 3)
            return 50
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(some, range(8))) == 400


def test_a_refusal_names_the_servers_that_are_left_out() -> None:
    drained = make_server(node="n3", admin_state="draining")
    make_volume(drained)
    with pytest.raises(NoServers) as caught:
        pick(needed_bytes=1)
    assert caught.value.detail == f"No volume server is online. Left out: {drained} (draining)."
    forget_table()
    make_server(capacity_bytes=GIB, free_bytes=0)
    with pytest.raises(NoRoom) as full:
        pick(needed_bytes=1)
    assert full.value.detail.endswith(f"Left out: {drained} (draining).")
