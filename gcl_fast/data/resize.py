"""Resize uint8 crops of any sizes to one batch of one size, with the same bits on every device.

The interpolation is the bicubic of the official code's Pillow. It is antialiased and takes rows first, and each of the
two passes rounds and clamps to 0..255. torch's CPU kernel for uint8 computes it. Other kernels differ at hard edges.
torch's float kernels do not clamp between the passes, Pillow 13 takes columns first for tall crops, and DALI's resize
is another bicubic. torch has no antialiased CUDA kernel for uint8, so `bicubic_by_products` computes it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

WEIGHT_BITS = 15  # of torch's integer weights, sign excluded


def resize(crops: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Resize crops of any sizes to one batch.

    Args:
        crops: B tensors (h, w, 3) uint8 on one device. Crops of equal size are resized together.
        size: (H, W).

    Returns:
        The batch (B, H, W, 3) uint8, contiguous.
    """
    places: dict[tuple[int, ...], list[int]] = {}
    for place, crop in enumerate(crops):
        places.setdefault(tuple(crop.shape), []).append(place)
    groups = [bicubic(torch.stack([crops[i] for i in group]), size) for group in places.values()]
    if len(groups) == 1:
        return groups[0]
    order = torch.from_numpy(np.argsort([i for group in places.values() for i in group]))
    return torch.cat(groups)[order.to(groups[0].device, non_blocking=True)]


def bicubic(crops: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize crops (B, h, w, 3) uint8 of one size to (B, H, W, 3) uint8, contiguous."""
    if crops.shape[1:3] == size:
        return crops.contiguous()
    if crops.device.type != "cpu":
        return bicubic_by_products(crops, size)
    planes = crops.permute(0, 3, 1, 2)  # stays in channels-last memory, for which torch's kernel is made
    return F.interpolate(planes, size, mode="bicubic", antialias=True).permute(0, 2, 3, 1).contiguous()


def bicubic_by_products(crops: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize as `bicubic` does, on any device, by products with the matrices of torch's integer weights.

    The weights are split into two parts of 8 bits. float32 sums each part exactly, in any order, and TF32 and bfloat16
    represent the factors exactly. So no matmul precision changes a value. The number of launches does not depend on
    the batch.

    Args:
        crops: (B, h, w, 3) uint8.
        size: (H, W).

    Returns:
        The batch (B, H, W, 3) uint8, contiguous.
    """
    (batch, height, width, _), (new_height, new_width) = crops.shape, size
    place = crops.device, torch.cuda.current_stream(crops.device).cuda_stream if crops.is_cuda else 0
    pixels = crops.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    if width != new_width:
        rows = pixels.view(-1, width)
        pixels = _levels(*(rows @ part.T for part in _weights(width, new_width, *place)))
    if height != new_height:
        columns = pixels.view(batch * 3, height, new_width)
        parts = (part.expand(batch * 3, -1, -1) for part in _weights(height, new_height, *place))
        pixels = _levels(*(torch.bmm(part, columns) for part in parts))
    pixels = pixels.view(batch, 3, new_height, new_width).permute(0, 2, 3, 1)
    return pixels.to(torch.uint8, memory_format=torch.contiguous_format)


def _levels(high: Tensor, low: Tensor) -> Tensor:
    """Round `high` + `low` to 0..255, halves upwards, without the sum, which may need more bits than float32 has."""
    whole = high.add_(0.5).floor()
    return low.add_(high.sub_(whole)).floor_().add_(whole).clamp_(0, 255)


@lru_cache(maxsize=64)  # a dataset's crops have one size, or some hundreds
def _weights(length: int, new_length: int, device: torch.device, stream: int) -> tuple[Tensor, Tensor]:
    """Return the upper and lower part of torch's weights, (new_length, length) float32 each, on `device`.

    The weights are Keys' cubic with a = -0.5, widened for shrinking, in as many bits as 16-bit integers allow. `stream`
    is the current stream: each stream gets copies of its own, since the copy to the device is asynchronous.
    """
    scale = length / new_length
    widening = max(scale, 1.0)
    centre = (np.arange(new_length)[:, None] + 0.5) * scale
    distance = np.abs((np.arange(length) + 0.5 - centre) / widening)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    weights /= weights.sum(1, keepdims=True)
    bits = max(bits for bits in range(23) if int(0.5 + weights.max() * 2**bits) < 2**WEIGHT_BITS)
    whole = np.trunc(weights * 2**bits + np.copysign(0.5, weights))
    high = np.floor(whole / 256 + 0.5) * 256
    high, low = (torch.from_numpy((part / 2**bits).astype(np.float32)) for part in (high, whole - high))
    return high.to(device, non_blocking=True), low.to(device, non_blocking=True)
