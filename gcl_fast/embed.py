"""Embed images by trained networks: gcl-fast embed RUN IMAGES... --out rows.npz

RUN is the folder of a run, one of its .safetensors files, or official weights. The .npz holds `rows` (N, D) float32,
`names` (N,) and `digest` of the model. The row of an image that does not decode is NaN.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gcl_fast.arguments import Parser, add_device, add_precision
from gcl_fast.entry import entry, in_one_line
from gcl_fast.errors import UserError
from gcl_fast.process import prepare_process


def parser() -> Parser:
    """Return the parser of the flags."""
    parser = Parser("gcl-fast embed", str(__doc__))
    add = parser.add_argument
    add("model", metavar="RUN", help="folder of a run, a .safetensors file of it, or official weights")
    add("images", nargs="+", type=Path, metavar="IMAGES", help="image files and folders, searched with subfolders")
    add("--out", type=Path, required=True, metavar="FILE", help="the .npz to write")
    add("--stage", help="of a run's folder (default: the last one that is finished)")
    add("--flip", action="store_true", help="take the mean with the embedding of the mirrored image")
    add_precision(parser)
    add_device(parser)
    return parser


@entry
def main(arguments: list[str] | None) -> int:
    """Write the embeddings of all images, and return the exit status."""
    options = parser().parse_args(arguments)
    prepare_process()  # may restart the process: before torch is imported
    with in_one_line():
        import numpy as np

        from gcl_fast.atomic import check_target, write_target
        from gcl_fast.distributed.ranks import start
        from gcl_fast.inference.images import listed_files
        from gcl_fast.inference.load import load

    if options.out.suffix != ".npz":
        raise UserError(f"--out {options.out}: expected a name that ends in .npz")
    check_target(options.out)
    paths = listed_files(options.images)
    model = load(options.model, start(options.device).device, options.amp, stage=options.stage)
    rows = model.embed(paths, flip=options.flip).numpy()
    names, digest = np.array([str(path) for path in paths]), np.array(model.digest)
    if np.isnan(rows).all():
        raise UserError(f"none of the {len(rows)} images decodes; the lines above say why")
    write_target(options.out, lambda file: np.savez(file, rows=rows, names=names, digest=digest))
    print(f"{options.out}: {len(rows)} rows of {model.dim} by {model.digest}, {np.isnan(rows).any(1).sum()} are NaN")
    return 0


if __name__ == "__main__":
    sys.exit(main())
