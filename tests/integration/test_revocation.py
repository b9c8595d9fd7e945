"""A key that is deleted or weakened: what it still held in its hand is worthless within moments."""

import time

import pytest

from tests.support.api import Api, Lease, send
from tests.support.store import Store
from tests.support.waiting import wait_until

API_SECONDS = 1.0
"""How long after the answer to a deletion the API may still take the key's token."""
HEARTBEATS = 2
"""Within so many a volume server knows of it."""


def leases_on(store: Store, api: Api, bucket: str) -> list[Lease]:
    """One lease on each volume server."""
    found: dict[int, Lease] = {}

    def all_found() -> bool:
        lease = api.lease(bucket, count=64)
        found.setdefault(store.server_of(lease.url).port, lease)
        return len(found) == len(store.servers)

    wait_until(all_found, what="a lease on every server")
    return list(found.values())


def wait_for_heartbeats(api: Api) -> None:
    """Until the master has answered `HEARTBEATS` more of each volume server."""
    heard: dict[str, set[str]] = {}

    def all_heard() -> bool:
        for server in api.get("servers")["results"]:
            heard.setdefault(server["id"], set()).add(server["last_seen_at"])
        return all(len(times) > HEARTBEATS for times in heard.values())

    wait_until(all_heard, what="heartbeats")


@pytest.mark.parametrize("how", ["deleted", "weakened"])
def test_token_lease_and_signed_urls_end_with_the_rights(store: Store, bucket: str, how: str) -> None:
    admin = store.api()
    grant = {"bucket": bucket, "prefix": "", "permissions": 3}
    made = admin.post("keys", {"name": "short-lived", "permissions": 0, "grants": [grant]})
    api = store.api(made["key"])
    leases = leases_on(store, api, bucket)
    for number, lease in enumerate(leases):
        assert lease.put(0, f"k{number}", b"mine").status == 201
    keys = [f"k{number}" for number in range(len(leases))]
    reads = [found["chunks"][0]["urls"][0] for found in api.look_up(bucket, *keys).values()]
    assert {store.server_of(url).port for url in reads} == {part.port for part in store.servers}
    by_admin = [found["chunks"][0]["urls"][0] for found in admin.look_up(bucket, *keys).values()]
    bearer = {"Authorization": f"Bearer {api.access}"}

    def asks() -> int:
        return send("GET", f"{store.url}/api/v1/buckets/{bucket}/objects", headers=bearer).status

    assert asks() == 200
    if how == "deleted":
        assert admin.request("DELETE", f"keys/{made['id']}").status == 204
    else:
        weaker = {"grants": [{**grant, "prefix": "elsewhere/"}]}
        assert admin.request("PATCH", f"keys/{made['id']}", weaker).status == 200
    ended = time.monotonic()

    def refused() -> bool:
        sent = time.monotonic()
        status = asks()
        assert status == 401 or sent - ended < API_SECONDS, f"{status} to what was asked {sent - ended:.2f} s later"
        return status == 401

    wait_until(refused, what="the API's refusal")
    wait_for_heartbeats(admin)
    for url in reads:
        answer = send("GET", url)
        assert (answer.status, answer.code) == (403, "key_revoked")
    for lease in leases:
        answer = lease.put(1, "k-late", b"no more")
        assert (answer.status, answer.code) == (403, "key_revoked")
    assert [send("GET", url).body for url in by_admin] == [b"mine"] * len(keys), "what others were given stays good"
    assert admin.list(bucket) == keys
