"""Convolutions with derivatives of their own, where the library's are slow on a CPU.

R1 differentiates the discriminator twice. torch then computes the weights' part of the second derivative as a
convolution of transposed copies, with as many channels as the batch has pictures: at the paper's sizes, in bfloat16 on
two cores, it ran at 140 to 260 GFLOP/s and its copies took 0.1 s of a step, where the gradient of a convolution by its
weights is the same sum and runs at 380.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Options = tuple[list[int], list[int], list[int]]  # stride, padding, dilation


def convolve(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
    """`torch.conv2d`, differentiable to any order: x (B, C, H, W), weight (D, C, K, K), bias (D,) -> (B, D, H', W')."""
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return torch.conv2d(x, weight, bias, stride, padding, dilation)
    return _Convolution.apply(*_autocast(x, weight, bias), ([stride] * 2, [padding] * 2, [dilation] * 2))


def _autocast(*tensors: Tensor) -> list[Tensor]:
    """As autocast, where it is on, would cast them for an operation of torch's own."""
    on = torch.is_autocast_enabled("cpu")
    return [t.to(torch.get_autocast_dtype("cpu")) if on else t for t in tensors]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, options: Options) -> Tensor:
        return torch.conv2d(x, weight, bias, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.options = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *_Gradients.apply(grad, *ctx.saved_tensors, ctx.options, list(ctx.needs_input_grad[:3])), None


class _Gradients(torch.autograd.Function):
    """Those of `_Convolution` by x, weight and bias, where `wanted`."""

    @staticmethod
    def forward(
        grad: Tensor, x: Tensor, weight: Tensor, options: Options, wanted: list[bool]
    ) -> tuple[Tensor | None, ...]:
        sizes = [weight.shape[0]]
        return torch.ops.aten.convolution_backward(grad, x, weight, sizes, *options, False, [0, 0], 1, wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        *tensors, ctx.options, _ = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *directions: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, x, weight = ctx.saved_tensors
        by_x, by_weight, by_bias = directions
        if by_x is not None and by_weight is None and by_bias is None:  # R1: linear in grad and in weight
            wanted, sizes = [False, ctx.needs_input_grad[2], False], [weight.shape[0]]
            _, of_weight, _ = torch.ops.aten.convolution_backward(
                grad, by_x, weight, sizes, *ctx.options, False, [0, 0], 1, wanted
            )
            return torch.conv2d(by_x, weight, None, *ctx.options), None, of_weight, None, None
        gradients = torch.ops.aten._convolution_double_backward(
            *directions, grad, weight, x, *ctx.options, False, [0, 0], 1, list(ctx.needs_input_grad[:3])
        )
        return *gradients, None, None


class StemConv(nn.Conv2d):
    """Convolution of odd kernel and stride 2 without a bias, from a few channels: the first of an encoder.

    Its gradient by the picture would fill 3 of a vector's 16 or 32 lanes. So it is taken as a convolution itself, with
    the four parities of a pixel for channels, and laid out after: 70 ms on a shared core in bfloat16, beside 184, for
    16 pictures of 256x128 and the 7x7 kernel.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, 2, kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or x.device.type != "cpu" or x.shape[-2] % 2 or x.shape[-1] % 2:
            return super().forward(x)
        return _Stem.apply(*_autocast(x, self.weight))


class _Stem(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return torch.conv2d(x, weight, None, 2, weight.shape[-1] // 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        by_x = by_parity(grad, weight) if ctx.needs_input_grad[0] else None
        half, wanted = [weight.shape[-1] // 2] * 2, [False, ctx.needs_input_grad[1], False]
        by_weight = torch.ops.aten.convolution_backward(
            grad, x, weight, None, [2, 2], half, [1, 1], False, [0, 0], 1, wanted
        )[1]
        return by_x, by_weight


def by_parity(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient by its input (B, C, 2H, 2W) of a convolution of stride 2, kernel K (odd) and padding K // 2.

    Pixel 2u + a takes the gradient at o = u + d through tap k = a + K // 2 - 2d: for each a a convolution over u.

    Args:
        grad: (B, D, H, W).
        weight: (D, C, K, K).
    """
    half = weight.shape[-1] // 2
    front, after = half % 2, (half + 1) // 2  # taps -1 or K, which are none; largest d
    even = F.pad(weight, (front, 1 - front) * 2)
    taps = even.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).flip(2, 4)  # (D, C, T, 2, T, 2)
    kernel = taps.permute(1, 3, 5, 0, 2, 4).flatten(0, 2)  # (C * 2 * 2, D, T, T)
    before = half - after
    padded = F.pad(grad, (before, after) * 2)
    return F.pixel_shuffle(torch.conv2d(padded, kernel), 2)
