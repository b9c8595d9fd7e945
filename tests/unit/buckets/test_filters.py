"""Searches and filters, against plain Python over all objects."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase
from pytest_django import DjangoAssertNumQueries

from buckets.filters import Filters
from buckets.models import Bucket, Object
from buckets.selectors import listing
from buckets.selectors.listing import Listed, Page, list_newest, search_objects

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def make_objects(*rows: dict[str, Any]) -> Bucket:
    """In the order in which they were committed, some of one commit."""
    bucket, other = Bucket.objects.create(name="b"), Bucket.objects.create(name="c")
    Object.objects.bulk_create(
        [
            Object(
                bucket=at,
                etag="e",
                created_at=EPOCH,
                sequence=1 + number // 2,
                **{"size": 1, "content_type": "a/b", "updated_at": EPOCH, **row},
            )
            for at in (bucket, other)
            for number, row in enumerate(rows)
        ]
    )
    return bucket


def all_pages(ask: Callable[..., Page], *, limit: int) -> list[Listed]:
    """All that pages give, short and empty ones on the way."""
    found: list[Listed] = []
    after = ""
    while True:
        page = ask(after=after, limit=limit)
        assert len(page.objects) <= limit
        found += page.objects
        if page.next_after is None:
            return found
        assert page.next_after != after
        after = page.next_after


def found_by(bucket: Bucket, **fields: Any) -> set[str]:
    """The keys that both orders give."""
    ways: tuple[Callable[..., Page], ...] = (search_objects, list_newest)
    by_key, newest = (
        {row.key for row in way(bucket_id=bucket.pk, within=None, filters=Filters(**fields)).objects} for way in ways
    )
    assert by_key == newest
    return by_key


def lower(text: str) -> str:
    return text.encode().lower().decode()


def matches(row: Object, filters: Filters) -> bool:
    main, _, sub = filters.content_type.partition("/")
    return (
        lower(filters.search) in lower(row.key)
        and (filters.min_size is None or row.size >= filters.min_size)
        and (filters.max_size is None or row.size <= filters.max_size)
        and (
            not main or (row.content_type.startswith(f"{main}/") if sub == "*" else row.content_type == f"{main}/{sub}")
        )
        and (filters.updated_after is None or row.updated_at > filters.updated_after)
        and (filters.updated_before is None or row.updated_at < filters.updated_before)
        and all(row.metadata.get(name) == value for name, value in filters.metadata)
    )


TEXT = st.text(alphabet="aAbB/%_\\éÉ*'\"", min_size=1, max_size=5)
TIMES = st.integers(0, 4).map(lambda number: EPOCH + timedelta(microseconds=number * 500_000))
TYPES = st.sampled_from(["image/png", "image/jpeg", "Image/png", "text/html", "text/html; charset=utf-8"])
PAIRS = st.dictionaries(st.sampled_from(["0", "a-b", "contains"]), st.sampled_from(["", "x", "X", '"', "%", "é"]))
ROWS = st.lists(
    st.fixed_dictionaries(
        {"key": TEXT, "size": st.integers(0, 3), "content_type": TYPES, "updated_at": TIMES, "metadata": PAIRS}
    ),
    max_size=15,
    unique_by=lambda row: row["key"],
)
WHICH = st.builds(
    Filters,
    search=st.just("") | TEXT.map(lambda text: text[:2]),
    min_size=st.none() | st.integers(0, 3),
    max_size=st.none() | st.integers(0, 3),
    content_type=st.just("") | TYPES | st.just("image/*"),
    updated_after=st.none() | TIMES,
    updated_before=st.none() | TIMES,
    metadata=PAIRS.map(lambda pairs: tuple(list(pairs.items())[:1])),
)


class FilterTests(TestCase):
    @settings(max_examples=120)
    @given(
        rows=ROWS,
        filters=WHICH,
        prefix=st.just("") | TEXT.map(lambda text: text[:1]),
        within=st.none() | st.lists(TEXT.map(lambda text: text[:2]), max_size=3),
        limit=st.integers(1, 4),
        looked_at=st.integers(1, 20),
    )
    def test_pages_are_what_a_filtered_list_says(
        self,
        rows: list[dict[str, Any]],
        filters: Filters,
        prefix: str,
        within: list[str] | None,
        limit: int,
        looked_at: int,
    ) -> None:
        bucket = make_objects(*rows)
        if within is not None:  # as `KeyRights.prefixes` gives them: none inside another
            within = [one for one in set(within) if not any(one != other and one.startswith(other) for other in within)]
        wanted = [
            row
            for row in Object.objects.filter(bucket=bucket)
            if row.key.startswith(prefix)
            and (within is None or row.key.startswith(tuple(within)))
            and matches(row, filters)
        ]

        def ask(way: Callable[..., Page]) -> list[str]:
            def page(**where: Any) -> Page:
                return way(bucket_id=bucket.pk, within=within, filters=filters, prefix=prefix, **where)

            return [row.key for row in all_pages(page, limit=limit)]

        with mock.patch.object(listing, "MAX_LOOKED_AT", looked_at):
            newest = sorted(wanted, key=lambda row: (-row.sequence, -row.pk))
            assert ask(list_newest) == [row.key for row in newest]
            assert ask(search_objects) == sorted((row.key for row in wanted), key=str.encode)


@pytest.mark.django_db
def test_what_is_searched_for_is_plain_text() -> None:
    bucket = make_objects(
        *({"key": key} for key in ("100%", "1000", "a_b", "aXb", "back\\slash", "ÄPFEL", "Zebra", "*"))
    )
    assert found_by(bucket, search="0%") == {"100%"}
    assert found_by(bucket, search="a_b") == {"a_b"}
    assert found_by(bucket, search="\\") == {"back\\slash"}
    assert found_by(bucket, search="*") == {"*"}
    # The case of ASCII letters alone does not matter, on any database.
    assert found_by(bucket, search="zEBRA") == {"Zebra"}
    assert found_by(bucket, search="Äpfel") == {"ÄPFEL"}
    assert found_by(bucket, search="äpfel") == set()


@pytest.mark.django_db
def test_metadata_is_compared_whole() -> None:
    bucket = make_objects(
        {"key": "a", "metadata": {"0": "x", "colour": "blue"}},
        {"key": "b", "metadata": {"0": "xx", "colour": "Blue"}},
        {"key": "c", "metadata": {"colour": 'li"lac é'}},
        {"key": "d"},
    )
    assert found_by(bucket, metadata=(("0", "x"),)) == {"a"}
    assert found_by(bucket, metadata=(("colour", "blue"), ("0", "x"))) == {"a"}
    assert found_by(bucket, metadata=(("colour", 'li"lac é'),)) == {"c"}
    assert found_by(bucket, metadata=(("colour", ""),)) == set()


@pytest.mark.django_db
def test_a_page_looks_at_so_many_rows_and_no_more(
    monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    """What is rare is found by going on; each page costs the same few statements, wherever it begins."""
    monkeypatch.setattr(listing, "MAX_LOOKED_AT", 10)
    bucket = make_objects(*({"key": f"{at:02}", "size": at} for at in range(35)))
    filters = Filters(min_size=33)
    for way, statements, wanted in ((search_objects, 2, ["33", "34"]), (list_newest, 3, ["34", "33"])):
        pages: list[list[str]] = []
        after: str | None = ""
        while after is not None:
            with django_assert_num_queries(statements):
                one = way(bucket_id=bucket.pk, within=None, filters=filters, after=after)
            pages.append([row.key for row in one.objects])
            after = one.next_after
        assert len(pages) == 4
        assert [key for page in pages for key in page] == wanted


@pytest.mark.django_db
def test_newest_below_a_prefix_of_few_keys_is_a_full_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_LOOKED_AT", 10)
    keys = [f"few/{at}" for at in range(8)] + [f"many/{at:02}" for at in range(40)]
    bucket = make_objects(*({"key": key} for key in keys))

    def newest(prefix: str, within: tuple[str, ...] | None = None) -> tuple[list[str], str | None]:
        page = list_newest(bucket_id=bucket.pk, within=within, prefix=prefix, limit=5)
        return [row.key for row in page.objects], page.next_after

    assert newest("few/")[0] == newest("", ("few/",))[0] == ["few/7", "few/6", "few/5", "few/4", "few/3"]
    assert newest("few/1") == (["few/1"], None)
    assert newest("", ("few/", "many/39"))[0] == ["many/39", "few/7", "few/6", "few/5", "few/4"]
    # More than a page looks at: the newest ten are looked at, and it goes on behind them.
    found, next_after = newest("many/0")
    assert (found, next_after) == (["many/09", "many/08", "many/07", "many/06", "many/05"], newest("many/0")[1])
    assert newest("", ("few/", "many/0"))[0] == []
    assert newest("", ("few/", "many/0"))[1]


@pytest.mark.django_db
def test_objects_that_come_and_go_between_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there all the time is found once."""
    monkeypatch.setattr(listing, "MAX_LOOKED_AT", 3)
    stay = [f"{at:02}" for at in range(0, 40, 2)]
    bucket = make_objects(*({"key": key} for key in stay))
    draw = random.Random(7)

    def page(**where: Any) -> Page:
        Object.objects.filter(key__endswith="x").delete()
        Object.objects.bulk_create(
            Object(
                bucket=bucket, key=f"{draw.choice(stay)}-{at}x", size=1, etag="e", content_type="a/b",
                created_at=EPOCH, updated_at=EPOCH, sequence=99,
            )
            for at in range(4)
        )  # fmt: skip
        return search_objects(bucket_id=bucket.pk, within=None, filters=Filters(max_size=1), **where)

    found = [row.key for row in all_pages(page, limit=2)]
    assert [key for key in found if not key.endswith("x")] == stay
