"""Fitness of a clustering for training: sizes, outliers, change since the last one, advice where it is degenerate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gcl_fast.pseudo_labels.agreement import adjusted_rand_index
from gcl_fast.pseudo_labels.jaccard_labels import PseudoLabels

ONE_CLUSTER = 0.5  # share of all crops in the largest cluster from which it has swallowed the others
NO_CLUSTER = 0.95  # share of outliers from which nothing is left to learn from


@dataclass(frozen=True)
class ClusterHealth:
    """Holds the facts about one clustering; shares are fractions of all crops."""

    sizes: Tensor  # (num_clusters,) crops in each cluster, largest first
    outlier_share: float
    largest_share: float
    agreement: float | None  # adjusted Rand index with the previous labels, None at the first clustering
    advice: str | None  # fault and remedy of a degenerate clustering, None for any other


def health(clustering: PseudoLabels, before: Tensor | None = None) -> ClusterHealth:
    """Measure a clustering, and compare it with the previous one.

    Args:
        clustering: result of `cluster`.
        before: (N,) labels of the previous clustering; None: there is none.

    Returns:
        Sizes, shares and agreement, and advice where training on the clustering would fail.

    Raises:
        ValueError: `before` has another length.

    Example:
        >>> from gcl_fast.pseudo_labels import cluster
        >>> features = torch.eye(2).repeat_interleave(torch.tensor([9, 3]), 0)  # 9 and 3 equal crops
        >>> report = health(cluster(features, k1=9, k2=1, eps=0.5, min_samples=2))
        >>> report.sizes.tolist(), report.largest_share
        ([9, 3], 0.75)
        >>> report.advice
        'one cluster holds 75% of the crops at eps 0.5: ...'
    """
    labels = clustering.labels.cpu()
    N = max(len(labels), 1)
    sizes = torch.bincount(labels[labels >= 0], minlength=clustering.num_clusters).sort(descending=True).values
    outliers, largest = clustering.num_outliers / N, int(sizes.max()) / N if len(sizes) else 0.0
    advice = None
    if outliers >= NO_CLUSTER:
        advice = (
            f"{outliers:.0%} of the crops are outliers at eps {clustering.eps:.3g}: nothing is left to learn from. "
            'Use eps="auto", or a larger eps (rho); if it stays so, the embeddings carry no identity yet: '
            "check --init, and that images and normalization fit the weights"
        )
    elif largest >= ONE_CLUSTER:
        advice = (
            f"one cluster holds {largest:.0%} of the crops at eps {clustering.eps:.3g}: "
            'Use eps="auto", or a smaller eps (rho); if it stays so, embeddings have collapsed to a point, or '
            "cameras outweigh persons: lower the learning rate, or subtract each camera's mean"
        )
    agreement = None if before is None else adjusted_rand_index(before.cpu(), labels)
    return ClusterHealth(sizes, outliers, largest, agreement, advice)
