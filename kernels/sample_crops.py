"""Training batches from decoded crops: gather, scale, shift and mirror, colours, normalization, erasing.

On the CPU all of it is one pass in C++. Elsewhere a few tensor operations serve, which are the definition.
`python benchmarks/loader.py` measures the loaders that use it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gcl_fast.csrc.build import load
from gcl_fast.kernels._checks import register_fake

__all__ = ["sample_crops"]


def sample_crops_reference(crops: Tensor, index: Tensor, placement: Tensor, colour: Tensor, erased: Tensor) -> Tensor:
    """Define `sample_crops` in plain PyTorch, on any device."""
    batch, (_, height, width, _) = len(index), crops.shape
    # A linear map of colours commutes with interpolation; taking the colours first needs no second layout.
    pixels = colour[:, :, 3, None].baddbmm(colour[:, :, :3], crops[index].view(batch, -1, 3).float().mT)
    affine = placement.new_zeros(batch, 2, 3)
    affine[:, 0, 0], affine[:, 1, 1] = placement[:, 1], placement[:, 0]
    affine[:, 0, 2], affine[:, 1, 2] = placement[:, 3], placement[:, 2]
    grid = F.affine_grid(affine, [batch, 3, height, width], align_corners=False)
    pixels = pixels.view(batch, 3, height, width)
    pixels = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    y = (torch.arange(height, device=crops.device) + 0.5) / height
    x = (torch.arange(width, device=crops.device) + 0.5) / width
    top, bottom, left, right = erased[:, :, None].unbind(1)  # each (B, 1)
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    pixels.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0)  # 0 is the mean colour once normalized
    return pixels.contiguous(memory_format=torch.channels_last)


def sample_crops(crops: Tensor, index: Tensor, placement: Tensor, colour: Tensor, erased: Tensor) -> Tensor:
    """Gather crops and change each by its own numbers.

    The output at coordinate c, from -1 to 1, shows the input at scale * c + shift; borders are repeated. Then colours
    go through their linear map, and last the pixels of a rectangle become 0.

    Args:
        crops: (N, H, W, 3) uint8, contiguous.
        index: (B,) int64 crops to take.
        placement: (B, 4) float32 vertical and horizontal scale (negative mirrors), vertical and horizontal shift.
        colour: (B, 3, 4) float32 matrix and offset, from 0..255 to the colours of the batch.
        erased: (B, 4) float32 top, bottom, left and right of the rectangle, in fractions of the size.

    Returns:
        (B, 3, H, W) float32 in channels-last memory.

    Raises:
        RuntimeError: on the CPU, tensors of another shape, dtype or order, or an index out of range.

    Example:
        >>> crops = torch.tensor([10, 20], dtype=torch.uint8).view(1, 1, 2, 1).expand(1, 1, 2, 3).contiguous()
        >>> mirror, same = torch.tensor([[1.0, -1.0, 0.0, 0.0]]), torch.eye(3, 4)[None]
        >>> sample_crops(crops, torch.tensor([0]), mirror, same, torch.zeros(1, 4))[0, 0]
        tensor([[20., 10.]])
    """
    if crops.device.type != "cpu":
        return sample_crops_reference(crops, index, placement, colour, erased)
    return torch.ops.gcl_fast.sample_crops(crops, index, placement, colour, erased).permute(0, 3, 1, 2)


load()


@register_fake("sample_crops")
def _(crops: Tensor, index: Tensor, placement: Tensor, colour: Tensor, erased: Tensor) -> Tensor:
    return crops.new_empty((len(index), *crops.shape[1:]), dtype=torch.float32)
