"""Structure encoder: a grey render of the body -> a code of pose and shape, without identity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gcl_fast.errors import UserError
from gcl_fast.models.layers import ConvBlock, ResidualBlock, init_kaiming
from gcl_fast.models.sizes import StructureConfig

DILATIONS = (3, 6, 9)


def min_size() -> tuple[int, int]:
    """Smallest picture (height, width) that all networks take; both sides must also be multiples of 4.

    A quarter of each side must exceed the widest reflect padding, 9, of the structure encoder.
    """
    side = 4 * (max(DILATIONS) + 1)
    return side, side


def check_size(height: int, width: int) -> None:
    """Raises UserError where the networks do not take pictures of this size."""
    least = min_size()
    if height < least[0] or width < least[1] or height % 4 or width % 4:
        raise UserError(
            f"pictures of {height}x{width} do not fit the networks: "
            f"take at least {least[0]}x{least[1]} (height x width), both multiples of 4"
        )


class StructureEncoder(nn.Module):
    """Structure map (B, 1, H, W) in [-1, 1] -> structure code (B, code, H/4, W/4)."""

    def __init__(self, config: StructureConfig):
        super().__init__()
        a, b, c, d = config.channels
        self.stem = nn.Sequential(
            ConvBlock(1, a, 3, stride=2, norm="instance"),
            ConvBlock(a, b, 3, norm="instance"),
            ConvBlock(b, c, 3, norm="instance"),
            ConvBlock(c, d, 3, stride=2, norm="instance"),
        )
        self.blocks = nn.Sequential(*(ResidualBlock(d, "instance") for _ in range(config.blocks)))
        width = config.branch
        self.near = _linear(d, width, 1)
        self.dilated = nn.ModuleList(
            nn.Sequential(ConvBlock(d, width, 1, norm="instance"), _linear(width, width, 3, dilation))
            for dilation in DILATIONS
        )
        self.fuse = _linear(config.code, config.code, 1)
        self.apply(init_kaiming)

    def forward(self, structure_map: Tensor) -> Tensor:
        check_size(*structure_map.shape[-2:])
        x = self.blocks(self.stem(structure_map))
        return self.fuse(torch.cat([self.near(x), *(branch(x) for branch in self.dilated)], 1))


def _linear(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> ConvBlock:
    return ConvBlock(inputs, outputs, kernel, dilation=dilation, norm="instance", activate=False)
