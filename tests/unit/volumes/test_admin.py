import pytest
from django.test import Client
from django.urls import reverse

from keys.models import ApiKey
from keys.permissions import Permission
from tests.unit.volumes.factories import figures, make_server, make_volume
from tests.unit.volumes.fake_server import FakeVolumeServer
from volumes.models import Replica, Server, Store, Volume
from volumes.services.store import current_store, note_behind

pytestmark = pytest.mark.django_db

MODELS = ["store", "server", "volume", "replica"]


@pytest.fixture
def operator(client: Client) -> Client:
    key = ApiKey.objects.create(name="operator", secret_hash="0" * 64, permissions=Permission.ADMIN)
    client.force_login(key, backend="keys.backends.KeyBackend")
    return client


@pytest.fixture(autouse=True)
def _rows() -> None:
    current_store()
    make_volume(make_server(capacity_bytes=2048 << 20, free_bytes=1024 << 20), replica={"size_bytes": 5 << 20})


@pytest.mark.parametrize("model", MODELS)
def test_pages_show_and_nothing_is_added_or_deleted(operator: Client, model: str) -> None:
    page = operator.get(reverse(f"admin:volumes_{model}_changelist"))
    assert page.status_code == 200
    row = {"store": Store, "server": Server, "volume": Volume, "replica": Replica}[model].objects.get()
    assert operator.get(reverse(f"admin:volumes_{model}_change", args=[row.pk])).status_code == 200
    assert operator.get(reverse(f"admin:volumes_{model}_add")).status_code == 403
    assert operator.post(reverse(f"admin:volumes_{model}_delete", args=[row.pk]), {"post": "yes"}).status_code == 403
    assert type(row).objects.filter(pk=row.pk).exists()


def test_sizes_are_for_people(operator: Client) -> None:
    page = operator.get(reverse("admin:volumes_server_changelist")).content.decode()
    assert "1.0\xa0GB (50 %)" in page
    assert "online" in page


def test_an_operator_sets_the_admin_state_and_nothing_else(operator: Client) -> None:
    server = Server.objects.get()
    form = {"admin_state": "draining", "node": "elsewhere", "kid": "9", "free_bytes": "1"}
    inline = {
        "replicas-TOTAL_FORMS": "0", "replicas-INITIAL_FORMS": "0",
        "replicas-MIN_NUM_FORMS": "0", "replicas-MAX_NUM_FORMS": "0",
    }  # fmt: skip
    response = operator.post(reverse("admin:volumes_server_change", args=[server.pk]), form | inline)
    assert response.status_code == 302
    changed = Server.objects.get()
    assert changed.admin_state == "draining"
    assert (changed.node, changed.kid, changed.free_bytes) == (server.node, server.kid, server.free_bytes)


def test_seal(operator: Client, fake_server: FakeVolumeServer) -> None:
    volume = make_volume(make_server(id=fake_server.id, internal_url=fake_server.url))
    fake_server.volumes[volume.pk] = figures(volume.pk)
    gone = Volume.objects.exclude(pk=volume.pk).get()
    Server.objects.filter(replicas__volume=gone).update(internal_url="http://127.0.0.1:1")
    page = operator.post(
        reverse("admin:volumes_volume_changelist"),
        {"action": "seal", "_selected_action": [volume.pk, gone.pk]},
        follow=True,
    ).content.decode()
    assert f"Volume {volume.pk}: it is sealed." in page
    assert f"Volume {gone.pk}: POST /admin/seal" in page
    volume.refresh_from_db()
    gone.refresh_from_db()
    assert (volume.state, gone.state) == ("sealed", "writable")


def test_accept_a_database_that_is_behind(operator: Client) -> None:
    url = reverse("admin:volumes_store_changelist")
    accept = {"action": "accept", "_selected_action": [1]}
    assert "not behind" in operator.post(url, accept, follow=True).content.decode()
    note_behind(seen_sequence=9)
    assert "Accepted" in operator.post(url, accept, follow=True).content.decode()
    assert (current_store().behind_of, current_store().sequence) == (None, 9)
