"""Run an identity encoder by convolutions that hold its batch norms, for inference on a CPU.

In eval mode a batch norm is a scale and a shift for each channel. Here the scale is part of the convolution's weights,
and the shift is its bias; oneDNN adds the residual and takes the ReLU as it writes the result. A map is then written
once and read once for each convolution. `python benchmarks/embed.py` measures it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gcl_fast.models.backbones.residual import Block
from gcl_fast.models.identity_encoder import IdentityEncoder


class Folded(NamedTuple):
    """Holds a convolution with the norm after it."""

    weight: Tensor  # (D, C, k, k)
    bias: Tensor  # (D,)
    stride: tuple[int, int]
    padding: tuple[int, int]

    def __call__(self, x: Tensor, activation: str = "relu") -> Tensor:
        """Convolve x (B, C, H, W); `activation` is "relu" or "none"."""
        convolve = torch.ops.mkldnn._convolution_pointwise
        return convolve(x, self.weight, self.bias, self.padding, self.stride, (1, 1), 1, activation, [], "")

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return relu(convolution + residual) of x (B, C, H, W)."""
        steps = self.padding, self.stride, (1, 1), 1
        convolve = torch.ops.mkldnn._convolution_pointwise.binary
        return convolve(x, residual, self.weight, self.bias, *steps, "add", None, "relu", [], None)


def fold(conv: Any, norm: Any, dtype: torch.dtype) -> Folded:
    """Return `conv` with the scale and the shift of the batch norm `norm` in eval mode, in `dtype`."""
    scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
    weight = (conv.weight.double() * scale[:, None, None, None]).to(dtype)
    bias = (norm.bias.double() - norm.running_mean.double() * scale).to(dtype)
    return Folded(weight.contiguous(memory_format=torch.channels_last), bias, conv.stride, conv.padding)


class FoldedEncoder:
    """Computes what an identity encoder computes in eval mode, from a copy of its weights.

    Args:
        encoder: on a CPU, with the backbone "residual". Later changes of its weights are not seen.
        dtype: of maps and weights, float32 or bfloat16.

    Example:
        >>> from gcl_fast.models import ModelConfig
        >>> encoder, images = IdentityEncoder(ModelConfig.demo().identity).eval(), torch.randn(2, 3, 64, 32)
        >>> with torch.no_grad():
        ...     torch.allclose(FoldedEncoder(encoder, torch.float32)(images)[1], encoder(images)[1], atol=1e-4)
        True
    """

    @torch.no_grad()
    def __init__(self, encoder: IdentityEncoder, dtype: torch.dtype) -> None:
        self.encoder, self.dtype = encoder, dtype
        self.stem = fold(encoder.conv1, encoder.bn1, dtype)
        stages: list[Any] = [encoder.get_submodule(f"layer{n}") for n, _ in enumerate(encoder.config.channels, start=1)]
        self.blocks = [_fold_block(block, dtype) for stage in stages for block in stage]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return part features and embeddings of normalized images (B, 3, H, W), as the encoder does."""
        x = self.stem(images.to(self.dtype, memory_format=torch.channels_last))
        if self.encoder.config.stem_pool:
            x = F.max_pool2d(x, 3, 2, 1)
        for convolutions, shortcut in self.blocks:
            y = x
            for convolution in convolutions[:-1]:
                y = convolution(y)
            x = convolutions[-1].plus(y, x if shortcut is None else shortcut(x, "none"))
        return self.encoder.describe(x)


def _fold_block(block: Block, dtype: torch.dtype) -> tuple[list[Folded], Folded | None]:
    """Return the convolutions of a block, and that of its shortcut where it has one."""
    convolutions = [fold(block.get_submodule(f"conv{i}"), norm, dtype) for i, norm in enumerate(block.norms(), start=1)]
    shortcut = block.downsample
    return convolutions, fold(shortcut[0], shortcut[1], dtype) if isinstance(shortcut, nn.Sequential) else None


def for_inference(encoder: nn.Module, dtype: torch.dtype | None) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return the form of an encoder in eval mode that is fastest where it is.

    Args:
        encoder: an identity encoder, in eval mode.
        dtype: of autocast; None: float32 without it.

    Returns:
        A `FoldedEncoder` of a residual network in bfloat16 on a CPU, and otherwise `encoder`.

    Example:
        >>> from gcl_fast.models import ModelConfig
        >>> encoder = IdentityEncoder(ModelConfig.demo().identity).eval()
        >>> for_inference(encoder, None) is encoder, type(for_inference(encoder, torch.bfloat16)).__name__
        (True, 'FoldedEncoder')
    """
    on_cpu = next(encoder.parameters()).device.type == "cpu"
    if (
        dtype == torch.bfloat16
        and on_cpu
        and isinstance(encoder, IdentityEncoder)
        and encoder.config.backbone == "residual"
    ):
        return FoldedEncoder(encoder, dtype)
    return encoder
