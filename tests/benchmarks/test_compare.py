"""Test what counts as a regression, and which plots are drawn of a results file."""

import csv

import pytest
from plot import bars, main, newest

from lib.compare import read, regressions

MACHINE = "a machine"


def row(median, part="ranking", size=100, contender="ours", low=None, **more):
    return {
        "date": "2026-01-01T00:00:00+00:00", "commit": "abc", "machine": MACHINE, "threads": 2, "torch": "2",
        "device": "cpu", "part": part, "size": size, "unit": "rows", "contender": contender,
        "min_ms": low or median * 0.99, "median_ms": median, "max_ms": median * 1.2, **more,
    }  # fmt: skip


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "run.csv"
    rows = [row(99.0), row(10.0), row(35.0, contender="sorting"), row(40.0, size=400), row(7.0, part="loader")]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_slower_beyond_the_noise_is_listed(results):
    earlier = read(results)
    assert regressions([row(10.9)], earlier, MACHINE) == (1, [])
    compared, slower = regressions([row(11.5), row(30.0, part="new")], earlier, MACHINE)
    assert compared == 1
    assert len(slower) == 1
    assert "ranking (100), ours: 10.000 ms" in slower[0]  # against the newest row, not the first
    assert "+15%" in slower[0]


def test_noise_of_either_run_excuses(results):
    assert regressions([row(11.5, low=10.0)], read(results), MACHINE) == (1, [])
    noisy = [row(10.0, low=8.0)]
    assert regressions([row(13.0)], noisy, MACHINE) == (1, [])
    assert len(regressions([row(15.0)], noisy, MACHINE)[1]) == 1


def test_other_machines_are_not_compared(results):
    assert regressions([row(99.0)], read(results), "another") == (0, [])


def test_plots_show_the_newest_rows(results, tmp_path, capsys):
    assert main(["--csv", str(results), "--out", str(tmp_path / "plots")]) == 0
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["bars.png", "scaling.png"]
    panels = bars(newest(read(results))).axes
    assert [axes.get_title() for axes in panels] == ["ranking (100 rows)", "loader (100 rows)"]
    assert [text.get_text() for text in panels[0].texts] == [" 10 ms", " 35 ms, 3.5x"]  # 99 would make it 0.35x
    assert main(["--csv", str(tmp_path / "none.csv")]) == 2
    with pytest.raises(ValueError, match="no row of machine 'H100'"):
        newest(read(results), "H100")
