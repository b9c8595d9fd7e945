"""CSV and its kin as rows of plain text."""

import csv
import io
from dataclasses import dataclass

from buckets.previews.text import visible

MAX_ROWS = 500
MAX_COLUMNS = 60
MAX_CELL = 300
_DELIMITERS = "\t;,|"
_SAMPLE_LINES = 10


@dataclass(frozen=True, slots=True)
class Table:
    header: list[str]
    rows: list[list[str]]
    is_whole: bool
    """Whether all rows and columns are there."""
    width: int
    """Columns of the widest row that was read, shown or not."""


def read_table(text: str, *, is_cut: bool = False) -> Table | None:
    """None for what is no table. The first row names the columns. ``is_cut``: the last line may be a part of one."""
    if is_cut and "\n" in text:
        text = text[: text.rindex("\n")]
    rows: list[list[str]] = []
    width, is_whole = 0, not is_cut
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text)):
            if not row:
                continue
            if len(rows) > MAX_ROWS:
                is_whole = False
                break
            width = max(width, len(row))
            rows.append([_cell(cell) for cell in row[:MAX_COLUMNS]])
    except csv.Error:  # a field of more than 128 KiB: a quote that was opened and never closed
        return None
    if not rows:
        return None
    columns = min(width, MAX_COLUMNS)
    header, *body = ([*row, *[""] * (columns - len(row))] for row in rows)
    return Table(header=header, rows=body, is_whole=is_whole and width <= MAX_COLUMNS, width=width)


def _delimiter(text: str) -> str:
    """Which sign stands in the first lines most steadily. `csv.Sniffer` may take minutes over an odd file."""
    lines = [line for line in text.split("\n", _SAMPLE_LINES)[:_SAMPLE_LINES] if line]

    def steadiness(sign: str) -> tuple[int, int]:
        counts = [line.count(sign) for line in lines]
        return min(counts, default=0), sum(counts)

    return max(_DELIMITERS, key=steadiness)


def _cell(text: str) -> str:
    short = text if len(text) <= MAX_CELL else text[:MAX_CELL] + "…"
    return visible(short)
