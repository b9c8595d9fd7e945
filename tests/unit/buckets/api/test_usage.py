"""Usage as clients see it."""

from datetime import timedelta
from urllib.parse import quote

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from buckets.models import UsageSample
from buckets.services.buckets import create_bucket
from buckets.services.usage import take_sample
from buckets.usage import SAMPLED
from keys.permissions import Permission
from keys.rights import GrantRow
from tests.unit.buckets.lab import Lab, make_key
from tests.unit.volumes.factories import GIB, make_server, make_volume

pytestmark = pytest.mark.django_db

URL = "/api/v1/usage"
HISTORY = "/api/v1/usage/history"


def client_of(permissions: int, *grants: GrantRow) -> APIClient:
    client = APIClient()
    client.force_authenticate(make_key(permissions=permissions, grants=grants))
    return client


@pytest.fixture
def reader() -> APIClient:
    return client_of(Permission.VOLUMES_READ | Permission.BUCKETS_READ)


def test_usage_adds_up(reader: APIClient) -> None:
    first, gone = make_server(node="a"), make_server(node="b", last_seen_at=None)
    make_volume(first, replica={"size_bytes": 1000, "garbage_bytes": 100, "live_count": 7})
    make_volume(gone, replica={"size_bytes": 500, "garbage_bytes": 50, "live_count": 3, "damaged_count": 2})
    told = reader.get(URL).json()
    whole = {name: value for name, value in told.items() if not isinstance(value, list)}
    assert whole == {
        "servers": 2, "servers_online": 1, "capacity_bytes": 100 * GIB, "free_bytes": 50 * GIB, "volumes": 2,
        "used_bytes": 1500, "garbage_bytes": 150, "live_count": 10, "damaged_count": 2,
        "degraded_volumes": 0, "copying_volumes": 0, "waiting_volumes": 0, "unreachable_volumes": 1,
        "buckets": 0, "object_count": 0, "object_bytes": 0,
        "requests": 0, "puts": 0, "received_bytes": 0, "sent_bytes": 0, "next_after": None,
    }  # fmt: skip
    assert [(one["node"], one["status"], one["volumes"]) for one in told["by_server"]] == [
        ("a", "online", 1),
        ("b", "offline", 1),
    ]


def test_the_space_of_a_disk_counts_once(reader: APIClient) -> None:
    now = {"disk": "shared", "capacity_bytes": 9 * GIB}
    for free in (5 * GIB, 4 * GIB):
        make_server(free_bytes=free, **now)
    make_server(free_bytes=GIB, last_seen_at=None, **now)
    for disk in ("other", "", ""):
        make_server(disk=disk)
    told = reader.get(URL).json()
    assert (told["servers"], told["servers_online"]) == (6, 5)
    assert (told["capacity_bytes"], told["free_bytes"]) == (309 * GIB, 154 * GIB)


def test_buckets_are_those_that_the_key_may_see(lab: Lab, reader: APIClient) -> None:
    for name in ("a", "z"):
        create_bucket(name=name)
    lab.put_many("1", "2")
    pages, after = [], ""
    while after is not None:
        page = reader.get(f"{URL}?limit=1&after={after}").json()
        pages += page["by_bucket"]
        after = page["next_after"]
    assert [one["bucket"] for one in pages] == ["a", "photos", "z"]
    assert (pages[1]["object_count"], pages[1]["total_bytes"]) == (2, 20)
    some = client_of(Permission.VOLUMES_READ, GrantRow("z", "p/", int(Permission.BUCKETS_READ)))
    assert [one["bucket"] for one in some.get(URL).json()["by_bucket"]] == ["z"]
    none = client_of(Permission.VOLUMES_READ).get(URL).json()
    assert (none["by_bucket"], none["object_count"]) == ([], 2)


def test_the_history(reader: APIClient) -> None:
    now = timezone.now().replace(second=0, microsecond=0)
    take_sample(now=now - timedelta(minutes=1))
    later = UsageSample(at=now, **(dict.fromkeys(SAMPLED, 0) | {"puts": 30, "buckets": 4}))
    later.save(force_insert=True)
    begin, end = quote((now - timedelta(hours=1)).isoformat()), quote((now + timedelta(minutes=1)).isoformat())
    told = reader.get(f"{HISTORY}?from={begin}&to={end}&step=60").json()
    assert told["step"] == 60
    assert [(one["buckets"], one["puts_per_s"]) for one in told["results"]] == [(0, None), (4, 0.5)]
    assert reader.get(HISTORY).json()["step"] == 300


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=x", "from"),
        ("to=", "to"),
        ("step=1", "step"),
        ("step=60&from=2020-01-01T00:00:00Z", "step"),
        ("from=2999-01-01T00:00:00Z", "from"),
        ("form=2020-01-01T00:00:00Z", "form"),
    ],
)
def test_what_cannot_be_asked_for(reader: APIClient, query: str, field: str) -> None:
    answer = reader.get(f"{HISTORY}?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
    assert list(answer.json()["errors"]) == [field]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "name=b", "after=" + "x" * 101])
def test_odd_pages(reader: APIClient, query: str) -> None:
    assert reader.get(f"{URL}?{query}").status_code == 400
