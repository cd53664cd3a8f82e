"""Train the estimator of bodies on synthetic cut-outs: python -m gcl_fast.estimator_training --work DIR --out FILE"""

from __future__ import annotations

import sys
from pathlib import Path

from gcl_fast.arguments import Parser, number
from gcl_fast.entry import entry, in_one_line
from gcl_fast.process import prepare_process
from gcl_fast.settings.ranges import Range


def parser() -> Parser:
    """Return the parser of the flags."""
    parser = Parser("python -m gcl_fast.estimator_training", "Train the estimator of bodies on synthetic cut-outs.")
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FILE", help="file of the weights to write (.safetensors)")
    add("--work", type=Path, required=True, metavar="DIR", help="folder that keeps cut-outs for later calls")
    add("--shards", type=number(int, Range(1)), default=3, help="number of shards of cut-outs (default: %(default)s)")
    add("--steps", type=number(int, Range(1)), default=4000, help="number of steps (default: %(default)s)")
    add("--init", type=Path, metavar="FILE", help="weights to start from")
    add(
        "--seed",
        type=number(int, Range(0)),
        default=0,
        help="seed of order and changes (default: %(default)s)",
    )
    return parser


@entry
def main(arguments: list[str] | None) -> int:
    """Draw the cut-outs that are missing, train, write the weights, and return the exit status."""
    options = parser().parse_args(arguments)
    prepare_process()  # may restart the process: before torch is imported
    with in_one_line():
        from gcl_fast.atomic import check_target
        from gcl_fast.bodies.body_estimator import load_regressor
        from gcl_fast.bodies.body_regressor import BodyRegressor
        from gcl_fast.estimator_training.fit import cutouts, train

    check_target(options.out)
    network = load_regressor(options.init) if options.init else BodyRegressor()
    train(cutouts(options.work, options.shards), options.out, options.steps, network, options.seed)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
