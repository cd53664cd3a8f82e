"""Triton kernels of `styled_norm` for whole samples (the decoder's layer norm): two launches each way.

Programs of PART numbers leave their sums, then each program adds up those of its sample.
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
    wide,
    write_gradient,
)
from gcl_fast.kernels._triton import jit, tl, triton


@jit
def _parts_kernel(x, parts, R, C, rows, count, BLOCK: tl.constexpr):
    """Write the mean of part p of sample b and the sum of squared deviations from it, in each program (b, p).

    Part p holds the pixels p * rows .. (p + 1) * rows - 1. Each program has its own slot of `parts`, (B, 2, count).
    """
    sample, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    x += sample * R * C
    begin, end = part * rows * C, tl.minimum((part + 1) * rows, R) * C
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(begin, end, BLOCK):
        place = start + tl.arange(0, BLOCK)
        total += wide(x + place, place < end)
    mean = tl.sum(total, 0) / (end - begin)
    squares = tl.zeros((BLOCK,), tl.float32)
    for start in range(begin, end, BLOCK):
        place = start + tl.arange(0, BLOCK)
        apart = tl.where(place < end, wide(x + place, place < end) - mean, 0.0)
        squares += apart * apart
    tl.store(parts + sample * 2 * count + part, mean)
    tl.store(parts + (sample * 2 + 1) * count + part, tl.sum(squares, 0))


@jit
def _whole_kernel(
    x, scale, shift, residual, parts, y, moments, R, C, rows, count, scale_stride, shift_stride, slope, eps,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Join the parts of sample b, then normalize part p of its pixels and block c of its channels, in each program.

    All programs of a sample join in the same order (Chan et al. 1979), so they agree. Those of p = 0 write the moments,
    equal in every channel.
    """
    sample, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    x += sample * R * C
    y += sample * R * C
    if residual is not None:
        residual += sample * R * C
    p = tl.arange(0, BLOCK_P)
    parts += sample * 2 * count
    numbers = tl.where(p < count, tl.minimum((p + 1) * rows, R) - p * rows, 0).to(tl.float32) * C  # (BLOCK_P,)
    means = tl.load(parts + p, mask=p < count, other=0.0)
    squares = tl.load(parts + count + p, mask=p < count, other=0.0)
    every = 1.0 * R * C
    mean = tl.sum(means * numbers, 0) / every
    apart = means - mean
    inverse = 1.0 / (tl.sqrt(tl.sum(squares + numbers * apart * apart, 0) / (every - 1.0)) + eps)
    if part == 0:
        moments += sample * 2 * C
        tl.store(moments + channel, tl.zeros((BLOCK_C,), tl.float32) + mean, mask=channel < C)
        tl.store(moments + C + channel, tl.zeros((BLOCK_C,), tl.float32) + inverse, mask=channel < C)
    s = style_row(scale, sample, scale_stride, channel, C, 1.0)
    t = style_row(shift, sample, shift_stride, channel, C, 0.0)
    end = tl.minimum((part + 1) * rows, R)
    apply_style(x, residual, y, mean, inverse, s, t, slope, part * rows, end, channel, C, BLOCK_R)


