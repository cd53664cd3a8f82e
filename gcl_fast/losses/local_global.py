"""Classification inside the batch and over the whole memory (JVTC, Li and Zhang 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from gcl_fast.losses.cluster_memory import Clusters


def local_loss(f: Tensor, variants: int, temperature: float = 0.1) -> Tensor:
    """Classify each augmented variant of a crop among the crops of the batch (Li and Zhang 2020, eq. 3).

    Args:
        f: (B * variants, D) embeddings, before L2 normalization; the variants of a crop follow each other.
        variants: number of variants of each crop.
        temperature: of the softmax over crops, above 0.

    Returns:
        Scalar float32: mean of -log softmax_b(f . v_b / temperature) at the variant's crop, where v_b is the direction
        of the mean of the normalized variants of crop b.

    Example:
        >>> alike, random = torch.eye(2).repeat_interleave(4, 0), torch.randn(8, 2)  # 2 crops in 4 variants
        >>> bool(local_loss(alike, variants=4) < local_loss(random, variants=4))
        True
    """
    with torch.autocast(f.device.type, enabled=False):
        f = normalize(f.float(), dim=1)
        crops = mean_direction(f, variants)  # (B, D)
        target = torch.arange(len(crops), device=f.device).repeat_interleave(variants)
        return cross_entropy(f @ crops.T / temperature, target)


def global_loss(f: Tensor, features: Tensor, clusters: Clusters, rows: Tensor, temperature: float = 0.05) -> Tensor:
    """Classify crops among all rows of the memory; the rows of their cluster share the target.

    Li and Zhang 2020, eq. 5 and 6, define the loss.

    Args:
        f: (B, D) embeddings, before L2 normalization; gradients reach f only.
        features: (N, D) unit rows of the memory.
        clusters: partition of the N rows.
        rows: (B,) int64 memory rows of the crops.
        temperature: of the softmax over rows, above 0.

    Returns:
        Scalar float32: batch mean of -sum_j t_j log softmax_j(f . M_j / temperature), where t is the indicator of the
        crop's cluster over the size of the cluster.

    Example:
        >>> clusters = Clusters.from_labels(torch.tensor([0, 0, 1, 1]))
        >>> features = normalize(torch.randn(4, 8), dim=1)
        >>> loss = global_loss(torch.randn(2, 8), features, clusters, rows=torch.tensor([0, 2]))
        >>> loss.shape
        torch.Size([])
    """
    with torch.autocast(f.device.type, enabled=False):
        features = features.detach().float()
        logits = normalize(f.float(), dim=1) @ features.T / temperature  # (B, N)
        same = clusters.of_row[rows][:, None] == clusters.of_row[None]  # (B, N)
        target = (logits * same).sum(1) / same.sum(1)  # (B,) mean logit of the crop's cluster
        return (logits.logsumexp(1) - target).mean()


def mean_direction(f: Tensor, variants: int) -> Tensor:
    """Compute the direction of the mean of each crop's variants.

    Args:
        f: (B * variants, D) rows; the variants of a crop follow each other.
        variants: number of variants of each crop.

    Returns:
        (B, D) unit rows.

    Example:
        >>> mean_direction(torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 1.0], [0.0, 3.0]]), variants=2)
        tensor([[1., 0.],
                [0., 1.]])
    """
    return normalize(f.view(-1, variants, f.shape[1]).mean(1), dim=1)
