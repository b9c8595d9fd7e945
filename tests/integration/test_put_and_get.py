"""The ways through the house on real processes: small and large puts, reads, overwrite, delete."""

import os
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, urlsplit

import pytest

from tests.support.api import read_chunk, send
from tests.support.store import CHUNK_SIZE, Store
from tests.support.waiting import wait_until


def test_small_object_comes_back_as_it_went(store: Store, bucket: str) -> None:
    api = store.api()
    body = os.urandom(1000)
    answer = api.lease(bucket, count=4).put(
        2, "a/b c", body, Content_Type="text/x-thing", Warehouse_Meta_colour=quote("blåu")
    )
    assert answer.status == 201, answer
    made = answer.json
    assert made["state"] == "committed"
    assert (made["bucket"], made["key"], made["size"]) == (bucket, "a/b c", 1000)
    assert made["crc32"] == zlib.crc32(body)

    found = api.look_up(bucket, "a/b c")["a/b c"]
    assert found["etag"] == made["etag"]
    assert found["content_type"] == "text/x-thing"
    assert found["metadata"] == {"colour": "blåu"}
    read = send("GET", found["chunks"][0]["urls"][0])
    assert (read.status, read.body) == (200, body)
    assert read.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in read.headers["content-security-policy"]
    assert read.headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize(
    "key", ["plain", "a/b/c", "ключ/键/🗝", "100%", "a?b#c&d", "a//b", "/lead", "trail/", "x" * 1024, "+ +", "\\", "\t"]
)
def test_any_key_is_stored_listed_found_and_deleted(store: Store, bucket: str, key: str) -> None:
    api = store.api()
    api.put(bucket, key, key.encode())
    assert api.list(bucket) == [key]
    assert api.read(bucket, key) == key.encode()
    meta = api.get(f"buckets/{bucket}/objects/{quote(key, safe='')}")
    assert (meta["key"], meta["size"]) == (key, len(key.encode()))
    assert api.post(f"buckets/{bucket}/delete", {"keys": [key]}, status=200) == {"deleted": [key], "missing": []}
    assert api.list(bucket) == []


def test_three_chunks_lie_on_both_servers_and_make_one_object(store: Store, bucket: str) -> None:
    api = store.api()
    body = os.urandom(3 * CHUNK_SIZE - 17)
    made = api.put_chunks(bucket, "large", body, content_type="video/x-none", metadata={"a": "b"})
    assert (made["state"], made["size"]) == ("committed", len(body))

    found = api.look_up(bucket, "large")["large"]
    assert [chunk["size"] for chunk in found["chunks"]] == [CHUNK_SIZE, CHUNK_SIZE, CHUNK_SIZE - 17]
    assert {urlsplit(chunk["urls"][0]).port for chunk in found["chunks"]} == {part.port for part in store.servers}
    assert found["content_type"] == "video/x-none"
    assert found["metadata"] == {"a": "b"}
    assert api.read(bucket, "large") == body


def test_object_appears_with_its_last_chunk_and_not_before(store: Store, bucket: str) -> None:
    api = store.api()
    body = os.urandom(2 * CHUNK_SIZE)
    upload = api.post(f"buckets/{bucket}/uploads", {"key": "late", "size": len(body)})
    second, first = upload["chunks"][1], upload["chunks"][0]
    answer = send("PUT", second["url"], body[CHUNK_SIZE:])
    assert answer.status == 202, answer
    assert answer.json["state"] == "stored"
    assert api.list(bucket) == []
    resumed = api.get(f"uploads/{upload['id']}")
    assert [chunk["index"] for chunk in resumed["missing"]] == [0]
    assert resumed["missing"][0]["offset"] == first["offset"]
    answer = send("PUT", resumed["missing"][0]["url"], body[:CHUNK_SIZE])
    assert answer.status == 201, answer
    assert api.read(bucket, "late") == body


def test_empty_object_by_lease_and_by_upload(store: Store, bucket: str) -> None:
    api = store.api()
    api.put(bucket, "leased", b"")
    api.put_chunks(bucket, "uploaded", b"")
    assert [api.read(bucket, key) for key in ("leased", "uploaded")] == [b"", b""]


def test_content_leads_to_the_bytes_of_one_chunk_and_streams_several(store: Store, bucket: str) -> None:
    api = store.api()
    large = os.urandom(2 * CHUNK_SIZE + 5)
    api.put(bucket, "small", b"hello")
    api.put_chunks(bucket, "large", large)
    redirect = api.request("GET", f"buckets/{bucket}/content/small")
    assert redirect.status == 307, redirect
    assert send("GET", redirect.headers["location"]).body == b"hello"
    streamed = api.request("GET", f"buckets/{bucket}/content/large")
    assert (streamed.status, streamed.body) == (200, large)


def test_ranges_of_a_needle(store: Store, bucket: str) -> None:
    api = store.api()
    body = bytes(range(256)) * 8
    api.put(bucket, "k", body)
    url = api.look_up(bucket, "k")["k"]["chunks"][0]["urls"][0]
    for asked, expected in (("bytes=0-0", body[:1]), ("bytes=100-199", body[100:200]), ("bytes=-5", body[-5:]),
                            ("bytes=2000-", body[2000:]), ("bytes=2040-9999", body[2040:])):  # fmt: skip
        answer = send("GET", url, headers={"Range": asked})
        assert (answer.status, answer.body) == (206, expected), asked
    assert send("GET", url, headers={"Range": f"bytes={len(body)}-"}).status == 416
    head = send("HEAD", url)
    assert (head.status, head.headers["content-length"], head.body) == (200, str(len(body)), b"")


