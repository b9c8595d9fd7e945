"""Volumes in the web UI: what is shown to whom, and the work on them."""

import re
from typing import Any
from urllib.parse import quote

import pytest
from django.test import Client
from django.urls import reverse

from keys.models import ApiKey, Grant
from keys.permissions import Permission
from keys.selectors import forget_rights
from tests.unit.volumes.factories import figures, job, make_server, make_volume
from tests.unit.volumes.fake_server import FakeVolumeServer
from tests.unit.volumes.web.conftest import text_of
from volumes.models import Replica, Volume
from volumes.owners import Owner
from volumes.web import damage
from volumes.web.progress import volume_row

pytestmark = pytest.mark.django_db


def part_of(client: Client, path: str, part: str) -> str:
    answer = client.get(path, headers={"HX-Request": "true", "HX-Target": part})
    assert answer.status_code == 200
    return answer.content.decode()


def test_the_list_has_pages_and_filters(
    reader: Client, monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: Any
) -> None:
    monkeypatch.setattr("keys.selectors.CACHE_SECONDS", 3600)  # however slow the machine
    assert "No volume yet" in text_of(reader, "volumes")
    server, other = make_server(node="here"), make_server(node="there")
    made = [make_volume(server) for _ in range(50)]
    last = make_volume(other, state="full", redundancy="degraded", replica={"damaged_count": 2})
    with django_assert_max_num_queries(12):
        page = text_of(reader, "volumes")
    assert f"after={made[-1].pk}" in page
    assert f'href="/volumes/{last.pk}"' not in page
    for query in (f"after={made[-1].pk}", "state=full", "health=degraded", "health=damaged", f"server={other.pk}"):
        found = reader.get(f"/volumes?{query}").content.decode()
        assert f'href="/volumes/{last.pk}"' in found, query
        assert f'href="/volumes/{made[0].pk}"' not in found, query
    assert "No volume is like that" in reader.get("/volumes?state=sealed").content.decode()
    for query in ("state=nonsense", "server=nonsense", "after=-1", "after=" + "9" * 30, "health=" + quote("<b>")):
        assert reader.get(f"/volumes?{query}").status_code == 400, query


def test_what_no_server_can_give_is_a_figure_and_a_filter(reader: Client) -> None:
    here, away = make_volume(make_server()), make_volume(make_server(last_seen_at=None))
    assert re.search(r"<dt>Unreachable</dt>\s*<dd>\s*1\s*</dd>", text_of(reader, "volumes"))
    for query, shown, hidden in (("unreachable", away, here), ("whole", here, away)):
        page = reader.get(f"/volumes?health={query}").content.decode()
        assert f'href="/volumes/{shown.pk}"' in page, query
        assert f'href="/volumes/{hidden.pk}"' not in page, query


def test_a_part_is_fetched_without_what_the_page_has_besides(
    reader: Client, django_assert_max_num_queries: Any
) -> None:
    make_volume(make_server())
    with django_assert_max_num_queries(6):
        part = part_of(reader, "/volumes", "volume-list")
    assert part.lstrip().startswith('<div id="volume-list"')
    assert "<h1" not in part


def test_a_volume_shows_its_figures_its_copies_and_the_work_on_them(reader: Client) -> None:
    server, away = make_server(node="here"), make_server(node="away", last_seen_at=None)
    compaction = job(done_bytes=30, total_bytes=120, reclaimed_bytes=0)
    peers = [{"server": str(away.pk), "state": "copying", "done_bytes": 1, "total_bytes": 2}]
    volume = make_volume(
        server,
        replication=3,
        redundancy="opening",
        redundancy_note="waits for <b>room</b>",
        replica={
            "size_bytes": 10**9,
            "garbage_bytes": 4 * 10**8,
            "live_count": 1234,
            "compaction": compaction,
            "scrub": job(state="failed", detail="disk <i>gone</i>", ended_ms=1_700_000_000_000),
            "replication": {"role": "primary", "epoch": 1, "state": "opening", "peers": peers, "detail": ""},
        },
    )
    Replica.objects.create(volume=volume, server=away, role="secondary")
    page = text_of(reader, "volume", volume.pk)
    shown = (
        "2 of 3", "opening", "1.0 GB", "400 MB (40 %)", "1,234 live", "25 %", "50 %", "failed", "every 2s",
        "disk &lt;i&gt;gone&lt;/i&gt;", "waits for &lt;b&gt;room&lt;/b&gt;", "offline",
    )  # fmt: skip
    for text in shown:
        assert text in page, text
    alone = make_volume(away)
    assert "unreachable" in text_of(reader, "volume", alone.pk)
    row = volume_row(Volume.objects.get(pk=volume.pk))
    assert row.is_busy
    assert [work.noun for work in row.running] == ["compaction"]


def test_damage_is_asked_for_where_it_is_shown_alone(reader: Client, fake_server: FakeVolumeServer) -> None:
    volume = make_volume(make_server(id=fake_server.id, internal_url=fake_server.url), replica={"damaged_count": 2})
    records = [
        {"needle": None, "offset": 8192, "bytes": 77, "reason": "bad <b>tag</b>"},
        {"needle": f"{7:016x}", "offset": 9000, "bytes": 1, "reason": "bad CRC"},
    ]
    fake_server.volumes[volume.pk] = figures(volume.pk)
    fake_server.damage[volume.pk] = records
    path = reverse("volume", args=[volume.pk])
    assert "2 damaged" in part_of(reader, path, "volume-now")
    assert fake_server.asked == []
    page = part_of(reader, path, "volume-damage")
    for text in ("8,192", "bad &lt;b&gt;tag&lt;/b&gt;", "bad CRC", "Nothing that an object names"):
        assert text in page, text
    assert [where for where, _ in fake_server.asked] == ["/admin/damaged"]
    fake_server.refusals["/admin/damaged"] = (503, {"code": "busy", "detail": "not now"})
    assert "which ones is not known now" in text_of(reader, "volume", volume.pk)


