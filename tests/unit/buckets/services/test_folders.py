"""Folders: what lies in them is moved and deleted as one."""

import pytest

from buckets.errors import ObjectExists, ObjectUnknown
from buckets.models import Object
from buckets.services.folders import last_name, move_into
from buckets.services.objects import Emptied, empty_bucket
from buckets.services.prefixes import RenamedPrefix
from keys.errors import Invalid
from tests.unit.buckets.lab import Lab, require_sound


def keys() -> set[str]:
    return set(Object.objects.values_list("key", flat=True))


def test_the_last_part_of_a_name() -> None:
    names = {"a/b/c": "c", "a/b/": "b/", "a": "a", "a/": "a/", "a//": "/", "/": "/", "//a": "a"}
    assert {text: last_name(text) for text in names} == names


def test_objects_and_folders_are_moved_together_or_not_at_all(lab: Lab) -> None:
    lab.put_many("a/1", "a/b/2", "c/3", "k", "to/k")
    with pytest.raises(ObjectExists):
        move_into(bucket="photos", keys=["k", "c/3"], folders=["a/b/"], to_folder="to/")
    assert keys() == {"a/1", "a/b/2", "c/3", "k", "to/k"}
    done = move_into(bucket="photos", keys=["k", "c/3"], folders=["a/b/"], to_folder="to/", overwrite=True)
    assert done == RenamedPrefix(renamed=3, overwritten=1)
    assert keys() == {"a/1", "to/3", "to/b/2", "to/k"}
    require_sound()


def test_what_cannot_be_moved(lab: Lab) -> None:
    lab.put_many("a/1", "b/1")
    for chosen in (
        {"keys": [], "folders": ["a/"], "to_folder": "a/c/"},
        {"keys": ["a/1", "b/1"], "folders": [], "to_folder": "c/"},
        {"keys": ["a/1"], "folders": [], "to_folder": "a/"},
    ):
        with pytest.raises(Invalid):
            move_into(bucket="photos", **chosen)  # type: ignore[arg-type]
    for chosen in ({"keys": [], "folders": ["x/"]}, {"keys": ["x"], "folders": []}, {"keys": [], "folders": []}):
        with pytest.raises(ObjectUnknown):
            move_into(bucket="photos", to_folder="c/", **chosen)
    assert keys() == {"a/1", "b/1"}


def test_a_folder_is_deleted_and_nothing_beside_it(lab: Lab) -> None:
    lab.put_many("a", "a/1", "a/2", "a/3", "a0", "b")
    assert empty_bucket(bucket="photos", prefix="a/", limit=2) == Emptied(deleted=2, is_empty=False)
    assert empty_bucket(bucket="photos", prefix="a/", limit=2) == Emptied(deleted=1, is_empty=True)
    assert keys() == {"a", "a0", "b"}
    require_sound()
