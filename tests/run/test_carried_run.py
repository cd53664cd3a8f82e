"""Runs as the demo trains: a generator of carried pixels, and the joint stage by clusters. Kills, ranks, refusals."""

import json
import os
import subprocess
import time

import pytest

CARRIED = [
    "model.generator.appearance=carried", "generative.weights.similarity=5", "joint.views=drawn",
    "joint.update_every=2",
    "joint.clusters={epochs: 2, steps_per_epoch: 3, identities: 4, crops: 2, lr: 1e-3, clustering: {k1: 6, eps: 0.5}}",
]  # fmt: skip


def joint_steps(folder):
    path = folder / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [record for record in records if record["stage"] == "joint" and "loss" in record]


@pytest.fixture(scope="module")
def carried(command, trainer, tmp_path_factory):
    """Return the folder of a run that went through all stages undisturbed."""
    runs = tmp_path_factory.mktemp("carried")
    done = trainer.run([*command(runs, "whole"), *CARRIED])
    assert done.returncode == 0, done.stderr
    return runs / "whole"


def test_it_measures_the_transfer_by_the_generator_s_side(carried):
    stages = json.loads((carried / "summary.json").read_text())["stages"]
    for stage in ("generative", "joint"):
        assert {"ssim", "ssim_copy", "ssim_transfer"} <= stages[stage].keys()
    assert stages["joint"]["steps"] == 6
    drawn = [step for step in joint_steps(carried) if "image_rec" in step]
    assert [step["step"] - drawn[0]["step"] for step in drawn] == [0, 2, 4]
    assert all("similarity_rec" in step for step in drawn)


def test_killed_in_the_joint_stage_it_goes_on_bit_for_bit(carried, command, differing, tmp_path, trainer):
    training = trainer.start([*command(tmp_path, "killed", "--resume"), *CARRIED])
    folder, end = tmp_path / "killed", time.monotonic() + 120
    while len(joint_steps(folder)) < 3:
        assert training.poll() is None, "the run ended too early"
        assert time.monotonic() < end
        time.sleep(0.01)
    training.kill()
    assert not (folder / "checkpoints" / "joint.safetensors").exists(), "it was killed too late"
    done = trainer.run([*command(tmp_path, "killed", "--resume"), *CARRIED])
    assert done.returncode == 0, done.stderr
    assert differing(folder, carried) == []


@pytest.mark.slow
def test_two_ranks_share_a_joint_step(carried, command, tmp_path):
    """Half the identities on each of two ranks: the first step has one process's loss."""
    losses = []
    for ranks in (1, 2):
        python, *arguments = command(tmp_path, f"by{ranks}", "--sync-bn", "--stages", "joint", "--init",
                                     str(carried / "checkpoints" / "generative.safetensors"))  # fmt: skip
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        settings = [*CARRIED, f"joint.batch={6 // ranks}"]
        settings[-2] = settings[-2].replace("identities: 4", f"identities: {4 // ranks}")
        every = [*launcher, *arguments, *settings]
        done = subprocess.run([python, *every], env=dict(os.environ), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        losses.append([step["loss"] for step in joint_steps(tmp_path / f"by{ranks}")])
    assert len(losses[0]) == len(losses[1]) == 6
    assert losses[1][0] == pytest.approx(losses[0][0], rel=2e-2)  # bfloat16 where the machine has it


def test_pre_rendered_maps_need_a_generator_of_parts(command, tmp_path, trainer):
    done = trainer.run([*command(tmp_path, "maps", "--structure-maps", str(tmp_path)), *CARRIED])
    assert done.returncode == 2
    assert "add --set model.generator.appearance=parts" in done.stderr
    assert "Traceback" not in done.stderr


def test_mixed_part_features_have_no_pixels(command, tmp_path, trainer):
    done = trainer.run([*command(tmp_path, "mixup"), *CARRIED, "generative.weights.mixup=1"])
    assert done.returncode == 2
    assert "generative.weights.mixup" in done.stderr
