"""L1 reconstruction of images and of part features."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from gcl_fast.models.layers import widen


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Compute mean |output - target| in float32; the target is detached.

    Args:
        output: images (B, 3, H, W) or part features (B, P).
        target: of the same shape.

    Returns:
        Scalar float32, or float64 for float64 inputs.

    Example:
        >>> import torch
        >>> reconstruction_loss(torch.zeros(2, 4), torch.ones(2, 4))
        tensor(1.)
    """
    return F.l1_loss(widen(output), widen(target.detach()))
