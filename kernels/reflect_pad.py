"""Reflect padding, with the LeakyReLU before it, in one pass.

On a CPU under autocast, torch pads in float32 and copies channels-last images there and back, which costs 30 % of a
step of the paper's sizes (`python benchmarks/train_step.py --size paper`). On a GPU its gradient adds atomically, in an
order that changes from run to run. So the op serves eager runs, in C++ and in Triton. The definition serves compiled
graphs and other types.

Padding is linear, and LeakyReLU is linear except where its input is zero. So the op and its adjoint are each other's
derivatives, to any order; R1 differentiates twice. The sign of the padded images tells where the slope multiplies. The
next convolution keeps these images anyway.
"""

# mypy: allow-incomplete-defs
# (a Triton kernel annotates its constants only)
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gcl_fast.csrc.build import load
from gcl_fast.kernels._checks import NARROW, Expected, check_number, check_tensors, register_fake
from gcl_fast.kernels._triton import jit, on_its_device, tl, triton, triton_serves

__all__ = ["reflect_pad"]


def reflect_pad_reference(x: Tensor, padding: int, slope: float = 1.0) -> Tensor:
    """Define `reflect_pad` in plain PyTorch."""
    return F.pad(x if slope == 1 else F.leaky_relu(x, slope), (padding,) * 4, mode="reflect")


@jit
def _mirrored(at, size):
    """Return the place 0..size-1 that place `at` of a line mirrors, -size < at < 2 * size - 1."""
    return (size - 1) - tl.abs(size - 1 - tl.abs(at))


