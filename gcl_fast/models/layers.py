"""Layers that the structure encoder, the generator and the discriminator share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gcl_fast.kernels import reflect_pad as eager
from gcl_fast.kernels.styled_norm import styled_norm

Norm = Literal["instance", "none"]
SLOPE = 0.2  # of every LeakyReLU outside the identity encoder


def widen(x: Tensor) -> Tensor:
    """x in float32, or as it is where it is wider: statistics and losses are not for half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def leaky_relu(x: Tensor, slope: float = SLOPE) -> Tensor:
    """x where positive, slope * x elsewhere.

    Compiled for the CPU, torch's own saves a mask of bools for the backward, which the bfloat16 kernels store one by
    one: 14.3 ms forward and backward at 16x32x64x32 on one core, against 0.9 ms in this form.
    """
    if slope == 1:
        return x
    if torch.compiler.is_compiling() and x.device.type == "cpu":
        return (1 + slope) / 2 * x + (1 - slope) / 2 * x.abs()
    return F.leaky_relu(x, slope)


def relu(x: Tensor) -> Tensor:
    """max(x, 0), fast where `leaky_relu` is."""
    return leaky_relu(x, 0.0) if torch.compiler.is_compiling() else F.relu(x)


def reflect_pad(x: Tensor, padding: int, slope: float = 1.0) -> Tensor:
    """Mirror `padding` rows and columns of LeakyReLU(x), (B, C, H, W), about each border (`kernels.reflect_pad`).

    Compiled for the CPU, the backward of torch's own runs element by element; that of concatenated slices does not.
    """
    if not (torch.compiler.is_compiling() and x.device.type == "cpu"):
        return eager.reflect_pad(x, padding, slope)
    x = leaky_relu(x, slope)
    for dim in (2, 3):
        before = x.narrow(dim, 1, padding).flip(dim)
        after = x.narrow(dim, x.shape[dim] - 1 - padding, padding).flip(dim)
        x = torch.cat([before, x, after], dim)
    return x


class ReflectConv(nn.Conv2d):
    """Convolution of odd kernel under reflect padding: the map keeps its size, over the stride.

    What comes in passes LeakyReLU of slope `before` first (1: none), which costs nothing on top of the padding.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1, before: float = 1.0
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, dilation=dilation)
        self.border, self.before = dilation * (kernel - 1) // 2, before

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(reflect_pad(x, self.border, self.before) if self.border else leaky_relu(x, self.before))


class LayerNorm(nn.Module):
    """Normalize each sample over C, H, W by its unbiased deviation; scale and shift of each channel; LeakyReLU."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return styled_norm(x, self.gamma[None], self.beta[None], slope=SLOPE, whole=True)


class ConvBlock(nn.Module):
    """Convolution under reflect padding that keeps the size (over the stride), then norm, then LeakyReLU.

    Between two convolutions without norm let the second activate (`before`), not the first: see `ReflectConv`.
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
        before: float = 1.0,
        activate: bool = True,
    ):
        super().__init__()
        self.conv = ReflectConv(inputs, outputs, kernel, stride, dilation, before)
        self.norm, self.activate = norm, activate

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        x = self.conv(x)
        if self.norm == "instance":
            return styled_norm(x, residual=residual, slope=SLOPE if self.activate else 1.0)
        x = leaky_relu(x) if self.activate else x
        return x if residual is None else residual + x


class UpsampledConv(nn.Conv2d):
    """Nearest upsampling by 2, then a 5x5 convolution under reflect padding: (B, C, H, W) -> (B, D, 2H, 2W).

    Each 2x2 group of outputs sees only 3x3 different inputs, so the convolution runs before the upsampling with the 5x5
    kernel folded into four of 3x3: 36 multiplications a group in place of 100. Replicate padding of the small map is
    reflect padding of the large one, but for the outermost padded line on each side; that line's difference is added.
    """

    bias: nn.Parameter

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 5)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        height, width = 2 * x.shape[-2], 2 * x.shape[-1]
        folded = _fold(_fold(weight).movedim(2, -1)).permute(0, 4, 2, 1, 5, 3)  # (D, 2, 2, C, 3, 3)
        y = F.conv2d(_repeat_border(x), folded.flatten(0, 2))
        top = _line(x[:, :, 1] - x[:, :, 0], weight[:, :, 0], "reflect")
        bottom = _line(x[:, :, -2] - x[:, :, -1], weight[:, :, 4], "reflect")
        left = _line(x[..., 1] - x[..., 0], weight[..., 0], "replicate")
        right = _line(x[..., -2] - x[..., -1], weight[..., 4], "replicate")
        rows = F.pad(top[:, :, None], (0, 0, 0, height - 1)) + F.pad(bottom[:, :, None], (0, 0, height - 1, 0))
        columns = F.pad(left[..., None], (0, width - 1)) + F.pad(right[..., None], (width - 1, 0))
        return F.pixel_shuffle(y, 2) + rows + columns + self.bias[:, None, None]


def _repeat_border(x: Tensor) -> Tensor:
    for dim in (2, 3):
        x = torch.cat([x.narrow(dim, 0, 1), x, x.narrow(dim, x.shape[dim] - 1, 1)], dim)
    return x


def _fold(kernel: Tensor) -> Tensor:
    """(..., 5) -> (..., 2, 3): the taps that the even and the odd outputs of an upsampled line put on its inputs."""
    return torch.stack([F.pad(kernel, (0, 1)), F.pad(kernel, (1, 0))], -2).unflatten(-1, (3, 2)).sum(-1)


def _line(line: Tensor, kernel: Tensor, padding: str) -> Tensor:
    """Upsample a line (B, C, L) and convolve it with (D, C, 5) -> (B, D, 2L)."""
    return F.conv1d(F.pad(line.repeat_interleave(2, -1), (2, 2), mode=padding), kernel)


class ResidualBlock(nn.Module):
    """x + two 3x3 convolutions, the second without activation."""

    def __init__(self, channels: int, norm: Norm):
        super().__init__()
        plain = norm == "none"
        self.first = ConvBlock(channels, channels, 3, norm=norm, activate=not plain)
        self.second = ConvBlock(channels, channels, 3, norm=norm, before=SLOPE if plain else 1.0, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x), residual=x)


def init_kaiming(module: nn.Module) -> None:
    """Kaiming-normal (fan in) weights, zero biases; for `nn.Module.apply`."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_in")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
