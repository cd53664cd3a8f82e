"""The ablation grid: rows by their switch alone, statistics, and a grid that goes on where it was."""

import csv
import json

import ablation
import pytest
import yaml

from gcl_fast.config import override, preset, to_dict


@pytest.fixture
def trained(monkeypatch):
    """Stands in for train.py: leaves what a run leaves, and notes its calls. Rows named in `.fails` fail."""

    def train(arguments):
        take = {flag: arguments[arguments.index(flag) + 1] for flag in ("--seed", "--runs", "--name")}
        stages = [a for a in arguments if a in ("warmup", "generative", "joint")]
        train.calls.append((take["--name"], stages, arguments[arguments.index("--set") + 1 :]))
        if any(take["--name"].startswith(name) for name in train.fails):
            return 2
        folder = train.folder / "runs" / take["--name"]
        folder.mkdir(parents=True)
        settings = to_dict(override(preset("demo"), arguments[arguments.index("--set") + 1 :]))
        (folder / "config.yaml").write_text(yaml.safe_dump({**settings, "name": take["--name"]}))
        gain = {"full": 0.1, "no-fea": 0.05}.get(take["--name"][:6].rstrip("-s"), 0.0)
        metrics = {"mAP": 0.5 + 0.1 * int(take["--seed"]) + gain, "rank1": 0.9, "ssim": 0.3}
        (folder / "summary.json").write_text(json.dumps({"stages": {stage: metrics for stage in stages}}))
        return 0

    train.calls, train.fails = [], ()
    monkeypatch.setattr("gcl_fast.train.main", train)
    return train


def grid(trained, tmp_path, *more):
    trained.folder = tmp_path
    return ablation.main(
        ["--rows", "no feature loss", "outliers embedded anew", "--seeds", "0", "1", "--out", str(tmp_path), *more]
    )


def test_rows_train_what_their_switch_reaches_and_nothing_twice(trained, tmp_path, capsys):
    trained.fails = ("outliers", "base-seed1")
    assert grid(trained, tmp_path) == 1
    assert "not trained to the end: outliers embedded anew, seed 0; full, seed 1;" in capsys.readouterr().err
    assert [(name, stages) for name, stages, _ in trained.calls] == [
        ("base-seed0", ["warmup", "generative"]),
        ("full-seed0", ["joint"]),
        ("no-feature-loss-seed0", ["generative", "joint"]),
        ("outliers-embedded-anew-seed0", ["joint"]),
        ("base-seed1", ["warmup", "generative"]),
    ]
    assert trained.calls[2][2] == ["dataset=synthetic", "generative.weights.feature=0"]
    trained.fails, trained.calls[:] = (), []
    assert grid(trained, tmp_path) == 0
    assert [name for name, *_ in trained.calls] == [
        "outliers-embedded-anew-seed0", "base-seed1", "full-seed1", "no-feature-loss-seed1",
        "outliers-embedded-anew-seed1",
    ]  # fmt: skip


def test_table_and_picture(trained, tmp_path, capsys):
    assert grid(trained, tmp_path) == 0
    with (tmp_path / "ablation.csv").open(newline="") as file:
        lines = {line["row"]: line for line in csv.DictReader(file)}
    assert list(lines) == ["warm-up alone", "full", "no feature loss", "outliers embedded anew"]
    # Of 0.6 and 0.7: half-width t(0.975, 1) * 0.0707 / sqrt(2); paired by seed, the gain has no spread.
    full, without = lines["full"], lines["no feature loss"]
    assert float(full["mAP"]) == pytest.approx(0.65)
    assert float(full["mAP_half"]) == pytest.approx(12.7062 * 0.05, rel=1e-4)
    assert full["gain"] == ""
    assert (float(without["gain"]), float(without["gain_half"])) == pytest.approx((-0.05, 0))
    assert without["switch"] == "generative.weights.feature=0"
    assert "65.0 ± 63.5" in capsys.readouterr().out
    assert (tmp_path / "ablation.png").stat().st_size > 10_000


def test_a_row_that_differs_by_more_is_refused(trained, tmp_path):
    assert grid(trained, tmp_path) == 0
    path = tmp_path / "runs" / "outliers-embedded-anew-seed0" / "config.yaml"
    path.write_text(path.read_text().replace("refresh_outliers: true", "refresh_outliers: true\n  decay: code"))
    with pytest.raises(RuntimeError, match=r"differs from the full row by .*'joint.decay': 'code'"):
        grid(trained, tmp_path)


def test_every_row_is_one_switch_of_the_settings():
    base = preset("demo")
    seen = [to_dict(override(base, list(switch))) for switch in ablation.ROWS.values()]
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])
    for row, switch in ablation.ROWS.items():
        assert len(switch) == (row != ablation.FULL)
    names = [ablation.folder_of(row, 0) for row in ablation.ROWS]
    assert len(set(names)) == len(names)
