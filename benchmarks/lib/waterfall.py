"""Draw the waterfall of a training step: what each optimization takes off, down to the machine's ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from lib.reporting import facts

COLOURS = matplotlib.colormaps["tab10"]


def waterfall(rows: Sequence[Mapping[str, Any]], caption: str) -> Figure:
    """Draw a bar for each of train_step.py's `rows`: what is left (blue), what it took off (grey) or added (red)."""
    seconds = [float(row["median_s"]) for row in rows]
    least = seconds[-1] * float(rows[-1]["ceiling_fraction"])
    figure = Figure(figsize=(8.4, 0.42 * (len(rows) + 1) + 1.3), layout="constrained")
    axes = figure.subplots()
    for place, (row, now) in enumerate(zip(rows, seconds)):
        before = seconds[max(place - 1, 0)]
        axes.barh(place, now, color=COLOURS(0))
        axes.barh(place, before - now, left=now, color="0.82" if before >= now else COLOURS(3))
        low, high = float(row["min_s"]), float(row["max_s"])
        axes.errorbar(now, place, xerr=[[now - low], [high - now]], color="black", linewidth=0.8)
        label = f" {now:.3g} s, {float(row['speedup']):.2f}x, {float(row['peak_mb']) / 1024:.2g} GB"
        axes.annotate(label, (max(before, now, high), place), va="center", fontsize=8)
    axes.barh(len(rows), least, color=COLOURS(2))
    needed, ceiling = (float(rows[-1][name]) for name in ("needed_tflop", "convolution_gflops"))
    label = f" {least:.3g} s: {needed:.3g} TFLOP at {ceiling:,.0f} GFLOP/s"
    axes.annotate(label, (least, len(rows)), va="center", fontsize=8)
    axes.axvline(least, color=COLOURS(2), linewidth=0.8, linestyle=":")
    names = [fill(row["rung"], 44) for row in rows]
    axes.set_yticks(range(len(rows) + 1), [*names, "measured convolution ceiling"], fontsize=8)
    axes.set_xlim(0, 1.4 * max(seconds))
    axes.invert_yaxis()
    axes.set_xlabel("seconds a step, median")
    axes.spines[["top", "right"]].set_visible(False)
    first = rows[0]
    axes.set_title(f"{first['stage']} stage, {first['size']} size, batch {first['batch']}", fontsize=10)
    figure.suptitle(caption, fontsize=8)
    return figure


def draw(rows: Sequence[Mapping[str, Any]], folder: Path, device: str = "cpu") -> Path:
    """Write train_step_STAGE_SIZE.png into `folder` and return its path."""
    here = facts(device)
    what = (here["machine"], f"{here['threads']} threads", f"torch {here['torch']}", f"commit {here['commit']}")
    figure = waterfall(rows, ", ".join((*what, here["date"][:10])))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"train_step_{rows[0]['stage']}_{rows[0]['size']}.png"
    figure.savefig(path, dpi=120)
    return path
