"""Networks of timm up to their last map: convolutional ones, and transformers whose patches are the map's pixels."""

from __future__ import annotations

import math
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from gcl_fast.errors import UserError
from gcl_fast.models.backbones.backbone import Backbone
from gcl_fast.models.backbones.library import first_line, library_backbone, trial, unknown_network
from gcl_fast.settings.model_sizes import IdentityConfig


def timm_model(config: IdentityConfig, size: tuple[int, int]) -> Backbone:
    """Return a network of timm, with random weights and the tensor names of the library.

    Args:
        config: `backbone` is timm:NAME; `output_stride` is of the map of a convolutional network.
        size: (H, W) of the crops; a transformer takes no others.

    Raises:
        UserError: timm is not installed, has no such network, or the network cannot be made so.
    """
    timm = import_timm(config.backbone)
    name = config.backbone.partition(":")[2]
    if not timm.is_model(name):
        raise unknown_network("timm", name, timm.list_models())
    extra: dict[str, Any] = {}
    if getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False):  # without a size it takes its own alone
        extra["img_size"] = size
    if config.output_stride is not None:
        extra["output_stride"] = config.output_stride
    try:
        network = timm.create_model(name, pretrained=False, num_classes=0, global_pool="", **extra)
    except (TypeError, ValueError, AssertionError, NotImplementedError, RuntimeError) as error:
        if "output_stride" in extra:
            problem = f"model.identity.output_stride={config.output_stride}: {config.backbone} cannot have it"
        else:
            problem = f"{config.backbone}: it cannot be made for crops of {size[0]}x{size[1]}"
        raise UserError(f"{problem} ({first_line(error)})") from error
    if "img_size" in extra and config.pooling == "gem":
        raise UserError(
            f"model.identity.pooling=gem with {config.backbone}: a cubic mean needs maps without negative values, which"
            " a transformer does not make; take model.identity.pooling=average"
        )
    _drop_unused(network, size)
    return library_backbone(network, last_map, config, size)._replace(adapt=partial(_adapt_positions, network))


def import_timm(backbone: str) -> ModuleType:
    """Import timm.

    Raises:
        UserError: it is not installed; the message names `backbone` and the extra.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError(f"{backbone}: this backbone needs timm: pip install timm (the extra gcl-fast[timm])") from error
    return timm


def last_map(network: Any, image: Tensor) -> Tensor:
    """Compute the last map (B, C, h, w) of crops (B, 3, H, W) by a network of timm.

    The tokens of a transformer's patches are the pixels of its map, and its class token is left out.
    """
    x = network.forward_features(image)
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    if x.dim() == 3 and grid is not None:  # (B, N, C)
        return x[:, getattr(network, "num_prefix_tokens", 0) :].transpose(1, 2).unflatten(2, grid)
    return x.permute(0, 3, 1, 2) if getattr(network, "output_fmt", "NCHW") == "NHWC" else x


def _adapt_positions(network: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with position embeddings for the patches of this network's crops, interpolated bicubically.

    Those of a square number of patches are of square images. Others are of the grid whose sides are most nearly
    proportional to this network's. In files of PASS (Zhu et al. 2022) the class token's stands by itself.
    """
    from timm.layers import resample_abs_pos_embed

    ours, theirs = getattr(network, "pos_embed", None), tensors.get("pos_embed")
    if not isinstance(ours, Tensor) or theirs is None or ours.dim() != 3 or theirs.dim() != 3:
        return tensors
    if "cls_pos" in tensors:
        theirs = torch.cat((tensors["cls_pos"], theirs), 1)
    grid = network.patch_embed.grid_size
    others = ours.shape[1] - grid[0] * grid[1]  # tokens that are no patches
    count = theirs.shape[1] - others
    if ours.shape == theirs.shape or count < 1:
        return tensors | {"pos_embed": theirs}
    sides = [(count // width, width) for width in range(1, count + 1) if count % width == 0]
    aspect = 1.0 if math.isqrt(count) ** 2 == count else grid[0] / grid[1]
    old = min(sides, key=lambda side: abs(math.log(side[0] / side[1] / aspect)))
    return tensors | {"pos_embed": resample_abs_pos_embed(theirs, [*grid], [*old], num_prefix_tokens=others)}


@torch.enable_grad()  # a network may be made within no_grad
def _drop_unused(network: Any, size: tuple[int, int]) -> None:
    """Replace the parts of a network that come after its last map; their parameters would have no gradient."""
    try:
        output, parameters = trial(network, last_map, size)
    except (RuntimeError, ValueError, AssertionError):
        return  # `library_backbone` explains it
    gradients = torch.autograd.grad(output.sum(), [*parameters.values()], allow_unused=True)
    used = {name.split(".")[0] for name, gradient in zip(parameters, gradients) if gradient is not None}
    for name, child in network.named_children():
        if name not in used and any(True for _ in child.parameters()):
            setattr(network, name, nn.Identity())
