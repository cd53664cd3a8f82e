"""Search a gallery for the person of an image: index a folder once, then search it as often as you like.

    gcl-fast search INDEX --build FOLDER --model RUN       index all images below FOLDER
    gcl-fast search INDEX QUERY.jpg --image matches.png    print the matches, and draw them
    gcl-fast search INDEX --serve                          a page to drop an image on, for this machine alone

The search is exact: no image that is more similar is left out. The index remembers its model and refuses another one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcl_fast.arguments import Parser, add_device, add_precision
from gcl_fast.entry import entry, in_one_line
from gcl_fast.errors import UserError
from gcl_fast.process import prepare_process
from gcl_fast.settings import DATASETS

if TYPE_CHECKING:
    import numpy as np

    from gcl_fast.gallery.index import Index, Match
    from gcl_fast.inference.model import Model

BLOCK = 4096  # images that are embedded at a time: the rows of a large gallery go to disk block by block
PORT = 8000


def parser() -> Parser:
    """Return the parser of the flags."""
    parser = Parser("gcl-fast search", str(__doc__))
    add = parser.add_argument
    add("index", type=Path, metavar="INDEX", help="folder of the index")
    add("queries", nargs="*", type=Path, metavar="QUERY", help="image files and folders, searched with subfolders")
    add("--k", type=int, default=10, help="matches of a query (default: 10)")
    add("--json", action="store_true", help="one JSON object instead of tables")
    add("--image", type=Path, metavar="FILE", help="write a PNG of the queries and their matches")
    add("--serve", action="store_true", help="serve a page on 127.0.0.1, until Ctrl-C")
    add("--port", type=int, help=f"of the page (default: {PORT}; 0: any that is free)")
    add("--images", type=Path, metavar="DIR", help="where the gallery's images are now, if they moved")
    build = parser.add_argument_group("to build the index")
    build.add_argument("--build", type=Path, metavar="FOLDER", help="index the images below FOLDER; replaces INDEX")
    layout = f"layout of FOLDER, which names cameras (default: folder): {', '.join(DATASETS)}"
    build.add_argument("--dataset", choices=DATASETS, metavar="NAME", help=layout)
    build.add_argument("--split", choices=("train", "query", "gallery"), help="with --dataset (default: gallery)")
    model = parser.add_argument_group("the model")
    model.add_argument(
        "--model",
        type=Path,
        metavar="RUN",
        help="run, .safetensors file of one, or official weights (default: the one that built the index)",
    )
    add_precision(parser)
    add_device(parser)
    return parser


@entry
def main(arguments: list[str] | None) -> int:
    """Build, search or serve an index, and return the exit status."""
    options = parser().parse_intermixed_args(arguments)  # QUERY may stand behind flags
    _refuse_idle(options)
    prepare_process()  # may restart the process: before torch is imported
    with in_one_line():
        from gcl_fast.atomic import check_target
        from gcl_fast.gallery.index import open_index
        from gcl_fast.inference.images import listed_files

    if options.image is not None:
        check_target(options.image)
    queries = listed_files(options.queries)
    if options.build is not None:
        model = _build(options)
        if not (queries or options.serve):
            return 0
        index = open_index(options.index, options.images)
    else:
        index = open_index(options.index, options.images)
        if queries:
            index.check_k(options.k)
        model = _load(options, options.model or Path(index.maker.path))
        _check_model(model, index)
    if queries:
        _search(options, index, model, queries)
    if options.serve:
        from gcl_fast.gallery.server import serve

        serve(index, model, PORT if options.port is None else options.port)
    return 0


def _refuse_idle(options: argparse.Namespace) -> None:
    """Raise a UserError where there is nothing to do, or for a flag which would do nothing with the others."""
    if not (options.queries or options.serve or options.build):
        raise UserError("nothing to search for: give a QUERY, --serve for a page, or --build FOLDER for a new index")
    needed = {"json": "queries", "image": "queries", "port": "serve", "dataset": "build", "split": "dataset"}
    for flag, other in needed.items():
        absent = (value := getattr(options, flag)) is None or value is False
        if not absent and not getattr(options, other):
            raise UserError(f"--{flag} does nothing without {'a QUERY' if other == 'queries' else '--' + other}")
    if options.build and not options.model:
        raise UserError("--build needs --model RUN: a run, a .safetensors file of one, or official weights")
    if options.build and options.k < 1:  # before the index is made
        raise UserError(f"--k {options.k}: expected 1 or more")
    if options.port is not None and not 0 <= options.port < 2**16:
        raise UserError(f"--port {options.port}: expected 0 to {2**16 - 1}")


def _load(options: argparse.Namespace, source: Path) -> Model:
    """Load the model that embeds queries and images."""
    from gcl_fast.distributed.ranks import start
    from gcl_fast.inference.load import load

    return load(source, start(options.device).device, options.amp)


def _check_model(model: Model, index: Index) -> None:
    """Raise a UserError where another model made the rows of the index."""
    if (model.digest, model.size) != (index.maker.digest, index.maker.size):
        raise UserError(
            f"{index.folder} was made by another model ({index.maker.path}, digest {index.maker.digest}) than this one"
            f" ({model.digest}): name the same one by --model, or build the index again"
        )


def _build(options: argparse.Namespace) -> Model:
    """Index the images below a folder, and return the model that did."""
    import numpy as np

    from gcl_fast.console import LOGGER
    from gcl_fast.data import open_dataset
    from gcl_fast.gallery.index import Maker, check_folder, open_index, write_index

    check_folder(options.index)
    dataset = open_dataset(options.dataset or "folder", options.build)
    records = getattr(dataset, options.split or ("gallery" if len(dataset.gallery) else "train"))
    if not len(records):
        raise UserError(f"{options.build}: there are no images in {options.split}; another --split has some")
    model = _load(options, options.model)

    def blocks() -> Iterator[np.ndarray]:
        """Yield the rows of the images, with the errors of this command."""
        readable = 0
        for begin in range(0, len(records), BLOCK):
            rows = model.embed(records.paths[begin : begin + BLOCK]).numpy()
            readable += int((~np.isnan(rows[:, 0])).sum())
            yield rows
        if not readable:
            raise UserError(f"none of the {len(records)} images below {options.build} decodes; the lines above say why")

    maker = Maker(model.digest, model.size, str(options.model.resolve()))
    write_index(options.index, blocks(), records, maker)
    index = open_index(options.index)
    unreadable = f", {index.unreadable:,} of them do not decode" if index.unreadable else ""
    LOGGER.info("%s: %s images of %s%s", options.index, f"{len(index):,}", records.root, unreadable)
    return model


def _search(options: argparse.Namespace, index: Index, model: Model, queries: list[Path]) -> None:
    """Print the matches of the queries, and draw them where that is asked for."""
    import numpy as np

    from gcl_fast.gallery.figure import match_figure

    rows = model.embed(queries).numpy()
    decoded = ~np.isnan(rows[:, 0])
    if not decoded.any():
        raise UserError(f"none of the {len(queries)} queries decodes; the lines above say why")
    matches = index.search(rows, options.k)
    if options.image is not None:
        shown = np.flatnonzero(decoded)
        match_figure([queries[i] for i in shown], [matches[i] for i in shown], index, options.image)
    if options.json:
        lists = [_as_json(query, best) for query, best in zip(queries, matches)]
        print(json.dumps({"index": str(index.folder), "root": str(index.root), "queries": lists}, indent=2))
        return
    for query, best in zip(queries, matches):
        if best:
            print(_table(query, best), end="\n\n")
    if options.image is not None:
        print(options.image)


def _as_json(query: Path, matches: list[Match]) -> dict[str, Any]:
    """Return the matches of a query; an image that does not decode has null."""
    return {"query": str(query), "matches": [match._asdict() for match in matches] or None}


def _table(query: Path, matches: list[Match]) -> str:
    """Return the matches of a query as text; characters that a terminal would act on are escaped."""
    from gcl_fast.console import printable
    from gcl_fast.table import text_table

    plain = lambda text: printable(text, breaks="")
    lines = [[plain(m.name), str(m.camera or ""), f"{m.cosine:.4f}"] for m in matches]
    return text_table([[plain(str(query)), "camera", "cosine"], *lines], longest=100)


if __name__ == "__main__":
    sys.exit(main())
