"""The judge of a chaos run notices whatever a store must never say."""

from collections.abc import Callable

import pytest

from tests.support.chaos_content import BLOCK_BYTES, Identity, Mixed, identify
from tests.support.chaos_oracle import DONE, NOTHING, UNKNOWN, Gaps, Judge, Value

ONE, TWO, THREE = (str(Identity(version, 200 + version, "b:k")) for version in (1, 2, 3))
KEY, OTHER = "b:k", "b:other"


class Story:
    """What clients wrote down, line by line, and the judge who reads it."""

    def __init__(self) -> None:
        self.judge = Judge()
        self._count = 0
        self._now = 0.0

    def line(self, **line: object) -> "Story":
        self._now += 1
        self.judge.take({"t": self._now, **line})
        return self

    def change(self, outcome: str | None = DONE, /, *, refuse: bool = False, **values: Value) -> "Story":
        """An operation on keys `b:<name>`; without an outcome its client never came to write one down."""
        self._count += 1
        changes = {f"b:{name}": value for name, value in values.items()}
        self.line(do="begin", n=f"#{self._count}", op="put", changes=changes, refuse=refuse)
        return self if outcome is None else self.line(do="end", n=f"#{self._count}", outcome=outcome, why="told so")

    def saw(self, value: Value, key: str = KEY) -> "Story":
        return self.line(do="saw", op="get", key=key, value=value)

    def peeked(self, value: Value) -> "Story":
        return self.line(do="peeked", op="peek", who="reader", key=KEY, value=value)

    def listed(self, **sizes: int) -> "Story":
        return self.line(do="listed", op="list", prefix="b:", keys={f"b:{name}": size for name, size in sizes.items()})

    def settle(self) -> "Story":
        self.judge.settle()
        return self


def test_what_a_good_store_says() -> None:
    story = Story().saw(None).listed()
    story.change(k=ONE).saw(ONE).listed(k=201).line(do="sized", op="stat", sizes={KEY: 201, OTHER: None})
    story.change(NOTHING, k=TWO).saw(ONE)
    story.change(NOTHING, refuse=True, k=TWO).saw(ONE)
    story.change(k=None, other=ONE).saw(None).saw(ONE, OTHER).listed(other=201)
    story.line(do="told", op="delete", there={OTHER: True, KEY: False}).change(other=None).saw(None, OTHER)
    story.change(UNKNOWN, k=TWO).saw(None).saw(None).saw(TWO).saw(TWO)
    story.change(UNKNOWN, k=None, other=TWO).listed(k=202).listed(k=202).settle().saw(None).saw(TWO, OTHER)
    assert story.judge.contradictions == []


def test_of_what_is_seen_after_an_unknown_outcome_the_last_look_decides() -> None:
    story = Story().change(k=ONE).change(UNKNOWN, k=TWO).saw(ONE).settle().saw(ONE)
    assert story.judge.contradictions == []
    assert "MIXED UP: b:k" in story.saw(TWO).judge.contradictions[0]


def test_an_operation_that_never_ended_is_of_unknown_outcome() -> None:
    assert Story().change(None, k=ONE).settle().saw(ONE).judge.contradictions == []
    assert Story().change(None, k=ONE).settle().saw(None).judge.contradictions == []


def test_readers_may_see_any_version_but_not_go_back() -> None:
    story = Story().change(k=ONE).peeked(ONE).change(None, k=TWO).peeked(TWO).peeked(TWO).peeked(None)
    assert story.settle().judge.contradictions == []


