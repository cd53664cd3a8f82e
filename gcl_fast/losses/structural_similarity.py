"""Structural similarity (SSIM) of generated and true images, as a metric and as a loss."""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # pixels
C1, C2 = 0.01**2, 0.03**2  # constants of Wang et al. 2004, for values in 0..1


def ssim(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the structural similarity (Wang et al. 2004, eq. 13) as a mean over channels and windows.

    The window is Gaussian, of 11 x 11 pixels with sigma 1.5.

    Args:
        x: (B, C, H, W) in 0..1, at least 11 x 11.
        y: (B, C, H, W) in 0..1.
        mask: (B, H, W) bool, the pixels over which the mean is taken, or float weights of the pixels. Windows that
            reach over the border are not used, so the outer 5 pixels of the mask do not count. None: all pixels.

    Returns:
        (B,) float32 in -1..1; NaN where a mask has no pixel.

    Raises:
        ValueError: shapes do not fit, or images are smaller than the window.

    Example:
        >>> image = torch.rand(1, 3, 32, 16)
        >>> bool(ssim(image, image) > ssim(image, image.roll(1, dims=2)))
        True
    """
    if x.shape != y.shape or x.ndim != 4 or (mask is not None and mask.shape != (x.shape[0], *x.shape[2:])):
        raise ValueError(
            f"ssim: x and y must be (B, C, H, W) and mask (B, H, W), not {tuple(x.shape)}, {tuple(y.shape)}"
            + ("" if mask is None else f" and {tuple(mask.shape)}")
        )
    if min(x.shape[2:]) < WINDOW:
        raise ValueError(f"ssim: images of {x.shape[2]} x {x.shape[3]} are smaller than the {WINDOW} x {WINDOW} window")
    x, y = x.float(), y.float()
    mean_x, mean_y, square_x, square_y, product = _blur(torch.stack([x, y, x * x, y * y, x * y])).unbind()
    variance_x, variance_y, covariance = square_x - mean_x**2, square_y - mean_y**2, product - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (variance_x + variance_y + C2)
    similarity = (luminance * structure).mean(1)  # (B, H - 10, W - 10)
    if mask is None:
        return similarity.mean((1, 2))
    margin = WINDOW // 2
    inside = mask[:, margin:-margin, margin:-margin]
    return (similarity * inside).sum((1, 2)) / inside.sum((1, 2))


def _blur(images: Tensor) -> Tensor:
    """Compute the Gaussian mean over each window inside images (..., H, W), by a product for each axis.

    The rows of a matrix are the windows along an axis. Two small products take a tenth of the time of convolutions of
    one channel, and their gradient is as cheap.
    """
    down, across = (_windows(size, images) for size in images.shape[-2:])
    with torch.autocast(images.device.type, enabled=False):
        return down @ images @ across.T


def _windows(size: int, like: Tensor) -> Tensor:
    """Return the weights (size - 10, size) of each window along an axis."""
    offset = torch.arange(size, device=like.device) - torch.arange(size - WINDOW + 1, device=like.device)[:, None]
    weight = torch.exp(-((offset - WINDOW // 2) ** 2) / (2 * SIGMA**2)) * ((offset >= 0) & (offset < WINDOW))
    return (weight / weight.sum(1, keepdim=True)).to(like.dtype)
