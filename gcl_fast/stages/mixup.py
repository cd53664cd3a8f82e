"""Draw the partner of each crop of a batch, and the weight of the crop, for mixup."""

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
    """Draw weights max(w, 1 - w) with w ~ Beta(0.6, 0.6), and partners of other clusters; equal arguments, equal draws.

    The ranks' draws in rank order are those that one process would make for the whole batch, from which the partners
    come. The centroids are computed from the present bank; outliers are clusters of one.

    Args:
        bank: the memory bank, with the labels of the epoch.
        clusters: the clusters of the bank's rows, by its labels.
        index: (B,) bank rows of this rank's crops.
        seed: the seed of the run.
        epoch: the epoch of the step.
        position: the position of the step in its epoch.
        ranks: all of them call this.
    """
    whole_batch = ranks.gather(index)
    random = numpy_generator(seed, epoch, position, Stream.MIXUP)
    share = random.beta(BETA, BETA, len(whole_batch)).astype(np.float32)
    draws = np.maximum(share, 1 - share), random.integers(len(whole_batch), size=len(whole_batch))
    rows = slice(ranks.rank * len(index), (ranks.rank + 1) * len(index))
    weight, start = (torch.from_numpy(values[rows]).to(ranks.device, non_blocking=True) for values in draws)
    partner = choose_partners(bank.labels[index], bank.labels[whole_batch], start)
    return Mix(
        weight,
        partner,
        clusters.of_row[torch.stack((index, whole_batch[partner]), 1)],
        cluster_centres(bank.features, clusters),
        bank.temperature,
    )
