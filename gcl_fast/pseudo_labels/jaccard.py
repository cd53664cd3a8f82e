"""k-reciprocal Jaccard similarity as a sparse matrix (Zhong et al. 2017, sections 3.2 to 3.4)."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from gcl_fast.distributed.row_sharing import SparseRows, Team
from gcl_fast.kernels.expand_queries import expand_queries, expand_queries_reference
from gcl_fast.kernels.jaccard_rows import jaccard_rows, jaccard_rows_reference
from gcl_fast.kernels.reciprocal_weights import reciprocal_weights, reciprocal_weights_reference
from gcl_fast.pseudo_labels.neighbours import nearest_neighbours_reference
from gcl_fast.pseudo_labels.search import Search, find_neighbours
from gcl_fast.versions import SPARSE_WARNING

ALONE = Team()
COUNTED_ROWS = 2**15  # at 3,000 similarities a row 0.8 GB


def k_reciprocal_jaccard_reference(features: Tensor, k1: int = 30, k2: int = 6) -> Tensor:
    """Define `k_reciprocal_jaccard` by the definitions of its ops: dense (N, N) similarity, with N^2 memory."""
    N = len(features)
    _, neighbours = nearest_neighbours_reference(features, k1)
    weights = reciprocal_weights_reference(features, neighbours, min(half_length(k1), neighbours.shape[1]), 0, N)
    sets = expand_queries_reference(*weights, neighbours[:, :k2], 0, N)
    start, column, value = jaccard_rows_reference(*sets, 0.0, 0, N)
    return torch.sparse_csr_tensor(start, column, value, (N, N)).to_dense()


def k_reciprocal_jaccard(
    features: Tensor, k1: int = 30, k2: int = 6, min_similarity: float = 0.0, engine: str = "auto"
) -> Tensor:
    """Compute the similarity of the k-reciprocal neighbourhoods of every two rows that share a neighbour.

    Args:
        features: (N, D) floating point, L2-normalized rows.
        k1: neighbours that make a neighbourhood, the row itself included; cut to N.
        k2: nearest neighbours whose neighbourhoods are averaged (query expansion), the row itself included.
        min_similarity: entries below it are left out, which saves memory where a radius is known.
        engine: neighbour search, "exact", "approximate" or "auto", see `find_neighbours`.

    Returns:
        (N, N) sparse CSR float32 on the device of the features, symmetric; distance = 1 - similarity, absent =
        similarity 0. Indices are int32 up to 2^31 - 1 entries, int64 beyond.

    Raises:
        ValueError: features are not (N, D) floating point, or hold values that are not finite (the rows are named), k1
            or k2 is below 1, or an unknown engine.

    Example:
        >>> pairs = torch.eye(2).repeat_interleave(2, 0)  # two pairs of equal rows
        >>> k_reciprocal_jaccard(pairs, k1=2, k2=1).to_dense()
        tensor([[1., 1., 0., 0.],
                [1., 1., 0., 0.],
                [0., 0., 1., 1.],
                [0., 0., 1., 1.]])
    """
    features = checked(features, k1, k2)
    sets = fuzzy_sets(features, neighbour_lists(features, k1, ALONE, engine)[0], k1, k2)
    return jaccard_similarity(sets, min_similarity)


def neighbourhoods(features: Tensor, k1: int, k2: int, team: Team = ALONE) -> SparseRows:
    """Compute the fuzzy set V_i of each row's expanded k-reciprocal neighbours, by exact search.

    Arguments as `k_reciprocal_jaccard`. The rows are shared out over `team`; every rank gives the same features and
    gets all sets.
    """
    features = checked(features, k1, k2)
    return fuzzy_sets(features, neighbour_lists(features, k1, team, "exact")[0], k1, k2, team)


def neighbour_lists(features: Tensor, k1: int, team: Team, engine: str) -> tuple[Tensor, Search]:
    """Search for the neighbours (N, k1) int32 of all rows, on the device of the features; ranks share the rows."""
    index, how = find_neighbours(features, k1, team.rows(len(features)), engine)
    return team.join(index).to(features.device), how


def fuzzy_sets(features: Tensor, neighbours: Tensor, k1: int, k2: int, team: Team = ALONE) -> SparseRows:
    """Compute the fuzzy set V_i of each row from `checked` features and their `neighbour_lists`."""
    N = len(features)
    if N == 0:
        start = torch.zeros(1, dtype=torch.int64, device=features.device)
        return SparseRows(start, start.new_empty(0, dtype=torch.int32), features.new_empty(0))
    begin, end = team.rows(N)
    half = min(half_length(k1), neighbours.shape[1])
    weights = team.join_rows(*reciprocal_weights(features, neighbours, half, begin, end))
    return team.join_rows(*expand_queries(*weights, neighbours[:, :k2].contiguous(), begin, end))


def jaccard_similarity(sets: SparseRows, min_similarity: float, team: Team = ALONE) -> Tensor:
    """Compute s / (2 - s) with s = sum_j min(V_ij, V_kj), as (N, N) sparse CSR, where it reaches `min_similarity`."""
    N = len(sets.start) - 1
    start, column, value = team.join_rows(*jaccard_rows(*sets, min_similarity, *team.rows(N)))
    if len(column) < 2**31:
        start = start.int()
    else:
        column = column.long()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", SPARSE_WARNING, UserWarning)
        return torch.sparse_csr_tensor(start, column, value, (N, N), check_invariants=False)


def faint_pairs(sets: SparseRows, below: float, bins: int, team: Team = ALONE) -> Tensor:
    """Count the pairs of rows with a similarity in each of `bins` equal parts of 0..`below`, (bins,) int64; 0 is out.

    The pairs are counted in ranges of rows and never stored: they are most of the graph.
    """
    begin, end = team.rows(len(sets.start) - 1)
    counts = torch.zeros(bins, dtype=torch.int64, device=sets.value.device)
    for first in range(begin, end, COUNTED_ROWS):
        value = jaccard_rows(*sets, 0.0, first, min(first + COUNTED_ROWS, end))[2]
        counts += value.histc(bins, 0, below).long()
    return team.add(counts) // 2  # every pair was met twice


def half_length(k1: int) -> int:
    """Return the length of the half lists, with the official code's rounding (to even)."""
    return int(np.around(k1 / 2)) + 1


def checked(features: Tensor, k1: int, k2: int) -> Tensor:
    """Return `features` as contiguous float32, or raise a ValueError that names what is wrong with which rows."""
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(
            f"features must be floating point of shape (N, D), not {features.dtype} {tuple(features.shape)}"
        )
    if k1 < 1 or k2 < 1:
        raise ValueError(
            f"k_reciprocal_jaccard: k1 and k2 count neighbours, the row itself included; got {k1} and {k2}"
        )
    features = features.detach().float().contiguous()
    doubtful = (
        (~features.sum(1).isfinite()).nonzero().flatten()
    )  # a mask of all values would take gigabytes at 10^6 rows
    bad = doubtful[~features[doubtful].isfinite().all(1)].tolist()
    if bad:
        some = ", ".join(map(str, bad[:8])) + (", ..." if len(bad) > 8 else "")
        raise ValueError(
            f"features: {len(bad)} of {len(features)} rows hold NaN or infinity (rows {some}); "
            "look for a diverged training step before these embeddings were stored"
        )
    return features
