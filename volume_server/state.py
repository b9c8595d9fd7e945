"""`N.state`: what the log of volume N cannot say of it. JSON, replaced whole (docs/format.md, section 3). Pure."""

import json
from dataclasses import dataclass, field
from typing import Any

from volume_server.damage import Damage

MAX_EPOCH = (1 << 32) - 1


class StateInvalid(ValueError):
    """These bytes are not a volume's state."""


ROLES = frozenset({"primary", "secondary"})
SHARED, ALONE, CLOSED = "shared", "alone", "closed"
"""How a volume that has been replicated stands: with peers that must have all it takes, without any, or closed."""
MAX_HISTORY = 16


@dataclass(frozen=True, slots=True)
class Replica:
    """What this copy of a replicated volume must know after a restart. See `volume_server.replication`."""

    role: str
    mode: str = SHARED
    revision: int = 0
    """Of the file that the history is of."""
    history: tuple[tuple[int, int], ...] = ()
    """(epoch, start offset), the newest last: two copies that both know a pair are equal before that offset."""


@dataclass(slots=True)
class State:
    epoch: int = 1
    sealed: str | None = None
    unsynced: list[tuple[int, int]] = field(default_factory=list)
    scrubbed_ms: int | None = None
    """When the last full pass ended, by the master's clock."""
    damaged_count: int = 0
    damaged: tuple[Damage, ...] = ()
    damaged_revision: int = 0
    """Of the file in which that damage lies; 0: nothing was ever written down, and the checkpoint's figure counts."""
    replica: Replica | None = None
    """None: the volume was never replicated."""


def encode(state: State) -> bytes:
    damaged = None
    if state.damaged_revision:
        damaged = {
            "revision": state.damaged_revision,
            "count": state.damaged_count,
            "listed": [damage.to_json() for damage in state.damaged],
        }
    fields: dict[str, object] = {
        "epoch": state.epoch,
        "sealed": state.sealed,
        "unsynced": state.unsynced,
        "scrubbed_ms": state.scrubbed_ms,
        "damaged": damaged,
    }
    if state.replica is not None:
        fields["replication"] = {
            "role": state.replica.role,
            "mode": state.replica.mode,
            "revision": state.replica.revision,
            "history": state.replica.history,
        }
    return json.dumps(fields).encode()


def decode(raw: bytes) -> State:
    """Fields that older versions did not know may be absent. Raises StateInvalid."""
    try:
        found = json.loads(raw)
        sealed, scrubbed_ms, damaged = found["sealed"], found.get("scrubbed_ms"), found.get("damaged")
        state = State(
            _whole(found["epoch"]),
            None if sealed is None else str(sealed),
            [(_whole(start), _whole(end)) for start, end in found.get("unsynced", [])],
            None if scrubbed_ms is None else _whole(scrubbed_ms),
        )
        if damaged is not None:
            state.damaged_revision = _whole(damaged["revision"])
            state.damaged_count = _whole(damaged["count"])
            state.damaged = tuple(map(Damage.of_json, damaged["listed"]))
        if found.get("replication") is not None:
            state.replica = _replica(found["replication"])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise StateInvalid(repr(error)) from error
    if state.epoch > MAX_EPOCH:
        raise StateInvalid(f"epoch {state.epoch}")
    return state


def _replica(found: dict[str, Any]) -> Replica:
    """Raises KeyError, TypeError, ValueError."""
    role, mode = found["role"], found["mode"]
    if role not in ROLES or mode not in (SHARED, ALONE, CLOSED):
        raise ValueError(f"a {role!r} that is {mode!r}")
    return Replica(role, mode, _whole(found["revision"]), decode_history(found["history"]))


def decode_history(found: Any) -> tuple[tuple[int, int], ...]:
    """Of JSON. Raises TypeError, ValueError."""
    if len(found) > MAX_HISTORY:
        raise ValueError(f"a history of {len(found)} epochs")
    return tuple((_whole(epoch), _whole(start)) for epoch, start in found)


def _whole(value: Any) -> int:
    """A JSON number without a fraction, from 0 on; what JSON calls true is none. Raises TypeError."""
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} is not a whole number")
    return value
