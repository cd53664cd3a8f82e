"""Convolution whose second derivative takes the library's weight gradient.

R1 differentiates the discriminator twice. torch then computes the weights' part of the second derivative as a
convolution of transposed copies, with as many channels as the batch has pictures: at the paper's sizes, in bfloat16 on
two cores, it ran at 140 to 260 GFLOP/s and its copies took 0.1 s of a step, where the gradient of a convolution by its
weights is the same sum and runs at 380.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Options = tuple[list[int], list[int], list[int]]  # stride, padding, dilation


def convolve(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
    """`torch.conv2d`, differentiable to any order: x (B, C, H, W), weight (D, C, K, K), bias (D,) -> (B, D, H', W')."""
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return torch.conv2d(x, weight, bias, stride, padding, dilation)
    if torch.is_autocast_enabled("cpu"):  # which casts for torch's own operations only
        x, weight, bias = (t.to(torch.get_autocast_dtype("cpu")) for t in (x, weight, bias))
    return _Convolution.apply(x, weight, bias, ([stride] * 2, [padding] * 2, [dilation] * 2))


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
