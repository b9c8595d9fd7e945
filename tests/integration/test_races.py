"""Clients in processes of their own, all at the same keys of one bucket, through both volume servers."""

import random
from functools import partial

import pytest

from tests.integration.test_crashes import leases_of_both_servers
from tests.support.api import Api, Lease, put_headers, send
from tests.support.races import at_once
from tests.support.store import CHUNK_SIZE, Store

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # its threads hold nothing

KEYS = [f"k{number}" for number in range(6)]
ROUNDS = 20


def overwrite(lease: Lease, letter: str) -> int:
    """Objects of one letter each, of many sizes, over and over."""
    for slot in range(ROUNDS * len(KEYS)):
        answer = lease.put(slot, random.choice(KEYS), letter.encode() * (1 + slot))
        assert answer.status == 201, answer
    return 0


def upload(api: Api, bucket: str) -> int:
    for number in range(ROUNDS):
        api.put_chunks(bucket, KEYS[number % len(KEYS)], b"u" * (CHUNK_SIZE + number))
    return 0


def delete(api: Api, bucket: str) -> int:
    """How many were there to be deleted."""
    deleted = 0
    for _ in range(2 * ROUNDS):
        asked = random.sample(KEYS, 3)
        deleted += len(api.post(f"buckets/{bucket}/delete", {"keys": asked}, status=200)["deleted"])
    return deleted


def test_writers_and_deleters_leave_whole_objects_and_right_counts(store: Store, bucket: str) -> None:
    api = store.api()
    one, other = leases_of_both_servers(store, bucket)[:2]
    *_, deleted = at_once(
        partial(overwrite, one, "a"),
        partial(overwrite, other, "b"),
        partial(upload, store.api(), bucket),
        partial(delete, store.api(), bucket),
    )
    assert deleted
    kept = api.list(bucket)
    bodies = [api.read(bucket, key) for key in kept]
    assert all(len(set(body)) == 1 for body in bodies), "an object of two writers"
    counts = api.get(f"buckets/{bucket}")
    assert (counts["object_count"], counts["total_bytes"]) == (len(kept), sum(map(len, bodies)))


@pytest.mark.parametrize(("quota", "size", "fitting"), [({"quota_objects": 5}, 10, 5), ({"quota_bytes": 1000}, 300, 3)])
def test_a_quota_is_met_to_the_last_object_and_byte(
    store: Store, bucket: str, quota: dict[str, int], size: int, fitting: int
) -> None:
    api = store.api()
    assert api.request("PATCH", f"buckets/{bucket}", quota).status == 200

    def fill(lease: Lease, name: str) -> list[int]:
        return [lease.put(slot, f"{name}{slot}", b"x" * size).status for slot in range(fitting)]

    jobs = [partial(fill, lease, name) for name, lease in zip("ab", leases_of_both_servers(store, bucket), strict=True)]
    statuses = sorted(status for told in at_once(*jobs) for status in told)
    assert statuses == [201] * fitting + [507] * fitting
    counts = api.get(f"buckets/{bucket}")
    assert (counts["object_count"], counts["total_bytes"]) == (fitting, fitting * size)
    assert len(api.list(bucket)) == fitting


def test_the_chunk_that_completes_an_upload_is_taken_once(store: Store, bucket: str) -> None:
    """Two URLs for the last chunk, used at the same moment: one completes, the other comes too late."""
    api = store.api()
    body = b"c" * (2 * CHUNK_SIZE)
    for number in range(5):
        made = api.post(f"buckets/{bucket}/uploads", {"key": f"big{number}", "size": len(body)})
        assert send("PUT", made["chunks"][0]["url"], body[:CHUNK_SIZE], put_headers(None)).status == 202
        urls = [api.get(f"uploads/{made['id']}")["missing"][0]["url"] for _ in range(2)]

        def put(url: str) -> int:
            return send("PUT", url, body[CHUNK_SIZE:], put_headers(None)).status

        assert sorted(at_once(*(partial(put, url) for url in urls))) == [201, 409]
        assert api.read(bucket, f"big{number}") == body
    assert api.get(f"buckets/{bucket}")["object_count"] == 5
