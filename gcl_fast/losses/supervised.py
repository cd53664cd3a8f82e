"""Losses of crops whose identities are known: classification, and distances inside the batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def identity_loss(f: Tensor, weight: Tensor, target: Tensor, smoothing: float = 0.1) -> Tensor:
    """Cross-entropy of a linear classifier of identities, with label smoothing (Szegedy et al. 2016, section 7).

    Args:
        f: (B, D) embeddings, before L2 normalization.
        weight: (C, D) rows of the classifier, one an identity.
        target: (B,) int64 identity of each crop, 0..C-1.
        smoothing: share of the wanted distribution that is spread evenly over all C identities, 0..1.

    Returns:
        Scalar float32, mean over the batch.
    """
    with torch.autocast(f.device.type, enabled=False):
        return cross_entropy(f.float() @ weight.float().T, target, label_smoothing=smoothing)


def batch_hard_triplet_loss(
    f: Tensor, target: Tensor, others: Tensor, others_target: Tensor, margin: float = 0.3
) -> Tensor:
    """Each crop nearer to its farthest fellow than to its nearest stranger, by a margin (Hermans et al. 2017, eq. 5).

    With d the Euclidean distance of L2-normalized embeddings, which is what retrieval ranks by:

        max(0, margin + max_{same identity} d(f, o) - min_{another identity} d(f, o))

    Args:
        f: (B, D) embeddings, before L2 normalization.
        target: (B,) int64 identities.
        others: (M, D) embeddings among which fellows and strangers are sought; `f` is among them. Gradients reach them
            as well.
        others_target: (M,) int64 identities.
        margin: in 0..2, the range of d.

    Returns:
        Scalar float32, mean over the batch; a crop without any stranger counts zero.
    """
    with torch.autocast(f.device.type, enabled=False):
        similarity = normalize(f.float(), dim=1) @ normalize(others.float(), dim=1).T  # (B, M)
        distance = (2 - 2 * similarity).clamp_min(1e-12).sqrt()
        same = target[:, None] == others_target[None]
        farthest = distance.masked_fill(~same, -torch.inf).amax(1)
        nearest = distance.masked_fill(same, torch.inf).amin(1)
        return (margin + farthest - nearest).relu().mean()
