"""Identity encoder: a residual network whose last map gives part features and an embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gcl_fast.models.convolution import StemConv
from gcl_fast.models.layers import relu, widen
from gcl_fast.settings.model_sizes import IdentityConfig

SMALL = 1e-6  # values of a map are clamped from below before their cubes are averaged


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Build a convolution without a bias, and its batch norm."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)


def norm_relu(norm: nn.Module, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """Compute relu(norm(x) + residual).

    An eager batch norm does not count its batches in this call: the encoder counts for all of them (`_count_batch`).

    Args:
        norm: batch norm over C channels.
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
    """

    def __init__(self, kind: str, inputs: int, outputs: int, stride: int):
        super().__init__()
        kernels = {"basic": (3, 3), "bottleneck": (1, 3, 1)}[kind]
        inner = outputs if kind == "basic" else outputs // 4
        widths = (inputs, *(inner for _ in kernels[1:]), outputs)
        for i, kernel in enumerate(kernels):
            step = stride if i == kernels.index(3) else 1
            conv, norm = _conv_norm(widths[i], widths[i + 1], kernel, step)
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", norm)
        self.depth = len(kernels)
        change = stride != 1 or inputs != outputs
        self.downsample = nn.Sequential(*_conv_norm(inputs, outputs, 1, stride)) if change else nn.Identity()

    def norms(self) -> list[nn.Module]:
        """Return the batch norms that come before a ReLU."""
        return [self.get_submodule(f"bn{i}") for i in range(1, self.depth + 1)]

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on a map (B, inputs, H, W)."""
        y = x
        for i, norm in enumerate(self.norms(), start=1):
            residual = self.downsample(x) if i == self.depth else None
            y = norm_relu(norm, self.get_submodule(f"conv{i}")(y), residual)
        return y


def generalized_mean(x: Tensor) -> Tensor:
    """Compute the cubic mean over the map (GeM with p = 3, Radenovic et al. 2018).

    Args:
        x: (B, C, H, W), not negative.

    Returns:
        (B, C) float32.
    """
    return _CubicMean.apply(x)


class _CubicMean(torch.autograd.Function):
    """Computes m = (mean x^3)^(1/3) and its gradient dm/dx = x^2 / m^2 / (H W), in fewer passes than autograd takes."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        wide = widen(x).clamp(min=SMALL)
        return (wide * wide * wide).mean((2, 3)) ** (1 / 3)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        slope = grad / mean.square() / (x.shape[2] * x.shape[3])
        return (x * slope[:, :, None, None]).mul_(x).to(x.dtype)


def stripe_means(x: Tensor, count: int) -> Tensor:
    """Compute the means over horizontal stripes of the map, from top to bottom.

    Stripes overlap by a row where `count` does not divide H, as in `torch.nn.AdaptiveAvgPool2d`.

    Args:
        x: (B, C, H, W).
        count: number of stripes.

    Returns:
        (B, C, count) float32.
    """
    if x.shape[2] % count:
        return F.adaptive_avg_pool2d(widen(x), (count, 1)).squeeze(3)
    return _StripeMeans.apply(x, count)


class _StripeMeans(torch.autograd.Function):
    """Computes stripe means with a gradient in the memory order of the map; torch's pooling gives it in another order.

    Every layer before the pooling would have to copy such a gradient.
    """

    @staticmethod
    def forward(x: Tensor, count: int) -> Tensor:
        return widen(x).unflatten(2, (count, -1)).mean((3, 4))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        x, ctx.count = inputs
        ctx.save_for_backward(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        spread, pixels = torch.empty_like(x), x.shape[2] * x.shape[3] // ctx.count
        spread.unflatten(2, (ctx.count, -1)).copy_((grad / pixels)[..., None, None])
        return spread, None


class IdentityEncoder(nn.Module):
    """Encodes crops into part features and an embedding.

    Tensors are named as in torchvision's ResNet and in the official checkpoints (conv1, layer1.0.conv1, ..., feat_bn).

    Args:
        config: sizes.

    Example:
        >>> from gcl_fast.models import ModelConfig
        >>> encoder = IdentityEncoder(ModelConfig.demo().identity).eval()
        >>> part_features, embedding = encoder(torch.randn(2, 3, 128, 64))
        >>> part_features.shape, embedding.shape
        (torch.Size([2, 1024]), torch.Size([2, 256]))
    """

    def __init__(self, config: IdentityConfig):
        super().__init__()
        self.config = config
        self.conv1 = StemConv(3, config.stem_channels, config.stem_kernel)
        self.bn1 = nn.BatchNorm2d(config.stem_channels)
        inputs = config.stem_channels
        for stage, (outputs, count, stride) in enumerate(zip(config.channels, config.blocks, config.strides), start=1):
            shapes = [(inputs, outputs, stride)] + [(outputs, outputs, 1)] * (count - 1)
            self.add_module(f"layer{stage}", nn.Sequential(*(Block(config.block, *shape) for shape in shapes)))
            inputs = outputs
        self.feat = nn.Identity() if config.projection is None else nn.Linear(inputs, config.projection)
        self.feat_bn = nn.BatchNorm1d(config.embedding)
        self.apply(_init)

    def _count_batch(self) -> None:
        """Count a batch in every norm that `norm_relu` serves; a GPU needs one launch instead of one per norm."""
        blocks = (block for block in self.modules() if isinstance(block, Block))
        norms = [self.bn1, *(norm for block in blocks for norm in block.norms())]
        buffers = [norm.num_batches_tracked for norm in norms if type(norm) is nn.BatchNorm2d and norm.training]
        if counts := [count for count in buffers if count is not None]:
            torch._foreach_add_(counts, 1)

    def feature_map(self, image: Tensor) -> Tensor:
        """Compute the last map of the network.

        Args:
            image: crops (B, 3, H, W), ImageNet-normalized.

        Returns:
            (B, C, H/16, W/16) at the paper's sizes, (B, C, H/8, W/8) at the demo's.
        """
        if not torch.compiler.is_compiling():
            self._count_batch()
        x = norm_relu(self.bn1, self.conv1(image))
        if self.config.stem_pool:
            x = F.max_pool2d(x, 3, 2, 1)
        for stage in range(1, len(self.config.channels) + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return x

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Encode crops.

        Args:
            image: crops (B, 3, H, W), ImageNet-normalized.

        Returns:
            Part features (B, channels * parts), and embeddings (B, D) float32 before L2 normalization. Column
            c * parts + p of the part features is the mean of channel c over stripe p from the top.
        """
        return self.describe(self.feature_map(image))

    def describe(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return part features and embeddings, as `forward` does, of a map (B, C, h, w) of `feature_map`."""
        parts = stripe_means(x, self.config.parts).to(x.dtype).flatten(1)
        pooled = generalized_mean(x) if self.config.pooling == "gem" else stripe_means(x, 1).squeeze(2)
        return parts, self.feat_bn(widen(self.feat(pooled)))


def _init(module: nn.Module) -> None:
    """Draw Kaiming-normal weights (fan out), and set biases to zero."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
        nn.init.zeros_(module.bias)
