"""Run all stages on a tiny world: by --amp, in float32, and killed in mid-stage; move checkpoints between devices.

python -m on_gpu.runs --device cuda [--only amp fp32 killed]

Runs and their world are made in the current folder. On a CPU there is no other device to go to.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from on_gpu.commands import TINY, TRAIN
from on_gpu.rows import Row, emit

STAGES = ("warmup", "generative", "joint")
ON_CPU = ("--device", "cpu", "--json")
PATIENCE = 300.0  # seconds until a run must have come far enough to be killed


def command(name: str, device: str, *flags: str) -> list[str]:
    """Return the command of a tiny run of that name, which resumes where it stopped."""
    settings = [*TINY, "checkpoint_seconds=0", "data_root=tiny", "runs=tiny-runs", f"name={name}"]
    return [sys.executable, str(TRAIN), "--resume", "--compile", "off", "--device", device, *flags, "--set", *settings]


def finish(run: list[str]) -> str:
    """Return what a run prints; raise SystemExit where it fails."""
    done = subprocess.run(run, capture_output=True, text=True)
    print(done.stdout, done.stderr, flush=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(run)}: exit status {done.returncode}")
    return done.stdout


def losses(name: str) -> list[tuple[str, int, float]]:
    """Return (stage, step, loss) of each step."""
    path = Path("tiny-runs") / name / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [(r["stage"], r["step"], r["loss"]) for r in records if "loss" in r]


def claim(what: str, size: str, measured: object, holds: bool) -> Row:
    """Return a row for a claim that holds or does not."""
    return {"kind": "check", "what": what, "size": size, "measured": measured, "allowed": "", "holds": holds}


def whole(name: str, kind: str, device: str) -> Iterator[Row]:
    """A run through all stages, "amp" or "fp32", then evaluated on the CPU: the same retrieval but for ties that
    rounding settles."""
    finish(command(name, device, *(["--amp"] if kind == "amp" else [])))
    steps, size = losses(name), f"{kind} on {device}"
    yield claim("every loss is finite", size, f"{len(steps)} steps", all(math.isfinite(loss) for *_, loss in steps))
    stages = dict.fromkeys(stage for stage, *_ in steps)
    yield claim("all stages ran", size, ", ".join(stages), tuple(stages) == STAGES)
    summary = json.loads((Path("tiny-runs") / name / "summary.json").read_text())["stages"]
    again = json.loads(finish([sys.executable, "-m", "gcl_fast.evaluate", f"tiny-runs/{name}", *ON_CPU]))
    for stage, measured in summary.items():
        yield {"kind": "fact", "what": f"{stage}, {size}", "measured": f"{measured['seconds']:.1f} s of training"}
        apart = abs(again[stage]["mAP"] - measured["mAP"])
        yield claim(f"{stage} evaluated on the CPU, mAP off by", size, round(apart, 4), apart < 0.05)


def killed(name: str, first: str, second: str, stage: str) -> Iterator[Row]:
    """Kill a run by SIGKILL two steps into `stage` on one device and resume it on another."""
    process = subprocess.Popen(command(name, first, "--amp"), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    deadline, reached = time.monotonic() + PATIENCE, False
    try:
        while not reached and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
            reached = sum(at == stage for at, *_ in losses(name)) >= 2
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    size = f"{first} to {second}"
    yield claim(f"killed in the {stage} stage", size, f"after {len(losses(name))} steps", reached)
    output = finish(command(name, second, "--amp"))
    resumed = next((line for line in output.splitlines() if line.startswith("resumed: ")), "did not resume")
    yield claim("goes on in that stage", size, resumed, resumed.startswith(f"resumed: {stage} at step"))
    steps = [(at, step) for at, step, _ in losses(name)]
    yield claim("no step is missing or taken twice", size, f"{len(steps)} steps", steps == _in_order(steps))


def _in_order(steps: list[tuple[str, int]]) -> list[tuple[str, int]]:
    counts = {stage: sum(at == stage for at, _ in steps) for stage in STAGES}
    return [(stage, step) for stage in STAGES for step in range(1, counts[stage] + 1)]


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--only", nargs="+", choices=("amp", "fp32", "killed"), default=["amp", "fp32", "killed"])
    options = parser.parse_args()
    device = options.device
    fresh = f"{device}-{int(time.time())}"
    for kind in options.only:
        if kind == "killed":
            directions = [(device, device, "joint")]
            if device == "cuda":
                directions += [("cuda", "cpu", "generative"), ("cpu", "cuda", "warmup")]
            for number, (first, second, stage) in enumerate(directions):
                for row in killed(f"killed-{number}-{fresh}", first, second, stage):
                    emit(row)
        else:
            for row in whole(f"{kind}-{fresh}", kind, device):
                emit(row)


if __name__ == "__main__":
    main()
