"""Draw novel views of crops, by a run's or official weights: gcl-fast generate runs/NAME --out views.png"""

from __future__ import annotations

import sys
from pathlib import Path

from gcl_fast.arguments import DEGREES, Parser, add_run_arguments, number
from gcl_fast.entry import entry, in_one_line
from gcl_fast.process import prepare_process
from gcl_fast.settings import STAGES
from gcl_fast.settings.ranges import Range


def parser() -> Parser:
    """Return the parser of the flags."""
    parser = Parser("gcl-fast generate", str(__doc__))
    add_run_arguments(parser)
    parser.add_argument("--stage", choices=STAGES[1:], help="stage whose weights draw (default: the last finished)")
    parser.add_argument(
        "--split", choices=("train", "query", "gallery"), help="default: query where it has structure maps"
    )
    parser.add_argument(
        "--names",
        nargs="+",
        action="extend",
        metavar="CROP",
        help="file names of crops (default: spread over the split)",
    )
    parser.add_argument(
        "--count", type=number(int, Range(1)), default=6, help="number of crops, without --names (default: 6)"
    )
    yaw = number(float, DEGREES)
    parser.add_argument(
        "--yaws", nargs="+", action="extend", type=yaw, default=[], metavar="DEG", help="default: 0, 45, ..., 315"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("views.png"), help="the PNG file to write (default: views.png)"
    )
    parser.add_argument(
        "--files", type=Path, metavar="DIR", help="write a file DIR/CROP_yawDEG.png for each view instead of --out"
    )
    return parser


@entry
def main(arguments: list[str] | None) -> int:
    """Draw the grid, or write a file for each view, and return the exit status."""
    options = parser().parse_args(arguments)
    prepare_process()  # may restart the process: before torch is imported
    with in_one_line():
        from gcl_fast.assessment.assess import Assessment
        from gcl_fast.assessment.views import YAWS, draw_views, each_view, write_view
        from gcl_fast.atomic import check_target
        from gcl_fast.distributed.ranks import start
        from gcl_fast.optim.precision import choose as choose_precision
        from gcl_fast.run.restore import load_run, open_noted, restore

    if options.files is None:
        check_target(options.out)
    config = load_run(options)
    ranks = start(options.device)
    precision = choose_precision(config.amp, ranks.device)
    inputs = open_noted(config)
    assessment = Assessment(config, inputs, ranks, precision)
    split = options.split or assessment.split_to_turn()
    index = assessment.choose(split, options.names, options.count)
    stages = [options.stage] if options.stage else None
    *_, (stage, gcl) = restore(options.run, config, stages, ranks.device, generator=True)
    yaws = options.yaws or list(YAWS)
    if options.files is None:
        draw_views(gcl, inputs, split, index, options.out, ranks, precision, yaws)
        print(f"{stage}: {len(index)} crops of {split} at {len(yaws)} yaws in {options.out}")
        return 0
    count = 0
    for name, view in each_view(gcl, inputs, split, index, ranks, precision, yaws):
        for yaw, image in zip(yaws, view.drawn):
            path = options.files / f"{Path(name).with_suffix('')}_yaw{yaw:g}.png"
            write_view(path, image)
            count += 1
    print(f"{stage}: {count} views of {len(index)} crops of {split} in {options.files}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
