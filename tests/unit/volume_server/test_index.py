"""The index against a dict: through splits, tombstones, checkpoints, and writes while one is frozen."""

import random
import tracemalloc
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from volume_server import index as module
from volume_server.index import (
    LENGTH_MASK,
    MAX_OFFSET,
    MAX_USED,
    SEGMENT_BYTES,
    SEGMENT_SLOTS,
    SLOT_BYTES,
    Index,
    Segment,
)

ENOUGH_TO_SPLIT = MAX_USED * 3


def items(index: Index) -> dict[int, tuple[int, int]]:
    return {needle: (offset, length) for needle, offset, length in index.items()}


def filled(needles: range) -> Index:
    index = Index()
    for number, needle in enumerate(needles):
        index.put(needle, 8192 + number * 8, number % 1000)
    return index


def test_finds_what_was_put_and_nothing_else() -> None:
    index = filled(range(1, ENOUGH_TO_SPLIT))
    assert index.depth > 0
    assert len(index) == ENOUGH_TO_SPLIT - 1
    assert all(
        index.get(needle) == (8192 + (needle - 1) * 8, (needle - 1) % 1000) for needle in range(1, ENOUGH_TO_SPLIT)
    )
    assert index.get(ENOUGH_TO_SPLIT) is None
    assert index.get((1 << 64) - 1) is None


@given(
    needle=st.integers(1, (1 << 64) - 1),
    offset=st.integers(0, MAX_OFFSET // 8).map(lambda word: word * 8),
    length=st.integers(0, LENGTH_MASK),
)
def test_every_value_within_the_limits_comes_back(needle: int, offset: int, length: int) -> None:
    index = Index()
    index.put(needle, offset, length)
    assert index.get(needle) == (offset, length)


@pytest.mark.parametrize(
    ("needle", "offset", "length"),
    [
        (0, 8, 1),
        (1 << 64, 8, 1),
        (-1, 8, 1),
        (1, 4, 1),
        (1, -8, 1),
        (1, MAX_OFFSET + 8, 1),
        (1, 8, LENGTH_MASK + 1),
        (1, 8, -1),
    ],
)
def test_value_that_does_not_fit_is_refused_and_changes_nothing(needle: int, offset: int, length: int) -> None:
    index = Index()
    with pytest.raises(ValueError, match="does not fit"):
        index.put(needle, offset, length)
    assert items(index) == {}


class AgainstDict(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.index = Index()
        self.model: dict[int, tuple[int, int]] = {}
        self.frozen: list[tuple[list[Segment], dict[int, tuple[int, int]]]] = []
        self.places = count()

    needles = st.integers(1, 50) | st.builds(
        lambda lease, slot: lease << 16 | slot, st.integers(1, 9), st.integers(0, 9)
    )

    @rule(needle=needles, word=st.integers(0, 1000), length=st.integers(0, 1000))
    def put(self, needle: int, word: int, length: int) -> None:
        self.index.put(needle, word * 8, length)
        self.model[needle] = (word * 8, length)

    @rule(first=st.integers(1, 1 << 40), amount=st.integers(1, 2000), stride=st.sampled_from([1, 16, 1 << 16]))
    def put_many(self, first: int, amount: int, stride: int) -> None:
        for number in range(amount):
            self.put(first + number * stride, number, number)

    @rule()
    def freeze(self) -> None:
        if not self.frozen:
            self.frozen.append((self.index.freeze(), dict(self.model)))

    @rule(worked=st.booleans())
    def release(self, worked: bool) -> None:
        if self.frozen:
            segments, _ = self.frozen.pop()
            self.index.release(segments, [next(self.places) for _ in segments] if worked else None)

    @invariant()
    def holds_what_the_dict_holds(self) -> None:
        assert items(self.index) == self.model
        assert len(self.index) == len(self.model)
        for needle in list(self.model)[-20:]:
            assert self.index.get(needle) == self.model[needle]

    @invariant()
    def frozen_segments_stay_as_they_were(self) -> None:
        for segments, model in self.frozen:
            assert items(Index.of_segments(segments)) == model

    @invariant()
    def saved_segment_is_one_that_did_not_change(self) -> None:
        saved = [segment.saved_at for segment in self.index.segments() if segment.saved_at >= 0]
        assert len(saved) == len(set(saved))


AgainstDict.TestCase.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
TestAgainstDict = AgainstDict.TestCase


def test_write_to_a_frozen_segment_marks_only_the_copy_as_changed() -> None:
    index = filled(range(1, 10))
    [segment] = frozen = index.freeze()
    index.put(100, 8, 1)
    index.release(frozen, [5])
    assert segment.saved_at == 5
    assert [found.saved_at for found in index.segments()] == [-1]


def test_unchanged_segment_remembers_its_place_until_it_is_written() -> None:
    index = filled(range(1, 10))
    index.release(index.freeze(), [5])
    assert [found.saved_at for found in index.segments()] == [5]
    index.put(1, 8, 1)
    assert [found.saved_at for found in index.segments()] == [-1]


def test_segments_that_do_not_make_a_directory_are_refused() -> None:
    index = filled(range(1, ENOUGH_TO_SPLIT))
    segments = list(index.segments())
    with pytest.raises(ValueError, match="do not fill"):
        Index.of_segments(segments[:-1])
    with pytest.raises(ValueError, match="do not fill"):
        Index.of_segments([Segment(0), Segment(1), Segment(1)])


@pytest.mark.parametrize(
    ("name", "needle"),
    [
        ("slots of one lease", lambda number: (1 << 16) + number),
        ("leases of one needle", lambda number: (number + 1) << 16),
        ("leases of 64 needles", lambda number: (1 + number // 64) << 16 | number % 64),
        ("high lease numbers", lambda number: ((1 << 46) + number) << 16),
        ("any ids", lambda number: random.Random(number).getrandbits(64) | 1),
    ],
)
def test_ids_of_every_kind_lie_near_where_they_are_looked_for(name: str, needle: object) -> None:
    """Linear probing at 13/16 needs three steps to a hit; ids that cluster would need hundreds."""
    index = Index()
    amount = ENOUGH_TO_SPLIT
    for number in range(amount):
        index.put(needle(number), 8, 1)  # type: ignore[operator]
    steps = 0
    for segment in index.segments():
        for slot in range(SEGMENT_SLOTS):
            if found := segment.view[2 * slot]:
                home = found * module._MULTIPLIER >> module._SLOT_SHIFT & SEGMENT_SLOTS - 1
                steps += (slot - home) % SEGMENT_SLOTS
    assert steps / amount < 8


def test_memory_per_needle_is_bounded() -> None:
    """16 bytes a slot, segments at least 13/32 full after a split: 40 bytes, and what Python adds."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    index = filled(range(1, 40_000))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (after - before) / len(index) < 48
    assert SEGMENT_BYTES == SEGMENT_SLOTS * SLOT_BYTES
