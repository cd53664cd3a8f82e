"""Runs that are killed: at many moments, during saves, one rank of two, and with another number of ranks afterwards."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gcl_fast.config import STAGES

LONGER = ["warmup.epochs=4", "generative.epochs=3", "joint.epochs=3"]  # 12 + 18 + some 15 steps
KILLS = 20


def test_killed_at_twenty_moments_it_ends_with_the_same_weights(command, tmp_path):
    plain = subprocess.run([*command(tmp_path, "plain"), *LONGER], capture_output=True, text=True, timeout=1200)
    assert plain.returncode == 0, plain.stderr
    folder, chance, during_save = tmp_path / "killed", random.Random(0), 0
    arguments = [*command(tmp_path, "killed", "--resume"), *LONGER]
    stages = []
    for kill in range(KILLS):
        with (tmp_path / "said").open("w") as said:
            process = subprocess.Popen(arguments, stdout=said, stderr=said)
        before = len(_steps(folder))
        try:
            _wait(lambda before=before: len(_steps(folder)) > before, process)  # further than ever: it will end
            if kill % 3 == 0:
                _wait(lambda: list((folder / "checkpoints").glob(".step_*.tmp")), process, pause=0.0005)
            else:
                time.sleep(chance.uniform(0, 0.5))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        during_save += bool(list((folder / "checkpoints").glob(".step_*.tmp")))
        stages.append(_steps(folder)[-1][0])
    assert set(stages) == set(STAGES), "more steps, or fewer kills"
    assert during_save
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert _weights(folder, tmp_path / "plain") == []
    assert _steps(folder) == _steps(tmp_path / "plain")


def test_a_rank_that_dies_does_not_end_the_run(command, tmp_path):
    def torchrun(name: str) -> list[str]:
        python, *arguments = command(tmp_path, name)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2"]
        return [python, *launcher, *arguments, "generative.batch=3", "joint.batch=3", "warmup.identities=2"]

    plain = subprocess.run(torchrun("plain"), capture_output=True, text=True, timeout=1200)
    assert plain.returncode == 0, plain.stderr
    folder = tmp_path / "hurt"
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(torchrun("hurt"), stdout=said, stderr=said)
    try:
        for rank, stage in ((1, "warmup"), (0, "generative")):
            _wait(lambda stage=stage: any(name == stage for name, _ in _steps(folder)), process)
            os.kill(_rank(process.pid, rank), signal.SIGKILL)
        assert process.wait(1200) == 0, (tmp_path / "said").read_text()
    finally:
        process.kill()
    assert "resumed: generative at step" in (tmp_path / "said").read_text()
    assert _weights(folder, tmp_path / "plain") == []
    # a run that was refused is not resumed by the restart either
    refused = subprocess.run(torchrun("plain"), capture_output=True, text=True, timeout=1200)
    assert refused.returncode != 0
    assert "holds a run already" in refused.stderr
    assert "resumed" not in refused.stdout


def test_two_ranks_go_on_as_one(command, tmp_path):
    """The same global batch: the same crops in every step. Stopped in the generative stage, in mid-epoch."""
    python, *arguments = command(tmp_path, "run", "--resume", "--stages", "generative")
    halves = [*arguments, "generative.batch=3", "generative.reconstruction_epochs=2", "generative.epochs=3"]
    launcher = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = subprocess.Popen([*launcher, *halves], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = tmp_path / "run"
    try:
        _wait(lambda: len(_steps(folder)) >= 8, process)  # two steps into the second of three epochs of six
    finally:
        for rank in range(2):
            os.kill(_rank(process.pid, rank), signal.SIGKILL)
        process.wait()
    whole = [*halves, "generative.batch=6"]
    done = subprocess.run([python, *whole], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert "changed on resuming: generative.batch: 3 -> 6" in done.stdout
    alone = subprocess.run(
        [python, *(a.replace("name=run", "name=alone") for a in whole)], capture_output=True, text=True, timeout=1200
    )
    assert alone.returncode == 0, alone.stderr
    assert _steps(folder) == _steps(tmp_path / "alone") == [("generative", step) for step in range(1, 19)]
    ours, theirs = (load_file(tmp_path / n / "checkpoints" / "generative.safetensors") for n in ("run", "alone"))
    for name, value in theirs.items():
        if name.endswith("weight") and name.startswith("generator"):
            assert (ours[name] - value).norm() <= 0.02 * value.norm(), name


def _steps(folder: Path) -> list[tuple[str, int]]:
    """(stage, step) of every loss recorded so far."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("}") and '"loss"' in line]
    return [(record["stage"], record["step"]) for record in whole]


def _wait(reached: Callable[[], object], process: subprocess.Popen, pause: float = 0.02) -> None:
    deadline = time.monotonic() + 600
    while not reached():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the run stands still"
        time.sleep(pause)


def _rank(launcher: int, rank: int) -> int:
    """The process of `rank` among the children of torchrun."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if f"\0LOCAL_RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text():
            return int(child)
    raise LookupError(rank)


def _weights(folder: Path, other: Path) -> list[str]:
    """Names of tensors that differ in any stage's weights."""
    pairs = ((load_file(f / "checkpoints" / f"{stage}.safetensors") for f in (folder, other)) for stage in STAGES)
    return [name for ours, theirs in pairs for name in theirs if not torch.equal(ours[name], theirs[name])]


pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
