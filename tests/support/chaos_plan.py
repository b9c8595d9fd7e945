"""What happens when in a chaos run: drawn from a seed, so that it can be played again.

Faults come as from a shuffled deck: each kind once before any comes again. How the machine interleaves them with the
load is not drawn, so that a run may have to be repeated to fail again.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.support.chaos_proxy import DIRECTIONS, UP, Weather

SERVERS, MASTER, WORKER, BROKER, DATABASE, LINK, VOLUME = (
    "server", "master", "worker", "broker", "database", "link", "volume"
)  # fmt: skip
KILL, PAUSE, STOP, EMPTY, FILL, DRAIN, MAINTAIN, COMPACT, SCRUB, DAMAGE = (
    "killed", "paused", "stopped", "emptied", "filled up", "drained", "maintained", "compacted", "scrubbed", "damaged"
)  # fmt: skip
WEATHERS = ("cut off", "stalled", "delayed", "throttled", "reset", "closed", "half-closed", "corrupted")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: what it hits, how long it lasts, how often it comes in one deck."""

    what: str
    target: str
    least_s: float
    most_s: float
    count: int = 1

    @property
    def name(self) -> str:
        return f"{self.target} {self.what}"


KINDS = (
    Kind(KILL, SERVERS, 0.1, 15, 3),
    Kind(PAUSE, SERVERS, 0.5, 15, 2),
    Kind(STOP, SERVERS, 0.1, 12, 2),
    Kind(EMPTY, SERVERS, 12, 15),
    Kind(FILL, SERVERS, 3, 12),
    Kind(DRAIN, SERVERS, 5, 25),
    Kind(MAINTAIN, SERVERS, 3, 10),
    Kind(KILL, MASTER, 0.1, 4),
    Kind(PAUSE, MASTER, 0.5, 5),
    Kind(STOP, MASTER, 0.1, 3),
    Kind(KILL, WORKER, 0.5, 10),
    Kind(PAUSE, WORKER, 1, 10),
    Kind(STOP, WORKER, 0.5, 5),
    Kind(KILL, BROKER, 0.5, 8),
    Kind(PAUSE, BROKER, 0.5, 6),
    Kind(STOP, BROKER, 0.5, 5),
    Kind(DAMAGE, BROKER, 0, 0),
    Kind(KILL, DATABASE, 0.1, 3),
    Kind(PAUSE, DATABASE, 0.5, 5),
    Kind(STOP, DATABASE, 0.1, 3),
    Kind(COMPACT, VOLUME, 0, 0, 3),
    Kind(SCRUB, VOLUME, 0, 0),
    *(Kind(what, LINK, 1, 10, 2 if what in {"cut off", "corrupted"} else 1) for what in WEATHERS),
)

_REST_S = (0.2, 3.0)
"""Pause between the beginnings of two faults. They last longer, so several go on at the same time."""
_CALM_S = 2.0
_START_S = 10.0
_MOST_SERVERS = 2
"""So many servers at a time are dead, paused or full: of four, so that something is left to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """One fault: what happens to whom, from when on and for how long, in seconds after the storm's begin."""

    at_s: float
    what: str
    target: str
    name: str
    """Of the server or the link; the same as `target` where there is one alone."""
    lasts_s: float
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return f"{self.target} {self.what}"

    def __str__(self) -> str:
        lasting = f" for {self.lasts_s:.1f} s" if self.lasts_s else ""
        detail = " ".join(f"{name}={value}" for name, value in self.detail.items())
        return f"{self.name} {self.what}{lasting}{f' ({detail})' if detail else ''}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(
    *, seed: int, seconds: float, servers: Iterable[str], links: Iterable[str], without: Iterable[str] = ()
) -> list[Step]:
    """The faults of a storm of ``seconds``, in their order; all are over at its end. ``without``: names of kinds.

    The machine's abilities decide nothing but what is left out, so a seed means the same everywhere else.
    """
    rng = random.Random(seed)
    servers, links = list(servers), list(links)
    left_out = set(without)
    steps: list[Step] = []
    at_s = _CALM_S
    for kind in _deck(rng):
        if at_s >= seconds - _CALM_S:
            return [step for step in steps if step.kind not in left_out]
        most_s = min(kind.most_s, seconds / 3, seconds - at_s)
        if kind.what == EMPTY and most_s < kind.least_s:
            continue  # before that nobody misses the server
        lasts_s = round(rng.uniform(min(kind.least_s, most_s), most_s), 2)
        names = {SERVERS: servers, LINK: links}.get(kind.target, [kind.target])
        if kind.target == SERVERS:
            busy = {step.name for step in steps if step.target == SERVERS and step.at_s + step.lasts_s + 1 > at_s}
            names = [name for name in names if name not in busy] if len(busy) < _MOST_SERVERS else []
        else:  # one fault at a time on each link and each of the others; these take long to start
            rest_s = 1 if kind.target == LINK else _START_S
            busy = {step.name for step in steps if step.lasts_s and step.at_s + step.lasts_s + rest_s > at_s}
            names = [name for name in names if name not in busy]
        if names:
            steps.append(
                Step(round(at_s, 2), kind.what, kind.target, rng.choice(names), lasts_s, _detail(rng, kind.what))
            )
            at_s += rng.uniform(*_REST_S)
    raise AssertionError("a deck never ends")


def _deck(rng: random.Random) -> Iterator[Kind]:
    while True:
        deck = [kind for kind in KINDS for _ in range(kind.count)]
        rng.shuffle(deck)
        yield from deck


def _detail(rng: random.Random, what: str) -> dict[str, Any]:
    if what == KILL:
        return {"family": rng.random() < 0.5}
    if what == FILL:
        return {"left_bytes": int(2 ** rng.uniform(0, 22))}
    if what in {COMPACT, SCRUB}:
        return {"draw": rng.random()}
    if what == "delayed":
        return {"delay_s": round(2 ** rng.uniform(-6, 0.5), 3)}
    if what == "throttled":
        return {"bytes_per_s": int(2 ** rng.uniform(14, 20))}
    if what in {"reset", "closed", "half-closed"}:
        ending = {"reset": "reset", "closed": "close", "half-closed": "half"}[what]
        return {"end_after": int(2 ** rng.uniform(8, 20)), "ending": ending, "direction": rng.choice(DIRECTIONS)}
    if what == "corrupted":
        return {"flips": round(rng.uniform(0.02, 0.5), 2), "direction": rng.choice(DIRECTIONS)}
    return {}


def weather_of(step: Step) -> Weather:
    """What a step on a link makes of its weather.

    What servers ask the master and each other is signed whole, so any bit of that may be flipped on its way;
    elsewhere what no signature or CRC covers is TLS's to guard, and the bytes of objects alone are hit.
    """
    if step.what == "cut off":
        return Weather(cut=True)
    if step.what == "stalled":
        return Weather(stalled=True)
    if step.what == "corrupted":
        return Weather(
            **(step.detail | ({"direction": UP} if is_signed(step.name) else {})),
            flips_objects=not is_signed(step.name),
        )
    return Weather(**step.detail)


def is_signed(link: str) -> bool:
    """Whether a signature covers every request that goes over a link."""
    return link.startswith("servers>") or (link.endswith(">master") and not link.startswith("clients"))
