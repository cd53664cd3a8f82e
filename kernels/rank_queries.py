"""Where the matches of each query stand in its row of distances: average precision, first match, last match.

Protocol: gallery entries of the query's identity and camera are dropped; average precision is step integration
(scikit-learn's average_precision_score), at which equal distances enter together; places rank equal distances by
gallery index. The op runs on the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gcl_fast.csrc.build import load
from gcl_fast.kernels._checks import register_fake

__all__ = ["rank_queries"]


def identity_ranges(query_ids: Tensor, gallery_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Sort the gallery by identity, and find each query's identity in it.

    Args:
        query_ids: (Q,) integers.
        gallery_ids: (G,) integers.

    Returns:
        order (G,) int64, gallery indices sorted by identity; and ranges (Q, 2) int64, the first place of the query's
        identity in `order` and the one behind its last. Both on the CPU.
    """
    ids, order = gallery_ids.long().cpu().sort(stable=True)
    wanted = query_ids.long().cpu()
    return order, torch.stack([torch.searchsorted(ids, wanted, right=right) for right in (False, True)], 1)


def rank_queries_reference(
    distance: Tensor, order: Tensor, ranges: Tensor, query_cameras: Tensor, gallery_cameras: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Define `rank_queries` in plain PyTorch, by sorting each row."""
    results: list[tuple[float, int, float]] = []
    for row, (begin, end), camera in zip(distance, ranges.tolist(), query_cameras):
        same = torch.zeros(len(gallery_cameras), dtype=torch.bool)
        same[order[begin:end]] = True
        valid = ~(same & (gallery_cameras == camera))
        ranked, places = row[valid].sort(stable=True)
        match = same[valid][places].double()  # (valid gallery,)
        place = match.nonzero().flatten()
        if len(place) == 0:
            results.append((0.0, -1, 0.0))
            continue
        last_of_tie = torch.searchsorted(ranked, ranked[place], right=True) - 1  # equal distances enter together
        average = float((match.cumsum(0)[last_of_tie] / (last_of_tie + 1)).mean())
        results.append((average, int(place[0]), len(place) / (int(place[-1]) + 1)))
    precision, first, penalty = torch.tensor(results, dtype=torch.float64).view(-1, 3).unbind(1)
    return precision, first.long(), penalty


def rank_queries(
    distance: Tensor, order: Tensor, ranges: Tensor, query_cameras: Tensor, gallery_cameras: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rank the gallery for each query, as far as the metrics of retrieval need it.

    Args:
        distance: (Q, G) float32, contiguous, on the CPU; smaller is nearer.
        order, ranges: (G,) and (Q, 2) int64, see `identity_ranges`.
        query_cameras, gallery_cameras: (Q,) and (G,) int64.

    Returns:
        average precision (Q,) float64 in 0..1; place of the first match (Q,) int64, 0 for the nearest, -1 where there
        is no match; and matches / place of the last match (Q,) float64 in 0..1 (Ye et al. 2021).

    Raises:
        RuntimeError: NaN among the distances (the query is named), or tensors of another shape, dtype or range.

    Example:
        >>> order, ranges = identity_ranges(torch.tensor([7]), torch.tensor([7, 8, 7]))
        >>> cameras = torch.tensor([0]), torch.tensor([1, 1, 1])
        >>> rank_queries(torch.tensor([[0.1, 0.2, 0.3]]), order, ranges, *cameras)
        (tensor([0.8333], dtype=torch.float64), tensor([0]), tensor([0.6667], dtype=torch.float64))
    """
    return torch.ops.gcl_fast.rank_queries(distance, order, ranges, query_cameras, gallery_cameras)


load()


@register_fake("rank_queries")
def _(
    distance: Tensor, order: Tensor, ranges: Tensor, query_cameras: Tensor, gallery_cameras: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    precision = distance.new_empty(len(distance), dtype=torch.float64)
    return precision, query_cameras.new_empty(len(distance)), torch.empty_like(precision)
