"""k-reciprocal Jaccard similarity as a sparse matrix (Zhong et al. 2017, sections 3.2 to 3.4)."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from gcl_fast.csrc.build import load
from gcl_fast.pseudo_labels.neighbours import nearest_neighbours, nearest_neighbours_reference

load()


def k_reciprocal_jaccard_reference(features: Tensor, k1: int = 30, k2: int = 6) -> Tensor:
    """The definition, dense: (N, N) similarity. Needs N^2 memory and a Python loop; for tests and benchmarks."""
    N = len(features)
    _, rank = nearest_neighbours_reference(features, k1)
    rank = rank.long()

    def reciprocal(i: int, k: int) -> Tensor:
        forward = rank[i, :k]
        return forward[(rank[forward, :k] == i).any(1)]

    half = [reciprocal(i, _half(k1)) for i in range(N)]
    V = torch.zeros(N, N)
    for i in range(N):
        own = reciprocal(i, k1)
        expanded = [own] + [half[j] for j in own if torch.isin(half[j], own).sum() > 2 / 3 * len(half[j])]
        members = torch.cat(expanded).unique()
        V[i, members] = torch.softmax(-(2 - 2 * features[members] @ features[i]), 0)
    V = V[rank[:, :k2]].mean(1)
    shared = torch.stack([torch.minimum(row, V).sum(1) for row in V])
    return (shared / (2 - shared)).clamp_max(1)


def k_reciprocal_jaccard(features: Tensor, k1: int = 30, k2: int = 6, min_similarity: float = 0.0) -> Tensor:
    """Similarity of the k-reciprocal neighbourhoods of every two rows that share a neighbour.

    Args:
        features: (N, D) floating point, L2-normalized rows.
        k1: neighbours that make a neighbourhood, the row itself included; cut to N.
        k2: nearest neighbours whose neighbourhoods are averaged (query expansion), the row itself included.
        min_similarity: entries below it are left out, which saves memory when a radius is known.

    Returns:
        (N, N) sparse CSR float32 on the CPU, symmetric; distance = 1 - similarity, absent = similarity 0. Indices are
        int32 up to 2^31 - 1 entries, int64 beyond.

    Raises:
        ValueError: features are not (N, D) floating point, or hold values that are not finite (the rows are named), or
            k1 or k2 is below 1.
    """
    features = check_features(features)
    if k1 < 1 or k2 < 1:
        raise ValueError(
            f"k_reciprocal_jaccard: k1 and k2 count neighbours, the row itself included; got {k1} and {k2}"
        )
    N = len(features)
    if N == 0:
        return sparse_csr(torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int32), torch.zeros(0))
    ops = torch.ops.gcl_fast
    neighbours = nearest_neighbours(features, k1)[1].cpu()
    weights = ops.reciprocal_weights(features.cpu(), neighbours, min(_half(k1), neighbours.shape[1]), 0, N)
    expanded = ops.expand_queries(*weights, neighbours[:, :k2].contiguous(), 0, N)
    return sparse_csr(*ops.jaccard_rows(*expanded, min_similarity, 0, N))


def _half(k1: int) -> int:
    """Length of the half lists, with the official code's rounding (to even)."""
    return int(np.around(k1 / 2)) + 1


def check_features(features: Tensor) -> Tensor:
    """`features` as contiguous float32, or a ValueError that says what is wrong with which rows."""
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(
            f"features must be floating point of shape (N, D), not {features.dtype} {tuple(features.shape)}"
        )
    features = features.detach().float().contiguous()
    bad = (~features.isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        some = ", ".join(map(str, bad[:8])) + (", ..." if len(bad) > 8 else "")
        raise ValueError(
            f"features: {len(bad)} of {len(features)} rows hold NaN or infinity (rows {some}); "
            "look for a diverged training step before these embeddings were stored"
        )
    return features


def sparse_csr(start: Tensor, column: Tensor, value: Tensor) -> Tensor:
    """A square torch CSR tensor of the arrays of our ops; indices as int32 where their count allows."""
    N = len(start) - 1
    if len(column) < 2**31:
        start = start.int()
    else:
        column = column.long()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        return torch.sparse_csr_tensor(start, column, value, (N, N), check_invariants=False)
