"""Write tables as text, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gcl_fast.intervals import interval_text
from gcl_fast.reports.page import render
from gcl_fast.table import COUNTS, is_fraction, markdown_text, text_table

ABSENT = "–"


@dataclass(frozen=True)
class Table:
    """Holds a table: cells as text, as many in every row, the header first."""

    title: str
    rows: list[list[str]]
    note: str = ""  # what a reader must know to read the cells


def as_text(tables: Sequence[Table]) -> str:
    """Return tables for a terminal."""
    return "\n\n".join(
        "\n".join([table.title, text_table(table.rows), *([table.note] if table.note else [])]) for table in tables
    )


def as_markdown(tables: Sequence[Table]) -> str:
    """Return tables in Markdown, with the columns after the first to the right.

    Example:
        >>> print(as_markdown([Table("Metrics", [["run", "mAP"], ["a|b", "72.1"]])]))
        ### Metrics
        <BLANKLINE>
        | run | mAP |
        | --- | ---: |
        | a\\|b | 72.1 |
        <BLANKLINE>
    """
    lines = []
    for table in tables:
        header, *rows = [[markdown_text(cell) for cell in row] for row in table.rows]
        rule = ["---", *["---:"] * (len(header) - 1)]
        lines += [f"### {table.title}", "", *(f"| {' | '.join(row)} |" for row in (header, rule, *rows)), ""]
        lines += [markdown_text(table.note), ""] if table.note else []
    return "\n".join(lines)


def as_html(title: str, tables: Sequence[Table]) -> str:
    """Return tables as one HTML page."""
    return render("tables.html", title=title, tables=tables)


def mean_text(values: Sequence[float], scale: int = 100) -> str:
    """Return the mean, with half the width of its 95 % confidence interval where there are several values.

    Args:
        values: one for each run.
        scale: 100 for fractions, which are written in per cent with one decimal; 1 for seconds and counts.
    """
    return interval_text([scale * value for value in values], ",.1f" if scale == 100 else ",.0f")


def metric_columns(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of all metrics that are numbers, in order of appearance; those of COUNTS are last."""
    names = {name: None for metrics in measured for name, value in metrics.items() if isinstance(value, int | float)}
    return sorted(names, key=lambda name: COUNTS.index(name) if name in COUNTS else -1)


def metric_cell(name: str, values: Sequence[Any]) -> str:
    """Return the mean of a metric over runs as text; ABSENT where a run does not have it."""
    if not all(isinstance(value, int | float) for value in values):
        return ABSENT
    return mean_text(values, 100 if is_fraction(name) else 1)
