"""Training on a GPU, as far as that can be tried without one: on an emulated one, in child processes."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from gcl_fast.config import ALL_STAGES

EMULATED = Path(__file__).with_name("emulated_gpu.py")
SOURCE = ["source.world.identities=5", "source.world.cameras=3", "source.world.crops=2", "source.epochs=1",
          "source.steps_per_epoch=2", "source.identities=4", "source.crops=2"]  # fmt: skip
SHORT = ["warmup.epochs=1", "generative.epochs=1", "generative.reconstruction_epochs=0", "joint.epochs=1"]
OTHER_WARMUPS = {
    "mmcl": ["warmup.batch=12", "warmup.single_label_epochs=1", "warmup.epochs=2"],
    "jvtc": ["warmup.batch=6", "warmup.variants=2", "warmup.clustering.k1=6", "warmup.clustering.min_samples=2",
             "warmup.steps_per_epoch=2", "warmup.temporal_epoch=1", "warmup.epochs=2"],
}  # fmt: skip


@pytest.fixture(scope="module")
def train(command, tmp_path_factory):
    """train(name, flags, settings): the folder of a tiny run on the emulated GPU, and where the CPU waited for it."""
    runs = tmp_path_factory.mktemp("emulated")

    def make(
        name: str, flags: tuple[str, ...] = (), settings: tuple[str, ...] = (), sm: int = 8
    ) -> tuple[Path, dict[str, list[str]]]:
        waits = runs / f"{name}.json"
        python, _, *arguments = command(runs, name, *flags)
        if "--warmup" in flags:
            arguments = [argument for argument in arguments if not argument.startswith("warmup.")]
        done = subprocess.run(
            [python, EMULATED, waits, *arguments, *settings],
            env={**os.environ, "EMULATED_SM": str(sm)},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return runs / name, json.loads(waits.read_text())

    return make


def test_no_step_waits(train, source_world):
    """In any stage; on a GPU without bfloat16, so that losses are scaled. Read as Market-1501, whose crops have no true
    novel views, the dataset takes 20 s less to evaluate."""
    flags = ("--source", "synthetic", "--source-root", str(source_world), "--dataset", "market1501")
    settings = (*SOURCE, *SHORT, "generative.weights.mixup=1", "joint.refresh_outliers=true", "checkpoint_seconds=99")
    run, waits = train("all", flags, settings, sm=7)
    assert waits["within"] == []
    assert any("meter.py" in place for place in waits["between"])  # where metrics are read: waits are seen
    assert set(json.loads((run / "summary.json").read_text())["stages"]) == set(ALL_STAGES)


@pytest.mark.slow
def test_a_stopped_run_goes_on(train, differing, tmp_path):
    run, waits = train("whole", settings=("keep_checkpoints=99",))
    assert waits["within"] == []
    whole = shutil.copytree(run, tmp_path / "whole")
    checkpoints = sorted((run / "checkpoints").glob("step_*.pt"))
    for later in checkpoints[-4:]:
        later.unlink()
    assert torch.load(checkpoints[-5], weights_only=True)["stage"] == "joint"
    train("whole", ("--resume",))
    assert differing(run, whole) == []


@pytest.mark.slow
def test_switches_of_the_paper_and_the_code(train):
    settings = ("warmup.memory=cameras", "generative.weights.feature_loss_on=paper", "joint.own_entry=paper")
    _, waits = train("switched", (), (*SHORT, *settings, "joint.negatives=paper", "joint.decay=code"))
    assert waits["within"] == []


@pytest.mark.slow
@pytest.mark.parametrize("method", OTHER_WARMUPS)
def test_other_warmups(train, method):
    _, waits = train(method, ("--warmup", method, "--stages", "warmup"), tuple(OTHER_WARMUPS[method]))
    assert waits["within"] == []