def test_repeated_put_of_a_needle_gets_the_same_answer_and_other_bytes_get_none(store: Store, bucket: str) -> None:
    api = store.api()
    lease = api.lease(bucket, count=8)
    first = lease.put(0, "k", b"one")
    assert first.status == 201
    again = lease.put(0, "k", b"one")
    assert (again.status, again.json) == (201, first.json)
    for key, body in (("k", b"two"), ("other", b"one")):
        refused = lease.put(0, key, body)
        assert (refused.status, refused.code) == (409, "needle_taken")
    assert api.list(bucket) == ["k"]
    assert api.read(bucket, "k") == b"one"


def test_replayed_put_never_rolls_an_object_back(store: Store, bucket: str) -> None:
    api = store.api()
    lease = api.lease(bucket, count=8)
    assert lease.put(0, "k", b"old").status == 201
    assert lease.put(1, "k", b"new").status == 201
    assert lease.put(0, "k", b"old").status == 201, "an old verdict, told again"
    assert api.read(bucket, "k") == b"new"


def test_readers_see_a_whole_old_or_a_whole_new_version_while_it_is_overwritten(store: Store, bucket: str) -> None:
    api = store.api()
    size = 3 * CHUNK_SIZE
    api.put_chunks(bucket, "k", bytes([0]) * size)
    stop = threading.Event()

    def read_until_stopped() -> list[int]:
        reader, seen = store.api(), []
        while not stop.is_set():
            chunks = reader.look_up(bucket, "k")["k"]["chunks"]
            versions = {byte for chunk in chunks for byte in set(read_chunk(chunk))}
            assert len(versions) == 1, f"a mix of versions {versions}"
            seen.append(versions.pop())
        return seen

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read_until_stopped) for _ in range(4)]
        try:
            for version in range(1, 31):
                api.put_chunks(bucket, "k", bytes([version]) * size)
        finally:
            stop.set()
        seen = [reader.result() for reader in readers]
    assert all(versions == sorted(versions) for versions in seen), "a reader went back in time"
    assert api.read(bucket, "k") == bytes([30]) * size


def test_a_lease_with_a_prefix_writes_below_it_only(store: Store, bucket: str) -> None:
    api = store.api()
    lease = api.lease(bucket, count=2, prefix="logs/")
    refused = lease.put(0, "logs2", b"x")
    assert (refused.status, refused.code) == (403, "key_outside_lease")
    assert lease.put(0, "logs/1", b"x").status == 201
    assert api.list(bucket) == ["logs/1"]


def test_preconditions_are_judged_at_the_commit(store: Store, bucket: str) -> None:
    api = store.api()
    lease = api.lease(bucket, count=16)
    made = lease.put(0, "k", b"1", If_None_Match="*")
    assert made.status == 201
    taken = lease.put(1, "k", b"2", If_None_Match="*")
    assert (taken.status, taken.code) == (412, "precondition_failed")
    stale = lease.put(2, "k", b"2", If_Match='"nonsense"')
    assert (stale.status, stale.code) == (412, "precondition_failed")
    assert lease.put(3, "k", b"3", If_Match=f'"{made.json["etag"]}"').status == 201
    assert api.read(bucket, "k") == b"3"
    # A verdict stands: the refused needle is dead and says so again.
    assert lease.put(1, "k", b"2", If_None_Match="*").status in {409, 412}
    assert api.read(bucket, "k") == b"3"


def test_many_writers_lose_nothing_and_the_counts_are_right(store: Store, new_bucket: Callable[..., str]) -> None:
    name = new_bucket()
    api = store.api()
    lease = api.lease(name, count=400, max_bytes=256)

    def put(slot: int) -> None:
        answer = lease.put(slot, f"{slot % 300:04}", f"{slot}".encode())
        assert answer.status == 201, answer

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, range(400)))
    assert api.list(name) == [f"{number:04}" for number in range(300)]
    found = api.look_up(name, *api.list(name))
    kept = api.get(f"buckets/{name}")
    assert kept["object_count"] == 300
    assert kept["total_bytes"] == sum(one["size"] for one in found.values())


def test_request_id_goes_through_all_parts(store: Store, bucket: str) -> None:
    api = store.api()
    assert api.request("GET", "buckets", X_Request_Id="asked-for-1").headers["x-request-id"] == "asked-for-1"
    answer = api.lease(bucket).put(0, "k", b"x", X_Request_Id="asked-for-2")
    assert answer.headers["x-request-id"] == "asked-for-2"
    made_up = api.lease(bucket).put(0, "k", b"x", X_Request_Id="not one!").headers["x-request-id"]
    assert made_up not in {"not one!", ""}
    assert api.request("GET", "nowhere", X_Request_Id="asked-for-3").status == 404
    wait_until(lambda: '"request_id": "asked-for-3"' in store.log.read_text(), what="the master's line in the log")
