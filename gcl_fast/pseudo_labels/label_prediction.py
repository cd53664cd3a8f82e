"""Labels of a crop by similarity and cycle consistency (MPLP): the crops it is likely to show the person of."""

from __future__ import annotations

import torch
from torch import Tensor

from gcl_fast.pseudo_labels.neighbours import nearest_neighbours

TILE_ENTRIES = 2**24  # of neighbours' neighbours compared at a time


def predict_labels(features: Tensor, threshold: float = 0.6, candidates: int = 200) -> Tensor:
    """Memory-based positive label prediction (Wang and Zhang 2020, section 3.3), for all rows at once.

    The k_i other rows that are at least `threshold` similar to row i, in descending order, are its labels, up to the
    first one among whose own k_i nearest rows i is not.

    Args:
        features: (N, D) unit rows.
        threshold: of the inner product.
        candidates: most rows looked at for each row (the paper looks at all).

    Returns:
        (N, L) int64: rows of each row's labels, itself first, padded with -1.
    """
    own = torch.arange(len(features), device=features.device).unsqueeze(1)  # (N, 1)
    similarity, neighbours = nearest_neighbours(features, candidates + 1)
    others_first = (
        (neighbours == own).int().argsort(dim=1, stable=True)[:, :-1]
    )  # drops the row itself, or the farthest
    similarity, neighbours = similarity.gather(1, others_first), neighbours.gather(1, others_first).long()
    similar = similarity >= threshold
    count = similar.sum(1)  # (N,) k_i
    similar, neighbours = similar[:, : int(count.max())], neighbours[:, : int(count.max())]
    K = neighbours.shape[1]
    consistent = torch.empty_like(similar)
    step = max(1, TILE_ENTRIES // max(K * K, 1))
    for begin in range(0, len(features), step):
        rows = slice(begin, begin + step)
        theirs = neighbours[neighbours[rows]]  # (rows, K, K)
        within = torch.arange(K, device=features.device) < count[rows, None, None]
        consistent[rows] = ((theirs == own[rows, :, None]) & within).any(2)
    kept = (similar & consistent).int().cumprod(1).bool()
    labels = torch.cat([own, neighbours.where(kept, -1)], 1)
    return labels[:, : 1 + int(kept.sum(1).max())]
