"""Measure retrieval and novel views by a run's or official weights: gcl-fast evaluate runs/NAME

With --generation the views are measured yaw by yaw, and written to <run>/generation/<stage>.json and .png.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from gcl_fast.arguments import DEGREES, Parser, add_run_arguments, number
from gcl_fast.atomic import check_writable, write_text
from gcl_fast.console import LOGGER
from gcl_fast.entry import entry, in_one_line
from gcl_fast.errors import UserError
from gcl_fast.process import prepare_process
from gcl_fast.settings import WEIGHTS
from gcl_fast.settings.ranges import Range
from gcl_fast.table import is_fraction, text_table


def parser() -> Parser:
    """Return the parser of the flags."""
    parser = Parser("gcl-fast evaluate", str(__doc__))
    add_run_arguments(parser)
    parser.add_argument(
        "--stages", nargs="+", action="extend", choices=WEIGHTS, help="default: every stage the run has finished"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, metrics as fractions")
    parser.add_argument(
        "--joint-similarity", action="store_true", help="retrieval by time between cameras as well (JVTC+)"
    )
    parser.add_argument("--rerank", action="store_true", help="rank by k-reciprocal re-ranking, not by plain distance")
    parser.add_argument("--flip", action="store_true", help="take the mean with the embedding of the mirrored crop")
    parser.add_argument(
        "--query-expansion",
        type=int,
        metavar="K",
        help="take the mean of each query with its K nearest entries of the gallery",
    )
    parser.add_argument(
        "--tracklets",
        action=argparse.BooleanOptionalAction,
        help="rank tracklets by the means of their crops, not crops (default: for mars, as its protocol does)",
    )
    parser.add_argument(
        "--pool-views", action="store_true", help="take the mean of each crop's embedding with those of its seven views"
    )
    views = parser.add_argument_group("quality of the generated views")
    views.add_argument(
        "--generation", action="store_true", help="measure the quality at each yaw, instead of retrieval"
    )
    views.add_argument(
        "--inception",
        type=Path,
        metavar="FILE",
        help="torchvision's Inception-v3 weights, for the Fréchet distance (default: in the run's own embeddings)",
    )
    yaw = number(float, DEGREES)
    views.add_argument("--yaws", nargs="+", action="extend", type=yaw, metavar="DEG", help="default: 0, 45, ...")
    views.add_argument("--count", type=number(int, Range(1)), help="number of crops to turn (default: all)")
    return parser


@entry
def main(arguments: list[str] | None) -> int:
    """Print tables (per cent) or JSON (fractions) of the stages asked for, and return the exit status."""
    options = parser().parse_args(arguments)
    _refuse_idle(options)
    prepare_process()  # may restart the process: before torch is imported
    with in_one_line():
        from gcl_fast.assessment.assess import Assessment
        from gcl_fast.assessment.views import YAWS
        from gcl_fast.distributed.ranks import start
        from gcl_fast.evaluation import Reranking
        from gcl_fast.evaluation.frechet import InceptionFeatures, installed
        from gcl_fast.optim.precision import choose as choose_precision
        from gcl_fast.run.restore import TRAINED_GENERATOR, load_run, open_noted, restore
        from gcl_fast.run.temporal import joint_retrieval

    config = load_run(options)
    ranks = start(options.device)
    precision = choose_precision(config.amp, ranks.device)
    assessment = Assessment(config, open_noted(config), ranks, precision)
    if options.generation:
        folder = (options.run.parent if options.run.is_file() else options.run) / "generation"
        _check_folder(folder)
        inception = InceptionFeatures(options.inception).to(ranks.device) if options.inception else None
        if inception is None and not installed():
            LOGGER.info("no Fréchet distance without torchmetrics: pip install torchmetrics")
        qualities: dict[str, dict[str, Any]] = {}
        for stage, gcl in restore(options.run, config, options.stages, ranks.device, generator=True):
            qualities[stage] = assessment.generation(gcl, options.yaws or YAWS, options.count, inception)
            _write_quality(stage, qualities[stage], folder / stage)
            if not options.json:
                _print_quality(stage, qualities[stage], folder / stage)
        if options.json:
            print(json.dumps(qualities, indent=2))
        return 0
    data = assessment.inputs.dataset
    if not data.can_be_ranked:  # before bodies are estimated for views
        raise UserError(
            f"{data.name} in {data.root} {data.why_unranked}, so there is nothing to rank; name another dataset with"
            " --dataset and --data-root, or measure generated views with --generation"
        )
    results: dict[str, dict[str, float]] = {}
    for stage, gcl in restore(options.run, config, options.stages, ranks.device):
        reranking = Reranking() if options.rerank else None
        results[stage] = assessment.retrieval(
            gcl,
            reranking,
            flip=options.flip,
            expansion=options.query_expansion or 0,
            tracklets=options.tracklets,
            pool_views=options.pool_views,
        )
        if options.joint_similarity:
            results[stage] |= joint_retrieval(gcl, config, assessment.inputs, ranks, precision)
        if stage in TRAINED_GENERATOR:
            results[stage] |= assessment.fidelity(gcl)
    if options.json:
        print(json.dumps(results, indent=2))
        return 0
    _table("per cent", results)
    return 0


def _refuse_idle(options: argparse.Namespace) -> None:
    """Raise a UserError that names a flag which would do nothing with the others."""
    for name in ("joint_similarity", "rerank", "flip", "query_expansion", "tracklets", "pool_views"):
        if options.generation and getattr(options, name):
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} with --generation: it changes the ranking of crops alone; leave one of them out")
    if options.tracklets and options.joint_similarity:
        raise UserError("--tracklets with --joint-similarity: the time between cameras is of crops; leave one out")
    if options.pool_views and options.joint_similarity:
        raise UserError("--pool-views with --joint-similarity: it ranks crops by themselves; leave one out")
    if options.query_expansion is not None and options.query_expansion < 1:
        raise UserError(f"--query-expansion {options.query_expansion}: expected 1 entry of the gallery or more")
    idle = [name for name in ("inception", "yaws", "count") if getattr(options, name) is not None]
    if idle and not options.generation:
        raise UserError(f"--{idle[0]} without --generation: it sets how generated views are measured; add --generation")


def _check_folder(path: Path) -> None:
    """Raise a UserError before the long measurement where the folder `path` cannot be written."""
    try:
        check_writable(path)
    except OSError as error:
        raise UserError(f"cannot write to {path} ({error.strerror}); make it a folder that can be written") from error


def _write_quality(stage: str, quality: dict[str, Any], path: Path) -> None:
    """Write the quality of views to `path`.json and `path`.png."""
    from gcl_fast.evaluation.figures import yaw_curves  # imports torch

    text = json.dumps({"stage": stage, **quality}, indent=2) + "\n"
    write_text(path.with_suffix(".json"), text)
    yaw_curves(quality, path.with_suffix(".png"))


def _print_quality(stage: str, quality: dict[str, Any], path: Path) -> None:
    """Print the quality of views as a table."""
    print(
        f"{stage}: views of {quality['crops']} crops of {quality['split']} against {quality['real_crops']} real crops"
    )
    _table("per cent, at yaw", {"real crops": quality["real"], **quality["yaws"], "mean, not 0": quality["mean"]})
    print(f"{path}.json, {path}.png")


def _table(corner: str, rows: dict[str, dict[str, float]]) -> None:
    """Print a line for each row, with a column for each metric that any row has: in per cent where it is a fraction.

    Counts and Fréchet distances are none, and are printed as they are.
    """
    names = list(dict.fromkeys(name for metrics in rows.values() for name in metrics))
    exact = lambda value: f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
    show = lambda name, value: f"{100 * value:.1f}" if is_fraction(name) else exact(value)
    cells = [[row, *(show(n, metrics[n]) if n in metrics else "" for n in names)] for row, metrics in rows.items()]
    print(text_table([[corner, *names], *cells]))


if __name__ == "__main__":
    sys.exit(main())
