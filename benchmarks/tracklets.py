"""What do tracklets teach? Purity of clusters and mAP of a warm-up on crops of videos, with and without must-links.

    python benchmarks/tracklets.py                                  # 3 seeds: hours on two cores
    python benchmarks/tracklets.py --seeds 0 --identities 20 --cameras 3 --set warmup.epochs=4    # a trial

The videos show people of the embedded world who walk past cameras, with true boxes as the tracks of the MOT challenge.
`gcl-fast crops` cuts them. The demo's warm-up trains on half of the people, and the other half is query and gallery.
Identities of the training crops are for the metrics alone. `with` clusters tracklets and draws batches across them.
`without` takes crops as if no tracklet were known (warmup.clustering.tracklets=false). A video shows a person in many
more crops than the demo's dataset, so `k1 60` does the same with more neighbours than the demo takes.

A finished video or run is not made again, and a run that was stopped resumes: the same command goes on. Leaves
tracklets.csv (a line for each run) in --out, and prints means with 95 % confidence intervals (Student's t over seeds).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path

from gcl_fast.process import prepare_process
from gcl_fast.table import text_table
from lib.runs import Row, read_rows, train_once

VARIANTS = {  # settings of warmup.clustering
    "with": ["tracklets=true"],
    "without": ["tracklets=false"],
    "k1 60": ["tracklets=false", "k1=60"],
}
FRACTIONS = ("purity", "ari", "outliers", "mAP", "rank1", "tracklet_mAP", "tracklet_rank1")


def make_dataset(folder: Path, identities: int, cameras: int, visits: int, every: int) -> Path:
    """Make the videos, cut their crops and label them; return the folder of the labelled manifest.

    Raises:
        RuntimeError: the crops could not be cut.
    """
    from gcl_fast.crops import main as cut
    from gcl_fast.settings import WorldConfig
    from lib.videos import label_crops, make_video

    config, files = WorldConfig(identities=identities, cameras=cameras), list[Path]()
    for camera in range(cameras):
        print(f"tracklets: video of camera {camera + 1} of {cameras}", flush=True)
        files += make_video(folder, config, camera, visits)
    crops = folder / f"crops-every{every}"
    flags = ["--out", str(crops), "--every", str(every), "--least-visibility", "0.3"]
    if cut([*map(str, files), *flags]):
        raise RuntimeError("the crops could not be cut")
    return label_crops(crops, folder, folder / f"labelled-every{every}").parent


def measure(runs: Path, data: Path, variant: str, seed: int, settings: list[str]) -> Row | None:
    """Train a warm-up, or what is left of it, and return its line; None where it failed."""
    from gcl_fast.evaluate import main as evaluate

    name = f"seed{seed}-{variant.replace(' ', '')}"
    settings = [*settings, *(f"warmup.clustering.{setting}" for setting in VARIANTS[variant])]
    stages = train_once(runs, name, seed, data, ["warmup"], settings=settings, dataset="manifest")
    if stages is None:
        return None
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        status = evaluate([str(runs / name), "--tracklets", "--json"])
    if status:
        return None
    by_tracklet, by_crop = json.loads(text.getvalue())["warmup"], stages["warmup"]
    records = map(json.loads, (runs / name / "metrics.jsonl").read_text().splitlines())
    last = [record for record in records if "clusters" in record][-1]
    return {
        "variant": variant,
        "seed": seed,
        "clusters": int(last["clusters"]),
        **{key: round(last[key], 5) for key in ("purity", "ari", "outliers")},
        **{key: round(by_crop[key], 5) for key in ("mAP", "rank1")},
        **{f"tracklet_{key}": round(by_tracklet[key], 5) for key in ("mAP", "rank1")},
        "steps": by_crop["steps"],
        "seconds": round(by_crop["seconds"]),
    }


def table(rows: list[Row]) -> str:
    """Return the metrics of each variant, `mean ± half-width`, fractions in per cent, and what tracklets gain."""
    from gcl_fast.intervals import interval_text

    others = [variant for variant in VARIANTS if variant != "with"]
    lines = [["metric, per cent", *VARIANTS, *(f"gain over {variant}" for variant in others)]]
    for name in ("clusters", *FRACTIONS):
        scale = 100 if name in FRACTIONS else 1
        of = {v: {row["seed"]: scale * row[name] for row in rows if row["variant"] == v} for v in VARIANTS}
        gains = []
        for variant in others:
            both = sorted(of["with"].keys() & of[variant].keys())
            differences = [of["with"][seed] - of[variant][seed] for seed in both]
            gains.append(interval_text(differences, "+.1f") if both else "")
        lines.append([name, *(interval_text([*of[v].values()]) if of[v] else "" for v in VARIANTS), *gains])
    return text_table(lines)


def main(arguments: list[str] | None = None) -> int:
    """Measure the runs that are missing, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--identities", type=int, default=40, help="people in training, and in test")
    parser.add_argument("--cameras", type=int, default=6)
    parser.add_argument("--visits", type=int, default=2, help="of each person to each camera")
    parser.add_argument("--every", type=int, default=2, help="frames between two crops of a track")
    parser.add_argument("--out", type=Path, default=Path("runs/tracklets"))
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of every run")
    options = parser.parse_args(arguments)
    from lib.reporting import append

    world = f"{options.identities}-people-{options.cameras}-cameras-{options.visits}-visits"
    settings = " ".join([world, f"every={options.every}", *options.set])
    runs = options.out / "-".join([world, f"every{options.every}", *(text.replace("/", "_") for text in options.set)])
    path, failed = options.out / "tracklets.csv", []
    try:
        data = make_dataset(options.out / world, options.identities, options.cameras, options.visits, options.every)
        for seed in options.seeds:
            for variant in VARIANTS:
                if (variant, seed) in {(row["variant"], row["seed"]) for row in read_rows(path, settings)}:
                    continue
                row = measure(runs, data, variant, seed, options.set)
                if row is None:
                    failed.append(f"{variant}, seed {seed}")
                    continue
                append(path, [{"settings": settings, **row}])
        if rows := read_rows(path, settings):
            print(f"\n{table(rows)}\n{path}", flush=True)
    except KeyboardInterrupt:
        print("tracklets: interrupted; the same command goes on", file=sys.stderr)
        return 130
    if failed:
        print("tracklets: not trained to the end: " + "; ".join(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
