"""The first page: what each key is told of the store, and by which part."""

import gzip
import re
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from buckets.models import Bucket, Proof, UsageSample
from buckets.services.buckets import create_bucket
from buckets.usage import SAMPLED
from keys.permissions import Permission
from keys.rights import GrantRow
from tests.unit.buckets.lab import Lab, make_key
from tests.unit.volumes.factories import make_server, make_volume
from volumes.models import Server

pytestmark = pytest.mark.django_db

NODE = "<b>north</b>"


def client_of(permissions: int, *grants: GrantRow) -> Client:
    client = Client()
    client.force_login(make_key(permissions=permissions, grants=grants))
    return client


@pytest.fixture
def admin() -> Client:
    return client_of(Permission.ADMIN)


def page(client: Client, query: str = "", *, part: str = "") -> str:
    headers = {"HX-Request": "true", "HX-Target": part} if part else {}
    answer = client.get(f"/{query}", headers=headers)
    assert answer.status_code == 200
    return " ".join(answer.content.decode().split())


def ids(html: str) -> set[str]:
    return set(re.findall(r'<section id="([a-z-]+)"', html))


def keep_samples(*figures: dict[str, int], step: timedelta = timedelta(minutes=1)) -> None:
    begin = timezone.now() - step * len(figures)
    UsageSample.objects.bulk_create(
        UsageSample(at=begin + index * step, **(dict.fromkeys(SAMPLED, 0) | one)) for index, one in enumerate(figures)
    )


def test_the_whole_store_is_checked_on_demand(admin: Client) -> None:
    assert 'action="/check-store"' in page(admin)
    done = admin.post("/check-store", follow=True)
    assert "The store is checked as soon as the worker can" in done.content.decode()
    assert Proof.objects.filter(volume=None, deep=False).exclude(state="done").count() == 1
    assert "A check is asked for" in page(admin)
    assert 'action="/check-store"' not in page(admin), "one at a time"
    onlooker = client_of(Permission.VOLUMES_READ)
    assert 'action="/check-store"' not in page(onlooker)
    onlooker.post("/check-store")
    assert admin.get("/check-store").status_code == 405
    assert Proof.objects.count() == 1


def test_who_may_do_all_sees_all(admin: Client, lab: Lab) -> None:
    make_server(node=NODE)
    Server.objects.filter(node=NODE).update(last_seen_at=timezone.now() - timedelta(hours=1))
    lab.put_many("1", "2")
    Proof.objects.create(state="done", started_at=timezone.now(), ended_at=timezone.now(), row_count=2)
    html = page(admin)
    assert ids(html) == {"status", "figures", "bucket-list", "history", "recent"}
    assert "&lt;b&gt;north&lt;/b&gt;" in html
    assert NODE not in html
    assert "Something is away" in html
    assert "Nothing missing among 2 records" in html
    assert "2 objects, 20 B" in html
    assert "First steps" not in html


def test_a_key_without_volumes_read_sees_no_more_than_the_api_tells_it() -> None:
    make_volume(make_server(node="north"))
    for name in ("mine", "half", "secluded"):
        create_bucket(name=name)
    Bucket.objects.update(object_count=77)
    client = client_of(
        0,
        GrantRow("mine", "", Permission.BUCKETS_READ | Permission.OBJECTS_READ),
        GrantRow("half", "a/", int(Permission.OBJECTS_READ)),
    )
    html = page(client)
    assert ids(html) == {"status", "bucket-list"}
    assert "1 of 1 online" in html  # anybody is told so by the API's health
    assert "mine" in html
    assert "half" in html
    assert "secluded" not in html
    assert html.count("77 objects") == 1
    for told in ("north", "New bucket", "Make a key", "Proof"):
        assert told not in html, told
    for part in ("figures", "history", "recent"):
        answer = client.get("/?figures=1", headers={"HX-Request": "true", "HX-Target": part})
        assert answer.status_code == 403, part
        assert b"<section" not in answer.content


