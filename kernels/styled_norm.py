"""The generator's two odd norms with everything around them in one pass: scale and shift, LeakyReLU, residual.

AdaIN normalizes each channel of each sample (Huang and Belongie 2017), the decoder's layer norm each sample over
C, H, W by its unbiased deviation (MUNIT). As tensor arithmetic they are some twelve passes over the picture, forward
and backward; compiled, Inductor fuses these passes. So the op serves eager runs, in C++ on a CPU (the demo) and in
Triton on a GPU, and the definition serves compiled graphs and float64. Structure encoder and generator, forward and
backward on 8 images in bfloat16, take 0.13 s on one core with the op, 0.22 s without, and 0.12 s compiled (medians of
15 in one process; the compiler took two minutes of the core): `python benchmarks/run.py --only networks` measures the
eager ones.

On a GPU AdaIN is one launch forward and one backward: a program reads its channels three times, the second and third
time from the L2 cache. The layer norm is two and two: programs of PART numbers leave their sums, then each program adds
up those of its sample. Neither has atomics, so results repeat.
Roofline of an H100 (3.0 TB/s), bfloat16, B=32, not measured: AdaIN at 128x64x32 reads 17 MB and writes 17 MB, 11 us,
backward 17 us. The layer norm at 32x256x128 reads 67 MB twice and writes 67 MB, 67 us.
"""

# mypy: allow-incomplete-defs
# (a Triton kernel annotates its constants only)
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gcl_fast.csrc.build import load
from gcl_fast.kernels._triton import jit, on_its_device, tl, triton, triton_serves

EPS = 1e-5


def styled_norm_reference(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, slope: float, whole: bool
) -> Tensor:
    """The definition, in at least float32: plain arithmetic, which fuses (torch.instance_norm copies channels-last)."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if whole:
        deviation, mean = torch.std_mean(wide, (1, 2, 3), keepdim=True)
        y = (wide - mean) / (deviation + EPS)
    else:
        variance, mean = torch.var_mean(wide, (2, 3), correction=0, keepdim=True)
        y = (wide - mean) * torch.rsqrt(variance + EPS)
    if scale is not None:
        y = y * scale.to(wide.dtype)[:, :, None, None]
    if shift is not None:
        y = y + shift.to(wide.dtype)[:, :, None, None]
    if slope != 1:
        y = (1 + slope) / 2 * y + (1 - slope) / 2 * y.abs()  # LeakyReLU; see models.layers.leaky_relu
    return (y if residual is None else y + residual).to(x.dtype)


@jit
def _wide(pointer, inside):
    """Load numbers as float32, 0 outside: the interpreter's arithmetic on bfloat16 is wrong."""
    return tl.load(pointer, mask=inside, other=0.0).to(tl.float32)


@jit
def _row(style, sample, stride, channel, C, otherwise):
    """Load scale or shift of a sample's channels, (1, BLOCK_C)."""
    if style is None:
        return tl.zeros_like(channel)[None, :].to(tl.float32) + otherwise
    else:
        return _wide(style + sample * stride + channel, channel < C)[None, :]


@jit
def _tile(start, end, channel, C, BLOCK_R: tl.constexpr):
    """Return the places of BLOCK_R pixels of a sample from `start` on, (BLOCK_R, BLOCK_C), and which lie inside."""
    row = start + tl.arange(0, BLOCK_R)
    return row[:, None] * C + channel[None, :], (row < end)[:, None] & (channel < C)[None, :]


@jit
def _apply(x, residual, y, mean, inverse, scale, shift, slope, begin, end, channel, C, BLOCK_R: tl.constexpr):
    """Normalize, style, activate and add the pixels begin..end-1 of a sample."""
    for start in range(begin, end, BLOCK_R):
        place, inside = _tile(start, end, channel, C, BLOCK_R)
        value = (_wide(x + place, inside) - mean) * inverse * scale + shift
        value = tl.where(value > 0, value, slope * value)
        if residual is not None:
            value += _wide(residual + place, inside)
        tl.store(y + place, value.to(y.dtype.element_ty), mask=inside)


@jit
def _before(x, grad, place, inside, mean, inverse, scale, shift, slope):
    """Compute the normalized x and the gradient before LeakyReLU."""
    normal, after = (_wide(x + place, inside) - mean) * inverse, _wide(grad + place, inside)
    return normal, tl.where(normal * scale + shift > 0, after, slope * after)


