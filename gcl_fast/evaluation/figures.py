"""Draw the figures of a run: grids of novel views, training curves, quality of views by yaw."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gcl_fast.atomic import write_atomically, write_target
from gcl_fast.table import COUNTS

GAP, LABEL, MARGIN = 4, 18, 66  # pixels between images, above the columns, left of the rows
PAIRS = 8  # pairs of crop and structure map in a row
RETRIEVAL = ("mAP", "rank1", "mINP")
CLUSTERING = ("ari", "purity", "ari_before", "outliers", "largest", "recall", "eps")


def view_grid(rows: Sequence[Mapping[str, Tensor | None]], yaws: Sequence[float], path: Path) -> None:
    """Write a PNG with the structure maps, generated views and true views of crops, labelled by yaw.

    Args:
        rows: per crop `crop` (3, H, W), `structure` (Y, 1, H, W), `drawn` (Y, 3, H, W) and optionally `transfer` and
            `truth` (Y, 3, H, W), all in 0..1.
        yaws: Y degrees; 0 is labelled x_rec, the others x_new.
        path: of the PNG; its folder is created.

    Raises:
        ValueError: there is no crop to draw.
        UserError: `path` cannot be written.
    """
    if not rows:
        raise ValueError(f"view_grid: no crop to draw in {path}")
    crops = [crop for row in rows if (crop := row["crop"]) is not None]
    H, W = crops[0].shape[1:]
    lines = [
        [name for name in ("structure", "transfer", "drawn", "truth") if row.get(name) is not None] for row in rows
    ]
    width = MARGIN + (len(yaws) + 1) * (W + GAP)
    height = LABEL + sum(len(names) * (H + GAP) + 2 * GAP for names in lines)
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    left = [MARGIN + column * (W + GAP) for column in range(len(yaws) + 1)]
    for x, label in zip(left, ["crop", *(f"{'x_new' if yaw else 'x_rec'} {yaw:g}°" for yaw in yaws)]):
        draw.text((x, 3), label, "black", font)
    top = LABEL
    for row, crop, names in zip(rows, crops, lines):
        sheet.paste(_to_pil(crop), (left[0], top))
        for name in names:
            draw.text((4, top + H // 2 - 6), {"truth": "true view"}.get(name, name), "black", font)
            images = row[name]
            assert images is not None
            for x, image in zip(left[1:], images):
                sheet.paste(_to_pil(image), (x, top))
            top += H + GAP
        top += 2 * GAP
    write_target(path, lambda file: sheet.save(file, format="PNG"))


def pair_grid(crops: Tensor, maps: Tensor, labels: Sequence[tuple[str, str]], path: Path) -> None:
    """Write a PNG of crops with their structure maps, eight pairs per row.

    Args:
        crops: (N, 3, H, W) in 0..1.
        maps: (N, 1, H, W) in 0..1.
        labels: N pairs of text and colour; the text stands above the images.
        path: of the PNG; its folder is created.

    Raises:
        UserError: `path` cannot be written.
    """
    count, _, height, width = crops.shape
    columns = min(count, PAIRS)
    wide, high = 2 * width + 2 * GAP, height + LABEL
    sheet = Image.new("RGB", (columns * wide, -(-count // columns) * high), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for i, (crop, structure, (text, colour)) in enumerate(zip(crops, maps, labels)):
        left, top = i % columns * wide, i // columns * high
        draw.text((left, top + 3), text, colour, font)
        sheet.paste(_to_pil(crop), (left, top + LABEL))
        sheet.paste(_to_pil(structure), (left + width, top + LABEL))
    write_target(path, lambda file: sheet.save(file, format="PNG"))


def _to_pil(image: Tensor) -> Image.Image:
    """Convert (1 or 3, H, W) in 0..1 to a PIL image."""
    pixels = (image.detach().float().cpu().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())


def training_curves(metrics: Path, path: Path) -> None:
    """Plot the metrics of a run over the steps of all stages: retrieval, clustering, novel views and losses.

    Args:
        metrics: metrics.jsonl, as `read_metrics` reads it.
        path: of the figure (.png, .svg or .pdf); its folder is created.

    Raises:
        OSError: `metrics` cannot be read, or `path` cannot be written.
    """
    write_atomically(path, _writer(curves_figure(read_metrics(metrics)), path))


def curves_figure(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Return the figure of `training_curves`.

    Args:
        records: {"stage", "step", "time", name: value, ...} each, in the order of training.
    """
    offset, total = {}, 0  # step at which each stage begins
    for stage in dict.fromkeys(record["stage"] for record in records):
        offset[stage] = total
        total += max(record["step"] for record in records if record["stage"] == stage)

    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for record in records:
        for name, value in record.items():
            if name not in ("stage", "step", "time", *COUNTS):
                step = offset[record["stage"]] + record["step"]
                curves.setdefault(_panel(name), {}).setdefault(name, []).append((step, value))

    panels = sorted(curves, key=["retrieval", "clustering", "clusters", "novel views", "losses"].index)
    figure = Figure(figsize=(9, 0.6 + 2.3 * max(1, len(panels))), layout="constrained")
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, i + 1)
        for name, points in curves[panel].items():
            axes.plot(*zip(*points), marker="o" if len(points) < 30 else "", markersize=3, linewidth=1, label=name)
        for stage, begin in offset.items():
            axes.axvline(begin, color="0.8", linewidth=0.8, zorder=0)
            if i == 0:
                axes.text(begin, 1.02, f" {stage}", transform=axes.get_xaxis_transform(), fontsize=8)
        if panel == "losses":
            axes.set_yscale("symlog", linthresh=0.01)
            axes.set_ylim(bottom=min(0, *(value for points in curves[panel].values() for _, value in points)))
            axes.set_xlabel("step")
        axes.set_ylabel(panel)
        axes.set_xlim(0, max(total, 1))
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def _writer(figure: Figure, path: Path) -> Callable[[BinaryIO], object]:
    """Return what writes a figure to an open file, in the format that the suffix of `path` names."""
    return lambda file: figure.savefig(file, dpi=120, format=path.suffix[1:])


