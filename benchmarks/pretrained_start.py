"""Do ImageNet weights pay? mAP after a warm-up from packaged MobileNetV2, beside the demo's small random network.

    python benchmarks/pretrained_start.py                          # 3 seeds at 128x64: two hours on one thread
    python benchmarks/pretrained_start.py --sizes 128x64 256x128   # the paper's size as well: a night

A cell is a seed and a size of the crops. It trains three warm-ups on the embedded dataset, one after the other: the
demo's, from random weights; one epoch from the weights of `--init package`, which measures its speed; and from the same
weights as many epochs as fit into the seconds of the first. The seconds of both stand in the table, and should agree to
a tenth. The second network has a smaller learning rate, as fine-tuning has, and no clothing colours: its embeddings are
of use from the start.

Needs the extra `pretrained`. A finished run is not trained again, and one that was stopped resumes: the same command
goes on. Leaves pretrained_start.csv (a line a cell), and prints means with 95 % confidence intervals (Student's t over
seeds).
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

STARTS = {  # flags and settings of each start, which follow those of all runs
    "random": ([], []),
    "packaged": (
        ["--backbone", "mobilenetv2", "--init", "package"],
        ["model.identity.output_stride=16", "warmup.lr=3.5e-4", "warmup.colours=false"],
    ),
}
LABELS = {"random": "demo's network, random", "packaged": "MobileNetV2, ImageNet"}


class Cell:
    """Trains the runs of one seed and one size of the crops, in a folder of their own.

    Args:
        folder: of the runs.
        seed: of all of them.
        size: (H, W) of the crops.
        epochs: of the warm-up from random weights.
        data_root: of the embedded dataset, made when missing.
        settings: KEY=VALUE of every run.
    """

    def __init__(
        self, folder: Path, seed: int, size: tuple[int, int], epochs: int, data_root: str, settings: list[str]
    ) -> None:
        code = hashlib.sha256(" ".join([str(epochs), *settings]).encode()).hexdigest()[:8]
        self.folder = folder / f"seed{seed}-{size[0]}x{size[1]}-{code}"
        self.seed, self.size, self.epochs, self.data_root, self.settings = seed, size, epochs, data_root, settings

    def measure(self) -> Row | None:
        """Train what is missing, and return the cell's line; None where a run failed."""
        random = self._train("random", "random", self.epochs)
        if random is None:
            return None
        pilot = self._train("pilot", "packaged", 1)
        if pilot is None:
            return None
        epochs = max(1, round(random["warmup"]["seconds"] / pilot["warmup"]["seconds"]))
        packaged = self._train("packaged", "packaged", epochs)
        if packaged is None:
            return None
        ends = {"random": random, "packaged": packaged}
        return {
            "seed": self.seed,
            "height": self.size[0],
            "width": self.size[1],
            **{f"{name}_start_mAP": round(end["initial"]["mAP"], 5) for name, end in ends.items()},
            **{f"{name}_mAP": round(end["warmup"]["mAP"], 5) for name, end in ends.items()},
            **{f"{name}_rank1": round(end["warmup"]["rank1"], 5) for name, end in ends.items()},
            **{f"{name}_steps": end["warmup"]["steps"] for name, end in ends.items()},
            **{f"{name}_seconds": round(end["warmup"]["seconds"], 1) for name, end in ends.items()},
        }

    def _train(self, name: str, start: str, epochs: int) -> dict[str, Any] | None:
        """Train a run, or what is left of it, and return its metrics at both ends; None where it failed."""
        flags, settings = STARTS[start]
        settings = [f"height={self.size[0]}", f"width={self.size[1]}", *settings, *self.settings]
        settings += [f"warmup.epochs={epochs}"]
        return train_once(self.folder, name, self.seed, self.data_root, ["warmup"], *flags, settings=settings)


def table(rows: list[Row]) -> str:
    """Return mAP in per cent by size of the crops, `mean ± half-width`, and the gain over random weights."""
    from gcl_fast.intervals import interval_text

    lines = [["crops", "start", "seeds", "first mAP", "mAP", "gain", "steps", "seconds"]]
    for size in sorted({(row["height"], row["width"]) for row in rows}):
        chosen = [row for row in rows if (row["height"], row["width"]) == size]
        for name, label in LABELS.items():
            first, last = ([100 * row[f"{name}_{key}"] for row in chosen] for key in ("start_mAP", "mAP"))
            gains = [value - 100 * row["random_mAP"] for value, row in zip(last, chosen)]
            means = [sum(row[f"{name}_{key}"] for row in chosen) / len(chosen) for key in ("steps", "seconds")]
            gain = "" if name == "random" else interval_text(gains, "+.1f")
            counts = [f"{mean:.0f}" for mean in means]
            means_of_mAP = [interval_text(first), interval_text(last)]
            lines.append([f"{size[0]}x{size[1]}", label, str(len(chosen)), *means_of_mAP, gain, *counts])
    return text_table(lines)


def _size(text: str) -> tuple[int, int]:
    """Return the size (H, W) that a text such as 128x64 names."""
    height, width = map(int, text.split("x"))
    return height, width


def main(arguments: list[str] | None = None) -> int:
    """Measure the cells that are missing, print the table after each, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--sizes", nargs="+", type=_size, default=[(128, 64)], metavar="HxW", help="of the crops")
    parser.add_argument("--epochs", type=int, default=10, help="of 50 steps, from random weights (default: the demo's)")
    parser.add_argument("--out", type=Path, default=Path("runs/pretrained_start"))
    parser.add_argument("--data-root", default="datasets/synthetic", help="made there when missing")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of every run")
    options = parser.parse_args(arguments)
    from lib.reporting import append

    path = options.out / "pretrained_start.csv"
    settings, failed = " ".join([f"epochs={options.epochs}", *options.set]), []
    try:
        for size in options.sizes:
            for seed in options.seeds:
                cells = {(row["seed"], (row["height"], row["width"])) for row in read_rows(path, settings)}
                if (seed, size) in cells:
                    continue
                row = Cell(options.out, seed, size, options.epochs, options.data_root, options.set).measure()
                if row is None:
                    failed.append(f"seed {seed}, {size[0]}x{size[1]}")
                    continue
                append(path, [{"settings": settings, **row}])
                print(f"\n{table(read_rows(path, settings))}", flush=True)
    except KeyboardInterrupt:
        print("pretrained_start: interrupted; the same command goes on", file=sys.stderr)
        return 130
    if rows := read_rows(path, settings):
        print(f"\n{table(rows)}\n{path}", flush=True)
    if failed:
        print("pretrained_start: not trained to the end: " + "; ".join(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
