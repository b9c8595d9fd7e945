import pytest
from hypothesis import given
from hypothesis import strategies as st

from buckets.names import (
    bucket_name_error,
    content_type_error,
    etag_matches,
    etag_of_change,
    if_match_error,
    key_error,
    metadata_error,
    parse_etags,
    successor,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@pytest.mark.parametrize(
    "name", ["a", "a.b", "_", "...", "a_b", "x" * 32, "0", "my-bucket", "a-b.c-d", "x" * 63, "1.2.3.4", "a" * 40 + "-b"]
)
def test_bucket_names(name: str) -> None:
    assert bucket_name_error(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "A",
        "a b",
        "a/b",
        "x" * 64,
        "-a",
        "a-",
        "a-.b",
        "a..b-c",
        "ä",
        "a\n",
        "a-b_c",
        "_" * 33,
        "%61",
        "a\0",
    ],
)
def test_no_bucket_names(name: str) -> None:
    assert bucket_name_error(name) is not None


def test_keys_are_counted_in_bytes() -> None:
    assert key_error("x" * 1024) is None
    assert key_error("x" * 1025) is not None
    assert key_error("ü" * 512) is None
    assert key_error("ü" * 513) is not None
    assert key_error("") is not None
    assert key_error("a\0b") is not None
    assert key_error("\ud800") is not None
    assert key_error("../a//b/./ \n") is None


def test_metadata() -> None:
    assert metadata_error({"a-1": "ü✓"}) is None
    assert metadata_error({"a": "x" * 2047}) is None
    assert metadata_error({"a": "x" * 2048}) is not None
    assert metadata_error({"a": "ü" * 1024}) is not None
    for wrong in ({"": "x"}, {"A": "x"}, {"a_b": "x"}, {"a" * 65: "x"}, {"a": "\0"}, {"a": "\ud800"}):
        assert metadata_error(wrong) is not None, wrong


def test_content_types() -> None:
    for good in ("text/plain", "text/html; charset=utf-8", "application/vnd.x+json", 'a/b; c="d e"'):
        assert content_type_error(good) is None, good
    for wrong in ("", "text", "text/", "/plain", "a b/c", "text/plain\r\nX: y", "text/plä", "a/" + "b" * 300):
        assert content_type_error(wrong) is not None, wrong


@pytest.mark.parametrize(
    ("text", "etags"),
    [
        ('"a"', {"a"}),
        ("a", {"a"}),
        ('"a", "b" ,c', {"a", "b", "c"}),
        ('W/"a"', {"W/a"}),
        ('W/"a", "b"', {"W/a", "b"}),
        ('"a,b"', {"a,b"}),
        ('""', {""}),
        ('"a', None),
        ("a b", None),
        ("", None),
        ('"a",', None),
        (',"a"', None),
        ('"a""b"', None),
        ("a\n", {"a"}),
    ],
)
def test_lists_of_etags(text: str, etags: set[str] | None) -> None:
    assert parse_etags(text) == etags


def test_if_match() -> None:
    assert etag_matches("*", "a")
    assert not etag_matches("*", None)
    assert not etag_matches('"a"', None)
    assert etag_matches("a", "a")
    assert not etag_matches('W/"a"', "a")
    assert if_match_error("") is None
    assert if_match_error("*") is None
    assert if_match_error('"a') is not None
    assert if_match_error("a" * 1025) is not None


def test_a_change_gives_another_etag_each_time() -> None:
    once = etag_of_change("00ff", 7)
    assert once == "00ff-7"
    assert etag_of_change(once, 255) == "00ff-ff"


@given(TEXTS, TEXTS)
def test_the_successor_is_behind_all_with_the_prefix_and_nothing_else(prefix: str, other: str) -> None:
    behind = successor(prefix)
    as_bytes = str.encode
    assert behind is None or as_bytes(prefix + other) < as_bytes(behind)
    if as_bytes(other) > as_bytes(prefix) and not other.startswith(prefix):
        assert behind is not None
        assert as_bytes(other) >= as_bytes(behind)


def test_the_successor_at_the_edges() -> None:
    assert successor("") is None
    assert successor("a/") == "a0"
    assert successor("\ud7ff") == "\ue000"
    assert successor("a\U0010ffff") == "b"
    assert successor("\U0010ffff") is None
