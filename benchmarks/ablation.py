"""Ablations of GCL on the embedded dataset: what each loss, term, switch and warm-up is worth, over seeds.

    python benchmarks/ablation.py                         # the whole grid, 3 seeds: about 7 hours on two quiet cores
    python benchmarks/ablation.py --set joint.epochs=1    # about 4; one pass still costs mAP (0.4 to 1.6 points)
    python benchmarks/ablation.py --rows full "no view-invariant loss" --seeds 0 --set joint.epochs=1

A seed's warm-up and generative stage (7 minutes) are trained once. Rows that change the joint stage alone begin after
both: 4 minutes a row and seed. Rows that change the generator's losses begin after the warm-up: 8 minutes. Rows
of another warm-up train all three stages: 10 minutes. "For as long" extends the warm-up by about as many steps as the
joint stage has, in a schedule stretched to that length: 3 minutes. A row whose settings differ from the full row's by
more than the named switch ends the benchmark. After a kill the same command resumes, also inside a run, on the same
commit and with as many threads.

Each run's metrics are appended to --measured at once. A row and seed in that file are not trained again with the same
--set. So several sessions, machines, or processes (one a seed, OMP_NUM_THREADS=1) can fill the grid. A row is compared
only with a full row of its own commit, machine, threads and torch; a missing one is trained. Machines without
bfloat16 train in another arithmetic: their runs count where a row and seed have no other. --measured
benchmarks/results/ablation_runs.csv reads the authors' runs.

Leaves ablation.csv and ablation.png in --out. They hold mAP on people outside the training set, its gain over the
warm-up that the row began with (a warm-up alone: over that method's usual one), and SSIM of novel views on the person's
pixels. They give means with 95 % confidence intervals (Student's t over seeds), and the gain over the full row, paired
by seed.
"""

from __future__ import annotations

import argparse
import csv
import gc
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gcl_fast.process import prepare_process
from gcl_fast.table import text_table

ALL = ("warmup", "generative", "joint")


class Row(NamedTuple):
    """Holds what a row sets and which stages it trains; the stages before them come from the seed's base."""

    switch: str = ""  # settings, with spaces between
    stages: tuple[str, ...] = ALL[2:]
    warmup: str = "cluster"
    longer: bool = False  # a warm-up alone, by about as many steps as the joint stage takes


BASE, FULL, WARMUP = "base", "full", "warm-up alone"
ROWS = {
    FULL: Row(),
    "no view-invariant loss": Row("generative.weights.view=0"),
    "real crops alone: f with its cluster": Row("joint.terms=[0,0,1]"),
    "novel view with own entry alone": Row("joint.terms=[1,0,0]"),
    "novel view with its cluster alone": Row("joint.terms=[0,1,0]"),
    "without the own entry": Row("joint.terms=[0,1,1]"),
    "without the novel view's cluster": Row("joint.terms=[1,0,1]"),
    "without the crop's cluster": Row("joint.terms=[1,1,0]"),
    "no image loss": Row("generative.weights.image=0", ALL[1:]),
    "no feature loss": Row("generative.weights.feature=0", ALL[1:]),
    "no adversarial loss": Row("generative.weights.adversarial=0", ALL[1:]),
    "feature loss on x_new (paper's figure)": Row("generative.weights.feature_loss_on=novel_view", ALL[1:]),
    "live own entry (paper's figure)": Row("joint.own_entry=live"),
    "negatives of f (paper's figure)": Row("joint.negatives_of=crop"),
    "yaws without 315 (code)": Row("generative.last_yaw=270", ALL[1:]),
    "decay of E_id alone (code)": Row("joint.decay=identity"),
    "outliers embedded anew": Row("joint.refresh_outliers=true"),
    "mixup (GCL+)": Row("generative.weights.mixup=1"),
    "camera proxies, warm-up alone (CAP)": Row("warmup.memory=cameras", ALL[:1]),
    "cluster warm-up for as long": Row(stages=ALL[:1], longer=True),
    "GCL over JVTC": Row(stages=ALL, warmup="jvtc"),
    "JVTC for as long": Row(stages=ALL[:1], warmup="jvtc", longer=True),
    "GCL over MMCL": Row(stages=ALL, warmup="mmcl"),
    "MMCL for as long": Row(stages=ALL[:1], warmup="mmcl", longer=True),
}
# Steps an epoch, of the demo's 1,800 crops; a tenth of them are outliers in the joint stage
JOINT_STEPS, WARMUP_STEPS = 100, {"cluster": 50, "jvtc": 60, "mmcl": 30}
WARMED_UP = {"cluster": BASE, "jvtc": "GCL over JVTC", "mmcl": "GCL over MMCL"}  # runs with the warm-ups as they are
MAY_DIFFER = {"name", "init", "stages"}
METRICS = ("mAP", "over_warmup", "rank1", "ssim")
ARITHMETICS = ("float32", "float16")
ORIGIN = ("commit", "machine", "threads", "torch")  # rows that differ in these differ by more than their switch


