"""Does the joint stage pay for its time? mAP of GCL after a warm-up, beside more warm-up for the same seconds.

    python benchmarks/joint_gain.py                              # 3 seeds, warm-ups of 500 and 2,000 steps: hours
    python benchmarks/joint_gain.py --seeds 0 --warmups 500      # one cell: 25 minutes on two quiet cores

A cell is a seed and a length of the warm-up. It trains three runs on the embedded dataset, one after the other: the
warm-up; the generative and the joint stage from it; and a warm-up alone, whose schedule is stretched to as many epochs
as fit into the seconds that the first two took. Those seconds are measured, not planned, and so are those of the longer
warm-up, which stand in the table: `more_seconds` and `gcl_seconds` should agree to a tenth.

A finished run is not trained again, and one that was stopped resumes: the same command goes on. Cells of a file that
--measured names, of the same settings, count as well. Leaves joint_gain.csv (a line a cell), and joint_gain.png with
means and 95 % confidence intervals (Student's t over seeds).
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from typing import Any

from gcl_fast.process import prepare_process
from gcl_fast.table import text_table
from lib.runs import Row, read_rows, train_once

STEPS_PER_EPOCH = 50  # of the demo's warm-up
RUNS = ("warmup", "gcl", "more")  # of a cell
LABELS = {"warmup": "warm-up", "gcl": "GCL after it", "more": "more warm-up, same seconds"}


class Cell:
    """Trains the runs of one seed and one length of the warm-up, in a folder of their own.

    Args:
        folder: of the runs.
        seed: of all three.
        steps: of the warm-up, a multiple of 50.
        data_root: of the embedded dataset, made when missing.
        settings: KEY=VALUE of all three runs.
    """

    def __init__(self, folder: Path, seed: int, steps: int, data_root: str, settings: list[str]) -> None:
        name = f"seed{seed}-warmup{steps}"
        if settings:  # runs of other settings have a folder of their own
            name += "-" + hashlib.sha256(" ".join(settings).encode()).hexdigest()[:8]
        self.folder, self.seed, self.steps = folder / name, seed, steps
        self.data_root, self.settings = data_root, settings

    def measure(self) -> Row | None:
        """Train what is missing, and return the cell's line; None where a run failed."""
        warm = self._train("warmup", ["warmup"], self.steps)
        if warm is None:
            return None
        weights = self.folder / "warmup" / "checkpoints" / "warmup.safetensors"
        gcl = self._train("gcl", ["generative", "joint"], self.steps, "--init", str(weights))
        if gcl is None:
            return None
        warm_seconds = warm["warmup"]["seconds"]
        gcl_seconds = gcl["generative"]["seconds"] + gcl["joint"]["seconds"]
        epochs = round((warm_seconds + gcl_seconds) / warm_seconds * self.steps / STEPS_PER_EPOCH)
        more = self._train("more", ["warmup"], epochs * STEPS_PER_EPOCH)
        if more is None:
            return None
        return {
            "seed": self.seed,
            "warmup_steps": self.steps,
            "warmup_mAP": round(warm["warmup"]["mAP"], 5),
            "gcl_mAP": round(gcl["joint"]["mAP"], 5),
            "more_mAP": round(more["warmup"]["mAP"], 5),
            "more_steps": more["warmup"]["steps"],
            "warmup_seconds": round(warm_seconds),
            "gcl_seconds": round(gcl_seconds),
            "more_seconds": round(more["warmup"]["seconds"] - warm_seconds),
            "ssim": round(gcl["joint"].get("ssim", float("nan")), 4),
        }

    def _train(self, name: str, stages: list[str], steps: int, *flags: str) -> dict[str, Any] | None:
        """Train a run, or what is left of it, and return the metrics of its stages; None where it failed."""
        settings = [f"warmup.epochs={steps // STEPS_PER_EPOCH}", *self.settings]
        return train_once(self.folder, name, self.seed, self.data_root, stages, *flags, settings=settings)


def table(rows: list[Row]) -> str:
    """Return mAP in per cent by length of the warm-up, `mean ± half-width`, and the gain over more warm-up."""
    from gcl_fast.intervals import interval_text

    lines = [["steps", "seeds", *LABELS.values(), "gain", "seconds", "seconds of more"]]
    for steps in sorted({row["warmup_steps"] for row in rows}):
        own = [row for row in rows if row["warmup_steps"] == steps]
        means = [interval_text([100 * row[f"{name}_mAP"] for row in own]) for name in RUNS]
        gain = interval_text([100 * (row["gcl_mAP"] - row["more_mAP"]) for row in own], "+.1f")
        seconds = [f"{sum(row[key] for row in own) / len(own):.0f}" for key in ("gcl_seconds", "more_seconds")]
        lines.append([str(steps), str(len(own)), *means, gain, *seconds])
    return text_table(lines)


def draw(rows: list[Row], path: Path) -> None:
    """Draw mAP of the three runs by length of the warm-up: means with intervals, the seeds as dots."""
    from matplotlib.figure import Figure

    from gcl_fast.intervals import interval

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    lengths = sorted({row["warmup_steps"] for row in rows})
    for shift, name in zip((-0.2, 0, 0.2), RUNS):
        for place, steps in enumerate(lengths):
            values = [100 * row[f"{name}_mAP"] for row in rows if row["warmup_steps"] == steps]
            mean, half = interval(values)
            colour = f"C{RUNS.index(name)}"
            label = LABELS[name] if place == 0 else None
            axes.errorbar(place + shift, mean, yerr=half or 0, color=colour, marker="s", capsize=3, label=label)
            axes.plot([place + shift] * len(values), values, ".", color=colour, alpha=0.5)
    axes.set_xticks(range(len(lengths)), [f"warm-up of {steps:,} steps" for steps in lengths])
    axes.set_ylabel("mAP, %")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> int:
    """Measure the cells that are missing, write table and plot after each, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--warmups", nargs="+", type=int, default=[500, 2000], metavar="STEPS", help="multiples of 50")
    parser.add_argument("--out", type=Path, default=Path("runs/joint_gain"))
    parser.add_argument("--data-root", default="datasets/synthetic", help="made there when missing")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of every run")
    parser.add_argument("--measured", type=Path, metavar="FILE", help="default: joint_gain.csv in --out")
    options = parser.parse_args(arguments)
    if wrong := [steps for steps in options.warmups if steps < STEPS_PER_EPOCH or steps % STEPS_PER_EPOCH]:
        parser.error(f"--warmups {wrong[0]}: expected a multiple of {STEPS_PER_EPOCH}")
    from lib.reporting import append

    path, settings = options.measured or options.out / "joint_gain.csv", " ".join(options.set)
    failed = []
    try:
        for steps in options.warmups:
            for seed in options.seeds:
                cells = {(row["seed"], row["warmup_steps"]) for row in read_rows(path, settings)}
                if (seed, steps) in cells:
                    continue
                row = Cell(options.out, seed, steps, options.data_root, options.set).measure()
                if row is None:
                    failed.append(f"seed {seed}, warm-up of {steps} steps")
                    continue
                append(path, [{"settings": settings, **row}])
        if rows := read_rows(path, settings):
            options.out.mkdir(parents=True, exist_ok=True)
            draw(rows, options.out / "joint_gain.png")
            print(f"\n{table(rows)}\n{path}, {options.out}/joint_gain.png", flush=True)
    except KeyboardInterrupt:
        print("joint_gain: interrupted; the same command goes on", file=sys.stderr)
        return 130
    if failed:
        print("joint_gain: not trained to the end: " + "; ".join(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
