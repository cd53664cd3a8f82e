"""Classification inside the batch and over the whole memory (JVTC)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from gcl_fast.losses.cluster_memory import Clusters


def local_loss(f: Tensor, variants: int, temperature: float = 0.1) -> Tensor:
    """Each variant of a crop against the crops of the batch (Li and Zhang 2020, eq. 3).

    Args:
        f: (B * variants, D) embeddings, before L2 normalization; the variants of a crop side by side.
        variants: pictures of each crop.
        temperature: of the softmax over crops.

    Returns:
        Scalar float32: mean of -log softmax_b(f . v_b / temperature) at the own crop, v_b the direction of the mean of
        the crop's normalized variants.
    """
    with torch.autocast(f.device.type, enabled=False):
        f = normalize(f.float(), dim=1)
        crops = mean_direction(f, variants)  # (B, D)
        own = torch.arange(len(crops), device=f.device).repeat_interleave(variants)
        return cross_entropy(f @ crops.T / temperature, own)


def global_loss(f: Tensor, features: Tensor, clusters: Clusters, rows: Tensor, temperature: float = 0.05) -> Tensor:
    """Crops against all rows of the memory, those of their cluster being right in equal parts (eq. 5, 6).

    Args:
        f: (B, D) embeddings, before L2 normalization; gradients reach them only.
        features: (N, D) unit rows of the memory.
        clusters: partition of the N rows.
        rows: (B,) int64 memory rows of the crops.
        temperature: of the softmax over rows.

    Returns:
        Scalar float32: batch mean of -sum_j t_j log softmax_j(f . M_j / temperature), t the indicator of the crop's
        cluster over its size.
    """
    with torch.autocast(f.device.type, enabled=False):
        features = features.detach().float()
        logits = normalize(f.float(), dim=1) @ features.T / temperature  # (B, N)
        same = clusters.of_row[rows][:, None] == clusters.of_row[None]  # (B, N)
        right = (logits * same).sum(1) / same.sum(1)
        return (logits.logsumexp(1) - right).mean()


def mean_direction(f: Tensor, variants: int) -> Tensor:
    """(B, D) unit rows: the mean of each crop's variants, which stand side by side in f (B * variants, D)."""
    return normalize(f.view(-1, variants, f.shape[1]).mean(1), dim=1)
