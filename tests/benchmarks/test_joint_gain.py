"""The benchmark of the joint stage's gain: what it trains, for how long, and that it goes on where it stopped."""

import csv
import json
from itertools import pairwise
from pathlib import Path

import joint_gain
import pytest

SECONDS = {"warmup": 100.0, "generative": 60.0, "joint": 90.0}


@pytest.fixture
def trained(monkeypatch):
    """Replace training by runs that take SECONDS (a longer warm-up: by its epochs); returns the commands."""
    commands, refuse = [], {}

    def train(flags):
        value = dict(pairwise(flags))
        stages = [stage for stage in SECONDS if stage in flags]
        epochs = int(next(f for f in flags if f.startswith("warmup.epochs=")).partition("=")[2])
        commands.append((value["--name"], stages, epochs, value.get("--init")))
        if value["--name"] in refuse:
            return refuse[value["--name"]]
        folder = Path(value["--runs"]) / value["--name"]
        folder.mkdir(parents=True, exist_ok=True)
        seconds = SECONDS | {"warmup": 10.0 * epochs}
        summary = {
            stage: {"mAP": 0.5 + epochs / 1000, "steps": 50 * epochs, "seconds": seconds[stage]} for stage in stages
        }
        (folder / "summary.json").write_text(json.dumps({"stages": summary}))
        return 0

    monkeypatch.setattr("gcl_fast.train.main", train)
    return commands, refuse


def run(tmp_path, *flags):
    return joint_gain.main(["--out", str(tmp_path), "--seeds", "0", "--warmups", "500", *flags])


def test_more_warm_up_takes_the_seconds_of_gcl(trained, tmp_path, capsys):
    commands, _ = trained
    assert run(tmp_path) == 0
    assert [(name, stages, epochs) for name, stages, epochs, _ in commands] == [
        ("warmup", ["warmup"], 10),
        ("gcl", ["generative", "joint"], 10),
        ("more", ["warmup"], 25),  # 100 s and 60 + 90 s more, at 10 s an epoch
    ]
    assert commands[1][3].endswith("seed0-warmup500/warmup/checkpoints/warmup.safetensors")
    with (tmp_path / "joint_gain.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["gcl_seconds"], row["more_seconds"], row["more_steps"]) == ("150", "150", "1250")
    assert (tmp_path / "joint_gain.png").is_file()
    assert "51.0" in capsys.readouterr().out


def test_what_was_measured_is_not_trained_again(trained, tmp_path):
    commands, _ = trained
    assert run(tmp_path) == 0
    assert run(tmp_path) == 0
    assert len(commands) == 3
    assert run(tmp_path, "--set", "height=64") == 0
    assert len(commands) == 6  # other settings
    assert len(list(csv.DictReader((tmp_path / "joint_gain.csv").open()))) == 2


@pytest.mark.parametrize(("status", "ends"), [(1, 1), (130, 130)])
def test_a_run_that_ends_early_is_gone_on_with(trained, tmp_path, status, ends):
    commands, refuse = trained
    refuse["gcl"] = status
    assert run(tmp_path) == ends
    assert not (tmp_path / "joint_gain.csv").exists()
    refuse.clear()
    assert run(tmp_path) == 0
    assert [name for name, *_ in commands] == ["warmup", "gcl", "gcl", "more"]


def test_a_length_that_is_no_epoch_is_refused(trained, tmp_path, capsys):
    with pytest.raises(SystemExit):
        joint_gain.main(["--out", str(tmp_path), "--warmups", "70"])
    assert "expected a multiple of 50" in capsys.readouterr().err
