"""The benchmark of tracklets: labels of the crops, what it trains, and that it goes on where it stopped."""

import csv
import json
from itertools import pairwise
from pathlib import Path

import pytest
import tracklets

from gcl_fast.settings import WorldConfig
from lib import videos

GAIN = ("+10.0", "±", "0.0")


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Replace the dataset, training and evaluation; return the commands of the trainings."""
    commands, refused = [], []

    def train(flags):
        value = dict(pairwise(flags))
        settings = [flag for flag in flags if flag.startswith("warmup.clustering.")]
        commands.append((value["--name"], *settings))
        if refused:
            return refused.pop()
        folder = Path(value["--runs"]) / value["--name"]
        folder.mkdir(parents=True, exist_ok=True)
        gain = 0.1 * settings[0].endswith("true")
        metrics = {"mAP": 0.4 + gain, "rank1": 0.5, "steps": 500, "seconds": 9.0}
        (folder / "summary.json").write_text(json.dumps({"stages": {"warmup": metrics}}))
        records = [{"clusters": 9, "purity": 0.1, "ari": 0.1, "outliers": 0.1}, {"loss": 1.0}]
        records += [{"clusters": 40, "purity": 0.8 + gain, "ari": 0.7, "outliers": 0.2}, {"loss": 1.0}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        return 0

    def evaluate(flags):
        assert flags[1:] == ["--tracklets", "--json"]
        print(json.dumps({"warmup": {"mAP": 0.6, "rank1": 0.7}}))
        return 0

    monkeypatch.setattr("gcl_fast.train.main", train)
    monkeypatch.setattr("gcl_fast.evaluate.main", evaluate)
    monkeypatch.setattr(tracklets, "make_dataset", lambda *_: tmp_path / "data")
    return commands, refused


def run(tmp_path, *flags):
    return tracklets.main(["--out", str(tmp_path), "--seeds", "0", "1", *flags])


def test_each_seed_is_trained_with_and_without(trained, tmp_path, capsys):
    commands, _ = trained
    assert run(tmp_path) == 0
    off = "warmup.clustering.tracklets=false"
    assert commands == [
        command
        for seed in (0, 1)
        for command in (
            (f"seed{seed}-with", "warmup.clustering.tracklets=true"),
            (f"seed{seed}-without", off),
            (f"seed{seed}-k160", off, "warmup.clustering.k1=60"),
        )
    ]
    with (tmp_path / "tracklets.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert (first["clusters"], first["purity"], first["mAP"], first["tracklet_mAP"]) == ("40", "0.9", "0.5", "0.6")
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert lines["purity"].split() == ["purity", *("90.0", "±", "0.0"), *("80.0", "±", "0.0") * 2, *GAIN * 2]
    assert run(tmp_path) == 0
    assert len(commands) == 6  # nothing is trained again
    assert run(tmp_path, "--every", "3") == 0
    assert len(commands) == 12  # other crops


@pytest.mark.parametrize(("status", "ends"), [(1, 1), (130, 130)])
def test_a_run_that_ends_early_is_gone_on_with(trained, tmp_path, status, ends):
    commands, refused = trained
    refused.append(status)
    assert run(tmp_path) == ends
    assert run(tmp_path) == 0
    assert [name for name, *_ in commands].count("seed0-with") == 2
    assert [name for name, *_ in commands].count("seed1-without") == 1


def test_crops_are_labelled_by_who_is_in_the_video(tmp_path, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.setattr("gcl_fast.synthetic.walks.MOST_FRAMES", 5)
    data = tracklets.make_dataset(tmp_path / "videos", identities=1, cameras=2, visits=2, every=2)
    with (data / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    who = {(row["camera"], row["tracklet"]): (row["split"], row["identity"]) for row in rows}
    assert sorted(who.values()) == sorted(
        2 * [("train", "1")] * 2 + 2 * [("query", "10001")] + 2 * [("gallery", "10001")]
    )
    assert all(Path(row["path"]).is_file() for row in rows)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "videos").glob("camera*")}
    videos.make_video(tmp_path / "videos", WorldConfig(identities=1, cameras=2), 0, 2)
    assert {path: path.stat().st_mtime_ns for path in before} == before
