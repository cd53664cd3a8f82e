"""Measure what the report shows of a dataset: ranked lists, pairs of crops, a map of the embeddings, novel views.

Each function returns a section of the page: what the template shows, or {"left_out": why}.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gcl_fast.assessment.assess import PICTURED, Assessment
from gcl_fast.assessment.extract import extract
from gcl_fast.assessment.views import draw_views
from gcl_fast.console import LOGGER
from gcl_fast.data import Records, ReIDDataset
from gcl_fast.distributed.ranks import start
from gcl_fast.errors import UserError
from gcl_fast.evaluation import Retrieval, retrieve
from gcl_fast.evaluation.pairs import RULE_OF_30, PairSimilarities, pair_similarities
from gcl_fast.evaluation.ranked_lists import RankedList, choose_queries, ranked_lists
from gcl_fast.inputs import Inputs, body_parameter_file
from gcl_fast.models import GCL
from gcl_fast.optim.precision import choose as choose_precision
from gcl_fast.reports import drawings
from gcl_fast.reports.embedding_map import FEWEST, embedding_map
from gcl_fast.reports.images import thumbnail, view_image
from gcl_fast.run.restore import open_noted, restore
from gcl_fast.settings import STAGES, RunConfig
from gcl_fast.table import is_fraction

Section = dict[str, Any]
PER_KIND, TOP = 8, 10  # queries of each kind, and entries of a list
FARS = (1e-1, 1e-2, 1e-3, 1e-4)  # false accept rates of the table
SUGGESTED_FAR = 1e-3
SLOW = 5000  # embeddings from which their map takes minutes


def measure(run: Path, config: RunConfig, stage: str, device: str, amp: bool, draw: bool) -> dict[str, Section]:
    """Measure the weights of a stage on the dataset of `config`.

    Args:
        run: the folder of the run.
        config: its settings, which may name other inputs.
        stage: a finished stage.
        device: "auto", "cpu" or "cuda".
        amp: mixed precision.
        draw: draw novel views.

    Returns:
        The sections `data`, `retrieval`, `lists`, `pairs` and `map`, and `views` where they are drawn.

    Raises:
        UserError: the dataset is missing, or the weights do not fit.
    """
    ranks = start(device)
    precision = choose_precision(amp, ranks.device)
    try:
        inputs = open_noted(config)
    except UserError as error:
        raise UserError(f"{error}; --data-root names another place, --files-only leaves the dataset out") from error
    data = inputs.dataset
    ((_, gcl),) = restore(run, config, [stage], ranks.device)
    counts = [("training crops", len(data.train)), ("queries", len(data.query)), ("gallery crops", len(data.gallery))]
    sections: dict[str, Section] = {
        "data": {"name": data.name, "root": str(data.root), "counts": counts, "notes": data.notes},
    }
    if draw:
        sections["views"] = _views(gcl, Assessment(config, inputs, ranks, precision), stage)
    embed = lambda records: extract(gcl.identity, records, config, ranks, precision)
    if not len(data.query) or not len(data.gallery):  # pairs need no match
        why = f"{data.name} {data.why_unranked}, so there is nothing to rank"
        sections |= {name: {"left_out": why} for name in ("retrieval", "lists", "pairs")}
        return sections | {"map": _map(embed(data.train), data.train, "training crops")}
    LOGGER.info("report: embedding %d queries and %d gallery crops", len(data.query), len(data.gallery))
    query, gallery = embed(data.query), embed(data.gallery)
    try:
        retrieval = retrieve(query, gallery, data.query, data.gallery)
    except UserError as error:  # no query has a match
        sections |= {"retrieval": {"left_out": str(error)}, "lists": {"left_out": str(error)}}
    else:
        metrics = {name: value for name, value in retrieval.metrics.items() if is_fraction(name)}
        sections["retrieval"] = {
            "metrics": metrics,
            "queries": retrieval.num_queries,
            "all_queries": len(data.query),
        }
        sections["lists"] = _lists(query, gallery, data, retrieval)
    sections["pairs"] = _pairs(pair_similarities(query, gallery, data.query, data.gallery))
    rows, both = torch.cat([query, gallery]), _concatenate(data.query, data.gallery)
    return sections | {"map": _map(rows, both, "crops of query and gallery")}


def _lists(query: Tensor, gallery: Tensor, data: ReIDDataset, retrieval: Retrieval) -> Section:
    """Return the ranked lists of the worst, median and best queries, with thumbnails."""
    chosen = choose_queries(retrieval.precision, PER_KIND)
    kinds = {row: kind for kind, rows in chosen.items() for row in rows}
    ranked = ranked_lists(query, gallery, data.query, data.gallery, list(kinds), TOP)
    names, gallery_names = data.query.names, data.gallery.names

    def entry(list_: RankedList) -> Section:
        return {
            "kind": kinds[list_.query],
            "name": names[list_.query],
            "camera": int(data.query.camera[list_.query]),
            "precision": float(retrieval.precision[list_.query]),
            "first": list_.first,
            "image": thumbnail(data.query.paths[list_.query]),
            "entries": [
                {
                    **one._asdict(),
                    "name": gallery_names[one.crop],
                    "camera": int(data.gallery.camera[one.crop]),
                    "image": thumbnail(data.gallery.paths[one.crop]),
                }
                for one in list_.entries
            ],
        }

    return {"lists": [entry(list_) for list_ in ranked], "top": TOP}


def _pairs(pairs: PairSimilarities) -> Section:
    """Return the distributions of pairs, the rates at FARS, and the suggested threshold."""
    same, different = int(pairs.same.sum()), int(pairs.different.sum())
    supported = [far for far in FARS if pairs.supports(far)]
    if not same or not supported:
        return {
            "left_out": f"query and gallery make {same:,} pairs of one person and {different:,} of two people across"
            f" cameras; a false accept rate of {FARS[0]:g} needs {RULE_OF_30 / FARS[0]:,.0f} pairs of two people"
        }
    far = min(far for far in supported if far >= SUGGESTED_FAR)
    suggested = pairs.at_far(far)
    return {
        "same": same,
        "different": different,
        "rates": [(far, pairs.at_far(far)) for far in supported],
        "unsupported": [far for far in FARS if far not in supported],
        "needed": RULE_OF_30,
        "equal_error": pairs.equal_error(),
        "suggested": suggested,
        "far": far,
        "histogram": drawings.histogram(pairs, suggested),
        "roc": drawings.roc(pairs, suggested),
    }


def _map(rows: Tensor, records: Records, what: str) -> Section:
    """Return the map of embeddings, coloured by person where people are known, and by camera."""
    if len(rows) < FEWEST:
        return {"left_out": f"{len(rows)} {what} are too few for a map; it takes {FEWEST}"}
    LOGGER.info("report: mapping %d embeddings%s", len(rows), ", which takes minutes" if len(rows) > SLOW else "")
    placed = embedding_map(rows.cpu().numpy())
    people, cameras = records.identity[placed.index], records.camera[placed.index]
    figures = []
    if (people > 0).any():
        label = f"Map of {what}: a colour for each person, grey for distractors"
        figures.append(("by person", drawings.scatter(placed.points, people, label, legend=False)))
    if len(np.unique(cameras)) > 1:
        label = f"Map of {what}: a colour for each camera"
        figures.append(("by camera", drawings.scatter(placed.points, cameras, label, legend=True)))
    if not figures:
        label = f"Map of {what}"
        figures.append((what, drawings.scatter(placed.points, np.ones_like(cameras), label, legend=False)))
    return {"how": placed.how, "what": what, "figures": figures}


def _concatenate(*parts: Records) -> Records:
    """Return the crops of several splits as one; their root is that of the first."""
    return Records(
        parts[0].root,
        [path for part in parts for path in part.paths],
        *(np.concatenate([getattr(part, field) for part in parts]) for field in ("identity", "camera", "frame")),
    )


def _views(gcl: GCL, assessment: Assessment, stage: str) -> Section:
    """Return a figure of novel views that is drawn now."""
    inputs, split = assessment.inputs, assessment.split_for_views()
    if stage not in STAGES[1:]:
        return {"left_out": f"no generator is trained by the {stage} stage"}
    if split is None or not _has_bodies(inputs, split):
        return {"left_out": "no body parameters of the crops; gcl-fast generate estimates them and draws views"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "views.png"
        index = assessment.choose(split, None, PICTURED)
        try:
            draw_views(gcl, inputs, split, index, path, assessment.ranks, assessment.precision)
        except UserError as error:  # such as crops that the file of body parameters lacks
            return {"left_out": str(error)}
        return view_image(path, f"Drawn for this page, from crops of {split}.")


def _has_bodies(inputs: Inputs, split: str) -> bool:
    """Return whether structure maps of `split` need no estimate, which would be written into the dataset's folder."""
    return inputs.config.structure_maps != "online" or body_parameter_file(inputs.dataset, split).is_file()
