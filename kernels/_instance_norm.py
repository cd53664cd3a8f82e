"""Triton kernels of `styled_norm` for each channel of each sample (instance norm, AdaIN): one launch each way.

A program normalizes its channels alone. It reads them three times, the second and third time from the L2 cache.
"""

# mypy: allow-incomplete-defs
# (a Triton kernel annotates its constants only)
from __future__ import annotations

import torch
from torch import Tensor

from gcl_fast.kernels._norm_tiles import (
    EPS,
    TILE,
    apply_style,
    dtype_of,
    stride_of,
    style_row,
    sum_gradients,
    tile,
    wide,
    write_gradient,
)
from gcl_fast.kernels._triton import jit, tl, triton


@jit
def _instance_kernel(
    x, scale, shift, residual, y, moments, R, C, scale_stride, shift_stride, slope, eps, BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Normalize BLOCK_C channels of a sample, each by its own moments, in each program (b, c).

    Each program alone writes its channels: no race. The deviations have a pass of their own, so nothing cancels where
    the mean lies far from zero.
    """
    sample = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    x += sample * R * C
    y += sample * R * C
    if residual is not None:
        residual += sample * R * C
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(0, R, BLOCK_R):
        place, inside = tile(start, R, channel, C, BLOCK_R)
        total += wide(x + place, inside)
    mean = tl.sum(total, 0) / R  # (BLOCK_C,)
    squares = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(0, R, BLOCK_R):
        place, inside = tile(start, R, channel, C, BLOCK_R)
        apart = tl.where(inside, wide(x + place, inside) - mean[None, :], 0.0)
        squares += apart * apart
    inverse = 1.0 / tl.sqrt(tl.sum(squares, 0) / R + eps)
    moments += sample * 2 * C
    tl.store(moments + channel, mean, mask=channel < C)
    tl.store(moments + C + channel, inverse, mask=channel < C)
    s = style_row(scale, sample, scale_stride, channel, C, 1.0)
    t = style_row(shift, sample, shift_stride, channel, C, 0.0)
    apply_style(x, residual, y, mean[None, :], inverse[None, :], s, t, slope, 0, R, channel, C, BLOCK_R)


@jit
def _instance_backward_kernel(
    x, grad, scale, shift, moments, dx, dscale, dshift, R, C, scale_stride, shift_stride, slope,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Differentiate `_instance_kernel`: each program sums up its channels, then writes their gradient by x."""
    sample = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    here = channel < C
    x += sample * R * C
    grad += sample * R * C
    dx += sample * R * C
    moments += sample * 2 * C
    mean = tl.load(moments + channel, mask=here, other=0.0)[None, :]
    inverse = tl.load(moments + C + channel, mask=here, other=0.0)[None, :]
    s = style_row(scale, sample, scale_stride, channel, C, 1.0)
    t = style_row(shift, sample, shift_stride, channel, C, 0.0)
    of_shift, of_scale = sum_gradients(x, grad, mean, inverse, s, t, slope, 0, R, channel, C, BLOCK_R, BLOCK_C)
    tl.store(dshift + sample * C + channel, of_shift.to(dshift.dtype.element_ty), mask=here)
    tl.store(dscale + sample * C + channel, of_scale.to(dscale.dtype.element_ty), mask=here)
    a = s * of_shift[None, :] / R
    b = s * of_scale[None, :] / R * inverse
    write_gradient(x, grad, dx, mean, inverse, s, t, slope, a, b, 0, R, channel, C, BLOCK_R)


def instance_configuration(R: int, C: int) -> dict:
    """Choose the constants of a launch that normalizes each channel. aot.py compiles every value for C >= 16.

    16 channels of bfloat16 are a sector of memory. With more, 32 samples of 32 channels would leave more of an H100's
    132 processors idle.
    """
    block = min(triton.next_power_of_2(C), 16)
    tile = TILE if R * block > 1024 else 1024
    return {"BLOCK_R": tile // block, "BLOCK_C": block, "num_warps": tile // 512}


def instance_norm(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, slope: float
) -> tuple[Tensor, Tensor]:
    """Launch the forward kernel: return y and the moments (B, 2, C) of a batch that is not empty."""
    B, C, R = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    y, moments = torch.empty_like(x), x.new_empty((B, 2, C), dtype=torch.float32)
    constants = instance_configuration(R, C)
    _instance_kernel[(B, triton.cdiv(C, constants["BLOCK_C"]))](
        x, scale, shift, residual, y, moments, R, C, stride_of(scale), stride_of(shift), slope, EPS, **constants
    )
    return y, moments


def instance_norm_backward(
    grad: Tensor, x: Tensor, scale: Tensor | None, shift: Tensor | None, moments: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the backward kernel: return the gradients by x, scale and shift."""
    B, C, R = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    dx = torch.empty_like(x)
    dscale, dshift = (x.new_empty((B, C), dtype=dtype_of(style)) for style in (scale, shift))
    constants = instance_configuration(R, C)
    _instance_backward_kernel[(B, triton.cdiv(C, constants["BLOCK_C"]))](
        x, grad, scale, shift, moments, dx, dscale, dshift, R, C, stride_of(scale), stride_of(shift), slope, **constants
    )
    return dx, dscale, dshift
