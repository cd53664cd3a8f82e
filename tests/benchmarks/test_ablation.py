"""Test the ablation grid: rows differ by their switch alone, statistics, and a grid resumes where it stopped."""

import csv
import json
import shutil
from pathlib import Path

import ablation
import pytest
import yaml

from gcl_fast.command_line import parse
from gcl_fast.settings import PUBLISHED, to_dict
from lib import reporting


@pytest.fixture
def trained(monkeypatch):
    """Replace train.py by a function that leaves a run's files and records its calls; rows in `.fails` fail."""

    def train(arguments):
        take = {flag: arguments[arguments.index(flag) + 1] for flag in ("--seed", "--runs", "--name")}
        stages = [a for a in arguments if a in ("warmup", "generative", "joint")]
        train.calls.append((take["--name"], stages, arguments[arguments.index("--set") + 1 :]))
        if any(take["--name"].startswith(name) for name in train.fails):
            return 2
        folder = Path(take["--runs"]) / take["--name"]
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(parse(arguments)[0])))
        gain = {"full": 0.1, "no-fea": 0.05}.get(take["--name"][:6].rstrip("-s"), 0.0)
        metrics = {"mAP": 0.5 + 0.1 * int(take["--seed"]) + gain, "rank1": 0.9, "ssim": 0.3}
        measured = {stage: metrics for stage in stages}
        if "generative" in stages and "warmup" in stages:
            measured["warmup"] = {"mAP": metrics["mAP"] - 0.2, "rank1": 0.7}
        (folder / "summary.json").write_text(json.dumps({"stages": measured}))
        return 0

    train.calls, train.fails = [], ()
    monkeypatch.setattr("gcl_fast.train.main", train)
    return train


def grid(trained, tmp_path, *rows, flags=()):
    rows = rows or ("no feature loss", "outliers embedded anew")
    flags = ["--seeds", "0", "1", "--out", str(tmp_path), "--measured", str(tmp_path / "measured.csv"), *flags]
    return ablation.main(["--rows", *rows, *flags])


def run_of(folder, name):
    (found,) = folder.glob(f"runs*/{name}")
    return found


def lines_of(folder):
    with (folder / "ablation.csv").open(newline="") as file:
        return {line["row"]: line for line in csv.DictReader(file)}


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
    assert trained.calls[2][2] == ["dataset=synthetic", *PUBLISHED, "generative.weights.feature=0"]
    trained.fails, trained.calls[:] = (), []
    assert grid(trained, tmp_path) == 0
    assert [name for name, *_ in trained.calls] == [
        "outliers-embedded-anew-seed0", "base-seed1", "full-seed1", "no-feature-loss-seed1",
        "outliers-embedded-anew-seed1",
    ]  # fmt: skip


def test_table_and_plot(trained, tmp_path, capsys):
    assert grid(trained, tmp_path) == 0
    lines = lines_of(tmp_path)
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
    path = run_of(tmp_path, "outliers-embedded-anew-seed0") / "config.yaml"
    path.write_text(path.read_text().replace("decay: all", "decay: identity"))
    measured = tmp_path / "measured.csv"
    kept = [line for line in measured.read_text().splitlines(True) if "outliers embedded anew" not in line]
    measured.write_text("".join(kept))
    shutil.rmtree(run_of(tmp_path, "full-seed0"))  # what the full row sets is known without training it
    with pytest.raises(RuntimeError, match=r"differs from the full row by .*'joint.decay: all -> identity'"):
        grid(trained, tmp_path)


def test_what_is_gained_over_each_warm_up_and_by_warming_up_for_as_long(trained, tmp_path):
    rows = ["camera proxies, warm-up alone (CAP)", "GCL over JVTC", "JVTC for as long", "cluster warm-up for as long"]
    assert grid(trained, tmp_path, *rows, "MMCL for as long", "mixup (GCL+)") == 0
    made = {name.removesuffix("-seed0"): (stages, more) for name, stages, more in trained.calls if "seed0" in name}
    every = ["warmup", "generative", "joint"]
    assert made["mixup-GCL"] == (["joint"], ["dataset=synthetic", *PUBLISHED, "generative.weights.mixup=1"])
    assert made["camera-proxies-warm-up-alone-CAP"] == (
        every[:1],
        ["dataset=synthetic", *PUBLISHED, "warmup.memory=cameras"],
    )
    assert made["GCL-over-JVTC"] == (every, ["dataset=synthetic", *PUBLISHED])
    assert made["JVTC-for-as-long"][0] == ["warmup"]
    for name, method in (("GCL-over-JVTC", "jvtc"), ("MMCL-for-as-long", "mmcl"), ("full", "cluster")):
        settings = yaml.safe_load((run_of(tmp_path, f"{name}-seed1") / "config.yaml").read_text())
        assert settings["warmup"]["method"] == method
        assert bool(settings["init"]) == (name == "full")
    lines = lines_of(tmp_path)
    gains = {row: line["over_warmup"] for row, line in lines.items()}
    assert gains["warm-up alone"] == gains["MMCL for as long"] == ""  # of MMCL's warm-up nothing is known
    # Base's warm-up 0.3, the full row 0.6; the other rows 0.5, their own warm-ups 0.3
    assert float(gains["full"]) == pytest.approx(0.3)
    assert [float(gains[row]) for row in rows] == pytest.approx([0.2] * 4)
    assert lines["JVTC for as long"]["switch"].startswith("--warmup jvtc warmup.epochs=14")


