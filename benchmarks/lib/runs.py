"""Train the runs of a benchmark, each once: a finished run is read, and one that was stopped resumes."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def train_once(
    folder: Path,
    name: str,
    seed: int,
    data_root: str | Path,
    stages: Sequence[str],
    *flags: str,
    settings: Sequence[str],
    dataset: str = "synthetic",
) -> dict[str, Any] | None:
    """Train a run, or what is left of it, and return its metrics.

    Args:
        folder: of the runs.
        name: of this run.
        seed: of the run.
        data_root: of the dataset; the embedded one is made when missing.
        stages: those to train, in order.
        flags: more flags of `gcl-fast train`.
        settings: KEY=VALUE for its `--set`.
        dataset: as `--dataset` takes it.

    Returns:
        Metrics by stage, and those of `initial`, as summary.json has them; None where the run failed.

    Raises:
        KeyboardInterrupt: the run was interrupted.
    """
    from gcl_fast.train import main as train

    path = folder / name / "summary.json"
    summary = json.loads(path.read_text()) if path.is_file() else {"stages": {}}
    if stages[-1] not in summary["stages"]:
        print(f"\n{folder.name}: {name}", flush=True)
        command = ["--amp", "--resume", "--seed", str(seed), "--runs", str(folder), "--name", name]
        command += ["--data-root", str(data_root), "--stages", *stages, *flags, "--set", f"dataset={dataset}"]
        status = train([*command, *settings])
        if status == 130:
            raise KeyboardInterrupt
        if status:
            return None
        summary = json.loads(path.read_text())
    return {"initial": summary.get("initial"), **summary["stages"]}


def read_rows(path: Path, settings: str | None = None) -> list[Row]:
    """Return the lines of a CSV with numbers as numbers.

    Args:
        path: the file; a missing one has no lines.
        settings: only lines with this text in their column `settings`; None: all lines.
    """
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if settings is None or line["settings"] == settings]
    return [{key: _number(value) for key, value in line.items()} for line in lines]


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
