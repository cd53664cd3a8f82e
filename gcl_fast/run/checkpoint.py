"""Write and read the checkpoints of a run atomically; after a crash the newest complete one is readable."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from gcl_fast.atomic import write_atomically
from gcl_fast.errors import UserError

_NAME = re.compile(r"step_(\d{9})\.pt")


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, path) of every checkpoint in `folder`, newest first."""
    checkpoints = [(int(match[1]), path) for path in folder.glob("step_*.pt") if (match := _NAME.fullmatch(path.name))]
    return sorted(checkpoints, reverse=True)


def save_state(folder: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path | None:
    """Write `state` as the checkpoint of `step`, then delete all but the `keep` newest. Rank 0 alone calls this.

    Args:
        folder: where the checkpoints are.
        step: number of finished steps over all stages, >= 0.
        state: tensors, numbers, strings, lists and dicts, which torch.load(weights_only=True) reads.
        keep: at least 2, so that an older one can be read where the newest is damaged.

    Returns:
        The path; None where the disk refused it. Then there is a warning, and the older checkpoints stay.
    """
    path = folder / f"step_{step:09d}.pt"
    if not write_or_warn(path, lambda file: torch.save(state, file)):
        return None
    for _, old in _steps(folder)[keep:]:
        old.unlink()
    return path


def load_state(folder: Path) -> dict[str, Any] | None:
    """Read the newest readable checkpoint onto the CPU.

    A warning names each newer one that cannot be read, such as an incomplete copy.

    Returns:
        The state; None where there is no checkpoint.

    Raises:
        UserError: there are checkpoints, and none can be read. To start over without a word would hide the loss.
    """
    checkpoints = _steps(folder)
    for _, path in checkpoints:
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # zip, pickle and I/O errors have no common base
            warnings.warn(f"{path} cannot be read ({type(error).__name__}); trying the one before it", stacklevel=2)
    if checkpoints:
        raise UserError(
            f"none of the {len(checkpoints)} checkpoints in {folder} can be read; move them away to start over"
        )
    return None


def write_or_warn(path: Path, write: Callable[[BinaryIO], object]) -> bool:
    """Write a file atomically, and return whether the disk took it; if not, warn, and leave the old file."""
    try:
        write_atomically(path, write)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into a RuntimeError
        free = shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free >> 20
        warnings.warn(
            f"{path} could not be written, {free} MB are free there ({error}); the run goes on, the last one stays:"
            " make room",
            stacklevel=3,
        )
        return False
    return True
