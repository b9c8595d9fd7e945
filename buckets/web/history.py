"""How much there was over a span of time: as plots, and as a table for those who'd rather read."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Final

from django.utils import timezone

from buckets.services.usage import KEPT, MINUTE
from buckets.usage import history_begin, usage_history
from buckets.web.plots import Figures, Plot, draw
from keys.printable import bytes_text

RANGES: Final = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(days=7),
    "month": timedelta(days=30),
    "all": None,
}
USUAL_RANGE: Final = "day"
POINTS: Final = 84
"""Of a plot, about: as many as one can tell apart on a phone."""
ROWS: Final = 30
_NEWEST: Final = timedelta(minutes=5)
"""A step tells its first sample: the newest one of so short a time is told beside, for what is to be true now."""
_GAPS: Final = 2.5
"""So many times as far from one sample to the next as they are taken, and nobody was there to take them."""


def _bytes_text(value: float | None) -> str:
    return bytes_text(None if value is None else round(value))


def _byte_rate_text(value: float | None) -> str:
    return "–" if value is None else f"{_bytes_text(value)}/s"


def _rate_text(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}/s" if value >= 10 or value == round(value) else f"{value:.2g}/s"


def _count_text(value: float | None) -> str:
    if value is None:
        return "–"
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value:,.0f}"


@dataclass(frozen=True, slots=True)
class _Curve:
    """A line of a plot, and a column of the table: a figure of the samples, and what it is called there."""

    field: str
    name: str
    head: str


@dataclass(frozen=True, slots=True)
class _Kind:
    title: str
    text: Callable[[float | None], str]
    curves: tuple[_Curve, ...]


_PLOTS: Final = (
    _Kind(
        "Throughput",
        _byte_rate_text,
        (_Curve("received_bytes_per_s", "Received", "Received"), _Curve("sent_bytes_per_s", "Sent", "Sent")),
    ),
    _Kind(
        "Requests", _rate_text, (_Curve("requests_per_s", "All", "Requests"), _Curve("puts_per_s", "Writes", "Writes"))
    ),
    _Kind(
        "Space",
        _bytes_text,
        (
            _Curve("used_bytes", "All copies", "Volumes"),
            _Curve("object_bytes", "Objects", "Of objects"),
            _Curve("garbage_bytes", "Garbage", "Garbage"),
        ),
    ),
    _Kind("Objects", _count_text, (_Curve("object_count", "Objects", "Objects"),)),
)


@dataclass(frozen=True, slots=True)
class Cell:
    head: str
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    at: datetime
    cells: list[Cell]


@dataclass(frozen=True, slots=True)
class Table:
    heads: list[str]
    rows: list[Row]
    """Newest first."""


class History:
    """The samples of a span of time that ends now; an unknown ``span`` is a day."""

    ranges = tuple(RANGES)

    def __init__(self, span: str = "", *, as_table: bool = False) -> None:
        self.span = span if span in RANGES else USUAL_RANGE
        self.as_table = as_table
        self._end = timezone.now()
        self._length = RANGES[self.span] or max(self._end - (history_begin() or self._end), timedelta(hours=1))
        self._begin = self._end - self._length

    @cached_property
    def plots(self) -> list[Plot]:
        step, points = self._samples

        def longest(at: datetime) -> timedelta:
            """Of old samples fewer are kept."""
            kept = max((span for age, span in KEPT if self._end - at >= age), default=MINUTE)
            return max(kept, step) * _GAPS

        return [
            draw(
                title=kind.title,
                times=[point["at"] for point in points],
                figures=[Figures(curve.name, [point[curve.field] for point in points]) for curve in kind.curves],
                begin=self._begin,
                end=self._end,
                text=kind.text,
                longest=longest,
                whole=kind.text is not _rate_text,
            )
            for kind in _PLOTS
        ]

    @cached_property
    def table(self) -> Table:
        _, points = self._samples
        curves = [(kind, curve) for kind in _PLOTS for curve in kind.curves]
        rows = [
            Row(point["at"], [Cell(curve.head, kind.text(point[curve.field])) for kind, curve in curves])
            for point in reversed(points)
        ]
        return Table([curve.head for _, curve in curves], rows)

    @property
    def is_empty(self) -> bool:
        return not self._samples[1]

    @cached_property
    def _samples(self) -> tuple[timedelta, list[dict[str, Any]]]:
        """How far apart they are, and they."""
        step = max(MINUTE, -(-self._length // (ROWS if self.as_table else POINTS) // MINUTE) * MINUTE)
        found = usage_history(begin=self._begin, end=self._end, step_s=round(step.total_seconds()))
        newest = usage_history(begin=self._end - _NEWEST, end=self._end, step_s=round(MINUTE.total_seconds())).points
        later = [point for point in newest[-1:] if not found.points or point["at"] > found.points[-1]["at"]]
        return step, found.points + later
