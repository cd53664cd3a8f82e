"""Generator: a structure code dressed in part features -> a picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gcl_fast.kernels.styled_norm import styled_norm
from gcl_fast.models.config import GeneratorConfig
from gcl_fast.models.layers import (
    SLOPE,
    ConvBlock,
    LayerNorm,
    ReflectConv,
    UpsampledConv,
    init_kaiming,
)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.LeakyReLU(SLOPE),
        nn.Linear(hidden, hidden),
        nn.LeakyReLU(SLOPE),
        nn.Linear(hidden, outputs),
    )


class StyledBlock(nn.Module):
    """Residual block whose two instance norms take scale and shift from a slice of the part features (AdaIN)."""

    def __init__(self, channels: int, style: int, hidden: int):
        super().__init__()
        self.first = ReflectConv(channels, channels, 3)
        self.second = ReflectConv(channels, channels, 3)
        self.scale = _mlp(style, hidden, 2 * channels)
        self.shift = _mlp(style, hidden, 2 * channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scales, shifts = self.scale(style).chunk(2, 1), self.shift(style).chunk(2, 1)
        y = styled_norm(self.first(x), scales[0], shifts[0], slope=SLOPE)
        return styled_norm(self.second(y), scales[1], shifts[1], residual=x)


class UpBlock(nn.Module):
    """Twice the size: upsampled convolution, layer norm, LeakyReLU."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = UpsampledConv(inputs, outputs)
        self.norm = LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Generator(nn.Module):
    """Structure code (B, channels, H/4, W/4) and part features (B, P) -> ImageNet-normalized picture (B, 3, H, W).

    The part features are cut into as many consecutive slices as there are blocks; slice k drives block k. Most of what
    they hold is common to all crops. Where the config says so they are standardized first, by fixed statistics: after
    400 steps of 8 on the demo's data L1 is 0.42, not 0.48 (cosine to zero, best of the rates tried for each).
    """

    part_mean: Tensor
    part_scale: Tensor

    def __init__(self, config: GeneratorConfig, channels: int, part_features: int):
        super().__init__()
        style = part_features // config.blocks
        self.blocks = nn.ModuleList(StyledBlock(channels, style, config.hidden) for _ in range(config.blocks))
        wide, narrow = config.upsampled
        self.up = nn.Sequential(
            UpBlock(channels, wide),
            UpBlock(wide, narrow),
        )
        self.refine = nn.Sequential(
            ConvBlock(narrow, narrow, 3, activate=False), ConvBlock(narrow, narrow, 3, before=SLOPE)
        )
        self.paint = nn.Conv2d(narrow, 3, 1)
        self.apply(init_kaiming)
        self.standardize = config.standardize
        if config.standardize:
            self.register_buffer("part_mean", torch.zeros(part_features))
            self.register_buffer("part_scale", torch.ones(part_features))

    def calibrate(self, mean: Tensor, std: Tensor) -> None:
        """Set what part features (B, P) are standardized by; a feature that hardly varies is left small."""
        self.part_mean.copy_(mean)
        self.part_scale.copy_(1 / std.clamp(min=1e-3))

    def forward(self, structure: Tensor, part_features: Tensor) -> Tensor:
        x = structure
        if self.standardize:
            part_features = (part_features - self.part_mean) * self.part_scale
        for block, style in zip(self.blocks, part_features.chunk(len(self.blocks), 1)):
            x = block(x, style)
        return self.paint(self.refine(self.up(x)))
