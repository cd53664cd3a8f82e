"""What does a run lose on estimated bodies? mAP and SSIM of novel views, beside the same run on the true bodies.

    python benchmarks/estimated_bodies.py              # 3 seeds: an hour and a half on two quiet cores
    python benchmarks/estimated_bodies.py --seeds 0

The embedded dataset knows the true body of each crop; other datasets have estimates alone. The benchmark copies the
dataset, replaces its bodies by those of `gcl-fast estimate`, and trains generative and joint stage on both from one
warm-up of the same seed. SSIM compares a novel view with the true one, on the person's pixels.

A finished run is not trained again, and one that was stopped resumes: the same command goes on. Leaves
estimated_bodies.csv, a line a seed and kind of bodies.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from gcl_fast.process import prepare_process
from gcl_fast.table import text_table
from lib.runs import Row, read_rows, train_once

BODIES = ("true", "estimated")
SPLITS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}  # and the folders of crops


def estimate_bodies(root: Path, copy: Path) -> None:
    """Copy the dataset in `root` to `copy`, with estimated bodies in place of the true ones, unless that was done."""
    from gcl_fast.estimate import main as estimate

    done = copy / "body_parameters" / "estimated"
    if done.is_file():
        return
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(root, copy)
    for split, folder in SPLITS.items():
        file, truth = copy / "body_parameters" / f"{split}.npz", root / "body_parameters" / f"{split}.npz"
        file.unlink()
        if estimate(["--images", str(copy / folder), "--out", str(file), "--truth", str(truth)]):
            raise SystemExit(f"estimated_bodies: no estimates for {copy / folder}")
    done.touch()


def table(rows: list[Row]) -> str:
    """Return means over seeds by kind of bodies."""
    from gcl_fast.intervals import interval_text

    lines = [["bodies", "seeds", "mAP, %", "SSIM, generative", "SSIM, joint"]]
    for bodies in BODIES:
        same = [row for row in rows if row["bodies"] == bodies]
        if same:
            similarity = (
                interval_text([row[f"ssim_{stage}"] for row in same], ".3f") for stage in ("generative", "joint")
            )
            lines.append([bodies, str(len(same)), interval_text([100 * row["mAP"] for row in same]), *similarity])
    return text_table(lines)


def main(arguments: list[str] | None = None) -> int:
    """Train the runs that are missing, write a line after each, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/estimated_bodies"))
    parser.add_argument("--data-root", type=Path, default=Path("datasets/synthetic"), help="made there when missing")
    parser.add_argument("--measured", type=Path, metavar="FILE", help="default: estimated_bodies.csv in --out")
    options = parser.parse_args(arguments)
    from gcl_fast.settings import WorldConfig
    from gcl_fast.synthetic import make_world
    from lib.reporting import append

    path = options.measured or options.out / "estimated_bodies.csv"
    options.out.mkdir(parents=True, exist_ok=True)
    copy = options.out / "dataset"
    failed = []
    try:
        estimate_bodies(make_world(options.data_root, WorldConfig()), copy)
        for seed in options.seeds:
            folder = options.out / f"seed{seed}"
            weights = folder / "warmup" / "checkpoints" / "warmup.safetensors"
            if train_once(folder, "warmup", seed, options.data_root, ["warmup"], settings=[]) is None:
                failed.append(f"warm-up of seed {seed}")
                continue
            for bodies, root in zip(BODIES, (options.data_root, copy)):
                if any(row["bodies"] == bodies and row["seed"] == seed for row in read_rows(path)):
                    continue
                flags = ["--init", str(weights)]
                stages = train_once(folder, bodies, seed, root, ["generative", "joint"], *flags, settings=[])
                if stages is None:
                    failed.append(f"seed {seed} on {bodies} bodies")
                    continue
                row = {"seed": seed, "bodies": bodies, "mAP": round(stages["joint"]["mAP"], 5)}
                append(
                    path, [row | {f"ssim_{name}": round(stages[name]["ssim"], 4) for name in ("generative", "joint")}]
                )
    except KeyboardInterrupt:
        print("estimated_bodies: interrupted; the same command goes on", file=sys.stderr)
        return 130
    if failed:
        print("estimated_bodies: not trained to the end: " + "; ".join(failed), file=sys.stderr)
        return 1
    print(f"\n{table(read_rows(path))}\n{path}", flush=True)
    return 0


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
