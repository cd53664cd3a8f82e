"""Two gloo processes train as one does with the same global batch, up to rounding; on a GPU they share it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from gcl_fast.distributed.ranks import SHARING
from gcl_fast.run.checkpoint import load_state
from gcl_fast.settings import PUBLISHED

# Losses differ by rounding that Adam amplifies, since it gives a gradient of noise the same step as any other.
FIRST, LATER = 1e-5, 2e-2


DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.slow])]
# On a GPU: ranks on one device, and float32 without TF32, whose rounding is larger than the differences looked for
ENVIRONMENT = {SHARING: "1", "NVIDIA_TF32_OVERRIDE": "0"}


def train(
    world: Path, runs: Path, processes: int, *flags: str, settings: tuple[str, ...] = (), device: str = "cpu"
) -> Path:
    """A run in float32 of global batches of 8 crops in the warm-up, of 6 in the other stages."""
    every = [
        *PUBLISHED,
        "world.identities=6", "world.cameras=3", "world.crops=2", "height=64", "width=40",
        f"data_root={world}", f"runs={runs}", f"name=by{processes}", f"generative.batch={6 // processes}",
        "generative.epochs=2", "generative.reconstruction_epochs=1", f"joint.batch={6 // processes}", "joint.epochs=2",
        "joint.clustering.k1=6", "joint.clustering.eps=0.45", "joint.decay_epoch=1", "log_every=1",
        "warmup.epochs=2", "warmup.steps_per_epoch=4", f"warmup.identities={4 // processes}", "warmup.crops=2",
        "warmup.clustering.k1=6",
    ]  # fmt: skip
    script = str(Path(__file__).parents[2] / "gcl_fast" / "train.py")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*torchrun, script, "--compile", "off", "--device", device, *flags, "--set", *every, *settings]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return runs / f"by{processes}"


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_warmup_with_synchronized_norms_is_the_same(world, tmp_path, device):
    flags = ("--stages", "warmup", "--sync-bn")
    one, two = (train(world, tmp_path, processes, *flags, device=device) for processes in (1, 2))
    steps = [(a["loss"], b["loss"]) for a, b in zip(records(one), records(two), strict=True) if "loss" in a]
    assert len(steps) == 8
    assert steps[0][1] == pytest.approx(steps[0][0], rel=FIRST)
    for alone, together in steps:
        assert together == pytest.approx(alone, rel=LATER)
    states = [load_state(run / "checkpoints") for run in (one, two)]
    banks = [state["stage_state"]["bank"]["features"] for state in states]
    assert (banks[0] * banks[1]).sum(1).min() > 1 - LATER  # cosines
    for name, value in states[0]["gcl"].items():
        if name.startswith("identity.") and "running" in name:
            assert (states[1]["gcl"][name] - value).norm() <= LATER * value.norm(), name


@pytest.fixture(scope="module", params=DEVICES)
def runs(request, world, finished, tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("processes")
    start = finished / "checkpoints" / "warmup.safetensors"
    flags = ["--stages", "generative", "joint", "--init", str(start)]
    return [train(world, folder, processes, *flags, device=request.param) for processes in (1, 2)]


def test_losses_and_clusters_are_the_same(runs):
    one, two = map(records, runs)
    assert [(r["stage"], r["step"]) for r in one] == [(r["stage"], r["step"]) for r in two]
    steps = [(a["loss"], b["loss"]) for a, b in zip(one, two, strict=True) if "loss" in a]
    assert len(steps) >= 16
    assert steps[0][1] == pytest.approx(steps[0][0], rel=FIRST)
    for alone, together in steps:
        assert together == pytest.approx(alone, rel=LATER)
    clusters = [[(r["clusters"], r["outliers"]) for r in run if "clusters" in r] for run in (one, two)]
    assert clusters[0][0] == clusters[1][0]  # before the joint stage's first step: the same to the last crop
    assert [count for count, _ in clusters[0]] == [count for count, _ in clusters[1]]
    assert min(count for count, _ in clusters[0]) > 1


def test_banks_and_weights_are_the_same(runs):
    banks = [load_state(run / "checkpoints")["stage_state"]["bank"] for run in runs]
    assert (banks[0]["labels"] == banks[1]["labels"]).float().mean() > 0.9  # rounding may move a crop on a border
    assert (banks[0]["features"] - banks[1]["features"]).abs().max() < LATER
    alone, together = (load_file(run / "checkpoints" / "joint.safetensors") for run in runs)
    for name, weight in alone.items():
        if name.endswith("weight"):  # biases before a norm have no gradient, only rounding for Adam to follow
            assert (together[name] - weight).norm() <= LATER * weight.norm(), name


@pytest.mark.slow
def test_mixup_is_the_same(world, finished, tmp_path):
    flags = ["--stages", "joint", "--init", str(finished / "checkpoints" / "generative.safetensors")]
    # Later epochs may begin with other clusters; a wider radius leaves few outliers, so more steps
    settings = ("generative.weights.mixup=1", "joint.epochs=1", "joint.clustering.eps=0.6")
    one, two = (records(train(world, tmp_path, processes, *flags, settings=settings)) for processes in (1, 2))
    steps = [(a["mixup"], b["mixup"]) for a, b in zip(one, two, strict=True) if "mixup" in a]
    assert len(steps) >= 4
    assert steps[0][1] == pytest.approx(steps[0][0], rel=FIRST)
    for alone, together in steps:
        assert together == pytest.approx(alone, rel=LATER)
