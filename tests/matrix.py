"""Try every torch of the range with every Python: install, build, unit tests, a tiny run of all stages.

    python tests/matrix.py [--torch 2.11 2.14] [--python 3.11 3.13] [--again]     # hours; downloads some GB each

Each pair gets a fresh virtual environment in a scratch folder and a clone of the last commit. The rows go to
docs/versions.csv and, as a table, to docs/versions.md. A pair that was tried at this commit is left out unless --again,
so a command that was stopped goes on. This is no part of the test suite.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # whatever Python runs this, gcl_fast need not be installed

from gcl_fast.atomic import write_atomically  # noqa: E402

TORCH, PYTHON = ("2.11", "2.12", "2.13", "2.14"), ("3.11", "3.12", "3.13")
TABLE = ROOT / "docs" / "versions.csv"
RUNS = ("assessment", "benchmarks", "run", "stages")  # rooms of tests that are mostly whole runs of commands
LIMITS = {"install": 1800, "build": 300, "tests": 2400, "run": 900}  # seconds
UNIT = ["tests", *(f"--ignore=tests/{room}" for room in RUNS)]
PACKAGES = ("torch", "torchvision", "triton", "numpy", "nvidia-dali-cuda130")
COLUMNS = [
    *("python", "torch", "torchvision", "triton", "numpy", "dali", "install", "build", "tests", "all_stages"),
    *("tests_without_dali", "all_stages_without_dali", "commit", "date"),
]
HEAD = """# Versions that were tried

`python tests/matrix.py` wrote this page: for each pair a fresh environment, a build of the C++ ops, the unit tests
(all but the rooms of whole runs: assessment, benchmarks, run, stages), and a tiny run of all stages. Its mAP only
shows that the run went through, since six people say nothing of quality. {machine} A pair that is not listed was not
tried. “Without DALI” repeats the loader's tests and the run after DALI was removed from the environment.

| Python | torch | torchvision | Triton | NumPy | DALI | build | unit tests | all stages | no DALI: tests | run | of |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""


class Failed(Exception):
    """A step that ended with an error, or that ran out of its time."""


def run(step: str, command: list[str], folder: Path, log: Path, **environment: str) -> str:
    """Run a command within its limit, append its output to `log`, and return the output.

    Raises:
        Failed: the status is not 0, or the limit has passed; the message is the last line of the output.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(
            command, cwd=folder, env=variables | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=LIMITS[step],
        )  # fmt: skip
        output, status = done.stdout, done.returncode
    except subprocess.TimeoutExpired as error:
        output, status = (error.stdout or b"").decode(errors="replace"), -1
        output += f"\nended after {LIMITS[step]} s"
    with log.open("a") as file:
        file.write(f"== {' '.join(command)}\n{output}\n")
    if status:
        raise Failed((output.strip().splitlines() or ["no output"])[-1][:200])
    return output


def tests(python: str, source: Path, log: Path, *paths: str) -> str:
    """Run pytest on `paths`; its closing line without the seconds, whether tests failed or not."""
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths]
    try:
        line = run("tests", command, source, log).strip().splitlines()[-1]
    except Failed as failure:
        line = str(failure)
    return re.sub(r" in [\d.]+s.*", "", line.strip("= "))


def all_stages(python: str, source: Path, log: Path, folder: Path) -> str:
    """Train every stage on a world of six people; the mAP at the end and the loader's engine."""
    script = "import json, runpy; print(json.dumps(runpy.run_path('tests/conftest.py')['TINY']))"
    settings = json.loads(run("run", [python, "-c", script], source, log).strip().splitlines()[-1])
    shutil.rmtree(folder, ignore_errors=True)
    torchrun = [python, "-m", "torch.distributed.run", "--standalone", "gcl_fast/train.py"]
    where = [f"data_root={folder / 'world'}", f"runs={folder / 'runs'}", "name=tiny"]
    output = run("run", [*torchrun, *settings, *where], source, log)
    summary = json.loads((folder / "runs" / "tiny" / "summary.json").read_text())
    engine = re.search(r"crops by ([\w-]+)", output)
    return f"{100 * summary['stages']['joint']['mAP']:.1f} % ({engine[1] if engine else 'unknown engine'})"


