"""Layers that the structure encoder, the generator and the discriminator share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["instance", "layer", "none"]
SLOPE = 0.2  # of every LeakyReLU outside the identity encoder


def widen(x: Tensor) -> Tensor:
    """x in float32, or as it is where it is wider: statistics and losses are not for half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def instance_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Bring every channel of every sample to mean 0 and (biased) variance 1.

    Plain arithmetic in at least float32: torch.instance_norm copies channels-last input, and fuses with nothing.

    Args:
        x: (B, C, H, W).
    """
    wide = widen(x)
    variance, mean = torch.var_mean(wide, (2, 3), correction=0, keepdim=True)
    return ((wide - mean) * torch.rsqrt(variance + eps)).to(x.dtype)


class InstanceNorm(nn.Module):
    """`instance_norm` as a layer, without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return instance_norm(x)


class LayerNorm(nn.Module):
    """Normalize each sample over C, H, W by its unbiased standard deviation, then scale and shift each channel."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = widen(x)
        std, mean = torch.std_mean(wide, (1, 2, 3), keepdim=True)
        normal = (wide - mean) / (std + self.eps)
        return (normal * self.gamma[:, None, None] + self.beta[:, None, None]).to(x.dtype)


def _norm(kind: Norm, channels: int) -> nn.Module:
    if kind == "layer":
        return LayerNorm(channels)
    return InstanceNorm() if kind == "instance" else nn.Identity()


class ConvBlock(nn.Module):
    """Convolution under reflect padding that keeps the size (over the stride), then norm, then LeakyReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        norm: Norm = "none",
        activate: bool = True,
    ):
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, padding_mode="reflect")
        self.norm = _norm(norm, outputs)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return F.leaky_relu(x, SLOPE) if self.activate else x


class ResidualBlock(nn.Module):
    """x + two 3x3 convolutions, the second without activation."""

    def __init__(self, channels: int, norm: Norm):
        super().__init__()
        self.first = ConvBlock(channels, channels, 3, norm=norm)
        self.second = ConvBlock(channels, channels, 3, norm=norm, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


def init_kaiming(module: nn.Module) -> None:
    """Kaiming-normal (fan in) weights, zero biases; for `nn.Module.apply`."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_in")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