class Measured(NamedTuple):
    """Holds what a run has measured (METRICS), on which machine and commit (ORIGIN), and its `arithmetic`."""

    figures: dict[str, float]
    origin: tuple[str, ...]
    arithmetic: str


Values = dict[str, dict[int, Measured]]  # row -> seed -> the newest run, in bfloat16 where there is one


def origin_of(line: Mapping[str, Any]) -> tuple[str, ...]:
    """Return ORIGIN's columns of a line without "-dirty": a run's row in a committed file makes the tree dirty."""
    return tuple(str(line[name]).removesuffix("-dirty") for name in ORIGIN)


def folder_of(*words: str) -> str:
    """Return the letters and digits of `words`, joined by hyphens: the name of a run, or of a folder of runs."""
    return "-".join("".join(c if c.isalnum() else " " for c in " ".join(words)).split())


def arithmetic() -> str:
    """Return the word of ARITHMETICS for what --amp trains in on this machine; "" stands for bfloat16."""
    import torch

    from gcl_fast.optim.precision import choose

    dtype = choose(True, torch.device("cuda" if torch.cuda.is_available() else "cpu")).dtype
    return "" if dtype == torch.bfloat16 else str(dtype or torch.float32).removeprefix("torch.")


class Grid:
    """Holds the runs of an ablation in the folder `out`. data_root: of the embedded dataset. settings: of every run.

    measured: the CSV of what runs with these and other settings have measured; `values` is its part, and `full` the mAP
    of full rows by seed and origin. What this process trains is of `origin`, in `arithmetic`.
    """

    def __init__(self, out: Path, data_root: str, settings: list[str], measured: Path) -> None:
        from lib.reporting import facts

        self.out, self.data_root, self.settings, self.measured = out, data_root, settings, measured
        self.facts = facts()  # the commit may move on while this process runs
        self.origin = origin_of(self.facts)
        self.runs = out / folder_of("runs", *settings, *self.origin)
        self.arithmetic = arithmetic()
        self.values: Values = {}
        self.full: dict[tuple[int, tuple[str, ...]], float] = {}
        if measured.is_file():
            with measured.open(newline="") as file:
                for line in csv.DictReader(file):
                    words = line["settings"].split()
                    other = words.pop() if words and words[-1] in ARITHMETICS else ""
                    if words == " ".join(settings).split():
                        figures = {name: float(line[name]) for name in METRICS if line[name]}
                        self._keep(line["row"], int(line["seed"]), Measured(figures, origin_of(line), other))

    def base(self, seed: int) -> bool:
        """Train warm-up and generative stage, from which the rows begin, and return whether that succeeded."""
        done = self._train(BASE, seed, Row(stages=ALL[:2]))
        if done and seed not in self.values.get(WARMUP, {}):
            self._note(WARMUP, seed, self._measured(BASE, seed)["warmup"])
        return done

    def row(self, row: str, seed: int) -> bool:
        """Train `row`, or what is left of it, record its metrics, and return whether that succeeded.

        Raises:
            RuntimeError: the run's settings differ from the full one's by something else than the row's switch.
        """
        plan = ROWS[row]
        if not self._train(row, seed, plan):
            return False
        found, expected = self.difference(row, seed), self._expected(row)
        if found != expected:
            raise RuntimeError(f"{self._run(row, seed)} differs from the full row by {found}, not by {expected}")
        figures = self._measured(row, seed)[plan.stages[-1]]
        began = self._measured(row if plan.stages == ALL else WARMED_UP[plan.warmup], seed).get("warmup")
        over = {"over_warmup": figures["mAP"] - began["mAP"]} if began else {}
        self._note(row, seed, {**figures, **over})
        return True

    def missing(self, rows: Sequence[str], seed: int) -> list[str]:
        """Return the `rows` without a measurement, after the full row where no full row has their origin."""
        left = [row for row in rows if row != FULL and seed not in self.values.get(row, {})]
        unpaired = (seed, self.origin) not in self.full if left else seed not in self.values.get(FULL, {})
        return [FULL, *left] if unpaired else left

    def _note(self, row: str, seed: int, figures: dict[str, float]) -> None:
        from lib.reporting import append

        found = {name: figures[name] for name in METRICS if name in figures}
        line = {name: round(found[name], 5) if name in found else "" for name in METRICS}
        began = {name: self.facts[name] for name in ORIGIN}
        label = " ".join([*self.settings, self.arithmetic]).strip()
        append(self.measured, [{"settings": label, "row": row, "seed": seed, **line, **began}])
        self._keep(row, seed, Measured(found, self.origin, self.arithmetic))

    def _keep(self, row: str, seed: int, run: Measured) -> None:
        seeds = self.values.setdefault(row, {})
        if not run.arithmetic or seed not in seeds or seeds[seed].arithmetic:
            seeds[seed] = run
        if row == FULL:
            self.full[seed, run.origin] = run.figures["mAP"]

    def difference(self, row: str, seed: int) -> list[str]:
        """Return `key: full -> row` for each setting in which the run of `row` differs from the full one."""
        import yaml

        from gcl_fast.command_line import parse
        from gcl_fast.settings import difference, to_dict

        full = to_dict(parse(self._flags(FULL, seed, ROWS[FULL]))[0])
        trained = yaml.safe_load((self._run(row, seed) / "config.yaml").read_text())
        return [line for line in difference(full, trained) if line.split(":")[0] not in MAY_DIFFER]

    def _measured(self, row: str, seed: int) -> dict[str, dict[str, float]]:
        """Return the metrics of each stage that the run has finished."""
        summary = self._run(row, seed) / "summary.json"
        return json.loads(summary.read_text())["stages"] if summary.is_file() else {}

    def _run(self, row: str, seed: int) -> Path:
        return self.runs / folder_of(row, f"seed{seed}")

    def _train(self, row: str, seed: int, plan: Row) -> bool:
        from gcl_fast.train import main as train

        if plan.stages[-1] in self._measured(row, seed):
            return True
        print(f"\nablation: {row}, seed {seed}", flush=True)
        status = train(self._flags(row, seed, plan))
        gc.collect()
        if status == 130:
            raise KeyboardInterrupt
        return status == 0

    def _flags(self, row: str, seed: int, plan: Row) -> list[str]:
        """Return train.py's flags for one run."""
        flags = ["--amp", "--resume", "--seed", str(seed), "--runs", str(self.runs)]
        flags += ["--name", self._run(row, seed).name, "--data-root", self.data_root, "--stages", *plan.stages]
        if before := ALL[: ALL.index(plan.stages[0])]:
            flags += ["--init", str(self._run(BASE, seed) / "checkpoints" / f"{before[-1]}.safetensors")]
        return [*flags, *self.settings_of(plan)]

    def _expected(self, row: str) -> list[str]:
        """Return what the row's switch alone changes, where `settings` have not set it for all rows."""
        from gcl_fast.command_line import parse
        from gcl_fast.settings import difference, to_dict

        full, other = (to_dict(parse(self.settings_of(ROWS[r]))[0]) for r in (FULL, row))
        return difference(full, other)

    def settings_of(self, plan: Row) -> list[str]:
        """Return train.py's flags by which rows differ; all train the published method."""
        from gcl_fast.settings import PUBLISHED

        return [
            "--warmup",
            plan.warmup,
            "--set",
            "dataset=synthetic",
            *PUBLISHED,
            *self.settings,
            *self.switch(plan).split(),
        ]

    def switch(self, plan: Row) -> str:
        """Return what `plan` sets; a longer warm-up has a schedule stretched to its length."""
        from gcl_fast.settings import override, preset, warmup_preset

        if not plan.longer:
            return plan.switch
        settings, warmup = override(preset("demo"), self.settings), warmup_preset("demo", plan.warmup)
        assert warmup is not None
        epochs = warmup.epochs + round(settings.joint.epochs * JOINT_STEPS / WARMUP_STEPS[plan.warmup])
        stretched = f"warmup.epochs={epochs}"
        if decay := getattr(warmup, "decay_every", None):
            stretched += f" warmup.decay_every={round(epochs * decay / warmup.epochs)}"
        return stretched


