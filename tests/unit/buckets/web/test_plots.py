"""Plots: round levels, round moments, and lines that break where nothing is known."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buckets.web.plots import EDGE_PER_CENT, HEIGHT, MAX_LEVELS, MAX_MARKS, Figures, Plot, draw, nice_levels, time_marks

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def drawn(*values: float | None, times: list[datetime] | None = None) -> Plot:
    return draw(
        title="Requests",
        times=times or [NOON + index * MINUTE for index in range(len(values))],
        figures=[Figures("Requests", values)],
        begin=NOON,
        end=NOON + 10 * MINUTE,
        text=lambda value: f"{value:g}/s",
        longest=lambda _at: 2 * MINUTE,
    )


@pytest.mark.parametrize(
    ("highest", "levels"),
    [(0, [0]), (10, [0, 5, 10]), (7, [0, 2, 4, 6, 8]), (0.3, [0, 0.1, 0.2, 0.3]), (1e9, [0, 5e8, 1e9])],
)
def test_levels_are_round(highest: float, levels: list[float]) -> None:
    assert nice_levels(highest) == pytest.approx(levels)


def test_levels_of_what_is_counted_are_whole() -> None:
    assert nice_levels(2, whole=True) == [0, 1, 2]


@given(st.floats(min_value=1e-6, max_value=1e18), st.booleans())
def test_levels_reach_above_the_highest_value_and_are_few(highest: float, whole: bool) -> None:
    levels = nice_levels(highest, whole=whole)
    assert levels[0] == 0
    assert levels[-1] >= highest * (1 - 1e-6)
    assert levels[-2] < highest
    assert len(levels) <= MAX_LEVELS + 1


@given(st.timedeltas(min_value=timedelta(minutes=2), max_value=timedelta(days=20_000)))
def test_marks_are_few_in_order_and_not_at_the_edges(span: timedelta) -> None:
    marks = time_marks(NOON, NOON + span)
    assert len(marks) <= MAX_MARKS + 1
    assert all(EDGE_PER_CENT <= mark.x <= 100 - EDGE_PER_CENT for mark in marks)
    assert all(one.x < other.x for one, other in pairwise(marks))


@pytest.mark.parametrize(
    ("span", "texts"),
    [
        (timedelta(hours=1), ["12:10", "12:20", "12:30", "12:40", "12:50"]),
        (timedelta(days=1), ["16:00", "20:00", "00:00", "04:00", "08:00"]),
        (timedelta(days=30), ["30 Nov", "7 Dec", "14 Dec", "21 Dec"]),
        (timedelta(days=365), ["Jan 2027", "Apr 2027", "Jul 2027", "Oct 2027"]),
        (timedelta(days=365 * 4), ["2028", "2029", "2030"]),
    ],
)
def test_marks_are_round_moments(span: timedelta, texts: list[str]) -> None:
    assert [mark.text for mark in time_marks(NOON, NOON + span)] == texts


def test_a_line_goes_through_its_values() -> None:
    plot = drawn(0, 10, 5)
    (line,) = plot.lines
    assert line.path == f"M0 {HEIGHT}l100-{HEIGHT} 100 {HEIGHT // 2}"
    assert line.area == f"{line.path}V{HEIGHT}H0z"
    assert line.last == "5/s"
    assert [(level.y, level.text) for level in plot.levels] == [(140, "0/s"), (70, "5/s"), (0, "10/s")]
    assert plot.description == "Requests: from 0/s to 10/s, at last 5/s."


def test_a_line_breaks_where_nothing_is_known() -> None:
    unknown = drawn(10, None, 10, 10).lines[0].path
    silent = drawn(10, 10, 10, times=[NOON, NOON + 5 * MINUTE, NOON + 6 * MINUTE]).lines[0].path
    assert unknown == "M0 0l0 0M200 0l100 0"
    assert silent == "M0 0l0 0M500 0l100 0"


def test_what_stays_the_same_takes_no_room() -> None:
    assert drawn(*[10] * 9, 0).lines[0].path == f"M0 0l800 0 100 {HEIGHT}"


def test_nothing_is_known_at_all() -> None:
    plot = drawn(None, None)
    assert plot.is_empty
    assert plot.levels[0].y == HEIGHT
    assert plot.description == "Requests: nothing is known."
    assert drawn().is_empty
