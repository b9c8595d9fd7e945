"""Listings, against a plain list of keys."""

from typing import Any

import pytest
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase
from pytest_django import DjangoAssertNumQueries

from buckets.errors import BucketUnknown, ObjectUnknown
from buckets.models import Bucket, Chunk, Object, Proof, Upload
from buckets.selectors import listing
from buckets.selectors.buckets import Counts, list_buckets, wrong_counts
from buckets.selectors.listing import Page, list_newest, list_objects
from buckets.selectors.objects import Below, count_below, find_owners, get_object
from buckets.selectors.upkeep import check_in_hand, last_check
from keys.errors import Invalid
from tests.unit.volumes.factories import make_server, make_volume
from volumes.owners import Owner, owner_text, owners_of


def make_objects(*keys: str, bucket: Bucket | None = None) -> Bucket:
    bucket = bucket or Bucket.objects.create(name="b")
    now = timezone.now()
    Object.objects.bulk_create(
        [
            Object(
                bucket=bucket, key=key, size=1, etag="e", content_type="a/b", created_at=now, updated_at=now, sequence=1
            )
            for key in keys
        ]
    )
    return bucket


def keys_of(page: Page) -> list[str]:
    return [row.key for row in page.objects]


def all_pages(bucket: Bucket, *, limit: int, within: Any = None, **query: Any) -> tuple[list[str], list[str]]:
    """Keys and prefixes of all pages, each page checked for its size."""
    keys: list[str] = []
    prefixes: list[str] = []
    after = ""
    while True:
        page = list_objects(bucket_id=bucket.pk, within=within, after=after, limit=limit, **query)
        assert len(page.objects) + len(page.prefixes) <= limit
        keys += keys_of(page)
        prefixes += page.prefixes
        if page.next_after is None:
            return keys, prefixes
        assert len(page.objects) + len(page.prefixes) == limit
        assert page.next_after > after
        after = page.next_after


def expected(keys: set[str], *, prefix: str, delimiter: str, within: Any) -> tuple[list[str], list[str]]:
    plain, prefixes = [], set()
    for key in sorted(keys, key=str.encode):
        if not key.startswith(prefix) or (within is not None and not any(key.startswith(one) for one in within)):
            continue
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        if at < 0:
            plain.append(key)
        else:
            prefixes.add(key[: at + len(delimiter)])
    return plain, sorted(prefixes, key=str.encode)


LETTERS = st.text(alphabet="a/bZ\x01\x7fé\ud7ff\ue000\uffff\U00010000\U0010fffe", max_size=6)
KEYS = st.sets(LETTERS.filter(bool), max_size=25)


class ListingTests(TestCase):
    @settings(max_examples=150)
    @given(
        keys=KEYS,
        prefix=LETTERS.map(lambda text: text[:2]),
        delimiter=st.sampled_from(["", "/", "a", "//", "/a", "\ud7ff", "\U0010fffe"]),
        limit=st.integers(1, 6),
        within=st.none() | st.lists(LETTERS.map(lambda text: text[:3]), max_size=3),
    )
    def test_pages_are_what_a_sorted_list_says(
        self, keys: set[str], prefix: str, delimiter: str, limit: int, within: list[str] | None
    ) -> None:
        bucket = make_objects(*keys)
        if within is not None:  # as `KeyRights.prefixes` gives them: none inside another
            within = [one for one in set(within) if not any(one != other and one.startswith(other) for other in within)]
        found = all_pages(bucket, limit=limit, within=within, prefix=prefix, delimiter=delimiter)
        assert found == expected(keys, prefix=prefix, delimiter=delimiter, within=within)


@pytest.mark.django_db
def test_keys_come_in_byte_order() -> None:
    bucket = make_objects("b", "a", "B", "é", "z", "a/b", "a-b", "_", "\uffff", "\U00010000")
    assert all_pages(bucket, limit=3)[0] == ["B", "_", "a", "a-b", "a/b", "b", "z", "é", "\uffff", "\U00010000"]