@jit
def _pad_kernel(
    x, padded, out, H, W, C, padding, slope, SIGNED: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Pad BLOCK_W pixels of one row of the padded images, BLOCK_C channels, in each program (row, w, c).

    Each pixel is read where it mirrors the image. SIGNED: the slope multiplies where that pixel is not positive, in
    `padded` where it is given.
    """
    high, wide = H + 2 * padding, W + 2 * padding
    sample, row = (tl.program_id(0) // high).to(tl.int64), tl.program_id(0) % high
    column = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (column < wide)[:, None] & (channel < C)[None, :]
    from_row, from_column = _mirrored(row - padding, H), _mirrored(column - padding, W)
    place = from_column[:, None] * C + channel[None, :]  # in its row
    value = tl.load(x + (sample * H + from_row) * W * C + place, mask=inside, other=0.0).to(tl.float32)
    if SIGNED:
        if padded is None:
            sign = value
        else:
            signs = padded + ((sample * high + from_row + padding) * wide + padding) * C
            sign = tl.load(signs + place, mask=inside, other=0.0).to(tl.float32)
        value = tl.where(sign > 0, value, slope * value)
    place = column[:, None] * C + channel[None, :]
    tl.store(out + (sample * high + row) * wide * C + place, value.to(out.dtype.element_ty), mask=inside)


@jit
def _folded_row(grad, column, channel, W, C, padding, inside):
    """Sum up the at most three places of a padded row that mirror each pixel, (BLOCK_W, BLOCK_C)."""
    place = (column + padding)[:, None] * C + channel[None, :]
    total = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
    left = inside & ((column >= 1) & (column <= padding))[:, None]
    place = (padding - column)[:, None] * C + channel[None, :]
    total += tl.load(grad + place, mask=left, other=0.0).to(tl.float32)
    right = inside & ((column >= W - 1 - padding) & (column <= W - 2))[:, None]
    place = (2 * (W - 1) - column + padding)[:, None] * C + channel[None, :]
    return total + tl.load(grad + place, mask=right, other=0.0).to(tl.float32)


@jit
def _adjoint_kernel(
    grad, padded, out, H, W, C, padding, slope, SIGNED: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Sum up the places that mirror BLOCK_W pixels of one row of the images, BLOCK_C channels, in each program.

    Each program (row, w, c) alone writes its pixels, and adds in a fixed order: no race, no atomics.
    """
    high, wide = H + 2 * padding, W + 2 * padding
    sample, row = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    column = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (column < W)[:, None] & (channel < C)[None, :]
    grad += sample * high * wide * C
    total = _folded_row(grad + (row + padding) * wide * C, column, channel, W, C, padding, inside)
    if (row >= 1) & (row <= padding):
        total += _folded_row(grad + (padding - row) * wide * C, column, channel, W, C, padding, inside)
    if (row >= H - 1 - padding) & (row <= H - 2):
        mirror = 2 * (H - 1) - row + padding
        total += _folded_row(grad + mirror * wide * C, column, channel, W, C, padding, inside)
    place = column[:, None] * C + channel[None, :]
    if SIGNED:
        signs = padded + ((sample * high + row + padding) * wide + padding) * C
        sign = tl.load(signs + place, mask=inside, other=0.0).to(tl.float32)
        total = tl.where(sign > 0, total, slope * total)
    tl.store(out + (sample * H + row) * W * C + place, total.to(out.dtype.element_ty), mask=inside)


def launch_configuration(C: int, dtype: torch.dtype) -> dict:
    """Choose the constants of a launch, 16 bytes a thread. aot.py compiles every value for C >= 16.

    Larger blocks would leave more threads idle at the end of a row of 34 or 66 pixels.
    """
    block = min(triton.next_power_of_2(C), 64)
    return {"BLOCK_W": 2048 // dtype.itemsize // block, "BLOCK_C": block, "num_warps": 4}


def _launch(kernel: Any, x: Tensor, padded: Tensor | None, out: Tensor, padding: int, slope: float) -> Tensor:
    """Launch `kernel`, which writes `out`, (B, H', W', C), and return it."""
    B, rows, columns, C = out.shape
    H, W = (min(size) for size in zip(x.shape[2:], (rows, columns)))
    if out.numel():
        constants = launch_configuration(C, x.dtype)
        grid = B * rows, triton.cdiv(columns, constants["BLOCK_W"]), triton.cdiv(C, constants["BLOCK_C"])
        kernel[grid](x, padded, out, H, W, C, padding, slope, SIGNED=slope != 1, **constants)
    return out


def _check(op: str, name: str, x: Tensor, padded: Tensor | None, removed: int, padding: int, slope: float) -> None:
    """Raise a ValueError where the kernels would leave these images. `removed`: what the adjoint takes off a side.

    Too wide a padding is a RuntimeError, as in C++ and in torch's own padding.
    """
    check_tensors(op, **{name: Expected(x, "B C H W", NARROW, "channels-last")})
    B, C, *sides = x.shape
    H, W = (side - removed for side in sides)
    if not 0 <= padding < min(H, W):
        raise RuntimeError(f"{op}: padding is {padding}, and must be less than both sides of the images, {H} x {W}")
    if padded is not None:
        check_tensors(op, padded=Expected(padded, "B C H W", (x.dtype,), "channels-last"))
        if padded.shape != (B, C, H + 2 * padding, W + 2 * padding) or padded.device != x.device:
            raise ValueError(
                f"{op}: padded must be the images {tuple(x.shape)} with a padding of {padding}, on {x.device}; got "
                f"{tuple(padded.shape)} on {padded.device}"
            )
    check_number(op, "slope", slope, 0)


@on_its_device
def reflect_pad_triton(x: Tensor, padded: Tensor | None, padding: int, slope: float) -> Tensor:
    """Launch the padding kernel. Same arguments as the op; also runs on CPU tensors under TRITON_INTERPRET=1.

    Raises:
        ValueError: arguments that do not fit.
    """
    _check("reflect_pad", "x", x, padded, 0, padding, slope)
    B, C, H, W = x.shape
    out = x.new_empty((B, H + 2 * padding, W + 2 * padding, C))
    return _launch(_pad_kernel, x, padded, out, padding, slope)


@on_its_device
def reflect_pad_adjoint_triton(grad: Tensor, padded: Tensor | None, padding: int, slope: float) -> Tensor:
    """Launch the adjoint kernel. Same arguments as the op; also runs on CPU tensors under TRITON_INTERPRET=1.

    Raises:
        ValueError: arguments that do not fit.
    """
    _check("reflect_pad_adjoint", "grad", grad, padded, 2 * padding, padding, slope)
    if padded is None and slope != 1:
        raise ValueError("reflect_pad_adjoint: slope needs padded, the images whose signs it follows")
    B, C, H, W = grad.shape
    out = grad.new_empty((B, H - 2 * padding, W - 2 * padding, C))
    return _launch(_adjoint_kernel, grad, padded, out, padding, slope)


def reflect_pad(x: Tensor, padding: int, slope: float = 1.0) -> Tensor:
    """Mirror `padding` rows and columns of LeakyReLU(x) about each border, the border itself not repeated.

    Args:
        x: (B, C, H, W), any float type.
        padding: less than H and W.
        slope: factor of LeakyReLU below zero, positive; 1 leaves it out.

    Returns:
        (B, C, H + 2 * padding, W + 2 * padding) in x's type; differentiable to any order.

    Raises:
        RuntimeError: the padding is not less than both sides.

    Example:
        >>> reflect_pad(torch.tensor([[1.0, -2.0], [3.0, 4.0]]).view(1, 1, 2, 2), 1, slope=0.5)[0, 0]
        tensor([[ 4.,  3.,  4.,  3.],
                [-1.,  1., -1.,  1.],
                [ 4.,  3.,  4.,  3.],
                [-1.,  1., -1.,  1.]])
    """
    in_cpp = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)
    if not in_cpp and not triton_serves(x):
        return reflect_pad_reference(x, padding, slope)
    return _Pad.apply(x, None, padding, slope, False)


class _Pad(torch.autograd.Function):
    """Multiply x by `slope` where `padded` (None: the result) is not positive, and pad; or the adjoint of that.

    Each of the two is the derivative of the other. torch.func's transforms, by which R1 is taken, refuse ops that are
    registered by `torch.library.register_autograd`, so this is a Function.
    """

    @staticmethod
    def forward(x: Tensor, padded: Tensor | None, padding: int, slope: float, adjoint: bool) -> Tensor:
        op = torch.ops.gcl_fast.reflect_pad_adjoint if adjoint else torch.ops.gcl_fast.reflect_pad
        return op(x.contiguous(memory_format=torch.channels_last), padded, padding, slope).permute(0, 3, 1, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, padded, ctx.padding, ctx.slope, ctx.adjoint = inputs
        signs = output if padded is None and not ctx.adjoint else padded
        ctx.save_for_backward(None if ctx.slope == 1 else signs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (padded,) = ctx.saved_tensors
        return _Pad.apply(grad, padded, ctx.padding, ctx.slope, not ctx.adjoint), None, None, None, None


load()
torch.library.register_kernel("gcl_fast::reflect_pad", "cuda", reflect_pad_triton)
torch.library.register_kernel("gcl_fast::reflect_pad_adjoint", "cuda", reflect_pad_adjoint_triton)


@register_fake("reflect_pad")
def _(x: Tensor, padded: Tensor | None, padding: int, slope: float) -> Tensor:
    B, C, H, W = x.shape
    return x.new_empty((B, H + 2 * padding, W + 2 * padding, C))


@register_fake("reflect_pad_adjoint")
def _(grad: Tensor, padded: Tensor | None, padding: int, slope: float) -> Tensor:
    B, C, H, W = grad.shape
    return grad.new_empty((B, H - 2 * padding, W - 2 * padding, C))
