"""All objects below a prefix, renamed."""

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from buckets.errors import BucketUnknown, KeyInvalid, ObjectExists, ObjectUnknown, TooManyRows
from buckets.models import Bucket, Chunk, Object, Outbox
from buckets.services.objects import delete_objects
from buckets.services.prefixes import rename_prefix
from keys.errors import Invalid
from tests.unit.buckets.lab import Lab, Put, require_sound
from volumes.models import Store


def fill(lab: Lab, *keys: str) -> dict[str, Put]:
    """Objects whose sizes are their numbers, from 1."""
    lease = lab.lease(count=len(keys))
    puts = [Put(lease.url, lease.first + at, at + 1, key) for at, key in enumerate(keys)]
    lab.confirm(*puts)
    return dict(zip(keys, puts, strict=True))


def keys() -> dict[str, int]:
    return dict(Object.objects.values_list("key", "size"))


@pytest.mark.parametrize(
    ("before", "prefix", "to_prefix", "after"),
    [
        (["a/1", "a/2", "a", "a2", "b/9"], "a/", "c/", ["c/1", "c/2", "a", "a2", "b/9"]),
        # Into itself, and back out: each is renamed once.
        (["a/x", "a/b/x", "a/b/b/x"], "a/", "a/b/", ["a/b/x", "a/b/b/x", "a/b/b/b/x"]),
        (["a/b/x", "a/b/b/x"], "a/b/", "a/", ["a/x", "a/b/x"]),
        (["x", "a/x"], "", "a/", ["a/x", "a/a/x"]),
        (["a/x", "a/a/x"], "a/", "", ["x", "a/x"]),
        (["aa", "a", "aaa"], "a", "aa", ["aaa", "aa", "aaaa"]),
        (["ü/✓", "ü/\U0010ffff", "v"], "ü", "%_\\'", ["%_\\'/✓", "%_\\'/\U0010ffff", "v"]),
        (["\U0010ffffa", "b"], "\U0010ffff", "c", ["ca", "b"]),
    ],
)
def test_each_object_gets_its_key(lab: Lab, before: list[str], prefix: str, to_prefix: str, after: list[str]) -> None:
    puts = fill(lab, *before)
    verdicts = lab.confirm(*puts.values())
    rows = {row.size: row for row in Object.objects.all()}
    done = rename_prefix(bucket="photos", prefix=prefix, to_prefix=to_prefix)
    assert keys() == {key: size for size, key in enumerate(after, start=1)}
    moved = [row for row in Object.objects.all() if row.key != before[row.size - 1]]
    assert done == (len(moved), 0)
    assert len({row.etag for row in Object.objects.all()}) == len(before)
    for row in moved:
        assert (row.pk, row.created_at) == (rows[row.size].pk, rows[row.size].created_at)
        assert row.etag != rows[row.size].etag
        assert row.updated_at > rows[row.size].updated_at
        assert row.sequence == Store.objects.get().sequence
    assert not Outbox.objects.exists()
    # Every needle keeps its first verdict, under its first key.
    assert lab.confirm(*puts.values()) == verdicts
    require_sound(needles=[put.needle for put in puts.values()])
    delete_objects(bucket="photos", keys=after)
    assert not Chunk.objects.exists()
    assert lab.confirm(*puts.values()) == verdicts


def test_keys_that_are_taken(lab: Lab) -> None:
    puts = fill(lab, "a/1", "a/2", "b/1", "b/3")
    with pytest.raises(ObjectExists) as refused:
        rename_prefix(bucket="photos", prefix="a/", to_prefix="b/")
    assert refused.value.extra["keys"] == ["b/1"]
    assert keys() == {"a/1": 1, "a/2": 2, "b/1": 3, "b/3": 4}
    assert rename_prefix(bucket="photos", prefix="a/", to_prefix="b/", overwrite=True) == (2, 1)
    assert keys() == {"b/1": 1, "b/2": 2, "b/3": 4}
    dead = Outbox.objects.get()
    assert (dead.needle, dead.reason) == (puts["b/1"].needle, "overwritten")
    require_sound(needles=[put.needle for put in puts.values()])


