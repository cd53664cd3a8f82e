"""Agreement of two labellings, and purity of clusters."""

from __future__ import annotations

import torch
from torch import Tensor


def adjusted_rand_index(a: Tensor, b: Tensor) -> float:
    """Compute how far two labellings agree (Hubert and Arabie 1985, eq. 5).

    Every outlier (-1) is a cluster of its own; scikit-learn's function would take all outliers for one cluster.

    Args:
        a: (N,) int64 labels.
        b: (N,) int64 labels.

    Returns:
        1 where the labellings are equal up to renaming, 0 on average where they agree by chance.

    Raises:
        ValueError: the labellings have different lengths.

    Example:
        >>> adjusted_rand_index(torch.tensor([0, 0, 1, 1, -1]), torch.tensor([5, 5, 2, 2, -1]))
        1.0
    """
    if a.shape != b.shape:
        raise ValueError(f"adjusted_rand_index: {len(a)} labels against {len(b)}")
    a, b = _singletons(a), _singletons(b)
    _, sizes = torch.unique(a * (len(b) + 1) + b, return_counts=True)  # labels are below N after _singletons
    in_both, in_a, in_b = (_pairs(n) for n in (sizes, torch.bincount(a), torch.bincount(b)))
    pairs = _pairs(torch.tensor([len(a)]))
    expected = in_a * in_b / pairs if pairs else 0.0
    most = (in_a + in_b) / 2
    return 1.0 if most == expected else (in_both - expected) / (most - expected)


def purity(identity: Tensor, labels: Tensor) -> float:
    """Compute the share of clustered points that show the most frequent person of their cluster.

    Args:
        identity: (N,) int64 true labels.
        labels: (N,) int64 clusters; outliers (-1) do not count.

    Returns:
        A share from 0 to 1; 1 where there is no cluster.

    Example:
        >>> purity(torch.tensor([7, 7, 8, 8, 9]), torch.tensor([0, 0, 0, 1, -1]))
        0.75
    """
    inside = labels >= 0
    if not bool(inside.any()):
        return 1.0
    pairs, sizes = torch.unique(torch.stack([labels[inside], identity[inside]]), dim=1, return_counts=True)
    largest = torch.zeros(int(labels.max()) + 1, dtype=torch.int64).scatter_reduce(0, pairs[0], sizes, "amax")
    return int(largest.sum()) / int(inside.sum())


def _singletons(labels: Tensor) -> Tensor:
    """Renumber labels in 0..N-1: clusters from 0 up, outliers from N - 1 down."""
    outlier = labels < 0
    _, dense = torch.unique(labels, return_inverse=True)  # -1 takes 0 where there is one
    return torch.where(outlier, len(labels) - outlier.cumsum(0), dense - outlier.any().long())


def _pairs(sizes: Tensor) -> float:
    """Count the pairs inside groups of these sizes."""
    return float((sizes.double() * (sizes - 1) / 2).sum())