@jit
def _sums(
    x, grad, mean, inverse, scale, shift, slope, begin, end, channel, C, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Sum up the gradients of shift and scale over the pixels begin..end-1, (BLOCK_C,).

    They are g, the gradient before LeakyReLU, and g times the normalized x.
    """
    of_shift = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    of_scale = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(begin, end, BLOCK_R):
        place, inside = _tile(start, end, channel, C, BLOCK_R)
        normal, g = _before(x, grad, place, inside, mean, inverse, scale, shift, slope)
        of_shift += g
        of_scale += tl.where(inside, g * normal, 0.0)
    return tl.sum(of_shift, 0), tl.sum(of_scale, 0)


@jit
def _gradient(
    x, grad, dx, mean, inverse, scale, shift, slope, a, b, begin, end, channel, C, BLOCK_R: tl.constexpr
):  # fmt: skip
    """Write dx = inverse * (g * scale - a) - normal * b of the pixels begin..end-1 (styled_norm.cpp, backward_of)."""
    for start in range(begin, end, BLOCK_R):
        place, inside = _tile(start, end, channel, C, BLOCK_R)
        normal, g = _before(x, grad, place, inside, mean, inverse, scale, shift, slope)
        value = inverse * (g * scale - a) - normal * b
        tl.store(dx + place, value.to(dx.dtype.element_ty), mask=inside)


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
        place, inside = _tile(start, R, channel, C, BLOCK_R)
        total += _wide(x + place, inside)
    mean = tl.sum(total, 0) / R  # (BLOCK_C,)
    squares = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(0, R, BLOCK_R):
        place, inside = _tile(start, R, channel, C, BLOCK_R)
        apart = tl.where(inside, _wide(x + place, inside) - mean[None, :], 0.0)
        squares += apart * apart
    inverse = 1.0 / tl.sqrt(tl.sum(squares, 0) / R + eps)
    moments += sample * 2 * C
    tl.store(moments + channel, mean, mask=channel < C)
    tl.store(moments + C + channel, inverse, mask=channel < C)
    s = _row(scale, sample, scale_stride, channel, C, 1.0)
    t = _row(shift, sample, shift_stride, channel, C, 0.0)
    _apply(x, residual, y, mean[None, :], inverse[None, :], s, t, slope, 0, R, channel, C, BLOCK_R)


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
    s = _row(scale, sample, scale_stride, channel, C, 1.0)
    t = _row(shift, sample, shift_stride, channel, C, 0.0)
    of_shift, of_scale = _sums(x, grad, mean, inverse, s, t, slope, 0, R, channel, C, BLOCK_R, BLOCK_C)
    tl.store(dshift + sample * C + channel, of_shift.to(dshift.dtype.element_ty), mask=here)
    tl.store(dscale + sample * C + channel, of_scale.to(dscale.dtype.element_ty), mask=here)
    a = s * of_shift[None, :] / R
    b = s * of_scale[None, :] / R * inverse
    _gradient(x, grad, dx, mean, inverse, s, t, slope, a, b, 0, R, channel, C, BLOCK_R)


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
        total += _wide(x + place, place < end)
    mean = tl.sum(total, 0) / (end - begin)
    squares = tl.zeros((BLOCK,), tl.float32)
    for start in range(begin, end, BLOCK):
        place = start + tl.arange(0, BLOCK)
        apart = tl.where(place < end, _wide(x + place, place < end) - mean, 0.0)
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
    s = _row(scale, sample, scale_stride, channel, C, 1.0)
    t = _row(shift, sample, shift_stride, channel, C, 0.0)
    end = tl.minimum((part + 1) * rows, R)
    _apply(x, residual, y, mean, inverse, s, t, slope, part * rows, end, channel, C, BLOCK_R)


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
    s = _row(scale, sample, scale_stride, channel, C, 1.0)
    t = _row(shift, sample, shift_stride, channel, C, 0.0)
    end = tl.minimum((part + 1) * rows, R)
    of_shift, of_scale = _sums(
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
        s = _row(scale, sample, scale_stride, channel, C, 1.0)
        total += tl.sum(tl.sum(s * of_shift[None, :], 1), 0)
        product += tl.sum(tl.sum(s * of_scale[None, :], 1), 0)
    every = 1.0 * R * C
    deviation = 1.0 / inverse - eps
    b = tl.where(deviation > 0, product / ((every - 1.0) * deviation), 0.0)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    s = _row(scale, sample, scale_stride, channel, C, 1.0)
    t = _row(shift, sample, shift_stride, channel, C, 0.0)
    end = tl.minimum((part + 1) * rows, R)
    _gradient(
        x + sample * R * C, grad + sample * R * C, dx + sample * R * C, mean, inverse, s, t, slope, total / every, b,
        part * rows, end, channel, C, BLOCK_R,
    )  # fmt: skip


PART = 32768  # numbers of a part
MAX_PARTS = 64
TILE = 4096  # numbers in the registers of 8 warps


def instance_configuration(R: int, C: int) -> dict:
    """Choose the constants of a launch that normalizes each channel. aot.py compiles every value for C >= 16.

    16 channels of bfloat16 are a sector of memory. With more, 32 samples of 32 channels would leave more of an H100's
    132 processors idle.
    """
    block = min(triton.next_power_of_2(C), 16)
    tile = TILE if R * block > 1024 else 1024
    return {"BLOCK_R": tile // block, "BLOCK_C": block, "num_warps": tile // 512}


def whole_configuration(R: int, C: int) -> dict:
    """Choose the constants of the launches that normalize whole samples. aot.py compiles every value for C >= 16."""
    block = min(triton.next_power_of_2(C), 64)
    return {"BLOCK_R": TILE // block, "BLOCK_C": block, "BLOCK_P": MAX_PARTS, "num_warps": 8}


def cut(R: int, C: int, block: int) -> tuple[int, int]:
    """Cut a sample of R pixels: return the number of parts, and the pixels of each but the last, whole blocks."""
    parts = min(max(triton.cdiv(R * C, PART), 1), MAX_PARTS)
    rows = triton.cdiv(triton.cdiv(R, parts), block) * block
    return triton.cdiv(R, rows), rows


def _stride(style: Tensor | None) -> int:
    return 0 if style is None else style.stride(0)


@on_its_device
def styled_norm_triton(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, slope: float, whole: bool
) -> tuple[Tensor, Tensor]:
    """Launch the forward kernels. Same arguments as the op; also runs on CPU tensors under TRITON_INTERPRET=1."""
    B, C, R = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    y, moments = torch.empty_like(x), x.new_empty((B, 2, C), dtype=torch.float32)
    if not x.numel():
        return y, moments
    strides = _stride(scale), _stride(shift)
    if not whole:
        constants = instance_configuration(R, C)
        _instance_kernel[(B, triton.cdiv(C, constants["BLOCK_C"]))](
            x, scale, shift, residual, y, moments, R, C, *strides, slope, EPS, **constants
        )
        return y, moments
    constants = whole_configuration(R, C)
    count, rows = cut(R, C, constants["BLOCK_R"])
    parts = x.new_empty((B, 2, count), dtype=torch.float32)
    _parts_kernel[(B, count)](x, parts, R, C, rows, count, **PARTS_CONFIGURATION)
    _whole_kernel[(B, count, triton.cdiv(C, constants["BLOCK_C"]))](
        x, scale, shift, residual, parts, y, moments, R, C, rows, count, *strides, slope, EPS, **constants
    )
    return y, moments


PARTS_CONFIGURATION = {"BLOCK": TILE, "num_warps": 8}


@on_its_device
def styled_norm_backward_triton(
    grad: Tensor, x: Tensor, scale: Tensor | None, shift: Tensor | None, moments: Tensor, slope: float, whole: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the backward kernels. Same arguments as the op; also runs on CPU tensors under TRITON_INTERPRET=1."""
    B, C, R = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    dx = torch.empty_like(x)
    dscale, dshift = (x.new_empty((B, C), dtype=_dtype(style)) for style in (scale, shift))
    if not x.numel():
        return dx, dscale.zero_(), dshift.zero_()
    strides = _stride(scale), _stride(shift)
    if not whole:
        constants = instance_configuration(R, C)
        _instance_backward_kernel[(B, triton.cdiv(C, constants["BLOCK_C"]))](
            x, grad, scale, shift, moments, dx, dscale, dshift, R, C, *strides, slope, **constants
        )
        return dx, dscale, dshift
    constants = whole_configuration(R, C)
    count, rows = cut(R, C, constants["BLOCK_R"])
    grid = (B, count, triton.cdiv(C, constants["BLOCK_C"]))
    sums = x.new_empty((B, 2, count, C), dtype=torch.float32)
    without = {name: value for name, value in constants.items() if name != "BLOCK_P"}
    _sums_kernel[grid](x, grad, scale, shift, moments, sums, R, C, rows, count, *strides, slope, **without)
    _whole_backward_kernel[grid](
        x, grad, scale, shift, moments, sums, dx, dscale, dshift, R, C, rows, count, *strides, slope, EPS, **constants
    )
    return dx, dscale, dshift


def _dtype(style: Tensor | None) -> torch.dtype:
    """Return the type of the gradient by a scale or shift."""
    return torch.float32 if style is None else style.dtype


def styled_norm(
    x: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    slope: float = 1.0,
    whole: bool = False,
) -> Tensor:
    """residual + LeakyReLU(normal(x) * scale + shift).

    Args:
        x: (B, C, H, W), any float type; statistics are taken in at least float32.
        scale, shift: (B, C) or (1, C); None: 1 and 0.
        residual: (B, C, H, W), added last.
        slope: of LeakyReLU below zero; 1 leaves it out.
        whole: normalize each sample by its mean and unbiased deviation over C, H, W, in place of each channel of each
            sample by its mean and variance over H, W.

    Returns:
        (B, C, H, W) in x's type.

    Raises:
        ValueError: shapes that do not fit.
    """
    size = x.shape[:2]
    for name, style in (("scale", scale), ("shift", shift)):
        if style is not None and (x.ndim != 4 or style.shape not in (size, (1, size[1]))):
            raise ValueError(
                f"styled_norm: {name} must be (B, C) or (1, C) of x {tuple(x.shape)}, not {tuple(style.shape)}"
            )
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"styled_norm: residual {tuple(residual.shape)} must have the shape of x, {tuple(x.shape)}")
    in_cpp = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and not torch.compiler.is_compiling()
    if not in_cpp and not triton_serves(x):
        return styled_norm_reference(x, scale, shift, residual, slope, whole)
    x = x.contiguous(memory_format=torch.channels_last)
    if residual is not None:
        residual = residual.to(x.dtype).contiguous(memory_format=torch.channels_last)
    rows = (style if style is None else _rows(style, x) for style in (scale, shift))
    return torch.ops.gcl_fast.styled_norm(x, *rows, residual, slope, whole)[0]