LIES: dict[str, tuple[str, Callable[[Story], object]]] = {
    "acknowledged, then gone": ("LOST", lambda story: story.change(k=ONE).saw(None)),
    "acknowledged, but not listed": ("LOST", lambda story: story.change(k=ONE).listed()),
    "acknowledged, and a delete finds none": (
        "LOST", lambda story: story.change(k=ONE).line(do="told", op="delete", there={KEY: False})
    ),
    "acknowledged, and no size of it": (
        "LOST", lambda story: story.change(k=ONE).line(do="sized", op="stat", sizes={KEY: None})
    ),
    "an overwrite that did not happen": ("MIXED UP", lambda story: story.change(k=ONE).change(k=TWO).saw(ONE)),
    "a refusal that happened": ("MIXED UP", lambda story: story.change(k=ONE).change(NOTHING, k=TWO).saw(TWO)),
    "a deleted object back": ("BACK FROM THE DEAD", lambda story: story.change(k=ONE).change(k=None).saw(ONE)),
    "a deleted object listed": (
        "BACK FROM THE DEAD", lambda story: story.change(k=ONE).change(k=None).listed(k=201)
    ),
    "a renamed object at its old key": (
        "BACK FROM THE DEAD", lambda story: story.change(k=ONE).change(k=None, other=ONE).saw(ONE)
    ),
    "an object that nobody put": ("OUT OF NOWHERE", lambda story: story.saw(ONE)),
    "a list with a key that nobody put": ("OUT OF NOWHERE", lambda story: story.listed(k=201)),
    "a list with another size": ("MIXED UP", lambda story: story.change(k=ONE).listed(k=202)),
    "neither before nor after": (
        "MIXED UP", lambda story: story.change(k=ONE).change(UNKNOWN, k=TWO).saw(THREE)
    ),
    "gone after an overwrite of unknown outcome": (
        "LOST", lambda story: story.change(k=ONE).change(UNKNOWN, k=TWO).saw(None)
    ),
    "seen to have happened, then not": (
        "MIXED UP", lambda story: story.change(k=ONE).change(UNKNOWN, k=TWO).saw(TWO).saw(ONE)
    ),
    "half of a group": (
        "LOST", lambda story: story.change(UNKNOWN, k=ONE, other=TWO).saw(ONE).saw(None, OTHER)
    ),
    "half of a group at the end": (
        "BACK FROM THE DEAD",
        lambda story: story.change(k=ONE).change(UNKNOWN, k=TWO, other=TWO).settle().saw(ONE).saw(TWO, OTHER),
    ),
    "a mixed object": (
        "MIXED", lambda story: story.change(k=ONE).line(do="saw", op="get", key=KEY, mixed="two halves")
    ),
    "a mixed object seen by another": (
        "MIXED", lambda story: story.line(do="peeked", op="peek", who="reader", key=KEY, mixed="two halves")
    ),
    "a reader that goes back": (
        "ROLLED BACK", lambda story: story.change(k=ONE).change(k=TWO).peeked(TWO).peeked(ONE)
    ),
    "a reader that sees what nobody put": ("OUT OF NOWHERE", lambda story: story.change(k=ONE).peeked(TWO).settle()),
    "a condition that did not hold": (
        "against its own condition", lambda story: story.change(k=ONE).change(refuse=True, k=TWO)
    ),
    "bytes that the store itself calls damaged": (
        "DAMAGED", lambda story: story.line(do="failed", op="get", why="ObjectDamaged")
    ),
    "a client that broke": (
        "cannot understand", lambda story: story.line(do="broke", op="client", who="w0.1", why="KeyError")
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_store_that_says_what_cannot_be_is_found_out(lie: str) -> None:
    word, tell = LIES[lie]
    story = Story()
    tell(story)
    assert any(word in contradiction for contradiction in story.judge.contradictions), story.judge.contradictions


@pytest.mark.parametrize("size", [128, 1000, BLOCK_BYTES, BLOCK_BYTES + 3, BLOCK_BYTES + 9, 5 * BLOCK_BYTES + 77])
def test_objects_say_which_they_are(size: int) -> None:
    identity = Identity(17, size, "bucket:w0/1/2")
    body = identity.body()
    assert len(body) == size
    assert identify(body) == identity
    other = Identity(18, size, identity.key).body()
    for wrong in (
        body[:-1],
        body + b"x",
        b"",
        body[: size // 2] + other[size // 2 :],
        body[: size // 2] + bytes([body[size // 2] ^ 4]) + body[size // 2 + 1 :],
        bytes(size),
    ):
        with pytest.raises(Mixed):
            identify(wrong)


def test_the_longest_gap_is_told() -> None:
    assert Gaps([3.0, 1.0, 9.0]).longest_s(0.0, 10.0) == 6.0
    assert Gaps([]).longest_s(2.0, 10.0) == 8.0
