"""Load the first weights of the networks."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gcl_fast.errors import UserError
from gcl_fast.models import GCL, load_backbone, load_official, read_official
from gcl_fast.models.official_weights import PARTS
from gcl_fast.models.packaged_weights import load_packaged, packaged_file
from gcl_fast.run.run_files import GO_ON
from gcl_fast.run.weights import IDENTITY, check_fit, load_weights
from gcl_fast.settings import ALL_STAGES, PACKAGE, RunConfig


def initialize(gcl: GCL, config: RunConfig) -> str:
    """Load the weights that `--init` names into `gcl`, and return a line for the header.

    A .safetensors file of an earlier run holds all networks, or E_id alone. The folder of a run stands for the file of
    its last finished stage. Another folder holds official weights (`read_official`), and so may a file. Any other file
    holds the backbone of E_id from another project (`load_backbone`). "package" stands for the file of an installed
    package (`load_packaged`).

    Raises:
        UserError: nothing that can be read, weights of other sizes than the run's networks, or a run without finished
            stages.
    """
    if not config.init:
        return "random" + (
            "; the paper starts from ImageNet weights: --init resnet50.pth"
            if config.preset in ("paper", "best")
            else ""
        )
    if config.init == PACKAGE:
        return f"{load_packaged(gcl.identity)}; all else random"
    path = _file_of_run(Path(config.init))
    official = {} if path.suffix == ".safetensors" or not path.exists() else read_official(path)
    weights = load_weights(path) if path.suffix == ".safetensors" else {}
    if any(name.startswith(IDENTITY) for name in weights):
        origin = str(path)
        if all(name.startswith(IDENTITY) for name in weights):
            weights, origin = weights | _all_but_identity(gcl), f"identity encoder from {path}, the rest random"
    elif not official:
        return f"{load_backbone(gcl.identity, path)}, from {path}; all else random"
    else:
        parts = ("id",) if list(official) == ["id"] else PARTS
        weights, origin = load_official(path, parts), f"{path} (official)"
        if parts != PARTS:
            weights = weights | _all_but_identity(gcl)
            origin = f"identity encoder from {path} (official), the rest random"
    check_fit(gcl.state_dict(), weights, path)
    gcl.load_state_dict(weights)
    return origin


def check_networks(config: RunConfig) -> None:
    """Check that the networks can be made, before a missing dataset is made for minutes.

    Raises:
        UserError: as `GCL` raises it, or `--init package` without the package.
    """
    with torch.device("meta"):  # without memory
        GCL(config.model, config.size)
    if config.init == PACKAGE:
        packaged_file()


def _file_of_run(path: Path) -> Path:
    """Return the weights of a run's last finished stage, where `path` is its folder or the folder of its checkpoints.

    Its best.safetensors is not taken, since query and gallery choose it. Any other path is returned as it is.

    Raises:
        UserError: the run has finished no stage.
    """
    files = [folder / f"{stage}.safetensors" for stage in ALL_STAGES for folder in (path, path / "checkpoints")]
    finished = [file for file in files if file.is_file()]
    if finished:
        return finished[-1]
    if (path / "config.yaml").is_file():
        raise UserError(f"--init {path}: this run has finished none of {', '.join(ALL_STAGES)} yet; {GO_ON}")
    return path


def _all_but_identity(gcl: GCL) -> dict[str, Tensor]:
    """Return the weights of `gcl` without those of E_id."""
    return {name: tensor for name, tensor in gcl.state_dict().items() if not name.startswith(IDENTITY)}
