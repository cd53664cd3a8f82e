"""Convolutions with derivatives of their own, where those of torch are slow on a CPU.

R1 differentiates the discriminator twice. torch then computes the weights' part of the second derivative as a
convolution of transposed copies, which has as many channels as the batch has images. The gradient of a convolution by
its weights is the same sum, needs no copies, and runs faster.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Options = tuple[list[int], list[int], list[int]]  # stride, padding, dilation


def convolve(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
    """Convolve images as `torch.conv2d` does, with a fast second derivative on a CPU.

    Args:
        x: (B, C, H, W).
        weight: (D, C, K, K).
        bias: (D,).
        stride: of both axes.
        padding: zeros on each side.
        dilation: of both axes.

    Returns:
        (B, D, H', W'), differentiable to any order.
    """
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return torch.conv2d(x, weight, bias, stride, padding, dilation)
    return _Convolution.apply(*_autocast(x, weight, bias), ([stride] * 2, [padding] * 2, [dilation] * 2))


def _autocast(*tensors: Tensor) -> list[Tensor]:
    """Cast tensors as autocast does for an operation of torch; without autocast they stay as they are."""
    enabled = torch.is_autocast_enabled("cpu")
    return [t.to(torch.get_autocast_dtype("cpu")) if enabled else t for t in tensors]


class _Convolution(torch.autograd.Function):
    """Convolves, and takes its gradients by `_Gradients`."""

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
    """Computes the gradients of `_Convolution` by x, weight and bias, those that `mask` asks for."""

    @staticmethod
    def forward(
        grad: Tensor, x: Tensor, weight: Tensor, options: Options, mask: list[bool]
    ) -> tuple[Tensor | None, ...]:
        sizes = [weight.shape[0]]
        return torch.ops.aten.convolution_backward(grad, x, weight, sizes, *options, False, [0, 0], 1, mask)

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
            mask, sizes = [False, ctx.needs_input_grad[2], False], [weight.shape[0]]
            _, weight_grad, _ = torch.ops.aten.convolution_backward(
                grad, by_x, weight, sizes, *ctx.options, False, [0, 0], 1, mask
            )
            return torch.conv2d(by_x, weight, None, *ctx.options), None, weight_grad, None, None
        gradients = torch.ops.aten._convolution_double_backward(
            *directions, grad, weight, x, *ctx.options, False, [0, 0], 1, list(ctx.needs_input_grad[:3])
        )
        return *gradients, None, None


class StemConv(nn.Conv2d):
    """Convolves images of few channels with an odd kernel, stride 2 and no bias: the first layer of an encoder.

    Its gradient by the image would fill 3 of the 16 or 32 lanes of a CPU's vector. So the gradient is computed as a
    convolution with the four parities of a pixel as channels, whose result is then laid out as an image (`by_parity`).

    Args:
        inputs: channels of the image.
        outputs: channels of the map.
        kernel: odd size of the kernel.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, 2, kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve images (B, C, H, W) to maps (B, D, ceil(H / 2), ceil(W / 2))."""
        if torch.compiler.is_compiling() or x.device.type != "cpu" or x.shape[-2] % 2 or x.shape[-1] % 2:
            return super().forward(x)
        return _Stem.apply(*_autocast(x, self.weight))


class _Stem(torch.autograd.Function):
    """Convolves with stride 2, and takes the gradient by the image by `by_parity`."""

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
        half, mask = [weight.shape[-1] // 2] * 2, [False, ctx.needs_input_grad[1], False]
        by_weight = torch.ops.aten.convolution_backward(
            grad, x, weight, None, [2, 2], half, [1, 1], False, [0, 0], 1, mask
        )[1]
        return by_x, by_weight


def by_parity(grad: Tensor, weight: Tensor) -> Tensor:
    """Compute the gradient by the input of a convolution of stride 2, odd kernel K and padding K // 2.

    Pixel 2u + a takes the gradient at o = u + d through tap k = a + K // 2 - 2d. So each parity a is a convolution
    over u.

    Args:
        grad: (B, D, H, W) gradient by the output.
        weight: (D, C, K, K).

    Returns:
        (B, C, 2H, 2W).
    """
    half = weight.shape[-1] // 2
    front, after = half % 2, (half + 1) // 2  # a zero tap before tap 0 or after tap K - 1; the largest d
    even = F.pad(weight, (front, 1 - front) * 2)
    taps = even.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).flip(2, 4)  # (D, C, T, 2, T, 2)
    kernel = taps.permute(1, 3, 5, 0, 2, 4).flatten(0, 2)  # (C * 2 * 2, D, T, T)
    before = half - after
    padded = F.pad(grad, (before, after) * 2)
    return F.pixel_shuffle(torch.conv2d(padded, kernel), 2)
