"""Embeddings of all crops of a split, over the ranks of a run."""

from __future__ import annotations

from torch import Tensor, nn

from gcl_fast.config import RunConfig
from gcl_fast.data import ExtractLoader, Records
from gcl_fast.evaluation.protocol import embeddings
from gcl_fast.training.precision import Precision
from gcl_fast.training.ranks import Ranks

BATCH = 64


def extract(encoder: nn.Module, records: Records, config: RunConfig, ranks: Ranks, precision: Precision) -> Tensor:
    """L2-normalized eval-mode embeddings (N, D) of `records`, the same on every rank."""
    loader = ExtractLoader(records, config.size, ranks.device, BATCH, ranks.rank, ranks.world_size)
    return embeddings(encoder, loader, len(records), precision.autocast)
