"""Write the hotspot page: one HTML file with its plots inside, which opens from disk and fetches nothing."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from lib.ceilings import Ceilings
from profiler.chrome_trace import Profile, Span

TOP = 25  # kernels in the table
COLOURS = matplotlib.colormaps["tab20"]

STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;font-size:13px}td,th{padding:2px 9px;text-align:right;border-bottom:1px solid #e4e4e4}
td:first-child,th:first-child{text-align:left;max-width:34em;overflow-wrap:anywhere}svg{max-width:100%;height:auto}
.note{color:#666;font-size:13px}"""


def write_page(path: Path, title: str, facts: Iterable[str], profile: Profile, ceilings: Ceilings) -> None:
    """Write the page of `profile`; `facts` are lines below the title."""
    sections = [
        ("Where a step's time goes", _note(NOTES["regions"]) + _table(region_table(profile))),
        ("Timeline of the median step", _svg(timeline(profile))),
        ("Top kernels", _note(NOTES["kernels"]) + _table(kernel_table(profile, ceilings))),
        ("Roofline", _note(NOTES["roofline"]) + _svg(roofline(profile, ceilings))),
        ("Memory over time", _note(NOTES["memory"]) + _svg(memory(profile))),
    ]
    body = "".join(f"<h2>{escape(name)}</h2>\n{content}\n" for name, content in sections)
    lines = "<br>\n".join(escape(fact) for fact in facts)
    page = f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n<h1>{escape(title)}</h1>\n<p>{lines}</p>\n{body}"
    path.write_text(f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n{page}</html>\n')


NOTES = {
    "regions": "A backward function counts for the region that ran its forward; “backward” holds those that "
    "belong to none.",
    "kernels": "Time is without what the operation called. FLOPs are those of products and convolutions; bytes assume "
    "that inputs are read once and outputs written once. “of ceiling”: least possible time at the measured rates over "
    "the time taken.",
    "roofline": "Each dot is an operation on one size of input, its area the share of the time, its number that of the "
    "table. The lines are the rates measured on this machine just before; caches can carry a dot above the slope.",
    "memory": "What tensors made since the first of these steps still hold: weights and older tensors are not counted.",
}


def region_table(profile: Profile) -> list[list[str]]:
    """Return a header and a row for each region: ms a step forward, backward, both, share, and GPU time if any."""
    steps, device = len(profile.steps), profile.device_us
    table = [["region", "forward ms", "backward ms", "ms", "share"] + (["GPU ms"] if device else [])]
    for region, (forward, backward) in profile.regions().items():
        row = [f"{us / steps / 1e3:.2f}" for us in (forward, backward, forward + backward)]
        row.append(f"{(forward + backward) / profile.wall:.1%}")
        table.append([region, *row] + ([f"{device.get(region, 0.0) / steps / 1e3:.2f}"] if device else []))
    return table


def kernel_table(profile: Profile, ceilings: Ceilings, top: int = TOP) -> list[list[str]]:
    """Return a header and a row for each of the `top` kernels, longest first."""
    steps, occupied = len(profile.steps), any(kernel.occupancy for kernel in profile.kernels)
    header = ["kernel", "shapes", "calls", "ms a step", "share", "GFLOP", "MB", "GFLOP/s", "GB/s", "of ceiling"]
    table = [header + (["occupancy"] if occupied else [])]
    for number, kernel in enumerate(profile.kernels[:top], 1):
        rate, moved = kernel.flops / kernel.us / 1e3, kernel.bytes / kernel.us / 1e3
        share = ceilings.fraction(kernel.us / 1e6, kernel.flops, kernel.bytes, "convolution")
        row = [
            f"{number}. {kernel.name}",
            kernel.shapes,
            f"{kernel.calls / steps:.0f}",
            f"{kernel.us / steps / 1e3:.2f}",
        ]
        row += [f"{kernel.us / profile.wall:.1%}", f"{kernel.flops / steps / 1e9:.2f}"]
        row += [f"{kernel.bytes / steps / 1e6:.1f}", f"{rate:.1f}", f"{moved:.1f}", f"{share:.0%}"]
        mean = f"{sum(kernel.occupancy) / len(kernel.occupancy):.0f} %" if kernel.occupancy else ""
        table.append(row + ([mean] if occupied else []))
    return table


def median_step(profile: Profile) -> tuple[float, float]:
    """Return start and end of the step of median duration."""
    return sorted(profile.steps, key=lambda step: step[1] - step[0])[len(profile.steps) // 2]


def timeline(profile: Profile) -> Figure:
    """Draw a lane for each region, forward dark and backward light."""
    start, end = median_step(profile)
    spans = [span for span in profile.spans if span.end > start and span.start < end]
    regions = list(dict.fromkeys(span.region for span in spans))
    figure = Figure(figsize=(10.5, 0.6 + 0.32 * len(regions)), layout="constrained")
    axes = figure.subplots()
    for lane, region in enumerate(regions):
        for backward in (False, True):
            bars = [_bar(span, start, end) for span in spans if (span.region, span.backward) == (region, backward)]
            axes.broken_barh(bars, (lane - 0.4, 0.8), color=COLOURS(2 * (lane % 10) + backward), linewidth=0)
    axes.set_yticks(range(len(regions)), regions)
    axes.set_ylim(len(regions) - 0.5, -0.5)
    axes.set_xlim(0, (end - start) / 1e3)
    axes.set_xlabel("ms (dark: forward, light: backward)")
    return figure


def _bar(span: Span, start: float, end: float) -> tuple[float, float]:
    left, right = max(span.start, start), min(span.end, end)
    return (left - start) / 1e3, (right - left) / 1e3


def roofline(profile: Profile, ceilings: Ceilings) -> Figure:
    """Draw the achieved rate against arithmetic intensity, below the ceilings."""
    figure = Figure(figsize=(10.5, 4.8), layout="constrained")
    axes = figure.subplots()
    busy = sum(kernel.us for kernel in profile.kernels)
    dots = [kernel for kernel in profile.kernels if kernel.flops and kernel.us > 1e-4 * busy]
    numbers = {id(kernel): number for number, kernel in enumerate(profile.kernels[:TOP], 1)}
    intensity = [kernel.flops / kernel.bytes for kernel in dots]
    rate = [kernel.flops / kernel.us / 1e3 for kernel in dots]
    axes.scatter(intensity, rate, [20 + 2500 * kernel.us / busy for kernel in dots], alpha=0.5)
    for kernel, x, y in zip(dots, intensity, rate):
        axes.annotate(str(numbers.get(id(kernel), "")), (x, y), fontsize=7, ha="center", va="center")
    low, high = min([0.1, *intensity]), max([1e4, *intensity])
    for name, peak in (("convolution " + ceilings.dtype, ceilings.convolution), ("matrix float32", ceilings.matrix)):
        ridge = peak / ceilings.copy
        axes.plot([low, ridge, high], [low * ceilings.copy / 1e9, peak / 1e9, peak / 1e9], label=f"{name}, then copy")
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte", ylabel="GFLOP/s")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def memory(profile: Profile, points: int = 2000) -> Figure:
    """Draw the MB of living tensors made since the profile began; dotted lines separate the steps."""
    figure = Figure(figsize=(10.5, 2.8), layout="constrained")
    axes = figure.subplots()
    stride = max(1, len(profile.memory) // points)
    bins = [profile.memory[i : i + stride] for i in range(0, len(profile.memory), stride)]
    begin = profile.steps[0][0]
    axes.plot([(part[0][0] - begin) / 1e6 for part in bins], [max(held for _, held in part) / 1e6 for part in bins])
    for start, _ in profile.steps:
        axes.axvline((start - begin) / 1e6, color="grey", linestyle=":", linewidth=0.8)
    axes.set(xlabel="s", ylabel="MB held", ylim=(0, None))
    return figure


def _svg(figure: Figure) -> str:
    """Return the figure as inline SVG whose text stays text."""
    out = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata=nothing)
    text = out.getvalue()
    return text[text.index("<svg") :]  # without the XML prologue, which names a DTD on the network


def _table(table: Sequence[Sequence[str]]) -> str:
    rows = ["".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) for row, tag in zip(table, _tags(len(table)))]
    return "<table>" + "".join(f"<tr>{row}</tr>\n" for row in rows) + "</table>"


def _tags(rows: int) -> list[str]:
    return ["th"] + ["td"] * (rows - 1)


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>\n'
