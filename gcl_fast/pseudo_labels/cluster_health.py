"""Is a clustering fit to train on: sizes, outliers, change since the last one, and advice where it is degenerate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gcl_fast.pseudo_labels.agreement import adjusted_rand_index
from gcl_fast.pseudo_labels.jaccard_labels import PseudoLabels

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
