"""Test what the suite compares itself with, and what its parts run on and are called."""

import sys
from types import SimpleNamespace

import pytest
import ranking
import run
import torch
import train_step

from lib import parts
from lib.ceilings import Ceilings
from lib.compare import read
from lib.parts import Part

CEILINGS = Ceilings(matrix=1e11, convolution=4e11, copy=3e10, dtype="bfloat16")


@pytest.fixture
def suite(monkeypatch, tmp_path):
    """Return a call of the suite with one part that runs on the CPU whatever the device; rows go to tmp_path."""
    part = Part("ranking", 1, "queries", {"ours": lambda: None}, moved=1, device="cpu")
    monkeypatch.setattr(run, "measure_ceilings", lambda device: CEILINGS)
    monkeypatch.setattr(run, "groups", lambda *_: {"ranking": lambda: iter([part])})
    return lambda *flags: run.main(["--only", "ranking", "--repeats", "1", "--csv", str(tmp_path / "run.csv"), *flags])


def test_a_comparison_of_nothing_is_no_success(suite, tmp_path, capsys):
    path = tmp_path / "run.csv"
    assert suite("--against", str(path)) == 2
    assert f"--against {path}: no such file" in capsys.readouterr().err
    assert suite() == 0
    earlier = tmp_path / "earlier.csv"
    earlier.write_text(path.read_text())
    assert suite("--against", str(earlier)) in (0, 1)
    assert "compared 1 of 1" in capsys.readouterr().out
    earlier.write_text(path.read_text().replace(read(path)[0]["machine"], "another"))
    assert suite("--against", str(earlier)) == 2
    assert "nothing to compare with" in (said := capsys.readouterr().err)
    assert "(machines there: another)" in said


def test_what_runs_on_the_cpu_is_not_called_a_gpus(suite, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "facts", lambda device: {"machine": f"a {device}"})
    assert suite("--device", "cuda") == 0
    (row,) = read(tmp_path / "run.csv")
    assert row["device"] == "cpu"
    assert parts.ranking(2, 900).device == "cpu"


def test_clusters_where_the_features_are(monkeypatch):
    placed = parts.embeddings.crops(60, 8)
    here = SimpleNamespace(to=lambda device: placed, numpy=placed.numpy, nbytes=placed.nbytes)
    monkeypatch.setattr(parts.embeddings, "crops", lambda rows, dim: here)
    *_, scan = parts.clustering(60, "cuda", dense=False)
    found = [work() for work in scan.contenders.values()]
    assert torch.equal(*found)


def test_a_peer_without_a_cache_is_called_so(monkeypatch):
    names = ("dali-cpu", "dali-cpu, augmented", "dali-cpu, host cache")
    monkeypatch.setattr(parts.epoch_readers, "write_crops", lambda *_: None)
    monkeypatch.setattr(parts, "open_dataset", lambda *_: SimpleNamespace(train=None))
    monkeypatch.setattr(parts.epoch_readers, "ours", lambda *_, **__: dict.fromkeys(names))
    monkeypatch.setattr(parts.epoch_readers, "peers", lambda *_, **__: {"torchvision, 2 workers": None})
    files, cached = parts.loading(torch.device("cpu"), 64)
    assert list(files.contenders) == ["ours", "torchvision, 2 workers"]
    assert list(cached.contenders) == ["ours", "torchvision, 2 workers, no cache"]


def test_a_plot_names_the_device_of_its_rows(monkeypatch, tmp_path):
    figures = {
        "min": 1.0,
        "median": 1.0,
        "max": 1.0,
        "repeats": 1,
        "tflop": 1,
        "peak_mb": 1,
        "first": 1,
        "convolution": 1,
    }
    drawn = []
    monkeypatch.setattr(train_step, "in_new_process", lambda *_: figures)
    monkeypatch.setattr(train_step, "report", lambda *_: "")
    monkeypatch.setattr(train_step, "draw", lambda rows, *where: drawn.append(where))
    monkeypatch.setattr(sys, "argv", ["train_step.py", "--device", "cuda", "--out", str(tmp_path)])
    assert train_step.main() == 0
    assert drawn == [(tmp_path, "cuda")]


def test_ranking_is_timed_in_turns(monkeypatch):
    calls, reported = [], []
    sort = ranking.by_sorting
    monkeypatch.setattr(ranking, "by_sorting", lambda *a: calls.append("sorting") or sort(*a))
    monkeypatch.setattr(ranking, "rank", lambda *a, rank=ranking.rank: calls.append("ours") or rank(*a))
    monkeypatch.setattr(ranking, "report", lambda name, rows: reported.extend(rows))
    monkeypatch.setattr(ranking, "prepare_process", lambda: None)
    monkeypatch.setattr(sys, "argv", ["ranking.py", "--queries", "9", "--gallery", "90", "--repeats", "3"])
    ranking.main()
    assert calls[-6:] == ["ours", "sorting"] * 3
    assert [row["repeats"] for row in reported] == [3, 3, 3]
