"""Where the networks' first weights come from."""

from __future__ import annotations

from pathlib import Path

from gcl_fast.config import RunConfig
from gcl_fast.errors import UserError
from gcl_fast.models import GCL, load_imagenet_backbone, load_official
from gcl_fast.training.checkpoint import check_fit, load_weights


def initialize(gcl: GCL, config: RunConfig) -> str:
    """Load what `--init` names into `gcl`; returns a line for the header.

    A .safetensors file is taken as weights of an earlier run, a folder (or a .pt file) as the official checkpoints, a
    .pth file as torchvision's ResNet-50.

    Raises:
        UserError: a file of another kind, or of other sizes than the run's networks.
    """
    if not config.init:
        return "random" + (
            "; the paper starts from ImageNet weights: --init resnet50.pth" if config.preset == "paper" else ""
        )
    path = Path(config.init)
    if path.suffix == ".pth":
        load_imagenet_backbone(gcl.identity, path)
        return f"identity encoder from {path} (ImageNet), the rest random"
    if path.suffix == ".safetensors":
        weights = load_weights(path)
    elif path.is_dir() or path.suffix == ".pt":
        weights = load_official(path)
    else:
        raise UserError(
            f"--init {path}: expected .safetensors, .pth (torchvision) or official checkpoints (.pt or a folder)"
        )
    check_fit(gcl.state_dict(), weights, path)
    gcl.load_state_dict(weights)
    return str(path)
