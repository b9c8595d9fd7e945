import itertools

import pytest

from tests.unit.volumes.factories import figures, make_server, make_volume
from tests.unit.volumes.fake_server import FakeVolumeServer
from volumes.errors import IllegalTransition, ServerRefused, ServerUnreachable, VolumeNotFound
from volumes.models import Volume
from volumes.services.states import move_volume, seal_volume

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(("source", "target"), list(itertools.product(Volume.State.values, repeat=2)))
def test_transitions_are_those_of_the_table(source: str, target: str) -> None:
    volume = make_volume(make_server(), state=source)
    before = volume.state_changed_at
    if target in Volume.TRANSITIONS[source]:
        move_volume(volume_id=volume.pk, to=target)
        volume.refresh_from_db()
        assert volume.state == target
        assert volume.state_changed_at > before
    else:
        with pytest.raises(IllegalTransition):
            move_volume(volume_id=volume.pk, to=target)
        volume.refresh_from_db()
        assert volume.state == source


def test_a_volume_that_is_not_there() -> None:
    with pytest.raises(IllegalTransition):
        move_volume(volume_id=1, to="sealed")
    with pytest.raises(VolumeNotFound):
        seal_volume(volume_id=1)


def test_seal_is_the_servers_first(fake_server: FakeVolumeServer) -> None:
    server = make_server(id=fake_server.id, internal_url=fake_server.url)
    volume = make_volume(server)
    with pytest.raises(ServerRefused):
        seal_volume(volume_id=volume.pk)  # the server does not know it
    volume.refresh_from_db()
    assert volume.state == "writable"

    fake_server.volumes[volume.pk] = figures(volume.pk)
    seal_volume(volume_id=volume.pk)
    volume.refresh_from_db()
    assert volume.state == "sealed"
    with pytest.raises(IllegalTransition):
        seal_volume(volume_id=volume.pk)


def test_seal_of_a_server_that_is_gone_changes_nothing() -> None:
    volume = make_volume(make_server(internal_url="http://127.0.0.1:1"))
    with pytest.raises(ServerUnreachable):
        seal_volume(volume_id=volume.pk)
    volume.refresh_from_db()
    assert volume.state == "writable"
