"""From the memory bank to the labels of the next epoch, the same on every rank."""

from __future__ import annotations

import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor
from torch.nn.functional import normalize

from gcl_fast.config import ClusteringConfig
from gcl_fast.pseudo_labels import PseudoLabels, cluster


def camera_centred(features: Tensor, cameras: Tensor) -> Tensor:
    """Unit rows with each camera's mean subtracted.

    What a camera adds to every embedding (its cast, its background) then no longer pulls its crops together: on the
    embedded dataset this decides whether clusters cross cameras early enough to teach anything.

    Args:
        features: (N, D).
        cameras: (N,) int64, any values.
    """
    _, group = torch.unique(cameras, return_inverse=True)
    count = torch.bincount(group).to(features).unsqueeze(1)
    mean = features.new_zeros(len(count), features.shape[1]).index_add_(0, group, features) / count
    return normalize(features - mean[group], dim=1)


def label(features: Tensor, cameras: Tensor, settings: ClusteringConfig) -> PseudoLabels:
    """Cluster bank rows (N, D) by `settings`; deterministic, so ranks with equal banks agree without talking."""
    if settings.camera_centred:
        features = camera_centred(features, cameras.to(features.device))
    return cluster(
        features, settings.k1, settings.k2, rho=settings.rho, eps=settings.eps, min_samples=settings.min_samples
    )


def report(labels: PseudoLabels, before: Tensor | None, identity: Tensor) -> dict[str, float]:
    """Metrics of a clustering: sizes, agreement with the one before and, where identities are known, with them.

    The identities are looked at here only: nothing that trains sees them.
    """
    now = labels.labels.cpu()
    metrics = {
        "clusters": float(labels.num_clusters),
        "outliers": labels.num_outliers / max(len(now), 1),
        "eps": float(labels.eps),
    }
    if before is not None:
        metrics["ari_before"] = float(adjusted_rand_score(before.cpu(), now))
    if bool((identity >= 0).all()):
        metrics["ari"] = float(adjusted_rand_score(identity, now))
    return metrics