@pytest.mark.django_db
@pytest.mark.parametrize("delimiter", ["", "/"])
def test_a_page_costs_what_it_returns(delimiter: str, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    bucket = make_objects(*[f"{group:02}/{at:02}" for group in range(20) for at in range(20)], "plain")
    for limit in (5, 15):
        with django_assert_num_queries(1 if delimiter else 2):
            page = list_objects(bucket_id=bucket.pk, within=None, delimiter=delimiter, limit=limit)
        assert len(page.objects) + len(page.prefixes) == limit


@pytest.mark.django_db
def test_another_bucket_is_not_listed() -> None:
    one, other = make_objects("a/1"), Bucket.objects.create(name="c")
    make_objects("a/2", bucket=other)
    assert all_pages(one, limit=5, delimiter="/") == ([], ["a/"])
    assert all_pages(other, limit=5) == (["a/2"], [])


@pytest.mark.django_db
def test_after_may_be_any_text() -> None:
    bucket = make_objects("a/1", "a/2", "b")
    page = list_objects(bucket_id=bucket.pk, within=None, delimiter="/", after="a/1")
    assert (page.prefixes, keys_of(page)) == (["a/"], ["b"])
    assert keys_of(list_objects(bucket_id=bucket.pk, within=None, after="a/1")) == ["a/2", "b"]
    assert keys_of(list_objects(bucket_id=bucket.pk, within=None, prefix="a/", after="zzz")) == []


@pytest.mark.django_db
def test_newest_first() -> None:
    bucket = make_objects("a/1", "a/2", "b/1", "b/2", "c")
    for sequence, key in enumerate(["c", "b/1", "a/1"], start=2):
        Object.objects.filter(key=key).update(sequence=sequence)
    found: list[str] = []
    after = ""
    while True:
        page = list_newest(bucket_id=bucket.pk, within=None, after=after, limit=2)
        found += keys_of(page)
        if page.next_after is None:
            break
        after = page.next_after
    assert found == ["a/1", "b/1", "c", "b/2", "a/2"]
    assert keys_of(list_newest(bucket_id=bucket.pk, within=["b/"], limit=5)) == ["b/1", "b/2"]
    assert keys_of(list_newest(bucket_id=bucket.pk, within=["b/"], prefix="b/2", limit=5)) == ["b/2"]
    assert keys_of(list_newest(bucket_id=bucket.pk, within=(), limit=5)) == []
    for nonsense in ("x", "1", "1.", ".1", "-1.2", "1.2.3", "٣.1", "9" * 60):
        with pytest.raises(Invalid):
            list_newest(bucket_id=bucket.pk, within=None, after=nonsense)


@pytest.mark.django_db
def test_looking_for_what_is_not_there() -> None:
    make_objects("a")
    assert get_object(bucket="b", key="a").key == "a"
    with pytest.raises(ObjectUnknown):
        get_object(bucket="b", key="A")
    with pytest.raises(BucketUnknown):
        get_object(bucket="B", key="a")


@pytest.mark.django_db
def test_counts_that_are_wrong_are_told(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    bucket, empty = make_objects("a", "b"), Bucket.objects.create(name="empty")
    for number, state in enumerate((Upload.State.OPEN, Upload.State.COMPLETED)):
        Upload.objects.create(
            bucket=bucket, key=f"u{number}", size=5, chunk_size=5, chunk_count=1, content_type="a/b", state=state,
            api_key=1, generation=1, expires_at=timezone.now(), reserved_objects=1, reserved_bytes=5,
        )  # fmt: skip
    Bucket.objects.filter(pk=bucket.pk).update(object_count=2, total_bytes=2, reserved_objects=1, reserved_bytes=5)
    with django_assert_num_queries(2):
        assert wrong_counts() == []
    right = Counts(2, 2, 1, 5)
    for name, value in (("object_count", 3), ("total_bytes", 1), ("reserved_objects", 0), ("reserved_bytes", 0)):
        before = getattr(Bucket.objects.get(pk=bucket.pk), name)
        Bucket.objects.filter(pk=bucket.pk).update(**{name: value})
        [wrong] = wrong_counts()
        assert (wrong.bucket, wrong.found) == ("b", right)
        assert wrong.kept != right
        Bucket.objects.filter(pk=bucket.pk).update(**{name: before})
    Bucket.objects.filter(pk=empty.pk).update(object_count=1)
    assert [wrong.bucket for wrong in wrong_counts()] == ["empty"]
    assert wrong_counts([bucket.pk]) == wrong_counts([]) == []


@pytest.mark.django_db
class TestOwners:
    """Whose a needle is, as an operator is told of damage."""

    @pytest.fixture
    def bucket(self) -> Bucket:
        bucket = make_objects("a", "b")
        a, b = Object.objects.order_by("key")
        now = timezone.now()
        upload = Upload.objects.create(
            bucket=bucket, key="c", size=1, chunk_size=1, chunk_count=1, content_type="a/b", api_key=1, generation=1,
            expires_at=now,
        )  # fmt: skip
        volume = make_volume(make_server())
        common = {"volume": volume, "size": 1, "crc32": 0, "committed_at": now}
        Chunk.objects.bulk_create(
            [
                Chunk(object=a, index=0, needle=11, **common),
                Chunk(object=a, index=1, needle=12, **common),
                Chunk(object=b, index=0, needle=12, **common),
                Chunk(upload=upload, index=3, needle=13, verdict={}, **common),
            ]
        )
        return bucket

    def test_objects_uploads_and_shared_needles(self, bucket: Bucket) -> None:
        assert owners_of({11, 12, 13, 14}) == {
            11: [Owner("b", "a", 0)],
            12: [Owner("b", "a", 1), Owner("b", "b", 0)],
            13: [Owner("b", "c", 3, is_upload=True)],
            14: [],
        }
        assert owner_text(owners_of({12})[12]) == (
            "object 'a' in bucket 'b', chunk 1; object 'b' in bucket 'b', chunk 0"
        )
        assert owner_text(owners_of({13})[13]) == "open upload of 'c' in bucket 'b', chunk 3"
        assert owner_text([]) == "no object names it"

    def test_needles_that_no_column_can_hold(self, bucket: Bucket) -> None:
        assert find_owners({11, (1 << 64) - 1}) == {11: [Owner("b", "a", 0)]}

    def test_two_queries_per_500(self, bucket: Bucket, django_assert_num_queries: DjangoAssertNumQueries) -> None:
        with django_assert_num_queries(4):
            assert set(find_owners(range(1, 1001))) == {11, 12, 13}
        with django_assert_num_queries(0):
            assert find_owners(()) == {}


def test_a_thousand_prefixes_are_no_more_than_a_database_takes(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = make_objects(*(f"{number:04}/x" for number in range(0, 1200, 100)))
    within = [f"{number:04}/" for number in range(0, 2000, 2)]
    for looked_at in (listing.MAX_LOOKED_AT, 5):
        monkeypatch.setattr(listing, "MAX_LOOKED_AT", looked_at)
        found: list[str] = []
        after = ""
        while True:
            page = list_newest(bucket_id=bucket.pk, within=within, after=after, limit=3)
            assert len(page.objects) <= 3
            found += keys_of(page)
            if page.next_after is None:
                break
            after = page.next_after
        assert sorted(found) == [f"{number:04}/x" for number in range(0, 1200, 100)]


@pytest.mark.django_db
def test_the_last_check_is_of_the_whole_store_and_has_ended(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    now = timezone.now()
    assert last_check() is None
    assert check_in_hand() == ""
    _, wanted = (Proof.objects.create(state="done", started_at=now, ended_at=now, missing=lost) for lost in (2, 1))
    Proof.objects.create(state="done", started_at=now, ended_at=now, volume=3)
    Proof.objects.create(state="asked")
    assert check_in_hand() == "asked for"
    Proof.objects.create(state="running", started_at=now)
    with django_assert_num_queries(2):
        found = last_check()
        assert found is not None
        assert (found.pk, found.counts["missing"]) == (wanted.pk, 1)
        assert check_in_hand() == "under way"


@pytest.mark.django_db
def test_what_lies_below_prefixes_is_counted_as_far_as_a_limit(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    bucket = make_objects("a/1", "a/2", "a/3", "ab", "b")
    with django_assert_num_queries(2):
        assert count_below(bucket_id=bucket.pk, prefixes=["a/"], limit=3) == Below(3, is_all=True)
        assert count_below(bucket_id=bucket.pk, prefixes=["a/", "b", "ab"], limit=2) == Below(2, is_all=False)
    assert count_below(bucket_id=bucket.pk, prefixes=["a/", "b"], limit=3) == Below(3, is_all=False)
    assert count_below(bucket_id=bucket.pk, prefixes=["", "x"], limit=9) == Below(5, is_all=True)
    assert count_below(bucket_id=bucket.pk, prefixes=[], limit=9) == Below(0, is_all=True)


@pytest.mark.django_db
def test_buckets_are_found_by_a_part_of_their_names() -> None:
    for name in ("a_b", "axb", "b%"):
        Bucket.objects.create(name=name)
    found = {text: [bucket.name for bucket in list_buckets(search=text)] for text in ("_", "b", "%", "z")}
    assert found == {"_": ["a_b"], "b": ["a_b", "axb", "b%"], "%": ["b%"], "z": []}
    assert [bucket.name for bucket in list_buckets(names=["axb"], search="b", after="a_b")] == ["axb"]
