"""Load trained networks from a run, from one file of it, or from official weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gcl_fast.distributed.ranks import placed
from gcl_fast.errors import UserError
from gcl_fast.inference.model import Model
from gcl_fast.models import GCL, IdentityEncoder, load_official, read_official
from gcl_fast.models.official_weights import PARTS
from gcl_fast.optim.precision import choose as choose_precision
from gcl_fast.run.restore import OFFICIAL, OFFICIAL_IDENTITY, is_official
from gcl_fast.run.run_files import finished_stages, first_line, read_config, weights_file
from gcl_fast.run.weights import FORMAT, IDENTITY, check_fit, load_weights, needed_settings, read_metadata, settings_of
from gcl_fast.settings import RunConfig, preset

Weights = dict[str, Tensor]


def load(
    source: str | Path,
    device: str | torch.device | None = None,
    amp: bool | None = None,
    *,
    stage: str | None = None,
    config: str | Path | None = None,
) -> Model:
    """Load trained networks, to embed images, to search, and to turn people.

    Args:
        source: the folder of a run, a .safetensors file of one (`encoder.safetensors` is enough to embed), or weights
            of the official code: a folder, .pt or .pth.
        device: where the networks go; None: a GPU where there is one.
        amp: mixed precision; None: as the run was trained.
        stage: of a run's folder; None: the last one that is finished.
        config: config.yaml of the run that wrote a .safetensors file without metadata.

    Returns:
        The networks in eval mode.

    Raises:
        UserError: nothing usable at `source`, weights of another format or without metadata, or no such device.

    Example:
        >>> try:
        ...     model = load("runs/synthetic-demo-seed0")
        ...     rows = model.embed("crops")  # (N, D) unit rows
        ... except UserError as error:  # there is no such run here
        ...     print(error)
        no run and no weights at runs/synthetic-demo-seed0; ...
    """
    path = Path(source).expanduser()
    if path.is_dir() and ((path / "config.yaml").is_file() or (path / "checkpoints").is_dir()):
        path = _file_of_stage(path, stage)
    elif stage is not None:
        raise UserError(f"stage={stage!r} with {path}: one file holds one stage; leave it out")
    if path.suffix == ".safetensors":
        weights, metadata, settings = _read_own(path, config)
    elif is_official(path):
        weights, metadata, settings = _read_official(path)
    else:
        raise UserError(
            f"no run and no weights at {path}; give the folder that the training printed, such as runs/NAME, one of"
            " its .safetensors files, or official weights"
        )
    target = placed("auto", 0) if device is None else _usable(device)
    if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
        raise UserError(f"{path} holds weights that are no numbers: its training diverged; use another stage or run")
    identity = {name.removeprefix(IDENTITY): t for name, t in weights.items() if name.startswith(IDENTITY)}
    gcl = None
    if len(identity) == len(weights):
        encoder = IdentityEncoder(settings.model.identity, settings.size)
        check_fit(encoder.state_dict(), identity, path)
        encoder.load_state_dict(identity)
    else:
        gcl = GCL(settings.model, settings.size)
        check_fit(gcl.state_dict(), weights, path)
        gcl.load_state_dict(weights)
        encoder = gcl.identity
    network = encoder if gcl is None else gcl
    network.requires_grad_(False).eval().to(target).to(memory_format=torch.channels_last)
    precision = choose_precision(settings.amp if amp is None else amp, target)
    return Model(encoder, gcl, settings.size, metadata, precision)


def _usable(device: str | torch.device) -> torch.device:
    """Return a device.

    Raises:
        UserError: this machine has no such device, or nothing can be computed there.
    """
    try:
        target = torch.device(device)
        torch.zeros(1, device=target).tolist()
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise UserError(f"device={str(device)!r}: {first_line(error)}") from error
    return target


def _file_of_stage(run: Path, stage: str | None) -> Path:
    """Return the weights of a stage of a run, by default of its last finished one.

    Raises:
        UserError: the stage is unknown or not finished.
    """
    finished = finished_stages(run)
    path = weights_file(run, stage or finished[-1])
    if not path.is_file():
        raise UserError(f"{run}: there are no weights of a stage {stage!r}; name one of {', '.join(finished)}")
    return path


def _read_own(path: Path, config: str | Path | None) -> tuple[Weights, dict[str, Any], RunConfig]:
    """Read a .safetensors file of ours with its metadata, and the settings that these or config.yaml name.

    Raises:
        UserError: no such file, of another format, or without settings.
    """
    metadata = read_metadata(path)
    settings_file = Path(config) if config is not None else path.absolute().parents[1] / "config.yaml"
    if metadata is None or config is not None:
        if not settings_file.is_file():
            raise UserError(
                f"{path} has no metadata of gcl_fast, so the sizes of its networks are not known; give the folder of"
                " its run, or name the config.yaml of its run by config=FILE in Python"
                if config is None
                else f"there are no settings at {settings_file}; config=FILE names the config.yaml of a run"
            )
        settings = read_config(settings_file)
        metadata = {"format": FORMAT, "stage": path.stem, "settings": needed_settings(settings)} | (metadata or {})
    else:
        settings = settings_of(metadata, path)
    return load_weights(path), metadata, settings


def _read_official(path: Path) -> tuple[Weights, dict[str, Any], RunConfig]:
    """Read official weights, which have the paper's sizes.

    Raises:
        UserError: they are no official weights, or do not fit.
    """
    parts = set(read_official(path))
    if "id" not in parts:
        raise UserError(
            f"{path}: no weights of the official GCL; expected the state dicts gen, dis and id, or id alone"
        )
    whole = parts == set(PARTS)
    settings = preset("paper")
    metadata = {"stage": OFFICIAL if whole else OFFICIAL_IDENTITY, "settings": needed_settings(settings)}
    return load_official(path, PARTS if whole else ["id"]), metadata, settings
