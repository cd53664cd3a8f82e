"""Positive labels of each crop by similarity and cycle consistency (MPLP, Wang and Zhang 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from gcl_fast.pseudo_labels.neighbours import nearest_neighbours

TILE_ENTRIES = 2**24  # neighbours' neighbours that are compared at a time


def predict_labels(features: Tensor, threshold: float = 0.6, candidates: int = 200) -> Tensor:
    """Predict for every crop the memory rows that show the same person (Wang and Zhang 2020, section 3.3).

    The labels of row i are the k_i other rows that are at least `threshold` similar to it, in descending order. The
    list ends before the first row whose own k_i nearest rows do not contain i.

    Args:
        features: (N, D) float32 unit rows.
        threshold: least inner product, -1..1.
        candidates: most rows that are compared with each row (the paper compares with all).

    Returns:
        (N, L) int64 rows of each row's labels, itself first, padded with -1.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> predict_labels(features, threshold=0.7)
        tensor([[ 0,  1],
                [ 1,  0],
                [ 2, -1]])
    """
    row = torch.arange(len(features), device=features.device).unsqueeze(1)  # (N, 1)
    similarity, neighbours = nearest_neighbours(features, candidates + 1)
    # Without the row itself, or without the farthest one where a list lacks it
    order = (neighbours == row).int().argsort(dim=1, stable=True)[:, :-1]
    similarity, neighbours = similarity.gather(1, order), neighbours.gather(1, order).long()
    is_similar = similarity >= threshold
    count = is_similar.sum(1)  # (N,) k_i
    is_similar, neighbours = is_similar[:, : int(count.max())], neighbours[:, : int(count.max())]
    K = neighbours.shape[1]
    is_mutual = torch.empty_like(is_similar)
    step = max(1, TILE_ENTRIES // max(K * K, 1))
    for begin in range(0, len(features), step):
        rows = slice(begin, begin + step)
        second = neighbours[neighbours[rows]]  # (rows, K, K) neighbours of the neighbours
        in_list = torch.arange(K, device=features.device) < count[rows, None, None]
        is_mutual[rows] = ((second == row[rows, :, None]) & in_list).any(2)
    is_label = (is_similar & is_mutual).int().cumprod(1).bool()
    labels = torch.cat([row, neighbours.where(is_label, -1)], 1)
    return labels[:, : 1 + int(is_label.sum(1).max())]
