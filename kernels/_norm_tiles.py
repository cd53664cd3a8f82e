"""What the Triton kernels of both styled norms do with the pixels of one image, a tile at a time."""

# mypy: allow-incomplete-defs
# (a Triton kernel annotates its constants only)
from __future__ import annotations

import torch
from torch import Tensor

from gcl_fast.kernels._triton import jit, tl

EPS = 1e-5  # added to a variance (instance norm) or to a deviation (norm of whole samples)
TILE = 4096  # numbers in the registers of 8 warps


def stride_of(style: Tensor | None) -> int:
    """Return the numbers between two rows of a scale or shift, 0 where there is none."""
    return 0 if style is None else style.stride(0)


def dtype_of(style: Tensor | None) -> torch.dtype:
    """Return the type of the gradient by a scale or shift."""
    return torch.float32 if style is None else style.dtype


@jit
def wide(pointer, inside):
    """Load numbers as float32, 0 outside: the interpreter's arithmetic on bfloat16 is wrong."""
    return tl.load(pointer, mask=inside, other=0.0).to(tl.float32)


@jit
def style_row(style, sample, stride, channel, C, otherwise):
    """Load scale or shift of a sample's channels, (1, BLOCK_C)."""
    if style is None:
        return tl.zeros_like(channel)[None, :].to(tl.float32) + otherwise
    else:
        return wide(style + sample * stride + channel, channel < C)[None, :]


@jit
def tile(start, end, channel, C, BLOCK_R: tl.constexpr):
    """Return the places of BLOCK_R pixels of a sample from `start` on, (BLOCK_R, BLOCK_C), and which lie inside."""
    row = start + tl.arange(0, BLOCK_R)
    return row[:, None] * C + channel[None, :], (row < end)[:, None] & (channel < C)[None, :]


@jit
def apply_style(x, residual, y, mean, inverse, scale, shift, slope, begin, end, channel, C, BLOCK_R: tl.constexpr):
    """Normalize, style, activate and add the pixels begin..end-1 of a sample."""
    for start in range(begin, end, BLOCK_R):
        place, inside = tile(start, end, channel, C, BLOCK_R)
        value = (wide(x + place, inside) - mean) * inverse * scale + shift
        value = tl.where(value > 0, value, slope * value)
        if residual is not None:
            value += wide(residual + place, inside)
        tl.store(y + place, value.to(y.dtype.element_ty), mask=inside)


@jit
def gradient_before(x, grad, place, inside, mean, inverse, scale, shift, slope):
    """Compute the normalized x and the gradient before LeakyReLU."""
    normal, after = (wide(x + place, inside) - mean) * inverse, wide(grad + place, inside)
    return normal, tl.where(normal * scale + shift > 0, after, slope * after)


@jit
def sum_gradients(
    x, grad, mean, inverse, scale, shift, slope, begin, end, channel, C, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Sum up the gradients of shift and scale over the pixels begin..end-1, (BLOCK_C,).

    They are g, the gradient before LeakyReLU, and g times the normalized x.
    """
    of_shift = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    of_scale = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(begin, end, BLOCK_R):
        place, inside = tile(start, end, channel, C, BLOCK_R)
        normal, g = gradient_before(x, grad, place, inside, mean, inverse, scale, shift, slope)
        of_shift += g
        of_scale += tl.where(inside, g * normal, 0.0)
    return tl.sum(of_shift, 0), tl.sum(of_scale, 0)


@jit
def write_gradient(
    x, grad, dx, mean, inverse, scale, shift, slope, a, b, begin, end, channel, C, BLOCK_R: tl.constexpr
):  # fmt: skip
    """Write dx = inverse * (g * scale - a) - normal * b of the pixels begin..end-1 (styled_norm.cpp, backward_of)."""
    for start in range(begin, end, BLOCK_R):
        place, inside = tile(start, end, channel, C, BLOCK_R)
        normal, g = gradient_before(x, grad, place, inside, mean, inverse, scale, shift, slope)
        value = inverse * (g * scale - a) - normal * b
        tl.store(dx + place, value.to(dx.dtype.element_ty), mask=inside)
