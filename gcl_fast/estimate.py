"""Estimate body parameters of person crops: pose, shape, view, camera and a confidence for each crop.

gcl-fast estimate --images DIR --out FILE [--preview PNG]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from gcl_fast.arguments import Parser, add_device
from gcl_fast.console import printable
from gcl_fast.entry import entry, in_one_line
from gcl_fast.process import prepare_process


def parser() -> Parser:
    """Return the parser of the flags."""
    parser = Parser("gcl-fast estimate", "Estimate body parameters (Anny) of a folder of person crops.")
    add = parser.add_argument
    add("--images", type=Path, required=True, metavar="DIR", help="folder of crops; for a dataset, its split's folder")
    add("--out", type=Path, required=True, metavar="FILE", help="body-parameter file, DIR/body_parameters/train.npz")
    add("--preview", type=Path, metavar="PNG", help="image of crops and their estimated structure maps")
    add("--truth", type=Path, metavar="FILE", help="true body parameters of these crops, to measure the error")
    add("--weights", type=Path, metavar="FILE", help="weights (those that ship with gcl_fast)")
    add("--on-bad-image", choices=("skip", "error"), default="skip", help="what to do with broken images (skip)")
    add_device(parser)
    return parser


@entry
def main(arguments: list[str] | None) -> int:
    """Estimate body parameters, write the file, list the doubtful crops and return the exit status."""
    options = parser().parse_args(arguments)
    prepare_process()  # may restart the process: before torch is imported
    with in_one_line():
        from gcl_fast.assessment.estimates import doubts, overlap, preview, yaw_error
        from gcl_fast.atomic import check_target
        from gcl_fast.bodies import align, load_body_parameters
        from gcl_fast.bodies.body_estimator import WEIGHTS, estimate_to_file
        from gcl_fast.data import drop_broken, open_dataset
        from gcl_fast.distributed import ranks as processes

    check_target(options.out)
    if options.preview:
        check_target(options.preview)
    truth = load_body_parameters(options.truth) if options.truth else None
    records, notice = drop_broken(open_dataset("folder", options.images).train, options.on_bad_image)
    if notice:
        print(printable(notice))
    if truth is not None:
        truth = align(truth, records.names, options.truth, options.images)
    device, start = processes.start(options.device).device, time.monotonic()
    params = estimate_to_file(records, options.out, device, options.weights or WEIGHTS, again=True)
    seconds = time.monotonic() - start
    print(f"{options.out}: {len(params)} crops in {seconds:.1f} s ({len(params) / seconds:.0f} a second)")
    print(doubts(params))
    if truth is not None:
        print(yaw_error(params, truth))
        print(overlap(params, truth))
    if options.preview:
        preview(records, params, options.preview)
    return 0


if __name__ == "__main__":
    sys.exit(main())
