"""Train the runs of a benchmark, each once: a finished run is read, and one that was stopped resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def train_once(
    folder: Path, name: str, seed: int, data_root: str | Path, stages: list[str], *flags: str, settings: list[str]
) -> dict[str, Any] | None:
    """Train a run on the embedded dataset, or what is left of it, and return the metrics of its stages.

    Args:
        folder: of the runs.
        name: of this run.
        seed: of the run.
        data_root: of the embedded dataset, made when missing.
        stages: those to train, in order.
        flags: more flags of `gcl-fast train`.
        settings: KEY=VALUE for its `--set`.

    Returns:
        Metrics by stage, as summary.json has them; None where the run failed.

    Raises:
        KeyboardInterrupt: the run was interrupted.
    """
    from gcl_fast.train import main as train

    summary = folder / name / "summary.json"
    measured = json.loads(summary.read_text())["stages"] if summary.is_file() else {}
    if stages[-1] not in measured:
        print(f"\n{folder.name}: {name}", flush=True)
        command = ["--amp", "--resume", "--seed", str(seed), "--runs", str(folder), "--name", name]
        command += ["--data-root", str(data_root), "--stages", *stages, *flags, "--set", "dataset=synthetic"]
        status = train([*command, *settings])
        if status == 130:
            raise KeyboardInterrupt
        if status:
            return None
        measured = json.loads(summary.read_text())["stages"]
    return measured
