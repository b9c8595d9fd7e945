"""The index of one volume: needle id -> where its record lies, 16 bytes a slot.

A slot is two u64: the needle id (0: empty) and ``offset / 8 << 28 | length``. The length is that of header, meta
and data; 0 marks a dead needle, whose tombstone then lies at the offset. 36 bits of offset/8 reach 512 GiB.

Extendible hashing (Fagin et al., TODS 1979): a directory of 2^depth entries points to segments of 4,096 slots, in
which linear probing finds the slot. A full segment splits alone, so that growing costs two segments' worth of work
whatever the size. Ids are never removed: a dead id keeps its slot.

The directory goes by groups of 256 ids in a row, mixed well; the slot by the id. A lease's needles come in a row, so
what is written between two checkpoints lies in few segments, and only these are copied and written out: with the ids
themselves in the directory each checkpoint would write the whole index. Mixed well, segments fill unevenly, so that
the load is the same 0.56 at any size (Fagin's ln 2 of the 13/16 at which they split), and do not split at once.
Where many are full at once all the same, every 16th put into a full one splits it, and the others wait in the room
that is left: a split takes a millisecond, and dozens of them in one turn of the loop would be a stall.

`freeze` takes a snapshot in time proportional to the number of segments, so that a checkpoint thread can write the
changed ones out while the loop goes on. Each of these is frozen until it has been written, and copied before it is
changed meanwhile; the others are in the file already, and may change at once.
"""

from collections.abc import Iterator
from typing import NamedTuple

SEGMENT_SLOTS = 4096
SLOT_BYTES = 16
SEGMENT_BYTES = SEGMENT_SLOTS * SLOT_BYTES
SPLIT_USED = SEGMENT_SLOTS * 13 // 16
"""A segment with so many ids is due to split..."""
MAX_USED = SEGMENT_SLOTS * 15 // 16
"""...and one with so many splits at once."""
PUTS_PER_SPLIT = 16
GROUP_BITS = 8
LENGTH_BITS = 28
LENGTH_MASK = (1 << LENGTH_BITS) - 1
MAX_OFFSET = ((1 << 36) - 1) * 8

CHANGED, SAVING = -1, -2

_MULTIPLIER = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: Fibonacci hashing (Knuth, TAOCP 3, section 6.4)
_MIXER = 0xBF58476D1CE4E5B9  # SplitMix64's first (Steele, Lea and Flood, OOPSLA 2014): neighbours part for good
_MASK64 = (1 << 64) - 1
_SLOT_MASK = SEGMENT_SLOTS - 1
_SLOT_SHIFT = 28
"""A slot's place comes from bits 28 to 39 of the product, well above bit 16, from which on alone the ids of one-needle
leases differ (a product's lower bits know nothing of its factors' higher ones)."""
MAX_DEPTH = 24
"""2^24 segments are 20 times what a volume of 512 GiB with nothing but 1 KiB needles has."""


def group_hash(needle: int) -> int:
    """64 bits, of which the first `depth` are the needle's place in the directory. `get` and `put` have it inline."""
    product = (needle >> GROUP_BITS) * _MULTIPLIER & _MASK64
    return (product ^ product >> 30) * _MIXER & _MASK64


class Segment:
    __slots__ = ("buffer", "depth", "frozen", "saved_at", "used", "view")

    def __init__(self, depth: int, buffer: bytearray | None = None, used: int = 0, saved_at: int = CHANGED) -> None:
        self.buffer = bytearray(SEGMENT_BYTES) if buffer is None else buffer
        self.view = memoryview(self.buffer).cast("Q")
        self.depth = depth
        self.used = used
        self.frozen = False
        self.saved_at = saved_at
        """Its place in the checkpoint file, -1 while it differs from what is there, -2 while it is being saved."""

    def forget(self) -> None:
        """Give the memory back: it was split, and a checkpoint that still knows it has written it long since."""
        self.buffer = bytearray()
        self.view = memoryview(self.buffer).cast("Q")

    def insert(self, needle: int, value: int) -> None:
        view, slot = self.view, needle * _MULTIPLIER >> _SLOT_SHIFT & _SLOT_MASK
        while (found := view[2 * slot]) and found != needle:
            slot = slot + 1 & _SLOT_MASK
        if not found:
            self.used += 1
            view[2 * slot] = needle
        view[2 * slot + 1] = value


