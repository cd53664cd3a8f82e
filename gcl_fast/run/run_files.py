"""Find and read the files in the folder of a run: settings, weights of stages, results, environments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gcl_fast.errors import UserError
from gcl_fast.settings import ALL_STAGES, RunConfig, from_dict

LOG_BYTES = 50_000
PLACE = ("name", "runs")  # settings that say where a run is, not what it is
GO_ON = "repeat its training command with --resume"  # the way out where a stage is missing


@dataclass(frozen=True)
class RunFiles:
    """Holds what the files of a run say. A file that is missing, as in a shared folder, leaves its field empty."""

    path: Path
    config: RunConfig
    results: dict[str, dict[str, Any]]  # by finished stage, in training order; of summary.json
    environments: list[dict[str, Any]]  # of each command that trained the run, in order
    log: str  # the beginning of run.log, which holds the header

    @property
    def name(self) -> str:
        """Return the name of the run, which is that of its folder."""
        return self.path.resolve().name

    @property
    def environment(self) -> dict[str, Any]:
        """Return the environment of the command that trained the run last; {} where the folder names none."""
        return self.environments[-1] if self.environments else {}


def read_run(path: Path) -> RunFiles:
    """Read the files of a run.

    Args:
        path: the folder of the run.

    Raises:
        UserError: there is no run, a file of it cannot be read, or its settings are of another version of gcl_fast.
    """
    settings = path / "config.yaml"
    if not settings.is_file():
        raise UserError(
            f"no run at {path}: {settings} is missing; give the folder that the training printed, such as runs/NAME"
        )
    config = read_config(settings)
    summary = _read_json(path / "summary.json", {})
    results = summary.get("stages", {}) if isinstance(summary, dict) else None
    if not isinstance(results, dict) or not all(isinstance(metrics, dict) for metrics in results.values()):
        raise UserError(f"{path / 'summary.json'} is not the summary of a run; restore it from a copy")
    results = {stage: results[stage] for stage in ALL_STAGES if stage in results}
    return RunFiles(path, config, results, read_environments(path), _read_beginning(path / "run.log"))


def read_config(path: Path) -> RunConfig:
    """Read the settings of a run from its config.yaml.

    Raises:
        UserError: the file cannot be read, or holds settings of another version of gcl_fast.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}); restore it from a copy") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} cannot be read (it holds no settings); restore it from a copy")
    try:
        return from_dict(data)
    except UserError as error:
        fault = first_line(error).partition("; there are")[0]  # without the list of all settings
        raise UserError(
            f"{path} is not of this version of gcl_fast ({fault}); use the gcl_fast that trained the run"
        ) from error


def read_environments(run: Path) -> list[dict[str, Any]]:
    """Read what each command that trained a run says of its environment; [] where the folder has no environment.json.

    Raises:
        UserError: the file is damaged.
    """
    path = run / "environment.json"
    environments = _read_json(path, [])
    if not isinstance(environments, list) or not all(isinstance(facts, dict) for facts in environments):
        raise UserError(f"{path} does not hold a list of environments; restore it from a copy, or delete it")
    return environments


def weights_file(run: Path, stage: str) -> Path:
    """Return the path of a stage's weights in the folder of a run; the file exists once the stage is finished."""
    return run / "checkpoints" / f"{stage}.safetensors"


def finished_stages(run: Path, stages: Sequence[str] = ALL_STAGES) -> list[str]:
    """Return those of `stages` whose weights the folder of a run holds.

    Raises:
        UserError: it holds the weights of none.
    """
    finished = [stage for stage in stages if weights_file(run, stage).is_file()]
    if not finished:
        raise UserError(f"{run} has finished none of {', '.join(stages)} yet; {GO_ON}")
    return finished


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _read_json(path: Path, missing: Any) -> Any:
    """Read a JSON file; return `missing` where there is none."""
    if not path.is_file():
        return missing
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}); restore it from a copy") from error


def _read_beginning(path: Path) -> str:
    """Read the first LOG_BYTES of a text file; return "" where it is missing."""
    if not path.is_file():
        return ""
    try:
        with path.open("rb") as file:
            return file.read(LOG_BYTES).decode(errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}); restore it from a copy") from error
