"""Discriminator: maps of how real an image looks, at several scales."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gcl_fast.models.layers import SLOPE, ConvBlock, ResidualBlock, widen
from gcl_fast.settings.model_sizes import DiscriminatorConfig


class Discriminator(nn.Module):
    """Maps images (B, 3, H, W) to one map (B, 1, H_s/4, W_s/4) per scale s; H_0 = H, and each scale halves the size.

    There is no normalization, so the images of a batch do not influence each other.

    Args:
        config: sizes.

    Example:
        >>> from gcl_fast.models import ModelConfig
        >>> discriminator = Discriminator(ModelConfig.demo().discriminator)
        >>> [tuple(m.shape) for m in discriminator(torch.rand(1, 3, 128, 64))]
        [(1, 1, 32, 16), (1, 1, 16, 8), (1, 1, 8, 4)]
    """

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.scales = nn.ModuleList(_network(config) for _ in range(config.scales))
        self.apply(_init)

    def at_scale(self, scale: int, image: Tensor) -> Tensor:
        """Compute the map of one scale.

        Args:
            scale: s, from 0; the network sees the image halved s times.
            image: (B, 3, H, W).

        Returns:
            (B, 1, H_s/4, W_s/4).
        """
        for _ in range(scale):
            image = shrink(image)
        return self.scales[scale](image)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute the maps of all scales of images (B, 3, H, W), the largest first."""
        maps = []
        for network in self.scales:
            maps.append(network(image))
            image = shrink(image)
        return maps


def shrink(image: Tensor) -> Tensor:
    """Halve the size of images by means over 3x3 pixels; at the border they are over the pixels inside.

    On a CPU it runs in float32 with whole channels one after another, because torch's pooling of three interleaved
    bfloat16 channels is several times slower.

    Args:
        image: (B, 3, H, W).

    Returns:
        (B, 3, ceil(H / 2), ceil(W / 2)) in the dtype of `image`.
    """
    if image.device.type != "cpu" or torch.compiler.is_compiling():
        return F.avg_pool2d(image, 3, 2, 1, count_include_pad=False)
    small = F.avg_pool2d(widen(image).contiguous(), 3, 2, 1, count_include_pad=False)
    return small.to(image.dtype).contiguous(memory_format=torch.channels_last)


def _network(config: DiscriminatorConfig) -> nn.Sequential:
    """Build the network of one scale."""
    narrow, wide = config.channels, 2 * config.channels
    return nn.Sequential(
        ConvBlock(3, narrow, 1, activate=False),
        ConvBlock(narrow, narrow, 3, input_slope=SLOPE, activate=False),
        ConvBlock(narrow, narrow, 3, stride=2, input_slope=SLOPE, activate=False),
        ConvBlock(narrow, narrow, 3, input_slope=SLOPE, activate=False),
        ConvBlock(narrow, wide, 3, stride=2, input_slope=SLOPE),
        *(ResidualBlock(wide, "none") for _ in range(config.blocks)),
        nn.Conv2d(wide, 1, 1),
    )


def _init(module: nn.Module) -> None:
    """Draw weights of N(0, 0.02), and set biases to zero."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
