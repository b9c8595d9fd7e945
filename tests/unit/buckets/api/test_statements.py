"""How many SQL statements a call costs: as many for a thousand as for one."""

from collections.abc import Callable

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

import buckets.selectors.buckets
import keys.selectors
from tests.unit.buckets.lab import Lab, Put
from volumes.services import placement, presign

SIZES = (1, 10, 1000)


@pytest.fixture(autouse=True)
def _remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered for a moment is remembered for the test, however slow the machine."""
    monkeypatch.setattr(keys.selectors, "CACHE_SECONDS", 3600)
    monkeypatch.setattr(buckets.selectors.buckets, "OPEN_BUCKETS_LIVE_S", 3600)
    monkeypatch.setattr(placement, "TABLE_LIVES_S", 3600)
    monkeypatch.setattr(presign, "_PLACES_LIVE_S", 3600)


@pytest.fixture
def crowd(lab: Lab) -> list[str]:
    """A thousand keys and one more, under a thousand prefixes."""
    keys = [f"dir{number:04}/k" for number in range(1001)]
    lab.put_many(*keys)
    return keys


def statements(call: Callable[[], object]) -> int:
    with CaptureQueriesContext(connection) as captured:
        call()
    return len(captured)


def same_for_all_sizes(call: Callable[[int], object], *, most: int) -> None:
    """``call`` with each of `SIZES` costs the same, and no more than ``most`` statements."""
    call(1)  # what the first call of a process finds out
    counts = {size: statements(lambda size=size: call(size)) for size in SIZES}  # type: ignore[misc]
    assert len(set(counts.values())) == 1, counts
    assert counts[1] <= most


@pytest.mark.parametrize("overwrites", [False, True])
def test_confirm(lab: Lab, crowd: list[str], overwrites: bool) -> None:
    batches = {}
    for size in (*SIZES, 2):
        lease = lab.lease(count=size)
        names = crowd if overwrites else [f"new-{size}/{at}" for at in range(size)]
        batches[size] = [Put(lease.url, lease.first + at, size, names[at]) for at in range(size)]
    lab.confirm(*batches[2])
    counts = {size: statements(lambda size=size: lab.confirm(*batches[size])) for size in SIZES}  # type: ignore[misc]
    assert len(set(counts.values())) == 1, counts
    assert counts[1] <= 15


def test_lease(api: APIClient, lab: Lab) -> None:
    def lease(count: int) -> None:
        answer = api.post("/api/v1/buckets/photos/leases", {"count": count, "max_bytes": 100})
        assert answer.status_code == 201

    same_for_all_sizes(lease, most=1)  # the number comes from a block, but inside of a test's transaction


@pytest.mark.parametrize("query", ["", "&delimiter=/", "&order=newest", "&prefix=dir0", "&after=dir0000", "&search=k"])
def test_list(api: APIClient, crowd: list[str], query: str) -> None:
    def page(limit: int) -> None:
        answer = api.get(f"/api/v1/buckets/photos/objects?limit={limit}{query}").json()
        assert len(answer["results"]) + len(answer["prefixes"]) == limit

    same_for_all_sizes(page, most=3)


def test_downloads(api: APIClient, crowd: list[str]) -> None:
    def look_up(count: int) -> None:
        found = api.post("/api/v1/buckets/photos/downloads", {"keys": crowd[:count]}).json()["objects"]
        assert len(found) == count

    same_for_all_sizes(look_up, most=2)


def test_delete(api: APIClient, lab: Lab) -> None:
    names = [f"k{at:04}" for at in range(1 + sum(SIZES))]
    lab.put_many(*names)
    left = iter(names)

    def delete(count: int) -> None:
        keys = [next(left) for _ in range(count)]
        assert api.post("/api/v1/buckets/photos/delete", {"keys": keys}).json() == {"deleted": keys, "missing": []}

    same_for_all_sizes(delete, most=13)
