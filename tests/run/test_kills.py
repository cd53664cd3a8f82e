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
from safetensors.torch import load_file

from gcl_fast.settings import STAGES

KILLS = 20


def test_killed_at_twenty_moments_it_ends_with_the_same_weights(command, differing, tmp_path, trainer):
    plain = trainer.run(command(tmp_path, "plain"))
    assert plain.returncode == 0, plain.stderr
    steps = _steps(tmp_path / "plain")
    folder, chance, during_save, stages = tmp_path / "killed", random.Random(0), 0, []
    arguments = command(tmp_path, "killed", "--resume")
    for kill in range(KILLS):
        further = max(len(_steps(folder)), kill * (len(steps) - 1) // KILLS)  # than ever: it will end
        training = trainer.start(arguments)
        _wait(lambda further=further: len(_steps(folder)) > further, training.pid)
        if kill % 3 == 0:
            _wait(lambda: list((folder / "checkpoints").glob(".step_*.tmp")), training.pid, pause=0.0005)
        else:
            time.sleep(chance.uniform(0, 0.3))
        training.kill()
        assert training.returncode == -signal.SIGKILL
        during_save += bool(list((folder / "checkpoints").glob(".step_*.tmp")))
        stages.append(_steps(folder)[-1][0])
    assert set(stages) == set(STAGES)
    assert during_save
    done = trainer.run(arguments)
    assert done.returncode == 0, done.stderr
    assert differing(folder, tmp_path / "plain") == []
    assert _steps(folder) == steps


def test_a_rank_that_dies_does_not_end_the_run(command, differing, tmp_path):
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
            _wait(lambda stage=stage: (stage, 2) in _steps(folder), process.pid)  # so the first one is saved
            os.kill(_rank(process.pid, rank), signal.SIGKILL)
        assert process.wait(1200) == 0, (tmp_path / "said").read_text()
    finally:
        process.kill()
    assert "resumed: generative at step" in (tmp_path / "said").read_text()
    assert differing(folder, tmp_path / "plain") == []
    # a run that was refused is not resumed by the restart either
    refused = subprocess.run(torchrun("plain"), capture_output=True, text=True, timeout=1200)
    assert refused.returncode != 0
    assert "holds a run already" in refused.stderr
    assert "resumed" not in refused.stdout


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_other_ranks_go_on_with_a_run(command, tmp_path, before, after):
    """The same global batch: the same crops in every step. Killed in the generative stage, in mid-epoch."""

    def by(ranks: int, name: str) -> list[str]:
        python, *arguments = command(tmp_path, name, "--resume", "--stages", "generative")
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        epochs = ["generative.reconstruction_epochs=2", "generative.epochs=3", f"generative.batch={6 // ranks}"]
        return [python, *launcher, *arguments, *epochs]

    process = subprocess.Popen(by(before, "run"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = tmp_path / "run"
    try:
        _wait(lambda: len(_steps(folder)) >= 8, process.pid)  # two steps into the second of three epochs of six
    finally:
        for victim in [_rank(process.pid, rank) for rank in range(before)] if before > 1 else [process.pid]:
            os.kill(victim, signal.SIGKILL)
        process.wait()
    done = subprocess.run(by(after, "run"), capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert f"changed on resuming: generative.batch: {6 // before} -> {6 // after}" in done.stdout
    assert "resumed: generative at step" in done.stdout
    alone = subprocess.run(by(1, "alone"), capture_output=True, text=True, timeout=1200)
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


def _wait(reached: Callable[[], object], process: int, pause: float = 0.02) -> None:
    deadline = time.monotonic() + 600
    while not reached():
        assert _runs(process), "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the run stands still"
        time.sleep(pause)


def _runs(process: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False


def _rank(launcher: int, rank: int) -> int:
    """The process of `rank` among the children of torchrun."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if f"\0LOCAL_RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text():
            return int(child)
    raise LookupError(rank)


pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