def test_what_was_measured_elsewhere_with_the_same_settings_is_not_trained_again(trained, tmp_path):
    assert grid(trained, tmp_path, flags=["--set", "joint.epochs=1"]) == 0
    shutil.rmtree(run_of(tmp_path, "full-seed0").parent)
    trained.calls.clear()
    rows = ("no feature loss", "cluster warm-up for as long")
    assert grid(trained, tmp_path, *rows, flags=["--set", "joint.epochs=1"]) == 0
    assert [(name, more[1:]) for name, _, more in trained.calls if "seed0" in name] == [
        ("base-seed0", [*PUBLISHED, "joint.epochs=1"]),
        ("cluster-warm-up-for-as-long-seed0", [*PUBLISHED, "joint.epochs=1", "warmup.epochs=12"]),
    ]
    assert lines_of(tmp_path)["no feature loss"]["mAP_of_seeds"] == "0:0.5500 1:0.6500"
    trained.calls.clear()
    assert grid(trained, tmp_path, *rows) == 0
    assert [name for name, *_ in trained.calls if "full" in name] == ["full-seed0", "full-seed1"]


def test_rows_of_another_arithmetic_count_where_there_are_no_others(trained, tmp_path, monkeypatch):
    here, one = reporting.facts(), ["--seeds", "0", "--set", "joint.epochs=1"]
    monkeypatch.setattr(ablation, "draw", lambda *_: None)
    for word, machine, rows in (("", "with bfloat16", ["no feature loss"]), ("float32", "without", ["no image loss"])):
        monkeypatch.setattr(ablation, "arithmetic", lambda word=word: word)
        monkeypatch.setattr(reporting, "facts", lambda *_, machine=machine: here | {"machine": machine})
        assert grid(trained, tmp_path, "no feature loss", *rows, flags=one) == 0
    assert [name for name, *_ in trained.calls[3:]] == ["base-seed0", "full-seed0", "no-image-loss-seed0"]
    measured = tmp_path / "measured.csv"
    text = measured.read_text()
    assert "joint.epochs=1,full,0,0.6" in text
    assert "joint.epochs=1 float32,full,0,0.6" in text
    measured.write_text(text.replace("float32,full,0,0.6,", "float32,full,0,0.9,"))
    assert grid(trained, tmp_path, "no image loss", flags=one) == 0
    lines = lines_of(tmp_path)
    assert (lines["full"]["seeds"], float(lines["full"]["mAP"])) == ("1", 0.6)
    gains = {row: float(lines[row]["gain"]) for row in ("no feature loss", "no image loss")}
    assert gains == pytest.approx({"no feature loss": -0.05, "no image loss": 0.5 - 0.9})


def test_rows_are_paired_with_full_rows_of_their_own_commit(trained, tmp_path, monkeypatch):
    here, there = reporting.facts(), reporting.facts() | {"commit": "another"}
    monkeypatch.setattr(ablation, "draw", lambda *_: None)
    monkeypatch.setattr(reporting, "facts", lambda *_: there)
    one = ["--seeds", "0"]
    assert grid(trained, tmp_path, "no feature loss", flags=one) == 0
    trained.calls.clear()
    monkeypatch.setattr(reporting, "facts", lambda *_: here)
    assert grid(trained, tmp_path, "no feature loss", flags=one) == 0
    assert trained.calls == []  # nothing was missing
    assert grid(trained, tmp_path, "no feature loss", "no image loss", flags=one) == 0
    assert [name for name, *_ in trained.calls] == ["base-seed0", "full-seed0", "no-image-loss-seed0"]
    measured = tmp_path / "measured.csv"
    lines = measured.read_text().splitlines(True)
    better = [line.replace(",full,0,0.6,", ",full,0,0.8,") if "another" in line else line for line in lines]
    measured.write_text("".join(better).replace("another", "another-dirty", 1))
    assert grid(trained, tmp_path, "no image loss", flags=one) == 0
    gains = {row: float(line["gain"]) for row, line in lines_of(tmp_path).items() if line["gain"]}
    assert gains == pytest.approx({"warm-up alone": 0.3 - 0.8, "no feature loss": 0.55 - 0.8, "no image loss": -0.1})


def test_the_authors_runs_are_read_when_they_are_named(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "draw", lambda *_: None)
    assert ablation.main(["--rows", "no feature loss", "--seeds", "0", "--out", str(tmp_path)]) == 0
    assert len(trained.calls) == 3
    found = lines_of(tmp_path)
    assert found["full"]["seeds"] == "1"
    assert not {"commit", "threads"} & found["full"].keys()  # of many runs: they stand with each in measured.csv
    assert (tmp_path / "measured.csv").is_file()
    authors = Path(ablation.__file__).parent / "results" / "ablation_runs.csv"
    lines = {line["row"]: line for line in ablation.table(ablation.Grid(tmp_path, "", [], authors))}
    assert lines["full"]["seeds"] == 3
    assert lines["no view-invariant loss"]["gain"] == pytest.approx(-0.05693)


def test_every_row_differs_in_its_own_way():
    grid = ablation.Grid(Path(), "", [], Path("measured.csv"))
    seen = [(to_dict(parse(grid.settings_of(plan))[0]), plan.stages) for plan in ablation.ROWS.values()]
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])
    for row, plan in ablation.ROWS.items():
        if plan.stages != ("warmup",) and plan.warmup == "cluster":
            assert len(plan.switch.split()) == (row != ablation.FULL)
    names = [ablation.folder_of(row) for row in ablation.ROWS]
    assert len(set(names)) == len(names)
