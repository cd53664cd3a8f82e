"""The benchmark of the pretrained start: equal seconds for both networks, and that it goes on where it stopped."""

import csv
import json
from itertools import pairwise
from pathlib import Path

import pretrained_start
import pytest

SECONDS = {"random": 10.0, "packaged": 24.0}  # of an epoch


@pytest.fixture
def trained(monkeypatch):
    """Replace training by runs whose epochs take SECONDS; returns the commands, and statuses by the name of a run."""
    commands, refuse = [], {}

    def train(flags):
        value = dict(pairwise(flags))
        epochs = int(next(flag for flag in flags if flag.startswith("warmup.epochs=")).partition("=")[2])
        commands.append((value["--name"], value.get("--init"), epochs, flags))
        if value["--name"] in refuse:
            return refuse[value["--name"]]
        folder = Path(value["--runs"]) / value["--name"]
        folder.mkdir(parents=True, exist_ok=True)
        seconds = SECONDS["packaged" if "--init" in flags else "random"] * epochs
        metrics = {"mAP": 0.5 + epochs / 1000, "rank1": 0.6, "steps": 50 * epochs, "seconds": seconds}
        summary = {"initial": {"mAP": 0.1}, "stages": {"warmup": metrics}}
        (folder / "summary.json").write_text(json.dumps(summary))
        return 0

    monkeypatch.setattr("gcl_fast.train.main", train)
    return commands, refuse


def run(tmp_path, *flags):
    return pretrained_start.main(["--out", str(tmp_path), "--seeds", "0", *flags])


def rows(tmp_path):
    with (tmp_path / "pretrained_start.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_both_starts_take_the_same_seconds(trained, tmp_path, capsys):
    commands, _ = trained
    assert run(tmp_path) == 0
    assert [command[:3] for command in commands] == [
        ("random", None, 10),
        ("pilot", "package", 1),
        ("packaged", "package", 4),  # 100 s at 24 s an epoch
    ]
    assert {"warmup.lr=3.5e-4", "warmup.colours=false", "height=128", "width=64"} <= {*commands[2][3]}
    (row,) = rows(tmp_path)
    assert (row["random_seconds"], row["packaged_seconds"], row["packaged_steps"]) == ("100.0", "96.0", "200")
    assert "-0.6" in capsys.readouterr().out  # the gain


def test_what_was_measured_is_not_trained_again(trained, tmp_path):
    commands, _ = trained
    for flags, count in (((), 3), ((), 3), (("--sizes", "128x64", "256x128"), 6), (("--epochs", "2"), 9)):
        assert run(tmp_path, *flags) == 0
        assert len(commands) == count
    assert [row["height"] for row in rows(tmp_path)] == ["128", "256", "128"]


@pytest.mark.parametrize(("status", "ends"), [(1, 1), (130, 130)])
def test_a_run_that_ends_early_is_gone_on_with(trained, tmp_path, status, ends):
    commands, refuse = trained
    refuse["packaged"] = status
    assert run(tmp_path) == ends
    assert not (tmp_path / "pretrained_start.csv").exists()
    refuse.clear()
    assert run(tmp_path) == 0
    assert [name for name, *_ in commands] == ["random", "pilot", "packaged", "packaged"]
