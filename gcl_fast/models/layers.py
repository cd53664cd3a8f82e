"""Layers that the structure encoder, the generator and the discriminator share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gcl_fast.kernels.reflect_pad import reflect_pad as eager_reflect_pad
from gcl_fast.kernels.styled_norm import styled_norm
from gcl_fast.models.convolution import convolve

Norm = Literal["instance", "none"]
SLOPE = 0.2  # of every LeakyReLU outside the identity encoder


def widen(x: Tensor) -> Tensor:
    """Return x in float32, or as it is where it is wider: half precision is too coarse for statistics and losses."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def leaky_relu(x: Tensor, slope: float = SLOPE) -> Tensor:
    """Compute x where it is positive, and slope * x elsewhere.

    Compiled for the CPU, torch's own function saves a mask of bools for the backward, which bfloat16 kernels store one
    by one. The sum of x and |x| needs no mask.
    """
    if slope == 1:
        return x
    if torch.compiler.is_compiling() and x.device.type == "cpu":
        return (1 + slope) / 2 * x + (1 - slope) / 2 * x.abs()
    return F.leaky_relu(x, slope)


def relu(x: Tensor) -> Tensor:
    """Compute max(x, 0), in the form that `leaky_relu` has when compiled.

    An exported graph has torch's own ReLU, since `torch.export` traces without Dynamo.
    """
    # Not by `is_exporting`: torch 2.11 gives True under torch.compile as well
    return leaky_relu(x, 0.0) if torch.compiler.is_dynamo_compiling() else F.relu(x)


def reflect_pad(x: Tensor, padding: int, slope: float = 1.0) -> Tensor:
    """Apply LeakyReLU, and mirror `padding` rows and columns about each border.

    Eager, it is the op of `kernels.reflect_pad`. Compiled for the CPU, it concatenates slices: the backward of torch's
    own padding would run element by element.

    Args:
        x: (B, C, H, W).
        padding: rows and columns on each side, below H and W.
        slope: of the LeakyReLU; 1 leaves x as it is.

    Returns:
        (B, C, H + 2 * padding, W + 2 * padding).
    """
    if not (torch.compiler.is_compiling() and x.device.type == "cpu"):
        return eager_reflect_pad(x, padding, slope)
    x = leaky_relu(x, slope)
    for dim in (2, 3):
        before = x.narrow(dim, 1, padding).flip(dim)
        after = x.narrow(dim, x.shape[dim] - 1 - padding, padding).flip(dim)
        x = torch.cat([before, x, after], dim)
    return x


class ReflectConv(nn.Conv2d):
    """Convolves a map with an odd kernel under reflect padding, so that it keeps its size over the stride.

    The input passes a LeakyReLU first, which is part of the pass that pads.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        kernel: odd size of the kernel.
        stride: of both axes.
        dilation: of both axes.
        input_slope: slope of the LeakyReLU on the input; 1: none.
    """

    bias: nn.Parameter

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1, input_slope: float = 1.0
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, dilation=dilation)
        self.border, self.input_slope = dilation * (kernel - 1) // 2, input_slope

    def forward(self, x: Tensor) -> Tensor:
        """Convolve a map (B, C, H, W)."""
        x = reflect_pad(x, self.border, self.input_slope) if self.border else leaky_relu(x, self.input_slope)
        return convolve(x, self.weight, self.bias, self.stride[0], 0, self.dilation[0])


class LayerNorm(nn.Module):
    """Normalizes each sample over C, H, W by its unbiased deviation, scales and shifts each channel, and activates.

    Args:
        channels: C. The scales start uniform in 0..1, the shifts at 0.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize a map (B, C, H, W), and apply LeakyReLU."""
        return styled_norm(x, self.gamma[None], self.beta[None], slope=SLOPE, whole=True)


class ConvBlock(nn.Module):
    """Convolves under reflect padding, then normalizes, then applies LeakyReLU.

    Between two convolutions without a norm, let the second one activate (`input_slope`): see `ReflectConv`.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        kernel: odd size of the kernel.
        stride: of both axes.
        dilation: of both axes.
        norm: "instance" or "none".
        input_slope: slope of a LeakyReLU on the input; 1: none.
        activate: whether LeakyReLU follows.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        norm: Norm = "none",
        input_slope: float = 1.0,
        activate: bool = True,
    ):
        super().__init__()
        self.conv = ReflectConv(inputs, outputs, kernel, stride, dilation, input_slope)
        self.norm, self.activate = norm, activate

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Run the block on a map (B, C, H, W), and add `residual`, which has the shape of the result."""
        x = self.conv(x)
        if self.norm == "instance":
            return styled_norm(x, residual=residual, slope=SLOPE if self.activate else 1.0)
        x = leaky_relu(x) if self.activate else x
        return x if residual is None else residual + x


class ResidualBlock(nn.Module):
    """Adds two 3x3 convolutions to its input; the second has no activation.

    Args:
        channels: C.
        norm: "instance" or "none", after each convolution.
    """

    def __init__(self, channels: int, norm: Norm):
        super().__init__()
        normless = norm == "none"
        self.first = ConvBlock(channels, channels, 3, norm=norm, activate=not normless)
        self.second = ConvBlock(
            channels, channels, 3, norm=norm, input_slope=SLOPE if normless else 1.0, activate=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on a map (B, C, H, W)."""
        return self.second(self.first(x), residual=x)


def init_kaiming(module: nn.Module) -> None:
    """Draw Kaiming-normal weights (fan in), and set biases to zero; for `nn.Module.apply`."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_in")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
