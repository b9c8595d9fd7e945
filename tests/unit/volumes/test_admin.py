import json
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from keys.models import ApiKey
from keys.permissions import Permission
from tests.unit.volumes.factories import figures, job, make_server, make_volume
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


@pytest.mark.parametrize(
    ("model", "list_title", "title", "can_save"),
    [
        ("store", "Store", "Store", False),
        ("server", "Servers", "Server", True),
        ("volume", "Volumes", "Volume", False),
        ("replica", "Replicas", "Replica", False),
    ],
)
def test_pages_are_called_by_what_they_show(
    operator: Client, model: str, list_title: str, title: str, can_save: bool
) -> None:
    listed = operator.get(reverse(f"admin:volumes_{model}_changelist")).content.decode()
    assert f"<h1>{list_title}</h1>" in listed
    row = {"store": Store, "server": Server, "volume": Volume, "replica": Replica}[model].objects.get()
    url = reverse(f"admin:volumes_{model}_change", args=[row.pk])
    page = operator.get(url).content.decode()
    assert f"<h1>{title}</h1>" in page
    assert ('name="_save"' in page) == can_save
    if not can_save:
        assert operator.post(url, {}).status_code == 403


def test_forgetting_a_server_is_asked_first(operator: Client) -> None:
    server = Server.objects.get()
    url = reverse("admin:volumes_server_changelist")
    forget = {"action": "forget", "_selected_action": [server.pk]}
    assert "never come back" in operator.post(url, forget).content.decode()
    assert "was heard" in operator.post(url, forget | {"post": "yes"}, follow=True).content.decode()
    Server.objects.update(last_seen_at=None, internal_url="http://127.0.0.1:1")
    assert "never come back" in operator.post(url, forget).content.decode()
    assert Server.objects.exists()
    page = operator.post(url, forget | {"post": "yes"}, follow=True).content.decode()
    assert "is forgotten: 0 copies are made anew, 1 volumes that held nothing are gone." in page
    assert not Server.objects.exists()


def test_sizes_are_for_people(operator: Client) -> None:
    page = operator.get(reverse("admin:volumes_server_changelist")).content.decode()
    assert "1.0\xa0GB (50\xa0%)" in page
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
        {"action": "seal", "_selected_action": [volume.pk, gone.pk], "post": "yes"},
        follow=True,
    ).content.decode()
    assert f"Volume {volume.pk}: it is sealed." in page
    assert f"Volume {gone.pk}: server n" in page
    assert "(http://127.0.0.1:1) does not answer" in page
    volume.refresh_from_db()
    gone.refresh_from_db()
    assert (volume.state, gone.state) == ("sealed", "writable")


@pytest.mark.parametrize(("action", "said"), [("compact", "the compaction runs"), ("scrub", "the scrub runs")])
def test_compact_and_scrub(operator: Client, fake_server: FakeVolumeServer, action: str, said: str) -> None:
    volume = make_volume(make_server(id=fake_server.id, internal_url=fake_server.url))
    fake_server.volumes[volume.pk] = figures(volume.pk, size_bytes=100, garbage_bytes=40)
    gone = Volume.objects.exclude(pk=volume.pk).get()
    Server.objects.filter(replicas__volume=gone).update(last_seen_at=None)
    page = operator.post(
        reverse("admin:volumes_volume_changelist"),
        {"action": action, "_selected_action": [volume.pk, gone.pk]},
        follow=True,
    ).content.decode()
    assert f"Volume {volume.pk}: {said}" in page
    assert f"Volume {gone.pk}: Volume {gone.pk} is on server" in page
    assert "Start that server and try again." in page
    assert f"{'compaction' if action == 'compact' else action} 0 %" in page


def test_what_a_compaction_is_refused_for_is_shown(operator: Client, fake_server: FakeVolumeServer) -> None:
    volume = make_volume(make_server(id=fake_server.id, internal_url=fake_server.url))
    fake_server.refusals["/admin/compact"] = (507, {"code": "disk_full", "detail": "compaction needs 9 bytes"})
    page = operator.post(
        reverse("admin:volumes_volume_changelist"),
        {"action": "compact", "_selected_action": [volume.pk]},
        follow=True,
    ).content.decode()
    assert f"Volume {volume.pk}: compaction needs 9 bytes" in page


@pytest.mark.parametrize("model", ["volume", "replica"])
def test_work_on_a_volume_is_shown_in_its_row(operator: Client, model: str) -> None:
    def page() -> str:
        return operator.get(reverse(f"admin:volumes_{model}_changelist")).content.decode()

    assert "compaction" not in page().partition("<tbody>")[2]
    Replica.objects.update(
        garbage_bytes=2 << 20,
        compaction=job(done_bytes=37, reclaimed_bytes=0),
        scrub=job(state="failed", detail="the <disk> is gone"),
        scrubbed_at="2026-01-02T03:04:05Z",
    )
    shown = page()
    assert "compaction 37 %, scrub failed: the &lt;disk&gt; is gone" in shown
    assert "(40\xa0%)" in shown
    assert "2026" in shown
    Replica.objects.update(compaction=job(state="done", ended_ms=1, reclaimed_bytes=0), scrub=None)
    assert "compaction 37 %" not in page()


