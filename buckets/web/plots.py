"""Plots of figures over time, as numbers and words for a template to draw with: no HTML, no database, no clock.

The drawing is `WIDTH` by `HEIGHT` units with its origin at the top left. A template stretches it to the width that the
page has and leaves the height alone, so that one unit of height is one pixel: labels lie outside of what is stretched,
across in per cent and down in pixels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final

WIDTH: Final = 1000
HEIGHT: Final = 140
MAX_LEVELS: Final = 4
"""Lines across the plot above the one of nought."""
MAX_MARKS: Final = 6
"""Labels along the time; more would run into each other on a phone."""
EDGE_PER_CENT: Final = 5.0
"""A label closer to the end of the time would be cut off."""
_DAY: Final = timedelta(days=1)
_SHORT_STRIDES: Final = (
    *(timedelta(minutes=minutes) for minutes in (1, 2, 5, 10, 15, 30)),
    *(timedelta(hours=hours) for hours in (1, 2, 3, 4, 6, 12)),
)
_LONG_STRIDES: Final = tuple(timedelta(days=days) for days in (1, 2, 4, 7))
_MONTHS: Final = (1, 2, 3, 6, 12, 24, 60, 120)


@dataclass(frozen=True, slots=True)
class Figures:
    """What one line is of: a value for each moment, None where nothing is known."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Line:
    """``path`` and ``area`` are SVG path data; all empty where no value is known."""

    name: str
    path: str
    area: str
    last: str
    """The newest value, in words."""


@dataclass(frozen=True, slots=True)
class Level:
    """A line across, ``y`` pixels down."""

    y: int
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment, ``x`` per cent along."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Plot:
    title: str
    lines: list[Line]
    levels: list[Level]
    marks: list[Mark]
    description: str
    """For those who don't see it."""
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def is_empty(self) -> bool:
        return not any(line.path for line in self.lines)


def draw(
    *,
    title: str,
    times: Sequence[datetime],
    figures: Sequence[Figures],
    begin: datetime,
    end: datetime,
    text: Callable[[float], str],
    longest: Callable[[datetime], timedelta],
    whole: bool = False,
) -> Plot:
    """A plot from ``begin`` to ``end``, from nought to a little above the highest value.

    ``longest``: how far behind a moment the next may be; where it is farther, the line is broken. ``whole``: values are
    whole numbers, and so are the levels.
    """
    highest = max((value for one in figures for value in one.values if value is not None), default=0)
    levels = nice_levels(highest, whole=whole)
    top = levels[-1] or 1
    across = [round((at - begin) / (end - begin) * WIDTH) for at in times]
    breaks = {index for index, (at, after) in enumerate(pairwise(times), start=1) if after - at > longest(at)}
    lines = [_line(one, across, breaks, top, text) for one in figures]
    return Plot(
        title=title,
        lines=lines,
        levels=[Level(y=_down(level, top), text=text(level)) for level in levels],
        marks=time_marks(begin, end),
        description=" ".join(_in_words(one, text) for one in figures),
    )


def nice_levels(highest: float, *, whole: bool = False) -> list[float]:
    """Round values at equal distances from 0 to the first that is not below ``highest``; [0] where that is 0."""
    if highest <= 0:
        return [0]
    raw = highest / MAX_LEVELS
    power = 10.0 ** math.floor(math.log10(raw))
    stride = next(nice * power for nice in (1, 2, 5, 10) if nice * power >= raw * (1 - 1e-9))
    if whole:
        stride = max(1.0, stride)
    count = math.ceil(highest / stride - 1e-9)
    return [index * stride for index in range(count + 1)]


def time_marks(begin: datetime, end: datetime) -> list[Mark]:
    """Round moments (UTC) between ``begin`` and ``end``, at most `MAX_MARKS`."""
    span = end - begin
    for stride in _SHORT_STRIDES:
        if span / stride <= MAX_MARKS:
            return _marks(_multiples(begin, end, stride), begin, end, "%H:%M")
    for stride in _LONG_STRIDES:
        if span / stride <= MAX_MARKS:
            return _marks(_multiples(begin, end, stride), begin, end, "%-d %b")
    for months in _MONTHS:
        if span / (_DAY * 30 * months) <= MAX_MARKS:
            break
    return _marks(_firsts(begin, end, months), begin, end, "%b %Y" if months < 12 else "%Y")


def _marks(moments: Sequence[datetime], begin: datetime, end: datetime, form: str) -> list[Mark]:
    placed = [(round((at - begin) / (end - begin) * 100, 1), at) for at in moments]
    return [Mark(x, at.strftime(form)) for x, at in placed if EDGE_PER_CENT <= x <= 100 - EDGE_PER_CENT]


def _multiples(begin: datetime, end: datetime, stride: timedelta) -> list[datetime]:
    midnight = begin.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first = -(-(begin - midnight) // stride)
    return [midnight + index * stride for index in range(first, (end - midnight) // stride + 1)]


def _firsts(begin: datetime, end: datetime, months: int) -> list[datetime]:
    """First days of months (of years, of decades), counted from the year 0 on."""
    begin, end = begin.astimezone(UTC), end.astimezone(UTC)
    counted = range(begin.year * 12 + begin.month, end.year * 12 + end.month)  # January is 0 of its year
    return [datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC) for month in counted if month % months == 0]


def _down(value: float, top: float) -> int:
    return round((1 - value / top) * HEIGHT)


def _line(figures: Figures, across: Sequence[int], breaks: set[int], top: float, text: Callable[[float], str]) -> Line:
    path, area = "", ""
    stretch: list[tuple[int, int]] = []
    stretches = [stretch]
    last = ""
    for index, (x, value) in enumerate(zip(across, figures.values, strict=True)):
        if index in breaks or value is None:
            stretches.append(stretch := [])
        if value is not None:
            stretch.append((x, _down(value, top)))
            last = text(value)
    for points in filter(None, stretches):
        drawn = _path(_without_flats(points))
        path += drawn
        area += f"{drawn}V{HEIGHT}H{points[0][0]}z"
    return Line(name=figures.name, path=path, area=area, last=last)


def _without_flats(points: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Without what lies between two of the same height: most of what an idle store tells."""
    inner = range(1, len(points) - 1)
    flat = {index for index in inner if points[index - 1][1] == points[index][1] == points[index + 1][1]}
    return [point for index, point in enumerate(points) if index not in flat]


def _path(points: Sequence[tuple[int, int]]) -> str:
    """Relative, and so half as long. A lone point is a line to itself, which round ends make a dot."""
    (x, y), *_ = points
    steps = [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(points)] or [(0, 0)]
    return f"M{x} {y}l" + " ".join(f"{right} {down}" for right, down in steps).replace(" -", "-")


def _in_words(figures: Figures, text: Callable[[float], str]) -> str:
    known = [value for value in figures.values if value is not None]
    if not known:
        return f"{figures.name}: nothing is known."
    return f"{figures.name}: from {text(min(known))} to {text(max(known))}, at last {text(known[-1])}."
