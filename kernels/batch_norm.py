"""Batch norm with the residual and the ReLU behind it in one pass.

A residual network makes of every convolution's output batch norm, sum and ReLU: by torch's operations some thirteen
passes over the picture, forward and backward; here eight. In bfloat16 on two cores that is 1.3 to 1.9 times as fast for
the maps of a ResNet-50 (16x256x64x32: 3.3 ms beside 5.9), bound by memory, and 0.1 s of a joint step of the paper's
sizes, which then takes 11.9: `python benchmarks/train_step.py --size paper --stage joint`. Compiled, Inductor fuses
them. So the op serves eager runs in bfloat16 on a CPU, and the definition everything else: float32, too, where results
are then the official ones to the last digits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gcl_fast.csrc.build import load


def batch_norm_relu_reference(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None, **options: Any
) -> Tensor:
    """The definition, by torch's own operations; arguments are those of `batch_norm_relu`."""
    y = F.batch_norm(x, mean, var, weight, bias, **options)
    return F.relu(y if residual is None else y + residual)


def batch_norm_relu(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    *,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """relu(batch norm of x + residual), as `torch.nn.functional.batch_norm` defines it.

    Args:
        x, residual: (B, C, H, W), any float type; statistics and sums are taken in at least float32.
        running_mean, running_var: (C,), float32. In training they move towards the batch's by the share `momentum`,
            and x is normalized by the batch's own; otherwise by them.
        weight, bias: (C,), float32.

    Returns:
        (B, C, H, W) in x's type; differentiable once.

    Raises:
        ValueError: the residual has another shape than x; one value per channel in training.
    """
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"batch_norm_relu: residual {tuple(residual.shape)} must have x's shape, {tuple(x.shape)}")
    if x.device.type != "cpu" or x.dtype != torch.bfloat16:
        options = {"training": training, "momentum": momentum, "eps": eps}
        return batch_norm_relu_reference(x, running_mean, running_var, weight, bias, residual, **options)
    x = x.contiguous(memory_format=torch.channels_last)
    if residual is not None:
        residual = residual.to(x.dtype).contiguous(memory_format=torch.channels_last)
    moments = running_mean, running_var
    if training:
        if (count := x.numel() // x.shape[1]) < 2:
            raise ValueError(f"batch_norm_relu: more than one value per channel is needed, x is {tuple(x.shape)}")
        with torch.no_grad():
            moments = torch.ops.gcl_fast.batch_moments(x.detach())
            running_mean.lerp_(moments[0], momentum)
            running_var.lerp_(moments[1] * (count / (count - 1)), momentum)
    return _NormRelu.apply(x, *moments, weight, bias, residual, eps, training)


class _NormRelu(torch.autograd.Function):
    """relu((x - mean) / sqrt(variance + eps) * scale + shift + residual); `live`: the moments are x's own."""

    @staticmethod
    def forward(
        x: Tensor,
        mean: Tensor,
        variance: Tensor,
        scale: Tensor,
        shift: Tensor,
        residual: Tensor | None,
        eps: float,
        live: bool,
    ) -> Tensor:
        return torch.ops.gcl_fast.batch_norm_relu(x, mean, variance, scale, shift, residual, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, mean, variance, scale, shift, residual, ctx.eps, ctx.live = inputs
        y = None if residual is None else output  # without a residual x tells where ReLU let pass
        ctx.save_for_backward(x, y, mean, variance, scale, shift)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ordered = grad.contiguous(memory_format=torch.channels_last)
        saved = ctx.saved_tensors
        x, of_residual, scale, shift = torch.ops.gcl_fast.batch_norm_relu_backward(ordered, *saved, ctx.eps, ctx.live)
        return x, None, None, scale, shift, of_residual if ctx.needs_input_grad[5] else None, None, None


load()
