"""The benchmark of estimated bodies: which bodies each run trains on, and that it goes on where it stopped."""

import csv
import json
from itertools import pairwise
from pathlib import Path

import estimated_bodies
import numpy as np
import pytest

from gcl_fast.bodies import load_body_parameters

SSIM = {"true": 0.5, "estimated": 0.4}


@pytest.fixture
def trained(monkeypatch, world):
    """Replace training by runs that note their data; the world is the tiny one. Returns (name, stages, yaws) by run."""
    runs = []

    def train(flags):
        value = dict(pairwise(flags))
        name = value["--name"]
        stages = [stage for stage in ("warmup", "generative", "joint") if stage in flags]
        yaws = load_body_parameters(Path(value["--data-root"]) / "body_parameters" / "query.npz").yaw
        runs.append((name, stages, yaws))
        folder = Path(value["--runs"]) / name
        folder.mkdir(parents=True, exist_ok=True)
        summary = {stage: {"mAP": 0.8, "ssim": SSIM.get(name, 0)} for stage in stages}
        (folder / "summary.json").write_text(json.dumps({"stages": summary}))
        return 0

    monkeypatch.setattr("gcl_fast.train.main", train)
    monkeypatch.setattr("gcl_fast.synthetic.make_world", lambda root, config: Path(root))
    return runs


def test_both_runs_go_on_from_one_warm_up_and_differ_in_their_bodies(trained, tmp_path, world, capsys):
    flags = ["--seeds", "3", "--out", str(tmp_path), "--data-root", str(world)]
    assert estimated_bodies.main(flags) == 0
    assert [(name, stages) for name, stages, _ in trained] == [
        ("warmup", ["warmup"]), ("true", ["generative", "joint"]), ("estimated", ["generative", "joint"]),
    ]  # fmt: skip
    truth = load_body_parameters(world / "body_parameters" / "query.npz").yaw
    assert np.array_equal(trained[1][2], truth)
    assert not np.array_equal(trained[2][2], truth)
    with (tmp_path / "estimated_bodies.csv").open(newline="") as file:
        rows = [(row["seed"], row["bodies"], row["ssim_joint"]) for row in csv.DictReader(file)]
    assert rows == [("3", "true", "0.5"), ("3", "estimated", "0.4")]
    assert "estimated" in capsys.readouterr().out
    assert estimated_bodies.main(flags) == 0
    assert len(trained) == 3  # what was measured is not trained again
