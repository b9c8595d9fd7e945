"""What a store may say after a storm: judged from the log of its clients alone.

Every client writes down what it is about to change, then what came of it, and everything that it sees. Each key is
changed by one client at a time, so each key has one value that it must have (an identity, or None: no object); an
operation of unknown outcome leaves two, and is either done for all its keys or for none. Clients leave such keys alone,
since what was sent may yet arrive; what is seen of them decides, and seen once it stays.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.support.chaos_content import Identity
from tests.support.crash_model import Contradiction

Value = str | None
DONE, NOTHING, UNKNOWN = OUTCOMES = ("done", "nothing", "unknown")
"""Acknowledged; refused for good, or never sent; anything else."""
_KEPT_LINES = 8


@dataclass(slots=True)
class _Doubt:
    """An operation of unknown outcome: what each key was, and what it may have become."""

    changes: dict[str, tuple[Value, Value]]


class Ledger:
    """The value of every key. Keys that nothing is known of hold no object."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.doubts: dict[str, _Doubt] = {}
        self.ever: defaultdict[str, set[Value]] = defaultdict(set)
        """All that each key was ever meant to be."""
        self.is_settled = False
        self._begun: dict[str, dict[str, Value]] = {}
        self._history: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=_KEPT_LINES))

    def begin(self, operation: str, changes: Mapping[str, Value]) -> None:
        for key, value in changes.items():
            if key in self.doubts:
                raise AssertionError(f"{operation} changes {key}, of which nobody knows what it is")
            self.ever[key].add(value)
            self._history[key].append(f"{operation} begins: {value}")
        self._begun[operation] = dict(changes)

    def end(self, operation: str, outcome: str) -> None:
        changes = self._begun.pop(operation)
        for key in changes:
            self._history[key].append(f"{operation}: {outcome}")
        if outcome == DONE:
            self.values.update(changes)
        elif outcome == UNKNOWN:
            doubt = _Doubt({key: (self.values.get(key), value) for key, value in changes.items()})
            self.doubts.update(dict.fromkeys(changes, doubt))

    def settle(self) -> None:
        """Nothing is under way any more: operations that were begun and never ended are of unknown outcome, and what is
        seen from now on decides either way."""
        for operation in list(self._begun):
            self.end(operation, UNKNOWN)
        self.is_settled = True

    def saw(self, key: str, value: Value) -> None:
        """Raises Contradiction."""
        self.observe(key, lambda held: held == value, value or "no object")

    def observe(self, key: str, fits: Callable[[Value], bool], seen: str) -> None:
        """Something was seen of a key that fits some values and not others. Raises Contradiction."""
        doubt = self.doubts.get(key)
        if doubt is None:
            if not fits(self.values.get(key)):
                raise self._contradiction(key, seen)
            return
        before, after = (fits(value) for value in doubt.changes[key])
        if not (before or after):
            raise self._contradiction(key, seen)
        if after and not before:
            self._resolve(doubt, 1, seen)
        elif before and not after and self.is_settled:
            self._resolve(doubt, 0, seen)

    def listed(self, prefix: str, sizes: Mapping[str, int]) -> list[Contradiction]:
        """All keys below a prefix, with their sizes: what is wrong with that."""
        wrong = []
        for key in sizes.keys() | {key for key in self.ever if key.startswith(prefix)}:
            try:
                self.sized(key, sizes.get(key))
            except Contradiction as contradiction:
                wrong.append(contradiction)
        return wrong

    def sized(self, key: str, size: int | None) -> None:
        """A key was told to have an object of this size, or none. Raises Contradiction."""
        told = "no object" if size is None else f"an object of {size} bytes"
        self.observe(key, lambda value: size == (None if value is None else Identity.of(value).size), told)

    def present(self, key: str, *, is_there: bool) -> None:
        """A key was told to have an object, or none. Raises Contradiction."""
        self.observe(key, lambda value: is_there == (value is not None), "an object" if is_there else "no object")

    def may_be(self, key: str) -> tuple[Value, ...]:
        """The value of a key, or the two of which it is one."""
        doubt = self.doubts.get(key)
        return (self.values.get(key),) if doubt is None else doubt.changes[key]

    def _resolve(self, doubt: _Doubt, which: int, seen: str) -> None:
        for key, values in doubt.changes.items():
            self.values[key] = values[which]
            self.doubts.pop(key)
            self._history[key].append(f"was in doubt, is {values[which]}, since {seen} was seen of one of its keys")

    def _contradiction(self, key: str, seen: str) -> Contradiction:
        expected = [value or "no object" for value in self.may_be(key)]
        kind = "MIXED UP"
        if seen == "no object":
            kind = "LOST"
        elif expected == ["no object"]:
            kind = "BACK FROM THE DEAD" if self.ever.get(key, set()) - {None} else "OUT OF NOWHERE"
        past = "\n    ".join(self._history[key])
        return Contradiction(f"{kind}: {key} is {seen}, not {' or '.join(expected)}\n    {past}")


