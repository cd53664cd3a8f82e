"""Backbones of the identity encoder, each in a file of its own: from crops to the last feature map."""

from __future__ import annotations

from gcl_fast.models.backbones.backbone import Backbone
from gcl_fast.models.backbones.residual import residual
from gcl_fast.models.backbones.resnet50_ibn_a import resnet50_ibn_a
from gcl_fast.models.backbones.timm_models import timm_model
from gcl_fast.models.backbones.torchvision_models import torchvision_model
from gcl_fast.settings.model_sizes import IdentityConfig

# Makers by the name of a backbone, or by what stands before its colon. `settings.model_sizes` has the same names.
MAKERS = {
    "residual": lambda config, size: residual(config),
    "resnet50-ibn-a": lambda config, size: resnet50_ibn_a(config),
    "torchvision": torchvision_model,
    "timm": timm_model,
}


def make_backbone(config: IdentityConfig, size: tuple[int, int]) -> Backbone:
    """Make the backbone that the settings name.

    Args:
        config: `backbone` is its name.
        size: (H, W) of the crops.

    Raises:
        UserError: no library of that name is installed, it has no such network, or the network gives no map from which
            the part features of such crops can be taken.

    Example:
        >>> from gcl_fast.models import ModelConfig
        >>> make_backbone(ModelConfig.demo().identity, (128, 64)).width
        256
    """
    return MAKERS[config.backbone.partition(":")[0]](config, size)
