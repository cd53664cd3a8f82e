"""Novel views of crops, by a run's or the official weights: python -m gcl_fast.generate runs/NAME --out views.png"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gcl_fast.entry import entry, in_one_line
from gcl_fast.errors import UserError
from gcl_fast.process import prepare_process

if __name__ == "__main__":
    prepare_process()  # may restart the process: before torch is imported

with in_one_line():
    import torch
    from torchvision.io import encode_png

    from gcl_fast.assessment.assess import Assessment
    from gcl_fast.assessment.views import YAWS, draw_views, each_view
    from gcl_fast.distributed import ranks as processes
    from gcl_fast.inputs import open_inputs
    from gcl_fast.optim import precision as arithmetic
    from gcl_fast.run.restore import add_arguments, load_run, restore
    from gcl_fast.settings import STAGES


@entry
def main(arguments: list[str] | None) -> int:
    """Draw the grid, or write one file a view. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m gcl_fast.generate", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--stage", choices=STAGES[1:], help="whose weights (default: the last finished)")
    parser.add_argument(
        "--split", choices=("train", "query", "gallery"), help="default: query where it has structure maps"
    )
    parser.add_argument(
        "--names", nargs="+", metavar="CROP", help="file names of crops (default: spread over the split)"
    )
    parser.add_argument("--count", type=int, default=6, help="how many, when no names are given (default: 6)")
    parser.add_argument("--yaws", nargs="+", type=float, default=[], metavar="DEG", help="default: 0, 45, ..., 315")
    parser.add_argument("--out", type=Path, default=Path("views.png"), help="the picture (default: views.png)")
    parser.add_argument(
        "--files", type=Path, metavar="DIR", help="instead of a picture, one DIR/CROP_yawDEG.png a view"
    )
    given = parser.parse_args(arguments)
    config = load_run(given)
    ranks = processes.start(given.device)
    precision = arithmetic.choose(given.amp, ranks.device)
    inputs = open_inputs(config)
    assessment = Assessment(config, inputs, ranks, precision)
    split = given.split or assessment.split_to_turn()
    index = assessment.choose(split, given.names, given.count)
    wanted = [given.stage] if given.stage else None
    *_, (stage, gcl) = restore(given.run, config, wanted, ranks.device, generator=True)
    yaws = given.yaws or list(YAWS)
    if given.files is None:
        draw_views(gcl, inputs, split, index, given.out, ranks, precision, yaws)
        print(f"{stage}: {len(index)} crops of {split} at {len(yaws)} yaws in {given.out}")
        return 0
    written = 0
    for name, view in each_view(gcl, inputs, split, index, ranks, precision, yaws):
        for yaw, picture in zip(yaws, view.drawn):
            path = given.files / f"{Path(name).with_suffix('')}_yaw{yaw:g}.png"
            _write(path, picture)
            written += 1
    print(f"{stage}: {written} views of {len(index)} crops of {split} in {given.files}")
    return 0


def _write(path: Path, picture: torch.Tensor) -> None:
    """Write a picture (3, H, W) in 0..1 as PNG. Raises a UserError where that cannot be."""
    png = encode_png((picture * 255).round().to(torch.uint8).cpu())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png.numpy().tobytes())
    except OSError as error:
        raise UserError(f"cannot write views to {path} ({error.strerror}); choose another place") from error


if __name__ == "__main__":
    sys.exit(main())