def read_metrics(metrics: Path) -> list[dict[str, Any]]:
    """Read the lines {"stage", "step", "time", name: value, ...} of metrics.jsonl; others are skipped.

    A kill may cut a line off.

    Raises:
        OSError: the file cannot be read.
    """
    records = []
    for line in metrics.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and "stage" in record and isinstance(record.get("step"), int):
            records.append(record)
    return records


def _panel(name: str) -> str:
    """Return the panel that shows a metric."""
    if name in RETRIEVAL or name.startswith("rank"):
        return "retrieval"
    if name in CLUSTERING:
        return "clustering"
    if name == "clusters":
        return "clusters"
    return "novel views" if name.startswith("ssim") else "losses"


def yaw_curves(quality: Mapping[str, Any], path: Path) -> None:
    """Plot the quality of views over yaw, with one panel per kind of metric.

    Args:
        quality: result of `ViewQuality.measure`; the values of `real` are dotted lines.
        path: of the figure (.png, .svg or .pdf); its folder is created.

    Raises:
        UserError: `path` cannot be written.
    """
    yaws = {float(yaw): metrics for yaw, metrics in quality["yaws"].items()}
    names = list(dict.fromkeys(name for metrics in yaws.values() for name in metrics))
    panels = {
        "SSIM": [name for name in names if name.startswith("ssim")],
        "mean |difference|": [name for name in names if name.startswith("error")],
        "identity": [name for name in names if name in RETRIEVAL],
        "Fréchet distance": [name for name in names if name.startswith("frechet")],
    }
    panels = {title: metrics for title, metrics in panels.items() if metrics}
    figure = Figure(figsize=(9, 0.6 + 2.3 * len(panels)), layout="constrained")
    for i, (title, lines) in enumerate(panels.items()):
        axes = figure.add_subplot(len(panels), 1, i + 1)
        for name in lines:
            points = [(yaw, metrics[name]) for yaw, metrics in sorted(yaws.items()) if name in metrics]
            (line,) = axes.plot(*zip(*points), marker="o", markersize=4, linewidth=1, label=name)
            if name in quality["real"]:
                value = quality["real"][name]
                axes.axhline(value, color=line.get_color(), linestyle=":", label=f"{name}, real crops")
        axes.set_ylabel(title)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.set_xticks(sorted(yaws))
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.set_xlabel("yaw (degrees)")
    write_target(path, _writer(figure, path))
