"""Time all hot parts: ours and its peers in one run, against the ceilings of this machine.

    python benchmarks/run.py                                    # quick: some minutes on 2 cores
    python benchmarks/run.py --suite full --device cuda         # the paper's networks, larger N
    python benchmarks/run.py --only networks --against benchmarks/results/run.csv

Prints min / median / max of a call, units per second, peak memory and the fraction of the ceiling, and appends to
results/run.csv. --against FILE compares with the newest rows of this machine in FILE: what became slower beyond the
noise of both runs is listed, and the exit status is 1; it is 2 where FILE has no such row. The networks' world is made
in datasets/benchmark.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from gcl_fast.process import prepare_process

if __name__ == "__main__":
    prepare_process()  # may restart the process: before torch is imported

import torch

from gcl_fast.table import text_table
from lib.ceilings import Ceilings, measure_ceilings
from lib.compare import read, regressions
from lib.networks import network_groups
from lib.parts import Part
from lib.parts import groups as part_groups
from lib.reporting import RESULTS, append, facts, measure_all

COLUMNS = ["min ms", "median", "max", "per second", "peak MB", "ceiling", "ours is"]


def groups(device: str, full: bool) -> dict[str, Callable[[], Iterator[Part]]]:
    """Return all parts, by group."""
    return part_groups(device, full) | network_groups(device, full)


GROUPS = list(groups("cpu", False))


def rows_of(part: Part, ceilings: Ceilings, device: str, repeats: int, seconds: float) -> list[dict[str, Any]]:
    """Measure every contender of `part`."""
    rows = []
    for name, measured in measure_all(part.contenders, repeats, device, seconds).items():
        share = ceilings.fraction(measured["median"], part.flops, part.moved, part.arithmetic)
        rows.append(
            {
                "device": device,
                "part": part.name,
                "size": part.size,
                "unit": part.unit,
                "contender": name,
                "min_ms": round(measured["min"] * 1e3, 4),
                "median_ms": round(measured["median"] * 1e3, 4),
                "max_ms": round(measured["max"] * 1e3, 4),
                "repeats": measured["repeats"],
                "per_second": float(f"{part.size / measured['median']:.4g}"),
                "peak_mb": measured["peak_mb"],
                "ceiling_fraction": round(share, 4),
                "matrix_gflops": round(ceilings.matrix / 1e9, 1),
                "convolution_gflops": round(ceilings.convolution / 1e9, 1),
                "copy_gbs": round(ceilings.copy / 1e9, 2),
            }
        )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table of one part."""
    lines = [
        [
            row["contender"],
            *(f"{row[name]:.3f}" for name in ("min_ms", "median_ms", "max_ms")),
            f"{row['per_second']:,.1f}",
            f"{row['peak_mb']:,.1f}",
            f"{row['ceiling_fraction']:.1%}",
            "" if row is rows[0] else f"{row['median_ms'] / rows[0]['median_ms']:.2f}x",
        ]
        for row in rows
    ]
    title = f"{rows[0]['part']}, {rows[0]['size']:,} {rows[0]['unit']}"
    print(f"\n{text_table([[title, *COLUMNS], *lines], longest=60)}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, append and compare; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=("quick", "full"), default="quick")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--only", nargs="+", choices=GROUPS, help="these groups of parts")
    parser.add_argument("--repeats", type=int, default=10, help="of each contender, after two to warm up")
    parser.add_argument("--seconds", type=float, default=15.0, help="for a part, from its third round on")
    parser.add_argument("--csv", type=Path, default=RESULTS / "run.csv", help="where the rows are appended")
    parser.add_argument("--against", type=Path, metavar="FILE", help="an earlier CSV to compare with")
    options = parser.parse_args(arguments)
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.against and not options.against.is_file():
        print(f"--against {options.against}: no such file; a run leaves one, see --csv", file=sys.stderr)
        return 2
    earlier = read(options.against) if options.against else []  # before this run appends to the same file
    torch.manual_seed(0)
    ceilings, full = cache(measure_ceilings), options.suite == "full"
    print(", ".join(f"{key} {value}" for key, value in facts(device).items()))
    print(f"ceilings: {ceilings(device)}")
    measured: dict[str, list[dict[str, Any]]] = defaultdict(list)  # by device
    for part in chain.from_iterable(groups(device, full)[name]() for name in options.only or GROUPS):
        where = part.device or device
        rows = rows_of(part, ceilings(where), where, options.repeats, options.seconds)
        show(rows)
        append(options.csv, rows, where)
        measured[where] += rows
    print(f"appended to {options.csv}")
    if not options.against:
        return 0
    machines = {where: facts(where)["machine"] for where in measured}
    counts, found = zip(*(regressions(rows, earlier, machines[where]) for where, rows in measured.items()))
    compared, slower, total = sum(counts), list(chain(*found)), sum(map(len, measured.values()))
    if not compared:
        known = ", ".join(sorted({row["machine"] for row in earlier})) or "none"
        print(
            f"{options.against}: nothing to compare with; none of its rows is of these parts on "
            f"{' or '.join(machines.values())} (machines there: {known})",
            file=sys.stderr,
        )
        return 2
    print(f"compared {compared} of {total} with {options.against}: {len(slower)} slower beyond the noise")
    print("\n".join(f"  {line}" for line in slower))
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
