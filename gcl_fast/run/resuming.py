"""Decide whether a command may go on with a run: which settings may differ, and when two paths mean one place."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from gcl_fast.errors import UserError
from gcl_fast.run.run_files import finished_stages, read_config, read_environments
from gcl_fast.settings import ClusteringConfig, RunConfig, assign, difference, to_dict
from gcl_fast.settings.ranges import paths_of

FREE_ON_RESUME = {
    *("runs", "name", "device", "compile", "cache", "checkpoint_seconds", "keep_checkpoints", "log_every", "stages"),
    *("smpl", "structure_maps", "cuda_graphs"),
}
# Settings that may change on resuming, and that the log then names. Too little memory, another number of ranks,
# a divergence, or a clustering of outliers alone ask for another value. A dataset or weights may have moved: the
# digest of the crops decides whether they are the same (`check_digest`).
TUNABLE_ON_RESUME = {
    *("data_root", "source.root", "init"),
    *("source.lr", "source.identities", "warmup.lr", "generative.lr", "joint.lr", "joint.lr_identity"),
    *("warmup.batch", "warmup.identities", "generative.batch", "joint.batch"),
    *("joint.clusters.lr", "joint.clusters.identities"),
    *(
        f"{stage}.clustering.{field.name}"
        for stage in ("warmup", "joint", "joint.clusters")
        for field in fields(ClusteringConfig)
    ),
}
DEFAULT_ROOTS = {"data_root": "datasets/synthetic", "source.root": "datasets/synthetic-source"}


def changes_on_resume(run: Path, before: RunConfig, config: RunConfig) -> list[str]:
    """Return a line for each setting that a resumed run changes, without paths that mean the same place.

    Args:
        run: the folder of the run.
        before: its settings.
        config: those of the command.

    Raises:
        UserError: a setting differs that may not; the message names the way to go on from the run's weights.
    """
    changes = _differences(run, before, config)
    conflicts = [line for line in changes if line.split(":")[0] not in TUNABLE_ON_RESUME]
    if conflicts:
        raise UserError(
            f"{run / 'config.yaml'} has other settings than this command; repeat its flags, or choose another"
            f" --name{_way_on(run)}:" + "".join(f"\n  {line}" for line in conflicts)
        )
    return changes


def refuse_to_replace(run: Path, config: RunConfig) -> NoReturn:
    """Raise the UserError for a folder that holds a run already; a name that tells the settings apart is suggested.

    Args:
        run: the folder.
        config: the settings of the command.
    """
    try:
        changes = _differences(run, read_config(run / "config.yaml"), config)
    except UserError:  # damaged, or of another version
        changes = []
    if not changes:
        raise UserError(f"{run} holds a run already: --resume goes on with it, --name starts another")
    more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
    key, _, values = changes[0].partition(": ")
    value = re.sub(r"[^\w.-]+", "-", values.rpartition(" -> ")[2]).strip("-")
    raise UserError(
        f"{run} holds a run already, of other settings ({changes[0]}{more}): --name"
        f" {run.name}-{key.rpartition('.')[2]}-{value} starts this one"
    )


def check_digest(run: Path, data: dict[str, Any], changes: list[str]) -> None:
    """Raise a UserError where the dataset of a run has another place, and holds other training crops there.

    Args:
        run: the folder of the run.
        data: what environment.json would say of the dataset.
        changes: what `changes_on_resume` returned.
    """
    if not any(line.startswith("data_root:") for line in changes):
        return
    former = _last_environment(run).get("data", {})
    if isinstance(former, dict) and former.get("digest", data["digest"]) != data["digest"]:
        raise UserError(
            f"{run} was trained on {former.get('train')} crops with other names than the {data['train']} of this"
            " --data-root; name the dataset's new place, or choose another --name"
        )


def _differences(run: Path, before: RunConfig, config: RunConfig) -> list[str]:
    """Return a line for each setting that differs and counts, without paths that mean the same place."""
    paths = {key: path for key, path in paths_of(config).items() if _same_place(run, before, key, path)}
    lines = difference(to_dict(assign(before, paths)), to_dict(config))
    return [line for line in lines if line.split(":")[0] not in FREE_ON_RESUME]


def _same_place(run: Path, before: RunConfig, key: str, path: str) -> bool:
    """Return whether a path of the command means what the setting `key` of the run meant in its working directory."""
    former = paths_of(before).get(key)
    if former is None:
        return False
    default = DEFAULT_ROOTS.get(key, "")
    folder = Path(str(_last_environment(run).get("folder", Path.cwd())))
    meaning = [(base / (text or default)).resolve() for base, text in ((folder, former), (Path.cwd(), path))]
    return meaning[0] == meaning[1] and bool(former or default) == bool(path or default)


def _last_environment(run: Path) -> dict[str, Any]:
    """Return the environment of the last command that trained a run; {} where none can be read."""
    try:
        return (read_environments(run) or [{}])[-1]
    except UserError:  # damaged
        return {}


def _way_on(run: Path) -> str:
    """Return how another run begins with the weights of this one, or "" before it has finished a stage."""
    try:
        finished = finished_stages(run)
    except UserError:
        return ""
    return f" with --init {run}, which starts from its weights after {finished[-1]}"
