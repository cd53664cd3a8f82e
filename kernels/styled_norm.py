"""The generator's two odd norms with everything around them in one pass: scale and shift, LeakyReLU, residual.

AdaIN normalizes each channel of each sample (Huang and Belongie 2017), the decoder's layer norm each sample over
C, H, W by its unbiased deviation (MUNIT). As tensor arithmetic they are some twelve passes over the picture, forward
and backward; compiled, Inductor fuses these passes. So the op serves eager runs on a CPU (the demo), and the definition
everything else: CUDA, compiled graphs, float64. Structure encoder and generator, forward and backward on 8 pictures in
bfloat16, take 0.13 s on one core with the op, 0.22 s without, and 0.12 s compiled (medians of 15 in one process; the
compiler took two minutes of the core): `python benchmarks/run.py --only networks` measures the eager ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gcl_fast.csrc.build import load

EPS = 1e-5


def styled_norm_reference(
    x: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None, slope: float, whole: bool
) -> Tensor:
    """The definition, in at least float32: plain arithmetic, which fuses (torch.instance_norm copies channels-last)."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if whole:
        deviation, mean = torch.std_mean(wide, (1, 2, 3), keepdim=True)
        normal = (wide - mean) / (deviation + EPS)
    else:
        variance, mean = torch.var_mean(wide, (2, 3), correction=0, keepdim=True)
        normal = (wide - mean) * torch.rsqrt(variance + EPS)
    y = normal * scale[:, :, None, None] + shift[:, :, None, None]
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
    wide = torch.promote_types(x.dtype, torch.float32)
    scale = x.new_ones(1, 1, dtype=wide) if scale is None else scale.to(wide)
    shift = x.new_zeros(1, 1, dtype=wide) if shift is None else shift.to(wide)
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16):
        return styled_norm_reference(x, scale, shift, residual, slope, whole)
    rows = [t.to(x.dtype).contiguous(memory_format=torch.channels_last) for t in (x, residual) if t is not None]
    styles = (style.expand(size).contiguous() for style in (scale, shift))
    return torch.ops.gcl_fast.styled_norm(rows[0], *styles, rows[1] if rows[1:] else None, slope, whole)[0]


load()


@torch.library.register_fake("gcl_fast::styled_norm")
def _(
    x: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None, slope: float, whole: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), scale.new_empty(x.shape[0], 2, x.shape[1])


@torch.library.register_fake("gcl_fast::styled_norm_backward")
def _(
    grad: Tensor, x: Tensor, scale: Tensor, shift: Tensor, moments: Tensor, slope: float, whole: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(scale), torch.empty_like(scale)


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
    grads = torch.ops.gcl_fast.styled_norm_backward(ordered, x, scale, shift, moments, ctx.slope, ctx.whole)
    return *grads, ordered if ctx.has_residual else None, None, None


torch.library.register_autograd("gcl_fast::styled_norm", _backward, setup_context=_setup)
