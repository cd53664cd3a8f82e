"""The generator's two norms with all that follows them in one pass: scale and shift, LeakyReLU, residual.

AdaIN normalizes each channel of each sample (Huang and Belongie 2017), the decoder's layer norm each sample over C,
H, W by its unbiased deviation (MUNIT). As tensor arithmetic they are about twelve passes over the images, forward and
backward, which Inductor fuses. So the op serves eager runs, in C++ on a CPU and in Triton on a GPU, and the
definition serves compiled graphs and float64. `python benchmarks/run.py --only networks` measures both.

The GPU's kernels have no atomics, so results repeat. Roofline of an H100 (3.0 TB/s), bfloat16, B=32: AdaIN at 128x64x32
reads 17 MB and writes 17 MB, 11 us, backward 17 us. The layer norm at 32x256x128 reads 67 MB twice and writes 67 MB,
67 us. Estimate only; not measured on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gcl_fast.csrc.build import load
from gcl_fast.kernels._checks import NARROW, Expected, check_number, check_tensors, register_fake
from gcl_fast.kernels._instance_norm import instance_norm, instance_norm_backward
from gcl_fast.kernels._norm_tiles import EPS, dtype_of
from gcl_fast.kernels._sample_norm import sample_norm, sample_norm_backward
from gcl_fast.kernels._triton import on_its_device, triton_serves

__all__ = ["styled_norm"]


def styled_norm_reference(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, slope: float, whole: bool
) -> Tensor:
    """Define `styled_norm` in plain PyTorch, in at least float32.

    It is plain arithmetic, which a compiler fuses; torch.instance_norm copies channels-last images.
    """
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


def styled_norm(
    x: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    slope: float = 1.0,
    whole: bool = False,
) -> Tensor:
    """Compute residual + LeakyReLU(normal(x) * scale + shift).

    Args:
        x: (B, C, H, W), any float type; statistics are taken in at least float32.
        scale, shift: (B, C) or (1, C); None: 1 and 0.
        residual: (B, C, H, W), added last; None: nothing is added.
        slope: factor of LeakyReLU below zero; 1 leaves it out.
        whole: False: normalize each channel of each sample by its mean and variance over H, W. True: normalize each
            sample by its mean and unbiased deviation over C, H, W.

    Returns:
        (B, C, H, W) in x's type; differentiable once.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2)
        >>> styled_norm(x, shift=torch.ones(1, 1)).flatten()
        tensor([-0.3416,  0.5528,  1.4472,  2.3416])
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


def _check(
    op: str, x: Tensor, scale: Tensor | None, shift: Tensor | None, slope: float, **others: Expected | None
) -> None:
    """Raise a ValueError where the kernels would leave these tensors. None of scale, shift and others: left out."""
    styles = {"scale": scale, "shift": shift}
    tensors = {name: None if y is None else Expected(y, "B C", NARROW, "row by row") for name, y in styles.items()}
    given = {name: expected for name, expected in (tensors | others).items() if expected is not None}
    check_tensors(op, x=Expected(x, "B C H W", NARROW, "channels-last"), **given)
    check_number(op, "slope", slope)


@on_its_device
def styled_norm_triton(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, slope: float, whole: bool
) -> tuple[Tensor, Tensor]:
    """Launch the forward kernels. Same arguments as the op; also runs on CPU tensors under TRITON_INTERPRET=1.

    Raises:
        ValueError: arguments that do not fit.
    """
    added = None if residual is None else Expected(residual, "B C H W", (x.dtype,), "channels-last")
    _check("styled_norm", x, scale, shift, slope, residual=added)
    if not x.numel():
        return torch.empty_like(x), x.new_zeros((x.shape[0], 2, x.shape[1]), dtype=torch.float32)
    return (sample_norm if whole else instance_norm)(x, scale, shift, residual, slope)


@on_its_device
def styled_norm_backward_triton(
    grad: Tensor, x: Tensor, scale: Tensor | None, shift: Tensor | None, moments: Tensor, slope: float, whole: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the backward kernels. Same arguments as the op; also runs on CPU tensors under TRITON_INTERPRET=1.

    Raises:
        ValueError: arguments that do not fit.
    """
    given = Expected(grad, "B C H W", (x.dtype,), "channels-last"), Expected(moments, "B 2 C", (torch.float32,))
    _check("styled_norm_backward", x, scale, shift, slope, grad=given[0], moments=given[1])
    if not x.numel():
        dscale, dshift = (x.new_zeros(x.shape[:2], dtype=dtype_of(style)) for style in (scale, shift))
        return torch.empty_like(x), dscale, dshift
    return (sample_norm_backward if whole else instance_norm_backward)(grad, x, scale, shift, moments, slope)


load()
torch.library.register_kernel("gcl_fast::styled_norm", "cuda", styled_norm_triton)
torch.library.register_kernel("gcl_fast::styled_norm_backward", "cuda", styled_norm_backward_triton)


@register_fake("styled_norm")
def _(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, slope: float, whole: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty((x.shape[0], 2, x.shape[1]), dtype=torch.float32)


@register_fake("styled_norm_backward")
def _(
    grad: Tensor, x: Tensor, scale: Tensor | None, shift: Tensor | None, moments: Tensor, slope: float, whole: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dscale, dshift = (x.new_empty(x.shape[:2], dtype=dtype_of(style)) for style in (scale, shift))
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