def table(grid: Grid) -> list[dict[str, Any]]:
    """A line a row that has been measured: means and half-widths of METRICS, and the gain in mAP over the full row by
    the seeds whose full row is of the same origin."""
    from gcl_fast.intervals import interval

    lines, values = [], grid.values
    for row in (WARMUP, *ROWS):
        if not (seeds := values.get(row)):
            continue
        plan = ROWS.get(row, Row("no joint stage"))
        switch = grid.switch(plan)
        if plan.warmup != "cluster":
            switch = f"--warmup {plan.warmup} {switch}".strip()
        line: dict[str, Any] = {"row": row, "switch": switch, "seeds": len(seeds)}
        for name in METRICS:
            measured = [run.figures[name] for run in seeds.values() if name in run.figures]
            line[name], line[f"{name}_half"] = interval(measured) if measured else (None, None)
        full = {seed: grid.full.get((seed, run.origin)) for seed, run in seeds.items()}
        paired = [seeds[seed].figures["mAP"] - mAP for seed, mAP in full.items() if mAP is not None]
        line["gain"], line["gain_half"] = interval(paired) if paired and row != FULL else (None, None)
        line["mAP_of_seeds"] = " ".join(f"{seed}:{seeds[seed].figures['mAP']:.4f}" for seed in sorted(seeds))
        lines.append({key: round(v, 5) if isinstance(v, float) else v for key, v in line.items()})
    return lines


