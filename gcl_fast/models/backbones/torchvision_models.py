"""Convolutional networks of torchvision, up to their last map."""

from __future__ import annotations

import math
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models.densenet import DenseNet

from gcl_fast.errors import UserError
from gcl_fast.models.backbones.backbone import Backbone
from gcl_fast.models.backbones.library import library_backbone, map_shape, unknown_network
from gcl_fast.settings.model_sizes import IdentityConfig

# The modules that lead to the last map, by families; the first line whose names a network has is taken. Plain modules
# train, compile and export as they are. A traced graph, as torchvision.models.feature_extraction makes one, would
# repeat the network for training and evaluation.
TRUNKS = (
    ("features", "norm", "permute"),  # Swin
    ("features", "relu"),  # DenseNet
    ("features",),  # MobileNet, EfficientNet, ConvNeXt, VGG, ...
    ("layers",),  # MNASNet
    ("stem", "trunk_output"),  # RegNet
    ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),  # ResNet, ResNeXt, Wide ResNet
    ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"),  # ShuffleNet
)
DIVISIBLE = (256, 256)  # a size that all strides divide


class Trunk(nn.Module):
    """Runs some children of a network one after the other, under their names.

    Args:
        network: of torchvision.
        names: of its children.
    """

    def __init__(self, network: nn.Module, names: tuple[str, ...]):
        super().__init__()
        for name in names:
            self.add_module(name, network.get_submodule(name))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the last map of crops (B, 3, H, W)."""
        for child in self.children():
            x = child(x)
        return x


def torchvision_model(config: IdentityConfig, size: tuple[int, int]) -> Backbone:
    """Return a network of torchvision, with random weights and the tensor names of the library.

    Args:
        config: `backbone` is torchvision:NAME; `output_stride` is of the map.
        size: (H, W) of the crops.

    Raises:
        UserError: there is no such network, or it has no last map that is known here.
    """
    name = config.backbone.partition(":")[2]
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise unknown_network("torchvision", name, known)
    network = torchvision.models.get_model(name, weights=None)
    if isinstance(network, DenseNet):
        network.relu = nn.ReLU()  # a function in its forward
    names = next((names for names in TRUNKS if all(hasattr(network, name) for name in names)), None)
    if names is None:
        raise UserError(
            f"{config.backbone}: it is not known where this network has a map (B, C, h, w); choose a MobileNet,"
            " EfficientNet, ConvNeXt, ResNet or RegNet of torchvision, or timm:NAME"
        )
    trunk = Trunk(network, names)
    if config.output_stride is not None:
        _lower_stride(trunk, config.backbone, config.output_stride)
    return library_backbone(trunk, Trunk.__call__, config, size)


def _lower_stride(trunk: nn.Module, name: str, stride: int) -> None:
    """Let the last layers that halve the map keep its size, in place, until the map's stride is `stride`.

    It is what re-identification calls a last stride of 1. Weights keep their shapes.

    Raises:
        UserError: the network cannot have this stride.
    """
    native = DIVISIBLE[0] // map_shape(trunk, Trunk.__call__, name, DIVISIBLE)[2]
    for _ in range(int(math.log2(native / stride)) if stride <= native else 0):
        rows = _rows_after_strides(trunk, name)
        for layer in (layer for layer, count in rows.items() if count == min(rows.values())):
            layer.stride = 1 if isinstance(layer, nn.MaxPool2d) else (1, 1)
    if not stride / 2 < DIVISIBLE[0] / map_shape(trunk, Trunk.__call__, name, DIVISIBLE)[2] < 2 * stride:
        raise UserError(f"model.identity.output_stride={stride}: {name} has stride {native}, and cannot have this one")


def _rows_after_strides(trunk: nn.Module, name: str) -> dict[Any, int]:
    """Return how many rows come out of each layer that makes its map smaller, for crops of size DIVISIBLE."""
    rows: dict[Any, int] = {}
    strided = [m for m in trunk.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d) and m.stride not in (1, (1, 1))]
    hooks = [m.register_forward_hook(lambda m, _, output: rows.__setitem__(m, output.shape[2])) for m in strided]
    map_shape(trunk, Trunk.__call__, name, DIVISIBLE)
    for hook in hooks:
        hook.remove()
    return rows
