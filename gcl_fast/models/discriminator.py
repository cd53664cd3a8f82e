"""Discriminator: realism maps of a picture at several scales."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gcl_fast.models.layers import SLOPE, ConvBlock, ResidualBlock, widen
from gcl_fast.models.sizes import DiscriminatorConfig


class Discriminator(nn.Module):
    """Pictures (B, 3, H, W) -> one map (B, 1, H_s/4, W_s/4) a scale; no normalization, so samples never mix."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.scales = nn.ModuleList(_network(config) for _ in range(config.scales))
        self.apply(_init)

    def at_scale(self, scale: int, image: Tensor) -> Tensor:
        """The map of one scale; scale s sees the picture halved s times."""
        for _ in range(scale):
            image = shrink(image)
        return self.scales[scale](image)

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = []
        for network in self.scales:
            maps.append(network(image))
            image = shrink(image)
        return maps


def shrink(image: Tensor) -> Tensor:
    """Half the size: means of 3x3, of what lies inside the picture at its border.

    On a CPU in float32 and with whole channels one after another: torch's pooling of three interleaved channels took 12
    and 23 ms, forward and backward in bfloat16, where this takes 3 and 3, of 48 pictures of 128x64 on a shared core.
    """
    if image.device.type != "cpu" or torch.compiler.is_compiling():
        return F.avg_pool2d(image, 3, 2, 1, count_include_pad=False)
    small = F.avg_pool2d(widen(image).contiguous(), 3, 2, 1, count_include_pad=False)
    return small.to(image.dtype).contiguous(memory_format=torch.channels_last)


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