def text_of(lines: list[dict[str, Any]]) -> str:
    """Return the table in per cent (SSIM as it is), `mean ± half-width`."""

    def cell(line: dict[str, Any], name: str, scale: float, form: str) -> str:
        if line[name] is None:
            return ""
        half = line[f"{name}_half"]
        return format(scale * line[name], form) + ("" if half is None else f" ± {scale * half:.{form[-2]}f}")

    columns = [("mAP", 100.0, ".1f"), ("over_warmup", 100.0, "+.1f"), ("gain", 100.0, "+.1f")]
    columns += [("rank1", 100.0, ".1f"), ("ssim", 1.0, ".3f")]
    rows = [[line["row"], str(line["seeds"]), *(cell(line, *column) for column in columns)] for line in lines]
    return text_table([["", "seeds", *(name for name, *_ in columns)], *rows], longest=60)


def draw(values: Values, lines: list[dict[str, Any]], path: Path) -> None:
    """Draw means with confidence intervals and the seeds as dots: mAP, its gain over the warm-up, SSIM of views."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 1.2 + 0.34 * len(lines)), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    labels = {
        "mAP": "mAP",
        "over_warmup": "mAP gained over the warm-up",
        "ssim": "SSIM of novel views, person's pixels",
    }
    for axes, (name, label) in zip(panels, labels.items()):
        for place, line in enumerate(lines):
            if line[name] is None:
                continue
            colour = "tab:blue" if line["row"] == FULL else "0.35"
            axes.errorbar(line[name], place, xerr=line[f"{name}_half"] or 0, color=colour, marker="s", capsize=3)
            dots = [run.figures[name] for run in values[line["row"]].values() if name in run.figures]
            axes.plot(dots, [place] * len(dots), ".", color="tab:orange", markersize=5)
            if line["row"] == FULL:
                axes.axvline(line[name], color=colour, linewidth=0.8, linestyle=":")
        axes.set_xlabel(label)
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(lines)), [line["row"] for line in lines], fontsize=8)
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=120)


def write(grid: Grid) -> None:
    """Write ablation.csv and ablation.png into the grid's folder, each whole, and print the table."""
    from gcl_fast.atomic import write_atomically

    out, lines = grid.out, table(grid)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, lines[0])
    writer.writeheader()
    writer.writerows(lines)
    write_atomically(out / "ablation.csv", lambda file: file.write(buffer.getvalue().encode()))
    draw(grid.values, lines, out / "ablation.png")
    print(f"\n{text_of(lines)}\n{out}/ablation.csv, {out}/ablation.png", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Train what is missing, seed by seed, write the table after each, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW", help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--data-root", default="datasets/synthetic", help="made there when missing")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of every row, e.g. joint.epochs=1")
    parser.add_argument("--measured", type=Path, metavar="FILE", help="default: measured.csv in --out")
    given = parser.parse_args(arguments)
    rows = [row for row in ROWS if row in given.rows or row == FULL]
    measured = given.measured or given.out / "measured.csv"
    grid, failed = Grid(given.out, given.data_root, given.set, measured), []
    try:
        for seed in given.seeds:
            missing = grid.missing(rows, seed)
            ready = not missing or grid.base(seed)
            failed += [f"{row}, seed {seed}" for row in missing if not (ready and grid.row(row, seed))]
            if grid.values:
                write(grid)
    except KeyboardInterrupt:
        print("ablation: interrupted; the same command goes on", file=sys.stderr)
        return 130
    if failed:
        print("ablation: not trained to the end: " + "; ".join(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
