"""Find what became slower than in an earlier run, beyond the noise of both."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TOLERATED = 0.1  # of the earlier median: what other programs on the machine cost now and then
KEY = ("device", "part", "size", "contender")


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a results CSV."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def noise(row: Mapping[str, Any]) -> float:
    """Return how far the median lies above the fastest call, as a share of the median."""
    return 1 - float(row["min_ms"]) / float(row["median_ms"])


def regressions(
    rows: Sequence[Mapping[str, Any]], earlier: Sequence[Mapping[str, Any]], machine: str
) -> tuple[int, list[str]]:
    """Return how many of `rows` have a counterpart in `earlier`, and a line for each that is slower.

    A counterpart is the newest row of the same machine. A row is slower where its median grew by more than a tenth and
    by more than twice the larger noise of the two.
    """
    before = {tuple(str(row[key]) for key in KEY): row for row in earlier if row["machine"] == machine}
    pairs = [(row, before.get(tuple(str(row[key]) for key in KEY))) for row in rows]
    found = [(now, then) for now, then in pairs if then is not None]
    slower = []
    for now, then in found:
        growth = float(now["median_ms"]) / float(then["median_ms"]) - 1
        if growth > max(TOLERATED, 2 * noise(now), 2 * noise(then)):
            slower.append(
                f"{now['part']} ({now['size']}), {now['contender']}: {float(then['median_ms']):.3f} ms on "
                f"{then['date']} ({then['commit']}), now {float(now['median_ms']):.3f} ms, {growth:+.0%}"
            )
    return len(found), slower
