"""What a volume server tells of needles: answers of ``POST /admin/needles``, bytes in, typed values out.

As in `volumes.reports` nothing is believed for being signed. Errors are `keys.errors.Invalid`.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from keys.errors import Invalid

MAX_HEAD_BYTES = 4096
MAX_NEEDLE = (1 << 63) - 1
"""Needle ids fit a signed column (see `volumes.models.MAX_LEASE`)."""
_LIVE = struct.Struct("<QII")
_WORD_BYTES = 8


class Live(NamedTuple):
    """A needle and its bytes, as rows name them."""

    needle: int
    size: int
    crc32: int


@dataclass(frozen=True, slots=True)
class NeedlePage:
    """One page of a listing: all needles behind the page before, up to and with ``through``, by id."""

    volume: int
    revision: int
    epoch: int
    live: list[tuple[int, int, int]]
    """As `Live`; plain tuples, of which there are many."""
    appended_ms: Sequence[int]
    """When each of the live ones was written, by the master's clock."""
    dead: Sequence[int]
    """They have a tombstone."""
    damaged: Sequence[int]
    """The index knows them, and their records cannot be read or are not genuine."""
    through: int
    """The last id that the page speaks of; of the last page the highest that there can be."""
    next: str
    """What the next page is asked for with; empty: this was the last."""


class State(StrEnum):
    LIVE = "live"
    DEAD = "dead"
    DAMAGED = "damaged"
    ABSENT = "absent"
    PENDING = "pending"


class NeedleState(NamedTuple):
    """What a server knows of one needle at this moment."""

    state: State
    size: int
    crc32: int
    appended_ms: int


def parse_page(raw: object) -> NeedlePage:
    """Of the bytes that were answered. Raises Invalid."""
    if not isinstance(raw, bytes):
        raise Invalid("A page of needles is bytes.")
    line, _, _ = raw[:MAX_HEAD_BYTES].partition(b"\n")
    head = _json(line)
    counts = [_number(head, name) for name in ("live", "dead", "damaged")]
    columns = memoryview(raw)[len(line) + 1 :]
    live_bytes = counts[0] * _LIVE.size
    if len(columns) != live_bytes + sum(counts) * _WORD_BYTES:
        raise Invalid("A page of needles has another length than its head says.")
    live = list(_LIVE.iter_unpack(columns[:live_bytes]))
    words = struct.unpack(f"<{sum(counts)}Q", columns[live_bytes:])
    dead, damaged = words[counts[0] : counts[0] + counts[1]], words[counts[0] + counts[1] :]
    through, following = head.get("through"), head.get("next")
    if following is None:
        following = ""
    if not isinstance(following, str) or (through is None) == bool(following):
        raise Invalid("A page of needles does not say how it goes on.")
    last = MAX_NEEDLE if through is None else _needle(through)
    ends = [live[-1][0]] if live else []
    ends += [ids[-1] for ids in (dead, damaged) if ids]
    if any(end > last for end in ends):
        raise Invalid("A page of needles goes beyond its own end.")
    return NeedlePage(
        volume=_number(head, "volume"),
        revision=_number(head, "revision"),
        epoch=_number(head, "epoch"),
        live=live,
        appended_ms=words[: counts[0]],
        dead=dead,
        damaged=damaged,
        through=last,
        next=following,
    )


def parse_states(body: object) -> dict[int, NeedleState]:
    """Raises Invalid."""
    rows = body.get("needles") if isinstance(body, Mapping) else None
    if not isinstance(rows, list):
        raise Invalid("A list of needles is expected.")
    return dict(map(_state, rows))


def _state(row: object) -> tuple[int, NeedleState]:
    if not isinstance(row, list) or len(row) != 5:
        raise Invalid("A needle is told by five values.")
    name, *numbers, state = row
    if (
        not all(isinstance(number, int) and number >= 0 for number in numbers)
        or state not in State.__members__.values()
    ):
        raise Invalid("A needle is told by its id, three numbers and a state.")
    return _needle(name), NeedleState(State(state), *numbers)


def _json(line: bytes) -> Mapping[str, object]:
    try:
        head = json.loads(line)
    except ValueError as error:
        raise Invalid("A page of needles begins with a line of JSON.") from error
    if not isinstance(head, dict):
        raise Invalid("A page of needles begins with a JSON object.")
    return head


def _number(head: Mapping[str, object], name: str) -> int:
    value = head.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Invalid(f"{name} is a whole number.")
    return value


def _needle(value: object) -> int:
    if isinstance(value, str) and len(value) == 16 and all(digit in "0123456789abcdef" for digit in value):
        return int(value, 16)
    raise Invalid("A needle is 16 hex digits in lower case.")