@dataclass(slots=True)
class Gaps:
    """The longest time in which nothing of one kind succeeded."""

    times: list[float] = field(default_factory=list)

    def count(self, begin: float, end: float) -> int:
        """How often something succeeded between two moments."""
        return sum(begin < time < end for time in self.times)

    def longest_s(self, begin: float, end: float) -> float:
        """Between two moments. Clients' clocks are one and the same."""
        times = [begin, *sorted(time for time in self.times if begin < time < end), end]
        return max(after - before for before, after in pairwise(times))


class Judge:
    """Reads the lines of the clients' logs in their order, and collects what contradicts what."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.contradictions: list[str] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        """By operation and outcome; of reads `seen` and `failed`."""
        self.reasons: Counter[tuple[str, str]] = Counter()
        """Why what failed or is unknown did, by operation."""
        self.reads, self.writes = Gaps(), Gaps()
        self._names: dict[str, tuple[str, bool]] = {}
        self._peeks: list[tuple[str, str]] = []
        self._versions: dict[tuple[str, str], int] = {}

    def take(self, line: Mapping[str, Any]) -> None:
        """One line. What it contradicts is kept in `contradictions`."""
        try:
            getattr(self, f"_{line['do']}")(line)
        except Contradiction as contradiction:
            self.blame(line, str(contradiction))

    def blame(self, line: Mapping[str, Any], contradiction: str) -> None:
        self.contradictions.append(f"at {line.get('t', 0):.3f}, {line.get('op', line['do'])}: {contradiction}")

    def settle(self) -> None:
        """The storm is over, and all logs were read to their ends."""
        self.ledger.settle()
        for key, value in self._peeks:
            if value not in self.ledger.ever[key]:
                self.contradictions.append(f"OUT OF NOWHERE: a reader saw {value} at {key}, which nobody put there")

    def _begin(self, line: Mapping[str, Any]) -> None:
        must_be_refused = bool(line.get("refuse"))
        self._names[line["n"]] = (line["op"], must_be_refused)
        self.ledger.begin(line["n"], {} if must_be_refused else line["changes"])

    def _end(self, line: Mapping[str, Any]) -> None:
        outcome = line["outcome"]
        name, must_be_refused = self._names.pop(line["n"])
        self.counts[name, outcome] += 1
        if outcome == DONE:
            self.writes.times.append(line["t"])
        elif not must_be_refused:
            self.reasons[name, line["why"]] += 1
        self.ledger.end(line["n"], outcome)
        if must_be_refused and outcome == DONE:
            raise Contradiction(f"{line['n']} was acknowledged against its own condition")

    def _saw(self, line: Mapping[str, Any]) -> None:
        self._seen(line)
        if "mixed" in line:
            raise Contradiction(f"MIXED: {line['key']} is {line['mixed']}")
        self.ledger.saw(line["key"], line["value"])

    def _sized(self, line: Mapping[str, Any]) -> None:
        self._seen(line)
        for key, size in line["sizes"].items():
            self.ledger.sized(key, size)

    def _told(self, line: Mapping[str, Any]) -> None:
        """The answer to a delete says which keys had an object."""
        for key, is_there in line["there"].items():
            self.ledger.present(key, is_there=is_there)

    def _listed(self, line: Mapping[str, Any]) -> None:
        self._seen(line)
        for contradiction in self.ledger.listed(line["prefix"], line["keys"]):
            self.blame(line, str(contradiction))

    def _peeked(self, line: Mapping[str, Any]) -> None:
        """Another client's key, while that may be writing it: any of its versions, but never an older one again."""
        self._seen(line)
        if "mixed" in line:
            raise Contradiction(f"MIXED: {line['key']} is {line['mixed']}")
        if line["value"] is None:
            return
        self._peeks.append((line["key"], line["value"]))
        version = Identity.of(line["value"]).version
        seen = self._versions.setdefault((line["who"], line["key"]), version)
        if version < seen:
            raise Contradiction(f"ROLLED BACK: {line['key']} was at version {seen}, and is at {version}")
        self._versions[line["who"], line["key"]] = version

    def _broke(self, line: Mapping[str, Any]) -> None:
        raise Contradiction(f"the client {line['who']} met what it cannot understand:\n{line['why']}")

    def _failed(self, line: Mapping[str, Any]) -> None:
        self.counts[line["op"], "failed"] += 1
        self.reasons[line["op"], line["why"]] += 1
        if "amaged" in line["why"]:  # the disks are sound: what is damaged was written so
            raise Contradiction(f"DAMAGED: {line.get('key', 'an object')}: {line['why']}")

    def _seen(self, line: Mapping[str, Any]) -> None:
        self.counts[line["op"], "seen"] += 1
        self.reads.times.append(line["t"])
