"""Read the settings of a run from its config.yaml."""

from __future__ import annotations

from pathlib import Path

import yaml

from gcl_fast.errors import UserError
from gcl_fast.settings import RunConfig, from_dict


def read_settings(path: Path) -> RunConfig:
    """Read config.yaml of a run.

    Args:
        path: of the file.

    Raises:
        UserError: the file cannot be read, or its settings are of another version of gcl_fast.
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
        raise UserError(
            f"{path} is not of this version of gcl_fast ({first_line(error)[:160]}); use the gcl_fast that trained the"
            " run"
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]
