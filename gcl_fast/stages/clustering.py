"""From the memory bank to the labels of the next epoch, the same on every rank."""

from __future__ import annotations

import warnings

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError
from gcl_fast.kernels.reciprocal_weights import MAX_NEIGHBOURS
from gcl_fast.pseudo_labels import PseudoLabels, cluster, health
from gcl_fast.pseudo_labels.agreement import adjusted_rand_index
from gcl_fast.pseudo_labels.search import choose
from gcl_fast.settings import ClusteringConfig


def camera_centred(features: Tensor, cameras: Tensor) -> Tensor:
    """Return unit rows with each camera's mean subtracted.

    What a camera adds to every embedding (its cast, its background) then no longer pulls its crops together: on the
    embedded dataset this decides whether clusters cross cameras early enough to teach anything.

    Args:
        features: (N, D).
        cameras: (N,) int64, any values.
    """
    _, group = torch.unique(cameras, return_inverse=True)
    member = one_hot(group).to(features)  # (N, cameras); a product, as index_add_ on a GPU sums in any order
    mean = member.T @ features / member.sum(0).unsqueeze(1)
    return normalize(features - mean[group], dim=1)


def check(settings: ClusteringConfig, stage: str, rows: int, device: torch.device) -> None:
    """Make sure that `rows` embeddings on `device` can be clustered by `settings`, those of `stage`.

    Raises:
        UserError: a search that is not installed, or more neighbours than the GPU's kernels hold.
    """
    choose(rows, settings.engine, device)
    if device.type == "cuda" and settings.k1 > MAX_NEIGHBOURS:
        raise UserError(
            f"{stage}.clustering.k1={settings.k1}: expected {MAX_NEIGHBOURS} or less, as a GPU's kernels hold"
        )


def label_to_train(
    features: Tensor, cameras: Tensor, settings: ClusteringConfig, ranks: Ranks, stage: str
) -> PseudoLabels:
    """`label`, for a stage that trains on inliers alone.

    Raises:
        UserError: every crop is an outlier.
    """
    found = label(features, cameras, settings, ranks)
    if found.num_clusters == 0:
        here = f"{stage}.clustering"
        raise UserError(
            f"{stage}: every crop is an outlier at eps {found.eps:.3g}, none is left to train on; raise --set"
            f" {here}.eps (now {settings.eps}) or, where that is null, {here}.rho (now {settings.rho:g}), or lower"
            f" {here}.min_samples (now {settings.min_samples}): --resume takes them"
        )
    return found


def label(features: Tensor, cameras: Tensor, settings: ClusteringConfig, ranks: Ranks) -> PseudoLabels:
    """Cluster bank rows (N, D), equal on all ranks, by `settings`; the ranks share the work and get the same labels."""
    if settings.camera_centred:
        features = camera_centred(features, cameras.to(features.device))
    return cluster(
        features,
        settings.k1,
        settings.k2,
        rho=settings.rho,
        eps=settings.eps,
        min_samples=settings.min_samples,
        engine=settings.engine,
        group=dist.group.WORLD if ranks.world_size > 1 else None,
    )


def report(labels: PseudoLabels, before: Tensor | None, identity: Tensor) -> dict[str, float]:
    """Return metrics of a clustering: sizes, agreement with the one before and, where they are known, with identities.

    The identities are looked at here only: nothing that trains sees them. A degenerate clustering is warned of.
    """
    found = health(labels, before)
    if found.advice:
        warnings.warn(found.advice, stacklevel=2)
    metrics = {
        "clusters": float(labels.num_clusters),
        "outliers": found.outlier_share,
        "largest": found.largest_share,
        "eps": float(labels.eps),
        "recall": labels.search.recall,
    }
    if found.agreement is not None:
        metrics["ari_before"] = found.agreement
    if bool((identity >= 0).all()):
        metrics["ari"] = adjusted_rand_index(identity, labels.labels.cpu())
    return metrics