@jit
def _sums_kernel(
    x, grad, scale, shift, moments, sums, R, C, rows, count, scale_stride, shift_stride, slope,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sum up the gradients of shift and scale over part p of sample b, in each program (b, p, c).

    Each program has its own slot of `sums`, (B, 2, count, C).
    """
    sample, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    here = channel < C
    mean, inverse = tl.load(moments + sample * 2 * C), tl.load(moments + (sample * 2 + 1) * C)
    s = style_row(scale, sample, scale_stride, channel, C, 1.0)
    t = style_row(shift, sample, shift_stride, channel, C, 0.0)
    end = tl.minimum((part + 1) * rows, R)
    of_shift, of_scale = sum_gradients(
        x + sample * R * C, grad + sample * R * C, mean, inverse, s, t, slope, part * rows, end, channel, C,
        BLOCK_R, BLOCK_C,
    )  # fmt: skip
    tl.store(sums + (sample * 2 * count + part) * C + channel, of_shift, mask=here)
    tl.store(sums + ((sample * 2 + 1) * count + part) * C + channel, of_scale, mask=here)


@jit
def _whole_backward_kernel(
    x, grad, scale, shift, moments, sums, dx, dscale, dshift, R, C, rows, count, scale_stride, shift_stride, slope,
    eps, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Add up the sums of sample b, then write the gradient of part p and block c, in each program (b, p, c).

    The program of p = 0 and c = 0 writes the gradients of scale and shift.
    """
    sample, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    moments += sample * 2 * C
    sums += sample * 2 * count * C
    mean, inverse = tl.load(moments), tl.load(moments + C)
    writes = (part == 0) & (tl.program_id(2) == 0)
    p = tl.arange(0, BLOCK_P)
    total, product = 0.0, 0.0  # of g * scale, and of that times the normalized x
    for first in range(0, C, BLOCK_C):
        channel = first + tl.arange(0, BLOCK_C)
        place, inside = p[:, None] * C + channel[None, :], (p < count)[:, None] & (channel < C)[None, :]
        of_shift = tl.sum(tl.load(sums + place, mask=inside, other=0.0), 0)  # (BLOCK_C,)
        of_scale = tl.sum(tl.load(sums + count * C + place, mask=inside, other=0.0), 0)
        mask = (channel < C) & writes
        tl.store(dshift + sample * C + channel, of_shift.to(dshift.dtype.element_ty), mask=mask)
        tl.store(dscale + sample * C + channel, of_scale.to(dscale.dtype.element_ty), mask=mask)
        s = style_row(scale, sample, scale_stride, channel, C, 1.0)
        total += tl.sum(tl.sum(s * of_shift[None, :], 1), 0)
        product += tl.sum(tl.sum(s * of_scale[None, :], 1), 0)
    every = 1.0 * R * C
    deviation = 1.0 / inverse - eps
    b = tl.where(deviation > 0, product / ((every - 1.0) * deviation), 0.0)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    s = style_row(scale, sample, scale_stride, channel, C, 1.0)
    t = style_row(shift, sample, shift_stride, channel, C, 0.0)
    end = tl.minimum((part + 1) * rows, R)
    write_gradient(
        x + sample * R * C, grad + sample * R * C, dx + sample * R * C, mean, inverse, s, t, slope, total / every, b,
        part * rows, end, channel, C, BLOCK_R,
    )  # fmt: skip


PART = 32768  # numbers of a part
MAX_PARTS = 64
PARTS_CONFIGURATION = {"BLOCK": TILE, "num_warps": 8}


def whole_configuration(R: int, C: int) -> dict:
    """Choose the constants of the launches that normalize whole samples. aot.py compiles every value for C >= 16."""
    block = min(triton.next_power_of_2(C), 64)
    return {"BLOCK_R": TILE // block, "BLOCK_C": block, "BLOCK_P": MAX_PARTS, "num_warps": 8}


def cut(R: int, C: int, block: int) -> tuple[int, int]:
    """Cut a sample of R pixels: return the number of parts, and the pixels of each but the last, whole blocks."""
    parts = min(max(triton.cdiv(R * C, PART), 1), MAX_PARTS)
    rows = triton.cdiv(triton.cdiv(R, parts), block) * block
    return triton.cdiv(R, rows), rows


def sample_norm(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, slope: float
) -> tuple[Tensor, Tensor]:
    """Launch the forward kernels: return y and the moments (B, 2, C) of a batch that is not empty."""
    B, C, R = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    y, moments = torch.empty_like(x), x.new_empty((B, 2, C), dtype=torch.float32)
    constants, strides = whole_configuration(R, C), (stride_of(scale), stride_of(shift))
    count, rows = cut(R, C, constants["BLOCK_R"])
    parts = x.new_empty((B, 2, count), dtype=torch.float32)
    _parts_kernel[(B, count)](x, parts, R, C, rows, count, **PARTS_CONFIGURATION)
    _whole_kernel[(B, count, triton.cdiv(C, constants["BLOCK_C"]))](
        x, scale, shift, residual, parts, y, moments, R, C, rows, count, *strides, slope, EPS, **constants
    )
    return y, moments


def sample_norm_backward(
    grad: Tensor, x: Tensor, scale: Tensor | None, shift: Tensor | None, moments: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the backward kernels: return the gradients by x, scale and shift."""
    B, C, R = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    dx = torch.empty_like(x)
    dscale, dshift = (x.new_empty((B, C), dtype=dtype_of(style)) for style in (scale, shift))
    constants, strides = whole_configuration(R, C), (stride_of(scale), stride_of(shift))
    count, rows = cut(R, C, constants["BLOCK_R"])
    grid = (B, count, triton.cdiv(C, constants["BLOCK_C"]))
    sums = x.new_empty((B, 2, count, C), dtype=torch.float32)
    without = {name: value for name, value in constants.items() if name != "BLOCK_P"}
    _sums_kernel[grid](x, grad, scale, shift, moments, sums, R, C, rows, count, *strides, slope, **without)
    _whole_backward_kernel[grid](
        x, grad, scale, shift, moments, sums, dx, dscale, dshift, R, C, rows, count, *strides, slope, EPS, **constants
    )
    return dx, dscale, dshift
