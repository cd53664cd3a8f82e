"""Contrast of crops with the clusters of a memory bank, by all rows of a cluster or by one stored row of each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding_bag, normalize

from gcl_fast.kernels.memory_update import memory_update


class Clusters(NamedTuple):
    """Holds a partition of the bank's rows, which is made once per clustering: the rows sorted by cluster."""

    of_row: Tensor  # (N,) int64 cluster of every row, 0..C-1; each outlier is a cluster of one
    order: Tensor  # (N,) int64 rows, cluster after cluster
    offsets: Tensor  # (C,) int64 first position of each cluster in `order`

    @classmethod
    def from_labels(cls, labels: Tensor) -> Clusters:
        """Group the rows of the bank by pseudo-label; every outlier (label < 0) becomes a cluster of its own.

        Args:
            labels: (N,) int64 pseudo-labels, not necessarily contiguous.

        Returns:
            The partition into C clusters, by ascending label; the outliers come last.
        """
        outlier = labels < 0
        cluster = torch.where(outlier, labels.max() + outlier.cumsum(0), labels)
        of_row, counts = cluster.unique(return_inverse=True, return_counts=True)[1:]
        return cls(of_row, of_row.argsort(stable=True), counts.cumsum(0) - counts)


def instance_memory_loss(
    f: Tensor, features: Tensor, clusters: Clusters, index: Tensor, temperature: float = 0.05
) -> Tensor:
    """Contrast crops with all clusters of the memory bank, by the mean similarity to the rows of a cluster.

    The mean over members of f . M_j equals f . mean(M_j). So the means (C, D) are one pass over the bank, and the
    product shrinks from (B, N) to (B, C). Gradients reach f only.

    Args:
        f: (B, D) embeddings, before L2 normalization.
        features: (N, D) unit rows of the memory bank.
        clusters: partition of the N rows.
        index: (B,) int64 bank rows of the crops; a crop's target is the cluster of its row.
        temperature: of the softmax over clusters, above 0.

    Returns:
        Scalar float32: batch mean of -log softmax_c(mean_{j in c} f . M_j / temperature) at the crop's own cluster.

    Example:
        >>> features = normalize(torch.randn(5, 8), dim=1)
        >>> clusters = Clusters.from_labels(torch.tensor([0, 0, 1, 1, -1]))
        >>> f = torch.randn(2, 8, requires_grad=True)
        >>> loss = instance_memory_loss(f, features, clusters, index=torch.tensor([0, 3]))
        >>> loss.shape
        torch.Size([])
    """
    with torch.autocast(f.device.type, enabled=False):  # bfloat16 rounds logits by up to 0.04
        means = _means(features, clusters)
        logits = normalize(f.float(), dim=1) @ means.T / temperature  # (B, C)
        return cross_entropy(logits, clusters.of_row[index])


def cluster_memory_loss(f: Tensor, centres: Tensor, target: Tensor, temperature: float = 0.05) -> Tensor:
    """Contrast crops with one stored row of each cluster (Dai et al. 2022, eq. 1); gradients reach f only.

    Args:
        f: (B, D) embeddings, before L2 normalization.
        centres: (C, D) unit rows.
        target: (B,) int64 cluster of each crop, 0..C-1.
        temperature: of the softmax over clusters, above 0.

    Returns:
        Scalar float32: batch mean of -log softmax_c(f . centre_c / temperature) at the crop's own cluster.

    Example:
        >>> centres = torch.eye(3)
        >>> near, far = (cluster_memory_loss(centres[:1], centres, torch.tensor([c])) for c in (0, 1))
        >>> bool(near < far)
        True
    """
    with torch.autocast(f.device.type, enabled=False):
        return cross_entropy(normalize(f.float(), dim=1) @ centres.T / temperature, target)


def cluster_centres(features: Tensor, clusters: Clusters) -> Tensor:
    """Compute the centre of each cluster: the direction of the mean of its rows.

    Args:
        features: (N, D) rows.
        clusters: partition of the N rows into C clusters.

    Returns:
        (C, D) float32 unit rows, without gradients.

    Example:
        >>> clusters = Clusters.from_labels(torch.tensor([0, 0, 1]))
        >>> cluster_centres(torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 1.0]]), clusters)
        tensor([[0.6000, 0.8000],
                [0.0000, 1.0000]])
    """
    return normalize(_means(features, clusters), dim=1)


@torch.no_grad()
def update_by_hardest_(centres: Tensor, target: Tensor, f: Tensor, crops: int, momentum: float) -> None:
    """Blend into each centre the embedding of its cluster's hardest crop of the batch, in place.

    c <- normalize(momentum * c + (1 - momentum) * f_h), where h is the crop least similar to c (Dai et al. 2022,
    section 3.4).

    Args:
        centres: (C, D) unit rows.
        target: (P * crops,) int64 clusters; the crops of one cluster follow each other.
        f: (P * crops, D) embeddings, before L2 normalization. A row that is not finite is skipped.
        crops: number of crops of each cluster.
        momentum: weight of the old centre, 0..1.

    Example:
        >>> centres = torch.eye(2)
        >>> update_by_hardest_(centres, torch.tensor([0, 0]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 2, momentum=0.5)
        >>> centres
        tensor([[0.7071, 0.7071],
                [0.0000, 1.0000]])
    """
    cluster = target.view(-1, crops)[:, 0]  # (P,)
    usable = f.isfinite().all(1, keepdim=True)
    f = normalize(torch.where(usable, f.float(), centres[target]), dim=1).view(-1, crops, f.shape[1])
    hardest = (f @ centres[cluster].unsqueeze(2)).squeeze(2).argmin(1)  # (P,)
    memory_update(centres, cluster, f[torch.arange(len(f), device=f.device), hardest], momentum)


def _means(features: Tensor, clusters: Clusters) -> Tensor:
    """Average the rows of each cluster."""
    return embedding_bag(clusters.order, features.detach().float(), clusters.offsets, mode="mean")  # (C, D)
