"""The draws of mixup: with whom each crop of a batch is mixed, and how much of it stays."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.losses.cluster_memory import Clusters, cluster_centres
from gcl_fast.losses.soft_labels import Mix, choose_partners
from gcl_fast.memory import MemoryBank
from gcl_fast.random_streams import Stream, numpy_generator

BETA = 0.6  # both parameters of the distribution of weights (Chen et al. 2022)


def draw_mix(
    bank: MemoryBank, clusters: Clusters, index: Tensor, seed: int, epoch: int, position: int, ranks: Ranks
) -> Mix:
    """Draw weights max(w, 1 - w), w ~ Beta(0.6, 0.6), and partners of other clusters; equal arguments, equal draws.

    The ranks' draws in rank order are those that one process would make for the whole batch, and partners come from
    all of it. Centroids are those of the bank as it is now; outliers are clusters of one.

    Args:
        clusters: of the bank's rows, by its labels.
        index: (B,) bank rows of this rank's crops.
    """
    everyone = ranks.gather(index)
    random = numpy_generator(seed, epoch, position, Stream.MIXUP)
    share = random.beta(BETA, BETA, len(everyone)).astype(np.float32)
    drawn = np.maximum(share, 1 - share), random.integers(len(everyone), size=len(everyone))
    mine = slice(ranks.rank * len(index), (ranks.rank + 1) * len(index))
    weight, start = (torch.from_numpy(values[mine]).to(ranks.device, non_blocking=True) for values in drawn)
    partner = choose_partners(bank.labels[index], bank.labels[everyone], start)
    return Mix(
        weight,
        partner,
        clusters.of_row[torch.stack((index, everyone[partner]), 1)],
        cluster_centres(bank.features, clusters),
        bank.temperature,
    )
