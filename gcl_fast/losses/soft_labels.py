"""Mixup of part features (GCL+, Chen et al. 2022): images between two people, and their loss by soft labels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


class Mix(NamedTuple):
    """Holds which crops of a batch are mixed, in which shares, and the clusters that the mixed images belong to."""

    weight: Tensor  # (B,) share of the crop's own part features, 0.5..1
    partner: Tensor  # (B,) int64 the other crop, by its position in the batch of all ranks
    clusters: Tensor  # (B, 2) int64 cluster of the crop and of its partner
    centroids: Tensor  # (C, D) unit rows
    temperature: float  # of the softmax over clusters


def choose_partners(labels: Tensor, all_labels: Tensor, start: Tensor) -> Tensor:
    """Choose for each crop the first crop of another cluster, counted around the batch from `start`.

    Args:
        labels: (B,) int64 pseudo-labels of this rank's crops.
        all_labels: (G,) int64 pseudo-labels of the crops of all ranks.
        start: (B,) int64 positions in 0..G-1.

    Returns:
        (B,) int64 positions in 0..G-1; `start` where all crops are of one cluster.

    Example:
        >>> labels = torch.tensor([5, 5, 2, 7])
        >>> choose_partners(labels, labels, start=torch.tensor([1, 2, 3, 3]))
        tensor([2, 2, 3, 0])
    """
    G = len(all_labels)
    distance = (torch.arange(G, device=start.device) - start[:, None]) % G  # (B, G)
    return (distance + G * (labels[:, None] == all_labels)).argmin(1)


def mix_parts(parts: Tensor, all_parts: Tensor, mix: Mix) -> Tensor:
    """Mix the part features of each crop with those of its partner; gradients reach the crop's own ones.

    Args:
        parts: (B, P) part features of this rank's crops.
        all_parts: (G, P) part features of the crops of all ranks.
        mix: partners and weights.

    Returns:
        (B, P): weight * own part features + (1 - weight) * the partner's, in the dtype of `parts`.

    Example:
        >>> parts = torch.tensor([[0.0, 4.0], [8.0, 0.0]])
        >>> weight, partner, clusters = torch.tensor([0.75, 0.5]), torch.tensor([1, 0]), torch.tensor([[0, 1], [1, 0]])
        >>> mix_parts(parts, parts, Mix(weight, partner, clusters, torch.eye(2), temperature=0.05))
        tensor([[2., 3.],
                [4., 2.]])
    """
    weight = mix.weight.to(parts.dtype)[:, None]
    return weight * parts + (1 - weight) * all_parts[mix.partner].detach()


def soft_label_loss(f: Tensor, mix: Mix) -> Tensor:
    """Compute the cross-entropy of embeddings against cluster centroids, with two labels per embedding.

    Args:
        f: (B, D) embeddings of images with mixed part features, before L2 normalization.
        mix: the two clusters of each image, their weights, and the centroids.

    Returns:
        Scalar float32: batch mean of -weight log s_own - (1 - weight) log s_partner, where s is the softmax over
        clusters c of f . centroid_c / temperature.

    Example:
        >>> mix = Mix(torch.tensor([0.5]), torch.tensor([0]), torch.tensor([[0, 1]]), torch.eye(2), temperature=0.05)
        >>> between, at_one = soft_label_loss(torch.ones(1, 2), mix), soft_label_loss(torch.eye(2)[:1], mix)
        >>> bool(between < at_one)
        True
    """
    with torch.autocast(f.device.type, enabled=False):
        logits = normalize(f.float(), dim=1) @ mix.centroids.T / mix.temperature  # (B, C)
        crop_term, partner_term = (cross_entropy(logits, target, reduction="none") for target in mix.clusters.unbind(1))
        return (mix.weight * crop_term + (1 - mix.weight) * partner_term).mean()
