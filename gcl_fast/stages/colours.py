"""Describe crops by the colours of clothes, for the first labels of a randomly initialized encoder.

Embeddings of a randomly initialized encoder separate cameras and nothing else, and contrast on such clusters teaches
it no more. The mean log colour of STRIPES stripes of the crop's central third needs no learning. Each camera's mean,
its colour cast, is subtracted. The warm-up clusters on embeddings and colours together.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from gcl_fast.evaluation.inference import to_unit
from gcl_fast.stages.clustering import camera_centred

STRIPES = 8
FLOOR = 0.02  # added before the logarithm, so that black stays finite


def colour_stripes(batches: Iterable[tuple[Tensor, Tensor]], count: int) -> Tensor:
    """Return the mean log colour of horizontal stripes of the central third of each crop.

    Args:
        batches: pairs of normalized crops (B, 3, H, W) and their index (B,), which visit every crop once.
        count: N, the number of crops.

    Returns:
        (N, 3 * STRIPES) float32, not normalized; in record order.
    """
    rows = torch.zeros(count, 3 * STRIPES)
    for images, index in batches:
        third = images.shape[3] // 3
        colour = (to_unit(images[..., third : images.shape[3] - third]) + FLOOR).log()
        rows[index.cpu()] = adaptive_avg_pool2d(colour, (STRIPES, 1)).flatten(1).cpu()
    return rows


def beside_colours(embeddings: Tensor | None, colours: Tensor, cameras: Tensor) -> Tensor:
    """Join embeddings and colours, each camera-centred, so that their inner product is the mean of both cosines.

    Args:
        embeddings: (N, D), or None for colours alone.
        colours: (N, C) of `colour_stripes`.
        cameras: (N,) int64.

    Returns:
        (N, D + C) unit rows, or (N, C) without embeddings.
    """
    colours = camera_centred(colours, cameras)
    if embeddings is None:
        return colours
    return torch.cat([camera_centred(embeddings, cameras), colours], 1) / 2**0.5
