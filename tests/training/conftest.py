"""A world of a few people, and the arguments that train on it in seconds."""

import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gcl_fast.config import STAGES

sys.path.insert(0, str(Path(__file__).parent))  # makes emulated_graphs.py importable under --import-mode=importlib
TRAIN = Path(__file__).parents[2] / "gcl_fast" / "train.py"

TINY = [
    "--amp", "--compile", "off", "--set",
    "world.identities=6", "world.cameras=3", "world.crops=2", "height=64", "width=40",
    "warmup.epochs=2", "warmup.steps_per_epoch=3", "warmup.identities=4", "warmup.crops=2", "warmup.clustering.k1=6",
    "generative.epochs=2", "generative.reconstruction_epochs=1", "generative.batch=6",
    "joint.epochs=2", "joint.batch=6", "joint.clustering.k1=6", "joint.clustering.eps=0.95", "joint.decay_epoch=1",
    "log_every=1", "checkpoint_seconds=0",
]  # fmt: skip


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded dataset with 6 + 6 people, 3 cameras, 2 crops each."""
    from gcl_fast.synthetic import WorldConfig, make_world

    return make_world(tmp_path_factory.mktemp("world") / "world", WorldConfig(identities=6, cameras=3, crops=2))


@pytest.fixture(scope="session")
def source_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedded source for it with 5 + 5 people."""
    from gcl_fast.config import SourceConfig
    from gcl_fast.synthetic import make_world

    config = replace(SourceConfig().world, identities=5, cameras=3, crops=2)
    return make_world(tmp_path_factory.mktemp("source") / "source", config, progress=False)


@pytest.fixture(scope="session")
def command(world: Path) -> Callable[..., list[str]]:
    """command(runs, name, *flags): a tiny training run as a list of arguments that takes more settings at its end."""

    def make(runs: Path, name: str, *flags: str) -> list[str]:
        return [sys.executable, str(TRAIN), *flags, *TINY, f"data_root={world}", f"runs={runs}", f"name={name}"]

    return make


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