def test_who_may_only_look_is_offered_nothing_and_starts_nothing(reader: Client, fake_server: FakeVolumeServer) -> None:
    volume = make_volume(make_server(id=fake_server.id, internal_url=fake_server.url))
    page = text_of(reader, "volume", volume.pk)
    for offered in ("Compact", "Scrub</button>", "Seal"):
        assert offered not in page, offered
    for name in ("volume-compact", "volume-scrub", "volume-seal"):
        reader.post(reverse(name, args=[volume.pk]))
    assert reader.get(reverse("volume-seal", args=[volume.pk])).status_code == 403
    assert fake_server.asked == []
    volume.refresh_from_db()
    assert volume.state == "writable"


@pytest.mark.parametrize("work", ["compact", "scrub"])
def test_work_is_begun_and_followed(operator: Client, fake_server: FakeVolumeServer, work: str) -> None:
    volume = make_volume(make_server(id=fake_server.id, internal_url=fake_server.url))
    fake_server.volumes[volume.pk] = figures(volume.pk, size_bytes=100, garbage_bytes=40)
    path = reverse("volume", args=[volume.pk])
    htmx = {"HX-Request": "true", "HX-Target": "volume-now"}
    answer = operator.post(reverse(f"volume-{work}", args=[volume.pk]), {"back": path}, headers=htmx, follow=True)
    part = answer.content.decode()
    assert answer.redirect_chain == [(path, 303)]
    assert part.lstrip().startswith('<div id="volume-now"')
    assert "<progress" in part
    assert "running" in part
    assert "is being" in part


def test_how_to_compact_can_be_chosen(operator: Client, fake_server: FakeVolumeServer) -> None:
    volume = make_volume(make_server(id=fake_server.id, internal_url=fake_server.url))
    fake_server.volumes[volume.pk] = figures(volume.pk, size_bytes=100, garbage_bytes=40)
    address = reverse("volume-compact", args=[volume.pk])
    assert "At most 10 MB a second" in text_of(operator, "volume-compact", volume.pk)
    assert operator.post(address, {"rate": "7"}).status_code == 422
    assert fake_server.asked == []
    operator.post(address, {"rate": "10000000", "drop_damage": "on"})
    [(_, asked)] = fake_server.asked
    assert (asked["rate_bytes"], asked["drop_damage"]) == (10_000_000, True)


def test_what_is_refused_is_told_where_one_was(operator: Client, fake_server: FakeVolumeServer) -> None:
    volume = make_volume(make_server(id=fake_server.id, internal_url=fake_server.url))
    path = reverse("volume", args=[volume.pk])
    fake_server.refusals["/admin/compact"] = (507, {"code": "disk_full", "detail": "compaction needs 9 bytes"})
    answer = operator.post(reverse("volume-compact", args=[volume.pk]), {"back": path}, follow=True)
    assert answer.redirect_chain == [(path, 303)]
    assert "compaction needs 9 bytes" in answer.content.decode()


def test_sealing_is_asked_first_and_not_offered_again(operator: Client, fake_server: FakeVolumeServer) -> None:
    volume = make_volume(make_server(id=fake_server.id, internal_url=fake_server.url))
    fake_server.volumes[volume.pk] = figures(volume.pk)
    address = reverse("volume-seal", args=[volume.pk])
    assert address in text_of(operator, "volume", volume.pk)
    assert "for good" in text_of(operator, "volume-seal", volume.pk)
    volume.refresh_from_db()
    assert volume.state == "writable"
    page = operator.post(address, follow=True).content.decode()
    assert f"Volume {volume.pk} is sealed." in page
    again = operator.get(address)
    assert again.status_code == 409
    assert f"Volume {volume.pk} is sealed already." in again.content.decode()
    assert address not in page
    assert reverse("volume-compact", args=[volume.pk]) not in page


def test_there_is_no_such_volume(operator: Client) -> None:
    for path in ("/volumes/1", "/volumes/0", "/volumes/99999999999", "/volumes/4294967296/scrub"):
        assert operator.get(path).status_code in (404, 405), path
    missing = operator.post("/volumes/77/scrub", follow=True)
    assert "There is no volume 77." in missing.content.decode()


def test_damaged_objects_are_named_to_those_alone_who_may_read_them(
    reader: Client, fake_server: FakeVolumeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = [Owner("photos", "a/<i>", 0), Owner("secret", "b", 3, is_upload=True)]
    monkeypatch.setattr(damage, "owners_of", lambda needles: dict.fromkeys(needles, owners))
    volume = make_volume(make_server(id=fake_server.id, internal_url=fake_server.url), replica={"damaged_count": 1})
    fake_server.volumes[volume.pk] = figures(volume.pk)
    fake_server.damage[volume.pk] = [{"needle": f"{7:016x}", "offset": 0, "bytes": 1, "reason": "bad CRC"}]
    page = text_of(reader, "volume", volume.pk)
    assert "2 that this key may not read" in page
    assert "photos" not in page
    Grant.objects.create(key=ApiKey.objects.get(), bucket="photos", permissions=Permission.OBJECTS_READ)
    forget_rights()
    page = text_of(reader, "volume", volume.pk)
    assert "1 that this key may not read" in page
    assert '<a href="/buckets/photos/object?key=a%2F%3Ci%3E"><bdi>a/&lt;i&gt;</bdi></a>' in page
    assert "secret" not in page
