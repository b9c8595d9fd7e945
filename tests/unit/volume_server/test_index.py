"""The index against a dict: through splits, tombstones, checkpoints, and writes while one is frozen."""

import random
import tracemalloc
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from volume_server import index as module
from volume_server.index import (
    GROUP_BITS,
    LENGTH_MASK,
    MAX_OFFSET,
    MAX_USED,
    PUTS_PER_SPLIT,
    SEGMENT_BYTES,
    SEGMENT_SLOTS,
    SLOT_BYTES,
    SPLIT_USED,
    Frozen,
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
        self.file: dict[int, bytes] = {}
        """What a checkpoint thread has written, by its place."""
        self.free_places = count()
        self.frozen: list[Frozen] = []
        self.frozen_model: dict[int, tuple[int, int]] = {}
        self.places: list[int] = []

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

    @precondition(lambda self: not self.frozen)
    @rule()
    def freeze(self) -> None:
        self.frozen, self.frozen_model, self.places = self.index.freeze(), dict(self.model), []

    @precondition(lambda self: self.frozen)
    @rule(amount=st.integers(1, 5))
    def write_some(self, amount: int) -> None:
        for segment, place, _, _ in self.frozen[len(self.places) :][:amount]:
            if place < 0:
                place = next(self.free_places)
                self.file[place] = bytes(segment.buffer)
                segment.frozen = False
            self.places.append(place)

    @precondition(lambda self: self.frozen)
    @rule(worked=st.booleans())
    def release(self, worked: bool) -> None:
        if worked:
            self.write_some(len(self.frozen))
            saved = [
                Segment(depth, bytearray(self.file[place]), used)
                for (_, _, depth, used), place in zip(self.frozen, self.places, strict=True)
            ]
            assert items(Index.of_segments(saved)) == self.frozen_model
            assert len(Index.of_segments(saved)) == len(self.frozen_model)
        self.index.release(self.frozen, self.places if worked else None)
        self.frozen = []

    @invariant()
    def holds_what_the_dict_holds(self) -> None:
        assert items(self.index) == self.model
        assert len(self.index) == len(self.model)
        for needle in list(self.model)[-20:]:
            assert self.index.get(needle) == self.model[needle]

    @invariant()
    def saved_segment_is_one_that_did_not_change(self) -> None:
        saved = [segment for segment in self.index.segments() if segment.saved_at >= 0]
        assert len({segment.saved_at for segment in saved}) == len(saved)
        assert all(self.file[segment.saved_at] == segment.buffer for segment in saved)


AgainstDict.TestCase.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
TestAgainstDict = AgainstDict.TestCase


def only_segment(index: Index) -> Segment:
    [segment] = index.segments()
    return segment


def test_write_to_a_frozen_segment_goes_to_a_copy() -> None:
    index = filled(range(1, 10))
    [(segment, _, _, _)] = frozen = index.freeze()
    before = bytes(segment.buffer)
    index.put(100, 8, 1)
    assert segment.buffer == before
    index.release(frozen, [5])
    assert only_segment(index).saved_at < 0


def test_segment_that_is_written_or_was_not_changed_needs_no_copy() -> None:
    index = filled(range(1, 10))
    [(segment, _, _, _)] = frozen = index.freeze()
    segment.frozen = False  # as the checkpoint thread does
    index.put(100, 8, 1)
    index.release(frozen, [5])
    assert only_segment(index) is segment
    assert segment.saved_at < 0
    index.release(index.freeze(), [6])
    frozen = index.freeze()
    index.put(101, 8, 1)
    index.release(frozen, [6])
    assert only_segment(index) is segment
    assert segment.saved_at < 0


@pytest.mark.parametrize("written", [True, False])
def test_segment_that_was_split_keeps_its_memory_only_until_it_is_written(written: bool) -> None:
    index = filled(range(1, SPLIT_USED))
    [(segment, _, _, _)] = index.freeze()
    segment.frozen = not written
    before = bytes(segment.buffer)
    for needle in range(SPLIT_USED, SPLIT_USED + PUTS_PER_SPLIT * 2):
        index.put(needle, 8, 1)
        if index.depth:
            break
    assert segment.buffer == (b"" if written else before)


def test_unchanged_segment_remembers_its_place_until_it_is_written() -> None:
    index = filled(range(1, 10))
    index.release(index.freeze(), [5])
    assert only_segment(index).saved_at == 5
    index.put(1, 8, 1)
    assert only_segment(index).saved_at < 0


def test_what_lies_between_two_checkpoints_changes_few_segments() -> None:
    index = filled(range(1 << 16, (1 << 16) + 100 * SPLIT_USED))
    index.release(index.freeze(), list(range(len(index.directory))))
    for needle in range(1 << 24, (1 << 24) + 4096):
        index.put(needle, 8, 1)
    changed = [segment for segment in index.segments() if segment.saved_at < 0]
    assert len(changed) <= 2 * 4096 / (1 << GROUP_BITS)
    assert len(changed) < len(list(index.segments())) / 4


def test_segments_that_are_full_at_the_same_time_do_not_split_in_one_breath(monkeypatch: pytest.MonkeyPatch) -> None:
    """A split takes a millisecond. Here every segment is due."""
    index = Index.of_segments([Segment(6, used=SPLIT_USED) for _ in range(64)])
    splits = []
    monkeypatch.setattr(Index, "_split", lambda self, at, split=Index._split: splits.append(at) or split(self, at))
    for number in range(1, 257):
        index.put(number << GROUP_BITS, 8, 1)
    assert 0 < len(splits) <= 256 / PUTS_PER_SPLIT


def test_segment_without_room_splits_at_once() -> None:
    index = Index.of_segments([Segment(0, used=MAX_USED)])
    index.put(1, 8, 1)
    assert index.depth == 1
    assert index.get(1) == (8, 1)


def test_load_is_the_same_at_any_size() -> None:
    """16 bytes a slot at a load of half: 32 bytes a needle, where segments that fill alike would swing up to 40."""
    index, lowest = Index(), 1.0
    for number in range(1, 600_000):
        index.put((1 + number // 4096) << 16 | number % 4096, 8, 1)
        if number > 100_000 and number % 10_000 == 0:
            lowest = min(lowest, number / (len(list(index.segments())) * SEGMENT_SLOTS))
    assert lowest > 0.5


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
    """16 bytes a slot, segments 0.56 full on average, fewer where there are few of them, and what Python adds."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    index = filled(range(1, 40_000))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (after - before) / len(index) < 48
    assert SEGMENT_BYTES == SEGMENT_SLOTS * SLOT_BYTES
