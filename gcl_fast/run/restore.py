"""Read weights: from a run's folder, with its settings and finished stages, or official weights."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gcl_fast.console import LOGGER
from gcl_fast.errors import UserError
from gcl_fast.inputs import Inputs, open_inputs
from gcl_fast.models import GCL, load_official, read_official
from gcl_fast.models.official_weights import PARTS
from gcl_fast.run.run_files import finished_stages, read_config, read_environments, weights_file
from gcl_fast.run.weights import check_fit, load_weights
from gcl_fast.settings import STAGES, WEIGHTS, RunConfig, preset

OFFICIAL, OFFICIAL_IDENTITY = "official", "identity"  # names of official weights
TRAINED_GENERATOR = (*STAGES[1:], OFFICIAL)  # weights whose generator is trained


def load_run(options: argparse.Namespace) -> RunConfig:
    """Return the settings of a finished or unfinished run, or the paper's for official weights.

    Args:
        options: what the arguments of `add_run_arguments` parse to; they may name other inputs than the run's.

    Raises:
        UserError: neither a run nor official weights at `options.run`, or official weights without a dataset.
    """
    path = options.run / "config.yaml"
    if path.is_file():
        config = _found_from_here(read_config(path), options.run)
    elif not is_official(options.run):
        raise UserError(
            f"no run at {options.run}: {path} is missing; give the folder that the training printed, such as runs/NAME,"
            " or official weights"
        )
    elif not options.dataset:
        raise UserError(
            f"{options.run}: official weights belong to no run: name the data with --dataset and --data-root"
        )
    else:
        config = preset("paper")
    if options.dataset or options.data_root:
        config = replace(config, dataset=options.dataset or config.dataset, data_root=options.data_root or "")
    changes = {name: getattr(options, name) for name in ("structure_maps", "smpl") if getattr(options, name)}
    if options.amp is not None:
        changes["amp"] = options.amp
    return replace(config, **changes)


def _found_from_here(config: RunConfig, run: Path) -> RunConfig:
    """Return the settings with relative paths of inputs that exist, where another working directory has them.

    That is the folder in which `run` lies as its settings say, or else the folder in which it was trained.
    """
    paths = {"data_root": config.data_root or "datasets/synthetic", "smpl": config.smpl}
    paths |= {} if config.structure_maps == "online" else {"structure_maps": config.structure_maps}
    folders, whole, tail = [], run.resolve().parts, config.folder.parts
    if not config.folder.is_absolute() and whole[-len(tail) :] == tail:
        folders = [Path(*whole[: -len(tail)])]
    with contextlib.suppress(UserError, KeyError, TypeError):  # of a version that wrote none, or damaged
        folders += [Path(environment["folder"]) for environment in read_environments(run)[-1:]]
    changes: dict[str, Any] = {}
    for name, path in paths.items():
        places = [folder / path for folder in folders if path and (folder / path).exists()]
        if places and not Path(path).exists():
            changes[name] = str(places[0])
    return replace(config, **changes)


def open_noted(config: RunConfig) -> Inputs:
    """Open the dataset of a run, and log the remarks on it, such as how many images are left out.

    Raises:
        UserError: as `open_inputs` raises it.
    """
    inputs = open_inputs(config)
    for note in inputs.notes:
        LOGGER.info(note)
    return inputs


def restore(
    source: Path, config: RunConfig, stages: Sequence[str] | None, device: torch.device, *, generator: bool = False
) -> Iterator[tuple[str, GCL]]:
    """Yield (stage, networks with its weights) for each stage, in training order.

    Official weights are one stage, called official, or identity where they are an identity encoder's alone.

    Args:
        source: the folder of a run, or official weights.
        config: the settings of the run.
        stages: names of stages; None for each finished one.
        device: where the networks go.
        generator: leave out stages before which no generator was trained.

    Raises:
        UserError: a stage is not finished or has no generator, no stage is finished, or the weights do not fit the
            networks of `config`.
    """
    gcl = GCL(config.model, config.size).to(device).to(memory_format=torch.channels_last)
    if is_official(source):
        whole = generator or set(read_official(source)) == set(PARTS)
        gcl.load_state_dict(load_official(source, PARTS if whole else ["id"]), strict=whole)
        yield OFFICIAL if whole else OFFICIAL_IDENTITY, gcl
        return
    possible = STAGES[1:] if generator else WEIGHTS
    if early := [stage for stage in stages or () if stage not in possible]:
        raise UserError(f"--stages {' '.join(early)}: no generator is trained by then; name {' or '.join(possible)}")
    names = finished_stages(source, possible) if stages is None else [stage for stage in possible if stage in stages]
    for stage in names:
        path = weights_file(source, stage)
        weights = load_weights(path)
        check_fit(gcl.state_dict(), weights, path)
        gcl.load_state_dict(weights)
        yield stage, gcl


def is_official(source: Path) -> bool:
    """Return whether these are official weights: a file that is none of ours, or a folder that holds one of theirs."""
    return (source.is_file() and source.suffix != ".safetensors") or any(source.glob("id_*.pt"))
