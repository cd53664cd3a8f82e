"""Appearance encoder: turns pixels that were carried to a view into maps of three sizes for the generator."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gcl_fast.kernels.transfer_appearance import Carried
from gcl_fast.models.layers import ConvBlock, ResidualBlock

INPUTS = 5  # channels: the structure map, the colour, the confidence


class AppearanceMaps(NamedTuple):
    """Holds what the generator adds to its own maps of the same size."""

    small: Tensor  # (B, C, H/4, W/4)
    middle: Tensor  # (B, D, H/2, W/2)
    large: Tensor  # (B, E, H, W)


def appearance_input(structure_map: Tensor, carried: Carried) -> Tensor:
    """Join what the appearance encoder sees.

    Args:
        structure_map: (B, 1, H, W) in [-1, 1], of the view that is drawn.
        carried: the crop's pixels in that view, ImageNet-normalized.

    Returns:
        (B, 5, H, W), channels last.

    Example:
        >>> carried = Carried(torch.randn(2, 3, 64, 40), torch.rand(2, 1, 64, 40))
        >>> appearance_input(torch.rand(2, 1, 64, 40), carried).shape
        torch.Size([2, 5, 64, 40])
    """
    joined = torch.cat([structure_map, carried.colour, 2 * carried.confidence - 1], 1)
    return joined.contiguous(memory_format=torch.channels_last)


class AppearanceEncoder(nn.Module):
    """Encodes carried pixels, without norms: colours must pass as they are.

    Args:
        small: channels at a quarter of the size.
        middle: channels at half of the size.
        large: channels at full size.

    Example:
        >>> encoder = AppearanceEncoder(64, 32, 16)
        >>> [tuple(x.shape[1:]) for x in encoder(torch.randn(1, INPUTS, 64, 40))]
        [(64, 16, 10), (32, 32, 20), (16, 64, 40)]
    """

    def __init__(self, small: int, middle: int, large: int):
        super().__init__()
        self.first = ConvBlock(INPUTS, large, 3)
        self.halve = ConvBlock(large, middle, 3, stride=2)
        self.quarter = ConvBlock(middle, small, 3, stride=2)
        self.block = ResidualBlock(small, "none")

    def forward(self, x: Tensor) -> AppearanceMaps:
        """Encode what `appearance_input` joined, (B, 5, H, W)."""
        large = self.first(x)
        middle = self.halve(large)
        return AppearanceMaps(self.block(self.quarter(middle)), middle, large)
