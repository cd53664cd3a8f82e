"""How far two labellings agree."""

from __future__ import annotations

import torch
from torch import Tensor


def adjusted_rand_index(a: Tensor, b: Tensor) -> float:
    """Agreement of two labellings (N,), 1 = equal up to renaming, 0 = as by chance; every outlier (-1) stands alone.

    Hubert and Arabie 1985, eq. 5. scikit-learn's function would take all outliers for one cluster.
    """
    if a.shape != b.shape:
        raise ValueError(f"adjusted_rand_index: {len(a)} labels against {len(b)}")
    a, b = _singletons(a), _singletons(b)
    _, both = torch.unique(a * (len(b) + 1) + b, return_counts=True)  # labels are below N by now
    together, in_a, in_b = (_pairs(n) for n in (both, torch.bincount(a), torch.bincount(b)))
    pairs = _pairs(torch.tensor([len(a)]))
    expected = in_a * in_b / pairs if pairs else 0.0
    most = (in_a + in_b) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)


def _singletons(labels: Tensor) -> Tensor:
    """Labels in 0..N-1: clusters from 0 up, outliers from N - 1 down."""
    outlier = labels < 0
    _, dense = torch.unique(labels, return_inverse=True)  # -1 takes 0 where there is one
    return torch.where(outlier, len(labels) - outlier.cumsum(0), dense - outlier.any().long())


def _pairs(sizes: Tensor) -> float:
    return float((sizes.double() * (sizes - 1) / 2).sum())
