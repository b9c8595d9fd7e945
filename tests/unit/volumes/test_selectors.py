from uuid import UUID

import pytest
from pytest_django import DjangoAssertNumQueries

from tests.unit.volumes.factories import make_server, make_volume
from volumes.models import Replica
from volumes.selectors import VolumeState, primaries_of, volumes_for_confirm

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
