"""Is a clustering fit to train on: sizes, outliers, change since the last one, and advice where it is degenerate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gcl_fast.pseudo_labels.cluster import PseudoLabels

ONE_CLUSTER, NO_CLUSTER = 0.5, 0.95  # shares of all crops: one cluster holds most of them; nearly all are outliers


@dataclass(frozen=True)
class ClusterHealth:
    """Shares are fractions of all crops."""

    sizes: Tensor  # (num_clusters,) crops in each cluster, largest first
    outlier_share: float
    largest_share: float
    agreement: float | None  # adjusted Rand index with the labels before, None at the first clustering
    advice: str | None  # what is wrong and what to do about it, None when nothing is


def health(found: PseudoLabels, before: Tensor | None = None) -> ClusterHealth:
    """Look at a clustering, beside the labels (N,) of the one before.

    Raises:
        ValueError: `before` has another length.
    """
    labels = found.labels.cpu()
    N = max(len(labels), 1)
    sizes = torch.bincount(labels[labels >= 0], minlength=found.num_clusters).sort(descending=True).values
    outliers, largest = found.num_outliers / N, int(sizes.max()) / N if len(sizes) else 0.0
    advice = None
    if outliers >= NO_CLUSTER:
        advice = (
            f"{outliers:.0%} of the crops are outliers at eps {found.eps:.3g}: nothing is left to learn from. "
            'Use eps="auto", or a larger eps (rho); if it stays so, the embeddings carry no identity yet: '
            "check --init, and that images and normalization fit the weights"
        )
    elif largest >= ONE_CLUSTER:
        advice = (
            f"one cluster holds {largest:.0%} of the crops at eps {found.eps:.3g}: "
            'Use eps="auto", or a smaller eps (rho); if it stays so, embeddings have collapsed to a point, or '
            "cameras outweigh persons: lower the learning rate, or subtract each camera's mean"
        )
    agreement = None if before is None else adjusted_rand_index(before.cpu(), labels)
    return ClusterHealth(sizes, outliers, largest, agreement, advice)


def adjusted_rand_index(a: Tensor, b: Tensor) -> float:
    """Agreement of two labellings (N,), 1 = equal up to renaming, 0 = as by chance; every outlier (-1) stands alone.

    Hubert and Arabie 1985, eq. 5. scikit-learn's function would take all outliers for one cluster.
    """
    if a.shape != b.shape:
        raise ValueError(f"adjusted_rand_index: {len(a)} labels against {len(b)}")
    a, b = _singletons(a), _singletons(b)
    _, both = torch.unique(torch.stack((a, b)), dim=1, return_counts=True)
    together, in_a, in_b = (_pairs(n) for n in (both, torch.bincount(a), torch.bincount(b)))
    pairs = _pairs(torch.tensor([len(a)]))
    expected = in_a * in_b / pairs if pairs else 0.0
    most = (in_a + in_b) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)


def _singletons(labels: Tensor) -> Tensor:
    outlier = labels < 0
    fresh = labels.max().clamp_min(-1) + outlier.cumsum(0) if len(labels) else labels
    return torch.where(outlier, fresh, labels)


def _pairs(sizes: Tensor) -> float:
    return float((sizes.double() * (sizes - 1) / 2).sum())
