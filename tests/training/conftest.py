"""A finished run, and comparing runs and states."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gcl_fast.config import STAGES

sys.path.insert(0, str(Path(__file__).parent))  # makes emulated_graphs.py importable under --import-mode=importlib


@pytest.fixture(scope="session")
def finished(command: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that went through all three stages undisturbed, under torchrun."""
    runs = tmp_path_factory.mktemp("runs")
    python, *arguments = command(runs, "whole")
    torchrun = [python, "-m", "torch.distributed.run", "--standalone", *arguments]
    done = subprocess.run(torchrun, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (runs / "whole" / "stdout.txt").write_text(done.stdout)
    return runs / "whole"


@pytest.fixture(scope="session")
def differing() -> Callable[..., list[str]]:
    """differing(run, other, *names): the tensors of `run`'s weights of those names (all stages') that are not equal."""

    def find(run: Path, other: Path, *names: str) -> list[str]:
        found = []
        for name in names or STAGES:
            ours, theirs = (load_file(folder / "checkpoints" / f"{name}.safetensors") for folder in (run, other))
            found += [f"{name}: {tensor}" for tensor in theirs if not torch.equal(ours[tensor], theirs[tensor])]
        return found

    return find


@pytest.fixture(scope="session")
def saved() -> Callable[[Any], Any]:
    """saved(state): the state through a file, as a checkpoint goes."""

    def through_a_file(state: Any) -> Any:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    return through_a_file
