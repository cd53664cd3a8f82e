"""Reconstruction of images and of part features: the mean difference, and the structural similarity."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from gcl_fast.data.augment import denormalize
from gcl_fast.losses.structural_similarity import ssim
from gcl_fast.models.layers import widen


def reconstruction_loss(output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Compute mean |output - target| in float32; the target is detached.

    Args:
        output: images (B, 3, H, W) or part features (B, P).
        target: of the same shape.
        weight: (B, H, W) of the pixels of each image, with a positive sum; None: all equal.

    Returns:
        Scalar float32, or float64 for float64 inputs.

    Example:
        >>> import torch
        >>> reconstruction_loss(torch.zeros(2, 4), torch.ones(2, 4))
        tensor(1.)
    """
    if weight is None:
        return F.l1_loss(widen(output), widen(target.detach()))
    difference = (widen(output) - widen(target.detach())).abs().mean(1)
    return ((difference * weight).sum((1, 2)) / weight.sum((1, 2))).mean()


def dissimilarity_loss(output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Compute the mean of 1 - SSIM of images; the target is detached.

    Sharp edges and patterns in the right place lower it, where the mean difference alone prefers their blur.

    Args:
        output: (B, 3, H, W), ImageNet-normalized, at least 11 x 11.
        target: of the same shape.
        weight: (B, H, W) of the pixels of each image, with a positive sum inside the outer 5 pixels; None: all equal.

    Returns:
        Scalar float32.

    Example:
        >>> import torch
        >>> image = torch.randn(1, 3, 16, 16)
        >>> float(dissimilarity_loss(image, image))
        0.0
    """
    return 1 - ssim(denormalize(output.float()), denormalize(target.detach().float()), weight).mean()
