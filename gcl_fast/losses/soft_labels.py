"""Mixup of generated features (Chen et al. 2022, GCL+): pictures between two people, and their soft labels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


class Mix(NamedTuple):
    """Which crops of a batch mix, how much of each, and what the pictures are then compared with."""

    weight: Tensor  # (B,) of the crop's own part features, 0.5..1
    partner: Tensor  # (B,) the other crop, by its place in the batch of all ranks
    clusters: Tensor  # (B, 2) of the crop and of its partner
    centroids: Tensor  # (C, D) unit rows
    temperature: float


def choose_partners(labels: Tensor, everyone: Tensor, start: Tensor) -> Tensor:
    """(B,) for each crop the place of the first one of another cluster, counted around the batch from `start`.

    Args:
        labels: (B,) pseudo-labels of this rank's crops.
        everyone: (G,) of the crops of all ranks. Where they are all of one cluster, the crop at `start` it is.
        start: (B,) int64 places, 0..G-1.
    """
    G = len(everyone)
    ahead = (torch.arange(G, device=start.device) - start[:, None]) % G  # (B, G)
    return (ahead + G * (labels[:, None] == everyone)).argmin(1)


def mix_parts(parts: Tensor, everyone: Tensor, mix: Mix) -> Tensor:
    """weight * own + (1 - weight) * partner's part features (B, P); gradients reach the own ones.

    Args:
        parts: (B, P) of this rank's crops.
        everyone: (G, P) of the crops of all ranks.
    """
    weight = mix.weight.to(parts.dtype)[:, None]
    return weight * parts + (1 - weight) * everyone[mix.partner].detach()


def soft_label_loss(f: Tensor, mix: Mix) -> Tensor:
    """Cross-entropy of embeddings against cluster centroids, with two labels each.

    Args:
        f: (B, D) embeddings of mixed pictures, before L2 normalization.

    Returns:
        Scalar float32: batch mean of -weight log s_own - (1 - weight) log s_partner, s the softmax over clusters c of
        f . centroid_c / temperature.
    """
    with torch.autocast(f.device.type, enabled=False):
        logits = normalize(f.float(), dim=1) @ mix.centroids.T / mix.temperature  # (B, C)
        own, other = (cross_entropy(logits, target, reduction="none") for target in mix.clusters.unbind(1))
        return (mix.weight * own + (1 - mix.weight) * other).mean()
