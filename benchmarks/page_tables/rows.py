"""Reads the rows of the result files, and writes figures as text."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from gcl_fast.intervals import interval

Row = dict[str, str]
MACHINE = "AVX512"  # machine class whose rows the pages show where they do not name another


class Files:
    """Reads the result files of a checkout.

    Args:
        root: of the checkout.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows = cache(self._rows)

    def _rows(self, name: str) -> list[Row]:
        """Return the rows of benchmarks/results/NAME.csv (docs/versions.csv for `versions`), oldest first."""
        path = self.root / ("docs" if name == "versions" else "benchmarks/results") / f"{name}.csv"
        with path.open(newline="") as file:
            return sorted(csv.DictReader(file), key=lambda row: row.get("date", "")[:19])


def newest(rows: Iterable[Row], keys: Sequence[str], machine: str = MACHINE) -> list[Row]:
    """Return the newest row of each combination of `keys` on a class of machines, in the order of first appearance.

    Args:
        machine: a part of the machine's name.

    Raises:
        ValueError: no row of that machine.
    """
    latest = {tuple(row[key] for key in keys): row for row in rows if machine in row["machine"]}
    if not latest:
        raise ValueError(f"no row of a machine called {machine}")
    return list(latest.values())


def one(rows: Iterable[Row], **values: str) -> Row:
    """Return the last of `rows` that has all `values`.

    Raises:
        ValueError: there is none.
    """
    matching = [row for row in rows if all(row[name] == value for name, value in values.items())]
    if not matching:
        raise ValueError("no row with " + ", ".join(f"{name}={value}" for name, value in values.items()))
    return matching[-1]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def caption(rows: Sequence[Row], command: str) -> str:
    """Return one line that names machine, dates, commits and command of `rows`."""
    machines = ", ".join(sorted({row["machine"] for row in rows}))
    dates = ", ".join(sorted({row["date"][:10] for row in rows}))
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    return f"*2 cores of {machines}, no GPU; {dates}; commit {commits}; `{command}`.*"


def percent(value: str | float, digits: int = 1) -> str:
    """Return a fraction as per cent."""
    return f"{100 * float(value):.{digits}f} %" if value != "" else ""


def decimal(value: str) -> str:
    """Return a similarity of 0 to 1 with three digits."""
    return f"{float(value):.3f}" if value else ""


def times(value: float, digits: int = 1) -> str:
    """Return a factor."""
    return f"{value:.{digits}f}x"


def points(value: float) -> str:
    """Return a difference of fractions in signed points."""
    return f"{100 * value:+.1f}".replace("-", "−")


def mean_and_interval(values: Sequence[float], digits: int = 1) -> str:
    """Return the mean of three seeds in per cent with its 95 % interval."""
    mean, half = interval(values)
    assert half is not None  # there are several seeds
    return f"{100 * mean:.{digits}f} ± {100 * half:.{digits}f}"


def duration(seconds: float) -> str:
    """Return a duration in its largest fitting unit."""
    for unit, length in (("years", 365 * 86400), ("days", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.2g} s"