def test_a_page_goes_packed_to_who_takes_it_so(admin: Client) -> None:
    answer = admin.get("/", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in answer.headers["Vary"]
    assert b"No volume server has joined yet" in gzip.decompress(answer.content)


def test_everything_is_counted_only_when_it_is_asked_for(admin: Client, lab: Lab) -> None:
    lab.put_many("1", "2")
    first = page(admin, "?range=week")
    assert "All copies</dt>" not in first
    assert re.search(r'<section id="figures"[^>]*hx-get="\?range=week&amp;figures=1"[^>]*hx-trigger="load"', first)
    part = page(admin, "?range=week&figures=1", part="figures")
    assert ids(part) == {"figures"}
    assert "<html" not in part
    assert re.search(r"<dt>Objects</dt>\s*<dd>\s*2\s*</dd>", part)
    assert 'hx-trigger="every' in part
    assert '<svg class="meter' in part
    assert re.search(r"<dt>Objects</dt>\s*<dd>\s*2\s*</dd>", page(admin, "?figures=1")), "without JavaScript, too"


def test_space_is_told_of_servers_that_are_there(admin: Client) -> None:
    make_server(stopped_at=timezone.now())
    part = page(admin, "?figures=1", part="figures")
    assert "no server is online" in part
    assert '<svg class="meter' not in part


def test_a_part_asks_for_nothing_that_it_does_not_show(
    admin: Client, monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: object
) -> None:
    monkeypatch.setattr("keys.selectors.CACHE_SECONDS", 3600)  # however slow the machine
    page(admin)
    with django_assert_max_num_queries(3):  # type: ignore[operator]
        page(admin, part="bucket-list")
    with django_assert_max_num_queries(18):  # type: ignore[operator]
        page(admin, part="status")


def test_the_history_is_plotted_and_told(admin: Client) -> None:
    assert page(admin, part="history").count("Nothing was measured") == 1
    keep_samples(*({"object_count": 10 * index, "sent_bytes": 60_000_000 * index} for index in range(5)))
    plots = page(admin, "?range=hour", part="history")
    assert plots.count("<figure") == 4
    assert "Objects: from 0 to 40, at last 40." in plots
    assert "Sent: from 1.0 MB/s to 1.0 MB/s" in plots
    table = page(admin, "?range=hour&as=table", part="history")
    assert "<figure" not in table
    assert re.search(r"<td[^>]*>1\.0 MB/s</td>", table)


@pytest.mark.parametrize("query", ["?range=all", "?range=%00%F0%9F%A6%86&as=%22%3E", "?range=all&as=table&figures"])
def test_any_span_can_be_asked_for(admin: Client, query: str) -> None:
    for days in (1, 40, 400):
        UsageSample.objects.create(at=timezone.now() - timedelta(days=days), **dict.fromkeys(SAMPLED, 0))
    html = page(admin, query)
    assert 'aria-current="true"' in html


def test_samples_of_old_times_are_farther_apart_and_are_one_line(admin: Client) -> None:
    for days in (33, 32, 31):
        UsageSample.objects.create(at=timezone.now() - timedelta(days=days), **dict.fromkeys(SAMPLED, 0))
    html = page(admin, "?range=all", part="history")
    [objects] = re.findall(r'<path class="line-1" d="(M[^"]+)" />', html)[-1:]
    assert objects.count("M") == 1


def test_the_newest_sample_is_told_last(admin: Client) -> None:
    keep_samples({"object_count": 1}, *[{}] * 49, {"object_count": 99}, step=timedelta(minutes=2))
    assert "at last 99." in page(admin, "?range=week", part="history")


def test_first_steps_are_those_that_the_key_may_take() -> None:
    writer = client_of(Permission.BUCKETS_READ, GrantRow("new", "", int(Permission.OBJECTS_WRITE)))
    create_bucket(name="new")
    html = page(writer)
    assert "Open <bdi>new</bdi>" in html
    assert "Make a key" not in html
    assert "Make the first bucket" not in html
    everything = page(client_of(Permission.ADMIN))
    assert "Make a key" in everything
    Bucket.objects.all().delete()
    assert "Make the first bucket" in page(client_of(Permission.ADMIN))
    nobody = page(client_of(Permission.VOLUMES_READ))
    assert "First steps" not in nobody
    assert "Ask who made it" in nobody