def try_pair(torch: str, interpreter: str, source: Path, work: Path, log: Path) -> dict[str, str]:
    """Everything about one pair: a row without commit and date; a step that failed holds its last line."""
    row = {name: "" for name in COLUMNS}
    environment = work / "environment"
    shutil.rmtree(environment, ignore_errors=True)
    python = str(environment / "bin" / "python")
    began = time.monotonic()
    try:
        run("install", [interpreter, "-m", "venv", str(environment)], work, log)
        run("install", [python, "-m", "pip", "install", "-q", "-U", "pip"], work, log)
        run("install", [python, "-m", "pip", "install", "-q", f"torch=={torch}.*", "-e", ".[test]"], source, log)
    except Failed as failure:
        return row | {"install": f"failed: {failure}"}
    row["install"] = f"{time.monotonic() - began:.0f} s"
    listed = json.loads(run("install", [python, "-m", "pip", "list", "--format=json"], work, log).splitlines()[-1])
    packages = {package["name"]: package["version"] for package in listed}
    row |= dict(
        zip(("torch", "torchvision", "triton", "numpy", "dali"), (packages.get(name, "none") for name in PACKAGES))
    )
    began = time.monotonic()
    try:
        run("build", [python, "-m", "gcl_fast.csrc.build"], source, log)
        row["build"] = f"{time.monotonic() - began:.0f} s"
        row["tests"] = tests(python, source, log, *UNIT)
        row["all_stages"] = all_stages(python, source, log, work / "run")
        run("install", [python, "-m", "pip", "uninstall", "-q", "-y", "nvidia-dali-cuda130"], work, log)
        row["tests_without_dali"] = tests(python, source, log, "tests/data")
        row["all_stages_without_dali"] = all_stages(python, source, log, work / "run")
    except Failed as failure:
        first = next(name for name in COLUMNS[7:] if not row[name])
        row[first] = f"failed: {failure}"
    return row


def read() -> list[dict[str, str]]:
    """The rows of earlier calls."""
    if not TABLE.exists():
        return []
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def of_pair(row: dict[str, str], torch: str, python: str) -> bool:
    """Whether a row is of torch X.Y and Python X.Y."""
    return row["python"] == python and row["torch"].startswith(f"{torch}.")


def write(rows: list[dict[str, str]]) -> None:
    """Write the rows as CSV and as a page, each whole or not at all."""
    rows.sort(key=lambda row: (row["torch"], row["python"]))
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    machine = f"The machine has {os.cpu_count()} cores of {os.uname().machine} and no GPU."
    shown = [name for name in COLUMNS if name not in ("install", "date")]
    lines = [f"| {' | '.join(row[name] for name in shown)} |" for row in rows]
    page = HEAD.format(machine=machine) + "\n".join(lines) + "\n"
    for path, content in ((TABLE, text.getvalue()), (TABLE.with_suffix(".md"), page)):
        write_atomically(path, lambda file, content=content: file.write(content.encode()))


def main() -> int:
    """Try the pairs that are left; exit status 1 where a step of one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", nargs="+", default=TORCH, metavar="X.Y")
    parser.add_argument("--python", nargs="+", default=PYTHON, metavar="X.Y", help="as python3.11 on PATH")
    parser.add_argument("--again", action="store_true", help="try pairs that were tried at this commit as well")
    parser.add_argument("--log", type=Path, default=Path("matrix.log"), help="the whole output (default: matrix.log)")
    given = parser.parse_args()
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True).strip()
    TABLE.parent.mkdir(exist_ok=True)
    log = given.log.resolve()
    with tempfile.TemporaryDirectory(prefix="gcl_fast-matrix-") as scratch:
        source = Path(scratch) / "source"
        subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(source)], check=True)
        for torch in given.torch:
            for python in given.python:
                rows = [row for row in read() if of_pair(row, torch, python)]
                if any(row["commit"] == commit for row in rows) and not given.again:
                    continue
                interpreter = shutil.which(f"python{python}")
                if interpreter is None:
                    print(f"Python {python}: there is no python{python} on PATH, left out", flush=True)
                    continue
                row = try_pair(torch, interpreter, source, Path(scratch), log)
                row |= {"python": python, "commit": commit, "date": time.strftime("%Y-%m-%d")}
                row["torch"] = row["torch"] or f"{torch}."
                write([*(other for other in read() if not of_pair(other, torch, python)), row])
                print("  ".join(f"{name} {row[name]}" for name in COLUMNS if row[name]), flush=True)
    return int(any("failed" in value for row in read() for value in row.values()))


if __name__ == "__main__":
    sys.exit(main())
