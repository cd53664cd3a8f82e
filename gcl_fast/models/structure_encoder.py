"""Structure encoder: turns a grey render of the body into a code of pose and shape, without identity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gcl_fast.models.layers import ConvBlock, ResidualBlock, init_kaiming
from gcl_fast.settings.model_sizes import DILATIONS, StructureConfig, check_size


class StructureEncoder(nn.Module):
    """Encodes a structure map into a structure code.

    Args:
        config: sizes.

    Example:
        >>> from gcl_fast.models import ModelConfig
        >>> encoder = StructureEncoder(ModelConfig.demo().structure)
        >>> encoder(torch.rand(1, 1, 128, 64)).shape
        torch.Size([1, 64, 32, 16])
    """

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
        """Encode structure maps.

        Args:
            structure_map: (B, 1, H, W) in [-1, 1].

        Returns:
            (B, config.code, H/4, W/4).

        Raises:
            UserError: the maps have a size that `check_size` refuses.
        """
        check_size(*structure_map.shape[-2:])
        x = self.blocks(self.stem(structure_map))
        return self.fuse(torch.cat([self.near(x), *(branch(x) for branch in self.dilated)], 1))


def _linear(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> ConvBlock:
    """Build a convolution with instance norm and without activation."""
    return ConvBlock(inputs, outputs, kernel, dilation=dilation, norm="instance", activate=False)
