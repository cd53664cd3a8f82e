"""Test measuring, and the file that the figures go to."""

import time

import pytest
import torch

from lib.compare import read
from lib.reporting import append, facts, measure_all


def test_measures_time_memory_and_turns():
    calls = []

    def work(name, seconds):
        calls.append(name)
        time.sleep(seconds)

    measured = measure_all({"slow": lambda: work("slow", 0.02), "fast": lambda: work("fast", 0.002)}, 4)
    assert 0.02 <= measured["slow"]["min"] <= measured["slow"]["median"] <= measured["slow"]["max"]
    assert measured["fast"]["median"] < measured["slow"]["min"]
    assert calls[6:] == ["slow", "fast"] * 4
    assert measure_all({"x": lambda: time.sleep(0.01)}, 50, seconds=0.0)["x"]["repeats"] == 3


def test_peak_memory_is_that_of_the_call():
    measured = measure_all({"big": lambda: torch.ones(2**24), "small": lambda: torch.ones(2**10)}, 3)
    assert measured["big"]["peak_mb"] == pytest.approx(64, abs=8)
    assert measured["small"]["peak_mb"] < 8


def test_rows_carry_the_machine_and_never_mix_columns(tmp_path):
    path = tmp_path / "results" / "it.csv"
    append(path, [{"part": "a", "min_ms": 1.5}])
    append(path, [{"part": "b", "min_ms": 2.5}])
    rows = read(path)
    assert [(row["part"], row["min_ms"]) for row in rows] == [("a", "1.5"), ("b", "2.5")]
    assert rows[0]["torch"] == torch.__version__
    assert all(rows[0][key] for key in ("date", "commit", "machine", "threads"))
    with pytest.raises(ValueError, match="other columns"):
        append(path, [{"part": "a", "seconds": 1.5}])
    assert len(read(path)) == 2


def test_without_git_the_commit_is_unknown(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert facts()["commit"] == "unknown"