def test_what_cannot_be_renamed_leaves_all_as_it_is(lab: Lab, settings: Any) -> None:
    fill(lab, "a/1", "a/" + "x" * 1000, "a/", "b")
    before = keys(), Store.objects.get().sequence
    for error, fields in (
        (ObjectUnknown, {"prefix": "none/"}),
        (Invalid, {"to_prefix": "a/"}),
        (KeyInvalid, {"to_prefix": "y" * 25}),
        (KeyInvalid, {"to_prefix": ""}),
        (KeyInvalid, {"to_prefix": "\0"}),
        (KeyInvalid, {"prefix": "\ud800"}),
        (KeyInvalid, {"prefix": "x" * 1025}),
        (BucketUnknown, {"bucket": "none"}),
    ):
        given: dict[str, Any] = {"bucket": "photos", "prefix": "a/", "to_prefix": "c/", **fields}
        with pytest.raises(error):
            rename_prefix(**given)
        assert (keys(), Store.objects.get().sequence) == before
    settings.WAREHOUSE_COMMIT_ROWS = 2
    with pytest.raises(TooManyRows) as refused:
        rename_prefix(bucket="photos", prefix="a/", to_prefix="c/")
    assert refused.value.extra == {"limit": 2}
    assert "more than 2 objects" in refused.value.detail
    assert (keys(), Store.objects.get().sequence) == before
    require_sound()


def test_a_refusal_counts_no_more_than_one_too_many(lab: Lab, settings: Any) -> None:
    fill(lab, *(f"a/{at}" for at in range(9)))
    settings.WAREHOUSE_COMMIT_ROWS = 2
    with CaptureQueriesContext(connection) as queries, pytest.raises(TooManyRows):
        rename_prefix(bucket="photos", prefix="a/", to_prefix="c/")
    [counting] = [query["sql"] for query in queries if "COUNT(" in query["sql"]]
    assert "LIMIT 3" in counting
    settings.WAREHOUSE_COMMIT_ROWS = 9
    assert rename_prefix(bucket="photos", prefix="a/", to_prefix="c/").renamed == 9


def test_what_a_rename_overwrites_has_a_bound(lab: Lab, settings: Any) -> None:
    settings.WAREHOUSE_CHUNK_SIZE = 10
    lab.put_many("a/1", "a/2")
    lab.put_chunks("b/1", size=30)
    lab.put_chunks("b/2", size=20)
    before = keys(), Store.objects.get().sequence
    settings.WAREHOUSE_COMMIT_ROWS = 4
    with pytest.raises(TooManyRows) as refused:
        rename_prefix(bucket="photos", prefix="a/", to_prefix="b/", overwrite=True)
    assert refused.value.extra == {"count": 5, "limit": 4}
    assert (keys(), Store.objects.get().sequence) == before
    settings.WAREHOUSE_COMMIT_ROWS = 5
    assert rename_prefix(bucket="photos", prefix="a/", to_prefix="b/", overwrite=True) == (2, 2)
    require_sound()


def test_a_full_bucket_can_be_renamed(lab: Lab) -> None:
    fill(lab, "a/1", "a/2")
    Bucket.objects.update(quota_bytes=0, quota_objects=0)
    assert rename_prefix(bucket="photos", prefix="a/", to_prefix="a/b/").renamed == 2
    require_sound()


def test_statements_do_not_grow_with_the_objects(lab: Lab) -> None:
    counts = []
    for name, count in (("a/", 2), ("b/", 500)):
        fill(lab, *(f"{name}{at}" for at in range(count)))
        with CaptureQueriesContext(connection) as queries:
            rename_prefix(bucket="photos", prefix=name, to_prefix=f"{name}in/")
        counts.append(len(queries))
    assert counts[0] == counts[1]
