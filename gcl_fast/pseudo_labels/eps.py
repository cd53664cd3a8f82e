"""The radius of DBSCAN, read off the sparse Jaccard graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def eps_by_rho(similarity: Tensor, rho: float) -> float:
    """Mean of the smallest round(rho * M) of the M non-zero distances above the diagonal (the official rule).

    Pairs that are not stored have distance 1. Where rho asks for less than one pair, one is taken.

    Args:
        similarity: (N, N) symmetric sparse CSR, complete: no pair with similarity above 0 is left out.
        rho: share of all pairs, 0..1.
    """
    N = similarity.shape[0]
    start, column = similarity.crow_indices(), similarity.col_indices()
    row = torch.repeat_interleave(torch.arange(N, dtype=column.dtype), start.diff())
    distance = 1 - similarity.values()[column > row]
    distance = distance[distance > 0]
    zeros = int((similarity.values()[column > row] == 1).sum())
    pairs = N * (N - 1) // 2 - zeros
    if pairs == 0:
        return 0.0  # all points are equal
    wanted = max(1, round(rho * pairs))
    if wanted > len(distance):
        return float((distance.double().sum() + (wanted - len(distance))) / wanted)
    nearest = torch.from_numpy(np.partition(distance.numpy(), wanted - 1)[:wanted])
    return float(nearest.double().mean())