class Frozen(NamedTuple):
    """A segment as it was when the index was frozen."""

    segment: Segment
    """Stays as it is until the checkpoint's thread sets ``frozen`` to False; one that has a ``place`` may change."""
    place: int
    """Where the file has it already, or negative: it is to be written."""
    depth: int
    used: int


class Index:
    """Not thread-safe: one loop owns it; only frozen segments may be read elsewhere."""

    def __init__(self) -> None:
        self.depth = 0
        self.directory: list[Segment] = [Segment(0)]
        self._puts_into_full = 0

    def __len__(self) -> int:
        return sum(segment.used for segment in self.segments())

    def get(self, needle: int) -> tuple[int, int] | None:
        """(offset, length) of the needle's record; length 0: dead, its tombstone lies there. None: never stored."""
        product = (needle >> GROUP_BITS) * _MULTIPLIER & _MASK64
        view = self.directory[((product ^ product >> 30) * _MIXER & _MASK64) >> 64 - self.depth].view
        slot = needle * _MULTIPLIER >> _SLOT_SHIFT & _SLOT_MASK
        while found := view[2 * slot]:
            if found == needle:
                value = view[2 * slot + 1]
                return value >> LENGTH_BITS << 3, value & LENGTH_MASK
            slot = slot + 1 & _SLOT_MASK
        return None

    def find(self, needle: int) -> tuple[memoryview, int] | None:
        """The words of which one is the needle's value, and its place among them, to read and to change it there.

        For an index that nobody freezes meanwhile. None: never stored.
        """
        product = (needle >> GROUP_BITS) * _MULTIPLIER & _MASK64
        view = self.directory[((product ^ product >> 30) * _MIXER & _MASK64) >> 64 - self.depth].view
        slot = needle * _MULTIPLIER >> _SLOT_SHIFT & _SLOT_MASK
        while found := view[2 * slot]:
            if found == needle:
                return view, 2 * slot + 1
            slot = slot + 1 & _SLOT_MASK
        return None

    def before(self, end: int) -> "Index":
        """The needles that lie before the offset ``end``: the index itself, where these are all."""
        limit = end >> 3 << LENGTH_BITS
        if all(max(segment.view.tolist()[1::2]) < limit for segment in self.segments()):
            for segment in self.segments():
                segment.saved_at = CHANGED
            return self
        kept = Index()
        for needle, offset, length in self.items():
            if offset < end:
                kept.put(needle, offset, length)
        return kept

    def put(self, needle: int, offset: int, length: int) -> None:
        """Set where a needle lies. ``offset`` is a multiple of 8; ``length`` 0 for a tombstone."""
        if not 0 < needle <= _MASK64 or offset & 7 or not 0 <= offset <= MAX_OFFSET or not 0 <= length <= LENGTH_MASK:
            raise ValueError(f"needle {needle:#x} at {offset} of {length} bytes does not fit the index")
        product = (needle >> GROUP_BITS) * _MULTIPLIER & _MASK64
        hashed = (product ^ product >> 30) * _MIXER & _MASK64
        segment = self.directory[hashed >> 64 - self.depth]
        if segment.used >= SPLIT_USED:
            segment = self._make_room(hashed)
        if segment.frozen:
            segment = self._thaw(hashed >> 64 - self.depth)
        segment.saved_at = CHANGED
        segment.insert(needle, offset >> 3 << LENGTH_BITS | length)

    def segments(self) -> Iterator[Segment]:
        """Each segment once, in the directory's order."""
        at = 0
        while at < len(self.directory):
            segment = self.directory[at]
            yield segment
            at += 1 << self.depth - segment.depth

    def segment_at(self, hashed: int) -> Segment:
        """The segment that has, or would have, the needles of this hash (see `group_hash`)."""
        return self.directory[hashed >> 64 - self.depth]

    def items(self) -> Iterator[tuple[int, int, int]]:
        """(needle, offset, length) of all, dead ones (length 0) too."""
        for segment in self.segments():
            view = segment.view
            for slot in range(SEGMENT_SLOTS):
                if needle := view[2 * slot]:
                    value = view[2 * slot + 1]
                    yield needle, value >> LENGTH_BITS << 3, value & LENGTH_MASK

    def freeze(self) -> list[Frozen]:
        """All segments as they are now; until `release` no other call may be made."""
        frozen = [Frozen(segment, segment.saved_at, segment.depth, segment.used) for segment in self.segments()]
        for segment, place, _, _ in frozen:
            if place < 0:
                segment.frozen = True
                segment.saved_at = SAVING
        return frozen

    def release(self, frozen: list[Frozen], places: list[int] | None) -> None:
        """End of a checkpoint: ``places`` says where in the file each is saved now, None that it failed."""
        for number, (segment, _, _, _) in enumerate(frozen):
            segment.frozen = False
            if segment.saved_at == SAVING:  # and so not changed since
                segment.saved_at = CHANGED if places is None else places[number]

    @classmethod
    def of_segments(cls, segments: list[Segment]) -> "Index":
        """The index that these segments, in the directory's order, make up. Raises ValueError when they do not."""
        index = cls()
        index.depth = max(segment.depth for segment in segments)
        if any(0 not in segment.view[::2] for segment in segments):
            raise ValueError("a segment without an empty slot, at which every search ends")
        if sum(1 << index.depth - segment.depth for segment in segments) != 1 << index.depth:
            raise ValueError("segments do not fill a directory")
        index.directory = []
        for segment in segments:
            width = 1 << index.depth - segment.depth
            if len(index.directory) % width:
                raise ValueError("segments do not fill a directory")
            index.directory += [segment] * width
        return index

    def _range(self, at: int, segment: Segment) -> range:
        """The directory entries that point to the segment found at ``at``."""
        width = 1 << self.depth - segment.depth
        start = at & -width
        return range(start, start + width)

    def _thaw(self, at: int) -> Segment:
        old = self.directory[at]
        new = Segment(old.depth, bytearray(old.buffer), old.used)
        for entry in self._range(at, old):
            self.directory[entry] = new
        return new

    def _make_room(self, hashed: int) -> Segment:
        """The segment for this hash, which was full: split now, or with room for a while."""
        segment = self.directory[hashed >> 64 - self.depth]
        self._puts_into_full += 1
        if self._puts_into_full % PUTS_PER_SPLIT == 0 or segment.used >= MAX_USED:
            self._split(hashed >> 64 - self.depth)
            segment = self.directory[hashed >> 64 - self.depth]
            while segment.used >= MAX_USED:  # all went to one side
                self._split(hashed >> 64 - self.depth)
                segment = self.directory[hashed >> 64 - self.depth]
        return segment

    def _split(self, at: int) -> None:
        old = self.directory[at]
        if old.depth == self.depth:
            if self.depth == MAX_DEPTH:
                raise ValueError("the index is full")
            self.directory = [segment for segment in self.directory for _ in (0, 1)]
            self.depth += 1
            at *= 2
        halves = Segment(old.depth + 1), Segment(old.depth + 1)
        side_of_group: dict[int, Segment] = {}
        words = old.view.tolist()
        for needle, value in zip(words[::2], words[1::2], strict=True):
            if needle:
                group = needle >> GROUP_BITS
                side = side_of_group.get(group)
                if side is None:
                    side = side_of_group[group] = halves[group_hash(needle) >> 63 - old.depth & 1]
                side.insert(needle, value)
        entries = self._range(at, old)
        half = len(entries) // 2
        for number, entry in enumerate(entries):
            self.directory[entry] = halves[number >= half]
        if not old.frozen:
            old.forget()
