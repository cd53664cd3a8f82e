"""Time the training step: the official formulation, then ours with one optimization more in each row.

    python benchmarks/train_step.py --size demo --stage joint --batch 4      # half a minute on 2 cores
    python benchmarks/train_step.py --size paper --stage joint               # half an hour
    python benchmarks/train_step.py --size paper --stage generative --compile

The last row (and, with --compile, the one after it) is the stage class that train.py runs, on the embedded dataset,
without loading. Every row is a process of its own, because a process chooses its allocator and how OpenMP waits when it
starts. Each process also measures the convolution ceiling. Prints seconds, images/s, FLOPs, the share of the row's time
that our step's FLOPs would take at the ceiling, and peak memory above networks and optimizers. Appends to
results/train_step.csv and draws results/train_step_STAGE_SIZE.png. At the paper's size the memory bank has the rows of
Market-1501.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from gcl_fast.process import ALLOCATOR, SPINS
from lib.ceilings import measure_ceilings
from lib.flops import Flops
from lib.ladder import LADDER, prepare
from lib.reporting import RESULTS, measure_all, report
from lib.waterfall import draw


def ladder(stage: str, compiled: bool) -> list[str]:
    """Return the rungs that `stage` has."""
    absent = {"bank"} if stage == "generative" else set[str]()
    return [rung for rung in LADDER if rung not in absent | (set() if compiled else {"compile"})]


def measure(name: str, size: str, batch: int, device: str, on: set[str], repeats: int) -> dict[str, float]:
    """Measure one rung in this process."""
    torch.manual_seed(0)
    step, stack = prepare(name, size, batch, device, on)
    with stack:
        with torch.compiler.set_stance("force_eager"), Flops() as counted:
            step()
        start = time.perf_counter()
        step()
        first = time.perf_counter() - start
        measured = measure_all({"it": step}, repeats, device)["it"]
    convolution = measure_ceilings(device).convolution
    return {**measured, "first": first, "tflop": counted.total / 1e12, "convolution": convolution}


def in_new_process(options: argparse.Namespace, device: str, rungs: list[str]) -> dict[str, float]:
    """Measure the last of `rungs` in a process with the allocator and OpenMP settings that they ask for."""
    environment = {key: value for key, value in os.environ.items() if key not in ("GLIBC_TUNABLES", "GOMP_SPINCOUNT")}
    if "process" in rungs:
        environment |= {"GLIBC_TUNABLES": ALLOCATOR, "GOMP_SPINCOUNT": SPINS}
    arguments = [sys.executable, str(Path(__file__).resolve()), "--stage", options.stage, "--size", options.size]
    arguments += ["--batch", str(options.batch), "--repeats", str(options.repeats), "--device", device]
    done = subprocess.run([*arguments, "--rungs", *rungs], env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{LADDER[rungs[-1]]}: the process ended with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def labels(rungs: list[str], measured: Collection[str]) -> dict[str, str]:
    """Return the name of each measured row: all that has been switched on since the one before."""
    found, since = dict[str, str](), list[str]()
    for rung in rungs:
        since.append(LADDER[rung].removeprefix("+ "))
        if rung in measured:
            found[rung] = ("+ " if found else "") + ", ".join(since)
            since = []
    return found


def rows_of(options: argparse.Namespace, measured: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Return the rows of the table. The ceiling is the median of those that the processes measured."""
    names = labels(ladder(options.stage, options.compile), measured)
    ceiling = statistics.median(figures["convolution"] for figures in measured.values())
    official, needed = next(iter(measured.values())), measured["upsampling"]["tflop"]
    return [
        {
            "stage": options.stage,
            "size": options.size,
            "batch": options.batch,
            "rung": names[rung],
            "min_s": figures["min"],
            "median_s": figures["median"],
            "max_s": figures["max"],
            "repeats": figures["repeats"],
            "images_per_s": round(options.batch / figures["median"], 3),
            "speedup": round(official["median"] / figures["median"], 3),
            "tflop": round(figures["tflop"], 4),
            "needed_tflop": round(needed, 4),
            "convolution_gflops": round(ceiling / 1e9, 1),
            "ceiling_fraction": round(1e12 * needed / ceiling / figures["median"], 3),
            "peak_mb": figures["peak_mb"],
            "peak_fraction": round(figures["peak_mb"] / official["peak_mb"], 3),
            "first_step_s": round(figures["first"], 2),
        }
        for rung, figures in measured.items()
    ]


def main() -> int:
    """Measure, print, append and draw; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("generative", "joint"), default="joint")
    parser.add_argument("--size", choices=("demo", "paper"), default="demo")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3, help="of each row, after three steps to warm up")
    parser.add_argument("--compile", action="store_true", help="one row more: minutes of compiling")
    parser.add_argument("--only", nargs="+", choices=list(LADDER), help="these rows, with official and upsampling")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the plot")
    parser.add_argument("--rungs", nargs="+", help=argparse.SUPPRESS)  # the process of a row
    options = parser.parse_args()
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.rungs:
        figures = measure(options.stage, options.size, options.batch, device, set(options.rungs), options.repeats)
        print(json.dumps(figures))
        return 0
    rungs, measured = ladder(options.stage, options.compile), {}
    for i, rung in enumerate(rungs):
        if not options.only or rung in {"official", "upsampling", *options.only}:
            measured[rung] = in_new_process(options, device, rungs[: i + 1])
            print(f"{LADDER[rung]}: {measured[rung]['median']:.3f} s", flush=True)
    rows = rows_of(options, measured)
    print(f"appended to {report('train_step', rows, device)}")
    print(draw(rows, options.out, device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
