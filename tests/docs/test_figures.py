"""The figures of README and docs come from the result files."""

import csv
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "figures.py"


def figures():
    spec = importlib.util.spec_from_file_location("figures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the pages, the pictures and the result files."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def rewrite(path: Path, change) -> None:
    """Apply `change` to the rows of a CSV."""
    with path.open(newline="") as file:
        rows = change(list(csv.DictReader(file)))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_every_page_shows_what_the_result_files_hold():
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_typed_figure_is_named_and_refused(checkout, capsys):
    page = checkout / "README.md"
    page.write_text(page.read_text().replace("<!-- figure: joint-step -->", "<!-- figure: joint-step -->9"))
    assert figures().main(["--check"], checkout) == 1
    assert capsys.readouterr().out.startswith("README.md: joint-step differs from the result files")
    assert figures().main([], checkout) == 0
    assert page.read_text() == (ROOT / "README.md").read_text()


def test_the_newest_row_of_the_same_machine_class_counts(checkout):
    later = {"date": "2999-01-01", "commit": "abc1234", "mAP": "0.9"}

    def measured_again(rows):
        joint = next(r for r in rows if r["part"] == "joint" and r["seed"] == "0" and "AVX512" in r["machine"])
        other = {**joint, **later, "machine": "another machine", "mAP": "0.1"}
        return [{**joint, **later}, *rows, other]  # the order of the file does not decide

    rewrite(checkout / "benchmarks" / "results" / "demo.csv", measured_again)
    assert figures().main(["--check"], checkout) == 1
    assert figures().main([], checkout) == 0
    assert "| joint | 313 | 90.0 % |" in (checkout / "README.md").read_text()


def test_a_speed_up_is_taken_within_one_run(checkout):
    from_files = figures().Files(checkout)
    before = figures().FIGURES["jaccard"](from_files)

    def ours_alone_again(rows):
        ours = [r for r in rows if r["part"] == "Jaccard, with neighbours" and r["size"] == "1500"][-2]
        assert ours["contender"] == "ours"
        peer = {**ours, "date": "2999-01-01", "contender": "dense definition", "median_ms": "200"}
        return [*rows, {**ours, "date": "2999-01-01", "median_ms": "100"}, peer]

    rewrite(checkout / "benchmarks" / "results" / "run.csv", ours_alone_again)
    assert before != "2x"
    assert figures().FIGURES["jaccard"](figures().Files(checkout)) == "2x"


def test_the_picture_of_speed_ups_is_drawn_again_with_its_figures(checkout, capsys):
    def slower(rows):
        return [{**r, "median_ms": str(2 * float(r["median_ms"]))} if r["contender"] == "ours" else r for r in rows]

    rewrite(checkout / "benchmarks" / "results" / "run.csv", slower)
    assert figures().main(["--check"], checkout) == 1
    assert "docs/images/speed_ups.png differs" in capsys.readouterr().out
    assert figures().main([], checkout) == 0
    assert figures().main(["--check"], checkout) == 0


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("<!-- figure: nothing -->1<!-- end -->", "there is no figure 'nothing'"),
        ("<!-- figures: demo -->", "have no <!-- end -->"),
    ],
)
def test_a_wrong_mark_is_named(checkout, capsys, mark, message):
    (checkout / "docs" / "new.md").write_text(mark)
    assert figures().main([], checkout) == 1
    assert message in capsys.readouterr().err


def test_no_mark_is_unused_and_no_table_is_unshown():
    module = figures()
    shown = {mark["name"] for path in module.pages(ROOT) for mark in module.MARK.finditer(path.read_text())}
    assert shown == module.TABLES.keys() | module.FIGURES.keys()
