"""Needles that nothing names any more become tombstones, by a real worker over both brokers."""

from urllib.parse import urlsplit

from tests.support.api import send
from tests.support.store import CHUNK_SIZE, Store
from tests.support.waiting import wait_until


def let_all_urls_expire(store: Store) -> None:
    """As if the quarter of an hour were over for which dead needles are still read."""
    store.run_python(
        "from django.utils import timezone; from buckets.models import Outbox; "
        "Outbox.objects.update(not_before=timezone.now())",
    )


def test_overwritten_and_deleted_needles_are_tombstoned_and_the_living_stay(store: Store, bucket: str) -> None:
    api = store.api()

    def direct_urls(key: str) -> list[str]:
        """URLs that outlive the product's own, so that only a tombstone can end them."""
        urls = [urlsplit(chunk["urls"][0]) for chunk in api.look_up(bucket, key)[key]["chunks"]]
        return [
            store.signed_get(
                store.server_of(url.geturl()), volume=int(url.path.split("/")[1]), needle=int(url.path[-16:], 16)
            )
            for url in urls
        ]

    api.put(bucket, "overwritten", b"old")
    api.put_chunks(bucket, "deleted", b"d" * (3 * CHUNK_SIZE))
    api.put(bucket, "kept", b"kept")
    api.put(bucket, "copied", b"copied")
    api.post(f"buckets/{bucket}/copy", {"copies": [{"from": "copied", "to": "copy"}]}, status=200)
    dead = direct_urls("overwritten") + direct_urls("deleted")
    alive = direct_urls("kept") + direct_urls("copied")
    assert len(dead) == 4
    assert {send("GET", url).status for url in dead + alive} == {200}

    api.put(bucket, "overwritten", b"new")
    api.post(f"buckets/{bucket}/delete", {"keys": ["deleted", "copied"]}, status=200)
    alive += direct_urls("overwritten")
    assert {send("GET", url).status for url in dead} == {200}, "a URL that was handed out may still be read"
    let_all_urls_expire(store)
    wait_until(lambda: {send("GET", url).status for url in dead} == {404}, what="the tombstones")
    assert {send("GET", url).code for url in dead} <= {"needle_deleted", "needle_unknown"}
    assert {send("GET", url).status for url in alive} == {200}
    assert api.read(bucket, "overwritten") == b"new"
    assert api.read(bucket, "kept") == b"kept"
    assert api.read(bucket, "copy") == b"copied"


def test_needle_is_readable_until_its_last_url_has_expired(store: Store, bucket: str) -> None:
    """With the product's own 15 minutes, an overwrite leaves URLs already handed out as they were."""
    api = store.api()
    api.put(bucket, "k", b"old")
    url = api.look_up(bucket, "k")["k"]["chunks"][0]["urls"][0]
    api.put(bucket, "k", b"new")
    store.run_python("from buckets.tasks import collect_outbox as c; c()")
    assert send("GET", url).body == b"old"
    assert api.read(bucket, "k") == b"new"
