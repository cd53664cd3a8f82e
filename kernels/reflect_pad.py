"""Reflect padding, with the LeakyReLU before it, in one pass.

Under autocast torch pads in float32, and copies channels-last pictures there and back: 30 % of a step of the paper's
sizes on a CPU was padding. So the op serves eager runs on a CPU, and the definition everything else.

Padding is linear, LeakyReLU linear but for where its input is zero, so the op and its adjoint are each other's
derivatives, to any order; R1 differentiates twice. Where the slope multiplies is read off the sign of the padded
picture, which the convolution behind keeps anyway.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gcl_fast.csrc.build import load


def reflect_pad_reference(x: Tensor, padding: int, slope: float = 1.0) -> Tensor:
    """The definition, by torch's own operations."""
    return F.pad(x if slope == 1 else F.leaky_relu(x, slope), (padding,) * 4, mode="reflect")


def reflect_pad(x: Tensor, padding: int, slope: float = 1.0) -> Tensor:
    """Mirror `padding` rows and columns of LeakyReLU(x) about each border, the border itself not repeated.

    Args:
        x: (B, C, H, W), any float type.
        padding: less than H and W.
        slope: of LeakyReLU below zero, positive; 1 leaves it out.

    Returns:
        (B, C, H + 2 * padding, W + 2 * padding) in x's type; differentiable to any order.

    Raises:
        RuntimeError: the padding is not less than both sides.
    """
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16):
        return reflect_pad_reference(x, padding, slope)
    return _Pad.apply(x, None, padding, slope)


class _Pad(torch.autograd.Function):
    """slope where `padded` (None: the result) is not positive, times x, padded."""

    @staticmethod
    def forward(x: Tensor, padded: Tensor | None, padding: int, slope: float) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        return torch.ops.gcl_fast.reflect_pad(x, padded, padding, slope).permute(0, 3, 1, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, padded, ctx.padding, ctx.slope = inputs
        ctx.save_for_backward(None if ctx.slope == 1 else output if padded is None else padded)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _Adjoint.apply(grad, *ctx.saved_tensors, ctx.padding, ctx.slope), None, None, None


class _Adjoint(torch.autograd.Function):
    """The adjoint of `_Pad` at a given `padded`."""

    @staticmethod
    def forward(grad: Tensor, padded: Tensor | None, padding: int, slope: float) -> Tensor:
        grad = grad.contiguous(memory_format=torch.channels_last)
        return torch.ops.gcl_fast.reflect_pad_adjoint(grad, padded, padding, slope).permute(0, 3, 1, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, padded, ctx.padding, ctx.slope = inputs
        ctx.save_for_backward(padded)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _Pad.apply(grad, *ctx.saved_tensors, ctx.padding, ctx.slope), None, None, None


load()
