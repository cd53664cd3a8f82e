"""Make the embedded dataset: gcl-fast synthetic --out DIR"""

from __future__ import annotations

import sys
import time

from gcl_fast.arguments import Parser, number
from gcl_fast.entry import INTERRUPTED, entry, in_one_line
from gcl_fast.settings import WorldConfig
from gcl_fast.settings.ranges import Range


def parser() -> Parser:
    """Return the parser of the flags."""
    default = WorldConfig()
    parser = Parser("gcl-fast synthetic", "Make the embedded dataset.")
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="folder of the world; it is made if missing")
    add("--identities", type=int, default=default.identities, help="people per split (%(default)s)")
    add("--cameras", type=int, default=default.cameras, help="number of cameras (%(default)s)")
    add(
        "--crops", type=int, default=default.crops, help="crops per person and camera (4 easy to 2 hard, by difficulty)"
    )
    add("--size", type=int, nargs=2, default=default.size, metavar=("H", "W"), help="size of a crop in pixels (128 64)")
    add("--seed", type=int, default=default.seed, help="seed of the world (%(default)s)")
    add("--difficulty", type=float, default=default.difficulty, help="0 easy to 1 hard (%(default)s)")
    add("--workers", type=number(int, Range(1)), help="number of processes (all cores)")
    return parser


@entry
def main(arguments: list[str] | None) -> int:
    """Make the world that the flags describe and return the exit status."""
    options = vars(parser().parse_args(arguments))
    out, workers = options.pop("out"), options.pop("workers")
    world = WorldConfig(**{**options, "size": tuple(options["size"])})
    with in_one_line():
        from gcl_fast.synthetic.world_folder import make_world

    start = time.monotonic()
    try:
        root = make_world(out, world, workers=workers)
    except KeyboardInterrupt:
        print(f"gcl_fast: stopped; the same command continues (finished people stay in {out})", file=sys.stderr)
        return INTERRUPTED
    print(f"synthetic world in {root} ({time.monotonic() - start:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
