"""List the gallery for single queries: the nearest entries, each a match, another person, or left out by the protocol.

The lists come from the cosines that `evaluation.retrieval.evaluate` ranks, and from its protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gcl_fast.data import Records
from gcl_fast.evaluation.retrieval import cosine_tiles, query_tiles

Kind = Literal["match", "other", "junk"]


class Entry(NamedTuple):
    """Holds one gallery entry of a ranked list."""

    crop: int  # its index in the gallery
    similarity: float  # cosine
    place: int | None  # 1 for the nearest; None for junk, which takes no place
    kind: Kind  # junk: the query's identity in the query's camera


@dataclass(frozen=True)
class RankedList:
    """Holds the nearest gallery entries of one query, nearest first."""

    query: int
    first: int | None  # place of the first match; None where there is none
    entries: list[Entry]


def ranked_lists(
    query: Tensor,
    gallery: Tensor,
    query_records: Records,
    gallery_records: Records,
    chosen: Sequence[int],
    top: int = 10,
) -> list[RankedList]:
    """Return the ranked lists of some queries, by the protocol of `retrieve`.

    Args:
        query: (Q, D) unit rows of all queries.
        gallery: (G, D) unit rows.
        query_records: identities and cameras of the Q queries.
        gallery_records: identities and cameras of the G crops of the gallery.
        chosen: indices of queries; the lists come in this order.
        top: number of entries in a list, besides the junk between them.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> def records(identities, cameras):
        ...     paths = [Path(f"{i}.jpg") for i in range(len(identities))]
        ...     return Records(Path("."), paths, np.array(identities), np.array(cameras), np.zeros(len(paths), int))
        >>> gallery = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
        >>> (one,) = ranked_lists(gallery[:1], gallery, records([7], [1]), records([7, 8, 7], [1, 2, 2]), [0])
        >>> one.first, [(entry.place, entry.kind) for entry in one.entries]
        (2, [(None, 'junk'), (1, 'other'), (2, 'match')])
    """
    identity, camera = (torch.as_tensor(values) for values in (gallery_records.identity, gallery_records.camera))
    lists = {}
    for tile in query_tiles(len(query), len(gallery)):
        if not (rows := [row for row in chosen if tile.start <= row < tile.stop]):
            continue
        (cosines,) = cosine_tiles(query, gallery, [tile])  # the whole tile: fewer rows may round otherwise
        for row in rows:
            order = (-cosines[row - tile.start].cpu()).sort(stable=True).indices  # equal ones by index, as `rank` does
            same = identity[order] == int(query_records.identity[row])
            junk = same & (camera[order] == int(query_records.camera[row]))
            places = (~junk).cumsum(0)  # (G,)
            matches = places[same & ~junk]
            end = int(torch.searchsorted(places, top, right=False)) + 1  # behind the entry at place `top`
            lists[row] = RankedList(
                row,
                int(matches[0]) if len(matches) else None,
                [
                    Entry(
                        int(order[n]),
                        float(cosines[row - tile.start, order[n]]),
                        None if junk[n] else int(places[n]),
                        "junk" if junk[n] else "match" if same[n] else "other",
                    )
                    for n in range(min(end, len(order)))
                ],
            )
    return [lists[row] for row in chosen]


def choose_queries(precision: Tensor, count: int) -> dict[str, list[int]]:
    """Return the queries with the worst, the median and the best average precision, each query once.

    Args:
        precision: (Q,) average precision of each query; NaN for queries that have no match.
        count: number of queries of each kind. With fewer than three times as many, each kind has a third.

    Example:
        >>> choose_queries(torch.tensor([0.5, 1.0, 0.1, float("nan"), 0.4, 0.9]), 1)
        {'worst': [2], 'median': [0], 'best': [1]}
    """
    valid = precision.isfinite().nonzero().flatten()
    order = valid[precision[valid].sort(stable=True).indices].tolist()
    count = min(count, -(-len(order) // 3))
    worst, rest = order[:count], order[count:]
    best = rest[::-1][:count]
    middle = rest[: len(rest) - len(best)]
    begin = max(0, len(middle) - count) // 2
    return {"worst": worst, "median": middle[begin : begin + count], "best": best}
