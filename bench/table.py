"""What a bench measures, and how it is printed: each figure beside its reference or its bound."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

HEADER = "| what | against | ours | reference | ratio | wanted | |\n|---|---|---|---|---|---|---|"


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table; medians over the rounds.

    ``least`` and ``most`` bound the ratio of ours to the reference, or ours itself where there is no reference.
    With neither the row stands for the record.
    """

    what: str
    against: str
    ours: float
    reference: float | None
    unit: str
    least: float | None = None
    most: float | None = None

    @property
    def ratio(self) -> float | None:
        return None if self.reference is None else self.ours / self.reference

    @property
    def is_met(self) -> bool:
        judged = self.ours if self.ratio is None else self.ratio
        return (self.least is None or judged >= self.least) and (self.most is None or judged <= self.most)

    def row(self) -> str:
        """The figure as a line of a Markdown table under `HEADER`."""
        reference = "" if self.reference is None else number(self.reference)
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        bounds = [f"at least {self.least:g}" if self.least is not None else ""]
        bounds += [f"at most {self.most:g}" if self.most is not None else ""]
        wanted = ", ".join(filter(None, bounds))
        verdict = "" if not wanted else "met" if self.is_met else "MISSED"
        return (
            f"| {self.what} | {self.against} | {number(self.ours)} {self.unit} | {reference} | {ratio} "
            f"| {wanted} | {verdict} |"
        )


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a bench takes."""

    rounds: int
    seconds: int
    large_bytes: int
    objects: int = 1_000_000
    """Of the larger of the master's buckets."""


def number(value: float) -> str:
    """Whole where it is large, three digits where it is small."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def in_turn(effort: Effort, ours: Callable[[], float], reference: Callable[[], float]) -> tuple[float, float]:
    """Medians of both sides, measured alternately."""
    pairs = [(ours(), reference()) for _ in range(effort.rounds)]
    return statistics.median(one for one, _ in pairs), statistics.median(other for _, other in pairs)
