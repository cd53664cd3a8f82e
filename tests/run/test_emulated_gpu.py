"""Training on a GPU, as far as that can be tried without one: on an emulated one, in child processes."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from gcl_fast.settings import ALL_STAGES, STAGES

EMULATED = Path(__file__).parents[1] / "emulated_gpu.py"
SOURCE = ["source.world.identities=5", "source.world.cameras=3", "source.world.crops=2", "source.epochs=1",
          "source.steps_per_epoch=4", "source.identities=4", "source.crops=2"]  # fmt: skip
# Steps of all kinds, each taken often enough to be captured: reconstruction, with and without R1, mixup; learning rates
# rise from step to step, and the joint stage has two clusters
EVERY_KIND = [*SOURCE, "warmup.steps_per_epoch=4", "generative.batch=5", "generative.r1_every=2", "joint.epochs=1",
              "joint.batch=3", "joint.clustering.eps=0.6", "joint.refresh_outliers=true",
              "generative.weights.mixup=1"]  # fmt: skip
SHORT = ["warmup.epochs=1", "generative.epochs=1", "generative.reconstruction_epochs=0", "joint.epochs=1"]
OTHER_WARMUPS = {
    "mmcl": ["warmup.batch=12", "warmup.single_label_epochs=1", "warmup.epochs=2"],
    "jvtc": ["warmup.batch=6", "warmup.variants=2", "warmup.clustering.k1=6", "warmup.clustering.min_samples=2",
             "warmup.steps_per_epoch=2", "warmup.temporal_epoch=1", "warmup.epochs=2"],
}  # fmt: skip


@pytest.fixture(scope="module")
def train(command, tmp_path_factory):
    """train(name, flags, settings): the folder of a tiny run on the emulated GPU, where the CPU waited for it, and what
    each step launched."""
    runs = tmp_path_factory.mktemp("emulated")

    def make(
        name: str, flags: tuple[str, ...] = (), settings: tuple[str, ...] = (), sm: int = 8
    ) -> tuple[Path, dict[str, Any]]:
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
        (runs / name / "stdout.txt").write_text(done.stdout + done.stderr)
        return runs / name, json.loads(waits.read_text())

    return make


def check_captured(run: Path, plain: Path, stages: tuple[str, ...], apart: float) -> None:
    """Check that `run` has captured steps of all `stages`, `plain` none, and that the first losses are that near."""
    losses = []
    for folder, expected in ((run, stages), (plain, ())):
        said = (folder / "stdout.txt").read_text()
        assert "cannot be a CUDA graph" not in said
        assert tuple(re.findall(r"^(\w+): \d+ of \d+ steps were CUDA graphs", said, re.MULTILINE)) == expected
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses.append({(r["stage"], r["step"]): r["loss"] for r in records if "loss" in r})
    assert losses[0].keys() == losses[1].keys()
    for step in range(1, 5):
        assert losses[0][stages[0], step] == pytest.approx(losses[1][stages[0], step], rel=apart)


@pytest.fixture(scope="module")
def every_kind(train, source_world):
    """every_kind(name, flags, settings): `train` with EVERY_KIND, on a GPU without bfloat16, so that losses are scaled.

    Read as Market-1501, whose crops have no true novel views, the dataset takes 20 s less to evaluate.
    """
    of_source = ("--source", "synthetic", "--source-root", str(source_world), "--dataset", "market1501")
    return lambda name, flags, *settings: train(name, (*of_source, *flags), (*EVERY_KIND, *settings), sm=7)


@pytest.fixture(scope="module")
def plain(every_kind):
    """A run of all stages without graphs."""
    return every_kind("plain", (), "checkpoint_seconds=99", "cuda_graphs=off")


@pytest.fixture(scope="module")
def captured(every_kind):
    """The same with graphs, and a checkpoint of each step."""
    return every_kind("captured", (), "keep_checkpoints=99", "cuda_graphs=on")


def test_no_step_waits(plain):
    run, seen = plain
    assert seen["within"] == []
    assert any("meter.py" in place for place in seen["between"])  # where metrics are read: waits are seen
    assert set(json.loads((run / "summary.json").read_text())["stages"]) == set(ALL_STAGES)


def test_carried_pixels_and_the_joint_stage_by_clusters_wait_for_nothing(train):
    """Steps with all kinds of views are captured as they are, and none asks the CPU."""
    clusters = "{epochs: 1, steps_per_epoch: 14, identities: 3, crops: 2, clustering: {k1: 6, eps: 0.6}}"
    settings = ["model.generator.appearance=carried", "generative.weights.similarity=5", f"joint.clusters={clusters}",
                "joint.views=drawn", "joint.update_every=2", "generative.r1_every=2", "generative.batch=4",
                "warmup.epochs=1", "cuda_graphs=on", "checkpoint_seconds=99"]  # fmt: skip
    run, seen = train("carried", ("--dataset", "market1501"), settings, sm=7)
    assert seen["within"] == []
    printed = (run / "stdout.txt").read_text()
    assert "cannot be a CUDA graph" not in printed
    assert {"generative", "joint"} <= set(
        re.findall(r"^(\w+): \d+ of \d+ steps were CUDA graphs", printed, re.MULTILINE)
    )


def test_captured_steps_train_as_plain_ones(plain, captured, differing):
    """To the last bit, in all stages: no number that changes is frozen in a graph, and no state is made in one."""
    (theirs, eager), (ours, seen) = plain, captured
    assert differing(ours, theirs, *ALL_STAGES) == []
    assert seen["within"] == []
    check_captured(ours, theirs, ALL_STAGES, apart=0.0)
    for stage in ALL_STAGES:
        assert min(eager["launches"][stage]) > 150
        # A graph, the copies of its inputs, learning rates, the meter, what mixup draws
        assert max(seen["launches"][stage][-2:]) < 60
    records = [json.loads(line) for line in (ours / "metrics.jsonl").read_text().splitlines()]
    assert all(record["view"] > 0 and record["mixup"] > 0 for record in records if "view" in record)


def test_a_stopped_run_with_captured_steps_goes_on(captured, every_kind, differing, tmp_path):
    run, _ = captured
    whole = shutil.copytree(run, tmp_path / "whole")
    for checkpoint in sorted((run / "checkpoints").glob("step_*.pt"), reverse=True):
        state = torch.load(checkpoint, weights_only=True)
        if state["at"]["step"] == 2:
            break
        checkpoint.unlink()
    assert state["stage"] == "joint"
    held = state["stage_state"]
    for optimizer in (held["optimizer"], *held["gcl_step"].values()):
        (group,) = optimizer["param_groups"]
        assert type(group["lr"]) is float  # as a CPU writes it
    _, seen = every_kind("captured", ("--resume",), "keep_checkpoints=99", "cuda_graphs=on")
    assert differing(run, whole) == []
    assert list(seen["launches"]) == ["joint"]
    assert min(seen["launches"]["joint"]) < 60


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
    settings = ("warmup.memory=cameras", "generative.weights.feature_loss_on=novel_view", "joint.own_entry=live")
    _, waits = train("switched", (), (*SHORT, *settings, "joint.negatives_of=crop", "joint.decay=identity"))
    assert waits["within"] == []


@pytest.mark.slow
@pytest.mark.parametrize("method", OTHER_WARMUPS)
def test_other_warmups(train, differing, method):
    settings, flags = (*OTHER_WARMUPS[method], "warmup.steps_per_epoch=5"), ("--warmup", method, "--stages", "warmup")
    plain, captured = (train(f"{method}-{mode}", flags, (*settings, f"cuda_graphs={mode}")) for mode in ("off", "on"))
    assert differing(plain[0], captured[0], "warmup") == []
    assert plain[1]["within"] == captured[1]["within"] == []
    assert captured[1]["launches"]["warmup"][-1] < 60


@pytest.mark.gpu
def test_captured_steps_on_a_gpu(command, tmp_path):
    """As on the emulated one; a GPU's sums differ from run to run, so the first losses are compared alone."""
    for mode in ("off", "on"):
        settings = ("warmup.steps_per_epoch=5", "generative.r1_every=2", f"cuda_graphs={mode}")
        done = subprocess.run([*command(tmp_path, mode), *settings], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        (tmp_path / mode / "stdout.txt").write_text(done.stdout + done.stderr)
    check_captured(tmp_path / "on", tmp_path / "off", STAGES, apart=0.1)
