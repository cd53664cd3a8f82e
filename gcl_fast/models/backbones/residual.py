"""Residual networks of any size, with the tensor names of torchvision's ResNet and of the official checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gcl_fast.models.backbones.backbone import Backbone, draw_kaiming
from gcl_fast.models.convolution import StemConv
from gcl_fast.models.layers import relu
from gcl_fast.settings.model_sizes import IdentityConfig

Norm = Callable[[int], nn.Module]  # makes a norm of that many channels


def residual(config: IdentityConfig, first_norms: tuple[Norm, ...] = ()) -> Backbone:
    """Return a residual network, whose modules are called conv1, bn1, layer1, ... as in torchvision.

    Args:
        config: `stem_*`, `block`, `channels`, `blocks` and `strides` are its sizes.
        first_norms: for the first stages, the norm after the first convolution of each block. A stage without an entry
            has batch norms.
    """
    modules: dict[str, nn.Module] = {
        "conv1": StemConv(3, config.stem_channels, config.stem_kernel),
        "bn1": nn.BatchNorm2d(config.stem_channels),
    }
    inputs = config.stem_channels
    for stage, (outputs, count, stride) in enumerate(zip(config.channels, config.blocks, config.strides)):
        norm = first_norms[stage] if stage < len(first_norms) else nn.BatchNorm2d
        shapes = [(inputs, outputs, stride)] + [(outputs, outputs, 1)] * (count - 1)
        modules[f"layer{stage + 1}"] = nn.Sequential(*(Block(config.block, *shape, norm) for shape in shapes))
        inputs = outputs
    return Backbone(modules, inputs, partial(_feature_map, config), draw_kaiming)


def _feature_map(config: IdentityConfig, encoder: nn.Module, image: Tensor) -> Tensor:
    """Run the modules of `residual`, which are children of `encoder`, on crops (B, 3, H, W)."""
    if not torch.compiler.is_compiling():
        _count_batch(encoder)
    x = norm_relu(encoder.get_submodule("bn1"), encoder.get_submodule("conv1")(image))
    if config.stem_pool:
        x = F.max_pool2d(x, 3, 2, 1)
    for stage in range(1, len(config.channels) + 1):
        x = encoder.get_submodule(f"layer{stage}")(x)
    return x


def _count_batch(encoder: nn.Module) -> None:
    """Count a batch in every norm that `norm_relu` serves; a GPU needs one launch instead of one per norm."""
    blocks = (block for block in encoder.modules() if isinstance(block, Block))
    norms = [encoder.get_submodule("bn1"), *(norm for block in blocks for norm in block.norms())]
    buffers = [norm.num_batches_tracked for norm in norms if type(norm) is nn.BatchNorm2d and norm.training]
    if counts := [count for count in buffers if count is not None]:
        torch._foreach_add_(counts, 1)


def _conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int = 1, norm: Norm = nn.BatchNorm2d
) -> tuple[nn.Conv2d, nn.Module]:
    """Build a convolution without a bias, and its norm."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), norm(outputs)


def norm_relu(norm: nn.Module, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """Compute relu(norm(x) + residual).

    An eager batch norm does not count its batches in this call: the encoder counts for all of them (`_count_batch`).

    Args:
        norm: over C channels.
        x: (B, C, H, W).
        residual: (B, C, H, W), or None for 0.

    Returns:
        (B, C, H, W).
    """
    if type(norm) is not nn.BatchNorm2d or torch.compiler.is_compiling():
        y = norm(x)
        return relu(y if residual is None else y + residual)
    running_mean, running_var = norm.running_mean, norm.running_var
    assert running_mean is not None
    assert running_var is not None
    assert norm.momentum is not None
    y = F.batch_norm(x, running_mean, running_var, norm.weight, norm.bias, norm.training, norm.momentum, norm.eps)
    return F.relu(y if residual is None else y.add_(residual), inplace=True)  # the norm's backward reads x, not y


class Block(nn.Module):
    """Represents a residual block with the tensor names of torchvision.

    "basic" has two 3x3 convolutions. "bottleneck" has 1x1, 3x3 at a quarter of the width, and 1x1. The first 3x3
    convolution carries the stride.

    Args:
        kind: "basic" or "bottleneck".
        inputs: channels of the input.
        outputs: channels of the output.
        stride: 1 or 2.
        first_norm: makes the norm after the first convolution.
    """

    def __init__(self, kind: str, inputs: int, outputs: int, stride: int, first_norm: Norm = nn.BatchNorm2d):
        super().__init__()
        kernels = {"basic": (3, 3), "bottleneck": (1, 3, 1)}[kind]
        inner = outputs if kind == "basic" else outputs // 4
        widths = (inputs, *(inner for _ in kernels[1:]), outputs)
        for i, kernel in enumerate(kernels):
            step = stride if i == kernels.index(3) else 1
            conv, norm = _conv_norm(widths[i], widths[i + 1], kernel, step, first_norm if i == 0 else nn.BatchNorm2d)
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", norm)
        self.depth = len(kernels)
        change = stride != 1 or inputs != outputs
        self.downsample = nn.Sequential(*_conv_norm(inputs, outputs, 1, stride)) if change else nn.Identity()

    def norms(self) -> list[nn.Module]:
        """Return the norms that come before a ReLU."""
        return [self.get_submodule(f"bn{i}") for i in range(1, self.depth + 1)]

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on a map (B, inputs, H, W)."""
        y = x
        for i, norm in enumerate(self.norms(), start=1):
            residual = self.downsample(x) if i == self.depth else None
            y = norm_relu(norm, self.get_submodule(f"conv{i}")(y), residual)
        return y
