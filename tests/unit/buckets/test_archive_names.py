"""Names inside an archive, whatever the keys are."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buckets.archive_names import MAX_PART_BYTES, ArchiveNames


def names(*keys: str, base: str = "") -> list[str]:
    made = ArchiveNames(base)
    return [made.name(key, is_empty=False) for key in sorted(keys)]


def test_plain_names_stay_as_they_are() -> None:
    keys = ["a b/<img onerror=…>#?%.txt", "a b/文.png", "at 10:00", "z.."]
    assert names(*keys) == keys
    assert names("a b/c", "a b/d/e", base="a b/") == ["c", "d/e"]
    assert names("other", base="a b/") == ["other"]


def test_folders_are_those_that_end_with_a_slash_and_hold_nothing() -> None:
    made = ArchiveNames("")
    assert made.name("a/", is_empty=True) == "a/"
    assert made.name("b/", is_empty=False).startswith("b/_~")
    assert re.fullmatch(r"_~[0-9a-f]{10}/", made.name("/", is_empty=True))


@pytest.mark.parametrize("key", ["/etc/passwd", "../x", "a/../../x", "C:x", "C:/x", "\\\\host\\x", "..", ".", "a//b"])
def test_no_name_leads_out_of_its_folder(key: str) -> None:
    [name] = names(key)
    assert "\\" not in name
    assert not name.startswith("/")
    assert not re.match("[A-Za-z]:", name)
    assert not {"", ".", ".."} & set(name.split("/"))


def test_what_would_be_one_name_becomes_two() -> None:
    found = names("a//b", "a/_/b", "x\ny.txt", "x\ty.txt", "x_y.txt", "x\u200by.txt")
    assert len(set(found)) == 6
    assert "\u200b" not in "".join(found), "nor is one told from another by what nobody sees"
    assert all(name.endswith((".txt", "b")) for name in found), "what kind of file it is stays"


def test_a_file_and_a_folder_of_one_name() -> None:
    file, between, inner, deeper = names("d/a", "d/a!", "d/a/b", "d/a/c/d", base="d/")
    assert (file, between) == ("a", "a!")
    folder = inner.partition("/")[0]
    assert re.fullmatch("a~[0-9a-f]{10}", folder)
    assert (inner, deeper) == (f"{folder}/b", f"{folder}/c/d")


KEYS = st.sets(st.text(st.sampled_from("ab/.\\\n:C_~é"), min_size=1, max_size=8), min_size=1, max_size=30)


@given(KEYS)
def test_a_tree_can_be_made_of_any_keys(keys: set[str]) -> None:
    made = names(*keys)
    assert len(set(made)) == len(made)
    folders = {name[: at.start()] for name in made for at in re.finditer("/", name)}
    assert not folders & set(made), "no name is a file's and a folder's"


def test_long_parts_are_cut() -> None:
    [name] = names("é" * 505 + ".jpeg")
    assert len(name.encode()) <= MAX_PART_BYTES + 11
    assert name.endswith(".jpeg")
