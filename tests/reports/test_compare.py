"""The comparison has the means, intervals and cells of hand-made runs, in three forms, and refuses what is no run."""

import json
from pathlib import Path

import numpy as np
import pytest
from pages import HOSTILE, Page
from written_runs import METRICS, write_run

from gcl_fast import compare


@pytest.fixture
def seeds(tmp_path):
    """Three runs of equal settings, with mAP 0.5, 0.6 and 0.7, and one of other settings."""
    for seed in range(3):
        results = {"warmup": METRICS | {"mAP": 0.5 + seed / 10}}
        write_run(tmp_path / f"seed{seed}", f"seed={seed}", f"name=s{seed}", "stages=[warmup]", results=results)
    write_run(tmp_path / "longer", "warmup.epochs=99", "stages=[warmup]", results={"warmup": {"mAP": 0.9, "ssim": 0.1}})
    return [str(tmp_path / name) for name in ("seed0", "seed1", "seed2", "longer")]


def rows(text, title):
    """The cells of a table in Markdown."""
    lines = text.split(f"### {title}\n\n")[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("| ---")]


def test_metrics_settings_and_seeds(seeds, capsys):
    assert compare.main([*seeds, "--format", "markdown"]) == 0
    text = capsys.readouterr().out
    assert rows(text, "Metrics") == [
        ["stage", "run", "mAP", "rank1", "ssim", "seconds", "steps"],
        *(["warmup", f"seed{seed}", f"{50 + 10 * seed}.0", "75.0", "–", "12", "30"] for seed in range(3)),
        ["warmup", "longer", "90.0", "–", "10.0", "–", "–"],
    ]
    assert rows(text, "Settings that differ") == [
        ["name", "seed0", "seed1", "seed2", "longer"],
        ["seed", "0", "1", "2", "0"],
        ["warmup.epochs", "10", "10", "10", "99"],
    ]
    # 4.303: the 97.5 % quantile of Student's t with 2 degrees of freedom
    half = 4.303 * np.std([50, 60, 70], ddof=1) / 3**0.5
    assert rows(text, "Over seeds")[1] == [
        *("warmup", "seed0 and 2 more", "0, 1, 2", f"60.0 ± {half:.1f}", "75.0 ± 0.0", "–", "12 ± 0", "30 ± 0")
    ]
    assert "tested on" not in text  # one dataset


def test_environments_that_differ(seeds, tmp_path, capsys):
    for run, torch, commit in zip(seeds, ("2.14", "2.11"), ("abc", "abc")):
        facts = {"started": run, "commit": commit, "packages": {"torch": torch, "numpy": "2.4"}}
        (Path(run) / "environment.json").write_text(json.dumps([{"commit": "earlier"}, facts]))
    assert compare.main([*seeds[:2], "--format", "markdown"]) == 0
    expected = [["name", "seed0", "seed1"], ["packages.torch", "2.14", "2.11"]]
    assert rows(capsys.readouterr().out, "Environments that differ") == expected
    assert compare.main([*seeds[:3], "--format", "markdown"]) == 0
    assert ["commit", "abc", "abc", "–"] in rows(capsys.readouterr().out, "Environments that differ")


def test_a_seed_that_occurs_twice_is_no_sample(seeds, tmp_path, capsys):
    write_run(tmp_path / "again", "stages=[warmup]", "seed=0", results={"warmup": METRICS})
    assert compare.main([*seeds[:2], str(tmp_path / "again")]) == 0
    assert (
        "Left out, as a seed occurs twice with the same settings: seed0 and seed1 and again" in capsys.readouterr().out
    )


def test_the_matrix_has_each_pair_of_datasets(tmp_path, capsys):
    def sourced(name, target, *settings, only, test, end):
        results = {
            "source": {"mAP": 0.99, "source_only": {"mAP": only}, "source_test": {"mAP": test}},
            "joint": {"mAP": end},
        }
        source = "source={dataset: msmt17, root: x}"
        write_run(tmp_path / name, f"dataset={target}", source, "stages=[source, joint]", *settings, results=results)
        return str(tmp_path / name)

    runs = [
        sourced("a", "market1501", only=0.3, test=0.8, end=0.6),
        sourced("b", "market1501", "seed=1", only=0.4, test=0.8, end=0.7),
        sourced("c", "dukemtmc", only=0.2, test=0.81, end=0.5),
        str(write_run(tmp_path / "d", "stages=[joint]", "world.seed=4", results={"joint": {"mAP": 0.95}})),
    ]
    assert compare.main([*runs, "--format", "markdown"]) == 0
    world = "identities 6, cameras 3, crops 2, seed 4"
    half = 12.706 * np.std([30, 40], ddof=1) / 2**0.5
    assert rows(capsys.readouterr().out, "Trained on, tested on") == [
        ["trained on", "msmt17", "market1501", "dukemtmc", f"synthetic ({world})"],
        ["msmt17 with labels", "80.0 ± 0.0 / 81.0", f"35.0 ± {half:.1f}", "20.0", "–"],
        ["msmt17 with labels, then market1501 without labels", "–", f"65.0 ± {half:.1f}", "–", "–"],
        ["msmt17 with labels, then dukemtmc without labels", "–", "–", "50.0", "–"],
        [f"synthetic ({world}) without labels", "–", "–", "–", "95.0"],
    ]


def test_forms_hold_the_same_cells_and_escape_names(tmp_path, capsys):
    names = [f"a|{HOSTILE}", "b"]
    runs = [str(write_run(tmp_path / n, "stages=[warmup]", results={"warmup": METRICS})) for n in names]
    assert compare.main([*runs, "--stages", "warmup"]) == 0
    assert f"warmup  a|{HOSTILE[:40]}"[:40] in capsys.readouterr().out
    for suffix in ("md", "html"):
        assert compare.main([*runs, "--out", str(tmp_path / "new" / f"c.{suffix}")]) == 0
    markdown, html = ((tmp_path / "new" / f"c.{suffix}").read_text() for suffix in ("md", "html"))
    assert "<img" not in markdown + html
    assert r"a\|&lt;img" in markdown
    assert f"a|{HOSTILE} 50.0 75.0 12 30" in Page(html).text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed0"], "alone is no comparison"),
        (["seed0", "seed1/../seed0"], "are the same run"),
        (["seed0", "nowhere"], "no run at"),
        (["seed0", "empty"], "empty has finished no stage yet"),
        (["seed0", "half"], "half has not finished generative, joint; train.py with --resume goes on with it"),
        (["seed0", "seed1", "--stages", "joint"], "seed0 has not finished joint"),
        (["seed0", "seed1", "--stages", "warm"], "--stages warm: there is no such stage"),
        (["seed0", "other"], "is not of this version of gcl_fast"),
        (["seed0", "seed1", "--out", "{folder}"], "a folder"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(seeds, tmp_path, capsys, arguments, message):
    write_run(tmp_path / "empty")
    write_run(tmp_path / "half", results={"warmup": METRICS})
    (write_run(tmp_path / "other", results={"warmup": METRICS}) / "config.yaml").write_text("joint: {colour: 3}")
    paths = [a if a.startswith("--") or a in ("joint", "warm") else str(tmp_path / a) for a in arguments]
    paths = [str(tmp_path) if path.endswith("{folder}") else path for path in paths]
    assert compare.main(paths) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert len(line) < 600


def test_an_unfinished_run_is_compared_by_what_it_has(seeds, tmp_path, capsys):
    write_run(tmp_path / "half", results={"warmup": METRICS})
    assert compare.main([seeds[0], str(tmp_path / "half"), "--stages", "warmup"]) == 0
    assert "half" in capsys.readouterr().out
