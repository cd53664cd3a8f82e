"""Read weights back: a run's folder, with its settings and finished stages, or official weights."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from gcl_fast.errors import UserError
from gcl_fast.models import GCL, load_official, read_official
from gcl_fast.models.official import PARTS
from gcl_fast.run.checkpoint import check_fit, load_weights
from gcl_fast.settings import ALL_STAGES, STAGES, RunConfig, from_dict, preset

SOURCE_NORMS = "source_norms"  # the networks of the source stage with the source's batch norms in place of the target's
WEIGHTS = (SOURCE_NORMS, *ALL_STAGES)  # that a run leaves as checkpoints/<name>.safetensors, in training order
OFFICIAL, OFFICIAL_IDENTITY = "official", "identity"  # names of official weights beside those of our stages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every command on trained weights takes: the run, other inputs than its own, precision and device."""
    parser.add_argument("run", type=Path, help="folder of a run, such as runs/NAME, or official weights")
    parser.add_argument("--dataset", help="another dataset than the run's (official weights: needed)")
    parser.add_argument("--data-root", metavar="DIR", help="where it lies")
    parser.add_argument("--structure-maps", metavar="DIR", help="official pre-rendered pictures instead of rendering")
    parser.add_argument("--smpl", metavar="FILE", help="SMPL body model, where the body parameters are for it")
    parser.add_argument("--amp", action="store_true", help="mixed precision")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def load_run(given: argparse.Namespace) -> RunConfig:
    """The settings of a finished or unfinished run, or the paper's for official weights, with the inputs that `given`
    (`add_arguments`) names.

    Raises:
        UserError: neither a run nor official weights at `given.run`, or official weights without a dataset.
    """
    path = given.run / "config.yaml"
    if path.is_file():
        config = from_dict(yaml.safe_load(path.read_text()))
    elif not _is_official(given.run):
        raise UserError(
            f"no run at {given.run}: {path} is missing; give the folder that train.py printed, such as runs/NAME, or "
            "official weights"
        )
    elif not given.dataset:
        raise UserError(f"{given.run}: official weights belong to no run: name the data with --dataset and --data-root")
    else:
        config = preset("paper")
    if given.dataset or given.data_root:
        config = replace(config, dataset=given.dataset or config.dataset, data_root=given.data_root or "")
    named = {name: getattr(given, name) for name in ("structure_maps", "smpl") if getattr(given, name)}
    return replace(config, **named)


def restore(
    source: Path, config: RunConfig, stages: Sequence[str] | None, device: torch.device, *, generator: bool = False
) -> Iterator[tuple[str, GCL]]:
    """Yield each of `stages` with networks that hold its weights; by default each finished one, in training order.

    Official weights are one "stage", called official, or identity where they are an identity encoder's alone.

    Args:
        generator: leave out stages before which no generator was trained.

    Raises:
        UserError: a stage that is not finished or has no generator, none that is finished, or weights that are not of
            `config`'s networks.
    """
    gcl = GCL(config.model).to(device).to(memory_format=torch.channels_last)
    if _is_official(source):
        whole = generator or set(read_official(source)) == set(PARTS)
        gcl.load_state_dict(load_official(source, PARTS if whole else ["id"]), strict=whole)
        yield OFFICIAL if whole else OFFICIAL_IDENTITY, gcl
        return
    possible = STAGES[1:] if generator else WEIGHTS
    finished = [stage for stage in possible if (source / "checkpoints" / f"{stage}.safetensors").is_file()]
    if early := [stage for stage in stages or () if stage not in possible]:
        raise UserError(f"--stages {' '.join(early)}: no generator is trained by then; name {' or '.join(possible)}")
    wanted = finished if stages is None else [stage for stage in possible if stage in stages]
    if not wanted:
        raise UserError(
            f"{source} has finished none of {', '.join(possible)} yet; train.py with --resume goes on with it"
        )
    for stage in wanted:
        path = source / "checkpoints" / f"{stage}.safetensors"
        weights = load_weights(path)
        check_fit(gcl.state_dict(), weights, path)
        gcl.load_state_dict(weights)
        yield stage, gcl


def _is_official(source: Path) -> bool:
    """Return whether these are weights made elsewhere. A file counts as such, and a folder that holds one of theirs."""
    return source.is_file() or any(source.glob("id_*.pt"))
