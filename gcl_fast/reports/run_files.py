"""Read what the folder of a run says about itself: settings, results and environment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcl_fast.errors import UserError
from gcl_fast.run.settings_file import first_line, read_settings
from gcl_fast.settings import ALL_STAGES, RunConfig

LOG_BYTES = 50_000


@dataclass(frozen=True)
class RunFiles:
    """Holds what the files of a run say. A file that is missing, as in a shared folder, leaves its field empty."""

    path: Path
    config: RunConfig
    results: dict[str, dict[str, Any]]  # by finished stage, in training order; of summary.json
    commands: list[dict[str, Any]]  # of environment.json: what each command that trained the run ran on
    log: str  # the beginning of run.log, which holds the header

    @property
    def name(self) -> str:
        """Return the name of the run, which is that of its folder."""
        return self.path.resolve().name

    @property
    def environment(self) -> dict[str, Any]:
        """Return what the last command ran on; {} where it is not known."""
        return self.commands[-1] if self.commands else {}

    @property
    def weights(self) -> list[str]:
        """Return the stages whose weights the folder holds, in training order."""
        return [stage for stage in ALL_STAGES if (self.path / "checkpoints" / f"{stage}.safetensors").is_file()]


def read_run(path: Path) -> RunFiles:
    """Read the files of a run.

    Args:
        path: the folder of the run.

    Raises:
        UserError: there is no run, a file of it cannot be read, or its settings are of another version of gcl_fast.
    """
    settings = path / "config.yaml"
    if not settings.is_file():
        raise UserError(f"no run at {path}: {settings} is missing; give the folder that train.py printed")
    config = read_settings(settings)
    results = _read_object(path / "summary.json").get("stages", {})
    if not isinstance(results, dict) or not all(isinstance(metrics, dict) for metrics in results.values()):
        raise UserError(f"{path / 'summary.json'} is not the summary of a run; restore it from a copy")
    return RunFiles(
        path,
        config,
        {stage: results[stage] for stage in ALL_STAGES if stage in results},
        _read_commands(path / "environment.json"),
        _read_beginning(path / "run.log"),
    )


def _read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object; return {} where it is missing."""
    content = _read_json(path, {})
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold a JSON object; restore it from a copy")
    return content


def _read_commands(path: Path) -> list[dict[str, Any]]:
    """Read environment.json, a list with an object for each command; return [] where it is missing."""
    content = _read_json(path, [])
    if not isinstance(content, list) or not all(isinstance(command, dict) for command in content):
        raise UserError(f"{path} does not hold a list of commands; restore it from a copy, or delete it")
    return content


def _read_json(path: Path, absent: Any) -> Any:
    """Read a JSON file; return `absent` where it is missing."""
    if not path.is_file():
        return absent
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
