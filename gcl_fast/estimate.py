"""Body parameters of person crops, where nobody has them: how each person stands and is seen, and how sure that is.

python -m gcl_fast.estimate --images DIR --out FILE [--preview PNG]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from gcl_fast.errors import UserError, entry, in_one_line
from gcl_fast.training.process import prepare_process

if __name__ == "__main__":
    prepare_process()  # may restart the process: before torch is imported

with in_one_line():
    import torch

    from gcl_fast.bodies import AnnyBody, BodyParameters, OnlineStructureMaps, align, load_body_parameters
    from gcl_fast.bodies.body_estimator import DOUBTFUL, WEIGHTS, estimate_to_file
    from gcl_fast.bodies.body_regressor import SIZE
    from gcl_fast.data import ExtractLoader, Records, drop_broken, open_dataset
    from gcl_fast.evaluation.figures import pair_grid
    from gcl_fast.evaluation.protocol import to_unit
    from gcl_fast.training import ranks as processes

PREVIEWED = 48  # crops in the preview, from the most certain to the most doubtful
NAMED = 5  # doubtful crops that are named


@entry
def main(arguments: list[str] | None) -> int:
    """Estimate, write the file, say what is doubtful. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m gcl_fast.estimate", description="Estimate body parameters (Anny) of a folder of person crops."
    )
    add = parser.add_argument
    add("--images", type=Path, required=True, metavar="DIR", help="folder of crops; of a dataset, that of the split")
    add("--out", type=Path, required=True, metavar="FILE", help="body-parameter file, DIR/body_parameters/train.npz")
    add("--preview", type=Path, metavar="PNG", help="picture of crops beside what was estimated")
    add("--truth", type=Path, metavar="FILE", help="true body parameters of these crops, to measure against")
    add("--weights", type=Path, metavar="FILE", default=WEIGHTS, help="others than those that ship with gcl_fast")
    add("--on-bad-image", choices=("skip", "error"), default="skip", help="a picture that does not decode")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    given = parser.parse_args(arguments)
    truth = load_body_parameters(given.truth) if given.truth else None
    records, said = drop_broken(open_dataset("folder", given.images).train, given.on_bad_image)
    if said:
        print(said)
    device, began = processes.start(given.device).device, time.monotonic()
    params = estimate_to_file(records, given.out, device, given.weights, again=True)
    seconds = time.monotonic() - began
    print(f"{given.out}: {len(params)} crops in {seconds:.1f} s ({len(params) / seconds:.0f} a second)")
    print(_doubts(params))
    if truth is not None:
        truth = align(truth, params.names, given.truth, given.images)
        print(_yaw_error(params, truth))
        print(_overlap(params, truth))
    if given.preview:
        preview(records, params, given.preview)
    return 0


def preview(records: Records, params: BodyParameters, path: Path) -> None:
    """Draw crops beside their structure maps, the most certain first; what is doubtful is labelled in red.

    Raises UserError where `path` cannot be written."""
    order = params.confidence.argsort(descending=True)
    chosen = order[torch.linspace(0, len(order) - 1, min(PREVIEWED, len(order))).round().long()]
    crops = to_unit(torch.cat([image for image, _ in ExtractLoader(records.subset(chosen.numpy()), SIZE)]))
    maps = OnlineStructureMaps(AnnyBody(), params, SIZE, "cpu")(chosen, torch.zeros(len(chosen)))
    rows = zip(params.yaw[chosen].tolist(), params.confidence[chosen].tolist())
    labels = [(f"{yaw:.0f}° {sure:.2f}", "black" if sure >= DOUBTFUL else "red") for yaw, sure in rows]
    try:
        pair_grid(crops, (maps + 1) / 2, labels, path)
    except OSError as error:
        raise UserError(f"cannot write the preview to {path} ({error.strerror}); choose another place") from error


def _doubts(params: BodyParameters) -> str:
    """How many crops are doubtful, and which are the worst."""
    order = params.confidence.argsort().tolist()
    worst = [params.names[i] for i in order[:NAMED] if params.confidence[i] < DOUBTFUL]
    count = int((params.confidence < DOUBTFUL).sum())
    named = f": {', '.join(worst)}{', ...' if count > len(worst) else ''}" if worst else ""
    return f"doubtful (confidence below {DOUBTFUL}): {count} of {len(params)}{named}"


def _yaw_error(params: BodyParameters, truth: BodyParameters) -> str:
    error = ((params.yaw - truth.yaw + 180) % 360 - 180).abs()
    sure = params.confidence >= DOUBTFUL

    def told(error: torch.Tensor) -> str:
        shares = (f"{100 * (error <= limit).float().mean():.1f} % within {limit}" for limit in (30, 45))
        return f"median {error.median():.1f} degrees, {', '.join(shares)} ({len(error)} crops)"

    return f"yaw error: {told(error)}" + (f"; not doubtful: {told(error[sure])}" if sure.any() else "")


def _overlap(params: BodyParameters, truth: BodyParameters) -> str:
    """How far the silhouettes of structure maps of both agree."""
    sources = [OnlineStructureMaps(AnnyBody(), bodies, SIZE, "cpu") for bodies in (params, truth)]

    def mean(turn: float) -> float:
        shares = []
        for index in torch.arange(len(params)).split(64):
            ours, theirs = (source(index, torch.full((len(index),), turn)) < 1 for source in sources)  # white: 1
            shares.append((ours & theirs).sum((1, 2, 3)) / (ours | theirs).sum((1, 2, 3)).clamp_min(1))
        return float(torch.cat(shares).mean())

    return f"silhouettes: intersection over union {mean(0):.3f}, both bodies turned by 90 degrees {mean(90):.3f}"


if __name__ == "__main__":
    sys.exit(main())
