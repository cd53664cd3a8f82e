"""Report on estimated body parameters: an image of them, the doubtful crops, the error where the truth is known."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gcl_fast.bodies import AnnyBody, BodyParameters, OnlineStructureMaps
from gcl_fast.bodies.body_estimator import DOUBTFUL
from gcl_fast.bodies.body_regressor import SIZE
from gcl_fast.data import ExtractLoader, Records
from gcl_fast.evaluation.figures import pair_grid
from gcl_fast.evaluation.inference import to_unit

PREVIEW_CROPS = 48  # crops in the preview, from the most certain to the most doubtful
LISTED_CROPS = 5  # most doubtful crops that are listed by name


def preview(records: Records, params: BodyParameters, path: Path) -> None:
    """Draw crops next to their structure maps, the most certain first, with red labels for doubtful ones.

    Args:
        records: the crops.
        params: their body parameters.
        path: the image file to write.

    Raises:
        UserError: `path` cannot be written.
    """
    order = params.confidence.argsort(descending=True)
    index = order[torch.linspace(0, len(order) - 1, min(PREVIEW_CROPS, len(order))).round().long()]
    crops = to_unit(torch.cat([image for image, _ in ExtractLoader(records.subset(index.numpy()), SIZE)]))
    maps = OnlineStructureMaps(AnnyBody(), params, SIZE, "cpu")(index, torch.zeros(len(index)))
    rows = zip(params.yaw[index].tolist(), params.confidence[index].tolist())
    labels = [(f"{yaw:.0f}° {p:.2f}", "black" if p >= DOUBTFUL else "red") for yaw, p in rows]
    pair_grid(crops, (maps + 1) / 2, labels, path)


def doubts(params: BodyParameters) -> str:
    """Return a sentence that counts the doubtful crops and lists the worst."""
    order = params.confidence.argsort().tolist()
    worst = [params.names[i] for i in order[:LISTED_CROPS] if params.confidence[i] < DOUBTFUL]
    count = int((params.confidence < DOUBTFUL).sum())
    names = f": {', '.join(worst)}{', ...' if count > len(worst) else ''}" if worst else ""
    return f"doubtful (confidence below {DOUBTFUL}): {count} of {len(params)}{names}"


def yaw_error(params: BodyParameters, truth: BodyParameters) -> str:
    """Return a sentence about the yaw's error, over all crops and over those that are not doubtful."""
    error = ((params.yaw - truth.yaw + 180) % 360 - 180).abs()
    certain = params.confidence >= DOUBTFUL

    def summary(error: Tensor) -> str:
        """Return median and shares of the errors (N,) in degrees."""
        shares = (f"{100 * (error <= limit).float().mean():.1f} % within {limit}" for limit in (30, 45))
        return f"median {error.median():.1f} degrees, {', '.join(shares)} ({len(error)} crops)"

    return f"yaw error: {summary(error)}" + (f"; not doubtful: {summary(error[certain])}" if certain.any() else "")


def overlap(params: BodyParameters, truth: BodyParameters) -> str:
    """Return a sentence about the overlap of estimated and true silhouettes, in the crop's view and turned."""
    sources = [OnlineStructureMaps(AnnyBody(), bodies, SIZE, "cpu") for bodies in (params, truth)]

    def mean(turn: float) -> float:
        """Return the mean intersection over union with both bodies turned by `turn` degrees."""
        shares = []
        for index in torch.arange(len(params)).split(64):
            ours, theirs = (source(index, torch.full((len(index),), turn)) < 1 for source in sources)  # white: 1
            shares.append((ours & theirs).sum((1, 2, 3)) / (ours | theirs).sum((1, 2, 3)).clamp_min(1))
        return float(torch.cat(shares).mean())

    return f"silhouettes: intersection over union {mean(0):.3f}, both bodies turned by 90 degrees {mean(90):.3f}"
