"""Losses of crops whose identities are known: classification, and distances inside the batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def identity_loss(f: Tensor, weight: Tensor, target: Tensor, smoothing: float = 0.1) -> Tensor:
    """Compute the cross-entropy of a linear classifier of identities, with label smoothing.

    Szegedy et al. 2016, section 7, define the smoothing.

    Args:
        f: (B, D) embeddings, before L2 normalization.
        weight: (C, D) rows of the classifier, one per identity.
        target: (B,) int64 identity of each crop, 0..C-1.
        smoothing: share of the target distribution that is spread evenly over all C identities, 0..1.

    Returns:
        Scalar float32, mean over the batch.

    Example:
        >>> loss = identity_loss(torch.randn(4, 8), weight=torch.zeros(10, 8), target=torch.arange(4))
        >>> round(float(loss), 4)  # a classifier that knows nothing: log 10
        2.3026
    """
    with torch.autocast(f.device.type, enabled=False):
        return cross_entropy(f.float() @ weight.float().T, target, label_smoothing=smoothing)


def batch_hard_triplet_loss(
    f: Tensor, target: Tensor, others: Tensor, others_target: Tensor, margin: float = 0.3
) -> Tensor:
    """Pull each crop to the farthest crop of its identity, and push it from the nearest crop of another identity.

    With d the Euclidean distance of L2-normalized embeddings, by which retrieval ranks, it is the mean over crops of

        max(0, margin + max_{same identity} d(f, o) - min_{another identity} d(f, o))

    (Hermans et al. 2017, eq. 5).

    Args:
        f: (B, D) embeddings, before L2 normalization.
        target: (B,) int64 identities.
        others: (M, D) embeddings to compare with; `f` is among them. Gradients reach them as well.
        others_target: (M,) int64 identities.
        margin: in 0..2, the range of d.

    Returns:
        Scalar float32, mean over the batch; a crop without any crop of another identity adds 0.

    Example:
        >>> f, target = torch.eye(2).repeat_interleave(2, 0), torch.tensor([0, 0, 1, 1])
        >>> bool(batch_hard_triplet_loss(f, target, f, target, margin=0.3) == 0)  # the identities are sqrt(2) apart
        True
    """
    with torch.autocast(f.device.type, enabled=False):
        similarity = normalize(f.float(), dim=1) @ normalize(others.float(), dim=1).T  # (B, M)
        distance = (2 - 2 * similarity).clamp_min(1e-12).sqrt()
        same = target[:, None] == others_target[None]
        farthest = distance.masked_fill(~same, -torch.inf).amax(1)
        nearest = distance.masked_fill(same, torch.inf).amin(1)
        return (margin + farthest - nearest).relu().mean()
