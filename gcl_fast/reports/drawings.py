"""Draw the figures of a page as SVG, whose text and axes take the page's colour in light and in dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from cycler import cycler
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from gcl_fast.evaluation.figures import CLUSTERING, curves_figure
from gcl_fast.evaluation.pairs import BINS, OperatingPoint, PairSimilarities

INK = "#010203"  # stands for the page's text colour until the SVG is written
SAME, DIFFERENT = "#2a9d8f", "#e07a2f"  # readable on white and on black
COLOURS = ("#4c8dd6", "#e07a2f", "#2a9d8f", "#d1495b", "#9b72cf", "#b0893c", "#d670ad", "#7f8c8d")
STYLE: Any = {
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.prop_cycle": cycler(linestyle=["-", "--"]) * cycler(color=COLOURS),
    "font.size": 9,
}
RASTER_DPI = 160  # of the points of a map
READINGS = 400  # points of a curve; a longer one is drawn by means of equal groups
HISTOGRAM_BINS = 100
Reading = Mapping[str, Any]


def svg(draw: Callable[[], Figure], label: str) -> Markup:
    """Return a figure as an SVG element.

    Args:
        draw: makes the figure, in the style of the page.
        label: what the figure shows, for those who do not see it.
    """
    with rc_context({**STYLE, "svg.hashsalt": label}):
        file = io.StringIO()
        draw().savefig(file, format="svg", dpi=RASTER_DPI, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # a page of several figures would hold each id several times
    text = text.replace(INK, "currentColor")
    return Markup('<svg role="img" aria-label="{}"').format(label) + Markup(text.removeprefix("<svg"))


def is_clustering(name: str) -> bool:
    """Return whether a metric describes a clustering."""
    return name == "clusters" or name in CLUSTERING


def curves(readings: Sequence[Reading], stage: str, *, clustering: bool) -> Markup | None:
    """Return the curves of a stage, or None where no metric has two readings.

    What is read once, at the end of the stage, is in the table of results.

    Args:
        readings: of the run.
        stage: its name.
        clustering: draw the metrics of the clusterings, or all others.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for reading in readings:
        for name, value in reading.items():
            if reading["stage"] != stage or name in ("stage", "step", "time") or is_clustering(name) != clustering:
                continue
            if isinstance(value, int | float) and math.isfinite(value):
                label = name.replace("$", r"\$")  # else matplotlib would read a formula
                points.setdefault(label, []).append((reading["step"], value))
    lines = {name: np.array(line, dtype=float) for name, line in points.items() if len(line) > 1}
    if not lines:
        return None
    thinned = [{"stage": stage, "step": x, name: y} for name, line in lines.items() for x, y in _thin(line)]
    what = "clusterings" if clustering else "losses and metrics"
    return svg(lambda: curves_figure(thinned), f"{stage}: curves of {what} over the steps: {', '.join(lines)}")


def _thin(points: np.ndarray) -> list[list[float]]:
    """Return points (N, 2) as they are, or more than READINGS of them as means of equal groups."""
    if len(points) <= READINGS:
        return points.tolist()
    return [group.mean(0).tolist() for group in np.array_split(points, READINGS)]


def histogram(pairs: PairSimilarities, point: OperatingPoint) -> Markup:
    """Return the distributions of the cosines of pairs of one person and of two, with a threshold."""

    def draw() -> Figure:
        figure = Figure(figsize=(5, 3.2), layout="constrained")
        axes = figure.subplots()
        edges = np.linspace(-1, 1, HISTOGRAM_BINS + 1)
        for counts, name, colour in ((pairs.same, "same person", SAME), (pairs.different, "two people", DIFFERENT)):
            share = counts.view(HISTOGRAM_BINS, -1).sum(1).numpy() / max(int(counts.sum()), 1)
            axes.stairs(share, edges, fill=True, alpha=0.35, color=colour)
            axes.stairs(share, edges, color=colour, label=f"{name}: {int(counts.sum()):,} pairs")
        axes.axvline(point.threshold, color=INK, linestyle="--", linewidth=1)
        axes.text(point.threshold, 1.01, f"{point.threshold:.4f}", transform=axes.get_xaxis_transform(), ha="center")
        used = ((pairs.same + pairs.different).view(HISTOGRAM_BINS, -1).sum(1) > 0).nonzero()
        axes.set_xlim(edges[int(used[0])], edges[int(used[-1]) + 1])
        axes.set_xlabel("cosine of a pair across cameras")
        axes.set_ylabel("share of the pairs")
        axes.legend(frameon=False, fontsize=8)
        return figure

    return svg(draw, "Histogram of the cosines of pairs of the same person and of two people, with the threshold")


def roc(pairs: PairSimilarities, point: OperatingPoint) -> Markup:
    """Return the true over the false accept rate, with the point of a threshold."""

    def draw() -> Figure:
        figure = Figure(figsize=(5, 3.2), layout="constrained")
        axes = figure.subplots()
        far, tar = (rates.numpy() for rates in pairs.rates())
        bins = np.unique(np.linspace(0, BINS, 2001).astype(int))
        least = 1 / max(int(pairs.different.sum()), 1)
        axes.plot(np.maximum(far[bins], least), tar[bins], linewidth=1.4, color=COLOURS[0])
        axes.plot([max(point.far, least)], [point.tar], "o", color=INK, markersize=5)
        axes.set_xscale("log")
        axes.set_xlim(least, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("false accept rate (two people accepted)")
        axes.set_ylabel("true accept rate")
        axes.grid(alpha=0.25, linewidth=0.5)
        return figure

    return svg(draw, "Receiver operating characteristic: true accept rate over false accept rate, with the threshold")


def scatter(points: np.ndarray, groups: np.ndarray, label: str, *, legend: bool) -> Markup:
    """Return a map of points, a colour for each group; colours repeat where there are many groups.

    Args:
        points: (N, 2) places.
        groups: (N,) integers; groups below 1 (distractors, unknown people) are grey.
        label: what the figure shows.
        legend: name the groups; for a few of them.
    """

    def draw() -> Figure:
        figure = Figure(figsize=(4.8, 4.4), layout="constrained")
        axes = figure.subplots()
        size = 3 if len(points) > 5000 else 8
        # One image in the SVG: a mark for each of thousands of points would be megabytes
        marks: Any = {"linewidths": 0, "rasterized": True}
        x, y = points.T
        grey = groups < 1
        axes.scatter(x[grey], y[grey], s=size / 2, color="#888888", alpha=0.35, **marks)
        for number, group in enumerate(np.unique(groups[~grey])):
            members = groups == group
            colour = COLOURS[number % len(COLOURS)] if legend else _hue(number)
            axes.scatter(x[members], y[members], s=size, color=colour, label=str(group), **marks)
        axes.set_axis_off()
        if legend:
            axes.legend(
                title="camera", markerscale=2, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5)
            )
        return figure

    return svg(draw, label)


def _hue(number: int) -> tuple[float, float, float]:
    """Return the colour of a group, far from those of the groups before it."""
    from matplotlib.colors import hsv_to_rgb

    hue, saturation, value = number * 0.618 % 1, 0.75 - 0.3 * (number % 2), 0.65 + 0.2 * (number % 3 == 0)
    return tuple(float(part) for part in hsv_to_rgb((hue, saturation, value)))  # type: ignore[return-value]
