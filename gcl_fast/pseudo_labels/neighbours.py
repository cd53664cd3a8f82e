"""Exact nearest neighbours by inner product: tiles of a matrix product, each merged into a running top-k."""

from __future__ import annotations

import torch
from torch import Tensor

from gcl_fast.kernels.merge_top_k import merge_top_k

TILE = (
    2048  # rows and columns of one product: 16 MB of fp32, large enough for full speed, small enough to stay in cache
)


def nearest_neighbours_reference(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Define `nearest_neighbours` by a stable descending sort of each row of `features @ features.T`."""
    similarity, index = (features @ features.T).sort(dim=1, descending=True, stable=True)
    return similarity[:, :k], index[:, :k].int()


def nearest_neighbours(features: Tensor, k: int, rows: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
    """Search for the k rows with the largest inner product with each row, itself included, best first.

    Besides the result, memory holds one tile. On the CPU the product of two blocks is computed once and merged into the
    lists of both, so a search for all rows costs half the arithmetic of the full product.

    Args:
        features: (N, D) float32, L2-normalized rows for cosine similarity.
        k: neighbours per row; cut to N.
        rows: range of the rows to search for; None: all.

    Returns:
        similarity (rows, k) float32 and index (rows, k) int32. Equal similarities rank by index; which of several that
        equal the k-th are there is unspecified on a GPU.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> similarity, index = nearest_neighbours(features, k=2)
        >>> index
        tensor([[0, 1],
                [1, 0],
                [2, 1]], dtype=torch.int32)
    """
    begin, end = rows or (0, len(features))
    k = min(k, len(features))
    if features.is_cuda:
        return nearest_neighbours_cuda(features, k, begin, end)
    features = features.contiguous()
    return search_for(features[begin:end], features, k, everyone=end - begin == len(features))


def search_for(queries: Tensor, features: Tensor, k: int, everyone: bool = False) -> tuple[Tensor, Tensor]:
    """Search on the CPU for the neighbours of queries (Q, D) among features (N, D), k <= N.

    Args:
        queries: (Q, D) float32.
        features: (N, D) float32.
        k: neighbours per query.
        everyone: the queries are the features, and each product of two blocks serves the lists of both.
    """
    Q, N = len(queries), len(features)
    similarity = features.new_full((Q, k), -torch.inf)
    index = torch.zeros(Q, k, dtype=torch.int32)
    buffer = features.new_empty(min(TILE, Q) * min(TILE, N))
    # Blocks in this order offer candidates to every list by ascending index, which is how ties are settled.
    for r in range(0, Q, TILE):
        for c in range(r if everyone else 0, N, TILE):
            block, columns = queries[r : r + TILE], features[c : c + TILE]
            tile = buffer[: len(block) * len(columns)].view(len(block), len(columns))
            torch.mm(block, columns.T, out=tile)
            merge_top_k(similarity, index, tile, r, c)
            if everyone and c > r:
                merge_top_k(similarity, index, tile.T, c, r)
    return similarity, index


def nearest_neighbours_cuda(features: Tensor, k: int, begin: int, end: int) -> tuple[Tensor, Tensor]:
    """Search for the rows begin..end-1 by torch's own operations; this also runs on a CPU."""
    similarity = features.new_empty(end - begin, k)
    index = torch.empty(end - begin, k, dtype=torch.int32, device=features.device)
    step = max(1, 2**28 // max(1, len(features)))  # 1 GB of products at a time
    for r in range(begin, end, step):
        best = (features[r : min(r + step, end)] @ features.T).topk(k)
        place = slice(r - begin, r - begin + len(best.values))
        similarity[place], index[place] = best.values, best.indices.int()
    index, order = index.sort(dim=1)  # top-k leaves equal similarities in no stated order
    similarity, order = similarity.gather(1, order).sort(dim=1, descending=True, stable=True)
    return similarity, index.gather(1, order)
