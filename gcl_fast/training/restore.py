"""Read a run's folder back: its settings and the weights of its finished stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from gcl_fast.config import STAGES, RunConfig, from_dict
from gcl_fast.errors import UserError
from gcl_fast.models import GCL
from gcl_fast.training.checkpoint import check_fit, load_weights


def load_run(folder: Path, dataset: str | None = None, data_root: str | None = None) -> RunConfig:
    """The settings of a finished or unfinished run, on another dataset where one is named.

    Raises:
        UserError: no run in `folder`.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"no run at {folder}: {path} is missing; give the folder that train.py printed, such as runs/NAME"
        )
    config = from_dict(yaml.safe_load(path.read_text()))
    if dataset or data_root:
        config = replace(config, dataset=dataset or config.dataset, data_root=data_root or "")
    return config


def restore(
    folder: Path, config: RunConfig, stages: Sequence[str] | None, device: torch.device, *, generator: bool = False
) -> Iterator[tuple[str, GCL]]:
    """(stage, networks with its weights) for each of `stages`, by default each finished one, in training order.

    Args:
        generator: leave out stages before which no generator was trained.

    Raises:
        UserError: a stage that is not finished, none that is, or weights that are not of `config`'s networks.
    """
    possible = STAGES[1:] if generator else STAGES
    finished = [stage for stage in possible if (folder / "checkpoints" / f"{stage}.safetensors").is_file()]
    wanted = finished if stages is None else [stage for stage in possible if stage in stages]
    if not wanted:
        raise UserError(
            f"{folder} has finished none of {', '.join(possible)} yet; train.py with --resume goes on with it"
        )
    gcl = GCL(config.model).to(device).to(memory_format=torch.channels_last)
    for stage in wanted:
        path = folder / "checkpoints" / f"{stage}.safetensors"
        weights = load_weights(path)
        check_fit(gcl.state_dict(), weights, path)
        gcl.load_state_dict(weights)
        yield stage, gcl
