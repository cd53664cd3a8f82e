"""Draw novel views of single crops, for figures and files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.io import encode_png

from gcl_fast.atomic import write_target
from gcl_fast.data import ExtractLoader
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.evaluation.figures import view_grid
from gcl_fast.evaluation.inference import novel_views, to_unit
from gcl_fast.evaluation.view_pooling import NOVEL_YAWS
from gcl_fast.inputs import Inputs
from gcl_fast.models import GCL
from gcl_fast.optim.precision import Precision

YAWS = (0.0, *NOVEL_YAWS)  # degrees; the view at 0 is the reconstruction


class CropViews(NamedTuple):
    """Holds the views of a crop at Y yaws; images are in [0, 1]."""

    crop: Tensor  # (3, H, W)
    structure: Tensor  # (Y, 1, H, W)
    transfer: Tensor | None  # (Y, 3, H, W) the crop's carried pixels; None for a generator that takes none
    drawn: Tensor  # (Y, 3, H, W)
    truth: Tensor | None  # (Y, 3, H, W), None but for the embedded dataset


def each_view(
    gcl: GCL,
    inputs: Inputs,
    split: str,
    index: list[int],
    ranks: Ranks,
    precision: Precision,
    yaws: Sequence[float] = YAWS,
) -> Iterator[tuple[str, CropViews]]:
    """Yield (file name, views) of crops of a split.

    Args:
        gcl: the networks.
        inputs: the dataset and its structure maps.
        split: "train", "query" or "gallery".
        index: record indices of the crops.
        ranks: their device is used.
        precision: of the forward passes.
        yaws: degrees.
    """
    records, turns = getattr(inputs.dataset, split), inputs.structure_maps(split, ranks.device)
    yaw = torch.tensor(yaws, device=ranks.device)
    for images, position in ExtractLoader(records.subset(index), inputs.config.size, ranks.device):
        for image, i in zip(images, (index[place] for place in position.tolist())):
            copies = image.expand(len(yaws), -1, -1, -1)
            turn = turns.turn(torch.full_like(yaw, i).long(), yaw)
            views = novel_views(gcl, copies, turn, precision.evaluating)
            transfer = None if views.carried is None else to_unit(views.carried.colour)
            truth = None
            if inputs.true_views is not None:
                truth = inputs.true_views([records.names[i]] * len(yaws), yaw.cpu())[0].float() / 255
            crop, structure = to_unit(image[None])[0], (turn.novel + 1) / 2
            yield records.names[i], CropViews(crop, structure, transfer, to_unit(views.images), truth)


def draw_views(
    gcl: GCL,
    inputs: Inputs,
    split: str,
    index: list[int],
    path: Path,
    ranks: Ranks,
    precision: Precision,
    yaws: Sequence[float] = YAWS,
) -> None:
    """Write a grid: for each crop and yaw its structure map, its carried pixels, its generated and its true view.

    Args:
        gcl: the networks.
        inputs: the dataset and its structure maps.
        split: "train", "query" or "gallery".
        index: record indices of the crops.
        path: the PNG file to write.
        ranks: their device is used.
        precision: of the forward passes.
        yaws: degrees.

    Raises:
        UserError: `path` cannot be written.
    """
    rows = [views._asdict() for _, views in each_view(gcl, inputs, split, index, ranks, precision, yaws)]
    view_grid(rows, yaws, path)


def write_view(path: Path, image: Tensor) -> None:
    """Write an image (3, H, W) in [0, 1] as PNG; raise a UserError where it cannot be written."""
    png = encode_png((image * 255).round().to(torch.uint8).cpu())
    write_target(path, lambda file: file.write(png.numpy().tobytes()))