@pytest.mark.parametrize("model", ["server", "volume", "replica"])
def test_damage_is_highlighted(operator: Client, model: str) -> None:
    mark = '<strong class="damage">3 damaged</strong>'
    url = reverse(f"admin:volumes_{model}_changelist")
    assert mark not in operator.get(url).content.decode()
    Replica.objects.update(damaged_count=3)
    assert mark in operator.get(url).content.decode()


def test_damaged_records_are_listed_on_the_volumes_page(operator: Client, fake_server: FakeVolumeServer) -> None:
    volume = make_volume(make_server(id=fake_server.id, internal_url=fake_server.url))
    fake_server.volumes[volume.pk] = figures(volume.pk)
    url = reverse("admin:volumes_volume_change", args=[volume.pk])
    assert "none known" in operator.get(url).content.decode()
    assert fake_server.requests == []

    Replica.objects.filter(volume=volume).update(damaged_count=60)
    entry = {"needle": f"{0xA0001:016x}", "offset": 8192, "bytes": 96, "reason": "the <CRC> does not fit"}
    fake_server.damage[volume.pk] = [entry | {"needle": None}, *[entry] * 59]
    page = operator.get(url).content.decode()
    assert "60 damaged, the first 50 of them:" in page
    assert page.count("<td>00000000000a0001</td><td>no object names it</td>") == 49
    assert "<td>unknown</td><td>unknown</td><td>8192</td><td>96</td><td>the &lt;CRC&gt; does not fit</td>" in page

    fake_server.damage[volume.pk] = [entry]
    assert '<p class="damage">1 damaged:</p>' in operator.get(url).content.decode()

    fake_server.refusals["/admin/damaged"] = (500, {})
    page = operator.get(url).content.decode()
    assert "60; which ones is not known now: POST /admin/damaged: 500" in page


@pytest.mark.parametrize(
    ("count", "scrub", "said"),
    [
        (0, None, "none known any more"),
        (1, None, '<span class="damage">1 damaged</span>; scrub the volume to learn where'),
        (1, job(), '<span class="damage">1 damaged</span>; where is being looked for'),
        (1, job(state="done"), "scrub the volume to learn where"),
    ],
)
def test_damage_whose_place_is_not_known(
    operator: Client, fake_server: FakeVolumeServer, count: int, scrub: dict[str, Any] | None, said: str
) -> None:
    volume = make_volume(
        make_server(id=fake_server.id, internal_url=fake_server.url), replica={"damaged_count": 1, "scrub": scrub}
    )
    fake_server.answer = (200, json.dumps({"volume": volume.pk, "count": count, "damaged": []}).encode())
    page = operator.get(reverse("admin:volumes_volume_change", args=[volume.pk])).content.decode()
    assert said in page
    assert "<th>what is wrong</th>" not in page


def test_accept_a_database_that_is_behind(operator: Client) -> None:
    url = reverse("admin:volumes_store_changelist")
    accept = {"action": "accept", "_selected_action": [1], "post": "yes"}
    assert "not behind" in operator.post(url, accept, follow=True).content.decode()
    note_behind(seen_sequence=9)
    assert "Accepted" in operator.post(url, accept, follow=True).content.decode()
    assert (current_store().behind_of, current_store().sequence) == (None, 10)


def test_a_drain_is_not_replaced_by_a_maintenance(operator: Client) -> None:
    server = Server.objects.get()
    Server.objects.update(admin_state="draining")
    form = {"action": "maintain", "_selected_action": [str(server.pk)]}
    page = operator.post(reverse("admin:volumes_server_changelist"), form, follow=True)
    assert f"manage.py drain {str(server.pk)[:8]} --cancel" in page.content.decode()
    page = operator.post(
        reverse("admin:volumes_server_change", args=[server.pk]), {"admin_state": "maintenance"}, follow=True
    )
    assert f"manage.py drain {str(server.pk)[:8]} --cancel" in page.content.decode()
    assert Server.objects.get().admin_state == "draining"


def test_a_database_that_is_behind_is_told_on_the_first_page(operator: Client) -> None:
    assert "The database is behind" not in operator.get("/admin/").content.decode()
    note_behind(seen_sequence=9)
    assert "The database is behind: a volume server has seen commit 9" in operator.get("/admin/").content.decode()


def test_a_volume_that_waits_for_other_copies_is_not_shown_as_done(operator: Client) -> None:
    Volume.objects.update(replication=2, unsettled=True, redundancy_note="There is no other node.")
    page = operator.get(reverse("admin:volumes_volume_changelist")).content.decode()
    assert "1 of 2, whole; waits for others" in page
    page = operator.get(reverse("admin:volumes_volume_change", args=[Volume.objects.get().pk])).content.decode()
    assert "There is no other node." in page
    assert "nsettled" not in page
