"""Estimate body parameters of person crops: pose, shape, view, camera and a confidence for each crop.

python -m gcl_fast.estimate --images DIR --out FILE [--preview PNG]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from gcl_fast.entry import entry, in_one_line
from gcl_fast.errors import UserError
from gcl_fast.process import prepare_process

if __name__ == "__main__":
    prepare_process()  # may restart the process: before torch is imported

with in_one_line():
    import torch

    from gcl_fast.bodies import AnnyBody, BodyParameters, OnlineStructureMaps, align, load_body_parameters
    from gcl_fast.bodies.body_estimator import DOUBTFUL, WEIGHTS, estimate_to_file
    from gcl_fast.bodies.body_regressor import SIZE
    from gcl_fast.data import ExtractLoader, Records, drop_broken, open_dataset
    from gcl_fast.distributed import ranks as processes
    from gcl_fast.evaluation.figures import pair_grid
    from gcl_fast.evaluation.inference import to_unit

PREVIEW_CROPS = 48  # crops in the preview, from the most certain to the most doubtful
LISTED_CROPS = 5  # most doubtful crops that are listed by name


@entry
def main(arguments: list[str] | None) -> int:
    """Estimate body parameters, write the file, list the doubtful crops and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m gcl_fast.estimate", description="Estimate body parameters (Anny) of a folder of person crops."
    )
    add = parser.add_argument
    add("--images", type=Path, required=True, metavar="DIR", help="folder of crops; for a dataset, its split's folder")
    add("--out", type=Path, required=True, metavar="FILE", help="body-parameter file, DIR/body_parameters/train.npz")
    add("--preview", type=Path, metavar="PNG", help="image of crops and their estimated structure maps")
    add("--truth", type=Path, metavar="FILE", help="true body parameters of these crops, to measure the error")
    add("--weights", type=Path, metavar="FILE", default=WEIGHTS, help="weights (those that ship with gcl_fast)")
    add("--on-bad-image", choices=("skip", "error"), default="skip", help="what to do with broken images (skip)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    options = parser.parse_args(arguments)
    truth = load_body_parameters(options.truth) if options.truth else None
    records, notice = drop_broken(open_dataset("folder", options.images).train, options.on_bad_image)
    if notice:
        print(notice)
    device, start = processes.start(options.device).device, time.monotonic()
    params = estimate_to_file(records, options.out, device, options.weights, again=True)
    seconds = time.monotonic() - start
    print(f"{options.out}: {len(params)} crops in {seconds:.1f} s ({len(params) / seconds:.0f} a second)")
    print(_doubts(params))
    if truth is not None:
        truth = align(truth, params.names, options.truth, options.images)
        print(_yaw_error(params, truth))
        print(_overlap(params, truth))
    if options.preview:
        preview(records, params, options.preview)
    return 0


def preview(records: Records, params: BodyParameters, path: Path) -> None:
    """Draw crops next to their structure maps, the most certain first, with red labels for doubtful ones.

    Args:
        records: the crops.
        params: their body parameters.
        path: the image file to write.

    Raises:
        UserError: `path` cannot be written.
    """
    order = params.confidence.argsort(descending=True)
    index = order[torch.linspace(0, len(order) - 1, min(PREVIEW_CROPS, len(order))).round().long()]
    crops = to_unit(torch.cat([image for image, _ in ExtractLoader(records.subset(index.numpy()), SIZE)]))
    maps = OnlineStructureMaps(AnnyBody(), params, SIZE, "cpu")(index, torch.zeros(len(index)))
    rows = zip(params.yaw[index].tolist(), params.confidence[index].tolist())
    labels = [(f"{yaw:.0f}° {p:.2f}", "black" if p >= DOUBTFUL else "red") for yaw, p in rows]
    try:
        pair_grid(crops, (maps + 1) / 2, labels, path)
    except OSError as error:
        raise UserError(f"cannot write the preview to {path} ({error.strerror}); choose another place") from error


def _doubts(params: BodyParameters) -> str:
    """Return a sentence that counts the doubtful crops and lists the worst."""
    order = params.confidence.argsort().tolist()
    worst = [params.names[i] for i in order[:LISTED_CROPS] if params.confidence[i] < DOUBTFUL]
    count = int((params.confidence < DOUBTFUL).sum())
    names = f": {', '.join(worst)}{', ...' if count > len(worst) else ''}" if worst else ""
    return f"doubtful (confidence below {DOUBTFUL}): {count} of {len(params)}{names}"


def _yaw_error(params: BodyParameters, truth: BodyParameters) -> str:
    """Return a sentence about the yaw's error, over all crops and over those that are not doubtful."""
    error = ((params.yaw - truth.yaw + 180) % 360 - 180).abs()
    certain = params.confidence >= DOUBTFUL

    def summary(error: torch.Tensor) -> str:
        """Return median and shares of the errors (N,) in degrees."""
        shares = (f"{100 * (error <= limit).float().mean():.1f} % within {limit}" for limit in (30, 45))
        return f"median {error.median():.1f} degrees, {', '.join(shares)} ({len(error)} crops)"

    return f"yaw error: {summary(error)}" + (f"; not doubtful: {summary(error[certain])}" if certain.any() else "")


def _overlap(params: BodyParameters, truth: BodyParameters) -> str:
    """Return a sentence about the overlap of estimated and true silhouettes, in the crop's view and turned."""
    sources = [OnlineStructureMaps(AnnyBody(), bodies, SIZE, "cpu") for bodies in (params, truth)]

    def mean(turn: float) -> float:
        """Return the mean intersection over union with both bodies turned by `turn` degrees."""
        shares = []
        for index in torch.arange(len(params)).split(64):
            ours, theirs = (source(index, torch.full((len(index),), turn)) < 1 for source in sources)  # white: 1
            shares.append((ours & theirs).sum((1, 2, 3)) / (ours | theirs).sum((1, 2, 3)).clamp_min(1))
        return float(torch.cat(shares).mean())

    return f"silhouettes: intersection over union {mean(0):.3f}, both bodies turned by 90 degrees {mean(90):.3f}"


if __name__ == "__main__":
    sys.exit(main())
