"""Draw results/run.csv: bars of ours against its peers, and how time grows with size.

    python benchmarks/plot.py                                # results/bars.png and scaling.png
    python benchmarks/plot.py --csv FILE --out DIR --machine "NVIDIA H100"

Of each contender the newest row counts, on the machine of the newest row unless --machine names another.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.compare import KEY, read
from lib.reporting import RESULTS

Row = dict[str, str]
COLOURS = matplotlib.colormaps["tab10"]
COLUMNS = 4


def newest(rows: list[Row], machine: str | None = None) -> list[Row]:
    """Return the last row of each contender on `machine` (a part of its name), or on the last row's machine.

    Raises:
        ValueError: no row of that machine.
    """
    known = {row["machine"] for row in rows}
    chosen = [name for name in known if machine in name] if machine else [row["machine"] for row in rows[-1:]]
    found = {tuple(row[key] for key in KEY): row for row in rows if row["machine"] in chosen}
    if not found:
        raise ValueError(f"no row of machine {machine!r}; there are {', '.join(sorted(known)) or 'none'}")
    return list(found.values())


def by_part(rows: list[Row]) -> dict[str, dict[int, list[Row]]]:
    """Return the rows by part and size, ours first."""
    parts: dict[str, dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda row: row["contender"] != "ours"):
        parts[row["part"]][int(row["size"])].append(row)
    return parts


def bars(rows: list[Row]) -> Figure:
    """Draw a panel for each part at its largest size with a peer: median ms, whiskers from min to max."""
    parts = {}
    for part, sizes in by_part(rows).items():
        size = max(sizes, key=lambda size: (len(sizes[size]) > 1, size))
        parts[f"{part} ({size:,} {sizes[size][0]['unit']})"] = sizes[size]
    columns = min(COLUMNS, len(parts))
    lines = -(-len(parts) // columns)
    figure = Figure(figsize=(4.2 * columns, 1.9 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (title, contenders) in zip(panels, parts.items()):
        _bars(axes, title, contenders)
    for axes in panels[len(parts) :]:
        axes.remove()
    figure.suptitle(_caption(rows), fontsize=9)
    return figure


def _bars(axes: Axes, title: str, contenders: list[Row]) -> None:
    ours = float(contenders[0]["median_ms"])
    for place, row in enumerate(contenders):
        low, median, high = (float(row[f"{name}_ms"]) for name in ("min", "median", "max"))
        axes.barh(place, median, color=COLOURS(0) if row["contender"] == "ours" else "0.72")
        axes.errorbar(median, place, xerr=[[median - low], [high - median]], color="black", linewidth=0.8)
        times = "" if row["contender"] == "ours" else f", {median / ours:.2g}x"
        shown = f"{median:,.0f}" if median >= 100 else f"{median:.3g}"
        axes.annotate(f" {shown} ms{times}", (high, place), va="center", fontsize=8)
    axes.set_yticks(range(len(contenders)), [row["contender"] for row in contenders], fontsize=8)
    axes.set_xlim(0, 1.5 * max(float(row["max_ms"]) for row in contenders))
    axes.tick_params(axis="x", labelsize=7)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def scaling(rows: list[Row]) -> Figure:
    """Draw median ms against size, a panel for each part."""
    parts = by_part(rows)
    figure = Figure(figsize=(4.2 * len(parts), 3.4), layout="constrained")
    for axes, (part, sizes) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts.items()):
        curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for size in sorted(sizes):
            for row in sizes[size]:
                curves[row["contender"]].append((size, float(row["median_ms"])))
        for contender, points in curves.items():
            axes.loglog(*zip(*points), marker="o", label=contender)
        unit = next(iter(sizes.values()))[0]["unit"]
        axes.set(title=part, xlabel=unit, ylabel="ms")
        axes.set_xticks(sorted(sizes), [f"{size:,}" for size in sorted(sizes)])
        axes.set_xticks([], minor=True)
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.suptitle(_caption(rows), fontsize=9)
    return figure


def _caption(rows: list[Row]) -> str:
    last = max(rows, key=lambda row: row["date"])
    what = (last["machine"], f"{last['threads']} threads", f"torch {last['torch']}", f"commit {last['commit']}")
    return ", ".join((*what, last["date"][:10]))


def main(arguments: list[str] | None = None) -> int:
    """Draw the plots and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=RESULTS / "run.csv")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--machine", help="part of a machine's name")
    options = parser.parse_args(arguments)
    try:
        rows = newest(read(options.csv), options.machine)
    except (FileNotFoundError, ValueError) as error:
        print(f"{options.csv}: {error}; python benchmarks/run.py measures", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    sizes = by_part(rows)
    grown = [row for row in rows if len(sizes[row["part"]]) > 1]
    figures = {"bars": bars(rows)} | ({"scaling": scaling(grown)} if grown else {})
    for name, figure in figures.items():
        path = options.out / f"{name}.png"
        figure.savefig(path, dpi=120)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
