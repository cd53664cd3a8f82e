"""ResNet-50-IBN-a (Pan et al. 2018): half the channels of a first norm are normalized image by image."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from gcl_fast.models.backbones.backbone import Backbone
from gcl_fast.models.backbones.residual import residual
from gcl_fast.settings.model_sizes import IdentityConfig


class InstanceBatchNorm(nn.Module):
    """Normalizes the first half of the channels by each image, and the others by the batch.

    Args:
        channels: C, of both halves.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.instances = channels // 2
        self.IN = nn.InstanceNorm2d(self.instances, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.instances)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize a map (B, C, H, W)."""
        return torch.cat((self.IN(x[:, : self.instances]), self.BN(x[:, self.instances :])), 1)


def resnet50_ibn_a(config: IdentityConfig) -> Backbone:
    """Return ResNet-50-IBN-a, with the tensor names of the published IBN-Net code, such as layer1.0.bn1.IN.weight.

    The first three stages have it in the first norm of each block.

    Args:
        config: `strides` are of the stages; the other sizes of residual networks do not count.
    """
    return residual(replace(IdentityConfig(), strides=config.strides), (InstanceBatchNorm,) * 3)
