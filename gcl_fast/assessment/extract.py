"""Compute what the identity encoder makes of all crops of a split, shared among the ranks of a run."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gcl_fast.data import ExtractLoader, Records
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.evaluation.inference import ViewsOf, embeddings
from gcl_fast.optim.precision import Precision
from gcl_fast.settings import RunConfig

BATCH = 64


def extract(
    encoder: nn.Module,
    records: Records,
    config: RunConfig,
    ranks: Ranks,
    precision: Precision,
    flip: bool = False,
    views: ViewsOf | None = None,
) -> Tensor:
    """Return the L2-normalized eval-mode embeddings (N, D) of `records`, the same on every rank.

    With `flip` they are directions of means with the embeddings of the mirrored crops. With `views` they are pooled
    with those of the crops' novel views, see `embeddings`.
    """
    loader = ExtractLoader(records, config.size, ranks.device, BATCH, ranks.rank, ranks.world_size)
    return embeddings(encoder, loader, len(records), precision.evaluating, flip, precision.dtype, views)


@torch.no_grad()
def part_feature_statistics(
    encoder: nn.Module, records: Records, config: RunConfig, ranks: Ranks, precision: Precision
) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (P,) of each eval-mode part feature over `records`, the same on every rank."""
    encoder.eval()
    sums: list[Tensor] = []  # for each batch, of the features and of their squares, in float64
    for images, _ in ExtractLoader(records, config.size, ranks.device, BATCH, ranks.rank, ranks.world_size):
        with precision.evaluating():
            parts, _ = encoder(images)
        sums.append(torch.stack([parts.double().sum(0), parts.double().square().sum(0)]))
    mean, square = (ranks.sum(torch.stack(sums).sum(0)) / len(records)).unbind()
    return mean.float(), (square - mean**2).clamp(min=0).sqrt().float()
