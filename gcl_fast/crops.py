"""Cut crops of people from videos, by the boxes of a tracker: gcl-fast crops VIDEO TRACKS --out DIR

Several pairs VIDEO TRACKS are several cameras. TRACKS is the text of the MOT challenge, a line for each box:
frame,track,left,top,width,height[,confidence[,class,visibility]], with frames from 1. DIR gets a manifest, so that
gcl-fast data DIR shows it, and gcl-fast train --dataset manifest --data-root DIR trains on it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gcl_fast.arguments import Parser
from gcl_fast.console import printable
from gcl_fast.entry import entry, in_one_line
from gcl_fast.errors import UserError


def parser() -> Parser:
    """Return the parser of the flags."""
    parser = Parser("gcl-fast crops", str(__doc__), usage="gcl-fast crops VIDEO TRACKS [VIDEO TRACKS ...] --out DIR")
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="VIDEO TRACKS", help="a video, and the file of its tracks; in pairs")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the crops; a killed command goes on there")
    add(
        "--cameras",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="a name for the camera of each pair (default: 1, 2, ...)",
    )
    add("--every", type=int, default=10, metavar="N", help="frames between two crops of a track (default: 10)")
    add("--least-size", nargs=2, type=int, default=[16, 32], metavar=("W", "H"), help="in pixels (default: 16 32)")
    add("--least-confidence", type=float, metavar="C", help="default: all but 0, which marks boxes to ignore")
    add("--least-visibility", type=float, metavar="V", help="from 0 to 1, where the file has it (default: all)")
    add("--margin", type=float, default=0.0, metavar="SHARE", help="of the box, on each side (default: 0)")
    add("--quality", type=int, default=95, metavar="Q", help="of JPEG, 1 to 95 (default: 95)")
    return parser


@entry
def main(arguments: list[str] | None) -> int:
    """Write the crops and the manifest, and return the exit status."""
    options = parser().parse_intermixed_args(arguments)
    cameras = _check(options)
    with in_one_line():
        from gcl_fast.data.video.choice import CropChoice
        from gcl_fast.data.video.crop_folder import Source, write_crop_folder

    sources = [Source(*pair) for pair in zip(options.files[::2], options.files[1::2], cameras)]
    width, height = options.least_size
    choice = CropChoice(
        options.every, width, height, options.least_confidence, options.least_visibility, options.margin
    )
    made = write_crop_folder(options.out, sources, choice, options.quality)
    for note in made.notes:
        print(printable(note))
    print(f"{made.crops:,} crops in {made.tracklets:,} tracklets of {made.cameras:,} cameras in {options.out}")
    if made.passed_over:
        print("boxes passed over: " + ", ".join(f"{count:,} {reason}" for reason, count in made.passed_over.items()))
    return 0


def _check(options: argparse.Namespace) -> list[str]:
    """Return the names of the cameras; raise a UserError for files that are no pairs, and values out of range."""
    pairs, odd = divmod(len(options.files), 2)
    if odd:
        raise UserError(f"{len(options.files)} files are no pairs: name VIDEO TRACKS for each camera")
    cameras = options.cameras or [str(number) for number in range(1, pairs + 1)]
    if len(cameras) != pairs:
        raise UserError(f"--cameras names {len(cameras)} cameras for {pairs} videos: name one for each")
    share = lambda value: value is None or 0 <= value <= 1
    for flag, value, fits, expected in (
        ("every", options.every, options.every >= 1, "1 frame or more"),
        ("least-size", options.least_size, min(options.least_size) >= 1, "1 pixel or more"),
        ("least-visibility", options.least_visibility, share(options.least_visibility), "a share from 0 to 1"),
        ("margin", options.margin, 0 <= options.margin <= 1, "a share of the box from 0 to 1"),
        ("quality", options.quality, 1 <= options.quality <= 95, "1 to 95"),
    ):
        if not fits:
            raise UserError(f"--{flag} {value}: expected {expected}")
    return cameras


if __name__ == "__main__":
    sys.exit(main())
