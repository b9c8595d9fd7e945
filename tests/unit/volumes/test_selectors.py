from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from tests.unit.volumes.factories import make_server, make_volume
from volumes.models import Replica, Server, Volume
from volumes.selectors import (
    HEALTH,
    UNREACHABLE,
    VolumeState,
    count_nodes,
    count_unreachable,
    find_volumes,
    list_servers,
    list_volumes,
    primaries_of,
    redundancy_counts,
    servers_at_a_glance,
    volumes_for_confirm,
)
from volumes.web.progress import volume_rows

pytestmark = pytest.mark.django_db


def test_what_a_confirm_needs_to_know() -> None:
    primary, secondary = make_server(), make_server()
    volume = make_volume(primary, epoch=4, state="full")
    Replica.objects.create(volume=volume, server=secondary, role="secondary")
    states = volumes_for_confirm([volume.pk, volume.pk, 4_000_000_000])
    assert states == {volume.pk: VolumeState(epoch=4, primary=primary.pk, state="full")}
    assert isinstance(states[volume.pk].primary, UUID)
    assert primaries_of([volume.pk, 4_000_000_000]) == {volume.pk: primary}


def test_queries_grow_with_the_parameter_limit_only(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    with django_assert_num_queries(0):
        assert volumes_for_confirm([]) == {}
    with django_assert_num_queries(1):
        volumes_for_confirm(range(1, 501))
    with django_assert_num_queries(2):
        volumes_for_confirm(range(1, 502))


def test_volumes_are_found_by_what_they_are() -> None:
    here, there = make_server(), make_server()
    first = make_volume(here)
    full = make_volume(here, state="full", replica={"damaged_count": 2})
    Replica.objects.create(volume=full, server=there, role="secondary")
    away = make_volume(there, redundancy="degraded")

    def found(**wanted: Any) -> list[int]:
        return [volume.pk for volume in find_volumes(**wanted)]

    assert found() == [first.pk, full.pk, away.pk]
    assert found(after=first.pk) == [full.pk, away.pk]
    assert found(state="full") == found(is_damaged=True) == [full.pk]
    assert found(redundancy="degraded") == [away.pk]
    assert found(server=there.pk) == [full.pk, away.pk]
    assert found(server=there.pk, state="writable", is_damaged=True) == []


def test_figures_of_a_server_are_those_of_its_copies() -> None:
    server, other = make_server(node="a"), make_server(node="b")
    make_volume(server, replica={"size_bytes": 100, "garbage_bytes": 30, "damaged_count": 1})
    make_volume(server, replica={"size_bytes": 50, "garbage_bytes": 5}, redundancy_note="no room")
    listed: Any = list_servers()
    told = [
        (one.volume_count, one.held_bytes, one.garbage_bytes, one.damaged_count, one.waiting_count) for one in listed
    ]
    assert told == [(2, 150, 35, 1, 1), (0, 0, 0, 0, 0)]
    assert [one.pk for one in listed] == [server.pk, other.pk]


def test_a_glance_at_the_servers_is_one_query(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    make_server(node="b")
    make_server(node="a", last_seen_at=None)
    with django_assert_num_queries(1):
        assert [(server.node, server.status) for server in servers_at_a_glance()] == [("a", "offline"), ("b", "online")]


def test_volumes_without_a_server_that_is_heard_are_counted_if_they_hold_something() -> None:
    here, away, stopped = make_server(), make_server(last_seen_at=None), make_server(stopped_at=timezone.now())
    held = {"live_count": 3}
    for server in (here, away, stopped):
        make_volume(server, replica=held)
    make_volume(away)
    there_too = make_volume(away, replica=held)
    copy = Replica.objects.create(volume=there_too, server=here, role="secondary")
    assert redundancy_counts().unreachable == 3, "a copy that is not made yet can't be read"
    Replica.objects.filter(pk=copy.pk).update(state="open", reported_at=timezone.now())
    assert redundancy_counts().unreachable == 2


def test_nodes_are_counted_by_the_servers_that_are_meant_to_be_used() -> None:
    assert count_nodes() == 0
    for node, state in (("a", "active"), ("a", "active"), ("b", "draining"), ("c", "active")):
        make_server(node=node, admin_state=Server.AdminState(state))
    assert count_nodes() == 2


def test_volumes_are_found_by_the_word_that_their_page_has_for_them() -> None:
    here, away = make_server(), make_server(last_seen_at=None)
    made = [make_volume(server, redundancy=word) for word in Volume.Redundancy.values for server in (here, away)]
    made += [make_volume(server, unsettled=True) for server in (here, away)]
    made += [make_volume(server, replica={"state": "missing"}) for server in (here, away)]
    for state in ("open", "expected", "missing"):
        made.append(make_volume(away))
        Replica.objects.create(volume=made[-1], server=here, role="secondary", state=state, reported_at=timezone.now())
    found = {volume.pk: health for health in HEALTH for volume in find_volumes(health=health)}
    assert found == {row.volume.pk: row.health for row in volume_rows(list_volumes())}
    assert set(found.values()) == set(HEALTH)
    assert sum(len(find_volumes(health=health)) for health in HEALTH) == len(made), "each has one"
    assert count_unreachable() == len(find_volumes(health=UNREACHABLE)) == 9
