"""Cluster the memory bank into the labels of the next epoch, the same on every rank."""

from __future__ import annotations

import warnings
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError
from gcl_fast.kernels.reciprocal_weights import MAX_NEIGHBOURS
from gcl_fast.pseudo_labels import PseudoLabels, cluster, health
from gcl_fast.pseudo_labels.agreement import adjusted_rand_index, purity
from gcl_fast.pseudo_labels.search import choose
from gcl_fast.settings import ClusteringConfig
from gcl_fast.stages.tracklets import label_tracklets


def camera_centred(features: Tensor, cameras: Tensor) -> Tensor:
    """Subtract each camera's mean from its rows, and normalize them.

    A camera adds a part to all of its embeddings, by its colour cast and its background. This part makes crops of one
    camera similar. Without it, clusters cross cameras in earlier epochs.

    Args:
        features: (N, D).
        cameras: (N,) int64, any values.

    Returns:
        (N, D) unit rows.
    """
    _, group = torch.unique(cameras, return_inverse=True)
    member = one_hot(group).to(features)  # (N, cameras); a product, as index_add_ on a GPU sums in any order
    mean = member.T @ features / member.sum(0).unsqueeze(1)
    return normalize(features - mean[group], dim=1)


def check(settings: ClusteringConfig, stage: str, rows: int, device: torch.device) -> None:
    """Make sure that embeddings can be clustered by the settings.

    Args:
        settings: how to cluster.
        stage: the name of their stage, or of the section of its settings, for the message.
        rows: number of embeddings.
        device: where they are.

    Raises:
        UserError: a search that is not installed, or more neighbours than the GPU's kernels hold.
    """
    choose(rows, settings.engine, device)
    for name in ("k1", "tracklet_k1"):
        if device.type == "cuda" and (value := getattr(settings, name)) > MAX_NEIGHBOURS:
            raise UserError(
                f"{stage}.clustering.{name}={value}: expected {MAX_NEIGHBOURS} or less, as a GPU's kernels hold"
            )


def label_to_train(
    features: Tensor,
    cameras: Tensor,
    settings: ClusteringConfig,
    ranks: Ranks,
    stage: str,
    tracklets: Tensor | None = None,
) -> PseudoLabels:
    """Cluster the rows of a bank, as `label` does, for a stage that trains on inliers alone.

    Raises:
        UserError: every crop is an outlier.
    """
    labels = label(features, cameras, settings, ranks, tracklets)
    if labels.num_clusters == 0:
        key = f"{stage}.clustering"
        raise UserError(
            f"{stage}: every crop is an outlier at eps {labels.eps:.3g}, none is left to train on; raise --set"
            f" {key}.eps (now {settings.eps}) or, where that is null, {key}.rho (now {settings.rho:g}), or lower"
            f" {key}.min_samples (now {settings.min_samples}): --resume takes them"
        )
    return labels


def label(
    features: Tensor, cameras: Tensor, settings: ClusteringConfig, ranks: Ranks, tracklets: Tensor | None = None
) -> PseudoLabels:
    """Cluster the rows of a bank; the ranks share the work and get the same labels.

    Args:
        features: (N, D), equal on all ranks.
        cameras: (N,) int64.
        settings: how to cluster.
        ranks: all of them call this.
        tracklets: (N,) int64 number of each crop's tracklet, -1 for unknown; None where no tracklet is known.
    """
    if settings.camera_centred:
        features = camera_centred(features, cameras.to(features.device))
    find = partial(
        cluster,
        k2=settings.k2,
        rho=settings.rho,
        eps=settings.eps,
        engine=settings.engine,
        group=dist.group.WORLD if ranks.world_size > 1 else None,
    )
    if tracklets is None or not settings.tracklets or not bool((tracklets >= 0).any()):
        return find(features, k1=settings.k1, min_samples=settings.min_samples)
    pair = min(2, settings.min_samples)  # two tracklets are enough for a person whom two cameras have seen
    find_tracklets = partial(find, k1=settings.tracklet_k1, min_samples=pair)
    return label_tracklets(features, tracklets, settings.min_samples, find_tracklets)


def report(labels: PseudoLabels, before: Tensor | None, identity: Tensor) -> dict[str, float]:
    """Return the metrics of a clustering, and warn of a degenerate one.

    The identities are used for the metrics alone; no training depends on them.

    Args:
        labels: the clustering.
        before: (N,) the labels of the clustering before, or None; the agreement with them is measured.
        identity: (N,) -1 for unknown; where all are known, the agreement with them is measured.
    """
    condition = health(labels, before)
    if condition.advice:
        warnings.warn(condition.advice, stacklevel=2)
    metrics = {
        "clusters": float(labels.num_clusters),
        "outliers": condition.outlier_share,
        "largest": condition.largest_share,
        "eps": float(labels.eps),
        "recall": labels.search.recall,
    }
    if condition.agreement is not None:
        metrics["ari_before"] = condition.agreement
    if bool((identity >= 0).all()):
        metrics["ari"] = adjusted_rand_index(identity, labels.labels.cpu())
        metrics["purity"] = purity(identity, labels.labels.cpu())
    return metrics