def _rows(style: Tensor, x: Tensor) -> Tensor:
    """Prepare `style` for the op, (B, C): samples may share a row, and a GPU's kernels take any float type."""
    style = style.expand(x.shape[:2]) if style.is_cuda else style.float().expand(x.shape[:2])
    return style if style.stride(1) == 1 else style.contiguous()


load()
torch.library.register_kernel("gcl_fast::styled_norm", "cuda", styled_norm_triton)
torch.library.register_kernel("gcl_fast::styled_norm_backward", "cuda", styled_norm_backward_triton)


@torch.library.register_fake("gcl_fast::styled_norm")
def _(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, slope: float, whole: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty((x.shape[0], 2, x.shape[1]), dtype=torch.float32)


@torch.library.register_fake("gcl_fast::styled_norm_backward")
def _(
    grad: Tensor, x: Tensor, scale: Tensor | None, shift: Tensor | None, moments: Tensor, slope: float, whole: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dscale, dshift = (x.new_empty(x.shape[:2], dtype=_dtype(style)) for style in (scale, shift))
    return torch.empty_like(x), dscale, dshift


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, scale, shift, residual, ctx.slope, ctx.whole = inputs
    ctx.has_residual = residual is not None
    ctx.save_for_backward(x, scale, shift, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    x, scale, shift, moments = ctx.saved_tensors
    ordered = grad.contiguous(memory_format=torch.channels_last)
    dx, dscale, dshift = torch.ops.gcl_fast.styled_norm_backward(
        ordered, x, scale, shift, moments, ctx.slope, ctx.whole
    )
    styles = (None if style is None else d for style, d in ((scale, dscale), (shift, dshift)))
    return dx, *styles, ordered if ctx.has_residual else None, None, None


torch.library.register_autograd("gcl_fast::styled_norm", _backward, setup_context=_setup)
