"""Discriminator: realism maps of a picture at several scales."""

from __future__ import annotations

from torch import Tensor, nn

from gcl_fast.models.config import DiscriminatorConfig
from gcl_fast.models.layers import SLOPE, ConvBlock, ResidualBlock


class Discriminator(nn.Module):
    """Pictures (B, 3, H, W) -> one map (B, 1, H_s/4, W_s/4) a scale; no normalization, so samples never mix."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.scales = nn.ModuleList(_network(config) for _ in range(config.scales))
        self.shrink = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)
        self.apply(_init)

    def at_scale(self, scale: int, image: Tensor) -> Tensor:
        """The map of one scale; scale s sees the picture halved s times."""
        for _ in range(scale):
            image = self.shrink(image)
        return self.scales[scale](image)

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = []
        for network in self.scales:
            maps.append(network(image))
            image = self.shrink(image)
        return maps


def _network(config: DiscriminatorConfig) -> nn.Sequential:
    narrow, wide = config.channels, 2 * config.channels
    return nn.Sequential(
        ConvBlock(3, narrow, 1, activate=False),
        ConvBlock(narrow, narrow, 3, before=SLOPE, activate=False),
        ConvBlock(narrow, narrow, 3, stride=2, before=SLOPE, activate=False),
        ConvBlock(narrow, narrow, 3, before=SLOPE, activate=False),
        ConvBlock(narrow, wide, 3, stride=2, before=SLOPE),
        *(ResidualBlock(wide, "none") for _ in range(config.blocks)),
        nn.Conv2d(wide, 1, 1),
    )


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
