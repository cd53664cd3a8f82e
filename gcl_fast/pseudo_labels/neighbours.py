"""Exact nearest neighbours by inner product: tiles of a matrix product, each merged into a running top-k."""

from __future__ import annotations

import torch
from torch import Tensor

from gcl_fast.csrc.build import load

load()

TILE = (
    2048  # rows and columns of one product: 16 MB of fp32, large enough for full speed, small enough to stay in cache
)


def nearest_neighbours_reference(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The definition: a stable descending sort of every row of `features @ features.T`."""
    similarity, index = (features @ features.T).sort(dim=1, descending=True, stable=True)
    return similarity[:, :k], index[:, :k].int()


def nearest_neighbours(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k rows with the largest inner product with each row, itself included, best first.

    Memory is one tile beside the result. On the CPU the product of two blocks is computed once and merged into the
    lists of both, so the search costs half the arithmetic of the full product.

    Args:
        features: (N, D) float32, L2-normalized rows for cosine similarity.
        k: neighbours per row; cut to N.

    Returns:
        similarity (N, k) float32 and index (N, k) int32. Equal similarities rank by index on the CPU and in an
        unspecified order on a GPU.
    """
    k = min(k, len(features))
    return (_search_cuda if features.is_cuda else _search_cpu)(features, k)


def _search_cpu(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    features = features.contiguous()
    N = len(features)
    similarity = features.new_full((N, k), -torch.inf)
    index = torch.zeros(N, k, dtype=torch.int32)
    buffer = features.new_empty(min(TILE, N) ** 2)
    # Blocks in this order offer candidates to every list by ascending index, which is how ties are settled.
    for r in range(0, N, TILE):
        for c in range(r, N, TILE):
            rows, columns = features[r : r + TILE], features[c : c + TILE]
            tile = buffer[: len(rows) * len(columns)].view(len(rows), len(columns))
            torch.mm(rows, columns.T, out=tile)
            torch.ops.gcl_fast.merge_top_k(similarity, index, tile, r, c)
            if c > r:
                torch.ops.gcl_fast.merge_top_k_columns(similarity, index, tile, c, r)
    return similarity, index


def _search_cuda(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    similarity = features.new_empty(len(features), k)
    index = torch.empty(len(features), k, dtype=torch.int32, device=features.device)
    rows = max(1, 2**28 // len(features))  # 1 GB of products at a time
    for r in range(0, len(features), rows):
        best = (features[r : r + rows] @ features.T).topk(k)
        similarity[r : r + rows], index[r : r + rows] = best.values, best.indices.int()
    return similarity, index
