"""Identity encoder: a backbone whose last map gives part features and an embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gcl_fast.models.backbones import make_backbone
from gcl_fast.models.backbones.backbone import draw_kaiming
from gcl_fast.models.layers import widen
from gcl_fast.settings.model_sizes import IdentityConfig

SMALL = 1e-6  # values of a map are clamped from below before their cubes are averaged


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

    Tensors of residual networks are named as in torchvision's ResNet and in the official checkpoints (conv1,
    layer1.0.conv1, ..., feat_bn). A network of another library is the child `backbone`.

    Args:
        config: the backbone, its sizes, and what is made of its last map.
        size: (H, W) of the crops. The network of another library is made for it, and a transformer takes no other.

    Attributes:
        part_features: number P of part features of a crop.
        dim: size D of an embedding.
        prefix, adapt: as `Backbone` has them.

    Raises:
        UserError: there is no such backbone, or it does not fit the crops (`make_backbone`).

    Example:
        >>> from gcl_fast.models import ModelConfig
        >>> encoder = IdentityEncoder(ModelConfig.demo().identity).eval()
        >>> part_features, embedding = encoder(torch.randn(2, 3, 128, 64))
        >>> part_features.shape, embedding.shape
        (torch.Size([2, 1024]), torch.Size([2, 256]))
    """

    def __init__(self, config: IdentityConfig, size: tuple[int, int] = (256, 128)):
        super().__init__()
        self.config = config
        backbone = make_backbone(config, size)
        for name, module in backbone.modules.items():
            self.add_module(name, module)
        self._run, self.adapt, self.prefix = backbone.run, backbone.adapt, backbone.prefix
        self.part_features = backbone.width * config.parts
        self.dim = config.projection or backbone.width
        self.feat = nn.Identity() if config.projection is None else nn.Linear(backbone.width, config.projection)
        self.feat_bn = nn.BatchNorm1d(self.dim)
        if backbone.initialize is not None:
            for module in backbone.modules.values():
                module.apply(backbone.initialize)
        self.feat.apply(draw_kaiming)

    def feature_map(self, image: Tensor) -> Tensor:
        """Compute the last map of the backbone.

        Args:
            image: crops (B, 3, H, W), ImageNet-normalized.

        Returns:
            (B, C, h, w); h x w is H/16 x W/16 at the paper's sizes, and H/8 x W/8 at the demo's.
        """
        return self._run(self, image)

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
