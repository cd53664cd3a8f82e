"""Time the README's first command in a fresh folder: dataset, three stages, their evaluations.

python -m on_gpu.demo --device cuda

On a CPU with the settings of a tiny run, which tries this script.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from on_gpu.commands import TINY, TRAIN
from on_gpu.rows import Row, emit


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    trial = parser.parse_args().device == "cpu"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", str(TRAIN), "--amp"]
    command = [*torchrun, "--device", "cpu", "--set", *TINY] if trial else torchrun
    with tempfile.TemporaryDirectory(dir=".") as folder:
        start = time.perf_counter()
        done = subprocess.run(command, cwd=folder)
        milliseconds = 1e3 * (time.perf_counter() - start)
        if done.returncode:
            raise SystemExit(done.returncode)
        (run,) = (Path(folder) / "runs").iterdir()
        summary = json.loads((run / "summary.json").read_text())
    row: Row = {"kind": "time", "what": "first command", "size": "a tiny run" if trial else "the demo", "unit": "runs"}
    row |= {"contender": "ours", "min_ms": milliseconds, "median_ms": milliseconds, "max_ms": milliseconds}
    note = "torchrun gcl_fast/train.py --amp in a fresh folder, ops built before"
    emit(row | {"repeats": 1, "per_second": 1e3 / milliseconds, "note": note})
    for stage, measured in {"random initialization": summary["initial"], **summary["stages"]}.items():
        figures = {name: measured[name] for name in ("mAP", "rank1", "ssim", "steps", "seconds") if name in measured}
        text = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        emit({"kind": "fact", "what": stage, "measured": text})


if __name__ == "__main__":
    main()
